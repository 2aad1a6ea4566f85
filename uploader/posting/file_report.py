"""What became of one file of a command."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from uploader.ledger.ledger import Ledger
from uploader.model.errors import UploaderError
from uploader.model.mapping import AS_IT_STANDS, ColumnMap
from uploader.model.model import Reason
from uploader.model.notes import Level, Note
from uploader.posting.progress import Progress
from uploader.posting.timings import Timings
from uploader.readers.readers import UsageLog
from uploader.results.books import Accounts, Books, Entry
from uploader.results.reservation import Names, Reservation


@dataclass(frozen=True, slots=True)
class Start:
    """When a command began with a file."""

    at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    _monotonic_seconds: float = field(default_factory=time.monotonic)

    @property
    def elapsed_seconds(self) -> float:
        """Since then."""
        return time.monotonic() - self._monotonic_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """What became of one file.

    names:           where the results are; None when none were written. The failed file exists only if rows failed.
    entry_by_reason: rows and units, by why they failed; None stands for accepted.
    rows_of_no_run:  failed rows of a replay that are no rows of its run, such as copies; ``rows_elsewhere`` of that
        have failed, and stand in other files.
    rows_posted_otherwise: accepted rows whose values here are not those that were posted, before or between commands.
    posts, look_ups: calls of this command.
    content_sha256:  of the file's decompressed content; empty when it was not read to its end.
    ledger:          the run's file; None when none was begun.
    accounts:        rows and units by tenant and meter; None when no results were written.
    timings:         of this command's calls.
    seconds:         from opening the file to its durable results.
    mapping:         how the file's columns were seen.
    stop:            why the run ended early; empty when every row had its turn. ``is_over_budget`` says that it was
        because too many rows failed, and ``was_billed_again`` that ``--again`` had begun the run.
    error:           why the file could not be taken, or the run not be finished; or that its totals do not balance.
    """

    path: Path
    run_id: str = ""
    names: Names | None = None
    entry_by_reason: dict[Reason | None, Entry] = field(default_factory=dict)
    rows_of_no_run: int = 0
    rows_elsewhere: int = 0
    rows_posted_otherwise: int = 0
    posts: int = 0
    look_ups: int = 0
    content_sha256: str = ""
    ledger: Path | None = None
    accounts: Accounts | None = None
    timings: Timings | None = None
    begun_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    seconds: float = 0.0
    mapping: ColumnMap = AS_IT_STANDS
    stop: str = ""
    is_over_budget: bool = False
    was_billed_again: bool = False
    error: UploaderError | None = None

    @property
    def rows(self) -> int:
        """Rows in all."""
        return sum(entry.rows for entry in self.entry_by_reason.values())

    @property
    def failed_rows(self) -> int:
        """Rows that were not accepted."""
        return sum(entry.rows for reason, entry in self.entry_by_reason.items() if reason is not None)

    def as_note(self) -> Note:
        """Give the log's last word on the file."""
        counts = self._counts()
        if self.error is not None:
            text, level = complaint_about(self.path, self.error), Level.ERROR
        else:
            how = f"stopped early: {self.stop}; " if self.stop else ""
            text = f"{how}{counts['accepted']:,} of {counts['rows']:,} rows accepted, {counts['failed']:,} failed"
            level = Level.WARNING if self.stop or self.failed_rows else Level.INFO
        return Note(
            text,
            "file_ended",
            level=level,
            path=self.path,
            run_id=self.run_id,
            counts=counts if self.names else {},
            facts={"seconds": round(self.seconds, 3), **({"why": self.stop} if self.stop else {})},
        )

    def _counts(self) -> dict[str, int]:
        entries = self.entry_by_reason
        return {
            "rows": self.rows,
            "accepted": self.rows - self.failed_rows,
            "failed": self.failed_rows,
            **{f"failed_{reason.value}": entry.rows for reason, entry in entries.items() if reason is not None},
            "units": sum(entry.units for entry in entries.values()),
            "units_accepted": sum(entry.units for reason, entry in entries.items() if reason is None),
            "posts": self.posts,
            "look_ups": self.look_ups,
        }


def report_of_run(
    log: UsageLog,
    ledger: Ledger,
    reservation: Reservation,
    books: Books,
    progress: Progress,
    *,
    start: Start,
    mapping: ColumnMap,
    stop: str,
    imbalance: UploaderError | None,
    rows_posted_otherwise: int,
) -> FileReport:
    """Report a file whose results are durable."""
    return FileReport(
        path=log.path,
        run_id=ledger.identity.run_id,
        names=reservation.names,
        entry_by_reason=books.entry_by_reason(),
        rows_posted_otherwise=rows_posted_otherwise,
        posts=progress.posts,
        look_ups=progress.look_ups,
        content_sha256=log.content_sha256,
        ledger=ledger.path,
        accounts=books.accounts(),
        timings=progress.timings,
        begun_at=start.at,
        seconds=start.elapsed_seconds,
        mapping=mapping,
        stop=stop,
        is_over_budget=bool(progress.stop),
        was_billed_again=ledger.identity.again > 0,
        error=imbalance,
    )


def complaint_about(path: Path, error: UploaderError) -> str:
    """Word an error for a line that begins with the path, so that it does not stand there twice."""
    text = str(error)
    for name in (str(path), path.name):
        if text.startswith(f"{name} "):
            text = f"it{text.removeprefix(name)}"
        text = text.removeprefix(f"{name}: ")
    return text if text.startswith("not begun") else f"not done: {text}"
