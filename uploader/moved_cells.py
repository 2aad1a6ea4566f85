"""Cells that a person moved to other rows, as when one column was sorted without the others, told from edits."""

from __future__ import annotations

import math
import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from uploader.model import EVENT_COLUMNS
from uploader.spreadsheets import edited_columns

_MANY_CELLS = 10
"""More than are by chance what other rows had."""
_MOST = 0.5
_NEARLY_ALL_DIFFER = 0.9
"""Share of the edited usages that must be distinct, for half of them to tell: of small ones, which repeat, half match
others by chance."""
_NO_CHANCE = 0.05
"""Times the root of edits times distinct values. Of edits by chance some ten times as many are no other row's."""
_MOST_VALUES = 50_000
"""Of one column of a file that are counted; some 30 MB for all columns."""
_MOST_NAMES = 1_000
"""More than a person renames at a time; and of so many, each in a row or two, nothing could be told."""
_WHOLE_EVENT = "all of them"


class MovedCells:
    """Tells edits of a column from cells that stand in other rows than they did, as when it alone was sorted.

    It is no move where each of a few values became one other, as when a meter is renamed or two tenants are swapped;
    nor where whole events of rows that were not recorded were moved: each is still sent once.
    """

    def __init__(self, *, rows: int) -> None:
        """Begin with the first row of a file.

        rows: in the file; of a long one some values stand for all.
        """
        self._one_in = 1 + rows // _MOST_VALUES
        self._edits_by_column: Counter[str] = Counter()
        self._counted_by_column: Counter[str] = Counter()
        self._gained_by_column: defaultdict[str, Counter[str]] = defaultdict(Counter)
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
                self._note_edit(column, had, has)
        if edited:
            self._note_edit(
                _WHOLE_EVENT, *(str([cells.get(name) for name in EVENT_COLUMNS]) for cells in (before, now))
            )
            self._has_recorded_row |= is_recorded

    @property
    def are_renamings(self) -> bool:
        """Whether all that was edited are names, and each of a few became one other wherever it stands."""
        edited = self._edits_by_column.keys() - {_WHOLE_EVENT}
        return "total_usage" not in edited and all(map(self._is_renamed, edited))

    def cells_by_column(self) -> dict[str, int]:
        """Count the moved cells of each column of which they are at least a few, and most of what was edited."""
        many: dict[str, int] = {}
        for column, edits in self._edits_by_column.items():
            gained = sum(count for count in self._gained_by_column[column].values() if count > 0)
            moved = min(edits, self._one_in * (self._counted_by_column[column] - gained))
            if moved >= _MANY_CELLS and moved >= _MOST * edits and self._tells(column, gained):
                many[column] = moved
        return {} if _WHOLE_EVENT in many and not self._has_recorded_row else many

    def _tells(self, column: str, gained: int) -> bool:
        if column != "total_usage":
            return not self._is_renamed(column)
        distinct, counted = len(self._gained_by_column[column]), self._counted_by_column[column]
        if distinct >= _NEARLY_ALL_DIFFER * counted:
            return True
        return distinct >= _MANY_CELLS and gained <= _NO_CHANCE * math.sqrt(counted * distinct)

    def _is_renamed(self, column: str) -> bool:
        renaming = self._renaming_by_column.get(column)
        return renaming is not None and len(renaming) <= _MOST * self._edits_by_column[column]

    def _note_edit(self, column: str, had: str, has: str) -> None:
        self._edits_by_column[column] += 1
        if self._stands_for_others(has):
            self._counted_by_column[column] += 1
            self._gained_by_column[column][has] += 1
        if self._stands_for_others(had):
            self._gained_by_column[column][had] -= 1

    def _stands_for_others(self, value: str) -> bool:
        return self._one_in == 1 or zlib.crc32(value.encode("utf-8", "surrogatepass")) % self._one_in == 0

    def _note_name(self, column: str, had: str, has: str) -> None:
        renaming = self._renaming_by_column[column]
        if renaming is not None and (renaming.setdefault(had, has) != has or len(renaming) > _MOST_NAMES):
            self._renaming_by_column[column] = None
