"""A row of a usage log as an upload sees it: its event, and the event id that is posted with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from uploader.identity import EventIds
from uploader.model import Outcome, Row, UsageEvent
from uploader.own_events import OwnIds, event_in
from uploader.schema import RowCheck


@dataclass(frozen=True, slots=True)
class Naming:
    """A row's usage event and its event id: of its row number, or of the log's own id for it."""

    check: RowCheck
    own_ids: OwnIds | None
    by_row_number: EventIds

    def event(self, row: Row) -> UsageEvent | Outcome:
        """Give a row's usage event, or why it cannot be posted."""
        return event_in(row, self.check, self.own_ids)

    def stated(self, row: Row) -> dict[str, Any]:
        """Give the row's cells as they are read, by column, to be compared with an edited copy."""
        own_id = {} if self.own_ids is None else self.own_ids.stated(row)
        return {**own_id, **self.check.stated(row)}

    def read_otherwise(self, row: Row, as_text: Row) -> dict[str, Any]:
        """Give those of the row's cells, by column, that are read as something else in a copy of it, and as what."""
        own_id = {} if self.own_ids is None else self.own_ids.stated(as_text)
        if self.own_ids is not None and own_id == self.own_ids.stated(row):
            own_id = {}
        return {**own_id, **self.check.read_otherwise(row, as_text)}

    def event_id(self, row: Row, *, last_own_id: str = "") -> str:
        """Give a row's event id.

        last_own_id: the log's own id that a replay gave the row; empty where the row's cells have it.
        """
        if self.own_ids is None:
            return self.by_row_number.of(row.number)
        return self.own_ids.event_id_of(last_own_id or self.own_ids.own_id(row))
