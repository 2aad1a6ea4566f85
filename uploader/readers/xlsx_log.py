r"""A results or failed file that comes back as an .xlsx workbook, from Excel or LibreOffice. Knows `openpyxl`.

=============================================  ====================================================
a cell of the sheet                            in ``Row.cells``
=============================================  ====================================================
text                                           ``str``, as it stands; the standard's _x000D_ is \r
nothing                                        ``""``
a whole number of at most 15 digits            ``int``
another number                                 ``str``, as short as it can be said
a date, true or false, an error, a formula,    ``NoText``: carried along as it is shown, but never
a whole number that the sheet has rounded      taken for a column that the schema names
=============================================  ====================================================

Of the two readers, python-calamine gives nothing for an error or a formula without its value, as if the cell were
empty. openpyxl tells all of these apart, but drops "x005F_" from shared texts; so those are read here.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from datetime import time as time_of_day
from pathlib import Path
from typing import Any, Final, final
from xml.etree import ElementTree as ET

from openpyxl.cell.text import Text
from openpyxl.reader.excel import SHARED_STRINGS, ExcelReader
from openpyxl.utils import get_column_letter

from uploader.model.errors import InputError, UploaderError
from uploader.model.model import Batch, Cell, Row
from uploader.readers.content import Content
from uploader.readers.csv_record import csv_record
from uploader.readers.open_log import BATCH_ROWS, OpenLog

_KEPT_BLOCKS = 16
_OURS = "upload_row"
_MOST_EXACT = 10**15
# ECMA-376, part 1, 22.9.2.19: how a text holds what XML cannot. NUL and halves of a character pair are never taken.
_ESCAPED = re.compile("_x((?!0000|[Dd][89A-Fa-f])[0-9A-Fa-f]{4})_")
_SAVE_AGAIN = "save it again as .xlsx, or as CSV UTF-8, from the program that wrote it"


@final
class NoText:
    """A cell whose value is neither text nor a number that a person is sure to have meant.

    shown: what the cell shows; what: its kind, for a message.
    """

    __slots__ = ("_what", "shown")

    def __init__(self, shown: str, what: str) -> None:
        self.shown = shown
        self._what = what

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return f"{self._what} {self.shown}"


@final
class XlsxLog(OpenLog):
    """The sheet with our columns of a workbook, open; ``readers.UsageLog`` says what each attribute is.

    Its results are CSV, so that is its ``kind``.

    Raises ``InputError`` when the file cannot be taken.
    """

    kind: Final = "csv"
    delimiter: Final = ","
    line_end: Final = "\n"
    has_bom: Final = False

    def __init__(self, path: Path) -> None:
        super().__init__(Content(path))
        self._bytes = self._content.open_seekable(kept_blocks=_KEPT_BLOCKS)
        with self._closed_on_failure(), self._book() as book:
            self._sheet, self.columns = self._sheet_of_ours(book)
        self.header_text: Final = csv_record(self.columns, self.delimiter)

    def batches(self) -> Iterator[Batch]:
        """One pass over all rows that are not empty, hidden ones too.

        Raises ``InputError`` for a workbook that is damaged, ``InputChangedError`` for content that is no longer the
        first pass's.
        """
        self._content.hash_file()
        self._bytes.forget_blocks()
        count = 0
        with self._book() as book:
            lines = self._lines(book[self._sheet])
            next(lines)
            while True:
                with self._reading():
                    rows = [self._row(*line, number) for number, line in zip(_numbers(count), lines, strict=False)]
                if not rows:
                    break
                count += len(rows)
                yield Batch(rows)
        self._row_count = count

    def record_text(self, row: Row) -> str:
        """Give the row as a CSV record."""
        return row.text or csv_record(row.cells, self.delimiter)

    @contextlib.contextmanager
    def _book(self) -> Iterator[Any]:
        with self._reading():
            self._bytes.seek(0)
            reader = _Reader(self._bytes, read_only=True)
            reader.read()
        try:
            yield reader.wb
        finally:
            reader.wb.close()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn whatever openpyxl raises on a file that it cannot read into an ``InputError``, and hush its warnings."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pictures and the like, which it does not keep
                yield
        except UploaderError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{self.path} cannot be read as a workbook: {reason}", remedy=_SAVE_AGAIN) from error

    def _sheet_of_ours(self, book: Any) -> tuple[str, tuple[str, ...]]:
        """Find the one sheet with our columns; without one, the first, whose columns will then be found wanting."""
        header_by_sheet: dict[str, tuple[str, ...]] = {}
        for sheet in book.worksheets:
            with self._reading():
                _, cells = next(self._lines(sheet), (0, []))
            header_by_sheet[sheet.title] = tuple(map(str, cells))
        ours = {title: header for title, header in header_by_sheet.items() if _OURS in header}
        if len(ours) > 1:
            raise InputError(
                f"{self.path} has {len(ours)} sheets with upload_... columns: {', '.join(map(repr, ours))}",
                remedy="keep the one with your corrections, and delete the others",
            )
        found = next(iter((ours or header_by_sheet).items()), None)
        if found is None or not found[1]:
            raise InputError(f"{self.path} is empty: no sheet of it has a header", remedy=_SAVE_AGAIN)
        return found

    def _lines(self, sheet: Any) -> Iterator[tuple[int, list[Cell]]]:
        """Give the cells of each line that is not empty, none behind the last that holds something, and its number."""
        sheet.reset_dimensions()
        for number, line in enumerate(sheet.iter_rows(), 1):
            cells = [_cell(cell) for cell in line]
            while cells and cells[-1] == "":
                cells.pop()
            if cells:
                yield number, cells

    def _row(self, line: int, cells: list[Cell], number: int) -> Row:
        width = len(self.columns)
        if len(cells) <= width:
            return Row(number, cells + [""] * (width - len(cells)), "")
        at = next(at for at in range(width, len(cells)) if cells[at] != "")
        fault = f"cell {get_column_letter(at + 1)}{line} stands behind the last column of the header; empty it"
        return Row(number, (), csv_record(cells, self.delimiter), fault)


class _Reader(ExcelReader):  # type: ignore[misc] # openpyxl ships no types
    def read_strings(self) -> None:
        """Read the shared texts as they stand."""
        part = self.package.find(SHARED_STRINGS)
        if part is None:
            return
        with self.archive.open(part.PartName[1:]) as file:
            for _, element in ET.iterparse(file):  # noqa: S314 -- expat has its own guard against XML bombs
                if element.tag.endswith("}si"):
                    self.shared_strings.append(Text.from_tree(element).content)
                    element.clear()


def _numbers(count: int) -> range:
    return range(count + 1, count + 1 + BATCH_ROWS)


def _cell(cell: Any) -> Cell:
    return "" if cell.value is None else _READ_BY_KIND[cell.data_type](cell.value)


def _text(value: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), value)


def _number(value: float) -> Cell:
    if abs(value) >= _MOST_EXACT:
        return NoText(f"{value:.14E}", "the rounded number")
    return int(value) if value == int(value) else str(value)


def _moment(value: Any) -> str:
    if isinstance(value, datetime) and value.time() == time_of_day():
        return value.date().isoformat()
    return str(value)


# By what openpyxl calls a cell's data type. An array's formula is an object of its own.
_READ_BY_KIND: dict[str, Callable[[Any], Cell]] = {
    "s": _text,
    "n": _number,
    "b": lambda value: NoText(str(value).upper(), "the value"),
    "d": lambda value: NoText(_moment(value), "the date or time"),
    "e": lambda value: NoText(value, "the error"),
    "f": lambda value: NoText(value if isinstance(value, str) else "={...}", "the formula"),
}
