"""A replay: the rows of a results or failed file, perhaps edited in a spreadsheet, that are worth another attempt.

What became of a row belongs to the row of the original upload, in that run's ledger; the file is what a person says
about it. Where they differ the ledger is right: a row that it has as accepted is not posted, whatever the file says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from uploader.adoption import adopt
from uploader.api import shown, wire_problems
from uploader.books import Books
from uploader.desk import (
    MOST_ACCOUNTS,
    Desk,
    FileReport,
    Plan,
    Watcher,
    open_desk,
    reserved,
    results_note,
    write_out,
)
from uploader.errors import InputError, LedgerRefusal, UploaderError
from uploader.identity import RUN_ID, RunIdentity
from uploader.ledger import Ledger, known_run, remembered
from uploader.mapping import ColumnMap
from uploader.model import Batch, Outcome, Reason, Row, RowState, UsageEvent
from uploader.notes import Note
from uploader.overlap import RowSketches, merged
from uploader.own_events import OwnEvents, OwnIds, own_events_of
from uploader.posting import Due, Progress
from uploader.replay_log import Entry, ReplayLog, damaged_columns, edited_columns, open_own_file
from uploader.results import NOT_SENT, choose_replay_names
from uploader.schema import EVENT_COLUMNS, RowCheck
from uploader.seen import SeenRows

_NOTHING = RowState(0, NOT_SENT)
_OTHERS_HAVE_THE_EVENT = frozenset({Reason.DUPLICATE, Reason.CONFLICT})
_WORDS_THAT_SEND = frozenset({"", "yes", "fix", "confirm", "resend"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """What a person allows for the whole file.

    include_in_doubt: post every row in doubt once more, as if each were marked ``resend``.
    accept_changes:   take ids that a spreadsheet seems to have damaged as they are now.
    without_ledger:   take the file's word for a run that this ledger does not know.
    """

    include_in_doubt: bool = False
    accept_changes: bool = False
    without_ledger: bool = False


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
        check = desk.schema.for_columns(log.columns, path=path, mapping=mapping)
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
            judge = _Judge(check, ledger, permissions, own_ids)
            with own_events_of(ledger.path.parent, identity, own_ids) as own_events:
                desk.posting(path, ledger, progress).post_all(_due_rows(log, judge, own_events, progress))
            stop = desk.why_stopped()
            posted = RowSketches(log.columns, mapping=mapping, path=path)
            write_out(
                log, reservation, ledger, _answered(log, check, judge, books, posted), event_id_of=judge.event_id_of
            )
            desk.watcher.say(results_note(path, reservation, run_id=run_id))
            ledger.sum_up()
            seen = SeenRows(desk.plan.ledger_folder, identity, event_id=ledger.recall("event_id"))
            seen.keep(merged([posted.to_bytes(), *filter(None, [seen.own()])]))
        imbalance = books.imbalance(accepted=None, may_leave_unsent=True)
    return FileReport(
        path=path,
        run_id=run_id,
        names=reservation.names,
        entry_by_reason=books.entry_by_reason(),
        posts=progress.posts,
        look_ups=progress.look_ups,
        content_sha256=source.content_sha256,
        ledger=ledger.path,
        accounts=books.accounts(most=MOST_ACCOUNTS),
        timings=progress.timings,
        begun_at=begun_at,
        seconds=time.monotonic() - started_seconds,
        mapping=mapping,
        stop=stop,
        error=imbalance,
    )


def _mapping_of(log: ReplayLog, plan: Plan) -> ColumnMap:
    """Find how the upload saw the columns; of a run that the ledger does not know, how this command does.

    Raises:
        LedgerRefusal: this command says otherwise than the upload.
    """
    run_id = next((entry.run_id for entries in log.entries() for entry in entries if entry.run_id), "")
    facts = (remembered(plan.ledger_folder, run_id) if RUN_ID.fullmatch(run_id) else None) or {}
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


def _own_ids(log: ReplayLog, ledger: Ledger) -> OwnIds | None:
    """Find the column of the log's own event ids, if the run was uploaded by them."""
    column = ledger.recall("event_id")
    if column is None:
        return None
    return OwnIds(column, log.columns, base_url=ledger.identity.base_url, path=log.path)


