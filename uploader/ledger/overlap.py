"""How much of a usage log was posted before, under another content: a theta sketch a run, never a list of rows.

The only file that knows `datasketches`. A sketch is a sample of some 8,000 row hashes, so that a share is known to
some two parts in a hundred, unless a log is much shorter than that run (datasketches.apache.org,
Theta Sketch Framework).
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from datasketches import compact_theta_sketch, theta_a_not_b, theta_union, update_theta_sketch

from uploader.model.errors import LedgerRefusal
from uploader.model.mapping import ColumnMap
from uploader.model.model import EVENT_COLUMNS, Cell, cell_text
from uploader.schema.cell_readers import ABSENT, reader_of

_LG_SAMPLE = 13
_LG_SAMPLE_OF_EVENTS = 11
_LG_COARSE_SAMPLE = 9
_ENOUGH_LOOKED_FOR = 400
_STANDARD_DEVIATIONS = 2
_FEW = 10
_BETWEEN_CELLS = "\x1f"
_USAGE = "total_usage"
_PANDAS_INDEX = re.compile("__index_level_[0-9]+__")
_WHOLE_NUMBER = re.compile(r"-?[0-9]+(?:\.0+)?")
_PLAIN_LINES = re.compile(r"(?:0|[1-9][0-9]*)(?:\n(?:0|[1-9][0-9]*))*")
_SPELLED_IN_WAYS = re.compile(r"\x1f(?:-?[0-9]+(\.0+)|[Tt][Rr][Uu][Ee]|[Ff][Aa][Ll][Ss][Ee])(?=\x1f|\Z)")
_read_usage = reader_of(_USAGE, {})


class RowSketch:
    """A sample of the rows of one usage log, all columns compared, whatever their order.

    A number of ``total_usage`` is compared as it is read. In other cells 7.0 is 7, True is true, and a null an empty
    cell: a tool that copies a log may spell them so.
    """

    def __init__(self, columns: Sequence[str], *, numbering: Sequence[str] = (), lg_sample: int = _LG_SAMPLE) -> None:
        """Begin.

        numbering: columns that do not count in rows in which they have whole numbers.
        """
        self.has_counted_numbering = False
        self._numbering_at = [columns.index(column) for column in numbering]
        self._usage_at = columns.index(_USAGE) if _USAGE in columns else None
        self._start, self._in_order = _form(columns, sorted(columns))
        self._form_of_numbered = _form(columns, sorted(set(columns) - set(numbering)))
        self._sketch = update_theta_sketch(lg_sample)

    def add(self, cells: Sequence[Cell]) -> None:
        """Take a row into account."""
        at = self._usage_at
        if at is not None and (usage := _read_usage(cells[at])) is not ABSENT:
            cells = [*cells[:at], usage, *cells[at + 1 :]]
        start, in_order = self._start, self._in_order
        if self._numbering_at:
            if all(_WHOLE_NUMBER.fullmatch(cell_text(cells[at])) for at in self._numbering_at):
                start, in_order = self._form_of_numbered
            else:
                self.has_counted_numbering = True
        text = _BETWEEN_CELLS.join(map(cell_text, in_order(cells)))
        self._sketch.update(start + _normalised(text))

    def add_all(self, rows: Sequence[Sequence[Cell]]) -> None:
        """Take some rows into account."""
        if self._numbering_at or not self._are_as_read(rows):
            for cells in rows:
                self.add(cells)
            return
        try:
            texts = list(map(_BETWEEN_CELLS.join, map(self._in_order, rows)))
        except TypeError:  # not all of a Parquet log's cells are text: see cell_text
            for cells in rows:
                self.add(cells)
            return
        start, update = self._start, self._sketch.update
        if _SPELLED_IN_WAYS.search(_BETWEEN_CELLS.join(["", *texts])):
            texts = list(map(_normalised, texts))
        for text in texts:
            update(start + text)

    def _are_as_read(self, rows: Sequence[Sequence[Cell]]) -> bool:
        """Tell whether each usage is text that is read as itself, as in most logs; all at once it takes no time."""
        if self._usage_at is None:
            return True
        usages = [cells[self._usage_at] for cells in rows]
        return set(map(type, usages)) == {str} and _PLAIN_LINES.fullmatch("\n".join(map(str, usages))) is not None

    def to_bytes(self) -> bytes:
        """Give the sketch for keeping, at most some 64 KB."""
        self._sketch.trim()
        kept: bytes = self._sketch.compact().serialize()
        return kept


def _form(columns: Sequence[str], named: Sequence[str]) -> tuple[str, Callable[[Sequence[Cell]], Sequence[Cell]]]:
    """Give what begins a row's text, and what picks the cells that follow."""
    return _BETWEEN_CELLS.join([*named, ""]), _getter_of([columns.index(column) for column in named])


