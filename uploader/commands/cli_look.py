"""The commands that post nothing: they check, show, or run a backend to try things on.

What a command needs is imported when it runs: ``uploader --help`` must not wait for Arrow and the rest.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from uploader.commands.effective import configuration, effective_settings, plan_of, settings_of
from uploader.commands.ending import end, last_words
from uploader.commands.options import FILE, of_config, of_doctor, of_export, of_report, of_runs, of_sandbox, of_validate
from uploader.model.configuration import default_ledger_folder
from uploader.model.errors import SettingsError, UploaderError
from uploader.model.mapping import ColumnMap
from uploader.model.settings import FailureBudget
from uploader.model.shell import as_argument

if TYPE_CHECKING:
    from uploader.model.model import Outcome
    from uploader.reports.findings import CheckFindings


@click.command(short_help="Check usage logs, post nothing.")
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
    from uploader.checks.validate import validate as run  # noqa: PLC0415 -- heavy, see the top
    from uploader.posting.file_report import FileReport, complaint_about  # noqa: PLC0415 -- likewise
    from uploader.reports import documents  # noqa: PLC0415 -- likewise
    from uploader.reports.summary import exit_code_of  # noqa: PLC0415 -- likewise

    if report:
        documents.demand_place(report, documents.REPORT)
    mapping = ColumnMap.parse(options["column"], options["constant"])
    budget = None if max_failed is None else FailureBudget.parse(max_failed)
    reports = []
    checks: list[tuple[Path, CheckFindings | str]] = []
    for path in files:
        try:
            found = run(
                path,
                schema_path=options["schema"],
                delimiter=options["delimiter"],
                event_id=options["event_id"],
                mapping=mapping,
                max_failed=budget,
                tell=functools.partial(_tell_failure, path),
            )
        except UploaderError as error:
            last_words(f"{path}: {complaint_about(path, error)}", err=True)
            checks.append((path, str(error)))
            reports.append(FileReport(path=path, error=error))
            continue
        checks.append((path, found))
        reports.append(FileReport(path=path, entry_by_reason=found.entry_by_reason()))
        good, rows = found.accepted, found.accepted.rows + found.failed.rows
        last_words(f"{path}: {good.rows:,} of {rows:,} rows would be posted, {good.units:,} units")
    if report:
        from uploader.reports.report import page_of_checks  # noqa: PLC0415 -- heavy, and not every check has one

        documents.write_document(report, page_of_checks(checks), documents.REPORT)
    end(exit_code_of(reports))


def _tell_failure(path: Path, number: int, outcome: Outcome) -> None:
    reason = "" if outcome.reason is None else outcome.reason.value
    last_words(f"{path}: row {number}: {reason}: {outcome.detail}")


@click.command(short_help="Write failed rows as a workbook, to correct them.")
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
    from uploader.reports.export import export as run  # noqa: PLC0415 -- heavy, see the top

    workbook, rows = run(file, workbook=output, delimiter=delimiter)
    last_words(f"{workbook}: {rows:,} rows; correct and save it, then: uploader replay {as_argument(workbook)}")


@click.command(short_help="Make a page for a person of a results file.")
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
    from uploader.reports import documents  # noqa: PLC0415 -- heavy, see the top
    from uploader.reports.report import page_of_file  # noqa: PLC0415 -- likewise

    page = output or results.with_suffix(".html")
    documents.demand_place(page, documents.REPORT)
    mapping = ColumnMap.parse(column, constant)
    documents.write_document(page, page_of_file(results, mapping=mapping), documents.REPORT)
    last_words(str(page))


@click.group(invoke_without_command=True, short_help="List what the ledger knows of earlier uploads.")
@of_runs
@click.pass_context
def runs(context: click.Context, /, *, ledger: Path | None, **_: Any) -> None:
    """List what the ledger knows: each run's input, destination, counts, units and rows in doubt.

    \b
    Examples:
      uploader runs
      uploader runs show r0123456789abcde
    """
    from uploader.reports.runs import list_runs  # noqa: PLC0415 -- heavy, see the top

    context.obj = ledger or default_ledger_folder()
    if context.invoked_subcommand is None:
        last_words(list_runs(context.obj))


@runs.command()
@click.argument("run")
@click.pass_obj
def show(folder: Path, *, run: str) -> None:
    """Show all that the ledger knows of one RUN.

    \b
    Example:
      uploader runs show r0123456789abcde
    """
    from uploader.reports.runs import show_run  # noqa: PLC0415 -- heavy, see the top

    last_words(show_run(folder, run))


@click.command(short_help="Show the settings, and where each comes from.")
@of_config
def config(**options: Any) -> None:
    """Show the settings that an upload would have, and where each comes from: option, variable, file or default.

    \b
    Example:
      uploader config --destination staging
    """
    settings_of(options)
    options["ledger"] = options["ledger"] or default_ledger_folder()
    lines = effective_settings(options)
    widths = [max(len(line[at]) for line in lines) for at in range(2)]
    for name, value, place in lines:
        last_words(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {place}".rstrip())


@click.command(short_help="Try what an upload needs, post nothing.")
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
    from uploader.checks.doctor import Finding, State, examine, worst  # noqa: PLC0415 -- heavy, see the top

    findings = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        last_words(f"{finding.state.value:<4}  {finding.check:<8}  {finding.words}")

    try:
        plan = plan_of(options)
        tell(Finding(State.OK, "settings", str(configuration()[0].path or "no settings file")))
    except SettingsError as error:
        tell(Finding(State.FAIL, "settings", str(error)))
    else:
        for finding in examine(plan, tenant_id=tenant, path=file):
            tell(finding)
    end(worst(findings))


@click.command(short_help="Run a local backend to try things on.")
@of_sandbox
def sandbox(**settings: Any) -> None:
    """Run a local metering backend that records what it is sent, until Ctrl-C.

    Tenants that begin with "unknown" have no customer, meters that begin with "forbidden" are rejected.

    \b
    Example:
      uploader sandbox --port 8000 --drop 0.01
    """
    from uploader.sandbox.sandbox import serve  # noqa: PLC0415 -- an optional extra
    from uploader.sandbox.sandbox_backend import SandboxSettings  # noqa: PLC0415 -- likewise

    serve(
        SandboxSettings(**settings),
        announce=lambda base_url: click.echo(f"listening; use it with: uploader upload FILE --base-url {base_url}"),
    )
