"""An upload: the run, one line a step."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from uploader.api import values_in_words
from uploader.books import Books
from uploader.desk import Desk, FileReport, Plan, Watcher, open_desk, reserved, results_note, write_out
from uploader.errors import InputError, LedgerFault, StoppedError, UploaderError
from uploader.guards import InputFacts, choose_run, demand_known_results, demand_little_overlap
from uploader.identity import EventIds, RunIdentity
from uploader.ledger import History, Ledger
from uploader.mapping import AS_IT_STANDS, ColumnMap
from uploader.marker import Marker, demand_known_marks
from uploader.model import Batch, Cell, Outcome, Reason, Row, RowState, UsageEvent
from uploader.notes import Level, Note
from uploader.overlap import RowSketches
from uploader.own_events import OwnEvents, OwnIds, demand_known_claims, own_events_of
from uploader.posting import Due, Progress
from uploader.readers import UsageLog, open_usage_log
from uploader.reservation import Names, Reservation, choose_names
from uploader.results import NOT_SENT
from uploader.run_file import is_known
from uploader.run_report import report_of_run
from uploader.schema import RowCheck, RowSchema
from uploader.seen import SeenRows
from uploader.settings import FailureBudget


class Knowledge(Protocol):
    """What the second pass needs of a ledger."""

    def known(self, rows: Sequence[int]) -> dict[int, RowState]:
        """Give the states of those rows that have one, by row number."""

    def history(self) -> History:
        """Sum up what earlier commands recorded."""


def upload(paths: Sequence[Path], *, plan: Plan, watcher: Watcher) -> list[FileReport]:
    """Upload usage logs in the order given; a file that cannot be taken does not stop the others.

    Raises:
        RefusedError: the command as a whole cannot begin. Nothing was posted.
    """
    with open_desk(plan, watcher) as desk:
        return [_with_its_last_word(_upload_or_say_why_not(path, desk), desk) for path in paths]


def _with_its_last_word(report: FileReport, desk: Desk) -> FileReport:
    desk.watcher.say(report.as_note())
    return report


def _upload_or_say_why_not(path: Path, desk: Desk) -> FileReport:
    if why := desk.why_stopped():
        return FileReport(
            path=path, error=StoppedError(f"{path}: not begun, because {why}", remedy="run the same command again")
        )
    try:
        return _upload_file(path, desk)
    except LedgerFault as error:
        # Calls of this file may be in flight, and their answers must not be taken for those of another file's rows.
        desk.pacing.stop = desk.pacing.stop or f"the upload of {path} could not be recorded"
        return desk.report_of_error(path, error)
    except UploaderError as error:
        return desk.report_of_error(path, error)


def _upload_file(path: Path, desk: Desk) -> FileReport:
    started_seconds, begun_at = time.monotonic(), datetime.now(timezone.utc)
    desk.watcher.say(Note("being read", "file_begun", path=path))
    with open_usage_log(path, delimiter=desk.plan.delimiter) as log:
        check = fitted_check(log, desk.schema, desk.plan.mapping)
        own_ids = own_ids_of(log, desk.plan)
        facts = InputFacts.of(path)
        books, rows = read_through(log, check, own_ids, desk.plan)
        desk.watcher.say(Note(f"{log.row_count:,} rows read", "file_read", path=path, counts={"rows": log.row_count}))
        identity = admitted_run(log, facts, rows, desk.plan, say=desk.watcher.say)
        with (
            Ledger(desk.plan.ledger_folder, identity) as ledger,
            reserved(names_for(log, desk.plan), log, ledger, rows=log.row_count) as reservation,
            own_events_of(ledger, own_ids) as own_events,
        ):
            ledger.begin(
                path=str(path),
                facts=[facts.name, facts.modified_nanoseconds],
                rows=log.row_count,
                event_id=desk.plan.event_id,
            )
            seen = SeenRows(desk.plan.ledger_folder, identity, event_id=desk.plan.event_id)
            seen.keep(rows.to_bytes())  # until the run's end tells which of them were posted
            marker = _lay_marker(log, reservation, ledger)
            progress = Progress(rows=log.row_count)
            _say_what_is_known(path, ledger, progress, desk.watcher)
            naming = Naming(check, own_ids, own_events, EventIds(identity))
            desk.posting(path, ledger, progress).post_all(due_rows(log, naming, ledger, progress))
            stop = desk.why_stopped()
            history = ledger.history()
            # The sketch of the first pass stands when every row was posted.
            posted = None if history.accepted + history.in_doubt == log.row_count else sketches_of(log, desk.plan)
            answered = _answered(log, naming, ledger, books, posted)
            write_out(log, reservation, ledger, answered, event_id_of=naming.event_id_of)
            desk.watcher.say(results_note(path, reservation, run_id=identity.run_id))
            if posted is not None:
                seen.keep(posted.to_bytes())
            edited = ledger.end(is_finished=not stop, totals=books.totals())
            if edited:
                desk.watcher.say(_note_of_edits(path, edited, run_id=identity.run_id))
            marker.remove()
        imbalance = books.imbalance(accepted=history.accepted, may_leave_unsent=bool(stop))
    return report_of_run(
        log,
        ledger,
        reservation,
        books,
        progress,
        begun_at=begun_at,
        started_seconds=started_seconds,
        mapping=desk.plan.mapping,
        stop=stop,
        imbalance=imbalance,
    )


def sketches_of(log: UsageLog, plan: Plan) -> RowSketches:
    """Begin to sketch the rows of a usage log."""
    return RowSketches(log.columns, mapping=plan.mapping, path=log.path)


def fitted_check(log: UsageLog, schema: RowSchema, mapping: ColumnMap = AS_IT_STANDS) -> RowCheck:
    """Fit the schema to a usage log.

    Raises:
        InputError: a column is missing, or the file is one that this program wrote.
    """
    own = [column for column in log.columns if column.startswith("upload_")]
    if own:
        raise InputError(
            f"{log.path}: its column {own[0]!r} is one that results and failed files have",
            remedy=f"to send its failed rows again: uploader replay {log.path}",
        )
    return schema.for_columns(log.columns, path=log.path, mapping=mapping)


def own_ids_of(log: UsageLog, plan: Plan) -> OwnIds | None:
    """Find the column of the log's own ids; None when events are not named by them.

    Raises:
        InputError: the log has no such column.
    """
    if plan.event_id is None:
        return None
    return OwnIds(plan.event_id, log.columns, base_url=plan.settings.base_url, path=log.path)


@dataclass(frozen=True, slots=True)
class Naming:
    """A row's usage event and its event id: of its row number, or of the log's own id for it."""

    check: RowCheck
    own_ids: OwnIds | None
    own_events: OwnEvents | None
    by_row_number: EventIds
    _last_own_ids: dict[int, str] = field(default_factory=dict)

    def event(self, row: Row) -> UsageEvent | Outcome:
        """Give a row's usage event, or why it cannot be posted."""
        event = self.check.event(row)
        return event if self.own_ids is None else self.own_ids.checked(row, event)

    def stated(self, row: Row) -> dict[str, Any]:
        """Give the row's cells as they are read, by column, to be compared with an edited copy."""
        own_id = {} if self.own_ids is None else self.own_ids.stated(row)
        return {**own_id, **self.check.stated(row)}

    def event_id_of(self, row: Row, _state: RowState | None = None) -> str:
        """Give a row's event id; of a row that ``note_accepted`` saw last, the one that it was posted under."""
        if self.own_ids is None:
            return self.by_row_number.of(row.number)
        return self.own_ids.event_id_of(self._last_own_ids.get(row.number) or self.own_ids.own_id(row))

    def claimed(self, decisions: Iterator[Due | RowState]) -> Iterable[Due | RowState]:
        """Claim the events of rows that are due, where events have ids of their own.

        Else each row is decided when it is asked for: decided all at once, they would have the answers wait.
        """
        return decisions if self.own_events is None else self.own_events.claimed(list(decisions))

    def note_accepted(self, rows: Sequence[Row], states: Sequence[RowState], ledger: Ledger) -> None:
        """Note of those rows that were accepted that their events were: under the ids that they had last."""
        if self.own_events is None or self.own_ids is None:
            return
        told = [(row, state.outcome.reason) for row, state in zip(rows, states, strict=True)]
        self._last_own_ids.clear()
        self._last_own_ids.update(
            ledger.own_ids([row.number for row, reason in told if reason in (None, Reason.IN_DOUBT)])
        )
        ids = ((row.number, self.event_id_of(row)) for row, reason in told if reason is None)
        self.own_events.note_accepted((number, event_id) for number, event_id in ids if event_id)


