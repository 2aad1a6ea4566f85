"""What a spreadsheet does to cells by itself, told from an edit: ``00123`` -> ``123``, ``1-2`` -> ``2-Jan``."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from uploader.model.model import EVENT_COLUMNS

_NUMBER = re.compile(r"[+-]?[0-9]{1,500}(?:[.,][0-9]{1,500})?(?:E[+-]?[0-9]{1,3})?", re.IGNORECASE)
_MONTH = (
    "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?|september|oct(?:ober)?"
    "|nov(?:ember)?|dec(?:ember)?)"
)
_DATE_OR_TIME = re.compile(
    rf"[0-9]{{1,4}}([-/. ])[0-9]{{1,2}}(?:\1[0-9]{{1,4}})?|[0-9]{{1,2}}:[0-9]{{2}}(?::[0-9]{{2}})?"
    rf"|{_MONTH}[-/. ]?[0-9]{{1,4}}(?:[-/., ]{{0,2}}[0-9]{{4}})?"
    rf"|[0-9]{{1,4}}[-/. ]?{_MONTH}(?:[-/., ]{{0,2}}[0-9]{{1,4}})?",
    re.IGNORECASE,
)
_WITHIN_15_DIGITS = Decimal("1e-14")
_CURRENCY_WORDS = re.compile("(?:CHF|kr|z\u0142|[A-Z]{1,2}(?=\\$))", re.IGNORECASE)
_LOOSE = re.compile(r"[0-9]{1,500}[.,]?[0-9]{0,500}|[.,][0-9]{1,500}")
_IN_GROUPS = re.compile(r"[0-9]{1,3}([.,'\s])[0-9]{3}(?:\1[0-9]{3}){0,100}(?:[.,][0-9]{1,100})?")


def edited_columns(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name the event's columns that a person edited: what a spreadsheet did to them by itself does not count."""
    damaged = damaged_columns(before, now)
    return [column for column in EVENT_COLUMNS if before.get(column) != now.get(column) and column not in damaged]


def damaged_columns(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name the columns that a spreadsheet seems to have changed.

    before: the cells that the usage log had, by column; other columns are not looked at.
    """
    return [
        column
        for column in before
        if column in now
        and before[column] != now[column]
        and (
            _is_damaged(before[column], now[column])
            or (column != "total_usage" and _is_written_otherwise(before[column], now[column]))
        )
    ]


def _is_damaged(before: object, now: object) -> bool:
    if before == now:
        return False
    if isinstance(before, int) and isinstance(now, int):
        return _is_same_number(Decimal(before), Decimal(now))
    return isinstance(before, str) and isinstance(now, str) and _is_damaged_text(before, now)


def _is_damaged_text(before: str, now: str) -> bool:
    if now == before.strip():
        return False
    if now == before.replace("\r", ""):  # LibreOffice knows one kind of line end within a cell
        return True
    was, became = _number(before), _number(now)
    if was is not None and became is not None:
        is_cut = "e" in now.lower() and "e" not in before.lower()  # 1.23E+15: its other digits are gone
        return is_cut or _is_same_number(was, became)
    if before.lower() in ("true", "false"):
        return now.isupper()
    if _DATE_OR_TIME.fullmatch(before) and any(map(str.isdigit, now)):
        return True
    return now.startswith("#") and not before.startswith("#")  # "####" in a narrow column, "#NAME?" for "-x"


def _is_written_otherwise(before: object, now: object) -> bool:
    """Tell whether an id that reads as an amount was written in another way, or one that reads as a formula worked out.

    Of a usage it may be what a person did: 1,234 is none, and 1234 is.
    """
    if not isinstance(before, str) or not isinstance(now, str) or now in (before, before.strip()):
        return False
    amounts = _amounts(now)
    had = _amounts(before)
    if before.startswith(("=", "+", "-")) and not had:
        return bool(amounts)
    return any(_is_same_number(was, became) for was in had for became in amounts)


def _amounts(text: str) -> set[Decimal]:
    """Read text in the ways in which a spreadsheet may: 1,234 $5 5% (5) .5 +5."""
    inner = _without_currency(text).strip()
    signs = inner[: len(inner) - len(inner.lstrip("+-"))]
    is_negative = signs.count("-") % 2 == 1 or (inner.startswith("(") and inner.endswith(")"))
    unit = Decimal("0.01" if inner.endswith("%") else 1) * (-1 if is_negative else 1)
    inner = inner.strip("+-()% \u00a0")
    found = {inner} if _LOOSE.fullmatch(inner) else set()
    if in_groups := _IN_GROUPS.fullmatch(inner):
        found.add(inner.replace(in_groups[1], ""))
    return {unit * Decimal(amount.replace(",", ".")) for amount in found}


def _without_currency(text: str) -> str:
    return "".join(char for char in _CURRENCY_WORDS.sub("", text) if unicodedata.category(char) != "Sc")


def _number(text: str) -> Decimal | None:
    return Decimal(text.strip().replace(",", ".")) if _NUMBER.fullmatch(text.strip()) else None


def _is_same_number(before: Decimal, now: Decimal) -> bool:
    """Compare to the fifteen digits that a spreadsheet keeps."""
    return abs(before - now) <= abs(before) * _WITHIN_15_DIGITS
