"""Files about a command, such as its summary: written whole, and never over anything but one of their own kind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from uploader.ledger.durable import write_durably
from uploader.model.errors import RefusedError, SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentKind:
    """What a file is, and the first bytes by which files of that kind are known."""

    name: str
    beginning: bytes


SUMMARY = DocumentKind(name="summary", beginning=b'{\n  "summary_version":')
REPORT = DocumentKind(name="report", beginning=b"<!doctype html>\n<!-- uploader report -->")


def demand_place(path: Path, kind: DocumentKind) -> None:
    """Refuse a name that could not be written to, or that is taken by anything but an older file of the same kind.

    Raises:
        SettingsError: nothing was posted.
    """
    folder = path.parent
    if not os.access(folder, os.W_OK | os.X_OK) or not folder.is_dir():
        raise SettingsError(f"{kind.name} {path}: {folder} is no folder to write to", remedy="make it, or name another")
    if not _may_be_replaced(path, kind):
        raise SettingsError(
            f"{kind.name} {path}: is there already, and is something else", remedy="give a name of its own"
        )


def write_document(path: Path, text: str, kind: DocumentKind) -> None:
    """Write a file, durably.

    Raises:
        RefusedError: something else has the name by now.
        LedgerFault: it cannot be written.
    """
    if not _may_be_replaced(path, kind):
        raise RefusedError(
            f"{kind.name} {path}: not written, since something else has that name by now",
            remedy="give another, and run the same command again; the results are complete",
        )
    write_durably(path, text.encode("utf-8", "replace"), is_private=False)


def _may_be_replaced(path: Path, kind: DocumentKind) -> bool:
    if not os.path.lexists(path):
        return True
    if not path.is_file() or path.is_symlink():
        return False
    try:
        with path.open("rb") as file:
            start = file.read(len(kind.beginning))
    except OSError:
        return False
    return start in (b"", kind.beginning)
