"""Events that the log itself names (``--event-id``): each is posted once, whatever files it stands in.

A row must own its event before it is posted. What became of an event that another row owns is read in that row's ledger
while its lock is held; nobody can start that row meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from uploader.api import shown
from uploader.calls import Due
from uploader.claims import Claim, Claims, claims_path
from uploader.errors import InputError, LedgerRefusal
from uploader.identity import OwnEventIds, RunIdentity
from uploader.known_cells import Column
from uploader.ledger import Ledger
from uploader.model import Cell, Outcome, Reason, Row, RowState, UsageEvent, now_milliseconds
from uploader.open_log import Log
from uploader.run_file import known_run, ledger_path
from uploader.schema import RowCheck
from uploader.seen import knows_runs_by_own_ids

_LEDGER_GONE = "and that run's ledger is gone; ask the backend's owners whether they have it"


class OwnIds:
    """The column of a log that names its events."""

    def __init__(self, column: str, columns: Sequence[str], *, base_url: str, path: Path) -> None:
        """Find the column.

        Raises:
            InputError: the log has none of that name.
        """
        if column not in columns:
            raise InputError(
                f"{path}: no column named {column!r}, which --event-id names",
                remedy=f"its columns are {', '.join(columns)}",
            )
        self.column = column
        self._at = columns.index(column)
        self._of = OwnEventIds(base_url).of

    @property
    def column_alone(self) -> Column:
        """The column, with a judge of its cells."""
        return Column(self._at, _demanded_text)

    def own_id(self, row: Row) -> str:
        """Give the id that the log has for a row; empty when it has none that can be used."""
        return "" if row.fault else _text(row.cells[self._at])

    def event_id(self, row: Row) -> str:
        """Give a row's event id; empty when the row has no id of its own that can be used."""
        return self.event_id_of(self.own_id(row))

    def event_id_of(self, own_id: str) -> str:
        """Give the event id that the log's own id makes; empty for none."""
        return self._of(own_id) if own_id else ""

    def stated(self, row: Row) -> dict[str, str]:
        """Give the row's own id by its column, to be compared with an edited copy."""
        return {self.column: self.own_id(row)}

    def checked(self, row: Row, event: UsageEvent | Outcome) -> UsageEvent | Outcome:
        """Give a row's event as the schema judged it, unless its id cannot be used."""
        if row.fault or _text(row.cells[self._at]):
            return event
        cell = row.cells[self._at]
        problem = "is empty" if cell in (None, "") else f"{shown(cell)} is neither text nor an integer"
        words = [event.detail] if isinstance(event, Outcome) else []
        return Outcome(Reason.INVALID, "; ".join([*words, f"{self.column}: {problem}"]))


def own_ids_of(log: Log, event_id: str | None, *, base_url: str) -> OwnIds | None:
    """Find the column of a log's own ids, ``event_id``; None when events are not named by them.

    Raises:
        InputError: the log has no such column.
    """
    return None if event_id is None else OwnIds(event_id, log.columns, base_url=base_url, path=log.path)


def event_in(row: Row, check: RowCheck, own_ids: OwnIds | None) -> UsageEvent | Outcome:
    """Give a row's usage event, or why it cannot be posted: what the schema says of it, and the log's own id.

    own_ids: None where events are not named by the log.
    """
    event = check.event(row)
    return event if own_ids is None else own_ids.checked(row, event)


class Owner(Protocol):
    """What is asked of the ledger whose row has an event."""

    @property
    def identity(self) -> RunIdentity:
        """What the run is about."""

    def known(self, rows: Sequence[int]) -> dict[int, RowState]:
        """Give the states of those rows that have one."""

    def own_ids(self, rows: Sequence[int]) -> dict[int, str]:
        """Give the log's own ids that some rows had last, where they are kept: a replay may have changed them."""


def _text(cell: Cell) -> str:
    return str(cell) if isinstance(cell, str) or type(cell) is int else ""