def _due_rows(
    log: ReplayLog, judge: _Judge, own_events: OwnEvents | None, progress: Progress
) -> Iterator[Due | RowState]:
    for entries in log.entries():
        to_record: list[Due | RowState] = []
        for decision in judge.decide(entries):
            if isinstance(decision, _Kept):
                progress.settle(decision.state)
            else:
                to_record.append(decision)
        yield from to_record if own_events is None else own_events.claimed(to_record)


def _answered(
    log: ReplayLog, check: RowCheck, judge: _Judge, books: Books, posted: RowSketches
) -> Iterator[tuple[Batch, list[RowState]]]:
    for entries in log.entries():
        states = judge.states(entries)
        for entry, state in zip(entries, states, strict=True):
            books.give_out(check.units(entry.row), state)
            if state.outcome.reason in (None, Reason.IN_DOUBT) and not entry.row.fault:
                posted.add(entry.row.cells)
        yield Batch([entry.row for entry in entries]), states


@dataclass(frozen=True, slots=True)
class _Kept:
    """A row that is not posted, in the state that it has."""

    state: RowState


class _Judge:
    """Decides of each row of the file whether it is posted, by what the ledger knows and a person wrote."""

    def __init__(self, check: RowCheck, ledger: Ledger, permissions: Permissions, own_ids: OwnIds | None) -> None:
        """Begin with the file's first row.

        Raises:
            LedgerRefusal: the ledger holds no more of the run than its name.
        """
        self._check = check
        self._ledger = ledger
        self._permissions = permissions
        self._own_ids = own_ids
        self._event_id_of = ledger.event_id_of
        rows_of_the_run = ledger.recall("last_row") or ledger.recall("rows")
        if rows_of_the_run is None:
            raise LedgerRefusal(
                f"{ledger.path} knows no row of run {ledger.identity.run_id}",
                remedy="give --ledger the folder that the upload used",
            )
        self._is_seen = bytearray(rows_of_the_run + 1)
        self._is_accepted_before = bytearray(rows_of_the_run + 1)
        self._last_judged = 0
        self._state_by_file_row: dict[int, RowState] = {}
        self._posted_by_row: dict[int, dict[str, Any]] = {}

    def decide(self, entries: Sequence[Entry]) -> list[Due | RowState | _Kept]:
        """Decide of the next rows; a state that is given as such is to be recorded."""
        known = self._known(entries)
        numbers = [entry.number for entry in entries]
        originals = self._ledger.originals(numbers)
        self._posted_by_row = self._ledger.posted(numbers)
        decisions = []
        posted: dict[int, dict[str, Any]] = {}
        for entry in entries:
            original = originals.get(entry.number, {})
            found = self._identify(entry, known, original)
            decision = found if isinstance(found, _Kept) else self._decide(entry, found, original)
            if isinstance(decision, _Kept) and decision.state is not known.get(entry.number):
                self._state_by_file_row[entry.row.number] = decision.state
            if isinstance(decision, Due):
                values = {**self._own_id_stated(entry), **asdict(decision.event)}
                if values != self._last_posted(entry, original):
                    posted[entry.number] = values
            decisions.append(decision)
            self._last_judged = entry.row.number
        if posted:
            self._ledger.keep_posted(posted)  # before the POST: should it end in doubt, these are the values to resend
        return decisions

    def states(self, entries: Sequence[Entry]) -> list[RowState]:
        """Give what the results say of some rows, once posting has ended; it may have ended before their turn."""
        known = self._known(entries)
        numbers = [entry.number for entry in entries]
        originals = self._ledger.originals(numbers)
        self._posted_by_row = self._ledger.posted(numbers)
        return [self._state_in_the_end(entry, known, originals.get(entry.number, {})) for entry in entries]

    def event_id_of(self, entry_row: Row, state: RowState) -> str:
        """Give the event id that a row has now."""
        return self._event_id_of(state.row) if self._own_ids is None else self._own_ids.event_id(entry_row)

    def _state_in_the_end(self, entry: Entry, known: Mapping[int, RowState], original: dict[str, Any]) -> RowState:
        if entry.row.number <= self._last_judged:
            state = self._state_by_file_row.get(entry.row.number) or _state(entry, known)
        else:
            found = self._identify(entry, known, original)
            state = found.state if isinstance(found, _Kept) else found
        if state.outcome.reason is None and not state.outcome.detail and self._is_accepted_before[state.row]:
            return _reworded(state, "accepted before this replay, which did not compare its cells")
        return state

    def _known(self, entries: Sequence[Entry]) -> dict[int, RowState]:
        return self._ledger.known([entry.number for entry in entries])

    def _identify(self, entry: Entry, known: Mapping[int, RowState], original: dict[str, Any]) -> RowState | _Kept:
        """Find the original row's state; a row that is of no run, or stands in the file twice, is kept."""
        if entry.number == 0:
            return _Kept(RowState(0, Outcome(Reason.MALFORMED, entry.row.fault)))
        if self._own_ids is None and not self._event_id_of(entry.number):
            words = (
                "not sent: the file that this run was adopted from does not have the row; ask whoever has its ledger"
            )
            return _Kept(RowState(entry.number, Outcome(Reason.IN_DOUBT, words)))
        if entry.number >= len(self._is_seen) or not self._has_its_event_id(entry, known, original):
            words = "upload_row and upload_event_id are not those of a row of this run; put both back as they were"
            return _Kept(RowState(0, Outcome(Reason.MALFORMED, words)))
        if self._is_seen[entry.number]:
            words = f"row {entry.number} stands in the file twice; only the first was looked at"
            return _Kept(RowState(0, Outcome(Reason.DUPLICATE, words)))
        self._is_seen[entry.number] = True
        state = _state(entry, known)
        self._is_accepted_before[entry.number] = state.outcome.reason is None
        return state

    def _has_its_event_id(self, entry: Entry, known: Mapping[int, RowState], original: dict[str, Any]) -> bool:
        """Tell whether the file's event id is one that the row has had: a proof that its number was not displaced."""
        if self._own_ids is None:
            return entry.event_id == self._event_id_of(entry.number)
        posted = self._posted_by_row.get(entry.number)
        if not original and not posted and known.get(entry.number, _NOTHING).outcome.reason is None:
            return entry.seems_recorded and entry.event_id == self._own_ids.event_id(entry.row)
        column = self._own_ids.column
        own_ids = [str(cells.get(column) or "") for cells in (original, posted) if cells is not None]
        return entry.event_id in map(self._own_ids.event_id_of, own_ids)

    def _own_id_stated(self, entry: Entry) -> dict[str, str]:
        return {} if self._own_ids is None else self._own_ids.stated(entry.row)

    def _decide(self, entry: Entry, state: RowState, original: dict[str, Any]) -> Due | RowState | _Kept:
        reason = state.outcome.reason
        if reason is None:
            return _Kept(state)
        if reason is Reason.IN_DOUBT:
            return self._decide_doubt(entry, state, original)
        if reason in _OTHERS_HAVE_THE_EVENT and self._ledger.identity.adopted_run_id:
            words = "not sent: the lost ledger knew which row has this event; give it an id of its own in a usage log"
            return _Kept(_reworded(state, words))
        if entry.word not in _WORDS_THAT_SEND:
            words = f"not sent: upload_replay says {entry.word!r}; it was certainly not recorded: write yes to send it"
            return _Kept(_reworded(state, words))
        return self._post_as_it_is_now(entry, state, original)

    def _decide_doubt(self, entry: Entry, state: RowState, original: dict[str, Any]) -> Due | RowState | _Kept:
        doubt = state.outcome.detail
        if entry.word == "recorded":
            outcome = Outcome(None, "recorded, by a person's word", state.outcome.http_status, state.outcome.response)
            return replace(state, outcome=outcome, at_milliseconds=_now_milliseconds())
        if entry.word not in _WORDS_THAT_SEND:
            return _Kept(_reworded(state, f"{doubt}; upload_replay says {entry.word!r}: write resend or recorded"))
        if entry.word != "resend" and not self._permissions.include_in_doubt:
            return _Kept(state)
        posted = self._last_posted(entry, original)
        if words := self._why_not_again(entry, state, posted):
            return _Kept(_reworded(state, f"{doubt}; not sent again: {words}"))
        event = UsageEvent(**{column: posted[column] for column in EVENT_COLUMNS})
        event_id = self.event_id_of(entry.row, state)
        return Due(entry.number, event, event_id, attempts=state.attempts, doubt=doubt)

    def _why_not_again(self, entry: Entry, state: RowState, posted: dict[str, Any]) -> str:
        """Say what forbids another attempt at a row in doubt that a person allowed; empty for nothing."""
        if state.attempts == 0 or not _can_be_posted(posted):
            return "the ledger does not hold what was posted"
        if entry.row.fault or self._edited_columns(entry, posted):
            return "`resend` posts a row exactly as it was, and its cells were edited; put them back"
        if entry.attempts != state.attempts and not self._permissions.include_in_doubt:
            return "it was posted once more since `resend` was written; write it into the newest failed file"
        return ""

    def _edited_columns(self, entry: Entry, posted: dict[str, Any]) -> list[str]:
        own_id = [column for column, text in self._own_id_stated(entry).items() if posted.get(column) != text]
        return [*own_id, *edited_columns(posted, self._check.stated(entry.row))]

    def _last_posted(self, entry: Entry, original: dict[str, Any]) -> dict[str, Any]:
        return self._posted_by_row.get(entry.number, original)

    def _post_as_it_is_now(self, entry: Entry, state: RowState, original: dict[str, Any]) -> Due | RowState | _Kept:
        if entry.row.fault:
            return _Kept(replace(state, outcome=Outcome(Reason.MALFORMED, entry.row.fault)))
        stated = {**self._own_id_stated(entry), **self._check.stated(entry.row)}
        damaged = damaged_columns(original, stated)
        if damaged and not self._permissions.accept_changes:
            words = "; ".join(
                f"{column}: {shown(original[column])} has become {shown(stated[column])}, as spreadsheets do"
                for column in damaged
            )
            outcome = Outcome(Reason.CHANGED, f"{words}; put it back, or use --accept-changes")
            return replace(state, outcome=outcome, at_milliseconds=_now_milliseconds())
        event = self._check.event(entry.row)
        if self._own_ids is not None:
            event = self._own_ids.checked(entry.row, event)
        if isinstance(event, Outcome):
            return replace(state, outcome=event, at_milliseconds=_now_milliseconds())
        values = {**self._own_id_stated(entry), **asdict(event)}
        edits = [column for column, value in values.items() if original.get(column) != value]
        note = f"accepted as edited for the replay ({', '.join(edits)})" if edits else ""
        return Due(entry.number, event, self.event_id_of(entry.row, state), attempts=state.attempts, note=note)


def _state(entry: Entry, known: Mapping[int, RowState]) -> RowState:
    """Believe the ledger; but where it has a row as not recorded and the file has it as more, nobody knows."""
    state = known.get(entry.number) or RowState(entry.number, NOT_SENT)
    if not entry.seems_recorded or state.outcome.reason in (None, Reason.IN_DOUBT):
        return state
    words = "may have been recorded: the file says so, and the ledger does not know of it; is it the upload's ledger?"
    return replace(state, outcome=Outcome(Reason.IN_DOUBT, words))


def _can_be_posted(cells: Mapping[str, Any]) -> bool:
    if not set(cells) >= set(EVENT_COLUMNS):
        return False
    return not wire_problems(UsageEvent(**{column: cells[column] for column in EVENT_COLUMNS}))


def _reworded(state: RowState, words: str) -> RowState:
    return replace(state, outcome=replace(state.outcome, detail=words))


def _now_milliseconds() -> int:
    return time.time_ns() // 1_000_000
