"""The folder of a ledger before a run is begun in it: where it is or would be, and whether one could be."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from uploader.ledger.database import unusable
from uploader.ledger.ledger import Ledger
from uploader.model.identity import RunIdentity


def try_ledger_folder(folder: Path) -> None:
    """Begin a throw-away run on the disk where the ledger is, or would be, and take it away again.

    Raises:
        LedgerRefusal: no run could begin there.
    """
    identity = RunIdentity(base_url="", period="", content_sha256="")
    try:
        for kept in (folder / "beginning.lock", folder / "claims.sqlite", *folder.glob("seen/*"), folder / "seen"):
            if kept.exists() and not os.access(kept, os.R_OK | os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(kept))
        with tempfile.TemporaryDirectory(prefix=".uploader-try-", dir=nearest_folder(folder)) as scratch:
            Ledger(Path(scratch), identity).close()
    except OSError as error:
        raise unusable(folder, error) from error


def nearest_folder(folder: Path) -> Path:
    """Give the folder, or the nearest one above it that is there: where it would be made."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())
