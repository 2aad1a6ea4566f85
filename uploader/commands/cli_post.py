"""The commands that post: upload and replay.

What a command needs is imported when it runs: ``uploader --help`` must not wait for Arrow and the rest.
"""

from __future__ import annotations

import contextlib
import functools
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from uploader.commands.effective import is_given, is_on_command_line, plan_of
from uploader.commands.ending import end, exit_code_of_signal, last_words, log_the_end, noted_signals
from uploader.commands.options import FILE, of_replay, of_upload
from uploader.model.errors import ExitCode, SettingsError, UploaderError
from uploader.model.settings import DEFAULT_BASE_URL, FailureBudget

if TYPE_CHECKING:
    from uploader.commands.console import Display
    from uploader.commands.log_lines import LogLines
    from uploader.model.notes import Note
    from uploader.model.plan import Plan
    from uploader.posting.desk import Watcher
    from uploader.posting.file_report import FileReport


@click.command(short_help="Post each row of usage logs once.")
@click.argument("files", nargs=-1, required=True, type=FILE)
@of_upload
def upload(files: tuple[Path, ...], *, max_failed: str | None, sandbox: bool, dry_run: bool, **options: Any) -> None:
    """Post each row of FILES (CSV or Parquet) once, and write what became of it.

    For usage.csv: usage.results.csv holds every row, usage.failed.csv the failed ones. Run the same command again to
    continue after a crash or a stop.

    \b
    Examples:
      uploader upload usage.csv
      uploader upload day1.csv day2.parquet --results-dir out/
      uploader upload usage.csv --dry-run
      uploader upload sample_data/usage.csv --sandbox

    \b
    Exit codes:
      0  every row was accepted, now or before
      1  finished; some rows failed: see the failed file
      2  nothing was posted: wrong usage, input, schema or settings, or a guard
      3  stopped early: the same command continues; or one of several files could not be taken
      4  a fault of this program, or totals that do not balance
      129, 130, 143  interrupted; the same command continues
    """
    options["max_failed"] = None if max_failed is None else FailureBudget.parse(max_failed)
    # From here on no signal can end an import half-way, or be lost in one.
    with noted_signals() as noted, _sandboxed(options) if sandbox else contextlib.nullcontext() as and_say:
        if dry_run:
            _run_dry(files, options, noted)
        from uploader.uploads.upload_run import upload as run  # noqa: PLC0415 -- heavy, see the top

        _run(options, lambda plan, watcher: run(files, plan=plan, watcher=watcher), noted, and_say=and_say)


def _sandboxed(options: dict[str, Any]) -> AbstractContextManager[Callable[[], str]]:
    from uploader.sandbox.sandboxed import sandboxed  # noqa: PLC0415 -- an optional extra

    for name in ("base_url", "ledger", "results", "results_dir"):
        if is_on_command_line(name):
            raise SettingsError(
                "--sandbox has a backend, a ledger and a folder for the results of its own, and "
                f"--{name.replace('_', '-')} names another",
                remedy="leave one of them out; nothing was posted",
            )
    for name in ("summary", "report"):  # those of the settings are about uploads that were billed
        if not is_on_command_line(name):
            options[name] = None
    return sandboxed(options)


def _run_dry(files: tuple[Path, ...], options: dict[str, Any], noted: list[int]) -> NoReturn:
    from uploader.checks.dry_run import dry_run, told  # noqa: PLC0415 -- heavy, see the top
    from uploader.reports.summary import exit_code_of  # noqa: PLC0415 -- likewise

    _demand_places(options)
    display = _display(options["log_format"])
    try:
        reports = dry_run(files, plan=plan_of(options), watcher=_watcher(display, noted))
    except BaseException:
        display.end()
        raise
    exit_code = exit_code_of_signal(noted[0]) if noted else exit_code_of(reports)
    lines = [line for report in reports for line in told(report).splitlines()]
    _end(display, options, exit_code, facts={"dry_run": lines}, words="\n".join(lines))


@click.command(short_help="Post the rows again that failed.")
@click.argument("file", type=FILE)
@of_replay
def replay(file: Path, *, include_in_doubt: bool, accept_changes: bool, without_ledger: bool, **options: Any) -> None:
    """Post the failed rows of FILE again: a results or failed file, as it is or corrected in a spreadsheet (.xlsx too).

    Rows marked yes or fix in upload_replay are checked and posted, accepted ones never. For a row marked confirm write
    resend (post it exactly as it was) or recorded (the backend has it) into upload_replay. It needs the --base-url,
    --ledger and --schema of the upload, and ends with the exit codes of an upload.

    \b
    Examples:
      uploader replay usage.failed.csv
      uploader replay usage.failed.xlsx
    """
    with noted_signals() as noted:
        from uploader.replays.judge import Permissions  # noqa: PLC0415 -- heavy, see the top
        from uploader.replays.replay_run import replay as run  # noqa: PLC0415 -- likewise

        if not without_ledger:  # the ledger knows how the upload saw the columns, and goes before the settings file
            options.update({name: () for name in ("column", "constant") if not is_given(name)})
            if is_on_command_line("period"):
                raise SettingsError(
                    "--period: a replay has that of its upload, as the ledger knows it", remedy="leave it out"
                )
            del options["period"]
        permissions = Permissions(
            include_in_doubt=include_in_doubt, accept_changes=accept_changes, without_ledger=without_ledger
        )
        _run(options, lambda plan, watcher: [run(file, plan=plan, watcher=watcher, permissions=permissions)], noted)


