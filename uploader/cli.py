"""Options in, exit code out; which options there are stands in options.py.

What a command needs is imported when it runs: ``uploader --help`` must not wait for libcurl, Arrow and the rest.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import click

from uploader.configuration import default_ledger_folder
from uploader.errors import SettingsError, UploaderError
from uploader.mapping import ColumnMap
from uploader.options import (
    FILE,
    Voice,
    configuration,
    demand_whole_destination,
    effective_settings,
    is_typed,
    key_source,
    of_config,
    of_doctor,
    of_export,
    of_replay,
    of_report,
    of_runs,
    of_sandbox,
    of_upload,
    of_validate,
)
from uploader.settings import DEFAULT_BASE_URL, FailureBudget, Settings, key_in, key_of_environment, parse_concurrency

if TYPE_CHECKING:
    from uploader.console import Display
    from uploader.desk import FileReport, Plan, Watcher
    from uploader.log_lines import LogLines
    from uploader.model import Outcome
    from uploader.notes import Note

_FAULT_OF_OURS = 4
_STOPPED = 3
_OF_UPLOADS = ("results", "period", "event_id", "max_failed", "again", "allow_overlap")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="meter-uploader", prog_name="uploader")
def cli() -> None:
    """Upload usage logs to a metering backend: every row posted once, every row accounted for.

    \b
    Examples:
      uploader upload usage.csv --sandbox  try it: nothing leaves this machine
      uploader validate usage.csv          which rows an upload would post
      uploader upload usage.csv            post them; writes usage.results.csv
      uploader replay usage.failed.csv     the failed ones again, corrected

    The key of a backend behind a portal is read from UPLOADER_API_KEY, or from the file that
    UPLOADER_API_KEY_FILE names.
    """


@cli.command(short_help="Post each row of usage logs once.")
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
      2  nothing was posted: wrong usage, input, schema or settings
      3  stopped early: the same command continues
      4  a fault of this program, or totals that do not balance
      129, 130, 143  interrupted; the same command continues
    """
    if options["results"] is not None and len(files) > 1:
        raise SettingsError(f"--results names one file, and there are {len(files)} inputs", remedy="use --results-dir")
    options["max_failed"] = None if max_failed is None else FailureBudget.parse(max_failed)
    with _sandbox_for_a_run(options) if sandbox else contextlib.nullcontext() as and_say:
        if dry_run:
            _run_dry(files, options)
        from uploader.upload_run import upload as run  # noqa: PLC0415 -- heavy, see the top

        _run(options, lambda plan, watcher: run(files, plan=plan, watcher=watcher), and_say=and_say)


def _run_dry(files: tuple[Path, ...], options: dict[str, Any]) -> NoReturn:
    from uploader.desk import Watcher  # noqa: PLC0415 -- heavy, see the top
    from uploader.dry_run import dry_run, told  # noqa: PLC0415 -- likewise
    from uploader.summary import exit_code_of  # noqa: PLC0415 -- likewise

    display = _display(options["log_format"])
    with _noted_signals() as noted:
        watcher = Watcher(begin=display.begin, watch=display.watch, say=display.say, should_stop=lambda: bool(noted))
        try:
            reports = dry_run(files, plan=_plan(options), watcher=watcher)
        finally:
            display.end()
    _last_words("\n".join(map(told, reports)))
    _end(128 + noted[0] if noted else exit_code_of(reports))


@cli.command(short_help="Post the rows again that failed.")
@click.argument("file", type=FILE)
@of_replay
def replay(file: Path, *, include_in_doubt: bool, accept_changes: bool, without_ledger: bool, **options: Any) -> None:
    """Post the failed rows of FILE again: a results or failed file, as it is or corrected in a spreadsheet (.xlsx too).

    Rows marked yes or fix in upload_replay are checked and posted, accepted ones never. For a row marked confirm write
    resend (post it exactly as it was) or recorded (the backend has it) into upload_replay. It needs the --base-url,
    --ledger, --schema and --delimiter of the upload, and ends with the exit codes of an upload.

    \b
    Examples:
      uploader replay usage.failed.csv
      uploader replay usage.failed.xlsx
    """
    from uploader.replay_run import Permissions  # noqa: PLC0415 -- heavy, see the top
    from uploader.replay_run import replay as run  # noqa: PLC0415 -- likewise

    if not without_ledger:  # the ledger knows how the upload saw the columns, and goes before the settings file
        options.update({name: () for name in ("column", "constant") if not is_typed(name)})
    permissions = Permissions(
        include_in_doubt=include_in_doubt, accept_changes=accept_changes, without_ledger=without_ledger
    )
    _run(options, lambda plan, watcher: [run(file, plan=plan, watcher=watcher, permissions=permissions)])