def read_through(log: UsageLog, check: RowCheck, own_ids: OwnIds | None, plan: Plan) -> tuple[Books, RowSketches]:
    """Make the first pass: read every row, post nothing; afterwards the log's hash and row count are known.

    Gives the books, and a sketch of the rows.

    Raises:
        InputError: the file is broken, or more of its rows are bad than the failure budget allows.
    """
    books = Books()
    sketch = sketches_of(log, plan)
    bad = 0
    for batch in log.batches():
        books.take_in_all(rows=len(batch.rows), stated=check.units_stated(batch.rows))
        sketch.add_all([row.cells for row in batch.rows if not row.fault])
        if plan.max_failed is not None:
            for row in batch.rows:
                event = check.event(row)
                bad += isinstance(event if own_ids is None else own_ids.checked(row, event), Outcome)
    demand_within_budget(log, bad, plan.max_failed)
    return books, sketch


def demand_within_budget(log: UsageLog, bad: int, budget: FailureBudget | None) -> None:
    """Refuse a log that was read through, and so many of whose rows are bad.

    Raises:
        InputError: they are more than the failure budget allows.
    """
    if budget is not None and bad > budget.most_failed(rows=log.row_count):
        raise InputError(
            f"{log.path}: {bad:,} of {log.row_count:,} rows are invalid or malformed, more than --max-failed allows",
            remedy=f"nothing was posted; see which: uploader validate {log.path}",
        )


