"""Cells that were checked before: most rows of a usage log are made of tenants, devices and meters seen already.

Only for a schema that judges each cell by itself; what is not known to be good is left to the check of the whole row.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from uploader.model.model import Cell, UsageEvent

_MOST_KNOWN_CELLS = 20_000
"""Cells remembered of one column; some 2 MB. All are forgotten at once, which costs nothing in a sorted log."""
_LONGEST_CHARACTERS = 256
_FEW_DIGITS = 18
_UNKNOWN = object()


class Column(NamedTuple):
    """A column that the schema names.

    place:         from 0, in a row.
    judge:         gives the value that a cell is read as, or raises ValueError when the row may be bad because of it.
    is_constant:   whether every cell is judged alike, whatever stands at that place.
    whole_between: the least and the most of integers that are all good, in whatever form a cell has them, and are read
                   as themselves; None when no such range is certain.
    """

    place: int
    judge: Callable[[Cell], Any]
    is_constant: bool = False
    whole_between: tuple[int, int] | None = None


class KnownCells:
    """Remembers good cells and what they are read as."""

    def __init__(self, columns: Sequence[Column]) -> None:
        """Begin with nothing known; the first four columns are those of a usage event, in its order."""
        self.columns = columns
        self._columns: list[tuple[int, dict[Hashable, Any], Callable[[Cell], Any], tuple[int, int] | None]] = [
            (column.place, {}, column.judge, column.whole_between) for column in columns
        ]

    def event(self, cells: Sequence[Cell]) -> UsageEvent | None:
        """Give the usage event of a row whose cells are all good; None when that is not certain."""
        values: list[Any] = []
        for place, known, judge, whole_between in self._columns:
            cell = cells[place]
            kind = type(cell)
            if kind is str:
                # Usage differs from row to row, and so is hardly ever known.
                if whole_between is not None and len(cell) <= _FEW_DIGITS and cell.isdecimal() and cell.isascii():
                    value = int(cell)
                    if whole_between[0] <= value <= whole_between[1]:
                        values.append(value)
                        continue
                value = known.get(cell, _UNKNOWN)
            elif kind is int:
                value = known.get((kind, cell), _UNKNOWN)  # True and 1.0 equal 1
            else:
                return None
            if value is _UNKNOWN:
                try:
                    value = judge(cell)
                except ValueError:
                    return None
                if kind is int or len(cell) <= _LONGEST_CHARACTERS:
                    if len(known) >= _MOST_KNOWN_CELLS:
                        known.clear()
                    known[cell if kind is str else (kind, cell)] = value
            values.append(value)
        return UsageEvent(*values[:4])