def _getter_of(places: Sequence[int]) -> Callable[[Sequence[Cell]], Sequence[Cell]]:
    if len(places) == 1:  # itemgetter would give the cell itself
        return lambda cells: (cells[places[0]],)
    return itemgetter(*places) if places else lambda _: ()


class _View:
    """Some cells of each row of a log, and their sketch.

    of_row:           gives them, of a row with the constants behind it; None for a row as it stands.
    has_events_alone: they are those of the event.
    """

    def __init__(
        self,
        columns: Sequence[str],
        *,
        places: Iterable[int] | None = None,
        numbering: Sequence[str] = (),
        lg_sample: int = _LG_SAMPLE,
    ) -> None:
        self.of_row = None if places is None else _getter_of([*places])
        self.has_events_alone = sorted(columns) == sorted(EVENT_COLUMNS)
        self.sketch = RowSketch(columns, numbering=numbering, lg_sample=lg_sample)


class RowSketches:
    """The rows of one log as they stand and, if that differs, as they are seen: an earlier run may know them by either.

    So a file is known again under another mapping, and its mapped rows in a file that has the usual names. Its events
    alone, whatever further columns it has, are sampled apart. An index that pandas writes along numbers rows as they
    once stood, and a copy has another: it counts only where it is something else.
    """

    def __init__(self, columns: Sequence[str], *, mapping: ColumnMap, path: Path) -> None:
        place_by_column = mapping.places(columns, path=path)
        self._constants = mapping.values
        self._all_columns = columns
        self._numbering = [
            column for column in columns if _PANDAS_INDEX.fullmatch(column) and column in place_by_column
        ]
        self._views = [_View(columns, numbering=self._numbering)]
        if mapping:
            places = place_by_column.values()
            self._views.append(_View([*place_by_column], places=places, numbering=self._numbering))
        self._row_views = [*self._views]
        of_events = [view for view in self._views if view.has_events_alone]
        if not of_events:  # a log of no further columns is not sampled twice
            of_event = [place_by_column[column] for column in EVENT_COLUMNS]
            of_events = [_View(EVENT_COLUMNS, places=of_event, lg_sample=_LG_SAMPLE_OF_EVENTS)]
            self._views += of_events
        self._event_view = of_events[0]

    @property
    def columns(self) -> list[str]:
        """Give the log's columns, but for those that only numbered the rows so far."""
        has_more = self._views[0].sketch.has_counted_numbering
        return [column for column in self._all_columns if has_more or column not in self._numbering]

    def add_all(self, rows: Sequence[Sequence[Cell]]) -> None:
        """Take some rows into account."""
        with_constants = rows if not self._constants else [[*cells, *self._constants] for cells in rows]
        for view in self._views:
            view.sketch.add_all(rows if view.of_row is None else [*map(view.of_row, with_constants)])

    def each(self) -> list[bytes]:
        """Give the sketches, each to be compared with those of earlier runs."""
        return [view.sketch.to_bytes() for view in self._row_views]

    def events(self) -> bytes:
        """Give the sketch of tenant, device, meter and usage alone."""
        return self._event_view.sketch.to_bytes()

    def to_bytes(self) -> bytes:
        """Give one sketch for keeping."""
        sketches = self.each()
        return sketches[0] if len(sketches) == 1 else merged(sketches)


def merged(sketches: Iterable[bytes]) -> bytes:
    """Give the sketch of all the rows of some sketches together."""
    union = theta_union(_LG_SAMPLE)
    for kept in sketches:
        union.update(_read(kept, of="this run"))
    together: bytes = union.get_result().serialize()
    return together


@dataclass(frozen=True, slots=True)
class Overlap:
    """How many of a log's distinct rows stand in earlier runs; estimates.

    share:          0 to 1, of all of them.
    rows_by_run_id: for each earlier run with some.
    too_large:      earlier runs of so many rows that too few of this log's are in a sample of theirs to tell.
    """

    share: float
    rows_by_run_id: Mapping[str, float]
    too_large: Sequence[str]


def overlap_with(rows: bytes, earlier_by_run_id: Mapping[str, bytes]) -> Overlap:
    """Estimate how many of some rows stand in the union of earlier runs.

    Of those rows that would be in both samples, how many are: so that of a log that stands wholly in an earlier run
    all are, however few they be. Run by run the samples stay as fine as the smaller of the two; but a row that two
    runs hold counts twice. The union counts it once, and coarsely. The share is the lower of the two answers.
    """
    candidate = _Candidate(compact_theta_sketch.deserialize(rows))
    earlier_sketch_by_run_id = {run_id: _read(kept, of=f"run {run_id}") for run_id, kept in earlier_by_run_id.items()}
    if candidate.is_foreign_to(earlier_sketch_by_run_id.values()):
        return Overlap(0.0, {}, [])
    union = theta_union(_LG_SAMPLE)
    share_by_run_id: dict[str, float] = {}
    too_large = []
    for run_id, earlier in earlier_sketch_by_run_id.items():
        union.update(earlier)
        found, looked_for = candidate.found_in(earlier)
        if found:
            share_by_run_id[run_id] = found / looked_for
        elif looked_for < min(_FEW, candidate.kept):
            too_large.append(run_id)
    share = min(1.0, sum(share_by_run_id.values()), _at_most(*candidate.found_in(union.get_result())))
    all_rows = candidate.all_rows
    return Overlap(share, {run_id: part * all_rows for run_id, part in share_by_run_id.items()}, too_large)


