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

from uploader.ledger.claims import Claim, Claims, claims_path
from uploader.ledger.ledger import Knowledge, Ledger
from uploader.ledger.run_file import known_run, ledger_path
from uploader.ledger.seen import knows_runs_by_own_ids
from uploader.model.errors import LedgerRefusal
from uploader.model.identity import OwnEventIds
from uploader.model.model import Outcome, Reason, RowState, now_milliseconds
from uploader.posting.calls import Due
from uploader.readers.event_reader import EventReader

_LEDGER_GONE = "and that run's ledger is gone; ask the backend's owners whether they have it"


class OwnEvents:
    """The claims of one run to its events.

    accepted_elsewhere: rows so far that were not posted, since other rows had their events accepted.
    """

    def __init__(self, ledger_folder: Path, run: Knowledge, claims: Claims) -> None:
        self._folder = ledger_folder
        self._run = run
        self._run_id = run.identity.run_id
        self._id_of = OwnEventIds(run.identity.base_url).of
        self._claims = claims
        self.accepted_elsewhere = 0

    def claimed(self, decisions: Sequence[Due | RowState]) -> list[Due | RowState]:
        """Claim the events of the rows that are due; a row whose event is another's is settled by what became of that.

        At most some thousand rows at a time, in their order.
        """
        dues = [decision for decision in decisions if isinstance(decision, Due)]
        if not dues:
            return list(decisions)
        wanted = [Claim.of(due.event_id, due.event, run_id=self._run_id, row=due.row) for due in dues]
        settled_by_row = dict(self._settled_by_others(wanted, self._stake(wanted)))
        self.accepted_elsewhere += sum(state.outcome.reason is None for state in settled_by_row.values())
        return [
            _with_history(settled_by_row[decision.row], decision)
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

    def _owner(self, run_id: str) -> AbstractContextManager[Knowledge]:
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
def own_events_of(ledger: Ledger, reader: EventReader) -> Iterator[OwnEvents | None]:
    """Open the claims of a run that goes by the log's own ids; give None for any other.

    Raises:
        LedgerRefusal: they cannot be used, or their file was lost.
    """
    if reader.own_ids is None:
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


def _with_history(state: RowState, due: Due) -> RowState:
    return dataclasses.replace(state, attempts=due.attempts, outcome=state.outcome.after_doubt(due.doubt))


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
