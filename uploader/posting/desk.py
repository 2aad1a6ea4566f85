"""What lives for a whole command, whatever the number of its files."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from uploader.ledger.known_ceilings import keep_ceiling, known_ceiling
from uploader.ledger.ledger import History, Ledger
from uploader.ledger.run_file import has_accepted_rows
from uploader.model.errors import StoppedError, UploaderError
from uploader.model.notes import Note
from uploader.model.plan import Plan
from uploader.pacing.lesson import KnownCeiling
from uploader.pacing.pacing import Pacing
from uploader.posting.calls import Call
from uploader.posting.customers import Customers
from uploader.posting.file_report import FileReport, Start
from uploader.posting.pacing_notes import PacingNotes
from uploader.posting.posting import Posting, Recorder, over_budget
from uploader.posting.progress import Progress
from uploader.readers.event_reader import EventReader
from uploader.readers.log_check import fitted_reader
from uploader.readers.readers import UsageLog
from uploader.schema.schema import RowSchema
from uploader.sender.descriptors import most_connections
from uploader.sender.route import settle_route
from uploader.sender.sender import Connection, Sender


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


@dataclass(slots=True, kw_only=True)
class Desk:
    """What lives for a whole command, whatever the number of files.

    known_ceiling:  what an earlier command left of the backend's limit; None for nothing.
    path_by_run_id: the usage logs that were begun so far.
    """

    plan: Plan
    watcher: Watcher
    schema: RowSchema
    customers: Customers
    pacing: Pacing
    pacing_notes: PacingNotes = field(init=False)
    sender: Sender[Call]
    known_ceiling: KnownCeiling | None
    path_by_run_id: dict[str, Path] = field(default_factory=dict)
    _begun: tuple[UsageLog, Ledger, Progress] | None = None

    def __post_init__(self) -> None:
        self.pacing_notes = PacingNotes(self.pacing, say=self.watcher.say)

    def why_stopped(self, progress: Progress | None = None) -> str:
        """Say why the command ends early, or one file's posting with this progress; empty when it does not."""
        if progress is not None and progress.settled == progress.rows:
            return self.pacing.stop  # an interruption, or one failure too many, came too late to stop anything
        stop = self.pacing.stop or ("the command was interrupted" if self.watcher.should_stop() else "")
        return stop or (progress.stop if progress else "")

    def fitted_reader(self, log: UsageLog) -> EventReader:
        """Fit the schema, and what the plan says of columns, to a usage log.

        Raises:
            InputError: a column is missing, or the file is one that this program wrote.
        """
        plan = self.plan
        return fitted_reader(log, self.schema, plan.mapping, event_id=plan.event_id, base_url=plan.settings.base_url)

    def begin_posting(self, log: UsageLog, ledger: Ledger, progress: Progress) -> Posting:
        """Set up the posting of one file, and say that it begins."""
        self._begun = (log, ledger, progress)
        self.watcher.begin(log.path, progress)
        self._say_that_posting_begins(log.path, ledger, progress)
        return self.silent_posting(ledger, progress, ledger.history(), tell=_EveryRound(self, log.path, ledger).tell)

    def silent_posting(
        self, ledger: Recorder, progress: Progress, history: History, *, tell: Callable[[Progress], None]
    ) -> Posting:
        """Set up a posting, of which nothing is said and whose outcomes any recorder may take.

        history: what earlier commands recorded of the run.
        """
        budget = self.plan.max_failed
        most_failed = None if budget is None else budget.most_failed(rows=progress.rows)
        if most_failed is not None and history.may_be_recorded < progress.rows and history.in_doubt > most_failed:
            # Rows in doubt stay so, wherever they stand: else some rows before them would be posted each time.
            progress.stop = over_budget(most_failed)
        if history.accepted:
            self.pacing.know_backend()
        return Posting(
            settings=self.plan.settings,
            ledger=ledger,
            customers=self.customers,
            sender=self.sender,
            pacing=self.pacing,
            progress=progress,
            should_stop=self.watcher.should_stop,
            tell=tell,
            most_failed=most_failed,
        )

    def _say_that_posting_begins(self, path: Path, ledger: Ledger, progress: Progress) -> None:
        counts = {"rows": progress.rows}
        run_id = ledger.identity.run_id
        self.watcher.say(Note("posting begins", "posting_begun", path=path, run_id=run_id, counts=counts))
        if self.known_ceiling is not None and self.plan.settings.concurrency is None:
            calls = int(self.known_ceiling.calls)
            text = f"fewer than {calls:,} calls at once for the first minutes: so many left rows in doubt before"
            self.watcher.say(Note(text, "limit_known", path=path, run_id=run_id, counts={"calls": calls}))

    def keep_ceiling(self) -> None:
        """Have the next command to this backend know how many calls at once were too many for it."""
        if self.pacing.known_ceiling != self.known_ceiling:
            keep_ceiling(self.plan.ledger_folder, self.pacing.known_ceiling, base_url=self.plan.settings.base_url)

    def report_of_error(self, path: Path, error: UploaderError, start: Start) -> FileReport:
        """Report a file that could not be finished, with the calls that were made for it all the same."""
        if self._begun is None or self._begun[0].path != path:
            return FileReport(path=path, begun_at=start.at, seconds=start.elapsed_seconds, error=error)
        log, ledger, progress = self._begun
        return FileReport(
            path=path,
            run_id=ledger.identity.run_id,
            begun_at=start.at,
            seconds=start.elapsed_seconds,
            content_sha256=log.content_sha256,
            posts=progress.posts,
            look_ups=progress.look_ups,
            ledger=ledger.path,
            timings=progress.timings,
            error=error,
        )


