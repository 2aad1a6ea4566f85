"""How an upload begins: the first pass over its log, every guard, and the run in the ledger; nothing is posted yet."""

from __future__ import annotations

import contextlib
import functools
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from uploader.ledger.database import unusable
from uploader.ledger.glance import Glance
from uploader.ledger.ledger import Knowledge, Ledger
from uploader.ledger.ledger_folder import nearest_folder
from uploader.ledger.lock import turn
from uploader.ledger.marker import demand_known_marks
from uploader.ledger.overlap import RowSketches, merged
from uploader.ledger.run_facts import RunFacts
from uploader.ledger.run_file import is_known, remembered
from uploader.ledger.seen import SeenRows
from uploader.model.identity import RunIdentity
from uploader.model.model import Outcome, UsageEvent
from uploader.model.notes import Level, Note
from uploader.model.plan import Plan
from uploader.posting.desk import Watcher
from uploader.readers.event_reader import EventReader
from uploader.readers.log_check import demand_within_budget
from uploader.readers.readers import UsageLog
from uploader.results.books import Books
from uploader.results.reservation import Names, Reservation, choose_names, files_beside, results_folder
from uploader.results.writing import reserved
from uploader.uploads.guards import (
    InputFile,
    choose_run,
    demand_another,
    demand_known_results,
    demand_room,
    demand_schema,
    note_of_copy,
)
from uploader.uploads.overlap_guard import (
    demand_little_overlap,
    demand_little_overlap_since,
    demand_not_grown,
    demand_other_events,
    demand_other_events_since,
    distinct,
)
from uploader.uploads.own_events import OwnEvents, demand_known_claims, own_events_of


