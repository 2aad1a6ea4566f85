"""Files about a command, such as its summary: written whole, and never over anything but one of their own kind."""

from __future__ import annotations

import os
from pathlib import Path

from uploader.durable import write_durably
from uploader.errors import RefusedError, SettingsError


def demand_place(path: Path, *, option: str, beginning: bytes) -> None:
    """Refuse a name that could not be written to, or that is taken by anything but an older file of the same kind.

    option:    that the name was given to, such as ``--summary``.
    beginning: the first bytes of every file of the kind.

    Raises:
        SettingsError: nothing was posted.
    """
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise SettingsError(f"{option} {path}: {folder} is no folder to write to", remedy="make it, or name another")
    if not _may_be_replaced(path, beginning=beginning):
        raise SettingsError(
            f"{option} {path}: is there already, and is something else", remedy="give a name of its own"
        )


def write_document(path: Path, text: str, *, option: str, beginning: bytes) -> None:
    """Write a file, durably.

    Raises:
        RefusedError: something else has the name by now.
        LedgerFault: it cannot be written.
    """
    if not _may_be_replaced(path, beginning=beginning):
        raise RefusedError(
            f"{option} {path}: not written, since something else has that name by now",
            remedy="give another, and run the same command again; the results are complete",
        )
    write_durably(path, text.encode("utf-8", "replace"), is_private=False)


def _may_be_replaced(path: Path, *, beginning: bytes) -> bool:
    if not os.path.lexists(path):
        return True
    if not path.is_file() or path.is_symlink():
        return False
    try:
        with path.open("rb") as file:
            start = file.read(len(beginning))
    except OSError:
        return False
    return start in (b"", beginning)
