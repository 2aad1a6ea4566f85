"""The judge of a replay: for each row of the file whether it is posted, and what becomes of it if it is not.

What became of a row belongs to the row of the original upload, in that run's ledger; the file is what a person says
about it. Where they differ the ledger is right: a row that it has as accepted is not posted, whatever the file says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from uploader.api import wire_problems
from uploader.calls import Due
from uploader.errors import LedgerRefusal
from uploader.event_reader import EventReader
from uploader.ledger import Ledger
from uploader.model import EVENT_COLUMNS, Outcome, Reason, Row, RowState, UsageEvent, now_milliseconds
from uploader.replay_log import ReplayEntry
from uploader.results import NOT_SENT
from uploader.spreadsheets import damaged_columns, edited_columns
from uploader.wording import shown, values_in_words

_NOTHING = RowState(0, NOT_SENT)
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


class Judge:
    """Decides of each row of the file whether it is posted, by what the ledger knows and a person wrote.

    late_edits:  rows so far that were accepted before with other values than the file has now.
    failed_rows: rows of the run whose failed states were given so far.
    ended_early: the replay ended before the turn of some rows; known before any ``states``.
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
        self.ended_early = False
        self._event_id_by_unread_row: dict[int, str] = {}
        self._state_by_file_row: dict[int, RowState] = {}
        self._posted_by_row: dict[int, dict[str, Any]] = {}
        self._as_text_by_row: dict[int, dict[str, Any]] = {}

    def decide(self, entries: Sequence[ReplayEntry]) -> list[Due | RowState | Kept]:
        """Decide of the next rows; a state that is given as such is to be recorded."""
        known = self._known(entries)
        numbers = [entry.number for entry in entries]
        originals = self._ledger.edits.originals(numbers)
        self._posted_by_row = self._ledger.edits.posted(numbers)
        self._as_text_by_row = self._ledger.edits.as_text(numbers)
        decisions = []
        posted: dict[int, dict[str, Any]] = {}
        for entry in entries:
            original = originals.get(entry.number, {})
            found = self._identify(entry, known, original)
            decision = found if isinstance(found, Kept) else self._decide(entry, found, original)
            if isinstance(decision, Kept) and decision.state is not known.get(entry.number):
                self._state_by_file_row[entry.row.number] = decision.state
                self.late_edits += decision.state.outcome.reason is None
            if isinstance(decision, Due):
                values = {**self._reader.own_id_stated(entry.row), **asdict(decision.event)}
                if values != self._last_posted(entry, original):
                    posted[entry.number] = values
            decisions.append(decision)
            self._last_judged = entry.row.number
        if posted:
            # Before the POST: should it end in doubt, these are the values to resend.
            self._ledger.edits.keep_posted(posted)
        return decisions

    def states(self, entries: Sequence[ReplayEntry]) -> list[RowState]:
        """Give what the results say of some rows, once posting has ended; it may have ended before their turn."""
        known = self._known(entries)
        numbers = [entry.number for entry in entries]
        originals = self._ledger.edits.originals(numbers)
        self._posted_by_row = self._ledger.edits.posted(numbers)
        self._as_text_by_row = self._ledger.edits.as_text(numbers)
        # No command has known these by an id that their cells may have now.
        self._event_id_by_unread_row = {
            entry.row.number: entry.event_id for entry in entries if entry.row.number > self._last_judged
        }
        states = [self._state_in_the_end(entry, known, originals.get(entry.number, {})) for entry in entries]
        self.failed_rows += sum(state.row > 0 and state.outcome.reason is not None for state in states)
        return states

    def event_id_of(self, entry_row: Row, state: RowState) -> str:
        """Give the event id that a row has now."""
        if self._own_ids is None:
            return self._event_id_of(state.row)
        return self._event_id_by_unread_row.get(entry_row.number) or self._own_ids.event_id(entry_row)

    def _state_in_the_end(
        self, entry: ReplayEntry, known: Mapping[int, RowState], original: dict[str, Any]
    ) -> RowState:
        if entry.row.number <= self._last_judged:
            kept = self._state_by_file_row.get(entry.row.number)
            found = Kept(kept) if kept else _state(entry, known)
        else:
            found = self._identify(entry, known, original)
        state = found.state if isinstance(found, Kept) else self._unless_unreached(entry, found, original)
        if state.outcome.reason is None and not state.outcome.detail and self._is_accepted_uncompared[state.row]:
            return _reworded(state, "accepted before this replay, which did not compare its cells")
        return state

    def _unless_unreached(self, entry: ReplayEntry, state: RowState, original: dict[str, Any]) -> RowState:
        """Have a row say so whose turn did not come: what became of it before is no verdict on what it is now."""
        outcome = state.outcome
        was_reached = not self.ended_early or state.at_milliseconds >= self._began_milliseconds
        if was_reached or outcome.reason is None or outcome.reason is Reason.NOT_SENT:
            return state
        if outcome.reason in _OTHERS_HAVE_THE_EVENT:  # whose event it is would have been asked in its turn alone
            return state
        decision = self._decide(entry, state, original)
        if outcome.reason is Reason.IN_DOUBT:
            words = f"{outcome.detail}; the replay ended before its turn: upload_replay said {entry.word!r}"
            return state if isinstance(decision, Kept) else _reworded(state, words)
        if not isinstance(decision, Due):
            return state
        words = f"the replay ended before its turn; until then: {outcome.reason.value}, {outcome.detail}"
        return replace(state, outcome=Outcome(Reason.NOT_SENT, words))

    def _known(self, entries: Sequence[ReplayEntry]) -> dict[int, RowState]:
        return self._ledger.known([entry.number for entry in entries])

    def _identify(self, entry: ReplayEntry, known: Mapping[int, RowState], original: dict[str, Any]) -> RowState | Kept:
        """Find the original row's state; a row that is of no run, or stands in the file twice, is kept."""
        if entry.number == 0:
            return Kept(RowState(0, Outcome(Reason.MALFORMED, entry.row.fault)))
        if self._own_ids is None and not self._event_id_of(entry.number):
            words = (
                "not sent: the file that this run was adopted from does not have the row; ask whoever has its ledger"
            )
            return Kept(RowState(entry.number, Outcome(Reason.IN_DOUBT, words)))
        if entry.number >= len(self._is_seen) or not self._has_its_event_id(entry, known, original):
            words = (
                f"upload_row {entry.number} and upload_event_id {entry.event_id!r} are not those of a row of this run "
                f"({entry.run_id}); put them back as they were"
            )
            return Kept(RowState(0, Outcome(Reason.MALFORMED, words)))
        if self._is_seen[entry.number]:
            words = f"row {entry.number} stands in the file twice; only the first was looked at"
            return Kept(RowState(0, Outcome(Reason.DUPLICATE, words)))
        self._is_seen[entry.number] = True
        state = _state(entry, known)
        if state.outcome.reason is not None:
            return state
        # Of what the upload posted at once, the ledger has no cells.
        self._is_accepted_uncompared[entry.number] = not self._last_posted(entry, original)
        return Kept(self._told_of_later_edits(entry, state, original))

    def _told_of_later_edits(self, entry: ReplayEntry, state: RowState, original: dict[str, Any]) -> RowState:
        """Have an accepted row say so whose cells are neither what was posted nor what the upload had."""
        posted = self._last_posted(entry, original)
        if not posted or entry.row.fault or self._is_as_it_was(entry, posted, original):
            return state
        had = values_in_words(posted, self._edited_columns(entry, posted))
        return _reworded(state, f"accepted before with {had}; what this file has instead was not posted")

    def _is_as_it_was(self, entry: ReplayEntry, posted: dict[str, Any], original: dict[str, Any]) -> bool:
        """Tell whether a row has the cells that were posted last, or those of the upload, whose files have them."""
        if entry.row.fault:
            return not original  # nor could the upload read it
        return any(cells and not self._edited_columns(entry, cells) for cells in (posted, original))

    def _has_its_event_id(self, entry: ReplayEntry, known: Mapping[int, RowState], original: dict[str, Any]) -> bool:
        """Tell whether the file's event id is one that the row has had: a proof that its number was not displaced."""
        if self._own_ids is None:
            return entry.event_id == self._event_id_of(entry.number)
        posted = self._posted_by_row.get(entry.number)
        if not original and not posted and known.get(entry.number, _NOTHING).outcome.reason is None:
            return entry.seems_recorded and entry.event_id == self._own_ids.event_id(entry.row)
        column = self._own_ids.column
        own_ids = [str(cells.get(column) or "") for cells in (original, posted) if cells is not None]
        own_ids += self._ledger.edits.former_own_ids([entry.number]).get(entry.number, [])
        return entry.event_id in map(self._own_ids.event_id_of, own_ids)

    def _put_back(self, entry: ReplayEntry, posted: dict[str, Any]) -> str:
        had = "" if entry.row.fault else f": {values_in_words(posted, self._edited_columns(entry, posted))}"
        return f"its cells were edited; put them back as they were posted last{had}"

    def _decide(self, entry: ReplayEntry, state: RowState, original: dict[str, Any]) -> Due | RowState | Kept:
        reason = state.outcome.reason
        if reason is Reason.IN_DOUBT:
            return self._decide_doubt(entry, state, original)
        if reason in _OTHERS_HAVE_THE_EVENT and self._ledger.identity.adopted_run_id:
            words = "not sent: the lost ledger knew which row has this event; give it an id of its own in a usage log"
            return Kept(_reworded(state, words))
        if entry.word not in _WORDS_THAT_SEND:
            words = f"not sent: upload_replay says {entry.word!r}; it was certainly not recorded: write yes to send it"
            return Kept(_reworded(state, words))
        return self._post_as_it_is_now(entry, state, original)

    def _decide_doubt(self, entry: ReplayEntry, state: RowState, original: dict[str, Any]) -> Due | RowState | Kept:
        doubt = state.outcome.detail
        if entry.word == "recorded":
            posted = self._last_posted(entry, original)
            if posted and not self._is_as_it_was(entry, posted, original):
                words = f"{doubt}; not taken as recorded: {self._put_back(entry, posted)}"
                return Kept(_reworded(state, words))
            outcome = Outcome(None, "recorded, by a person's word", state.outcome.http_status, state.outcome.response)
            return replace(state, outcome=outcome, at_milliseconds=now_milliseconds())
        may_send = entry.word == "resend" or (entry.word in _WORDS_THAT_SEND and self._permissions.include_in_doubt)
        if not may_send:
            is_another_word = entry.word and entry.word != "confirm"
            words = f"{doubt}; upload_replay says {entry.word!r}: write resend or recorded"
            return Kept(_reworded(state, words) if is_another_word else state)
        posted = self._last_posted(entry, original)
        if words := self._why_not_again(entry, state, posted):
            return Kept(_reworded(state, f"{doubt}; not sent again: {words}"))
        event = UsageEvent(**{column: posted[column] for column in EVENT_COLUMNS})
        event_id = self.event_id_of(entry.row, state)
        respelled = damaged_columns(asdict(event), self._reader.check.stated(entry.row))
        note = f"posted again as it was: {values_in_words(posted, respelled)}" if respelled else ""
        return Due(entry.number, event, event_id, attempts=state.attempts, note=note, doubt=doubt)

    def _why_not_again(self, entry: ReplayEntry, state: RowState, posted: dict[str, Any]) -> str:
        """Say what forbids another attempt at a row in doubt that a person allowed; empty for nothing."""
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

    def _last_posted(self, entry: ReplayEntry, original: dict[str, Any]) -> dict[str, Any]:
        return self._posted_by_row.get(entry.number, original)

    def _post_as_it_is_now(
        self, entry: ReplayEntry, state: RowState, original: dict[str, Any]
    ) -> Due | RowState | Kept:
        if entry.row.fault:
            return Kept(replace(state, outcome=Outcome(Reason.MALFORMED, entry.row.fault)))
        stated = self._reader.stated(entry.row)
        as_text = self._as_text_by_row.get(entry.number, {})
        may_be_meant = self._permissions.accept_changes
        if unedited := [
            column
            for column, cell in as_text.items()
            if stated.get(column) == cell and not (may_be_meant and column != "total_usage")
        ]:
            words = "; ".join(
                f"{column}: {shown(stated[column])} is how this file spells a cell that was no such text or number; "
                f"write what is meant{'' if column == 'total_usage' else ', or use --accept-changes'}"
                for column in unedited
            )
            return Kept(replace(state, outcome=Outcome(Reason.INVALID, words)))
        damaged = damaged_columns(original, stated)
        if damaged and not self._permissions.accept_changes:
            words = "; ".join(
                f"{column}: {shown(original[column])} has become {shown(stated[column])}, as spreadsheets do"
                for column in damaged
            )
            outcome = Outcome(Reason.CHANGED, f"{words}; put it back, or use --accept-changes")
            return replace(state, outcome=outcome, at_milliseconds=now_milliseconds())
        event = self._reader.event(entry.row)
        if isinstance(event, Outcome):
            return replace(state, outcome=event, at_milliseconds=now_milliseconds())
        values = {**self._reader.own_id_stated(entry.row), **asdict(event)}
        edits = [column for column, value in values.items() if original.get(column) != value]
        note = f"accepted as edited for the replay ({', '.join(edits)})" if edits else ""
        return Due(entry.number, event, self.event_id_of(entry.row, state), attempts=state.attempts, note=note)


def _state(entry: ReplayEntry, known: Mapping[int, RowState]) -> RowState:
    """Believe the ledger; but where it has a row as not recorded and the file has it as more, nobody knows."""
    state = known.get(entry.number) or RowState(entry.number, NOT_SENT)
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
