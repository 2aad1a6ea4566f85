"""Cells that a person moved to other rows, as when one column was sorted without the others, told from edits."""

from __future__ import annotations

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from uploader.model.model import EVENT_COLUMNS
from uploader.replays.spreadsheets import edited_columns

_MANY_CELLS = 10
"""More than are by chance what other rows had."""
_MOST = 0.5
_NEARLY_ALL_DIFFER = 0.9
"""Share of the edited usages that must be distinct, for half of them to tell: of small ones, which repeat, half match
others by chance."""
_NO_CHANCE = 0.05
"""Times the root of edits times distinct values. Of edits by chance some ten times as many are no other row's."""
_MOST_VALUES = 50_000
"""Of one column that are counted, some 30 MB for all; of more those alone that stand for the others."""
_MOST_NAMES = 1_000
"""More than a person renames at a time; and of so many, each in a row or two, nothing could be told."""
_WHOLE_EVENT = "all of them"


class _Values:
    """The values that the edited cells of one column had, and those that they have.

    edits: how many cells were edited; of many values some stand for all.
    """

    def __init__(self) -> None:
        self.edits = 0
        self._one_in = 1
        self._had: Counter[str] = Counter()
        self._has: Counter[str] = Counter()

    def note(self, had: str, has: str) -> None:
        """Take an edit into account."""
        self.edits += 1
        if self._counts(has):
            self._has[has] += 1
        if self._counts(had):
            self._had[had] += 1
        while len(self._has) + len(self._had) > _MOST_VALUES:
            self._one_in *= 2
            for counter in (self._has, self._had):
                for value in [value for value in counter if not self._counts(value)]:
                    del counter[value]

    @property
    def moved(self) -> int:
        """The cells whose value another cell had."""
        return min(self.edits, self._one_in * (self._has.total() - self._gained))

    @property
    def can_be_chance(self) -> bool:
        """Whether edits of a usage by chance may have as many values that others had: small ones repeat."""
        distinct, counted = len(self._has.keys() | self._had.keys()), self._has.total()
        if distinct >= _NEARLY_ALL_DIFFER * counted:
            return False
        return distinct < _MANY_CELLS or self._gained > _NO_CHANCE * math.sqrt(counted * distinct)

    @property
    def _gained(self) -> int:
        return sum((self._has - self._had).values())

    def _counts(self, value: str) -> bool:
        return self._one_in == 1 or zlib.crc32(value.encode("utf-8", "surrogatepass")) % self._one_in == 0


class MovedCells:
    """Tells edits of a column from cells that stand in other rows than they did, as when it alone was sorted.

    It is no move where each of a few values became one other, as when a meter is renamed or two tenants are swapped;
    nor where whole events of rows that were not recorded were moved: each is still sent once.
    """

    def __init__(self) -> None:
        self._values_by_column: defaultdict[str, _Values] = defaultdict(_Values)
        self._renaming_by_column: dict[str, dict[str, str] | None] = {column: {} for column in EVENT_COLUMNS}
        self._has_recorded_row = False

    def add(self, before: Mapping[str, Any], now: Mapping[str, Any], *, is_recorded: bool) -> None:
        """Take a row into account: the cells that it had last, and those that it has now."""
        edited = edited_columns(before, now)
        for column in EVENT_COLUMNS:
            had = str(before.get(column))
            has = str(now.get(column)) if column in edited else had
            self._note_name(column, had, has)
            if column in edited:
                self._values_by_column[column].note(had, has)
        if edited:
            self._values_by_column[_WHOLE_EVENT].note(
                *(str([cells.get(name) for name in EVENT_COLUMNS]) for cells in (before, now))
            )
            self._has_recorded_row |= is_recorded

    def cells_by_column(self) -> dict[str, int]:
        """Count the moved cells of each column of which they are at least a few, and most of what was edited."""
        many = {
            column: values.moved
            for column, values in self._values_by_column.items()
            if values.moved >= max(_MANY_CELLS, _MOST * values.edits) and self._tells(column, values)
        }
        return {} if _WHOLE_EVENT in many and not self._has_recorded_row else many

    def _tells(self, column: str, values: _Values) -> bool:
        if column == "total_usage":
            return not values.can_be_chance
        renaming = self._renaming_by_column.get(column)
        return renaming is None or len(renaming) > _MOST * values.edits

    def _note_name(self, column: str, had: str, has: str) -> None:
        renaming = self._renaming_by_column[column]
        if renaming is not None and (renaming.setdefault(had, has) != has or len(renaming) > _MOST_NAMES):
            self._renaming_by_column[column] = None
