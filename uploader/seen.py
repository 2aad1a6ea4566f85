"""The sketches of what earlier runs posted, one small file a run, by destination and period."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from uploader.durable import disk_faults, write_durably
from uploader.identity import RunIdentity


class SeenRows:
    """What the runs to one destination, in one period, accepted or left in doubt.

    event_id: the column of the log's own ids, which keep the rows of two such runs apart by themselves; None without.
    """

    def __init__(self, ledger_folder: Path, identity: RunIdentity, *, event_id: str | None) -> None:
        kind = json.dumps([identity.base_url, identity.period])
        self._folder = ledger_folder / "seen" / hashlib.sha256(kind.encode()).hexdigest()[:16]
        self._run_id = identity.run_id
        self._claims_by = "" if event_id is None else "-" + hashlib.sha256(event_id.encode()).hexdigest()[:8]

    def kept_by_run_id(self) -> dict[str, bytes]:
        """Give the sketches of the other runs, but for those whose events are known by the same column of own ids."""
        return {
            path.stem.partition("-")[0]: path.read_bytes()
            for path in sorted(self._folder.glob("r*.theta"))
            if path.stem.partition("-")[0] != self._run_id
            and not (self._claims_by and path.stem.endswith(self._claims_by))
        }

    def own(self) -> bytes | None:
        """Give this run's sketch; None when there is none."""
        return self._path.read_bytes() if self._path.exists() else None

    def keep(self, rows: bytes) -> None:
        """Keep the sketch of this run's rows, in the place of an earlier one.

        Raises:
            LedgerFault: it cannot be written.
        """
        with disk_faults(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(self._path, rows)

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._run_id}{self._claims_by}.theta"


def knows_runs_by_own_ids(ledger_folder: Path) -> bool:
    """Tell whether there were uploads whose events are named by the log (``--event-id``)."""
    return next(ledger_folder.glob("seen/*/r*-*.theta"), None) is not None