def admitted_run(
    log: UsageLog, facts: InputFacts, rows: RowSketches, plan: Plan, *, say: Callable[[Note], None]
) -> RunIdentity:
    """Choose the run that this upload begins or continues, past every guard; say what is odd and no reason to refuse.

    Raises:
        LedgerRefusal: a guard forbids it; nothing was posted.
    """
    first = RunIdentity(
        base_url=plan.settings.base_url,
        period=plan.period,
        content_sha256=log.content_sha256,
        mapping=plan.mapping,
    )
    identity = choose_run(plan.ledger_folder, first, facts, asks_for_all_again=plan.again, event_id=plan.event_id)
    if plan.event_id is not None:
        demand_known_claims(plan.ledger_folder)
    knows = functools.partial(is_known, plan.ledger_folder)
    results = (names.results for names in names_for(log, plan))
    demand_known_results(results, delimiter=log.delimiter, knows=knows, ledger_folder=plan.ledger_folder)
    folder = next(names_for(log, plan)).results.parent
    demand_known_marks(folder, input_name=log.path.name, knows=knows, ledger_folder=plan.ledger_folder)
    if not knows(identity.run_id) and not plan.again and not plan.allow_overlap:
        seen = SeenRows(plan.ledger_folder, identity, event_id=plan.event_id)
        for words in {demand_little_overlap(seen, sketch, path=log.path) for sketch in rows.each()} - {""}:
            say(Note(words, "overlap", level=Level.WARNING, path=log.path, run_id=identity.run_id))
    return identity


def _lay_marker(log: UsageLog, reservation: Reservation, ledger: Ledger) -> Marker:
    return Marker(
        reservation.names.results.parent,
        input_name=log.path.name,
        run_id=ledger.identity.run_id,
        ledger_folder=ledger.path.parent,
        content_sha256=log.content_sha256,
    )


def names_for(log: UsageLog, plan: Plan) -> Iterator[Names]:
    """Give the names that the results may take, the best first."""
    return choose_names(log, results=plan.results, results_dir=plan.results_dir)


def _say_what_is_known(path: Path, ledger: Ledger, progress: Progress, watcher: Watcher) -> None:
    history = ledger.history()
    if history.last_row == 0:
        return
    day = datetime.fromtimestamp(history.at_milliseconds / 1000, timezone.utc).date()
    left = progress.rows - history.accepted - history.in_doubt
    doubtful = f" and {history.in_doubt:,} left in doubt" if history.in_doubt else ""
    text = f"{history.accepted:,} of {progress.rows:,} rows were accepted{doubtful} by {day}; posting {left:,}"
    counts = {"rows": progress.rows, "accepted": history.accepted, "in_doubt": history.in_doubt, "left": left}
    watcher.say(Note(text, "run_continued", path=path, run_id=ledger.identity.run_id, counts=counts))