def _demanded_text(cell: Cell) -> str:
    if text := _text(cell):
        return text
    raise ValueError


class OwnEvents:
    """The claims of one run to its events."""

    def __init__(self, ledger_folder: Path, run: Owner, claims: Claims) -> None:
        self._folder = ledger_folder
        self._run = run
        self._run_id = run.identity.run_id
        self._id_of = OwnEventIds(run.identity.base_url).of
        self._claims = claims

    def claimed(self, decisions: Sequence[Due | RowState]) -> list[Due | RowState]:
        """Claim the events of the rows that are due; a row whose event is another's is settled by what became of that.

        At most some thousand rows at a time, in their order.
        """
        dues = [decision for decision in decisions if isinstance(decision, Due)]
        if not dues:
            return list(decisions)
        wanted = [Claim.of(due.event_id, due.event, run_id=self._run_id, row=due.row) for due in dues]
        settled_by_row = dict(self._settled_by_others(wanted, self._stake(wanted)))
        return [
            _kept_in_doubt(decision, settled_by_row[decision.row])
            if isinstance(decision, Due) and decision.row in settled_by_row
            else decision
            for decision in decisions
        ]

    def note_accepted(self, event_ids_by_row: Iterable[tuple[int, str]]) -> None:
        """Note which rows of this run were accepted, so that other runs need not ask its ledger."""
        self._claims.note_accepted(event_ids_by_row, run_id=self._run_id)

    def _settled_by_others(self, wanted: list[Claim], standing: list[Claim]) -> Iterator[tuple[int, RowState]]:
        pairs_by_run: dict[str, list[tuple[Claim, Claim]]] = {}
        for own, other in zip(wanted, standing, strict=True):
            if own.is_by_the_same_row(other):
                if other.is_accepted:  # and yet it is due: the run's own ledger was lost
                    yield own.row, _accepted_elsewhere(own, other)
            elif other.is_accepted and other.run_id != self._run_id:
                yield own.row, _accepted_elsewhere(own, other)
            else:
                pairs_by_run.setdefault(other.run_id, []).append((own, other))
        yield from self._settled_by_this_run(pairs_by_run.pop(self._run_id, []))
        for run_id, pairs in pairs_by_run.items():
            yield from self._settled_by_run(run_id, pairs)

    def _settled_by_this_run(self, pairs: list[tuple[Claim, Claim]]) -> Iterator[tuple[int, RowState]]:
        own_id_by_row = self._run.own_ids([other.row for _, other in pairs]) if pairs else {}
        taken_by_id: dict[bytes, Claim] = {}
        for own, other in pairs:
            holder = taken_by_id.get(own.id, other)
            # A row that a replay gave another id has nothing to do with this event any more.
            if holder is other and not self._is_of(own_id_by_row.get(other.row), other) and self._take_over(other, own):
                taken_by_id[own.id] = own
            else:
                yield own.row, _repeated(own, holder)

    def _settled_by_run(self, run_id: str, pairs: list[tuple[Claim, Claim]]) -> Iterator[tuple[int, RowState]]:
        try:
            if not ledger_path(self._folder, run_id).exists():
                for own, other in pairs:
                    yield own.row, _state(own.row, Reason.DUPLICATE, f"{_named(other)} had this event, {_LEDGER_GONE}")
                return
            with self._owner(run_id) as ledger:
                rows = [other.row for _, other in pairs]
                state_by_row, own_id_by_row = ledger.known(rows), ledger.own_ids(rows)
                taken_by_id: dict[bytes, Claim] = {}
                for own, other in pairs:
                    is_its_own = self._is_of(own_id_by_row.get(other.row), other)  # see above
                    state = state_by_row.get(other.row) if is_its_own else None
                    if own.id in taken_by_id:
                        yield own.row, _repeated(own, taken_by_id[own.id])
                    elif settled := self._settled_by_row(own, other, state):
                        yield own.row, settled
                    else:
                        taken_by_id[own.id] = own
        except LedgerRefusal as error:  # a process is at work on it, or it cannot be read
            for own, other in pairs:
                yield own.row, _state(own.row, Reason.UNAVAILABLE, f"{_named(other)} has this event, and {error}")

    # A dry run does these three without writing.

    def _stake(self, wanted: Sequence[Claim]) -> list[Claim]:
        return self._claims.stake(wanted)

    def _take_over(self, standing: Claim, claim: Claim) -> bool:
        return self._claims.take_over(standing, claim)

    def _owner(self, run_id: str) -> AbstractContextManager[Owner]:
        return Ledger(self._folder, known_run(self._folder, run_id))

    def _is_of(self, own_id: str | None, claim: Claim) -> bool:
        return own_id is None or claim.is_to(self._id_of(own_id))

    def _settled_by_row(self, own: Claim, other: Claim, state: RowState | None) -> RowState | None:
        """Say what another row's claim makes of this row; None when this row took the claim over."""
        if state is not None and state.outcome.reason is None:
            return _accepted_elsewhere(own, other)
        if state is not None and state.outcome.reason is Reason.IN_DOUBT:
            if own.content != other.content:
                return _conflict(own, other)
            return _state(own.row, Reason.DUPLICATE, f"{_named(other)} is this event and in doubt; settle it there")
        if self._take_over(other, own):
            return None
        return _state(own.row, Reason.UNAVAILABLE, "another upload took this event at the same moment")


