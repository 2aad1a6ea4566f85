"""How cells are spelled as a CSV record (RFC 4180).

Not by ``csv.writer``: on Python 3.10 it fails on a NUL character, and before 3.13 only a character of the line end is
sure to be quoted.
"""

from __future__ import annotations

from collections.abc import Iterable


def csv_record(cells: Iterable[object], delimiter: str) -> str:
    """Spell cells as a record without its line end; a lone empty cell is quoted, for a blank line is no record."""
    return delimiter.join([csv_cell(cell, delimiter) for cell in cells]) or '""'


def csv_cell(cell: object, delimiter: str) -> str:
    """Spell one cell, in quotes where it needs them; None as nothing."""
    if cell is None or cell == "":
        return ""
    text = str(cell)
    if '"' in text or delimiter in text or "\n" in text or "\r" in text:
        return '"' + text.replace('"', '""') + '"'
    return text
