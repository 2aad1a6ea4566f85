"""A row of a usage log -> its usage event: as the schema judges it, and under the log's own id where it has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from uploader.model.errors import InputError
from uploader.model.identity import OwnEventIds
from uploader.model.model import Cell, Outcome, Reason, Row, UsageEvent
from uploader.model.wording import shown
from uploader.readers.open_log import Log
from uploader.schema.known_cells import Column
from uploader.schema.schema import RowCheck


class OwnIds:
    """The column of a log that names its events (``--event-id``)."""

    def __init__(self, log: Log, column: str, *, base_url: str) -> None:
        """Find the column.

        Raises:
            InputError: the log has none of that name.
        """
        if column not in log.columns:
            raise InputError(
                f"{log.path}: no column named {column!r}, which --event-id names",
                remedy=f"its columns are {', '.join(log.columns)}",
            )
        self.column = column
        self._at = log.columns.index(column)
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

    def checked(self, row: Row, event: UsageEvent | Outcome) -> UsageEvent | Outcome:
        """Give a row's event as the schema judged it, unless its id cannot be used."""
        if row.fault or _text(row.cells[self._at]):
            return event
        cell = row.cells[self._at]
        problem = "is empty" if cell in (None, "") else f"{shown(cell)} is neither text nor an integer"
        words = [event.detail] if isinstance(event, Outcome) else []
        return Outcome(Reason.INVALID, "; ".join([*words, f"{self.column}: {problem}"]))


@dataclass(frozen=True, slots=True)
class EventReader:
    """How the rows of one log are read.

    check:   the schema, fitted to its columns.
    own_ids: None where events are not named by the log.
    """

    check: RowCheck
    own_ids: OwnIds | None

    @classmethod
    def of(cls, log: Log, check: RowCheck, *, event_id: str | None, base_url: str) -> EventReader:
        """Read a log by a schema that was fitted to it, and ``event_id``, the column of its own ids; None for none.

        Raises:
            InputError: the log has no such column.
        """
        return cls(check, None if event_id is None else OwnIds(log, event_id, base_url=base_url))

    @property
    def columns_alone(self) -> Sequence[Column] | None:
        """The columns of which each judges its cells by itself, the usage event's first; None when rows are judged."""
        columns = self.check.columns_alone
        return columns if columns is None or self.own_ids is None else [*columns, self.own_ids.column_alone]

    def event(self, row: Row) -> UsageEvent | Outcome:
        """Give a row's usage event, or why it cannot be posted."""
        event = self.check.event(row)
        return event if self.own_ids is None else self.own_ids.checked(row, event)

    def own_id_stated(self, row: Row) -> dict[str, str]:
        """Give the log's own id for a row by its column, to be compared with an edited copy; nothing without ids."""
        return {} if self.own_ids is None else {self.own_ids.column: self.own_ids.own_id(row)}

    def stated(self, row: Row) -> dict[str, Any]:
        """Give the row's cells as they are read, by column, to be compared with an edited copy."""
        return {**self.own_id_stated(row), **self.check.stated(row)}

    def read_otherwise(self, row: Row, as_text: Row) -> dict[str, Any]:
        """Give those of the row's cells, by column, that are read as something else in a copy of it, and as what."""
        own_id = self.own_id_stated(as_text)
        if own_id == self.own_id_stated(row):
            own_id = {}
        return {**own_id, **self.check.read_otherwise(row, as_text)}


def _text(cell: Cell) -> str:
    return str(cell) if isinstance(cell, str) or type(cell) is int else ""


def _demanded_text(cell: Cell) -> str:
    if text := _text(cell):
        return text
    raise ValueError
