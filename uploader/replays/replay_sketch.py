"""What a replay posts, sketched as the upload of its run sketched the log, for those who ask what was posted before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from uploader.ledger.ledger import Ledger
from uploader.ledger.overlap import RowSketches, merged
from uploader.ledger.seen import SeenRows
from uploader.model.model import EVENT_COLUMNS, Cell
from uploader.replays.replay_log import ReplayEntry, ReplayLog
from uploader.uploads.overlap_guard import take_place_if_posted


class ReplaySketch:
    """Some rows of a results or failed file.

    Columns that a person added beside the log's own, such as remarks, do not count. Cells of others may have been
    spelled otherwise by a spreadsheet: the rows count as they are, and with the cells that the log had there.
    """

    def __init__(self, log: ReplayLog, ledger: Ledger) -> None:
        mapping = ledger.identity.mapping
        uploaded = ledger.facts().get("columns", [])
        columns = uploaded if uploaded and set(uploaded) <= set(log.columns) else log.columns
        self._edits = ledger.edits
        self._places = [log.columns.index(column) for column in columns]
        self._as_they_are = RowSketches(columns, mapping=mapping, path=log.path)
        self._sketches = [self._as_they_are]
        self._place_in_file_by_place: dict[int, int] = {}
        if uploaded:
            places = mapping.places(uploaded, path=log.path)
            of_event = [places[column] for column in EVENT_COLUMNS if places[column] < len(uploaded)]
            self._place_in_file_by_place = {at: log.columns.index(uploaded[at]) for at in of_event}
            self._sketches.append(RowSketches(uploaded, mapping=mapping, path=log.path))

    def add(self, entries: Sequence[ReplayEntry]) -> None:
        """Take some rows into account; at most some thousand at a time."""
        self._as_they_are.add_all([[entry.row.cells[place] for place in self._places] for entry in entries])
        if len(self._sketches) > 1:
            log_cells = self._edits.log_cells([entry.number for entry in entries])
            self._sketches[1].add_all(
                [self._with_log_cells(entry, log_cells[entry.number]) for entry in entries if entry.number in log_cells]
            )

    def each(self) -> list[bytes]:
        """Give the sketches, each to be compared with those of other runs."""
        return [sketch for sketches in self._sketches for sketch in sketches.each()]

    def events(self) -> bytes:
        """Give the sketch of their events alone."""
        return self._as_they_are.events()

    def _with_log_cells(self, entry: ReplayEntry, cells: list[str]) -> list[Cell]:
        return [
            entry.row.cells[self._place_in_file_by_place[at]] if at in self._place_in_file_by_place else cell
            for at, cell in enumerate(cells)
        ]

    def keep(self, seen: SeenRows, *, before: bytes | None) -> None:
        """Have the rows count as posted by a replay of the run, with those ``before`` it.

        Raises:
            LedgerFault: the sketch cannot be written.
        """
        seen.keep_replays(merged(filter(None, [before, *(sketches.to_bytes() for sketches in self._sketches)])))
        seen.events.change(lambda events: merged([events, self.events()]))


def keep_log_if_posted(seen: SeenRows, ledger: Ledger) -> None:
    """Have the whole log of a run count as posted once all of it is, however a spreadsheet spelled its last rows.

    Once most of it is, it is the last one in its place.

    Raises:
        LedgerFault: the sketch cannot be written.
    """
    history, log, facts = ledger.history(), seen.own_log(), ledger.facts()
    posted = history.may_be_recorded
    if log and posted == facts.get("rows"):
        seen.keep(merged(filter(None, [seen.own_posted(), *log])))
        seen.forget_log()
    if "input_path" in facts:  # which an adopted run does not know
        path, compared = Path(facts["input_path"]), facts.get("compared_first", {})
        take_place_if_posted(seen, path=path, rows=facts["rows"], posted=posted, compared=compared)