@cli.command(short_help="Write failed rows as a workbook, to correct them.")
@click.argument("file", type=FILE)
@of_export
def export(file: Path, *, output: Path | None, delimiter: str | None) -> None:
    """Write a workbook (.xlsx) of FILE, a results or failed file, to correct its rows in a spreadsheet.

    Its cells are text, whatever they look like; upload_replay offers what may be chosen for its row. Send the corrected
    rows with `uploader replay` of the workbook.

    \b
    Example:
      uploader export usage.failed.csv
    """
    from uploader.export import export as run  # noqa: PLC0415 -- heavy, see the top

    workbook, rows = run(file, workbook=output, delimiter=delimiter)
    click.echo(f"{workbook}: {rows:,} rows; correct and save it, then: uploader replay {shlex.quote(str(workbook))}")


@cli.command(short_help="Check usage logs, post nothing.")
@click.argument("files", nargs=-1, required=True, type=FILE)
@of_validate
def validate(files: tuple[Path, ...], *, max_failed: str | None, report: Path | None, **options: Any) -> None:
    """Check FILES as an upload would, and post nothing.

    \b
    Example:
      uploader validate usage.csv --schema our-meters.schema.json

    \b
    Exit codes:
      0  every row would be posted
      1  some would fail: each is shown with all its problems
      2  no file can be taken, or the schema cannot
      3  one of several files cannot be taken
    """
    from uploader import documents  # noqa: PLC0415 -- heavy, see the top
    from uploader.desk import FileReport, complaint_about  # noqa: PLC0415 -- likewise
    from uploader.findings import CheckFindings  # noqa: PLC0415 -- likewise
    from uploader.summary import exit_code_of  # noqa: PLC0415 -- likewise
    from uploader.validate import validate as run  # noqa: PLC0415 -- likewise

    if report:
        documents.demand_place(report, documents.REPORT)
    mapping = ColumnMap.parse(options["column"], options["constant"])
    budget = None if max_failed is None else FailureBudget.parse(max_failed)
    reports = []
    checks: list[tuple[Path, CheckFindings | str]] = []
    for path in files:
        findings = CheckFindings()
        try:
            found = run(
                path,
                schema_path=options["schema"],
                delimiter=options["delimiter"],
                event_id=options["event_id"],
                mapping=mapping,
                max_failed=budget,
                tell=functools.partial(_tell_failure, path),
                findings=findings if report else None,
            )
        except UploaderError as error:
            click.echo(f"{path}: {complaint_about(path, error)}", err=True)
            checks.append((path, str(error)))
            reports.append(FileReport(path=path, error=error))
            continue
        checks.append((path, findings))
        reports.append(found)
        rows = sum(entry.rows for entry in found.entry_by_reason.values())
        units = found.entry_by_reason[None].units if None in found.entry_by_reason else 0
        click.echo(f"{path}: {rows - found.failed_rows:,} of {rows:,} rows would be posted, {units:,} units")
    if report:
        from uploader.report import report_of_checks  # noqa: PLC0415 -- heavy, and not every check has one

        documents.write_document(report, report_of_checks(checks), documents.REPORT)
    sys.exit(exit_code_of(reports))


@cli.command(short_help="Make a page for a person of a results file.")
@click.argument("results", type=FILE)
@of_report
def report(results: Path, *, output: Path | None, column: tuple[str, ...], constant: tuple[str, ...], **_: Any) -> None:
    """Make a page for a person of RESULTS, a results or failed file: what happened, and what to do.

    One HTML file that needs no network. Made by the upload itself (--report) it also shows latency. It needs the
    --column and --constant of the upload.

    \b
    Example:
      uploader report usage.results.csv -o usage.html
    """
    from uploader import documents  # noqa: PLC0415 -- heavy, see the top
    from uploader.report import report_of_file  # noqa: PLC0415 -- likewise

    page = output or results.with_suffix(".html")
    documents.demand_place(page, documents.REPORT)
    mapping = ColumnMap.parse(column, constant)
    documents.write_document(page, report_of_file(results, mapping=mapping), documents.REPORT)
    click.echo(page)