@contextlib.contextmanager
def own_events_of(ledger: Ledger, own_ids: OwnIds | None) -> Iterator[OwnEvents | None]:
    """Open the claims of a run that goes by the log's own ids; give None for any other.

    Raises:
        LedgerRefusal: they cannot be used, or their file was lost.
    """
    if own_ids is None:
        yield None
        return
    folder = ledger.path.parent
    demand_known_claims(folder)
    with contextlib.closing(Claims(folder)) as claims:
        yield OwnEvents(folder, ledger, claims)


def demand_known_claims(ledger_folder: Path) -> None:
    """Refuse to begin with no claims where earlier runs made some: their file was lost.

    Raises:
        LedgerRefusal: it is not there.
    """
    if not claims_path(ledger_folder).exists() and knows_runs_by_own_ids(ledger_folder):
        raise LedgerRefusal(
            f"{claims_path(ledger_folder)} is gone: which events earlier uploads with --event-id posted is not known",
            remedy="put it back from a backup; nothing was posted",
        )


def _kept_in_doubt(due: Due, state: RowState) -> RowState:
    """Say what another row's claim makes of a row, which stays in doubt if an earlier attempt left it so."""
    state = dataclasses.replace(state, attempts=due.attempts)
    if not due.doubt or state.outcome.reason is None:
        return state
    return dataclasses.replace(state, outcome=Outcome(Reason.IN_DOUBT, f"{due.doubt}; {state.outcome.detail}"))


def _repeated(own: Claim, other: Claim) -> RowState:
    if own.content != other.content:
        return _conflict(own, other)
    return _state(own.row, Reason.DUPLICATE, f"row {other.row} of this file is the same event")


def _accepted_elsewhere(own: Claim, other: Claim) -> RowState:
    if own.content != other.content:
        return _conflict(own, other)
    return _state(own.row, None, f"accepted before: {_named(other)} is the same event; not posted again")


def _conflict(own: Claim, other: Claim) -> RowState:
    words = f"{_named(other)} has this event id with other values; put those right, or give the event an id of its own"
    return _state(own.row, Reason.CONFLICT, words)


def _state(row: int, reason: Reason | None, words: str) -> RowState:
    return RowState(row, Outcome(reason, words), at_milliseconds=now_milliseconds())


def _named(claim: Claim) -> str:
    return f"row {claim.row} of run {claim.run_id}"
