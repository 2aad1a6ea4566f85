"""Where backends refused calls, kept from one command to the next: a small file a base URL, which nothing hangs on."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from uploader.ledger.durable import disk_faults, write_durably
from uploader.ledger.sketch_files import short
from uploader.model.errors import LedgerFault
from uploader.pacing.ceiling import Refused


def found_limit(ledger_folder: Path, *, base_url: str) -> Refused | None:
    """Give what the last command to a base URL found; None where there was none, or its file cannot be read."""
    try:
        calls, seconds = map(float, json.loads(_path(ledger_folder, base_url).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return Refused(calls, seconds) if calls >= 1 and 0 <= seconds < float("inf") else None


def keep_limit(ledger_folder: Path, refused: Refused, *, base_url: str) -> None:
    """Keep what a command found for the next one; a disk that has no room for it is none of its business."""
    path = _path(ledger_folder, base_url)
    with contextlib.suppress(LedgerFault):
        with disk_faults(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(path, json.dumps(refused).encode())


def _path(ledger_folder: Path, base_url: str) -> Path:
    return ledger_folder / "limits" / f"{short([base_url])}.json"
