"""Columns that go by another name in a usage log, and those that it does not have (``--column``, ``--constant``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uploader.model.errors import InputError, SettingsError


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnMap:
    """How a log's columns are seen: pairs in the order of their names, each name at most once.

    columns:   the name that is seen, and the log's own name.
    constants: the name that is seen, and the text that stands in each of its cells.
    """

    columns: tuple[tuple[str, str], ...] = ()
    constants: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, columns: Iterable[str], constants: Iterable[str]) -> ColumnMap:
        """Read ``NAME=COLUMN`` and ``NAME=VALUE``.

        Raises:
            SettingsError: one is neither, or a name is given twice.
        """
        column_by_name = _pairs("--column", "NAME=COLUMN", columns)
        constant_by_name = _pairs("--constant", "NAME=VALUE", constants)
        if both := sorted(column_by_name.keys() & constant_by_name.keys()):
            raise SettingsError(f"{both[0]!r} is given by --column and by --constant", remedy="leave one of them out")
        return cls(
            columns=tuple(sorted((name, column) for name, column in column_by_name.items() if name != column)),
            constants=tuple(sorted(constant_by_name.items())),
        )

    def __bool__(self) -> bool:
        return bool(self.columns or self.constants)

    def only(self, names: Iterable[str]) -> ColumnMap:
        """Keep what is said of these names."""
        kept = frozenset(names)
        return ColumnMap(
            columns=tuple(pair for pair in self.columns if pair[0] in kept),
            constants=tuple(pair for pair in self.constants if pair[0] in kept),
        )

    @property
    def names(self) -> list[str]:
        """The names that are given."""
        return [name for name, _ in (*self.columns, *self.constants)]

    @property
    def values(self) -> list[str]:
        """The constants, in their order."""
        return [value for _, value in self.constants]

    def places(self, columns: Sequence[str], *, path: Path) -> dict[str, int]:
        """Find each column that is seen among a row's cells and, behind them, the constants.

        Raises:
            InputError: the log lacks a column, or has one that a constant would hide.
        """
        if missing := [column for _, column in self.columns if column not in columns]:
            raise InputError(
                f"{path}: no column named {missing[0]!r}, which --column names",
                remedy=f"its columns are {', '.join(columns)}",
            )
        if hidden := [name for name, _ in self.constants if name in columns]:
            raise InputError(
                f"{path}: has a column {hidden[0]!r}, which --constant {hidden[0]} would hide",
                remedy="leave the constant out; nothing was posted",
            )
        renamed = {column for _, column in self.columns}
        place_by_name = {column: at for at, column in enumerate(columns) if column not in renamed}
        place_by_name.update((name, columns.index(column)) for name, column in self.columns)
        place_by_name.update((name, len(columns) + at) for at, (name, _) in enumerate(self.constants))
        return place_by_name

    def to_json(self) -> dict[str, dict[str, str]]:
        """Give it as plain data."""
        return {"column": dict(self.columns), "constant": dict(self.constants)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ColumnMap:
        """Read back what ``to_json`` gave."""
        return cls(
            columns=tuple(sorted(document["column"].items())), constants=tuple(sorted(document["constant"].items()))
        )


AS_IT_STANDS = ColumnMap()


def _pairs(option: str, form: str, texts: Iterable[str]) -> dict[str, str]:
    value_by_name: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            raise SettingsError(f"{option} {text!r}: not {form}", remedy=f"write it as in {option} {_EXAMPLES[option]}")
        if value_by_name.setdefault(name, value) != value:
            raise SettingsError(f"{option}: {name!r} is given twice", remedy="leave one of them out")
    return value_by_name


_EXAMPLES = {"--column": "tenant_id=TenantID", "--constant": "device_id=import"}