def sketches_of(log: UsageLog, plan: Plan) -> RowSketches:
    """Begin to sketch the rows of a usage log."""
    return RowSketches(log.columns, mapping=plan.mapping, path=log.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstPass:
    """What the first pass over a log finds.

    file: as it was when the pass began.
    bad:  the numbers of the rows that are invalid or malformed; of a run with a failure budget alone.
    """

    file: InputFile
    books: Books
    sketches: RowSketches
    bad: array[int]


def read_through(log: UsageLog, reader: EventReader, plan: Plan, *, say: Callable[[Note], None]) -> FirstPass:
    """Make the first pass: read every row, post nothing; afterwards the log's hash and row count are known.

    Raises:
        InputError: the file is broken.
    """
    file = InputFile.of(log.path)
    books = Books()
    sketches = sketches_of(log, plan)
    bad = array("Q")
    for batch in log.batches():
        books.take_in_all(rows=len(batch.rows), stated=reader.check.units_stated(batch.rows))
        sketches.add_all([row.cells for row in batch.rows if not row.fault])
        if plan.max_failed is not None:
            bad.extend(row.number for row in batch.rows if isinstance(reader.event(row), Outcome))
    say(Note(f"{log.row_count:,} rows read", "file_read", path=log.path, counts={"rows": log.row_count}))
    if log.row_count == 0:
        say(Note("it has no row: is its export whole?", "no_rows", level=Level.WARNING, path=log.path))
    return FirstPass(file=file, books=books, sketches=sketches, bad=bad)


def _demand_few_bad(log: UsageLog, bad: array[int], plan: Plan, identity: RunIdentity) -> None:
    """Refuse a log too many of whose rows are bad; those that a replay corrected and posted are none.

    Raises:
        InputError: they are more than the failure budget allows.
    """
    if plan.max_failed is not None and len(bad) > plan.max_failed.most_failed(rows=log.row_count):
        corrected = Glance.at(plan.ledger_folder, identity).known(bad)
        demand_within_budget(log, len(bad) - len(corrected), plan.max_failed)


def chosen_run(
    log: UsageLog,
    first_pass: FirstPass,
    plan: Plan,
    *,
    path_by_run_id: Mapping[str, Path],
    say: Callable[[Note], None],
) -> tuple[RunIdentity, SeenRows]:
    """Choose the run that this upload begins or continues, past every guard; say what is odd and no reason to refuse.

    Gives with it what other runs posted.

    path_by_run_id: the files of this command before this one.

    Raises:
        LedgerRefusal: a guard forbids it; nothing was posted.
        InputError: more of its rows are bad than the failure budget allows.
    """
    first = RunIdentity(
        base_url=plan.settings.base_url,
        period=plan.period,
        content_sha256=log.content_sha256,
        mapping=plan.mapping,
    )
    identity = choose_run(
        plan.ledger_folder, first, first_pass.file, asks_for_all_again=plan.again, event_id=plan.event_id
    )
    demand_schema(log.path, _latest_known(plan.ledger_folder, identity), schema_path=plan.schema_path)
    demand_another(log.path, identity, rows=log.row_count, path_by_run_id=path_by_run_id)
    _demand_few_bad(log, first_pass.bad, plan, identity)
    _demand_ledger_not_lost(log, first, plan)
    seen = SeenRows(plan.ledger_folder, identity, event_id=plan.event_id)
    if not is_known(plan.ledger_folder, identity.run_id) and not plan.again and not plan.allow_overlap:
        for note in _compared_with_others(log.path, first_pass.sketches, seen):
            say(replace(note, run_id=identity.run_id))
    return identity, seen


def _demand_ledger_not_lost(log: UsageLog, first: RunIdentity, plan: Plan) -> None:
    """Refuse where claims, results or marks name a run that this ledger lacks.

    first: the first run of the log's content.

    Raises:
        LedgerRefusal: they do; nothing was posted.
    """
    if plan.event_id is not None:  # asked again when they are opened; here, so that a refusal leaves no file behind
        demand_known_claims(plan.ledger_folder)
    knows = functools.partial(is_known, plan.ledger_folder)
    best = next(names_for(log, plan)).results
    with results_folder(best.parent):
        demand_known_results(
            (names.results for names in names_for(log, plan)),
            files_beside(best),
            first,
            delimiter=log.delimiter,
            knows=knows,
            ledger_folder=plan.ledger_folder,
        )
        demand_known_marks(best.parent, input_name=log.path.name, knows=knows, ledger_folder=plan.ledger_folder)


def _compared_with_others(path: Path, sketches: RowSketches, seen: SeenRows) -> list[Note]:
    """Compare the rows of a run that begins with those of others; give what is odd and no reason to refuse.

    Raises:
        LedgerRefusal: they are mostly the same rows, or events.
    """
    for sketch in sketches.each():
        demand_not_grown(seen, sketch, path=path)
    demand_other_events(seen, sketches.events, path=path, columns=sketches.columns)
    return distinct(demand_little_overlap(seen, sketch, path=path) for sketch in sketches.each())


def _latest_known(folder: Path, identity: RunIdentity) -> RunFacts:
    """Give what is remembered of a run or, of one that ``--again`` is to begin, of the one before it."""
    if (facts := remembered(folder, identity.run_id)) or not identity.again:
        return facts
    return remembered(folder, replace(identity, again=identity.again - 1).run_id)


def _rows_to_go(log: UsageLog, reader: EventReader, known: Knowledge, plan: Plan) -> RowSketches:
    """Sketch the rows that a run which goes on would post."""
    sketch = sketches_of(log, plan)
    for batch in log.batches():
        before = known.known([row.number for row in batch.rows])
        sketch.add_all(
            [
                row.cells
                for row in batch.rows
                if not (row.number in before and before[row.number].outcome.may_be_recorded)
                and isinstance(reader.event(row), UsageEvent)
            ]
        )
    return sketch


def demand_fit_to_go_on(
    log: UsageLog,
    reader: EventReader,
    file: InputFile,
    plan: Plan,
    seen: SeenRows,
    *,
    known: Knowledge,
    facts: RunFacts,
) -> list[Note]:
    """Compare a run that goes on with what others did since, and see whether the ledger's disk can hold the rest of it.

    known: what the run's ledger knows of its rows, and ``facts`` of itself.

    Gives what is odd and no reason to refuse.

    Raises:
        LedgerRefusal: others posted most of its rows, or there is no room; nothing was posted by this command.
    """
    notes = _others_since(log, reader, plan, seen, known=known, facts=facts)
    copy = note_of_copy(file, facts.get("input_path"), event_id=plan.event_id) if log.row_count else None
    demand_room(nearest_folder(plan.ledger_folder), rows=log.row_count - known.history().may_be_recorded)
    return notes if copy is None else [*notes, copy]


def _others_since(
    log: UsageLog, reader: EventReader, plan: Plan, seen: SeenRows, *, known: Knowledge, facts: RunFacts
) -> list[Note]:
    """Compare the rows that a run which goes on would post with what others posted since; one that begins has been.

    Raises:
        LedgerRefusal: most of them were posted.
    """
    if "compared" not in facts or plan.allow_overlap:
        return []
    if known.history().may_be_recorded == log.row_count:
        return []
    to_go = functools.cache(lambda: _rows_to_go(log, reader, known, plan))
    way_on = (
        "if these are the same events, put those that no run has posted into a file of their own and upload that with "
        "--allow-overlap"
    )
    compared = facts["compared"]
    demand_other_events_since(seen, compared, lambda: to_go().events(), path=log.path, place=log.path, way_on=way_on)
    return demand_little_overlap_since(
        seen,
        compared,
        lambda: to_go().each(),
        path=log.path,
        which="the rows that it has still to post",
        way_on=way_on,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """An upload that has begun, or goes on.

    own_events: the claims of its events; None where these have no ids of their own.
    seen:       keeps the sketch of its rows: of all of them, until the run's end tells which were posted.
    """

    ledger: Ledger
    own_events: OwnEvents | None
    reservation: Reservation
    seen: SeenRows


@contextlib.contextmanager
def admitted(
    log: UsageLog,
    reader: EventReader,
    plan: Plan,
    *,
    first_pass: FirstPass,
    path_by_run_id: Mapping[str, Path],
    watcher: Watcher,
) -> Iterator[Admitted]:
    """Begin or continue the run of a log that was read through; hold its ledger and its results' names meanwhile.

    Uploads begin one at a time: what the guards of one look for is known as soon as the one before it has begun.

    Raises:
        LedgerRefusal: a guard forbids it, or the ledger cannot be used; nothing was posted.
        InputError: more of its rows are bad than the failure budget allows.
        StoppedError: the command was interrupted while others began.
    """
    file, sketches = first_pass.file, first_pass.sketches
    with contextlib.ExitStack() as held:
        with turn_to_begin(log.path, plan.ledger_folder, watcher):
            identity, seen = chosen_run(log, first_pass, plan, path_by_run_id=path_by_run_id, say=watcher.say)
            ledger = held.enter_context(Ledger(plan.ledger_folder, identity))
            for note in demand_fit_to_go_on(log, reader, file, plan, seen, known=ledger, facts=ledger.facts()):
                watcher.say(replace(note, run_id=identity.run_id))
            own_events = held.enter_context(own_events_of(ledger, reader))
            reservation = held.enter_context(reserved(names_for(log, plan), log, ledger, rows=log.row_count))
            ledger.begin(
                path=log.path,
                columns=log.columns,
                input_name=file.name,
                input_modified_nanoseconds=file.modified_nanoseconds,
                rows=log.row_count,
                event_id=plan.event_id,
                schema_path=plan.schema_path,
                compared=seen.checksums(),
            )
            seen.keep(sketches.to_bytes())
            # Merged with what this run kept before: its replays may have posted corrected events.
            seen.events.keep(merged([*seen.events.own(), sketches.events()]), path=log.path, columns=sketches.columns)
            if ledger.history().may_be_recorded < log.row_count:
                seen.keep_log(sketches.each(), path=log.path)
        yield Admitted(ledger=ledger, own_events=own_events, reservation=reservation, seen=seen)


@contextlib.contextmanager
def turn_to_begin(path: Path, ledger_folder: Path, watcher: Watcher) -> Iterator[None]:
    """Hold the turn of those commands of a ledger that are about to post.

    path: the file that waits, to be said.

    Raises:
        LedgerRefusal: the turn cannot be had.
        StoppedError: the command was interrupted while others began.
    """
    waiting = Note("waits while another upload begins", "waiting_to_begin", path=path)
    lock = ledger_folder / "beginning.lock"
    with contextlib.ExitStack() as held:
        try:
            ledger_folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            held.enter_context(turn(lock, waits=lambda: watcher.say(waiting), should_stop=watcher.should_stop))
        except OSError as error:
            raise unusable(ledger_folder, error) from error
        yield


def names_for(log: UsageLog, plan: Plan) -> Iterator[Names]:
    """Give the names that the results may take, the best first."""
    return choose_names(log, results=plan.results, results_dir=plan.results_dir)
