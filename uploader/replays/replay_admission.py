"""How a replay begins: the first pass over its file, every guard, and its run's ledger; nothing is posted yet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from uploader.ledger.ledger import Ledger
from uploader.ledger.run_file import known_run, remembered
from uploader.ledger.seen import SeenRows
from uploader.model.errors import InputError, LedgerRefusal
from uploader.model.identity import RunIdentity
from uploader.model.mapping import ColumnMap
from uploader.model.model import UsageEvent
from uploader.model.notes import Note
from uploader.model.plan import Plan
from uploader.posting.desk import Watcher
from uploader.readers.event_reader import EventReader
from uploader.replays.judge import Judge, Permissions
from uploader.replays.moved_cells import MovedCells
from uploader.replays.moved_cells_guard import demand_cells_in_their_rows
from uploader.replays.replay_log import NOBODYS, ReplayLog
from uploader.replays.replay_sketch import ReplaySketch
from uploader.replays.spreadsheets import edited_columns
from uploader.results.books import Books
from uploader.results.reservation import Reservation, choose_replay_names
from uploader.results.writing import reserved
from uploader.schema.schema import RowCheck, RowSchema
from uploader.uploads.admission import turn_to_begin
from uploader.uploads.guards import demand_schema
from uploader.uploads.overlap_guard import demand_little_overlap_since, demand_other_events_since
from uploader.uploads.own_events import OwnEvents, own_events_of


def mapping_of(log: ReplayLog, plan: Plan) -> ColumnMap:
    """Find how the upload saw the columns; of a run that the ledger does not know, how this command does.

    Raises:
        LedgerRefusal: this command says otherwise than the upload.
    """
    run_id = next((entry.run_id for entries in log.entries() for entry in entries if entry.run_id), "")
    facts = remembered(plan.ledger_folder, run_id)
    if "identity" not in facts:
        return plan.mapping
    mapping = RunIdentity.from_canonical(facts["identity"]).mapping
    for option, before, now in (
        ("--column", mapping.columns, plan.mapping.columns),
        ("--constant", mapping.constants, plan.mapping.constants),
    ):
        if now and now != before:
            had = f"{option} {' '.join(map('='.join, before))}" if before else f"no {option}"
            raise LedgerRefusal(
                f"{log.path} comes from an upload with {had}, and this replay has others",
                remedy=f"leave {option} out: a replay sees the columns as its upload did",
            )
    return mapping


def fitted_check(log: ReplayLog, schema: RowSchema, mapping: ColumnMap, *, takes_its_word: bool) -> RowCheck:
    """Fit the schema to the file.

    Raises:
        InputError: a column is missing.
    """
    try:
        return schema.for_columns(log.columns, path=log.path, mapping=mapping)
    except InputError as error:
        if not takes_its_word:  # then the mapping comes from the ledger, and an option cannot be the remedy
            error.remedy = "put the columns back, each under the name that it had"
        raise


def read_through(log: ReplayLog, check: RowCheck) -> tuple[Books, str]:
    """Make the first pass: enter every row in the books, and find the one run that the rows belong to.

    Raises:
        InputError: the file names no run, or several.
    """
    books = Books()
    run_ids: dict[str, None] = {}
    first_fault = ""
    for entries in log.entries():
        for entry in entries:
            run_ids[entry.run_id] = None
            if entry.row.fault != NOBODYS:
                first_fault = first_fault or entry.row.fault
            books.take_in(check.units(entry.row))
    found = [run_id for run_id in run_ids if run_id]
    if not run_ids:
        raise InputError(f"{log.path}: it has no row", remedy="nothing is left of it to send")
    if not found and first_fault:
        raise InputError(
            f"{log.path}: none of its rows can be read; the first: {first_fault}",
            remedy='if a spreadsheet saved it, have it save as "CSV UTF-8", or as .xlsx',
        )
    if not found:
        raise InputError(
            f"{log.path}: none of its rows says of which run it is",
            remedy="if they are rows of a run, put upload_row and upload_run back as they were; copies of rows have "
            "nothing to be sent, and new usage goes up in a file of its own",
        )
    if len(found) > 1:
        raise InputError(
            f"{log.path}: its column upload_run names {len(found)} runs: {', '.join(found[:3])}",
            remedy="replay one results or failed file at a time, with the column upload_run as it was",
        )
    return books, found[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmittedReplay:
    """A replay past every guard.

    own_events:      the claims of its run's events; None where these have no ids of their own.
    replayed_before: the sketch of what earlier replays of the run posted; None without any.
    """

    ledger: Ledger
    reservation: Reservation
    judge: Judge
    own_events: OwnEvents | None
    seen: SeenRows
    replayed_before: bytes | None


@contextlib.contextmanager
def admitted_replay(
    log: ReplayLog, check: RowCheck, plan: Plan, permissions: Permissions, *, run_id: str, watcher: Watcher
) -> Iterator[AdmittedReplay]:
    """Begin the replay of a file that was read through; hold its run's ledger and its results' names meanwhile.

    Raises:
        LedgerRefusal: a guard forbids it, or the ledger cannot be used; nothing was posted.
        StoppedError: the command was interrupted while others began.
    """
    identity = known_run(plan.ledger_folder, run_id)
    _demand_same_destination(log.path, identity, plan)
    names = choose_replay_names(log, results_dir=plan.results_dir)
    with contextlib.ExitStack() as held:
        ledger = held.enter_context(Ledger(plan.ledger_folder, identity))
        demand_schema(log.path, ledger.facts(), schema_path=plan.schema_path)
        reservation = held.enter_context(reserved(names, log, ledger, rows=log.row_count))
        event_id = ledger.facts().get("event_id")
        reader = EventReader.of(log, check, event_id=event_id, base_url=identity.base_url)
        judge = Judge(reader, ledger, permissions)
        seen = SeenRows(plan.ledger_folder, identity, event_id=event_id)
        replayed_before = seen.own_replays()
        own_events = held.enter_context(own_events_of(ledger, reader))
        with turn_to_begin(log.path, plan.ledger_folder, watcher):
            to_send, edited, moved = _rows_to_send(log, reader, ledger)
            if not plan.allow_overlap:
                demand_cells_in_their_rows(seen, edited.each(), moved.cells_by_column(), path=log.path)
                for note in _what_others_sent(log, to_send, seen, ledger):
                    watcher.say(note)
            to_send.keep(seen, before=replayed_before)
        if plan.schema_path is not None:
            ledger.remember({"schema": str(plan.schema_path.absolute())})
        yield AdmittedReplay(
            ledger=ledger,
            reservation=reservation,
            judge=judge,
            own_events=own_events,
            seen=seen,
            replayed_before=replayed_before,
        )


def _demand_same_destination(path: Path, identity: RunIdentity, plan: Plan) -> None:
    if identity.base_url != plan.settings.base_url:
        raise LedgerRefusal(
            f"{path} comes from an upload to {identity.base_url}, and this is a replay to {plan.settings.base_url}",
            remedy=f"give --base-url {identity.base_url}",
        )


def _what_others_sent(log: ReplayLog, to_send: ReplaySketch, seen: SeenRows, ledger: Ledger) -> list[Note]:
    """Compare the rows to be sent with what went up in other files since their upload began.

    Raises:
        LedgerRefusal: most of them did; nothing was posted.
    """
    facts = ledger.facts()
    if "compared_first" not in facts:
        return []
    way_on = "if these are the same events, take those rows out of the file"
    if "input_path" in facts:  # which an adopted run does not know
        place = Path(facts["input_path"])
        demand_other_events_since(
            seen, facts["compared_first"], to_send.events, path=log.path, place=place, way_on=way_on
        )
    notes = demand_little_overlap_since(
        seen,
        facts["compared_first"],
        to_send.each,
        path=log.path,
        which="the rows that it has to send",
        way_on=way_on,
    )
    return [replace(note, run_id=ledger.identity.run_id) for note in notes]


def _rows_to_send(log: ReplayLog, reader: EventReader, ledger: Ledger) -> tuple[ReplaySketch, ReplaySketch, MovedCells]:
    """Sketch the rows that may be posted, and those of them that are known to be edited; find cells that were moved."""
    to_send, edited, moved = ReplaySketch(log, ledger), ReplaySketch(log, ledger), MovedCells()
    for entries in log.entries():
        numbers = [entry.number for entry in entries]
        known, originals = ledger.known(numbers), ledger.edits.originals(numbers)
        last = {**originals, **ledger.edits.posted(numbers)}
        due = [
            entry
            for entry in entries
            if not (entry.number in known and known[entry.number].outcome.may_be_recorded)
            and isinstance(reader.event(entry.row), UsageEvent)
        ]
        for entry in entries:
            if entry.number in last and not entry.row.fault:
                is_recorded = entry.number in known and known[entry.number].outcome.may_be_recorded
                moved.add(last[entry.number], reader.check.stated(entry.row), is_recorded=is_recorded)
        to_send.add(due)
        edited.add(
            [
                entry
                for entry in due
                if entry.number in originals and edited_columns(originals[entry.number], reader.check.stated(entry.row))
            ]
        )
    return to_send, edited, moved
