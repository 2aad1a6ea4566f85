"""Sketches as files: how they are named, by whose rows they are and where the log was, and how they are read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from uploader.ledger.database import unusable
from uploader.ledger.durable import disk_faults, write_durably

_REPLAYS = ".replays"
_USUAL = ".under-usual-names"


class PostedName(NamedTuple):
    """A sketch of what a run, or its replays, posted.

    own_ids: the column of the log's own ids, as ``short_of_column`` has it; empty without one.
    """

    run_id: str
    is_of_replays: bool
    own_ids: str

    @classmethod
    def of(cls, path: Path) -> PostedName:
        """Read the name of a file."""
        run, _, own_ids = path.stem.partition("-")
        return cls(run.removesuffix(_REPLAYS), run.endswith(_REPLAYS), own_ids)

    @property
    def file_name(self) -> str:
        """The name as a file has it."""
        return f"{self.run_id}{_REPLAYS if self.is_of_replays else ''}{_last(self.own_ids)}.theta"

    @property
    def label(self) -> str:
        """The name as a person reads it."""
        return replays_of(self.run_id) if self.is_of_replays else self.run_id


class LogName(NamedTuple):
    """A sketch of all rows of a run's log, in the place where that was."""

    place: str
    run_id: str
    own_ids: str
    is_under_usual_names: bool = False

    @classmethod
    def of(cls, path: Path) -> LogName:
        """Read the name of a file."""
        parts, _, usual = path.stem.partition(".")
        place, run_id, *own_ids = parts.split("-")
        return cls(place, run_id, "".join(own_ids), bool(usual))

    @property
    def file_name(self) -> str:
        """The name as a file has it, or a pattern of such names."""
        return f"{self.place}-{self.run_id}{_last(self.own_ids)}{_USUAL if self.is_under_usual_names else ''}.theta"


class EventsName(NamedTuple):
    """A sketch of all events of a run's log, in the place and under the columns that it had."""

    place: str
    columns: str
    run_id: str
    own_ids: str

    @classmethod
    def of(cls, path: Path) -> EventsName:
        """Read the name of a file."""
        place, columns, run_id, *own_ids = path.stem.split("-")
        return cls(place, columns, run_id, "".join(own_ids))

    @property
    def file_name(self) -> str:
        """The name as a file has it, or a pattern of such names."""
        return f"{self.place}-{self.columns}-{self.run_id}{_last(self.own_ids)}.theta"


def _last(own_ids: str) -> str:
    return f"-{own_ids}" if own_ids else ""


def replays_of(run_id: str) -> str:
    """Name the replays of a run."""
    return f"{run_id} (replays)"


def is_of_replays(label: str) -> bool:
    """Tell whether a label is that of a run's replays."""
    return " " in label


def short(texts: Sequence[str]) -> str:
    """Name some texts in few characters."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def short_of_column(column: str | None) -> str:
    """Name a column in few characters; empty for none."""
    return "" if column is None else hashlib.sha256(column.encode()).hexdigest()[:8]


def places(path: Path) -> list[str]:
    """Name the places of a log, however its path is spelled: where it is, and where a link has it."""
    both = dict.fromkeys((os.path.realpath(path), place_of(path)))
    return [hashlib.sha256(os.fsencode(place)).hexdigest()[:16] for place in both]


def place_of(path: Path) -> str:
    """Name where a log is, however its path is spelled; a link to one is another place."""
    return os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118 -- for ".." as for any other name


def read_if_there(kept: Path) -> bytes | None:
    """Read a sketch; None if its run has removed or moved it this moment (a moved one is read where it went)."""
    try:
        return kept.read_bytes()
    except FileNotFoundError:
        return None


def write_sketch(path: Path, rows: bytes) -> None:
    """Write a sketch, in the place of an earlier one.

    Raises:
        LedgerFault: it cannot be written.
    """
    with disk_faults(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_durably(path, rows)


@contextlib.contextmanager
def as_it_can_be_read(folder: Path) -> Iterator[None]:
    """Refuse where a folder of sketches cannot be read: it must not look empty.

    Raises:
        LedgerRefusal: it cannot be read.
    """
    try:
        # Some versions of Python pass over folders that may not be looked into.
        if folder.parent.exists() and not os.access(folder.parent, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        yield
    except OSError as error:
        raise unusable(folder, error) from error
