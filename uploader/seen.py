"""The sketches of what earlier runs posted, one small file a run, by destination and period."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from uploader.durable import disk_faults, write_durably
from uploader.errors import LedgerRefusal
from uploader.identity import RunIdentity
from uploader.run_file import RunFacts, remembered

_REPLAYS = ".replays"
COMPARED_WITH_NONE: Mapping[str, int] = MappingProxyType({})


class SeenRows:
    """What the runs to one destination, in one period, accepted or left in doubt.

    event_id: the column of the log's own ids, which keep the rows of two such runs apart by themselves; None without.
    """

    def __init__(self, ledger_folder: Path, identity: RunIdentity, *, event_id: str | None) -> None:
        kind = json.dumps([identity.base_url, identity.period])
        self._ledger_folder = ledger_folder
        self._checksums: dict[str, int] | None = None
        self._folder = ledger_folder / "seen" / hashlib.sha256(kind.encode()).hexdigest()[:16]
        self._run_id = identity.run_id
        self._claims_by = "" if event_id is None else "-" + hashlib.sha256(event_id.encode()).hexdigest()[:8]

    def kept_by_run(self, *, but_for: Mapping[str, int] = COMPARED_WITH_NONE) -> dict[str, bytes]:
        """Give the sketches of the other runs, but for those whose events are known by the same column of own ids.

        but_for: what ``checksums`` gave; those that are as they were then are left out.
        """
        kept = {run: path.read_bytes() for run, path in self._others().items()}
        self._checksums = {run: zlib.crc32(rows) for run, rows in kept.items()}
        return {run: rows for run, rows in kept.items() if self._checksums[run] != but_for.get(run)}

    def checksums(self) -> dict[str, int]:
        """Give, by run, by what the sketches given last are known again: a copy of the ledger has other times."""
        if self._checksums is None:
            self.kept_by_run()
        return self._checksums or {}

    def unfinished(self, run: str) -> RunFacts | None:
        """Give the facts of a run, named as in ``kept_by_run``, which may post rows yet; none where it is at work."""
        if " " in run:
            return None
        try:
            facts = remembered(self._ledger_folder, run) or RunFacts()
        except LedgerRefusal:
            return RunFacts()
        accepted, _ = facts.get("totals", {}).get("accepted", [0, 0])
        is_done = "input" not in facts or facts.get("is_finished") or accepted == facts["rows"]
        return None if is_done else facts

    def own_replays(self) -> bytes | None:
        """Give the sketch of what this run's replays posted; None when there is none."""
        path = self._path(_REPLAYS)
        return path.read_bytes() if path.exists() else None

    def keep(self, rows: bytes) -> None:
        """Keep the sketch of this run's rows, in the place of an earlier one.

        Raises:
            LedgerFault: it cannot be written.
        """
        self._write(self._path(""), rows)

    def keep_replays(self, rows: bytes) -> None:
        """Keep the sketch of what this run's replays posted: rows as they were edited, which its log does not have.

        Raises:
            LedgerFault: it cannot be written.
        """
        self._write(self._path(_REPLAYS), rows)

    def _others(self) -> dict[str, Path]:
        return {
            _run_of(path): path
            for path in sorted(self._folder.glob("r*.theta"))
            if _run_of(path).partition(" ")[0] != self._run_id
            and not (self._claims_by and path.stem.endswith(self._claims_by))
        }

    def _write(self, path: Path, rows: bytes) -> None:
        with disk_faults(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(path, rows)

    def _path(self, part: str) -> Path:
        return self._folder / f"{self._run_id}{part}{self._claims_by}.theta"


def _run_of(path: Path) -> str:
    name = path.stem.partition("-")[0]
    return f"{name.removesuffix(_REPLAYS)} (replays)" if name.endswith(_REPLAYS) else name


def knows_runs_by_own_ids(ledger_folder: Path) -> bool:
    """Tell whether there were uploads whose events are named by the log (``--event-id``)."""
    return next(ledger_folder.glob("seen/*/r*-*.theta"), None) is not None
