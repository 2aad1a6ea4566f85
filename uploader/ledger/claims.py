"""Which row of which run may post an event that the log itself names (``--event-id``): one file for all runs.

A claim is durable before the row's own ledger says "sending". It says who may post the event; what became of it is said
by the owner's ledger, so that the two cannot differ. Only "accepted", which is for ever, is noted here too.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from uploader.ledger.database import Database, question_marks
from uploader.model.model import UsageEvent

_VERSION = 1
_TABLES = """
create table claim (
  id blob primary key, content blob not null, run text not null, row integer not null,
  is_accepted integer not null default 0
) without rowid;
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """A row's claim to an event.

    id:          16 bytes, the event id.
    content:     16 bytes, made from the event's values.
    is_accepted: the owner is known to have been accepted; False when its ledger must be asked.
    """

    id: bytes
    content: bytes
    run_id: str
    row: int
    is_accepted: bool = False

    @classmethod
    def of(cls, event_id: str, event: UsageEvent, *, run_id: str, row: int) -> Claim:
        """Make the claim of a row."""
        values = json.dumps([event.tenant_id, event.device_id, event.meter_id, event.total_usage])
        return cls(uuid.UUID(event_id).bytes, hashlib.sha256(values.encode()).digest()[:16], run_id, row)

    def is_to(self, event_id: str) -> bool:
        """Tell whether it is the claim to this event."""
        return self.id == uuid.UUID(event_id).bytes

    def is_by_the_same_row(self, other: Claim) -> bool:
        """Tell whether one row made both."""
        return (self.run_id, self.row) == (other.run_id, other.row)


def claims_path(ledger_folder: Path) -> Path:
    """Name the file of all claims."""
    return ledger_folder / "claims.sqlite"


class Claims:
    """The file of claims, open; other processes may have it open too.

    Every method raises LedgerFault when the file cannot be read or written.
    """

    def __init__(self, ledger_folder: Path) -> None:
        """Open the file, or begin it.

        Raises:
            LedgerRefusal: a newer program wrote it, or it cannot be used.
        """
        self._database = Database(claims_path(ledger_folder), tables=_TABLES, version=_VERSION, is_shared=True)

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def stake(self, wanted: Sequence[Claim]) -> list[Claim]:
        """Claim events for rows, durably; give the claim that stands for each: another's, if that came first.

        A row that has its claim already, and has other values now, restates it.
        """
        with self._database.transaction() as connection:
            connection.executemany(
                "insert into claim (id, content, run, row) values (?, ?, ?, ?) "
                "on conflict do update set content = excluded.content where run = excluded.run and row = excluded.row "
                "and not is_accepted",
                [(claim.id, claim.content, claim.run_id, claim.row) for claim in wanted],
            )
        standing_by_id = self.standing(wanted)
        return [standing_by_id[claim.id] for claim in wanted]

    def standing(self, wanted: Sequence[Claim]) -> dict[bytes, Claim]:
        """Give the claims that stand for the same events, by event id; nothing is claimed."""
        query = f"select id, content, run, row, is_accepted from claim where id in ({question_marks(wanted)})"  # noqa: S608 -- question marks alone
        found = self._database.rows(query, [claim.id for claim in wanted])
        return {
            found_id: Claim(found_id, content, run_id, row, bool(is_accepted))
            for found_id, content, run_id, row, is_accepted in found
        }

    def take_over(self, standing: Claim, claim: Claim) -> bool:
        """Take the claim of a row over that was certainly not recorded; False if another was quicker."""
        with self._database.transaction() as connection:
            changed = connection.execute(
                "update claim set content = ?, run = ?, row = ? "
                "where id = ? and run = ? and row = ? and not is_accepted",
                (claim.content, claim.run_id, claim.row, standing.id, standing.run_id, standing.row),
            ).rowcount
        return changed == 1

    def note_accepted(self, event_ids_by_row: Iterable[tuple[int, str]], *, run_id: str) -> None:
        """Mark the claims of accepted rows; rows without the claim to their event are skipped."""
        with self._database.transaction() as connection:
            connection.executemany(
                "update claim set is_accepted = 1 where id = ? and run = ? and row = ? and not is_accepted",
                [(uuid.UUID(event_id).bytes, run_id, row) for row, event_id in event_ids_by_row],
            )
