"""The judge of a replay: for each row of the file whether it is posted, and what becomes of it if it is not.

What became of a row belongs to the row of the original upload, in that run's ledger; the file is what a person says
about it. Where they differ the ledger is right: a row that it has as accepted is not posted, whatever the file says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from uploader.ledger.ledger import Ledger
from uploader.model.api import wire_problems
from uploader.model.errors import LedgerRefusal
from uploader.model.model import EVENT_COLUMNS, Outcome, Reason, Row, RowState, UsageEvent, now_milliseconds
from uploader.model.wording import shown, values_in_words
from uploader.posting.calls import Due
from uploader.readers.event_reader import EventReader
from uploader.replays.replay_log import ReplayEntry
from uploader.replays.spreadsheets import damaged_columns, edited_columns
from uploader.results.results import NOT_SENT

_OTHERS_HAVE_THE_EVENT = frozenset({Reason.DUPLICATE, Reason.CONFLICT})
_WORDS_THAT_SEND = frozenset({"", "yes", "fix", "confirm", "resend"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """What a person allows for the whole file.

    include_in_doubt: post every row in doubt once more, as if each were marked ``resend``.
    accept_changes:   take cells that a spreadsheet seems to have changed as they are now, ids and usage.
    without_ledger:   take the file's word for a run that this ledger does not know.
    """

    include_in_doubt: bool = False
    accept_changes: bool = False
    without_ledger: bool = False


@dataclass(frozen=True, slots=True)
class Kept:
    """A row that is not posted, in the state that it has."""

    state: RowState


@dataclass(frozen=True, slots=True)
class _Case:
    """A row of the file, and all that is known of the row of the upload whose number it has.

    recorded: what the ledger says became of that; None when it says nothing.
    state:    the same, in the light of what the file says; not sent when neither says anything.
    original: the cells that the upload had, as far as the ledger keeps them.
    posted:   those that a replay posted last; None without one.
    as_text:  those of the upload that read otherwise once the failed file has them as text: what that text is read as.
    """

    entry: ReplayEntry
    recorded: RowState | None
    state: RowState
    original: dict[str, Any]
    posted: dict[str, Any] | None
    as_text: dict[str, Any]

    @property
    def last_posted(self) -> dict[str, Any]:
        """The cells that were posted last; empty when the ledger has none of them."""
        return self.original if self.posted is None else self.posted


class Judge:
    """Decides of each row of the file whether it is posted, by what the ledger knows and a person wrote.

    late_edits:  rows so far that were accepted before with other values than the file has now.
    failed_rows: rows of the run whose failed states were given so far.
    """

    def __init__(self, reader: EventReader, ledger: Ledger, permissions: Permissions) -> None:
        """Begin with the file's first row.

        Raises:
            LedgerRefusal: the ledger holds no more of the run than its name.
        """
        self._reader = reader
        self._ledger = ledger
        self._permissions = permissions
        self._own_ids = reader.own_ids
        self._event_id_of = ledger.event_id_of
        facts = ledger.facts()
        rows_of_the_run = facts.get("last_row") or facts.get("rows")
        if rows_of_the_run is None:
            raise LedgerRefusal(
                f"{ledger.path} knows no row of run {ledger.identity.run_id}",
                remedy="give --ledger the folder that the upload used",
            )
        self._began_milliseconds = now_milliseconds()
        self._is_seen = bytearray(rows_of_the_run + 1)
        self._is_accepted_uncompared = bytearray(rows_of_the_run + 1)
        self._last_judged = 0
        self.late_edits = 0
        self.failed_rows = 0
        self._event_id_by_unread_row: dict[int, str] = {}
        self._state_by_file_row: dict[int, RowState] = {}

    def decide(self, entries: Sequence[ReplayEntry]) -> list[Due | RowState | Kept]:
        """Decide of the next rows; a state that is given as such is to be recorded."""
        decisions = []
        posted: dict[int, dict[str, Any]] = {}
        for case in self._cases(entries):
            entry = case.entry
            decision = self._first_look(case) or self._decide(case)
            if isinstance(decision, Kept) and decision.state is not case.recorded:
                self._state_by_file_row[entry.row.number] = decision.state
                # An accepted row is reworded only where its cells differ from what was posted: a late edit.
                self.late_edits += decision.state.outcome.reason is None
            if isinstance(decision, Due):
                values = {**self._reader.own_id_stated(entry.row), **asdict(decision.event)}
                if values != case.last_posted:
                    posted[entry.number] = values
            decisions.append(decision)
            self._last_judged = entry.row.number
        if posted:
            # Before the POST: should it end in doubt, these are the values to resend.
            self._ledger.edits.keep_posted(posted)
        return decisions

    def states(self, entries: Sequence[ReplayEntry], *, ended_early: bool) -> list[RowState]:
        """Give what the results say of some rows, once posting has ended.

        ended_early: the turn of some rows never came.
        """
        # No command has known these by an id that their cells may have now.
        self._event_id_by_unread_row = {
            entry.row.number: entry.event_id for entry in entries if entry.row.number > self._last_judged
        }
        states = [self._state_in_the_end(case, ended_early=ended_early) for case in self._cases(entries)]
        self.failed_rows += sum(state.row > 0 and state.outcome.reason is not None for state in states)
        return states

    def event_id_of(self, entry_row: Row, state: RowState) -> str:
        """Give the event id that a row has now."""
        if self._own_ids is None:
            return self._event_id_of(state.row)
        return self._event_id_by_unread_row.get(entry_row.number) or self._own_ids.event_id(entry_row)

    def _cases(self, entries: Sequence[ReplayEntry]) -> list[_Case]:
        numbers = [entry.number for entry in entries]
        recorded, edits = self._ledger.known(numbers), self._ledger.edits
        original, posted, as_text = edits.originals(numbers), edits.posted(numbers), edits.as_text(numbers)
        return [
            _Case(
                entry,
                recorded.get(entry.number),
                _state(entry, recorded.get(entry.number)),
                original.get(entry.number, {}),
                posted.get(entry.number),
                as_text.get(entry.number, {}),
            )
            for entry in entries
        ]

    def _state_in_the_end(self, case: _Case, *, ended_early: bool) -> RowState:
        number = case.entry.row.number
        if number > self._last_judged:
            kept = self._first_look(case)
            state = kept.state if kept else None
        else:
            state = self._state_by_file_row.get(number)
        if state is None:
            state = self._unless_unreached(case) if ended_early else case.state
        if state.outcome.reason is None and not state.outcome.detail and self._is_accepted_uncompared[state.row]:
            return _reworded(state, "accepted before this replay, which did not compare its cells")
        return state

    def _unless_unreached(self, case: _Case) -> RowState:
        """Have a row say so whose turn did not come: what became of it before is no verdict on what it is now."""
        state, outcome = case.state, case.state.outcome
        was_reached = state.at_milliseconds >= self._began_milliseconds
        if was_reached or outcome.reason is None or outcome.reason is Reason.NOT_SENT:
            return state
        if outcome.reason in _OTHERS_HAVE_THE_EVENT:  # whose event it is would have been asked in its turn alone
            return _reworded(state, f"{outcome.detail}; the replay ended before its turn")
        decision = self._decide(case)
        if outcome.reason is Reason.IN_DOUBT:
            words = f"{outcome.detail}; the replay ended before its turn: upload_replay said {case.entry.word!r}"
            return state if isinstance(decision, Kept) else _reworded(state, words)
        if not isinstance(decision, Due):
            return state
        words = f"the replay ended before its turn; until then: {outcome.reason.value}, {outcome.detail}"
        return replace(state, outcome=Outcome(Reason.NOT_SENT, words))

    def _first_look(self, case: _Case) -> Kept | None:
        """Keep a row that is of no run, stands in the file twice or was accepted; None for one to decide of.

        Remembers that the row was seen.
        """
        entry = case.entry
        if entry.number == 0:
            return Kept(RowState(0, Outcome(Reason.MALFORMED, entry.row.fault)))
        if self._own_ids is None and not self._event_id_of(entry.number):
            words = (
                "not sent: the file that this run was adopted from does not have the row; ask whoever has its ledger"
            )
            return Kept(RowState(entry.number, Outcome(Reason.IN_DOUBT, words)))
        if entry.number >= len(self._is_seen) or not self._has_its_event_id(case):
            words = (
                f"upload_row {entry.number} and upload_event_id {entry.event_id!r} are not those of a row of this run "
                f"({entry.run_id}); put them back as they were"
            )
            return Kept(RowState(0, Outcome(Reason.MALFORMED, words)))
        if self._is_seen[entry.number]:
            words = f"row {entry.number} stands in the file twice; only the first was looked at"
            return Kept(RowState(0, Outcome(Reason.DUPLICATE, words)))
        self._is_seen[entry.number] = True
        if case.state.outcome.reason is not None:
            return None
        # Of what the upload posted at once, the ledger has no cells.
        self._is_accepted_uncompared[entry.number] = not case.last_posted
        return Kept(self._told_of_later_edits(case))

    def _told_of_later_edits(self, case: _Case) -> RowState:
        """Have an accepted row say so whose cells are neither what was posted nor what the upload had."""
        posted = case.last_posted
        if not posted or case.entry.row.fault or self._is_as_it_was(case):
            return case.state
        had = values_in_words(posted, self._edited_columns(case.entry, posted))
        return _reworded(case.state, f"accepted before with {had}; what this file has instead was not posted")

    def _is_as_it_was(self, case: _Case) -> bool:
        """Tell whether a row has the cells that were posted last, or those of the upload, whose files have them."""
        if case.entry.row.fault:
            return not case.original  # nor could the upload read it
        return any(cells and not self._edited_columns(case.entry, cells) for cells in (case.last_posted, case.original))

    def _has_its_event_id(self, case: _Case) -> bool:
        """Tell whether the file's event id is one that the row has had: a proof that its number was not displaced."""
        entry, recorded = case.entry, case.recorded
        if self._own_ids is None:
            return entry.event_id == self._event_id_of(entry.number)
        if not case.original and not case.posted and recorded is not None and recorded.outcome.reason is None:
            return entry.seems_recorded and entry.event_id == self._own_ids.event_id(entry.row)
        column = self._own_ids.column
        own_ids = [str(cells.get(column) or "") for cells in (case.original, case.posted) if cells is not None]
        own_ids += self._ledger.edits.former_own_ids([entry.number]).get(entry.number, [])
        return entry.event_id in map(self._own_ids.event_id_of, own_ids)

    def _put_back(self, entry: ReplayEntry, posted: dict[str, Any]) -> str:
        had = "" if entry.row.fault else f": {values_in_words(posted, self._edited_columns(entry, posted))}"
        return f"its cells were edited; put them back as they were posted last{had}"

    def _decide(self, case: _Case) -> Due | RowState | Kept:
        entry, state, reason = case.entry, case.state, case.state.outcome.reason
        if reason is Reason.IN_DOUBT:
            return self._decide_doubt(case)
        if reason in _OTHERS_HAVE_THE_EVENT and self._ledger.identity.adopted_run_id:
            words = "not sent: the lost ledger knew which row has this event; give it an id of its own in a usage log"
            return Kept(_reworded(state, words))
        if entry.word not in _WORDS_THAT_SEND:
            words = f"not sent: upload_replay says {entry.word!r}; it was certainly not recorded: write yes to send it"
            return Kept(_reworded(state, words))
        return self._post_as_it_is_now(case)

    def _decide_doubt(self, case: _Case) -> Due | RowState | Kept:
        entry, state, posted = case.entry, case.state, case.last_posted
        doubt = state.outcome.detail
        if entry.word == "recorded":
            if posted and not self._is_as_it_was(case):
                words = f"{doubt}; not taken as recorded: {self._put_back(entry, posted)}"
                return Kept(_reworded(state, words))
            outcome = Outcome(None, "recorded, by a person's word", state.outcome.http_status, state.outcome.response)
            return replace(state, outcome=outcome, at_milliseconds=now_milliseconds())
        may_send = entry.word == "resend" or (entry.word in _WORDS_THAT_SEND and self._permissions.include_in_doubt)
        if not may_send:
            is_another_word = entry.word and entry.word != "confirm"
            words = f"{doubt}; upload_replay says {entry.word!r}: write resend or recorded"
            return Kept(_reworded(state, words) if is_another_word else state)
        if words := self._why_not_again(case):
            return Kept(_reworded(state, f"{doubt}; not sent again: {words}"))
        event = UsageEvent(**{column: posted[column] for column in EVENT_COLUMNS})
        event_id = self.event_id_of(entry.row, state)
        respelled = damaged_columns(asdict(event), self._reader.check.stated(entry.row))
        note = f"posted again as it was: {values_in_words(posted, respelled)}" if respelled else ""
        return Due(entry.number, event, event_id, attempts=state.attempts, note=note, doubt=doubt)

    def _why_not_again(self, case: _Case) -> str:
        """Say what forbids another attempt at a row in doubt that a person allowed; empty for nothing."""
        entry, state, posted = case.entry, case.state, case.last_posted
        if state.attempts == 0 or not _can_be_posted(posted):
            return "the ledger does not hold what was posted"
        if entry.row.fault or self._edited_columns(entry, posted):
            return f"`resend` posts a row exactly as it was, and {self._put_back(entry, posted)}"
        if entry.attempts == 0:
            return f"its upload_attempts is gone; write back {state.attempts}"
        if entry.attempts != state.attempts:
            return "it was posted once more since this file was written; replay the newest failed file"
        return ""

    def _edited_columns(self, entry: ReplayEntry, posted: dict[str, Any]) -> list[str]:
        own_id = [
            column for column, text in self._reader.own_id_stated(entry.row).items() if str(posted.get(column)) != text
        ]
        return [*own_id, *edited_columns(posted, self._reader.check.stated(entry.row))]

    def _post_as_it_is_now(self, case: _Case) -> Due | RowState | Kept:
        entry, state, original = case.entry, case.state, case.original
        if entry.row.fault:
            return Kept(replace(state, outcome=Outcome(Reason.MALFORMED, entry.row.fault)))
        stated = self._reader.stated(entry.row)
        if why := self._why_unedited(case, stated):
            return Kept(replace(state, outcome=Outcome(Reason.INVALID, why)))
        if why := self._why_damaged(original, stated):
            return replace(state, outcome=Outcome(Reason.CHANGED, why), at_milliseconds=now_milliseconds())
        event = self._reader.event(entry.row)
        if isinstance(event, Outcome):
            return replace(state, outcome=event, at_milliseconds=now_milliseconds())
        values = {**self._reader.own_id_stated(entry.row), **asdict(event)}
        edits = [column for column, value in values.items() if original.get(column) != value]
        note = f"accepted as edited for the replay ({', '.join(edits)})" if edits else ""
        return Due(entry.number, event, self.event_id_of(entry.row, state), attempts=state.attempts, note=note)

    def _why_unedited(self, case: _Case, stated: Mapping[str, Any]) -> str:
        """Say which cells stand as this program spelled what was no text or number; empty for none."""
        may_be_meant = self._permissions.accept_changes
        return "; ".join(
            f"{column}: {shown(cell)} is how this file spells a cell that was no such text or number; "
            f"write what is meant{'' if column == 'total_usage' else ', or use --accept-changes'}"
            for column, cell in case.as_text.items()
            if stated.get(column) == cell and not (may_be_meant and column != "total_usage")
        )

    def _why_damaged(self, original: Mapping[str, Any], stated: Mapping[str, Any]) -> str:
        """Say which cells a spreadsheet seems to have changed by itself; empty for none, or where that is accepted."""
        damaged = [] if self._permissions.accept_changes else damaged_columns(original, stated)
        words = "; ".join(
            f"{column}: {shown(original[column])} has become {shown(stated[column])}, as spreadsheets do"
            for column in damaged
        )
        return f"{words}; put it back, or use --accept-changes" if damaged else ""


def _state(entry: ReplayEntry, recorded: RowState | None) -> RowState:
    """Believe the ledger; but where it has a row as not recorded and the file has it as more, nobody knows."""
    state = recorded or RowState(entry.number, NOT_SENT)
    if not entry.seems_recorded or state.outcome.may_be_recorded:
        return state
    words = "may have been recorded: the file says so, and the ledger does not know of it; is it the upload's ledger?"
    return replace(state, outcome=Outcome(Reason.IN_DOUBT, words))


def _can_be_posted(cells: Mapping[str, Any]) -> bool:
    if not set(cells) >= set(EVENT_COLUMNS):
        return False
    return not wire_problems(UsageEvent(**{column: cells[column] for column in EVENT_COLUMNS}))


def _reworded(state: RowState, words: str) -> RowState:
    return replace(state, outcome=replace(state.outcome, detail=words))
