"""The third pass over a usage log: what became of each row, for the results and the books."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace

from uploader.ledger.ledger import Ledger
from uploader.ledger.overlap import RowSketches
from uploader.model.model import Batch, Cell, Reason, Row, RowState, cell_text
from uploader.model.wording import values_in_words
from uploader.readers.event_reader import EventReader
from uploader.readers.readers import UsageLog
from uploader.results.books import Books
from uploader.results.results import NOT_SENT
from uploader.uploads.naming import Naming
from uploader.uploads.own_events import OwnEvents

_MOST_CHARACTERS_KEPT = 4_096
"""Longer failed rows are not kept in full; an overlap with a replay of them compares only the cells in its file."""
_MOST_CHARACTERS_IN_ALL = 32_000_000
"""Of the rows of one run that are kept in full: what a person corrects in a spreadsheet is less."""
_MOST_BYTES_A_CHARACTER = 12
"""As JSON writes it, and twice while SQLite moves it."""
_ROOM_LEFT_BYTES = 64_000_000
"""What other runs may need of the ledger's disk meanwhile."""


class SettledRows:
    """What the ledger knows of an upload's rows.

    own_events: is told which events were accepted; None where events have no ids of their own.
    posted:     takes a sketch of the rows that may have been recorded; None where that of the first pass stands.
    """

    def __init__(
        self, naming: Naming, ledger: Ledger, books: Books, *, own_events: OwnEvents | None, posted: RowSketches | None
    ) -> None:
        self._naming = naming
        self._ledger = ledger
        self._books = books
        self._own_events = own_events
        self._posted = posted
        self._last_own_id_by_row: dict[int, str] = {}
        self._characters_kept = 0

    def states(self, log: UsageLog) -> Iterator[tuple[Batch, list[RowState]]]:
        """Enter all rows of the log in the books as they come out, and give what became of them, batch by batch."""
        self._ledger.edits.forget_log_cells()  # those of rows that have failed now are kept anew
        for batch in log.batches():
            state_by_row = self._ledger.known([row.number for row in batch.rows])
            states = [state_by_row.get(row.number) or RowState(row.number, NOT_SENT) for row in batch.rows]
            if all(state.outcome.reason is None for state in states):  # as most are; at once it takes half the time
                self._books.give_out_accepted(
                    rows=len(states), stated=self._naming.reader.check.units_stated(batch.rows)
                )
            else:
                for row, state in zip(batch.rows, states, strict=True):
                    self._books.give_out(self._naming.reader.check.units(row), state)
                self._keep_originals(log, batch.rows, states)
            if self._posted is not None:
                self._posted.add_all(_cells_posted(batch.rows, states))
            if self._own_events is not None:
                self._note_events(self._own_events, batch.rows, states)
            yield batch, _told_of_edits(batch.rows, states, self._naming.reader, self._ledger)

    def event_id_of(self, row: Row, _state: RowState) -> str:
        """Give the event id that a row of the batch that was given last was posted under, or would be."""
        return self._naming.event_id(row, last_own_id=self._last_own_id_by_row.get(row.number, ""))

    def _keep_originals(self, log: UsageLog, rows: Sequence[Row], states: Sequence[RowState]) -> None:
        failed = [
            row for row, state in zip(rows, states, strict=True) if state.outcome.reason is not None and not row.fault
        ]
        if not failed:
            return
        reader = self._naming.reader
        as_text = {row.number: reader.read_otherwise(row, log.as_text(row)) for row in failed}
        self._ledger.edits.keep_originals(
            {row.number: reader.stated(row) for row in failed},
            as_text_by_row={number: cells for number, cells in as_text.items() if cells},
        )
        self._keep_log_cells(failed)

    def _keep_log_cells(self, rows: Sequence[Row]) -> None:
        """Keep all cells of rows, as far as the ledger has room for them: what is to come matters more."""
        cells_by_row = {row.number: [cell_text(cell) for cell in row.cells] for row in rows}
        length_by_row = {number: sum(map(len, cells)) for number, cells in cells_by_row.items()}
        kept = [number for number, length in length_by_row.items() if length <= _MOST_CHARACTERS_KEPT]
        characters = self._characters_kept + sum(length_by_row[number] for number in kept)
        needed_bytes = characters * _MOST_BYTES_A_CHARACTER + _ROOM_LEFT_BYTES
        if characters <= _MOST_CHARACTERS_IN_ALL and shutil.disk_usage(self._ledger.path.parent).free >= needed_bytes:
            self._ledger.edits.keep_log_cells({number: cells_by_row[number] for number in kept})
            self._characters_kept = characters

    def _note_events(self, own_events: OwnEvents, rows: Sequence[Row], states: Sequence[RowState]) -> None:
        pairs = list(zip(rows, states, strict=True))
        self._last_own_id_by_row = self._ledger.own_ids(
            [row.number for row, state in pairs if state.outcome.may_be_recorded]
        )
        ids = ((row.number, self.event_id_of(row, state)) for row, state in pairs if state.outcome.reason is None)
        own_events.note_accepted((number, event_id) for number, event_id in ids if event_id)


def _told_of_edits(rows: Sequence[Row], states: list[RowState], reader: EventReader, ledger: Ledger) -> list[RowState]:
    """Have rows in doubt say what a replay posted last, where the log's own cells are others."""
    doubtful = {row.number: at for at, row in enumerate(rows) if states[at].outcome.reason is Reason.IN_DOUBT}
    posted_by_row = ledger.edits.posted([*doubtful]) if doubtful else {}
    for number, posted in posted_by_row.items():
        row, state = rows[doubtful[number]], states[doubtful[number]]
        stated = {} if row.fault else reader.stated(row)
        if edits := [column for column, value in posted.items() if stated.get(column) != value]:
            detail = f"{state.outcome.detail}; posted last by a replay, with {values_in_words(posted, edits)}"
            states[doubtful[number]] = replace(state, outcome=replace(state.outcome, detail=detail))
    return states


def _cells_posted(rows: Sequence[Row], states: Sequence[RowState]) -> list[Sequence[Cell]]:
    return [
        row.cells for row, state in zip(rows, states, strict=True) if state.outcome.may_be_recorded and not row.fault
    ]
