"""An upload: the run, one line a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from uploader.ledger.ledger import History, Ledger
from uploader.ledger.marker import Marker
from uploader.ledger.sketch_files import place_of
from uploader.model.errors import LedgerFault, SettingsError, UploaderError
from uploader.model.identity import EventIds
from uploader.model.notes import Level, Note
from uploader.model.plan import Plan
from uploader.posting.desk import Desk, Watcher, not_begun, open_desk
from uploader.posting.file_report import FileReport, Start, report_of_run
from uploader.posting.progress import Progress
from uploader.readers.readers import UsageLog, open_usage_log
from uploader.results.books import Books
from uploader.results.reservation import Reservation
from uploader.results.writing import results_note, write_out
from uploader.uploads.admission import Admitted, admitted, read_through, sketches_of
from uploader.uploads.due_rows import due_rows
from uploader.uploads.naming import Naming
from uploader.uploads.overlap_guard import take_place_if_posted
from uploader.uploads.settled_rows import SettledRows


def upload(paths: Sequence[Path], *, plan: Plan, watcher: Watcher) -> list[FileReport]:
    """Upload usage logs in the order given; a file that cannot be taken does not stop the others.

    Raises:
        RefusedError: the command as a whole cannot begin. Nothing was posted.
    """
    logs = each_once(paths, plan, say=watcher.say)
    with open_desk(plan, watcher) as desk:
        reports = []
        for path in logs:
            reports.append(_upload_or_say_why_not(path, desk))
            watcher.say(reports[-1].as_note())
        desk.keep_ceiling()
        return reports


def each_once(paths: Sequence[Path], plan: Plan, *, say: Callable[[Note], None]) -> list[Path]:
    """Give the usage logs in their order, each once: globs may overlap.

    Raises:
        SettingsError: there is none, or several and one name for the results. Nothing was posted.
    """
    if not paths:
        raise SettingsError("no usage log is given", remedy="name one or more")
    log_by_place: dict[str, Path] = {}
    for path in paths:
        first = log_by_place.setdefault(_place_or_name(path), path)
        if first is not path:
            say(Note(f"is {first}, which is named before, and is taken once", "named_twice", path=path))
    logs = [*log_by_place.values()]
    if plan.results is not None and len(logs) > 1:
        raise SettingsError(f"--results names one file, and there are {len(logs)} inputs", remedy="use --results-dir")
    return logs


def _place_or_name(path: Path) -> str:
    try:
        return place_of(path)  # a link by another name may be a stale one: it is refused as a copy is
    except (OSError, ValueError):  # which opening it will tell
        return str(path)


def _upload_or_say_why_not(path: Path, desk: Desk) -> FileReport:
    if why := desk.why_stopped():
        return FileReport(path=path, error=not_begun(path, why))
    start = Start()
    try:
        return _upload_file(path, desk, start)
    except LedgerFault as error:
        # Calls of this file may be in flight, and their answers must not be taken for those of another file's rows.
        desk.pacing.stop = desk.pacing.stop or f"the upload of {path} could not be recorded"
        return desk.report_of_error(path, error, start)
    except UploaderError as error:
        return desk.report_of_error(path, error, start)


def _upload_file(path: Path, desk: Desk, start: Start) -> FileReport:
    desk.watcher.say(Note("being read", "file_begun", path=path))
    with open_usage_log(path, delimiter=desk.plan.delimiter) as log:
        reader = desk.fitted_reader(log)
        first_pass = read_through(log, reader, desk.plan, say=desk.watcher.say)
        books = first_pass.books
        with admitted(
            log,
            reader,
            desk.plan,
            first_pass=first_pass,
            path_by_run_id=desk.path_by_run_id,
            watcher=desk.watcher,
        ) as run:
            desk.path_by_run_id[run.ledger.identity.run_id] = path
            marker = _lay_marker(log, run.reservation, run.ledger)
            progress = Progress(rows=log.row_count)
            _say_what_is_known(path, run.ledger, progress, desk.watcher)
            naming = Naming(reader, EventIds(run.ledger.identity))
            due = due_rows(log, naming, run.own_events, run.ledger, progress)
            desk.begin_posting(log, run.ledger, progress).post_all(due)
            stop = desk.why_stopped(progress)
            _say_what_others_had(log, run, desk)
            history = run.ledger.history()
            edited = _end_run(log, run, naming, books, history, desk=desk, stop=stop)
            marker.remove()
        imbalance = books.imbalance(accepted=history.accepted, may_leave_unsent=bool(stop))
    return report_of_run(
        log,
        run.ledger,
        run.reservation,
        books,
        progress,
        start=start,
        mapping=desk.plan.mapping,
        stop=stop,
        imbalance=imbalance,
        rows_posted_otherwise=edited,
    )


def _end_run(
    log: UsageLog, run: Admitted, naming: Naming, books: Books, history: History, *, desk: Desk, stop: str
) -> int:
    """Write the results, and have the ledger know that they are durable; give how many rows were accepted as edited."""
    # The sketch of the first pass stands when every row was posted.
    posted = None if history.may_be_recorded == log.row_count else sketches_of(log, desk.plan)
    settled = SettledRows(naming, run.ledger, books, own_events=run.own_events, posted=posted)
    write_out(log, run.reservation, run.ledger, settled.states(log), event_id_of=settled.event_id_of)
    run_id = run.ledger.identity.run_id
    desk.watcher.say(results_note(log.path, run.reservation, run_id=run_id))
    if posted is None:
        run.seen.forget_log()
    else:
        run.seen.keep(posted.to_bytes())
    take_place_if_posted(
        run.seen,
        path=log.path,
        rows=log.row_count,
        posted=history.may_be_recorded,
        compared=run.ledger.facts()["compared_first"],
    )
    edited = run.ledger.end(is_finished=not stop, totals=books.totals())
    if edited:
        desk.watcher.say(_note_of_edits(log.path, edited, run_id=run_id))
    return edited


def _lay_marker(log: UsageLog, reservation: Reservation, ledger: Ledger) -> Marker:
    return Marker(
        reservation.names.results.parent,
        input_name=log.path.name,
        run_id=ledger.identity.run_id,
        ledger_folder=ledger.path.parent,
        content_sha256=log.content_sha256,
    )


def _say_what_is_known(path: Path, ledger: Ledger, progress: Progress, watcher: Watcher) -> None:
    history = ledger.history()
    if history.last_row == 0:
        return
    day = datetime.fromtimestamp(history.at_milliseconds / 1000, timezone.utc).date()
    left = progress.rows - history.may_be_recorded
    doubtful = f" and {history.in_doubt:,} left in doubt" if history.in_doubt else ""
    text = f"{history.accepted:,} of {progress.rows:,} rows were accepted{doubtful} by {day}; {left:,} are left"
    counts = {"rows": progress.rows, "accepted": history.accepted, "in_doubt": history.in_doubt, "left": left}
    watcher.say(Note(text, "run_continued", path=path, run_id=ledger.identity.run_id, counts=counts))


def _say_what_others_had(log: UsageLog, run: Admitted, desk: Desk) -> None:
    """Say how many rows were not posted since their events were known; all of a log's are rarely meant to be."""
    rows = run.own_events.accepted_elsewhere if run.own_events else 0
    if not rows:
        return
    are_all = rows == log.row_count
    text = f"{rows:,} of {log.row_count:,} rows are events that other rows had accepted before, and were not posted"
    text += f"; if they are new usage, their {desk.plan.event_id} is that of other events" if are_all else ""
    level = Level.WARNING if are_all else Level.INFO
    run_id = run.ledger.identity.run_id
    desk.watcher.say(Note(text, "accepted_elsewhere", level=level, path=log.path, run_id=run_id, counts={"rows": rows}))


def _note_of_edits(path: Path, rows: int, *, run_id: str) -> Note:
    text = (
        f"{rows:,} rows were accepted as a replay had edited them; results and summary state them as the log does, "
        f"uploader runs show {run_id} has the units that were posted"
    )
    return Note(text, "edited_before", level=Level.WARNING, path=path, run_id=run_id, counts={"rows": rows})
