"""What a command came to, for programs: the same data as objects and as JSON (``schemas/summary.schema.json``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from uploader.model.errors import ExitCode, ImbalanceError, RefusedError
from uploader.model.mapping import ColumnMap
from uploader.model.model import Reason
from uploader.posting.file_report import FileReport
from uploader.posting.timings import Interval, Latency
from uploader.results.books import Account, Entry

_SUMMARY_VERSION = 1
State = Literal["finished", "stopped", "not_done"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSummary:
    """What became of one file. Calls and timings are of this command, rows and units of the whole file.

    path:                the usage log, or the results or failed file that was replayed.
    content_sha256:      of its decompressed content, in hex; empty when it was not read to its end.
    run:                 ``upload_run`` of its rows; empty when none was begun.
    ledger:              the run's ledger file.
    results, failed:     the files written; None where there is none.
    begun_at:            UTC.
    seconds:             from opening the file to its durable results.
    state:               ``finished``: every row had its turn; ``stopped``: the rest is ``not_sent``, and ``stop`` says
                         why; ``not_done``: no results were written, and ``error`` says why.
    is_balanced:         whether rows and units in are accepted + failed; None when no results were written.
    total:               rows and units; None when no results were written. ``failed`` includes ``in_doubt``. A row
                         whose units cannot be read counts as a row without units.
    failed_by_reason:    those that failed.
    posted_otherwise:    accepted rows that were posted with other values than the file has, so that its units are not
                         what was billed; ``uploader runs show`` has those.
    by_tenant_and_meter: the 1,000 largest by the units that came in, largest first; of rows whose units can be read.
    others:              the sum of all further tenants and meters, ``others_count`` of them.
    intervals:           posts over time, at most 120.
    mapping:             how the file's columns were seen, and are to be seen in its results.
    """

    path: Path
    content_sha256: str
    run: str
    ledger: Path | None
    results: Path | None
    failed: Path | None
    begun_at: datetime
    seconds: float
    state: State
    stop: str
    error: str
    is_balanced: bool | None
    total: Account | None
    failed_by_reason: dict[Reason, Entry]
    posted_otherwise: int
    by_tenant_and_meter: dict[tuple[str, str], Account]
    others: Account | None
    others_count: int
    posts: int
    post_retries: int
    look_ups: int
    look_up_retries: int
    probes: int
    post_latency: Latency | None
    look_up_latency: Latency | None
    intervals: tuple[Interval, ...]
    mapping: ColumnMap

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return {
            "input": {"path": str(self.path), "sha256": self.content_sha256 or None},
            "run": self.run or None,
            "ledger": _path(self.ledger),
            "results": _path(self.results),
            "failed_file": _path(self.failed),
            "state": self.state,
            "stop": self.stop or None,
            "error": self.error or None,
            "begun_at": _moment(self.begun_at),
            "seconds": round(self.seconds, 3),
            "balances": self.is_balanced,
            "totals": None if self.total is None else _account(self.total),
            "failed_by_reason": {reason.value: _entry(entry) for reason, entry in self.failed_by_reason.items()},
            "rows_posted_otherwise": self.posted_otherwise,
            "by_tenant_and_meter": [
                {"tenant_id": tenant_id, "meter_id": meter_id, **_account(account)}
                for (tenant_id, meter_id), account in self.by_tenant_and_meter.items()
            ],
            "others": None
            if self.others is None
            else {"tenants_and_meters": self.others_count, **_account(self.others)},
            "calls": {
                "posts": self.posts,
                "post_retries": self.post_retries,
                "look_ups": self.look_ups,
                "look_up_retries": self.look_up_retries,
                "probes": self.probes,
            },
            "latency": {"posts": _latency(self.post_latency), "look_ups": _latency(self.look_up_latency)},
            "over_time": [_interval(interval) for interval in self.intervals],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a command came to.

    base_url:  where the backend is.
    period:    the label of the billing period; empty without one.
    exit_code: what the command line ends with: 0 all accepted, 1 some rows failed, 2 nothing was posted, 3 stopped
               early, 4 a fault of this program or totals that do not balance, 128 + N ended by signal N.
    error:     why the command as a whole could not begin; empty when it did.
    """

    command: str
    version: str
    base_url: str
    period: str
    begun_at: datetime
    ended_at: datetime
    exit_code: int
    error: str
    files: tuple[FileSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        return {
            "summary_version": _SUMMARY_VERSION,
            "program": "uploader",
            "version": self.version,
            "command": self.command,
            "base_url": self.base_url,
            "period": self.period or None,
            "begun_at": _moment(self.begun_at),
            "ended_at": _moment(self.ended_at),
            "exit_code": self.exit_code,
            "error": self.error or None,
            "files": [file.to_dict() for file in self.files],
        }

    def to_json(self) -> str:
        """Spell it as ``--summary`` writes it."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def summarize(
    reports: Sequence[FileReport],
    *,
    command: str,
    base_url: str,
    period: str,
    begun_at: datetime,
    exit_code: int,
    error: str = "",
) -> Summary:
    """Sum a command up that has just ended."""
    return Summary(
        command=command,
        version=version("meter-uploader"),
        base_url=base_url,
        period=period,
        begun_at=begun_at,
        ended_at=datetime.now(timezone.utc),
        exit_code=exit_code,
        error=error,
        files=tuple(_file_summary(report) for report in reports),
    )


def exit_code_of(reports: Sequence[FileReport]) -> ExitCode:
    """Give the exit code for what became of the files; the worst counts."""
    errors = [report.error for report in reports if report.error is not None]
    if any(isinstance(error, ImbalanceError) for error in errors):
        return ExitCode.FAULT
    if len(errors) == len(reports) and all(isinstance(error, RefusedError) for error in errors):
        return ExitCode.NOTHING_POSTED
    if errors or any(report.stop for report in reports):
        return ExitCode.STOPPED
    return ExitCode.SOME_FAILED if any(report.failed_rows for report in reports) else ExitCode.ACCEPTED


def _file_summary(report: FileReport) -> FileSummary:
    accounts, timings, names = report.accounts, report.timings, report.names
    is_imbalance = isinstance(report.error, ImbalanceError)
    return FileSummary(
        path=report.path,
        content_sha256=report.content_sha256,
        run=report.run_id,
        ledger=report.ledger,
        results=None if names is None else names.results,
        failed=None if names is None or not report.failed_rows else names.failed,
        begun_at=report.begun_at,
        seconds=report.seconds,
        state="not_done" if accounts is None else "stopped" if report.stop else "finished",
        stop=report.stop,
        error="" if report.error is None else str(report.error),
        is_balanced=None if accounts is None else not is_imbalance,
        total=None if accounts is None else accounts.total,
        failed_by_reason={
            reason: entry for reason, entry in report.entry_by_reason.items() if isinstance(reason, Reason)
        },
        posted_otherwise=report.rows_posted_otherwise,
        by_tenant_and_meter={} if accounts is None else accounts.by_tenant_and_meter,
        others=None if accounts is None or not accounts.others_count else accounts.others,
        others_count=0 if accounts is None else accounts.others_count,
        posts=report.posts,
        post_retries=0 if timings is None else timings.post_retries,
        look_ups=report.look_ups,
        look_up_retries=0 if timings is None else timings.look_up_retries,
        probes=0 if timings is None else timings.probes,
        post_latency=None if timings is None else timings.posts(),
        look_up_latency=None if timings is None else timings.look_ups(),
        intervals=() if timings is None else timings.intervals(),
        mapping=report.mapping,
    )


def _path(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _account(account: Account) -> dict[str, dict[str, int]]:
    return {
        "in": _entry(account.came_in),
        "accepted": _entry(account.accepted),
        "failed": _entry(account.failed),
        "in_doubt": _entry(account.in_doubt),
    }


def _entry(entry: Entry) -> dict[str, int]:
    return {"rows": entry.rows, "units": entry.units}


def _latency(latency: Latency | None) -> dict[str, float] | None:
    if latency is None:
        return None
    return {
        "calls": latency.calls,
        "p50_seconds": round(latency.p50_seconds, 6),
        "p90_seconds": round(latency.p90_seconds, 6),
        "p95_seconds": round(latency.p95_seconds, 6),
        "p99_seconds": round(latency.p99_seconds, 6),
        "longest_seconds": round(latency.longest_seconds, 6),
    }


def _interval(interval: Interval) -> dict[str, float | None]:
    latency = interval.latency
    return {
        "begin_seconds": interval.begin_seconds,
        "seconds": round(interval.seconds, 6),
        "posts": interval.posts,
        "accepted": interval.accepted,
        "posts_per_second": round(interval.posts / interval.seconds, 3),
        "p50_seconds": None if latency is None else round(latency.p50_seconds, 6),
        "p95_seconds": None if latency is None else round(latency.p95_seconds, 6),
    }