def rows_of_log_again(rows: bytes, *, run_id: str, log: bytes, posted: Iterable[bytes], most_share: float) -> float:
    """Estimate how many rows of an earlier log are in this one; 0 unless most of that log is, with rows it had posted.

    0 also for a log so much shorter that too few of its rows could be in both samples. When too few of the posted rows
    are in the samples to tell whether they are in this log, they count as if they were.

    most_share: of the log, that may be among the rows.
    """
    candidate = _Candidate(compact_theta_sketch.deserialize(rows))
    earlier = _read(log, of=f"run {run_id}")
    found, _ = candidate.found_in(earlier)
    looked_for = candidate.would_keep(earlier)
    if found <= most_share * looked_for or (candidate.share_kept < 1 and looked_for < _FEW):
        return 0.0
    sketches = [_read(kept, of=f"run {run_id}") for kept in posted]
    return found / candidate.share_kept if any(map(candidate.may_hold_some_of, sketches)) else 0.0


class _Candidate:
    """The sample of a log's rows, to be looked for in those of earlier runs."""

    def __init__(self, sketch: compact_theta_sketch) -> None:
        self._sketch = sketch
        self._hashes = list(self._sketch)
        self.kept = len(self._hashes)
        self.share_kept: float = self._sketch.theta
        self.all_rows: float = self._sketch.get_estimate()

    def found_in(self, earlier: compact_theta_sketch) -> tuple[int, int]:
        """Give how many of the hashes that the earlier one would have kept it has, and how many those are.

        By what it lacks: to intersect would hash the whole sample once for each earlier run, nine times as slow.
        """
        looked_for = bisect_left(self._hashes, earlier.theta64)
        lacks: int = theta_a_not_b().compute(self._sketch, earlier).num_retained
        return looked_for - lacks, looked_for

    def is_foreign_to(self, runs: Iterable[compact_theta_sketch]) -> bool:
        """Tell whether a coarse sample has no row of any earlier run, as in most nights, at a sixteenth of the cost.

        If a twentieth of the rows stood in all the runs together, it would have some of them but for once in 10^8.
        """
        union = theta_union(_LG_COARSE_SAMPLE)
        union.update(self._sketch)
        coarse = _Candidate(union.get_result())
        return all(found == 0 and looked_for >= _ENOUGH_LOOKED_FOR for found, looked_for in map(coarse.found_in, runs))

    def would_keep(self, earlier: compact_theta_sketch) -> int:
        """Count the hashes of an earlier sample that would be in this one, were its rows among these."""
        return bisect_left(list(earlier), self._sketch.theta64)

    def may_hold_some_of(self, earlier: compact_theta_sketch) -> bool:
        """Tell whether some rows of an earlier sample are among these, or too few are in both samples to tell."""
        if earlier.is_empty():
            return False
        found, _ = self.found_in(earlier)
        return found > 0 or (self.share_kept < 1 and self.would_keep(earlier) < _FEW)


def _read(kept: bytes, *, of: str) -> compact_theta_sketch:
    """Read a sketch that was kept.

    Raises:
        LedgerRefusal: it was damaged since.
    """
    try:
        return compact_theta_sketch.deserialize(kept)
    except (IndexError, RuntimeError, ValueError) as error:  # whatever it stumbles over (theta_sketch_impl.hpp)
        raise LedgerRefusal(
            f"the sample of the rows of {of}, in the ledger's folder seen, is damaged ({error})",
            remedy="put a sound copy of the ledger in its place",
        ) from error


def _at_most(found: int, looked_for: int) -> float:
    """Give the upper end of what a share may be (Wilson, 1927)."""
    spread = _STANDARD_DEVIATIONS**2
    middle = found + spread / 2
    width = _STANDARD_DEVIATIONS * math.sqrt(found * (1 - found / max(looked_for, 1.0)) + spread / 4)
    return (middle + width) / (looked_for + spread)


def _normalised(row: str) -> str:
    return _SPELLED_IN_WAYS.sub(_normal, _BETWEEN_CELLS + row)[1:]


def _normal(spelled: re.Match[str]) -> str:
    """Give a whole number without its zeros, a truth value in lower case: tools that copy a log spell them in ways."""
    return spelled[0].removesuffix(spelled[1] or "").lower()
