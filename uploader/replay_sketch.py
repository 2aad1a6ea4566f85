"""What a replay posts, sketched as the upload of its run sketched the log, for those who ask what was posted before."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from uploader.ledger import Ledger
from uploader.model import Row
from uploader.overlap import RowSketches, merged
from uploader.overlap_guard import take_place_if_posted
from uploader.replay_log import ReplayLog
from uploader.seen import SeenRows


class ReplaySketch:
    """Some rows of a results or failed file.

    Columns that a person added beside the log's own, such as remarks, do not count.
    """

    def __init__(self, log: ReplayLog, ledger: Ledger) -> None:
        uploaded = ledger.facts().get("columns", [])
        columns = uploaded if uploaded and set(uploaded) <= set(log.columns) else log.columns
        self._places = [log.columns.index(column) for column in columns]
        self._sketches = RowSketches(columns, mapping=ledger.identity.mapping, path=log.path)

    def add(self, rows: Iterable[Row]) -> None:
        """Take some rows into account."""
        self._sketches.add_all([[row.cells[place] for place in self._places] for row in rows])

    def each(self) -> list[bytes]:
        """Give the sketches, each to be compared with those of other runs."""
        return self._sketches.each()

    def events(self) -> bytes:
        """Give the sketch of their events alone."""
        return self._sketches.events()

    def keep(self, seen: SeenRows, *, before: bytes | None) -> None:
        """Have the rows count as posted by a replay of the run, with those ``before`` it.

        Raises:
            LedgerFault: the sketch cannot be written.
        """
        seen.keep_replays(merged(filter(None, [before, self._sketches.to_bytes()])))
        seen.change_events(lambda events: merged([events, self._sketches.events()]))


def keep_log_if_posted(seen: SeenRows, ledger: Ledger) -> None:
    """Have the whole log of a run count as posted once all of it is, however a spreadsheet spelled its last rows.

    Once most of it is, it is the last one in its place.

    Raises:
        LedgerFault: the sketch cannot be written.
    """
    history, log, facts = ledger.history(), seen.own_log(), ledger.facts()
    posted = history.accepted + history.in_doubt
    if log and posted == facts.get("rows"):
        seen.keep(merged(filter(None, [seen.own_posted(), *log])))
        seen.forget_log()
    if "input_path" in facts:  # which an adopted run does not know
        path, compared = Path(facts["input_path"]), facts.get("compared_first", {})
        take_place_if_posted(seen, path=path, rows=facts["rows"], posted=posted, compared=compared)