class _EveryRound:
    """What is told in each round: the counts, what the pacing does, and once a second, by the lock file, to others."""

    def __init__(self, desk: Desk, path: Path, ledger: Ledger) -> None:
        self._desk = desk
        self._path = path
        self._ledger = ledger
        self._next_seconds = 0.0

    def tell(self, progress: Progress) -> None:
        self._desk.watcher.watch(progress)
        self._desk.pacing_notes.look(self._path, stop=self._desk.why_stopped(progress))
        now_seconds = time.monotonic()
        if now_seconds >= self._next_seconds:
            self._next_seconds = now_seconds + 1.0
            self._ledger.lock.say(
                f"on {self._path}: {progress.settled:,} of {progress.rows:,} rows, {progress.accepted:,} accepted, "
                f"{progress.failed:,} failed, {progress.in_doubt:,} in doubt"
            )


def not_begun(path: Path, why: str) -> StoppedError:
    """Say that the command ended before a file's turn."""
    return StoppedError(f"{path}: not begun, because {why}", remedy="run the same command again")


@contextlib.contextmanager
def open_desk(plan: Plan, watcher: Watcher) -> Iterator[Desk]:
    """Check schema and route before any file is read, and close every connection at the end."""
    settings = plan.settings
    route = settle_route(settings.base_url, carries_key=settings.api_key is not None)
    most_in_flight = most_connections(settings.most_in_flight, is_fixed=settings.concurrency is not None)
    sender: Sender[Call] = Sender(
        Connection(
            most_in_flight=most_in_flight,
            timeout_seconds=settings.timeout_seconds,
            proxy=route.proxy,
            ca_bundle=route.ca_bundle,
        )
    )
    known = known_ceiling(plan.ledger_folder, base_url=settings.base_url)
    pacing = Pacing(
        concurrency=settings.concurrency,
        most_in_flight=most_in_flight,
        retries=settings.retries,
        patience_seconds=settings.patience_seconds,
        chance=random.Random(),  # noqa: S311 -- jitter, not a secret
        was_good_before=lambda: has_accepted_rows(plan.ledger_folder, base_url=settings.base_url),
        max_rate_per_second=settings.max_rate,
        known_ceiling=known,
    )
    with contextlib.closing(sender):
        yield Desk(
            plan=plan,
            watcher=watcher,
            schema=RowSchema.load(plan.schema_path),
            customers=Customers(),
            pacing=pacing,
            sender=sender,
            known_ceiling=known,
        )
