"""What an upload and a replay share: the plan, what lives for a whole command, and how the results are written."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

from uploader.books import Accounts, Entry
from uploader.client import settle_route
from uploader.customers import Customers
from uploader.errors import SettingsError, UploaderError
from uploader.ledger import Ledger
from uploader.mapping import AS_IT_STANDS, ColumnMap
from uploader.model import Batch, Reason, Row, RowState
from uploader.notes import Level, Note
from uploader.pacing import Pacing
from uploader.pacing_notes import PacingNotes
from uploader.posting import Call, Posting, Progress
from uploader.readers import open_usage_log
from uploader.reservation import Names, Reservation, room_needed_bytes
from uploader.results import OWN_COLUMNS, Log, OwnCells, TableWriter, earlier_cells, write_results
from uploader.schema import RowSchema
from uploader.sender import Connection, Sender
from uploader.settings import FailureBudget, Settings
from uploader.timings import Timings


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a command was asked to do, beside how to reach the backend.

    schema_path:   None for the schema of this package.
    delimiter:     of CSV files; None for what their name says.
    results:       name of the one results file; None to derive it from the usage log's.
    results_dir:   folder for derived names; None for the usage log's own.
    ledger_folder: where every run's ledger file is.
    period:        the operator's label for a billing period; empty without one.
    max_failed:    the failure budget of each file; None for none.
    event_id:      the column of the log's own event ids; None to go by content and row number.
    mapping:       how the log's columns are seen; a replay sees them as its upload did.
    again:         bill all of a content again that was uploaded before.
    allow_overlap: take a log although most of its rows were posted before.
    """

    settings: Settings
    ledger_folder: Path
    schema_path: Path | None = None
    delimiter: str | None = None
    results: Path | None = None
    results_dir: Path | None = None
    period: str = ""
    max_failed: FailureBudget | None = None
    event_id: str | None = None
    mapping: ColumnMap = AS_IT_STANDS
    again: bool = False
    allow_overlap: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot go together.

        Raises:
            SettingsError: ``again`` gives events new ids, and ``event_id`` takes the log's own; the period is no text.
        """
        if not isinstance(self.period, str):  # as a program may give; it would be another one than its text
            raise SettingsError(f"--period {self.period!r}: not text", remedy="give it as text; empty for none")
        if self.again and self.event_id is not None:
            raise SettingsError(
                "--again bills events again under new ids, and --event-id takes the log's own",
                remedy="to bill an event again, give it another id of its own in the usage log",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """How a run talks to whoever watches, and how they stop it.

    begin:       a file's posting begins: its path, and the counts that go on changing.
    watch:       called often, with those counts.
    say:         takes each change of the run's state.
    should_stop: True once the run is to end; calls in flight are waited for.
    """

    begin: Callable[[Path, Progress], None]
    watch: Callable[[Progress], None]
    say: Callable[[Note], None]
    should_stop: Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileReport:
    """What became of one file.

    names:           where the results are; None when none were written. The failed file exists only if rows failed.
    entry_by_reason: rows and units, by why they failed; None stands for accepted.
    posts, look_ups: calls of this command.
    content_sha256:  of the file's decompressed content; empty when it was not read to its end.
    ledger:          the run's file; None when none was begun.
    accounts:        rows and units by tenant and meter; None when no results were written.
    timings:         of this command's calls.
    seconds:         from opening the file to its durable results.
    mapping:         how the file's columns were seen.
    stop:            why the run ended early; empty when every row had its turn.
    error:           why the file could not be taken, or the run not be finished; or that its totals do not balance.
    """

    path: Path
    run_id: str = ""
    names: Names | None = None
    entry_by_reason: dict[Reason | None, Entry] = field(default_factory=dict)
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
    error: UploaderError | None = None

    @property
    def failed_rows(self) -> int:
        """Rows that were not accepted."""
        return sum(entry.rows for reason, entry in self.entry_by_reason.items() if reason is not None)

    def as_note(self) -> Note:
        """Give the log's last word on the file."""
        if self.error is not None:
            text, level = complaint_about(self.path, self.error), Level.ERROR
        else:
            counts = self._counts()
            how = f"stopped early: {self.stop}; " if self.stop else ""
            text = f"{how}{counts['accepted']:,} of {counts['rows']:,} rows accepted, {counts['failed']:,} failed"
            level = Level.WARNING if self.stop or self.failed_rows else Level.INFO
        return Note(
            text,
            "file_ended",
            level=level,
            path=self.path,
            run_id=self.run_id,
            counts=self._counts() if self.names else {},
            facts={"seconds": round(self.seconds, 3), **({"why": self.stop} if self.stop else {})},
        )

    def _counts(self) -> dict[str, int]:
        entries = self.entry_by_reason
        rows = sum(entry.rows for entry in entries.values())
        return {
            "rows": rows,
            "accepted": rows - self.failed_rows,
            "failed": self.failed_rows,
            **{f"failed_{reason.value}": entry.rows for reason, entry in entries.items() if reason is not None},
            "units": sum(entry.units for entry in entries.values()),
            "units_accepted": sum(entry.units for reason, entry in entries.items() if reason is None),
            "posts": self.posts,
            "look_ups": self.look_ups,
        }


