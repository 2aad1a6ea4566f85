"""How cells stand in a message."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def shown(value: object) -> str:
    """Quote a cell, cut to a length that a line can hold."""
    text = repr(value)
    end_quote = text[-1] if text[-1] in "'\"" else ""
    return text if len(text) <= 80 else f"{text[:76]}...{end_quote}"


def values_in_words(cells: Mapping[str, object], columns: Iterable[str]) -> str:
    """Name the values of some columns."""
    return ", ".join(f"{column} {shown(cells.get(column))}" for column in columns)