def _run(
    options: dict[str, Any],
    command: Callable[[Plan, Watcher], list[FileReport]],
    noted: list[int],
    *,
    and_say: Callable[[], str] | None = None,
) -> None:
    from uploader.commands.console import next_steps, summary  # noqa: PLC0415 -- heavy, see the top
    from uploader.reports.summary import exit_code_of  # noqa: PLC0415 -- likewise

    begun_at = datetime.now(timezone.utc)
    _demand_places(options)
    display = _display(options["log_format"])
    write = functools.partial(_write_documents, options, begun_at=begun_at, say=display.say)
    try:
        reports = command(plan_of(options), _watcher(display, noted))
    except BaseException as error:
        if isinstance(error, UploaderError):
            write([], exit_code=error.exit_code, error=str(error))
        display.end()
        raise
    replay_options = _replay_options(options) if and_say is None else None
    exit_code = exit_code_of_signal(noted[0]) if noted else exit_code_of(reports)
    exit_code = write(reports, exit_code=exit_code, replay_options=replay_options)
    heard = "" if and_say is None else and_say()
    steps = [step for report in reports for step in next_steps(report, replay_options=replay_options)]
    facts = {"next": steps, **({"sandbox": heard} if heard else {})}
    words = "\n".join(filter(None, (summary(reports, replay_options=replay_options), heard)))
    _end(display, options, exit_code, facts=facts, words=words)


def _end(
    display: Display | LogLines,
    options: dict[str, Any],
    exit_code: int,
    *,
    facts: Mapping[str, Any],
    words: str,
) -> NoReturn:
    """End with the last line of the log, which has the facts, and the words for a person."""
    from uploader.commands.log_lines import LogLines  # noqa: PLC0415 -- heavy, see the top

    if isinstance(display, LogLines):
        log_the_end(display, exit_code, facts=facts)
    else:
        display.end()
    if options["log_format"] != "json":
        last_words(words)
    end(exit_code)


def _demand_places(options: dict[str, Any]) -> None:
    from uploader.reports import documents  # noqa: PLC0415 -- heavy, see the top

    if options["summary"] and options["summary"] == options["report"]:
        raise SettingsError(
            f"--summary and --report both name {options['summary']}", remedy="give each a name of its own"
        )
    if options["summary"]:
        documents.demand_place(options["summary"], documents.SUMMARY)
    if options["report"]:
        documents.demand_place(options["report"], documents.REPORT)


def _write_documents(
    options: dict[str, Any],
    reports: list[FileReport],
    *,
    begun_at: datetime,
    exit_code: int,
    say: Callable[[Note], None],
    error: str = "",
    replay_options: str | None = None,
) -> int:
    """Write summary and report, and give the exit code: to lack one is a stop, and the same command mends it."""
    from uploader.reports import documents  # noqa: PLC0415 -- heavy, see the top
    from uploader.reports.summary import summarize  # noqa: PLC0415 -- likewise

    summary = summarize(
        reports,
        command=str(click.get_current_context().info_name),
        base_url="" if "@" in options["base_url"] else options["base_url"],  # refused, with its password
        period=options.get("period", ""),
        begun_at=begun_at,
        exit_code=exit_code,
        error=error,
    )

    if options["report"]:
        from uploader.reports.report import page_of_command  # noqa: PLC0415 -- heavy, and after the last POST

        def write_report() -> None:
            page = page_of_command(summary, replay_options=replay_options)
            documents.write_document(options["report"], page, documents.REPORT)

        exit_code = _written(write_report, exit_code, say)
    if options["summary"]:  # last, for it states the exit code
        text = replace(summary, exit_code=exit_code).to_json()
        exit_code = _written(
            lambda: documents.write_document(options["summary"], text, documents.SUMMARY), exit_code, say
        )
    return exit_code


def _written(write: Callable[[], None], exit_code: int, say: Callable[[Note], None]) -> int:
    from uploader.model.notes import Level, Note  # noqa: PLC0415 -- only a run has notes

    try:
        write()
    except UploaderError as fault:
        say(Note(str(fault), "document_failed", level=Level.ERROR))
        return ExitCode.STOPPED if exit_code < ExitCode.NOTHING_POSTED else exit_code
    return exit_code


def _display(log_format: str | None) -> Display | LogLines:
    if log_format is None and sys.stderr is not None and sys.stderr.isatty():
        from uploader.commands.console import Display  # noqa: PLC0415 -- heavy, see the top

        return Display()
    from uploader.commands.log_lines import LogLines  # noqa: PLC0415 -- heavy, see the top

    return LogLines(log_format or "text")


def _watcher(display: Display | LogLines, noted: list[int]) -> Watcher:
    from uploader.posting.desk import Watcher  # noqa: PLC0415 -- heavy, see the top

    return Watcher(begin=display.begin, watch=display.watch, say=display.say, should_stop=lambda: bool(noted))


def _replay_options(options: dict[str, Any]) -> str:
    """Spell the options without which a replay would not find the same run and backend; the file is found again."""
    values = {name: options[name] for name in ("config", "destination", "base_url", "ledger", "schema", "delimiter")}
    if values["base_url"] == DEFAULT_BASE_URL:
        del values["base_url"]
    if values["delimiter"] == "\t":
        del values["delimiter"]  # the failed file of a log with tabs has commas
    return "".join(
        f" --{name.replace('_', '-')} {shlex.quote(str(value))}"
        for name, value in values.items()
        if value and is_given(name)
    )
