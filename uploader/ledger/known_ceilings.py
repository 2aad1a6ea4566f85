"""How many calls at once were too many for a backend, kept for the next command: a small file a base URL.

Nothing hangs on it: one that is missing, damaged or cannot be written costs a question to a person at the most.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from uploader.ledger.durable import disk_faults, write_durably
from uploader.ledger.sketch_files import short
from uploader.model.errors import LedgerFault
from uploader.model.settings import MOST_IN_FLIGHT
from uploader.pacing.climb import UNQUESTIONED
from uploader.pacing.lesson import KnownCeiling

_MOST_BYTES = 100


def known_ceiling(ledger_folder: Path, *, base_url: str) -> KnownCeiling | None:
    """Give what the last command to a base URL left; None where there is nothing, or nothing that makes sense."""
    path = _path(ledger_folder, base_url)
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        with path.open("rb") as file:
            kept = json.loads(file.read(_MOST_BYTES))
        known = KnownCeiling(float(kept["calls"]), int(kept["quiet_commands"]))
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return known if UNQUESTIONED <= known.calls <= MOST_IN_FLIGHT and known.quiet_commands >= 0 else None


def keep_ceiling(ledger_folder: Path, known: KnownCeiling | None, *, base_url: str) -> None:
    """Keep what the next command to a base URL should know; None to forget it."""
    path = _path(ledger_folder, base_url)
    with contextlib.suppress(LedgerFault), disk_faults(path):
        if known is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(path, json.dumps(known._asdict()).encode())


def _path(ledger_folder: Path, base_url: str) -> Path:
    return ledger_folder / "limits" / f"{short([base_url])}.json"
