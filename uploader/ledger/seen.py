"""The sketches of what earlier runs posted, one small file a run, by destination and period."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from uploader.ledger.durable import disk_faults
from uploader.ledger.run_facts import accepted_in
from uploader.ledger.run_file import remembered
from uploader.ledger.seen_events import SeenEvents
from uploader.ledger.sketch_files import (
    LogName,
    PostedName,
    as_it_can_be_read,
    is_of_replays,
    places,
    read_if_there,
    replays_of,
    short,
    short_of_column,
    write_sketch,
)
from uploader.model.errors import LedgerRefusal
from uploader.model.identity import RunIdentity
from uploader.model.model import Reason

COMPARED_WITH_NONE: Mapping[str, int] = MappingProxyType({})


class SeenRows:
    """What the runs to one destination, in one period, accepted or left in doubt.

    events:   of the logs that had this one's place.
    event_id: the column of the log's own ids, which keep the rows of two such runs apart by themselves; None without.
    """

    def __init__(self, ledger_folder: Path, identity: RunIdentity, *, event_id: str | None) -> None:
        self._ledger_folder = ledger_folder
        self._checksums: dict[str, int] | None = None
        self._folder = ledger_folder / "seen" / short([identity.base_url, identity.period])
        self._run_id = identity.run_id
        self._own_ids = short_of_column(event_id)
        self.events = SeenEvents(self._folder, self._run_id, own_ids=self._own_ids)

    # What other runs posted.

    def kept_by_run(self, *, but_for: Mapping[str, int] = COMPARED_WITH_NONE) -> dict[str, bytes]:
        """Give the sketches of the other runs, but for those whose events are known by the same column of own ids.

        but_for: what ``checksums`` gave; those that are as they were then are left out.
        """
        with as_it_can_be_read(self._folder):
            kept = {run: path.read_bytes() for run, path in self._others().items()}
        self._checksums = {run: zlib.crc32(rows) for run, rows in kept.items()}
        return {run: rows for run, rows in kept.items() if self._checksums[run] != but_for.get(run)}

    def checksums(self) -> dict[str, int]:
        """Give the checksum of each sketch that was read last, by run. Not its time: a restored ledger has others."""
        if self._checksums is None:
            self.kept_by_run()
        return self._checksums or {}

    def has_posted_since(self, run: str, then: Mapping[str, int]) -> bool:
        """Tell whether a run, or its replays, posted anything after ``checksums`` gave what they gave then."""
        now = self.checksums()
        return run not in then or any(now.get(part) != then.get(part) for part in (run, replays_of(run)))

    def is_unfinished(self, run: str) -> bool:
        """Tell whether a run, named as in ``kept_by_run``, may post rows yet."""
        if is_of_replays(run):
            return False
        try:
            facts = remembered(self._ledger_folder, run)
        except LedgerRefusal:  # it is at work
            return True
        accepted, _ = accepted_in(facts.get("totals", {}))
        return "input" in facts and not facts.get("is_finished") and accepted != facts["rows"]

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

    def logs_in_place_of(self, path: Path) -> Iterator[tuple[str, bytes, list[bytes]]]:
        """Give the other runs whose log was in a place, and which have not posted all of it.

        With each, the sketches of that log, and of what of it they accepted or left in doubt.
        """
        with as_it_can_be_read(self._folder):
            posted = self._others()
            kept_there = {kept for place in places(path) for kept in self._folder.glob(f"logs/{place}-*.theta")}
            for kept in sorted(kept_there):
                run = LogName.of(kept).run_id
                rows = read_if_there(kept)
                if run in posted and rows is not None:
                    sketches = [posted[at].read_bytes() for at in (run, replays_of(run)) if at in posted]
                    yield run, rows, sketches

    # What this run posted, and its log.

    def own_posted(self) -> bytes | None:
        """Give the sketch of this run's rows that ``keep`` kept; None when there is none."""
        with as_it_can_be_read(self._folder):
            return read_if_there(self._path(is_of_replays=False))

    def own_replays(self) -> bytes | None:
        """Give the sketch of what this run's replays posted; None when there is none."""
        with as_it_can_be_read(self._folder):
            return read_if_there(self._path(is_of_replays=True))

    def own_log(self) -> list[bytes]:
        """Give the sketches of this run's whole log, first that of its rows as they stand; none when all was posted."""
        with as_it_can_be_read(self._folder):
            return [kept.read_bytes() for kept in self._own_logs()]

    def keep(self, rows: bytes) -> None:
        """Keep the sketch of this run's rows, in the place of an earlier one.

        Raises:
            LedgerFault: it cannot be written.
        """
        write_sketch(self._path(is_of_replays=False), rows)

    def keep_replays(self, rows: bytes) -> None:
        """Keep the sketch of what this run's replays posted: rows as they were edited, which its log does not have.

        Raises:
            LedgerFault: it cannot be written.
        """
        write_sketch(self._path(is_of_replays=True), rows)

    def keep_log(self, rows: Sequence[bytes], *, path: Path) -> None:
        """Keep the sketches of this run's whole log, and where that is, until all of it is posted.

        rows: as they stand and, if that differs, as they are seen.

        Raises:
            LedgerFault: one cannot be written.
        """
        for place in places(path):
            for is_under_usual_names, sketch in zip((False, True), rows, strict=False):
                name = LogName(place, self._run_id, self._own_ids, is_under_usual_names)
                write_sketch(self._folder / "logs" / name.file_name, sketch)

    def forget_log(self) -> None:
        """Give up the sketch of this run's whole log: all of it was posted.

        Raises:
            LedgerFault: it cannot be removed.
        """
        for kept in self._own_logs():
            with disk_faults(kept):
                kept.unlink(missing_ok=True)

    def _others(self) -> dict[str, Path]:
        name_by_path = {path: PostedName.of(path) for path in sorted(self._folder.glob("r*.theta"))}
        return {
            name.label: path
            for path, name in name_by_path.items()
            if name.run_id != self._run_id and not (name.own_ids and name.own_ids == self._own_ids)
        }

    def _own_logs(self) -> list[Path]:
        both = [LogName("*", self._run_id, self._own_ids, is_usual).file_name for is_usual in (False, True)]
        return sorted(kept for pattern in both for kept in self._folder.glob(f"logs/{pattern}"))

    def _path(self, *, is_of_replays: bool) -> Path:
        return self._folder / PostedName(self._run_id, is_of_replays, self._own_ids).file_name


def knows_runs_by_own_ids(ledger_folder: Path) -> bool:
    """Tell whether there were uploads whose events are named by the log (``--event-id``)."""
    return next(ledger_folder.glob("seen/*/r*-*.theta"), None) is not None