def complaint_about(path: Path, error: UploaderError) -> str:
    """Word an error for a line that begins with the path, so that it does not stand there twice."""
    text = str(error)
    for name in (str(path), path.name):
        if text.startswith(f"{name} "):
            text = f"it{text.removeprefix(name)}"
        text = text.removeprefix(f"{name}: ")
    return text if text.startswith("not begun") else f"not done: {text}"


@dataclass(slots=True, kw_only=True)
class Desk:
    """What lives for a whole command, whatever the number of files."""

    plan: Plan
    watcher: Watcher
    schema: RowSchema
    customers: Customers
    pacing: Pacing
    pacing_notes: PacingNotes = field(init=False)
    sender: Sender[Call]
    _begun: tuple[Path, Ledger, Progress] | None = None

    def __post_init__(self) -> None:
        self.pacing_notes = PacingNotes(self.pacing, say=self.watcher.say)

    def why_stopped(self, progress: Progress | None = None) -> str:
        """Say why the command ends early, or one file's posting with this progress; empty when it does not."""
        stop = self.pacing.stop or ("the command was interrupted" if self.watcher.should_stop() else "")
        return stop or (progress.stop if progress else "")

    def posting(self, path: Path, ledger: Ledger, progress: Progress) -> Posting:
        """Set up the posting of one file."""
        self._begun = (path, ledger, progress)
        self.watcher.begin(path, progress)
        self._say_that_posting_begins(path, ledger, progress)
        return Posting(
            settings=self.plan.settings,
            ledger=ledger,
            customers=self.customers,
            sender=self.sender,
            pacing=self.pacing,
            progress=progress,
            should_stop=self.watcher.should_stop,
            watch=_Watch(self, path, ledger).watch,
            most_failed=None if self.plan.max_failed is None else self.plan.max_failed.most_failed(rows=progress.rows),
        )

    def _say_that_posting_begins(self, path: Path, ledger: Ledger, progress: Progress) -> None:
        counts = {"rows": progress.rows}
        self.watcher.say(
            Note("posting begins", "posting_begun", path=path, run_id=ledger.identity.run_id, counts=counts)
        )

    def report_of_error(self, path: Path, error: UploaderError) -> FileReport:
        """Report a file that could not be finished, with the calls that were made for it all the same."""
        if self._begun is None or self._begun[0] != path:
            return FileReport(path=path, error=error)
        _, ledger, progress = self._begun
        return FileReport(
            path=path,
            run_id=ledger.identity.run_id,
            posts=progress.posts,
            look_ups=progress.look_ups,
            ledger=ledger.path,
            timings=progress.timings,
            error=error,
        )


