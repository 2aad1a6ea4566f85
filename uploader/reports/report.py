"""A page about one or more files, for the person in the morning: one HTML file that needs no network and no script.

The only file that knows `jinja2`; every cell of a usage log passes its autoescape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import jinja2
from markupsafe import Markup

from uploader.model.mapping import ColumnMap
from uploader.model.model import REPLAY_BY_REASON, Reason, Replay
from uploader.model.shell import as_argument
from uploader.posting.timings import Interval
from uploader.reports.charts import lines, stacked_bars
from uploader.reports.findings import CheckFindings, Findings, ReasonGroup, Tally, read_findings
from uploader.reports.summary import FileSummary, Summary

_TENANTS = 10
_WORDINGS = 3

MEANING_BY_REASON = {
    Reason.INVALID: "the row breaks the schema",
    Reason.MALFORMED: "the row cannot be read",
    Reason.CUSTOMER_NOT_FOUND: "the backend knows no customer for the tenant",
    Reason.LOOKUP_FAILED: "the tenant's customer could not be looked up",
    Reason.UNAVAILABLE: "the backend could not be reached, or turned the row away for now",
    Reason.REJECTED: "the backend refused the row",
    Reason.IN_DOUBT: "it was sent, and no whole answer came: it may have been recorded",
    Reason.NOT_SENT: "the run ended before the row's turn",
    Reason.DUPLICATE: "the same event again",
    Reason.CONFLICT: "the event's id was used before, with other values",
    Reason.CHANGED: "a spreadsheet seems to have damaged a cell",
}
REMEDY_BY_REASON = {
    Reason.INVALID: "Correct the cells that the detail names, in the failed file, and replay it.",
    Reason.MALFORMED: "Write the row's cells into the failed file, from its text in upload_raw, and replay it.",
    Reason.CUSTOMER_NOT_FOUND: "Have the backend's owners set the tenant up, or correct tenant_id; replay the file.",
    Reason.LOOKUP_FAILED: "Nothing was recorded. Replay the file once the backend answers.",
    Reason.UNAVAILABLE: "Nothing was recorded. Replay the file once the backend answers.",
    Reason.REJECTED: "Nothing was recorded. Correct the row, or have the backend set up for it; replay the file.",
    Reason.IN_DOUBT: "Ask the backend's owners (see below); write recorded or resend into upload_replay; replay.",
    Reason.NOT_SENT: "Nothing was recorded. Run the same upload again, which continues, or replay the file.",
    Reason.DUPLICATE: "Nothing to do when it is one event; else give the row an id of its own and replay the file.",
    Reason.CONFLICT: "Find out which values are right; correct the row or give it an id of its own; replay the file.",
    Reason.CHANGED: "Put the cell back as it was, or allow it with --accept-changes; replay the file.",
}


_REMEDY_OF_A_CHECK = "Correct it in the usage log, before it is uploaded; or the schema, where the row is right."


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """One part of the rows and units, as it is shown."""

    name: str
    kind: str
    tally: Tally
    rows_percent: float
    units_percent: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """What the page says of one file.

    is_check: nothing was posted yet.
    findings: None when there are no results to look into.
    summary:  None when the page is made of a results file alone.
    settled:  the beginnings of the intervals in which rows were settled.
    command:  what replays the failed rows; empty when nothing can.
    """

    name: str
    sentence: str
    is_check: bool
    findings: Findings | None
    summary: FileSummary | None
    shares: list[_Share]
    groups: list[tuple[Reason, Replay, ReasonGroup, list[tuple[str, Tally]]]]
    tenants: list[tuple[str, Tally]]
    settled: list[datetime]
    failed_file: str
    command: str
    throughput: Markup
    latency: Markup


def page_of_command(summary: Summary, *, replay_options: str | None) -> str:
    """Make the page about a command that has just ended; its results files are read once more.

    replay_options: what a replay must be given too, such as ``--ledger``; None when there can be no replay.

    Raises:
        InputError: a results file cannot be read any more.
    """
    sections = [_section_of_command(file, replay_options=replay_options) for file in summary.files]
    return _page(sections, title=f"uploader {summary.command}", summary=summary)


def page_of_file(path: Path, *, mapping: ColumnMap) -> str:
    """Make the page about a results or failed file; latency is not known from it.

    mapping: how the upload saw the columns.

    Raises:
        InputError: it cannot be read, is no such file, or lacks a column.
    """
    findings = read_findings(path, mapping=mapping)
    beside_it = path.with_name(f"{path.stem.removesuffix('.results')}.failed.csv")
    failed_file = beside_it if path.stem.endswith(".results") and beside_it.exists() else path
    section = _section(
        findings,
        None,
        name=path.name,
        sentence=_sentence(findings, None),
        failed_file=str(failed_file),
        command=f"uploader replay {as_argument(failed_file)}",
        throughput=_throughput_of_moments(findings),
        latency=Markup(),
    )
    return _page([section], title=path.name, summary=None)


def page_of_checks(checks: Sequence[tuple[Path, CheckFindings | str]]) -> str:
    """Make the page about a check of usage logs: of each what was found, or why it cannot be taken at all."""
    sections = [
        _section(
            None if isinstance(found, str) else found,
            None,
            name=path.name,
            sentence=f"Cannot be taken: {found}" if isinstance(found, str) else _sentence_of_check(found),
            failed_file=str(path),
            command=f"uploader upload {as_argument(path)}",
            throughput=Markup(),
            latency=Markup(),
        )
        for path, found in checks
    ]
    return _page(sections, title="uploader validate", summary=None)


def _section_of_command(file: FileSummary, *, replay_options: str | None) -> _Section:
    findings = None if file.results is None else read_findings(file.results, mapping=file.mapping)
    command = ""
    if file.failed is not None and replay_options is not None:
        command = f"uploader replay {as_argument(file.failed)}{replay_options}"
    return _section(
        findings,
        file,
        name=file.path.name,
        sentence=_sentence(findings, file),
        failed_file="" if file.failed is None else str(file.failed),
        command=command,
        throughput=_throughput(_to_draw(file.intervals)),
        latency=_latency(_to_draw(file.intervals)),
    )


def _section(
    findings: Findings | None,
    summary: FileSummary | None,
    *,
    name: str,
    sentence: str,
    failed_file: str,
    command: str,
    throughput: Markup,
    latency: Markup,
) -> _Section:
    known = findings or Findings()
    in_order = [(reason, known.group_by_reason[reason]) for reason in Reason if reason in known.group_by_reason]
    return _Section(
        name=name,
        sentence=sentence,
        is_check=isinstance(findings, CheckFindings),
        findings=findings,
        summary=summary,
        shares=_shares(known),
        groups=[(reason, REPLAY_BY_REASON[reason], group, group.details.top(_WORDINGS)) for reason, group in in_order],
        tenants=known.at_stake.top(_TENANTS),
        settled=[begin for begin, _, _ in known.moments.intervals()],
        failed_file=failed_file,
        command=command,
        throughput=throughput,
        latency=latency,
    )


def _sentence(findings: Findings | None, summary: FileSummary | None) -> str:
    """Say what happened to a file."""
    if findings is None:
        return f"Not done: {summary.error if summary else ''}"
    rows = findings.accepted.rows + findings.failed.rows
    said = f"{findings.accepted.rows:,} of {rows:,} rows were accepted, with {findings.accepted.units:,} units"
    if findings.failed.rows == 0:
        said = f"All {rows:,} rows were accepted, with {findings.accepted.units:,} units"
    else:
        said += f"; {findings.failed.rows:,} failed"
    if findings.in_doubt.rows:
        said += f", {findings.in_doubt.rows:,} of them in doubt: those may or may not be billed already"
    if summary is not None and summary.stop:
        said += f". The run was stopped: {summary.stop}"
    if summary is not None and summary.error:
        said += f". {summary.error}"
    return f"{said}."


def _sentence_of_check(findings: CheckFindings) -> str:
    rows = findings.accepted.rows + findings.failed.rows
    said = f"{findings.accepted.rows:,} of {rows:,} rows would be posted, with {findings.accepted.units:,} units"
    return f"{said}; {findings.failed.rows:,} would fail." if findings.failed.rows else f"{said}."


def _shares(findings: Findings) -> list[_Share]:
    doubt = findings.in_doubt
    plainly_failed = Tally(findings.failed.rows - doubt.rows, findings.failed.units - doubt.units)
    parts = [
        ("accepted", "good", findings.accepted),
        ("failed for certain", "bad", plainly_failed),
        ("in doubt", "doubt", doubt),
    ]
    if isinstance(findings, CheckFindings):
        parts = [("would be posted", "good", findings.accepted), ("would fail", "bad", findings.failed)]
    rows = sum(tally.rows for _, _, tally in parts)
    units = sum(max(0, tally.units) for _, _, tally in parts)
    return [
        _Share(
            name=name,
            kind=kind,
            tally=tally,
            rows_percent=100 * tally.rows / rows if rows else 0.0,
            units_percent=100 * max(0, tally.units) / units if units else 0.0,
        )
        for name, kind, tally in parts
    ]


def _throughput(intervals: Sequence[Interval]) -> Markup:
    return _bars(
        [interval.accepted / interval.seconds for interval in intervals],
        [(interval.posts - interval.accepted) / interval.seconds for interval in intervals],
        labels=_labels([interval.begin_seconds for interval in intervals]),
    )


def _throughput_of_moments(findings: Findings) -> Markup:
    intervals = findings.moments.intervals()
    width = findings.moments.width_seconds
    return _bars(
        [accepted / width for _, _, accepted in intervals],
        [(rows - accepted) / width for _, rows, accepted in intervals],
        labels=[begin.strftime("%m-%d %H:%M:%S") for begin, _, _ in intervals],
    )


def _bars(accepted: Sequence[float], others: Sequence[float], *, labels: Sequence[str]) -> Markup:
    if not labels:
        return Markup()
    values_by_name = {"accepted": accepted, "not accepted": others}
    # No cell of a usage log goes into a chart.
    return Markup(stacked_bars(values_by_name, colors=["var(--good)", "var(--bad)"], labels=labels))  # noqa: S704


def _latency(intervals: Sequence[Interval]) -> Markup:
    if not intervals:
        return Markup()
    latencies = [interval.latency for interval in intervals]
    values_by_name = {
        "half of the posts took less": [None if one is None else 1000 * one.p50_seconds for one in latencies],
        "95 % took less": [None if one is None else 1000 * one.p95_seconds for one in latencies],
    }
    labels = _labels([interval.begin_seconds for interval in intervals])
    # No cell of a usage log goes into a chart.
    return Markup(lines(values_by_name, colors=["var(--good)", "var(--doubt)"], labels=labels))  # noqa: S704


def _to_draw(intervals: Sequence[Interval]) -> Sequence[Interval]:
    """Leave out a last interval that is too short for a rate to mean anything."""
    return intervals[:-1] if len(intervals) > 4 and intervals[-1].seconds < intervals[0].seconds / 2 else intervals


def _labels(begins_seconds: Sequence[float]) -> list[str]:
    """Spell moments since the beginning, in the unit that fits the last."""
    last = max(begins_seconds, default=0.0)
    name, seconds = next(((name, unit) for name, unit in (("h", 3600), ("min", 60)) if last > 3 * unit), ("s", 1))
    return [f"{begin / seconds:,.4g} {name}" for begin in begins_seconds]


def _page(sections: Sequence[_Section], *, title: str, summary: Summary | None) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("uploader.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["percent"] = _percent
    environment.filters["moment"] = lambda moment: moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    return environment.get_template("report.html.jinja").render(
        title=title,
        sections=sections,
        summary=summary,
        version=version("meter-uploader"),
        made_at=datetime.now(timezone.utc),
        meaning_by_reason=MEANING_BY_REASON,
        remedy_by_reason=REMEDY_BY_REASON,
        remedy_of_a_check=_REMEDY_OF_A_CHECK,
    )


def _percent(value: float) -> str:
    """Spell a share; one that is not nothing never looks like nothing, nor one that is not all like all."""
    if 0 < value < 0.1:
        return "< 0.1 %"
    return "> 99.9 %" if 99.9 < value < 100 else f"{value:.1f} %"