def _note_of_edits(path: Path, rows: int, *, run_id: str) -> Note:
    text = (
        f"{rows:,} rows were accepted as a replay had edited them; results and summary state them as the log does, "
        f"uploader runs show {run_id} has the units that were posted"
    )
    return Note(text, "edited_before", level=Level.WARNING, path=path, run_id=run_id, counts={"rows": rows})


def due_rows(log: UsageLog, naming: Naming, ledger: Knowledge, progress: Progress) -> Iterator[Due | RowState]:
    """Make the second pass: every row that is neither accepted nor in doubt, or its state if it cannot be posted."""
    last_known_row = ledger.history().last_row
    for batch in log.batches():
        numbers = [row.number for row in batch.rows]
        known = ledger.known(numbers) if numbers[0] <= last_known_row else {}
        yield from naming.claimed(_decided(batch.rows, known, naming, progress))


def _decided(
    rows: Sequence[Row], known: Mapping[int, RowState], naming: Naming, progress: Progress
) -> Iterator[Due | RowState]:
    for row in rows:
        before = known.get(row.number) if known else None
        if before is not None and before.outcome.reason in (None, Reason.IN_DOUBT):
            progress.settle(before)
            continue
        event = naming.event(row)
        attempts = before.attempts if before else 0
        if isinstance(event, UsageEvent):
            yield Due(row.number, event, naming.event_id_of(row), attempts=attempts)
        else:
            yield RowState(row.number, event, attempts, time.time_ns() // 1_000_000)


def _answered(
    log: UsageLog, naming: Naming, ledger: Ledger, books: Books, posted: RowSketches | None
) -> Iterator[tuple[Batch, list[RowState]]]:
    for batch in log.batches():
        known = ledger.known([row.number for row in batch.rows])
        states = [known.get(row.number) or RowState(row.number, NOT_SENT) for row in batch.rows]
        if all(state.outcome.reason is None for state in states):  # as most are, and at once it takes half the time
            books.give_out_accepted(rows=len(states), stated=naming.check.units_stated(batch.rows))
        else:
            for row, state in zip(batch.rows, states, strict=True):
                books.give_out(naming.check.units(row), state)
            _keep_originals(batch.rows, states, naming, ledger)
        if posted is not None:
            posted.add_all(_cells_posted(batch.rows, states))
        naming.note_accepted(batch.rows, states, ledger)
        yield batch, _told_of_edits(batch.rows, states, naming, ledger)


def _told_of_edits(rows: Sequence[Row], states: list[RowState], naming: Naming, ledger: Ledger) -> list[RowState]:
    """Have rows in doubt say what a replay posted last, where the log's own cells are others."""
    doubtful = {row.number: at for at, row in enumerate(rows) if states[at].outcome.reason is Reason.IN_DOUBT}
    posted_by_row = ledger.edits.posted([*doubtful]) if doubtful else {}
    for number, posted in posted_by_row.items():
        row, state = rows[doubtful[number]], states[doubtful[number]]
        stated = {} if row.fault else naming.stated(row)
        if edits := [column for column, value in posted.items() if stated.get(column) != value]:
            detail = f"{state.outcome.detail}; posted last by a replay, with {values_in_words(posted, edits)}"
            states[doubtful[number]] = replace(state, outcome=replace(state.outcome, detail=detail))
    return states


def _keep_originals(rows: Sequence[Row], states: Sequence[RowState], naming: Naming, ledger: Ledger) -> None:
    failed = {
        row.number: naming.stated(row)
        for row, state in zip(rows, states, strict=True)
        if state.outcome.reason is not None and not row.fault
    }
    if failed:
        ledger.edits.keep_originals(failed)


def _cells_posted(rows: Sequence[Row], states: Sequence[RowState]) -> list[Sequence[Cell]]:
    return [
        row.cells
        for row, state in zip(rows, states, strict=True)
        if state.outcome.reason in (None, Reason.IN_DOUBT) and not row.fault
    ]
