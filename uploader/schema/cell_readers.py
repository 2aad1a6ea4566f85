"""How a cell of a usage log is read: as the type says that the schema gives its column."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from uploader.model.model import Cell

_INTEGER = re.compile(r"([+-]?[0-9]{1,100})(?:\.0)?")
_NUMBER = re.compile(r"-?[0-9]{1,100}(?:\.[0-9]{1,100})?(?:[eE][+-]?[0-9]{1,3})?")
_BOOLEAN_BY_TEXT = {"true": True, "false": False}
_FEW_DIGITS = 18
_LEAST, _MOST = -(2**63), 2**63 - 1
_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
_TYPES_AND_BOUNDS = frozenset({"type", *_BOUNDS, "title", "description", "examples", "$comment"})


class _Absent:
    """Stands for a cell that holds nothing: the property is left out of the object that is checked."""


ABSENT: Final = _Absent()


def reader_of(column: str, property_schema: object) -> Callable[[Cell], Any]:
    """Choose how a column's cells are read: by the first of integer, number, boolean among its types, else as text.

    A schema need not say that ``total_usage`` is an integer.
    """
    usual = "integer" if column == "total_usage" else "string"
    stated = property_schema.get("type", usual) if isinstance(property_schema, dict) else usual
    types = stated if isinstance(stated, list) else [stated]
    nothing = None if "null" in types else ABSENT
    read = next((_READ_BY_TYPE[name] for name in ("integer", "number", "boolean") if name in types), _read_text)
    return _integer_reader(nothing) if read is _read_integer else _reader(read, nothing)


def _reader(read: Callable[[Cell], Any], nothing: Any) -> Callable[[Cell], Any]:
    def read_cell(cell: Cell) -> Any:
        if cell is None or (cell == "" and read is not _read_text):
            return nothing
        return read(cell)

    return read_cell


def _integer_reader(nothing: Any) -> Callable[[Cell], Any]:
    """Give what ``_reader`` would for integers, in half the time for plain digits: each row has some."""

    def read_cell(cell: Cell) -> Any:
        if type(cell) is str and cell.isdecimal() and len(cell) <= _FEW_DIGITS and cell.isascii():
            return int(cell)
        return nothing if cell is None or cell == "" else _read_integer(cell)

    return read_cell


def stated_range(property_schema: object, read: Callable[[Cell], Any]) -> tuple[int, int] | None:
    """Give the 64-bit integers that a schema's rules for a column seem to let through, as their least and most.

    Those rules are no more than types and bounds, so that when the two are good all between them are; and ``read``
    takes an integer for itself in whatever form a cell has it. None where that is not so.
    """
    rules = property_schema if isinstance(property_schema, dict) else {}
    if property_schema is False or not rules.keys() <= _TYPES_AND_BOUNDS:
        return None
    if any(type(read(form)) is not int or read(form) != 7 for form in (7, "7", "07", 7.0, Decimal(7), Decimal("7.0"))):
        return None
    try:
        least = max(math.ceil(rules.get("minimum", _LEAST)), math.floor(rules.get("exclusiveMinimum", _LEAST - 1)) + 1)
        most = min(math.floor(rules.get("maximum", _MOST)), math.ceil(rules.get("exclusiveMaximum", _MOST + 1)) - 1)
    except (OverflowError, ValueError):  # Python's JSON has 1e400 and NaN
        return None
    return max(least, _LEAST), min(most, _MOST)


def _read_text(cell: Cell) -> Any:
    return str(cell) if type(cell) is int else cell


def _read_integer(cell: Cell) -> Any:
    if isinstance(cell, str):
        return _integer_of(cell)
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    if isinstance(cell, Decimal):
        return int(cell) if cell.is_finite() and cell == cell.to_integral_value() else str(cell)
    return cell


def _integer_of(text: str) -> int | str:
    match = _INTEGER.fullmatch(text)
    return int(match[1]) if match else text


def _read_number(cell: Cell) -> Any:
    whole = _read_integer(cell)
    if isinstance(whole, str) and _NUMBER.fullmatch(whole):
        return float(whole)
    return whole


def _read_boolean(cell: Cell) -> Any:
    return _BOOLEAN_BY_TEXT.get(cell, cell) if isinstance(cell, str) else cell


_READ_BY_TYPE = {"integer": _read_integer, "number": _read_number, "boolean": _read_boolean}
