"""What a run's ledger holds, looked at without taking part in the run: nothing is noted, and no run is begun."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from uploader.ledger.database import Database
from uploader.ledger.edits import own_ids_in
from uploader.ledger.ledger import History, is_in
from uploader.ledger.run_facts import facts_in
from uploader.ledger.run_file import in_a_range, islands, looked_at
from uploader.model.identity import RunIdentity
from uploader.model.model import Outcome, Reason, RowState

_ACCEPTED = islands("select row from outcome where reason is null")
_IN_DOUBT = islands("select row from outcome where reason = 'in_doubt' union select row from sending")
_RANGES = "select first, last from accepted_range order by first"
_KEPT_CELLS = """
select row, cells from {table} as kept
where exists (select 1 from outcome where row = kept.row and (reason is null or reason = 'in_doubt'))
  or exists (select 1 from sending where row = kept.row)
  or {in_range}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """Which rows of a run are accepted or in doubt, as ranges (first, last) in order, and own ids of some of them.

    A row that a crashed upload was sending counts as in doubt, as it will once the run continues.
    """

    identity: RunIdentity
    accepted: Sequence[tuple[int, int]] = ()
    accepted_and_shrunk: Sequence[tuple[int, int]] = ()
    in_doubt: Sequence[tuple[int, int]] = ()
    own_id_by_row: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path, identity: RunIdentity) -> Glance:
        """Look at a run; one that is not known holds nothing.

        Raises:
            LedgerRefusal: a process is at work on it just now, or its file cannot be read.
        """
        with looked_at(folder, identity.run_id) as database:
            if database is None:
                return cls(identity=identity)
            return cls(
                identity=identity,
                accepted=_ranges(database, _ACCEPTED),
                accepted_and_shrunk=_ranges(database, _RANGES),
                in_doubt=_ranges(database, _IN_DOUBT),
                own_id_by_row=_own_ids(database),
            )

    def known(self, rows: Sequence[int]) -> dict[int, RowState]:
        """Give the states of those rows that are accepted or in doubt, by row number."""
        doubt, accepted = Outcome(Reason.IN_DOUBT), Outcome(None)
        states = {}
        for row in rows:
            if is_in(row, self.in_doubt):
                states[row] = RowState(row, doubt)
            elif is_in(row, self.accepted) or is_in(row, self.accepted_and_shrunk):
                states[row] = RowState(row, accepted)
        return states

    def own_ids(self, rows: Sequence[int]) -> dict[int, str]:
        """Give the log's own ids (``--event-id``) that some of those rows had last, where their cells are kept."""
        return {row: self.own_id_by_row[row] for row in rows if row in self.own_id_by_row}

    def history(self) -> History:
        """Sum up what is accepted or in doubt."""
        accepted = [*self.accepted, *self.accepted_and_shrunk]
        return History(
            accepted=_count(accepted),
            in_doubt=_count(self.in_doubt),
            last_row=max((last for _, last in (*accepted, *self.in_doubt)), default=0),
            at_milliseconds=0,
        )


def _ranges(database: Database, query: str) -> list[tuple[int, int]]:
    return [(first, last) for first, last in database.rows(query)]


def _own_ids(database: Database) -> dict[int, str]:
    column = facts_in(database).get("event_id")
    if column is None:
        return {}
    kept = [(row, json.loads(cells)) for table in ("original", "posted") for row, cells in _kept(database, table)]
    return own_ids_in(dict(kept), event_id=column)


def _kept(database: Database, table: str) -> list[tuple[int, str]]:
    query = _KEPT_CELLS.format(table=table, in_range=in_a_range("kept.row"))
    return [(row, cells) for row, cells in database.rows(query)]


def _count(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(last - first + 1 for first, last in ranges)