class _Watch:
    """Passes progress on, and has the run's lock file say it to other processes, once a second."""

    def __init__(self, desk: Desk, path: Path, ledger: Ledger) -> None:
        self._desk = desk
        self._path = path
        self._ledger = ledger
        self._next_seconds = 0.0

    def watch(self, progress: Progress) -> None:
        self._desk.watcher.watch(progress)
        self._desk.pacing_notes.look(self._path, stop=self._desk.why_stopped(progress))
        now_seconds = time.monotonic()
        if now_seconds >= self._next_seconds:
            self._next_seconds = now_seconds + 1.0
            self._ledger.lock.say(
                f"on {self._path}: {progress.settled:,} of {progress.rows:,} rows, {progress.accepted:,} accepted, "
                f"{progress.failed:,} failed, {progress.in_doubt:,} in doubt"
            )


@contextlib.contextmanager
def open_desk(plan: Plan, watcher: Watcher) -> Iterator[Desk]:
    """Check schema, route and libcurl before any file is read, and close every connection at the end."""
    settings = plan.settings
    route = settle_route(settings.base_url, carries_key=settings.api_key is not None)
    sender: Sender[Call] = Sender(
        Connection(
            most_in_flight=settings.most_in_flight,
            timeout_seconds=settings.timeout_seconds,
            proxy=route.proxy,
            ca_bundle=route.ca_bundle,
        )
    )
    pacing = Pacing(
        concurrency=settings.concurrency,
        retries=settings.retries,
        patience_seconds=settings.patience_seconds,
        chance=random.Random(),  # noqa: S311 -- jitter, not a secret
        max_rate_per_second=settings.max_rate,
    )
    with contextlib.closing(sender):
        yield Desk(
            plan=plan,
            watcher=watcher,
            schema=RowSchema.load(plan.schema_path),
            customers=Customers(),
            pacing=pacing,
            sender=sender,
        )


@contextlib.contextmanager
def reserved(choices: Iterator[Names], log: Log, ledger: Ledger, *, rows: int) -> Iterator[Reservation]:
    """Hold the names of the results; let go of them should the run fail."""
    facts = ledger.facts()
    reservation = Reservation(
        choices,
        run_id=ledger.identity.run_id,
        own_files=facts.get("files", {}),
        room_bytes=room_needed_bytes(log, rows=rows),
        announced_files=facts.get("announced_files", {}),
        announce=lambda files: ledger.remember({"announced_files": files}),
    )
    try:
        ledger.remember({"files": reservation.facts()})
        yield reservation
    except BaseException:
        reservation.release()
        raise


def write_out(
    log: Log,
    reservation: Reservation,
    ledger: Ledger,
    answered: Iterator[tuple[Batch, Sequence[RowState]]],
    *,
    event_id_of: Callable[[Row, RowState], str],
) -> None:
    """Make the third pass: write the results, and have the ledger know them as this run's own."""
    with contextlib.ExitStack() as stack:
        earlier: Iterable[OwnCells] = ()
        if reservation.is_own(reservation.names.results):
            before = stack.enter_context(open_usage_log(reservation.names.results, delimiter=log.delimiter))
            earlier = earlier_cells(before, before.batches())
        write_results(
            log,
            reservation,
            answered,
            run_id=ledger.identity.run_id,
            event_id_of=event_id_of,
            earlier=earlier,
            parquet_table=_parquet_table(log) if log.kind == "parquet" else None,
        )
    ledger.remember({"files": reservation.facts()})


def results_note(path: Path, reservation: Reservation, *, run_id: str) -> Note:
    """Say where the results are, once they are durable."""
    facts = {"results": str(reservation.names.results)}
    if reservation.is_own(reservation.names.failed):
        facts["failed_file"] = str(reservation.names.failed)
    text = f"results written to {' and '.join(facts.values())}"
    return Note(text, "results_written", path=path, run_id=run_id, facts=facts)


def _parquet_table(log: Log) -> Callable[[BinaryIO], TableWriter]:
    # pyarrow takes 0.4 s to import; a log that is Parquet has paid for it already.
    from uploader.parquet_log import AnnotatedParquetWriter, ParquetLog  # noqa: PLC0415 -- see above

    assert isinstance(log, ParquetLog), "only a Parquet log says that it is one"  # noqa: S101 -- an invariant
    return lambda file: AnnotatedParquetWriter(file, log, extra_columns=OWN_COLUMNS)
