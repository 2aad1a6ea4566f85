"""A replay: the rows of a results or failed file, perhaps edited in a spreadsheet, that are worth another attempt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from uploader.ledger.ledger import Ledger
from uploader.ledger.run_facts import failed_in
from uploader.model.errors import UploaderError
from uploader.model.model import Batch, RowState
from uploader.model.notes import Level, Note
from uploader.model.plan import Plan
from uploader.posting.calls import Due
from uploader.posting.desk import Desk, Watcher, open_desk
from uploader.posting.file_report import FileReport, Start, report_of_run
from uploader.posting.progress import Progress
from uploader.replays.adoption import adopt
from uploader.replays.judge import Judge, Kept, Permissions
from uploader.replays.replay_admission import AdmittedReplay, admitted_replay, fitted_check, mapping_of, read_through
from uploader.replays.replay_log import ReplayLog
from uploader.replays.replay_sketch import ReplaySketch, keep_log_if_posted
from uploader.results.books import Books
from uploader.results.own_files import open_own_file
from uploader.results.writing import results_note, write_out
from uploader.schema.schema import RowCheck
from uploader.uploads.own_events import OwnEvents


def replay(path: Path, *, plan: Plan, watcher: Watcher, permissions: Permissions) -> FileReport:
    """Post the rows of a results or failed file that were not recorded, or that a person allows to be sent again.

    Raises:
        RefusedError: the command as a whole cannot begin. Nothing was posted.
    """
    with open_desk(plan, watcher) as desk:
        start = Start()
        try:
            report = _replay_file(path, desk, permissions, start)
        except UploaderError as error:
            report = desk.report_of_error(path, error, start)
        watcher.say(report.as_note())
        desk.keep_ceiling()
        return report


def _replay_file(path: Path, desk: Desk, permissions: Permissions, start: Start) -> FileReport:
    desk.watcher.say(Note("being read", "file_begun", path=path))
    with open_own_file(path, delimiter=desk.plan.delimiter) as source:
        log = ReplayLog(source)
        mapping = mapping_of(log, desk.plan)
        check = fitted_check(log, desk.schema, mapping, takes_its_word=permissions.without_ledger)
        books, run_id = read_through(log, check)
        counts = {"rows": log.row_count}
        desk.watcher.say(Note(f"{log.row_count:,} rows read", "file_read", path=path, run_id=run_id, counts=counts))
        if permissions.without_ledger:
            adopt(log, check, run_id=run_id, plan=desk.plan, say=desk.watcher.say)
        with admitted_replay(log, check, desk.plan, permissions, run_id=run_id, watcher=desk.watcher) as run:
            progress = Progress(rows=log.row_count)
            due = _due_rows(log, run.judge, run.own_events, progress)
            desk.begin_posting(source, run.ledger, progress).post_all(due)
            stop = desk.why_stopped(progress)
            rows_elsewhere = _end_run(log, check, run, books, desk, ended_early=bool(stop))
        imbalance = books.imbalance(accepted=None, may_leave_unsent=True)
    report = report_of_run(
        source,
        run.ledger,
        run.reservation,
        books,
        progress,
        start=start,
        mapping=mapping,
        stop=stop,
        imbalance=imbalance,
        rows_posted_otherwise=run.judge.late_edits,
    )
    rows_of_no_run = report.failed_rows - run.judge.failed_rows
    return replace(report, rows_of_no_run=rows_of_no_run, rows_elsewhere=rows_elsewhere)


def _end_run(
    log: ReplayLog, check: RowCheck, run: AdmittedReplay, books: Books, desk: Desk, *, ended_early: bool
) -> int:
    """Write the results, and have the ledger and the sketches know what became of the rows.

    Gives how many rows of the run have failed that the file does not have.
    """
    ledger, judge, run_id = run.ledger, run.judge, run.ledger.identity.run_id
    posted = ReplaySketch(log, ledger)
    answered = _answered(log, check, judge, books, posted, ended_early=ended_early)
    write_out(log, run.reservation, ledger, answered, event_id_of=judge.event_id_of)
    desk.watcher.say(results_note(log.path, run.reservation, run_id=run_id))
    if judge.late_edits:
        desk.watcher.say(_note_of_late_edits(log.path, judge.late_edits, run_id=run_id))
    ledger.sum_up()
    rows_elsewhere = _rows_elsewhere(ledger, judge)
    if rows_elsewhere:
        desk.watcher.say(_note_of_rows_elsewhere(log.path, rows_elsewhere, run_id=run_id))
    posted.keep(run.seen, before=run.replayed_before)
    ledger.edits.forget_log_cells_of_accepted()
    keep_log_if_posted(run.seen, ledger)
    return rows_elsewhere


def _note_of_late_edits(path: Path, rows: int, *, run_id: str) -> Note:
    text = (
        f"{rows:,} rows were accepted before with other values than this file has, and these were not posted; see "
        "their upload_detail, and have the bill corrected"
    )
    return Note(text, "edited_too_late", level=Level.WARNING, path=path, run_id=run_id, counts={"rows": rows})


def _rows_elsewhere(ledger: Ledger, judge: Judge) -> int:
    return max(0, failed_in(ledger.facts().get("totals", {})) - judge.failed_rows)


def _note_of_rows_elsewhere(path: Path, rows: int, *, run_id: str) -> Note:
    text = f"{rows:,} further rows of run {run_id} are failed, which this file does not have; replay theirs too"
    return Note(text, "failed_elsewhere", level=Level.WARNING, path=path, run_id=run_id, counts={"rows": rows})


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
    log: ReplayLog, check: RowCheck, judge: Judge, books: Books, posted: ReplaySketch, *, ended_early: bool
) -> Iterator[tuple[Batch, list[RowState]]]:
    for entries in log.entries():
        states = judge.states(entries, ended_early=ended_early)
        for entry, state in zip(entries, states, strict=True):
            books.give_out(check.units(entry.row), state)
        posted.add(
            [
                entry
                for entry, state in zip(entries, states, strict=True)
                if state.outcome.may_be_recorded and not entry.row.fault
            ]
        )
        yield Batch([entry.row for entry in entries]), states
