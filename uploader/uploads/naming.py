"""The event id that is posted with a row's usage event."""

from __future__ import annotations

from dataclasses import dataclass

from uploader.model.identity import EventIds
from uploader.model.model import Row
from uploader.readers.event_reader import EventReader


@dataclass(frozen=True, slots=True)
class Naming:
    """A row's event id: of its row number, or of the log's own id for it."""

    reader: EventReader
    by_row_number: EventIds

    def event_id(self, row: Row, *, last_own_id: str = "") -> str:
        """Give a row's event id.

        last_own_id: the log's own id that a replay gave the row; empty where the row's cells have it.
        """
        own_ids = self.reader.own_ids
        if own_ids is None:
            return self.by_row_number.of(row.number)
        return own_ids.event_id_of(last_own_id or own_ids.own_id(row))
