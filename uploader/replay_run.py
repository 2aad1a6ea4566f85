"""A replay: the rows of a results or failed file, perhaps edited in a spreadsheet, that are worth another attempt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from uploader.admission import turn_to_begin
from uploader.adoption import adopt
from uploader.books import Books
from uploader.calls import Due
from uploader.desk import Desk, Watcher, open_desk
from uploader.errors import InputError, LedgerRefusal, UploaderError
from uploader.file_report import FileReport, report_of_run
from uploader.identity import RunIdentity
from uploader.judge import Judge, Kept, Permissions
from uploader.ledger import Ledger
from uploader.mapping import ColumnMap
from uploader.model import Batch, RowState, Status, UsageEvent
from uploader.notes import Level, Note
from uploader.overlap_guard import demand_cells_in_their_rows, demand_little_overlap_since
from uploader.own_events import OwnEvents, OwnIds, event_in, own_events_of
from uploader.plan import Plan
from uploader.progress import Progress
from uploader.replay_log import ReplayLog, edited_columns, open_own_file
from uploader.replay_sketch import ReplaySketch, keep_log_if_posted
from uploader.reservation import choose_replay_names
from uploader.run_file import RunFacts, known_run, remembered
from uploader.schema import RowCheck
from uploader.seen import SeenRows
from uploader.writing import reserved, results_note, write_out


def replay(path: Path, *, plan: Plan, watcher: Watcher, permissions: Permissions) -> FileReport:
    """Post the rows of a results or failed file that were not recorded, or that a person allows to be sent again.

    Raises:
        RefusedError: the command as a whole cannot begin. Nothing was posted.
    """
    with open_desk(plan, watcher) as desk:
        try:
            report = _replay_file(path, desk, permissions)
        except UploaderError as error:
            report = desk.report_of_error(path, error)
        watcher.say(report.as_note())
        return report


def _replay_file(path: Path, desk: Desk, permissions: Permissions) -> FileReport:
    started_seconds, begun_at = time.monotonic(), datetime.now(timezone.utc)
    desk.watcher.say(Note("being read", "file_begun", path=path))
    with open_own_file(path, delimiter=desk.plan.delimiter) as source:
        log = ReplayLog(source)
        mapping = _mapping_of(log, desk.plan)
        check = _fitted_check(log, desk, mapping, takes_its_word=permissions.without_ledger)
        books, run_id = _read_through(log, check)
        counts = {"rows": source.row_count}
        desk.watcher.say(Note(f"{source.row_count:,} rows read", "file_read", path=path, run_id=run_id, counts=counts))
        if permissions.without_ledger:
            adopt(log, check, run_id=run_id, plan=desk.plan, say=desk.watcher.say)
        identity = known_run(desk.plan.ledger_folder, run_id)
        _demand_same_destination(path, identity, desk.plan)
        names = choose_replay_names(log, results_dir=desk.plan.results_dir)
        with (
            Ledger(desk.plan.ledger_folder, identity) as ledger,
            reserved(names, log, ledger, rows=source.row_count) as reservation,
        ):
            progress = Progress(rows=source.row_count)
            own_ids = _own_ids(log, ledger)
            judge = Judge(check, ledger, permissions, own_ids)
            seen = SeenRows(desk.plan.ledger_folder, identity, event_id=ledger.facts().get("event_id"))
            replayed_before = seen.own_replays()
            with own_events_of(ledger, own_ids) as own_events:
                with turn_to_begin(
                    path, desk.plan.ledger_folder, say=desk.watcher.say, should_stop=desk.watcher.should_stop
                ):
                    to_send, edited = _rows_to_send(log, check, own_ids, ledger)
                    if not desk.plan.allow_overlap:
                        demand_cells_in_their_rows(seen, edited.each(), path=path)
                    _say_what_others_sent(log, to_send, seen, ledger, desk)
                    to_send.keep(seen, before=replayed_before)
                desk.posting(path, ledger, progress).post_all(_due_rows(log, judge, own_events, progress))
            stop = desk.why_stopped(progress)
            posted = ReplaySketch(log, ledger)
            write_out(
                log, reservation, ledger, _answered(log, check, judge, books, posted), event_id_of=judge.event_id_of
            )
            desk.watcher.say(results_note(path, reservation, run_id=run_id))
            if judge.late_edits:
                desk.watcher.say(_note_of_late_edits(path, judge.late_edits, run_id=run_id))
            ledger.sum_up()
            _say_what_is_elsewhere(path, ledger, judge, desk.watcher)
            posted.keep(seen, before=replayed_before)
            keep_log_if_posted(seen, ledger)
        imbalance = books.imbalance(accepted=None, may_leave_unsent=True)
    return report_of_run(
        source,
        ledger,
        reservation,
        books,
        progress,
        begun_at=begun_at,
        started_seconds=started_seconds,
        mapping=mapping,
        stop=stop,
        imbalance=imbalance,
    )


def _note_of_late_edits(path: Path, rows: int, *, run_id: str) -> Note:
    text = (
        f"{rows:,} rows were accepted before with other values than this file has, and these were not posted; see "
        "their upload_detail, and have the bill corrected"
    )
    return Note(text, "edited_too_late", level=Level.WARNING, path=path, run_id=run_id, counts={"rows": rows})


def _say_what_is_elsewhere(path: Path, ledger: Ledger, judge: Judge, watcher: Watcher) -> None:
    totals = ledger.facts().get("totals", {})
    rows = sum(rows for reason, (rows, _) in totals.items() if reason != Status.ACCEPTED.value) - judge.failed_rows
    if rows > 0:
        run_id = ledger.identity.run_id
        text = f"{rows:,} further rows of run {run_id} are failed, which this file does not have; replay theirs too"
        watcher.say(
            Note(text, "failed_elsewhere", level=Level.WARNING, path=path, run_id=run_id, counts={"rows": rows})
        )


def _mapping_of(log: ReplayLog, plan: Plan) -> ColumnMap:
    """Find how the upload saw the columns; of a run that the ledger does not know, how this command does.

    Raises:
        LedgerRefusal: this command says otherwise than the upload.
    """
    run_id = next((entry.run_id for entries in log.entries() for entry in entries if entry.run_id), "")
    facts = remembered(plan.ledger_folder, run_id) or RunFacts()
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


def _fitted_check(log: ReplayLog, desk: Desk, mapping: ColumnMap, *, takes_its_word: bool) -> RowCheck:
    """Fit the schema to the file.

    Raises:
        InputError: a column is missing.
    """
    try:
        return desk.schema.for_columns(log.columns, path=log.path, mapping=mapping)
    except InputError as error:
        if not takes_its_word:  # then the mapping comes from the ledger, and an option cannot be the remedy
            error.remedy = "put the columns back, each under the name that it had"
        raise


def _read_through(log: ReplayLog, check: RowCheck) -> tuple[Books, str]:
    """Make the first pass: enter every row in the books, and find the one run that the rows belong to.

    Raises:
        InputError: the file names no run, or several.
    """
    books = Books()
    run_ids: dict[str, None] = {}
    for entries in log.entries():
        for entry in entries:
            run_ids[entry.run_id] = None
            books.take_in(check.units(entry.row))
    found = [run_id for run_id in run_ids if run_id]
    if not run_ids:
        raise InputError(f"{log.path}: it has no row", remedy="nothing is left of it to send")
    if len(found) != 1:
        raise InputError(
            f"{log.path}: its column upload_run names {len(found)} runs{': ' if found else ''}{', '.join(found[:3])}",
            remedy="replay one results or failed file at a time, with the column upload_run as it was",
        )
    return books, found[0]


def _demand_same_destination(path: Path, identity: RunIdentity, plan: Plan) -> None:
    if identity.base_url != plan.settings.base_url:
        raise LedgerRefusal(
            f"{path} comes from an upload to {identity.base_url}, and this is a replay to {plan.settings.base_url}",
            remedy=f"give --base-url {identity.base_url}",
        )


def _say_what_others_sent(log: ReplayLog, to_send: ReplaySketch, seen: SeenRows, ledger: Ledger, desk: Desk) -> None:
    """Compare the rows to be sent with what went up in other files since their upload began.

    Raises:
        LedgerRefusal: most of them did; nothing was posted.
    """
    facts = ledger.facts()
    if "compared_first" not in facts or desk.plan.allow_overlap:
        return
    notes = demand_little_overlap_since(
        seen,
        facts["compared_first"],
        to_send.each,
        path=log.path,
        which="the rows that it has to send",
        way_on="take those rows out of the file",
    )
    for note in notes:
        desk.watcher.say(replace(note, run_id=ledger.identity.run_id))


def _rows_to_send(
    log: ReplayLog, check: RowCheck, own_ids: OwnIds | None, ledger: Ledger
) -> tuple[ReplaySketch, ReplaySketch]:
    """Sketch the rows that may be posted, and those of them that are known to be edited."""
    to_send, edited = ReplaySketch(log, ledger), ReplaySketch(log, ledger)
    for entries in log.entries():
        numbers = [entry.number for entry in entries]
        known, originals = ledger.known(numbers), ledger.edits.originals(numbers)
        due = [
            entry
            for entry in entries
            if not (entry.number in known and known[entry.number].outcome.may_be_recorded)
            and isinstance(event_in(entry.row, check, own_ids), UsageEvent)
        ]
        to_send.add(entry.row for entry in due)
        edited.add(
            entry.row
            for entry in due
            if entry.number in originals and edited_columns(originals[entry.number], check.stated(entry.row))
        )
    return to_send, edited


def _own_ids(log: ReplayLog, ledger: Ledger) -> OwnIds | None:
    """Find the column of the log's own event ids, if the run was uploaded by them."""
    column = ledger.facts().get("event_id")
    if column is None:
        return None
    return OwnIds(column, log.columns, base_url=ledger.identity.base_url, path=log.path)


def _due_rows(
    log: ReplayLog, judge: Judge, own_events: OwnEvents | None, progress: Progress
) -> Iterator[Due | RowState]:
    for entries in log.entries():
        to_record: list[Due | RowState] = []
        for decision in judge.decide(entries):
            if isinstance(decision, Kept):
                progress.settle(decision.state)
            else:
                to_record.append(decision)
        yield from to_record if own_events is None else own_events.claimed(to_record)


def _answered(
    log: ReplayLog, check: RowCheck, judge: Judge, books: Books, posted: ReplaySketch
) -> Iterator[tuple[Batch, list[RowState]]]:
    for entries in log.entries():
        states = judge.states(entries)
        for entry, state in zip(entries, states, strict=True):
            books.give_out(check.units(entry.row), state)
        posted.add(
            entry.row
            for entry, state in zip(entries, states, strict=True)
            if state.outcome.may_be_recorded and not entry.row.fault
        )
        yield Batch([entry.row for entry in entries]), states
