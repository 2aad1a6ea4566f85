"""A replay: the rows of a results or failed file, perhaps edited in a spreadsheet, that are worth another attempt.

What became of a row belongs to the row of the original upload, in that run's ledger; the file is what a person says
about it. Where they differ the ledger is right: a row that it has as accepted is not posted, whatever the file says.
"""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal

from uploader.api import shown
from uploader.books import Books
from uploader.desk import Desk, FileReport, Plan, Watcher, open_desk, reserved, write_out
from uploader.errors import InputError, LedgerRefusal, UploaderError
from uploader.ledger import EventIds, Ledger, RunIdentity
from uploader.model import Batch, Outcome, Reason, Row, RowState, UsageEvent
from uploader.posting import Due, Progress
from uploader.readers import UsageLog, open_usage_log
from uploader.results import NOT_SENT, OWN_COLUMNS, choose_replay_names
from uploader.schema import EVENT_COLUMNS, RowCheck

_NEEDED_COLUMNS = ("upload_row", "upload_run", "upload_replay")
_ROW_NUMBER = re.compile(r"([0-9]{1,15})(?:\.0+)?")
_SCIENTIFIC = re.compile(r"-?[0-9](?:[.,][0-9]+)?E\+?-?[0-9]+", re.IGNORECASE)
_WORDS_THAT_SEND = frozenset({"", "yes", "fix", "confirm", "resend"})
_ID_COLUMNS = ("tenant_id", "device_id", "meter_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """What a person allows for the whole file.

    include_in_doubt: post every row in doubt once more, as if each were marked ``resend``.
    accept_changes:   take ids that a spreadsheet seems to have damaged as they are now.
    """

    include_in_doubt: bool = False
    accept_changes: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the file: whose row it is, what a person wrote, and the usage log's own cells.

    number: of the original row; 0 when the file does not say.
    run_id: the run that it belongs to; empty when the file does not say.
    word:   what stands in ``upload_replay``, in lower case.
    row:    numbered as in the file, with the usage log's cells alone; at fault when it cannot be read.
    """

    number: int
    run_id: str
    word: str
    row: Row


@dataclass(slots=True)
class ReplayLog:
    """A results or failed file seen as the usage log it came from: its columns without ours; always CSV."""

    source: UsageLog
    path: Path = field(init=False)
    columns: tuple[str, ...] = field(init=False)
    header_text: str = field(init=False)
    delimiter: str = field(init=False)
    line_end: str = field(init=False)
    has_bom: bool = field(init=False)
    kind: Literal["csv", "parquet"] = field(init=False, default="csv")
    _own_at: dict[str, int] = field(init=False)
    _kept_at: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """Find our columns.

        Raises:
            InputError: they are not there.
        """
        columns = self.source.columns
        missing = [column for column in _NEEDED_COLUMNS if column not in columns]
        if missing:
            raise InputError(
                f"{self.source.path}: no column named {missing[0]!r}, so it is not a results or failed file",
                remedy=f"to upload a usage log: uploader upload {self.source.path}",
            )
        self.path = self.source.path
        self.delimiter, self.line_end, self.has_bom = self.source.delimiter, self.source.line_end, self.source.has_bom
        self._own_at = {column: at for at, column in enumerate(columns) if column in OWN_COLUMNS}
        self._kept_at = [at for at, column in enumerate(columns) if column not in OWN_COLUMNS]
        self.columns = tuple(columns[at] for at in self._kept_at)
        self.header_text = self._as_text(self.columns)

    def entries(self) -> Iterator[list[Entry]]:
        """Make one pass over the file, a batch at a time."""
        for batch in self.source.batches():
            yield [self._entry(row) for row in batch.rows]

    def record_text(self, row: Row) -> str:
        """Spell a row's kept cells as a CSV record."""
        return self._as_text(row.cells)

    def _as_text(self, cells: Sequence[Any]) -> str:
        lines: list[str] = []
        csv.writer(_Lines(lines), delimiter=self.delimiter, lineterminator="").writerow(map(_text, cells))
        return lines[0]

    def _entry(self, row: Row) -> Entry:
        if row.fault:
            return Entry(0, "", "", row)
        number = _ROW_NUMBER.fullmatch(self._own(row, "upload_row"))
        kept = [row.cells[at] for at in self._kept_at]
        raw = self._own(row, "upload_raw")
        if raw and not any(kept):
            seen = Row(row.number, (), raw, "its cells are still empty; write them in, from the text in upload_raw")
        elif number is None:
            seen = Row(row.number, (), self._as_text(kept), "upload_row does not hold a row number; put it back as it was")
        else:
            seen = Row(row.number, kept, "")
        return Entry(
            int(number[1]) if number else 0, self._own(row, "upload_run"), self._own(row, "upload_replay").lower(), seen
        )

    def _own(self, row: Row, column: str) -> str:
        at = self._own_at.get(column)
        return "" if at is None else _text(row.cells[at]).strip()


class _Lines:
    """Gathers what a ``csv.writer`` writes."""

    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append


def replay(path: Path, *, plan: Plan, watcher: Watcher, permissions: Permissions) -> FileReport:
    """Post the rows of a results or failed file that were not recorded, or that a person allows to be sent again.

    Raises:
        RefusedError: the command as a whole cannot begin. Nothing was posted.
    """
    with open_desk(plan, watcher) as desk:
        try:
            return _replay_file(path, desk, permissions)
        except UploaderError as error:
            return FileReport(path=path, error=error)


def _replay_file(path: Path, desk: Desk, permissions: Permissions) -> FileReport:
    started_seconds = time.monotonic()
    with _open_own_file(path, delimiter=desk.plan.delimiter) as source:
        log = ReplayLog(source)
        check = desk.schema.for_columns(log.columns, path=path)
        books, run_id = _read_through(log, check)
        identity = RunIdentity.of_known_run(desk.plan.ledger_folder, run_id)
        _demand_same_destination(path, identity, desk.plan)
        names = choose_replay_names(log, results_dir=desk.plan.results_dir)
        with Ledger(desk.plan.ledger_folder, identity) as ledger, reserved(
            names, log, ledger, rows=source.row_count
        ) as reservation:
            progress = Progress(rows=source.row_count)
            desk.watcher.begin(path, progress)
            judge = _Judge(check, ledger, permissions)
            desk.posting(ledger, progress).post_all(_due_rows(log, judge, progress))
            stop = desk.why_stopped()
            write_out(log, reservation, ledger, _answered(log, check, judge, books))
        books.balance(accepted=None, may_leave_unsent=True)
    return FileReport(
        path=path,
        run_id=run_id,
        names=reservation.names,
        entry_by_reason=books.entry_by_reason(),
        posts=progress.posts,
        look_ups=progress.look_ups,
        seconds=time.monotonic() - started_seconds,
        stop=stop,
    )


def _open_own_file(path: Path, *, delimiter: str | None) -> UsageLog:
    """Open a file that a spreadsheet may have saved with another delimiter, as it does in many countries."""
    log = open_usage_log(path, delimiter=delimiter)
    if delimiter is None and log.kind == "csv":
        for other in (";", "\t"):
            if "upload_row" in log.columns:
                break
            log.close()
            log = open_usage_log(path, delimiter=other)
    return log


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


def _due_rows(log: ReplayLog, judge: _Judge, progress: Progress) -> Iterator[Due | RowState]:
    for entries in log.entries():
        for due in judge.decide(entries):
            if isinstance(due, _Kept):
                progress.settle(due.state)
            else:
                yield due


def _answered(log: ReplayLog, check: RowCheck, judge: _Judge, books: Books) -> Iterator[tuple[Batch, list[RowState]]]:
    for entries in log.entries():
        states = judge.states(entries)
        for entry, state in zip(entries, states, strict=True):
            books.give_out(check.units(entry.row), state)
        yield Batch([entry.row for entry in entries]), states


@dataclass(frozen=True, slots=True)
class _Kept:
    """A row that is not posted, in the state that it has."""

    state: RowState


class _Judge:
    """Decides of each row of the file whether it is posted, by what the ledger knows and a person wrote."""

    def __init__(self, check: RowCheck, ledger: Ledger, permissions: Permissions) -> None:
        self._check = check
        self._ledger = ledger
        self._permissions = permissions
        self._event_id_of = EventIds(ledger.identity).of
        self._rows_of_the_run: int = ledger.recall("rows")
        self._seen: set[int] = set()
        self._state_by_file_row: dict[int, RowState] = {}

    def decide(self, entries: Sequence[Entry]) -> Iterator[Due | RowState | _Kept]:
        """Decide of some rows; a state that is given as such is to be recorded."""
        numbers = [entry.number for entry in entries]
        known = self._ledger.known(numbers)
        originals = self._ledger.originals(numbers)
        for entry in entries:
            state = known.get(entry.number) or RowState(entry.number, NOT_SENT)
            decision = self._decide(entry, state, originals.get(entry.number))
            if isinstance(decision, _Kept) and decision.state is not state:
                self._state_by_file_row[entry.row.number] = decision.state
            yield decision

    def states(self, entries: Sequence[Entry]) -> list[RowState]:
        """Give what the results say of some rows, once posting has ended."""
        known = self._ledger.known([entry.number for entry in entries])
        return [
            self._state_by_file_row.get(entry.row.number)
            or known.get(entry.number)
            or RowState(entry.number, _malformed(entry) if entry.row.fault else NOT_SENT)
            for entry in entries
        ]

    def _decide(self, entry: Entry, state: RowState, original: dict[str, Any] | None) -> Due | RowState | _Kept:
        reason = state.outcome.reason
        if entry.number == 0:
            return _Kept(RowState(0, _malformed(entry)))
        if entry.number > self._rows_of_the_run:
            words = f"upload_row {entry.number} is not of this run, which has {self._rows_of_the_run} rows; put it back as it was"
            return _Kept(RowState(0, Outcome(Reason.MALFORMED, words)))
        if entry.number in self._seen:
            words = f"row {entry.number} stands in the file twice; only the first was looked at"
            return _Kept(replace(state, outcome=Outcome(Reason.DUPLICATE, words)))
        self._seen.add(entry.number)
        if reason is None:
            return _Kept(state)
        if reason is Reason.IN_DOUBT:
            return self._decide_doubt(entry, state, original)
        if entry.word not in _WORDS_THAT_SEND:
            words = f"not sent: upload_replay says {entry.word!r}, and this row was certainly not recorded; write yes to send it"
            return _Kept(replace(state, outcome=replace(state.outcome, detail=words)))
        return self._post_as_it_is_now(entry, state, original or {})

    def _decide_doubt(self, entry: Entry, state: RowState, original: dict[str, Any] | None) -> Due | RowState | _Kept:
        if entry.word == "recorded":
            outcome = Outcome(None, "recorded, by a person's word", state.outcome.http_status, state.outcome.response)
            return replace(state, outcome=outcome, at_milliseconds=_now_milliseconds())
        if entry.word != "resend" and not self._permissions.include_in_doubt:
            return _Kept(state)
        if not original or entry.row.fault or _edits(original, self._check.stated(entry.row)):
            words = "not sent again: `resend` posts a row exactly as it was, and its cells were edited; put them back"
            return _Kept(replace(state, outcome=replace(state.outcome, detail=f"{state.outcome.detail}; {words}")))
        event = UsageEvent(**original)
        doubt = state.outcome.detail
        return Due(entry.number, event, self._event_id_of(entry.number), attempts=state.attempts, doubt=doubt)

    def _post_as_it_is_now(self, entry: Entry, state: RowState, original: dict[str, Any]) -> Due | RowState | _Kept:
        if entry.row.fault:
            return _Kept(replace(state, outcome=_malformed(entry)))
        stated = self._check.stated(entry.row)
        damaged = [column for column in _ID_COLUMNS if _is_damaged(original.get(column), stated.get(column))]
        if damaged and not self._permissions.accept_changes:
            words = "; ".join(
                f"{column}: {shown(original[column])} has become {shown(stated[column])}, as a spreadsheet does to numbers"
                for column in damaged
            )
            outcome = Outcome(Reason.CHANGED, f"{words}; put it back, or use --accept-changes")
            return replace(state, outcome=outcome, at_milliseconds=_now_milliseconds())
        event = self._check.event(entry.row)
        if isinstance(event, Outcome):
            return replace(state, outcome=event, at_milliseconds=_now_milliseconds())
        edits = ", ".join(_edits(original, stated) if original else ())
        note = f"accepted as edited for the replay ({edits})" if edits else ""
        return Due(entry.number, event, self._event_id_of(entry.number), attempts=state.attempts, note=note)


def _malformed(entry: Entry) -> Outcome:
    return Outcome(Reason.MALFORMED, entry.row.fault)


def _edits(original: dict[str, Any], stated: dict[str, Any]) -> list[str]:
    """Name the columns that say something else than they did; a number that a spreadsheet only wrote otherwise does not."""
    return [
        column
        for column in EVENT_COLUMNS
        if original.get(column) != stated.get(column) and not _is_damaged(original.get(column), stated.get(column))
    ]


def _is_damaged(before: object, now: object) -> bool:
    """Tell whether an id is the same number written otherwise (``00123`` -> ``123``), or a number cut by ``1.23E+15``."""
    if before == now or not isinstance(before, str) or not isinstance(now, str):
        return False
    try:
        is_same_number = Decimal(before) == Decimal(now)
    except InvalidOperation:
        return False
    return is_same_number or bool(_SCIENTIFIC.fullmatch(now) and not _SCIENTIFIC.fullmatch(before))


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)


def _now_milliseconds() -> int:
    return time.time_ns() // 1_000_000
