"""The ledger of a run that is known from a file of its results alone: its event ids are kept with its rows.

An event id is made from the run's identity, and of that only the run's id stands in the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from uploader.ledger.database import Database
from uploader.ledger.run_facts import RunFacts, keep_facts
from uploader.model.errors import InputError
from uploader.model.identity import RunIdentity
from uploader.model.model import RowState


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptedRow:
    """One row as its file has it.

    cells: of a row that is not accepted, the event's cells as they are read, by column; None for any other.
    """

    state: RowState
    event_id: str
    cells: dict[str, Any] | None


class AdoptedEventIds:
    """Gives each row of an adopted run the event id that its file has."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, row_number: int) -> str:
        """Give a row's event id; empty for a row that the file did not have."""
        found = self._database.rows("select event_id from adopted_row where row = ?", (row_number,))
        return str(found[0][0]) if found else ""


class Adoption:
    """What is done within one transaction to adopt a run."""

    def __init__(
        self, connection: Any, *, identity: RunIdentity, record: Callable[[Any, Sequence[RowState]], None]
    ) -> None:
        self._connection = connection
        self._record = record
        self.remember({"identity": identity.canonical})

    def take(self, rows: Sequence[AdoptedRow]) -> None:
        """Take some rows.

        Raises:
            InputError: one of them, or its event id, was taken before.
        """
        for row in rows:
            kept = self._connection.execute(
                "insert or ignore into adopted_row values (?, ?)", (row.state.row, row.event_id)
            )
            if kept.rowcount == 0:
                raise InputError(
                    f"row {row.state.row} stands in the file twice, or shares its upload_event_id with another row",
                    remedy="put upload_row and upload_event_id back as they were, or take the repeated row out",
                )
        self._record(self._connection, [row.state for row in rows])
        self._connection.executemany(
            "insert into original values (?, ?)",
            [(row.state.row, json.dumps(row.cells)) for row in rows if row.cells is not None],
        )

    def remember(self, facts: RunFacts) -> None:
        """Keep facts about the run itself."""
        keep_facts(self._connection, facts)
