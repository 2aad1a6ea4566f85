"""The sketches of what earlier runs posted, one small file a run, by destination and period."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from uploader.ledger.database import unusable
from uploader.ledger.durable import disk_faults, write_durably
from uploader.ledger.lock import moment
from uploader.ledger.run_file import accepted_in, remembered
from uploader.model.errors import LedgerRefusal
from uploader.model.identity import RunIdentity
from uploader.model.model import Reason

_REPLAYS = ".replays"
_EARLIER = "earlier"
"""The subfolder for logs that a later one has replaced: an unfinished run may still send rows of them."""
COMPARED_WITH_NONE: Mapping[str, int] = MappingProxyType({})


class SeenRows:
    """What the runs to one destination, in one period, accepted or left in doubt.

    event_id: the column of the log's own ids, which keep the rows of two such runs apart by themselves; None without.
    """

    def __init__(self, ledger_folder: Path, identity: RunIdentity, *, event_id: str | None) -> None:
        self._ledger_folder = ledger_folder
        self._checksums: dict[str, int] | None = None
        self._folder = ledger_folder / "seen" / _short([identity.base_url, identity.period])
        self._run_id = identity.run_id
        self._claims_by = "" if event_id is None else "-" + hashlib.sha256(event_id.encode()).hexdigest()[:8]

    def kept_by_run(self, *, but_for: Mapping[str, int] = COMPARED_WITH_NONE) -> dict[str, bytes]:
        """Give the sketches of the other runs, but for those whose events are known by the same column of own ids.

        but_for: what ``checksums`` gave; those that are as they were then are left out.
        """
        with self._as_it_can_be_read():
            kept = {run: path.read_bytes() for run, path in self._others().items()}
        self._checksums = {run: zlib.crc32(rows) for run, rows in kept.items()}
        return {run: rows for run, rows in kept.items() if self._checksums[run] != but_for.get(run)}

    def checksums(self) -> dict[str, int]:
        """Give the checksum of each sketch that was read last, by run. Not its time: a restored ledger has others."""
        if self._checksums is None:
            self.kept_by_run()
        return self._checksums or {}

    def is_unfinished(self, run: str) -> bool:
        """Tell whether a run, named as in ``kept_by_run``, may post rows yet."""
        if " " in run:
            return False
        try:
            facts = remembered(self._ledger_folder, run)
        except LedgerRefusal:  # it is at work
            return True
        accepted, _ = accepted_in(facts.get("totals", {}))
        return not ("input" not in facts or facts.get("is_finished") or accepted == facts["rows"])

    def logs_in_place_of(self, path: Path) -> Iterator[tuple[str, bytes, list[bytes]]]:
        """Give the other runs whose log was in a place, and which have not posted all of it.

        With each, the sketches of that log, and of what of it they accepted or left in doubt.
        """
        with self._as_it_can_be_read():
            posted = self._others()
            kept_there = {kept for place in _places(path) for kept in self._folder.glob(f"logs/{place}-*.theta")}
            for kept in sorted(kept_there):
                run = kept.stem.split("-")[1].partition(".")[0]
                rows = _read_if_there(kept)
                if run in posted and rows is not None:
                    sketches = [posted[at].read_bytes() for at in (run, _replays(run)) if at in posted]
                    yield run, rows, sketches

    def keep_log(self, rows: Sequence[bytes], *, path: Path) -> None:
        """Keep the sketches of this run's whole log, and where that is, until all of it is posted.

        rows: as they stand and, if that differs, as they are seen.

        Raises:
            LedgerFault: one cannot be written.
        """
        for place in _places(path):
            for part, sketch in zip(("", ".under-usual-names"), rows, strict=False):
                name = f"{place}-{self._run_id}{self._claims_by}{part}.theta"
                self._write(self._folder / "logs" / name, sketch)

    def events_in_place_of(self, path: Path, *, columns: Sequence[str] | None) -> Iterator[tuple[str, bytes]]:
        """Give the last runs whose log was in a place under other columns; None for whatever columns.

        With each, the sketch of that log's events.
        """
        alike = [] if columns is None else [_short(sorted(columns))]
        yield from self._other_events("events", _places(path), alike=alike)

    def replaced_events(self, path: Path, *, columns: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Give, likewise, the runs whose log was in a place before that of the last ones."""
        yield from self._other_events(f"events/{_EARLIER}", _places(path), alike=[_short(sorted(columns))])

    def events_since(self, path: Path, since: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
        """Give, likewise, those that are not as they were, of the places in which this run's log was or is.

        since: what ``checksums`` gave.
        """
        own = self._own_events()
        places, alike = {*_places(path), *(_part(kept, 0) for kept in own)}, {_part(kept, 1) for kept in own}
        for folder in ("events", f"events/{_EARLIER}"):
            for run, events in self._other_events(folder, places, alike=alike):
                if not self._is_as_it_was(run, since):
                    yield run, events

    def may_have_posted(self, run: str) -> bool:
        """Tell whether any row of a run was accepted or left in doubt, or may be yet."""
        try:
            facts = remembered(self._ledger_folder, run)
        except LedgerRefusal:  # it is at work
            return True
        if "totals" not in facts or not facts.get("is_summed_up", True):  # its last command was killed
            return True
        totals = facts["totals"]
        return bool(accepted_in(totals)[0] or totals.get(Reason.IN_DOUBT.value, [0])[0])

    def keep_events(self, events: bytes, *, path: Path, columns: Sequence[str]) -> None:
        """Keep the sketch of this run's events, and where its log is.

        Raises:
            LedgerFault: it cannot be written.
        """
        with self._alone():
            for place in _places(path):
                name = f"{place}-{_short(sorted(columns))}-{self._run_id}{self._claims_by}.theta"
                kept = self._folder / "events" / name
                replaced = kept.parent / _EARLIER / name
                self._write(replaced if replaced.exists() else kept, events)

    def kept_events(self) -> list[bytes]:
        """Give the sketches of this run's events that ``keep_events`` kept."""
        with self._alone():
            return [events for kept in self._own_events() if (events := _read_if_there(kept)) is not None]

    def change_events(self, changed: Callable[[bytes], bytes]) -> None:
        """Keep another sketch of this run's events in the place of each that ``keep_events`` kept, made of that.

        Raises:
            LedgerFault: one cannot be written.
        """
        with self._alone():
            for kept in self._own_events():
                if (events := _read_if_there(kept)) is not None:
                    self._write(kept, changed(events))

    def replace_events(self, path: Path, *, of: Iterable[str]) -> None:
        """Move the sketches of logs that were at this path to the earlier ones: this run's log has replaced them.

        of: their runs, as in ``checksums``; one that began later stays.

        Raises:
            LedgerFault: a sketch cannot be moved.
        """
        runs = set(of)
        with self._alone():
            for before in {kept for place in _places(path) for kept in self._folder.glob(f"events/{place}-*.theta")}:
                if _part(before, 2) in runs:
                    with disk_faults(before):
                        (before.parent / _EARLIER).mkdir(exist_ok=True, mode=0o700)
                        before.replace(before.parent / _EARLIER / before.name)

    def own_log(self) -> list[bytes]:
        """Give the sketches of this run's whole log, first that of its rows as they stand; none when all was posted."""
        return [kept.read_bytes() for kept in self._own_logs()]

    def forget_log(self) -> None:
        """Give up the sketch of this run's whole log: all of it was posted.

        Raises:
            LedgerFault: it cannot be removed.
        """
        for kept in self._own_logs():
            with disk_faults(kept):
                kept.unlink(missing_ok=True)

    def own_posted(self) -> bytes | None:
        """Give the sketch of this run's rows that ``keep`` kept; None when there is none."""
        path = self._path("")
        return path.read_bytes() if path.exists() else None

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

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep others from moving or rewriting sketches of a place meanwhile."""
        with disk_faults(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with moment(self._folder / "events.lock"):
                yield

    @contextlib.contextmanager
    def _as_it_can_be_read(self) -> Iterator[None]:
        try:
            # Some versions of Python pass over folders that may not be looked into.
            if self._folder.parent.exists() and not os.access(self._folder.parent, os.R_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            yield
        except OSError as error:
            raise unusable(self._folder, error) from error

    def _other_events(
        self, folder: str, places: Iterable[str], *, alike: Collection[str]
    ) -> Iterator[tuple[str, bytes]]:
        with self._as_it_can_be_read():
            for kept in {kept for place in places for kept in self._folder.glob(f"{folder}/{place}-*.theta")}:
                run = _part(kept, 2)
                is_told_apart_by_ids = self._claims_by and kept.stem.endswith(self._claims_by)
                if run == self._run_id or _part(kept, 1) in alike or is_told_apart_by_ids:
                    continue
                if (events := _read_if_there(kept)) is not None:
                    yield run, events

    def _is_as_it_was(self, run: str, then: Mapping[str, int]) -> bool:
        now = self.checksums()
        return run in then and all(now.get(part) == then.get(part) for part in (run, _replays(run)))

    def _own_events(self) -> list[Path]:
        name = f"*-{self._run_id}{self._claims_by}.theta"
        return sorted([*self._folder.glob(f"events/{name}"), *self._folder.glob(f"events/{_EARLIER}/{name}")])

    def _own_logs(self) -> list[Path]:
        return sorted(self._folder.glob(f"logs/*-{self._run_id}{self._claims_by}*.theta"))

    def _others(self) -> dict[str, Path]:
        return {
            _run_of(path): path
            for path in sorted(self._folder.glob("r*.theta"))
            if _run_of(path).partition(" ")[0] != self._run_id
            and not (self._claims_by and path.stem.endswith(self._claims_by))
        }

    def _write(self, path: Path, rows: bytes) -> None:
        with disk_faults(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_durably(path, rows)

    def _path(self, part: str) -> Path:
        return self._folder / f"{self._run_id}{part}{self._claims_by}.theta"


def _read_if_there(kept: Path) -> bytes | None:
    """Read a sketch that a run which ends just now may give up, or move to the earlier ones: those are read later."""
    try:
        return kept.read_bytes()
    except FileNotFoundError:
        return None


def _run_of(path: Path) -> str:
    name = path.stem.partition("-")[0]
    return _replays(name.removesuffix(_REPLAYS)) if name.endswith(_REPLAYS) else name


def _part(kept: Path, number: int) -> str:
    """Give a part of the name of a sketch of events: its log's place, its columns, its run."""
    return kept.stem.split("-")[number]


def _replays(run: str) -> str:
    return f"{run} (replays)"


def _short(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def _places(path: Path) -> list[str]:
    """Name the places of a log, however its path is spelled: where it is, and where a link has it."""
    both = dict.fromkeys((os.path.realpath(path), place_of(path)))
    return [hashlib.sha256(os.fsencode(place)).hexdigest()[:16] for place in both]


def place_of(path: Path) -> str:
    """Name where a log is, however its path is spelled; a link to one is another place."""
    return os.path.join(os.path.realpath(path.parent), path.name)  # noqa: PTH118 -- for ".." as for any other name


def knows_runs_by_own_ids(ledger_folder: Path) -> bool:
    """Tell whether there were uploads whose events are named by the log (``--event-id``)."""
    return next(ledger_folder.glob("seen/*/r*-*.theta"), None) is not None
