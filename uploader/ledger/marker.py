"""A file ``usage.csv.uploading`` beside an unfinished run's results: a lost ledger must not look like a fresh start."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from uploader.ledger.durable import disk_faults, fsync_folder, write_durably
from uploader.model.errors import LedgerRefusal


class Marker:
    """The mark of one run, laid durably before its first POST and taken away when its results are durable."""

    def __init__(self, folder: Path, *, input_name: str, run_id: str, ledger_folder: Path, content_sha256: str) -> None:
        """Lay the mark, unless the run's own is there already.

        Raises:
            LedgerFault: the folder cannot be written to.
        """
        mark = {
            "run": run_id,
            "host": socket.gethostname(),
            "ledger": str(ledger_folder.resolve()),
            "content_sha256": content_sha256,
        }
        # At no moment half written: what names no run would stop the very upload that it belongs to.
        draft = folder / f".{run_id}.uploading"  # shorter than the names of the results, which could be had
        write_durably(draft, (json.dumps(mark, indent=1) + "\n").encode(), is_private=False)
        with disk_faults(draft):
            self._path = _laid(draft, folder, input_name, run_id)
            draft.unlink(missing_ok=True)
            fsync_folder(folder)

    def remove(self) -> None:
        """Take the mark away."""
        with disk_faults(self._path):
            self._path.unlink(missing_ok=True)
            fsync_folder(self._path.parent)


def demand_known_marks(folder: Path, *, input_name: str, knows: Callable[[str], bool], ledger_folder: Path) -> None:
    """Refuse to begin where an unfinished run left its mark that this ledger does not know.

    Raises:
        LedgerRefusal: there is such a mark.
    """
    for path in _marks(folder, input_name):
        mark = _mark_in(path)
        if not knows(str(mark.get("run"))):
            raise LedgerRefusal(
                f"{path}: an upload on host {mark.get('host', '?')} (run {mark.get('run', '?')}, ledger "
                f"{mark.get('ledger', '?')}) has not finished, and the ledger in {ledger_folder} does not know it",
                remedy="continue it there, or give --ledger that folder; remove the mark only if it never posted",
            )


def mark_of(folder: Path, run_id: str) -> Path | None:
    """Find the mark that an unfinished run left in a folder; None when there is none."""
    return next((path for path in sorted(folder.glob("*.uploading")) if _mark_in(path).get("run") == run_id), None)


def _marks(folder: Path, input_name: str) -> Iterator[Path]:
    return (
        path
        for path in sorted(folder.glob("*.uploading"))
        if path.name == f"{input_name}.uploading" or _is_numbered(path.name, input_name)
    )


def _is_numbered(name: str, input_name: str) -> bool:
    middle = name.removeprefix(f"{input_name}.").removesuffix(".uploading")
    return name == f"{input_name}.{middle}.uploading" and middle.isdigit()


def _laid(draft: Path, folder: Path, input_name: str, run_id: str) -> Path:
    """Lay a mark as ``NAME.uploading``, or under a number where another unfinished run has that."""
    for number in itertools.count(1):
        path = folder / (f"{input_name}.uploading" if number == 1 else f"{input_name}.{number}.uploading")
        if _mark_in(path).get("run") == run_id:
            draft.replace(path)
            break
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)  # unlike a rename it never replaces one that was laid this moment
            break
    return path


def _mark_in(path: Path) -> dict[str, str]:
    try:
        mark = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None  # a pipe would be waited for
    except (OSError, ValueError):
        return {}
    return mark if isinstance(mark, dict) else {}
