"""The events of whole logs, sketched by the place and the columns that a log had: its rows come again under others."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from uploader.ledger.durable import disk_faults
from uploader.ledger.lock import moment
from uploader.ledger.sketch_files import EventsName, as_it_can_be_read, places, read_if_there, short, write_sketch

_EARLIER = "earlier"
"""The subfolder for logs that a later one has replaced: an unfinished run may still send rows of them."""


class SeenEvents:
    """What one run sees of the logs that had its place, and keeps of its own."""

    def __init__(self, folder: Path, run_id: str, *, own_ids: str) -> None:
        self._seen = folder
        self._folder = folder / "events"
        self._run_id = run_id
        self._own_ids = own_ids

    def last_at(self, path: Path, *, columns: Sequence[str] | None) -> Iterator[tuple[str, bytes]]:
        """Give the last runs whose log was in a place under other columns; None for whatever columns.

        With each, the sketch of that log's events.
        """
        alike = set() if columns is None else {short(sorted(columns))}
        yield from self._others(self._folder, places(path), alike=alike)

    def replaced_at(self, path: Path, *, columns: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Give, likewise, the runs whose log was in a place before that of the last ones."""
        yield from self._others(self._folder / _EARLIER, places(path), alike={short(sorted(columns))})

    def all_at(self, path: Path) -> Iterator[tuple[str, bytes]]:
        """Give, likewise, the last and the earlier runs, of the places in which this run's log was or is."""
        own = [EventsName.of(kept) for kept in self._own_files()]
        at, alike = {*places(path), *(name.place for name in own)}, {name.columns for name in own}
        for folder in (self._folder, self._folder / _EARLIER):
            yield from self._others(folder, at, alike=alike)

    def own(self) -> list[bytes]:
        """Give the sketches of this run's events that ``keep`` kept."""
        with self._alone():
            return [events for kept in self._own_files() if (events := read_if_there(kept)) is not None]

    def keep(self, events: bytes, *, path: Path, columns: Sequence[str]) -> None:
        """Keep the sketch of this run's events, and where its log is.

        Raises:
            LedgerFault: it cannot be written.
        """
        with self._alone():
            for place in places(path):
                name = EventsName(place, short(sorted(columns)), self._run_id, self._own_ids).file_name
                replaced = self._folder / _EARLIER / name
                write_sketch(replaced if replaced.exists() else self._folder / name, events)

    def change(self, changed: Callable[[bytes], bytes]) -> None:
        """Keep another sketch of this run's events in the place of each that ``keep`` kept, made of that.

        Raises:
            LedgerFault: one cannot be written.
        """
        with self._alone():
            for kept in self._own_files():
                if (events := read_if_there(kept)) is not None:
                    write_sketch(kept, changed(events))

    def replace(self, path: Path, *, of: Iterable[str]) -> None:
        """Move the sketches of logs that were at this path to the earlier ones: this run's log has replaced them.

        of: their runs; one that began later stays.

        Raises:
            LedgerFault: a sketch cannot be moved.
        """
        runs = set(of)
        with self._alone():
            for before in self._files(self._folder, places(path)):
                if EventsName.of(before).run_id in runs:
                    with disk_faults(before):
                        (self._folder / _EARLIER).mkdir(exist_ok=True, mode=0o700)
                        before.replace(self._folder / _EARLIER / before.name)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others from moving or rewriting sketches of a place meanwhile."""
        with disk_faults(self._seen):
            self._seen.mkdir(parents=True, exist_ok=True, mode=0o700)
            with moment(self._seen / "events.lock"):
                yield

    def _others(self, folder: Path, at: Iterable[str], *, alike: set[str]) -> Iterator[tuple[str, bytes]]:
        with as_it_can_be_read(self._seen):
            for kept in self._files(folder, at):
                name = EventsName.of(kept)
                is_told_apart_by_ids = name.own_ids and name.own_ids == self._own_ids
                if name.run_id == self._run_id or name.columns in alike or is_told_apart_by_ids:
                    continue
                if (events := read_if_there(kept)) is not None:
                    yield name.run_id, events

    def _own_files(self) -> list[Path]:
        pattern = EventsName("*", "*", self._run_id, self._own_ids).file_name
        return sorted([*self._folder.glob(pattern), *(self._folder / _EARLIER).glob(pattern)])

    @staticmethod
    def _files(folder: Path, at: Iterable[str]) -> set[Path]:
        return {kept for place in at for kept in folder.glob(f"{place}-*.theta")}