@cli.group(invoke_without_command=True, short_help="List what the ledger knows of earlier uploads.")
@of_runs
@click.pass_context
def runs(context: click.Context, /, *, ledger: Path | None, **_: Any) -> None:
    """List what the ledger knows: each run's input, destination, counts, units and rows in doubt.

    \b
    Examples:
      uploader runs
      uploader runs show r0123456789abcde
    """
    from uploader.runs import list_runs  # noqa: PLC0415 -- heavy, see the top

    context.obj = ledger or default_ledger_folder()
    if context.invoked_subcommand is None:
        click.echo(list_runs(context.obj))


@runs.command()
@click.argument("run")
@click.pass_obj
def show(folder: Path, *, run: str) -> None:
    """Show all that the ledger knows of one RUN.

    \b
    Example:
      uploader runs show r0123456789abcde
    """
    from uploader.runs import show_run  # noqa: PLC0415 -- heavy, see the top

    click.echo(show_run(folder, run))


@cli.command(short_help="Show the settings, and where each comes from.")
@of_config
def config(**options: Any) -> None:
    """Show the settings that an upload would have, and where each comes from: option, variable, file or default.

    \b
    Example:
      uploader config --destination staging
    """
    _settings(options)
    options["ledger"] = options["ledger"] or default_ledger_folder()
    lines = effective_settings(options)
    widths = [max(len(line[at]) for line in lines) for at in range(2)]
    for name, value, place in lines:
        click.echo(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {place}".rstrip())


@cli.command(short_help="Try what an upload needs, post nothing.")
@click.argument("file", type=FILE, required=False)
@of_doctor
def doctor(file: Path | None, *, tenant: str | None, **options: Any) -> None:
    """Try what an upload needs: settings, ledger, network, certificate, key, one look-up, clock. Nothing is posted.

    \b
    Examples:
      uploader doctor --tenant acme
      uploader doctor usage.csv --destination production

    \b
    Exit codes:
      0  all is well
      1  an upload would get through, but see the warnings
      2  it would not
    """
    from uploader.doctor import Finding, State, examine, worst  # noqa: PLC0415 -- heavy, see the top

    findings = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        click.echo(f"{finding.state.value:<4}  {finding.check:<8}  {finding.words}")

    try:
        plan = _plan(options)
        tell(Finding(State.OK, "settings", str(configuration()[0].path or "no settings file")))
    except SettingsError as error:
        tell(Finding(State.FAIL, "settings", str(error)))
    else:
        for finding in examine(plan, tenant_id=tenant, path=file):
            tell(finding)
    _end(worst(findings))


def _tell_failure(path: Path, number: int, outcome: Outcome) -> None:
    reason = "" if outcome.reason is None else outcome.reason.value
    click.echo(f"{path}: row {number}: {reason}: {outcome.detail}")


@cli.command(short_help="Run a local backend to try things on.")
@of_sandbox
def sandbox(**settings: Any) -> None:
    """Run a local metering backend that records what it is sent, until Ctrl-C.

    Tenants that begin with "unknown" have no customer, meters that begin with "forbidden" are rejected.

    \b
    Example:
      uploader sandbox --port 8000 --drop 0.01
    """
    from uploader.sandbox import SandboxSettings, serve  # noqa: PLC0415 -- an optional extra

    serve(
        SandboxSettings(**settings),
        announce=lambda base_url: click.echo(f"listening; use it with: uploader upload FILE --base-url {base_url}"),
    )


def main() -> None:
    """Run the command line; the exit code says what became of the rows."""
    voice = Voice()
    try:
        cli(prog_name="uploader", obj=voice)
    except UploaderError as error:
        from uploader.summary import exit_code_of_error  # noqa: PLC0415 -- heavy, see the top

        _complain(voice, str(error), exit_code=exit_code_of_error(error))
    except Exception as error:  # noqa: BLE001 -- the last one who can say that it is our fault
        text = f"a fault of this program: {error!r} -- please report it; the ledger is safe"
        _complain(voice, text, exit_code=_FAULT_OF_OURS, trace=traceback.format_exc())


def _complain(voice: Voice, text: str, *, exit_code: int, trace: str = "") -> NoReturn:
    if voice.log_format == "json":
        from uploader.log_lines import LogLines  # noqa: PLC0415 -- heavy, see the top

        facts: dict[str, str | int] = {"traceback": trace} if trace else {}
        _log_the_end(LogLines("json"), exit_code, text=f"error: {text}", facts=facts)
    else:
        _last_words(f"{trace}error: {text}", err=True)
    _end(exit_code)


def _log_the_end(
    log: LogLines, exit_code: int, *, text: str = "", facts: Mapping[str, str | int | list[str]] | None = None
) -> None:
    from uploader.notes import Level, Note  # noqa: PLC0415 -- only a run has notes

    level = {0: Level.INFO, 1: Level.WARNING}.get(exit_code, Level.ERROR)
    text = text or f"ended with exit code {exit_code}"
    log.say(Note(text, "command_ended", level=level, facts={"exit_code": exit_code, **(facts or {})}))
    log.end()


def _last_words(text: str, *, err: bool = False) -> None:
    """Print; whoever was to read it may have gone (``| head``, a closed terminal), and is owed the exit code still."""
    with contextlib.suppress(OSError):
        click.echo(text, err=err)


def _end(exit_code: int) -> NoReturn:
    """End with this exit code; with words left that no one reads, Python would end with its own, 120."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None when the caller closed it (2>&-)
        _empty(stream)
    sys.exit(exit_code)


def _empty(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(
    sending: dict[str, Any],
    command: Callable[[Plan, Watcher], list[FileReport]],
    *,
    and_say: Callable[[], str] | None = None,
) -> None:
    from uploader.console import next_steps, summary  # noqa: PLC0415 -- heavy, see the top
    from uploader.desk import Watcher  # noqa: PLC0415 -- likewise
    from uploader.log_lines import LogLines  # noqa: PLC0415 -- likewise
    from uploader.summary import exit_code_of, exit_code_of_error  # noqa: PLC0415 -- likewise

    begun_at = datetime.now(timezone.utc)
    plan = _plan(sending)
    _demand_places(sending)
    display = _display(sending["log_format"])
    write = functools.partial(_write_documents, sending, begun_at=begun_at, say=display.say)
    with _noted_signals() as noted:
        watcher = Watcher(begin=display.begin, watch=display.watch, say=display.say, should_stop=lambda: bool(noted))
        try:
            reports = command(plan, watcher)
        except BaseException as error:
            if isinstance(error, UploaderError):
                write([], exit_code=exit_code_of_error(error), error=str(error))
            display.end()
            raise
    replay_options = _replay_options(sending) if and_say is None else None
    exit_code = 128 + noted[0] if noted else exit_code_of(reports)
    exit_code = write(reports, exit_code=exit_code, replay_options=replay_options)
    heard = "" if and_say is None else and_say()
    if isinstance(display, LogLines):
        steps = [step for report in reports for step in next_steps(report, replay_options=replay_options)]
        _log_the_end(display, exit_code, facts={"next": steps, **({"sandbox": heard} if heard else {})})
    else:
        display.end()
    if sending["log_format"] != "json":
        _last_words("\n".join(filter(None, (summary(reports, replay_options=replay_options), heard))))
    _end(exit_code)


def _plan(sending: dict[str, Any]) -> Plan:
    from uploader.desk import Plan  # noqa: PLC0415 -- heavy, see the top

    return Plan(
        settings=_settings(sending),
        ledger_folder=sending["ledger"] or default_ledger_folder(),
        schema_path=sending["schema"],
        delimiter=sending["delimiter"],
        results_dir=sending["results_dir"],
        mapping=ColumnMap.parse(sending["column"], sending["constant"]),
        **{name: sending[name] for name in _OF_UPLOADS if name in sending},
    )


def _demand_places(sending: dict[str, Any]) -> None:
    from uploader import documents  # noqa: PLC0415 -- heavy, see the top

    if sending["summary"]:
        documents.demand_place(sending["summary"], documents.SUMMARY)
    if sending["report"]:
        documents.demand_place(sending["report"], documents.REPORT)


def _write_documents(
    sending: dict[str, Any],
    reports: list[FileReport],
    *,
    begun_at: datetime,
    exit_code: int,
    say: Callable[[Note], None],
    error: str = "",
    replay_options: str | None = None,
) -> int:
    """Write summary and report, and give the exit code: to lack one is a stop, and the same command mends it."""
    from uploader import documents  # noqa: PLC0415 -- heavy, see the top
    from uploader.notes import Level, Note  # noqa: PLC0415 -- only a run has notes
    from uploader.summary import summarize  # noqa: PLC0415 -- likewise

    summary = summarize(
        reports,
        command=str(click.get_current_context().info_name),
        base_url=sending["base_url"],
        period=sending.get("period", ""),
        begun_at=begun_at,
        exit_code=exit_code,
        error=error,
    )
    try:
        if sending["summary"]:
            documents.write_document(sending["summary"], summary.to_json(), documents.SUMMARY)
        if sending["report"]:
            from uploader.report import report_of_command  # noqa: PLC0415 -- heavy, and after the last POST

            page = report_of_command(summary, replay_options=replay_options)
            documents.write_document(sending["report"], page, documents.REPORT)
    except UploaderError as fault:
        say(Note(str(fault), "document_failed", level=Level.ERROR))
        return _STOPPED if exit_code < 2 else exit_code
    return exit_code


def _display(log_format: str | None) -> Display | LogLines:
    if log_format is None and sys.stderr is not None and sys.stderr.isatty():
        from uploader.console import Display  # noqa: PLC0415 -- heavy, see the top

        return Display()
    from uploader.log_lines import LogLines  # noqa: PLC0415 -- likewise

    return LogLines(log_format or "text")


def _replay_options(sending: dict[str, Any]) -> str:
    """Spell the options without which a replay would not find the same run and backend; the file is found again."""
    values = {name: sending[name] for name in ("config", "destination", "base_url", "ledger", "schema", "delimiter")}
    if values["base_url"] == DEFAULT_BASE_URL:
        del values["base_url"]
    if values["delimiter"] == "\t":
        del values["delimiter"]  # the failed file of a log with tabs has commas
    return "".join(
        f" --{name.replace('_', '-')} {shlex.quote(str(value))}"
        for name, value in values.items()
        if value and is_typed(name)
    )


def _settings(sending: dict[str, Any]) -> Settings:
    demand_whole_destination()
    return Settings(
        base_url=sending["base_url"],
        api_key=_api_key(),
        timeout_seconds=sending["timeout"],
        retries=sending["retries"],
        concurrency=parse_concurrency(sending["concurrency"]),
        max_rate=sending["max_rate"],
        patience_seconds=sending["patience"],
        safe_statuses=_statuses(sending["safe_status"] or ""),
        idempotency_header=sending["idempotency_header"],
    )


def _statuses(text: str) -> frozenset[int]:
    try:
        return frozenset(int(status) for status in text.split(",") if status.strip())
    except ValueError:
        raise SettingsError(
            f"--safe-status {text!r}: not a list of statuses", remedy="write it as in --safe-status 500,502"
        ) from None


def _api_key() -> str | None:
    place, path = key_source()
    return key_of_environment() if path is None or place.startswith("variable") else key_in(path, place=place)


@contextlib.contextmanager
def _sandbox_for_a_run(sending: dict[str, Any]) -> Iterator[Callable[[], str]]:
    """Point a run at a backend of its own, with a throw-away ledger and results in a fresh folder."""
    from uploader.sandbox import SandboxProcess, SandboxSettings  # noqa: PLC0415 -- an optional extra

    with SandboxProcess(SandboxSettings()) as backend, tempfile.TemporaryDirectory(prefix="uploader-ledger-") as ledger:
        sending["base_url"] = backend.base_url
        sending["ledger"] = Path(ledger)
        sending["results_dir"] = sending["results_dir"] or Path(tempfile.mkdtemp(prefix="uploader-sandbox-"))

        def what_it_recorded() -> str:
            recorded = backend.recorded()
            repeats = sum(count - 1 for count in recorded.repeated_request_ids.values())
            return (
                f"The sandbox recorded {recorded.events:,} events with {recorded.units:,} units, "
                f"{repeats:,} of them twice, and {recorded.look_ups:,} look-ups."
            )

        yield what_it_recorded


@contextlib.contextmanager
def _noted_signals() -> Iterator[list[int]]:
    """Note the first SIGINT, SIGTERM or SIGHUP; a second one ends the process at once, which the ledger survives."""
    noted: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if noted:
            os._exit(128 + number)
        noted.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # One that the caller has set aside stays so: nohup ignores SIGHUP.
    before = {number: signal.signal(number, note) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
