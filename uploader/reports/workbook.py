"""An .xlsx workbook of a results or failed file, for a person to correct. The only file that knows `xlsxwriter`.

Every cell of the usage log is text in a cell of the format "text", so that no spreadsheet makes a number, a date or a
formula of it, now or when it is edited. Rows go to disk as they come: the memory does not grow with them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import xlsxwriter
from xlsxwriter.exceptions import FileCreateError
from xlsxwriter.utility import xl_col_to_name

from uploader.model.model import REPLAY_BY_REASON, Replay, Status
from uploader.results.results import OWN_COLUMNS

MOST_ROWS = 1_048_575
MOST_COLUMNS = 16_384
MOST_CHARACTERS = 32_767
"""What Excel takes: rows below the header, columns, and UTF-16 units in a cell (its "specifications and limits")."""

_CHOICE = "upload_replay"
_HOW_TO = "How to"
_MEANING_BY_CHOICE = {
    "resend": "in doubt, and not recorded, as you found out: post it once more, exactly as it was",
    "recorded": "in doubt, and recorded, as you found out: it counts as accepted",
    "confirm": "in doubt, and nobody has found out yet: nothing is done",
    "yes": "it was certainly not recorded: post it",
    "fix": "it was certainly not recorded, and would fail again as it was: post it as it is now",
}
_CHOICES_IN_DOUBT = 3
_FIRST_CHOICE_LINE = 9
_STEPS = (
    "Correct the cells of the usage log, to the left of upload_row, in rows that are marked fix.",
    "Choose from the list in upload_replay (the words are below). Rows that you leave as they are need nothing.",
    "Leave the other upload_... columns as they are: they say whose row it is. Rows may be sorted, filtered, deleted.",
    "Save as .xlsx (or as CSV UTF-8), and run:   uploader replay FILE   with the options of the upload.",
    "What was accepted, here or since, is never posted again, whatever this file says.",
)
_COLOUR_BY_REPLAY = {Replay.YES: "#DDEBF7", Replay.FIX: "#FFE699", Replay.CONFIRM: "#F8CBAD"}
_COLOUR_ACCEPTED = "#E2EFDA"
_COLOURED = ("upload_status", "upload_reason", "upload_detail", "upload_replay")
_WIDTH_BY_COLUMN = {"upload_detail": 60, "upload_reason": 20}
_NARROWEST, _WIDEST = 8, 40
_ROOM_FOR_THE_FILTER = 4
_ROWS_FOR_WIDTHS = 1000
_MOST_DIGITS = 15


class Workbook:
    """A workbook that is being written, row by row.

    file:    receives it; it is neither closed nor synced.
    columns: of the results or failed file, ours among them; no more than ``MOST_COLUMNS``.
    scratch: a folder for the rows until the file is written.
    """

    def __init__(self, file: BinaryIO, columns: Sequence[str], *, scratch: Path) -> None:
        self._columns = columns
        self._rows = 0
        self._sink = _Sink(file)
        self._book = xlsxwriter.Workbook(self._sink, {"constant_memory": True, "tmpdir": str(scratch)})
        self._book.use_zip64()
        self._sheet = self._book.add_worksheet("Rows")
        text = {"num_format": "@"}
        grey = {"font_color": "#7F7F7F", "bg_color": "#F2F2F2"}
        self._text, self._own = self._book.add_format(text), self._book.add_format({**text, **grey})
        self._own_number = self._book.add_format({"num_format": "0", **grey})
        self._choice = self._book.add_format({**text, "bold": True, "border": 1, "border_color": "#7F7F7F"})
        self._write_header()
        self._write = [self._writer(column) for column in columns]
        self._widths = [len(column) + _ROOM_FOR_THE_FILTER for column in columns]

    def write(self, cells: Sequence[str]) -> list[str]:
        """Add a row; give the columns whose cells are too long for a workbook, and so stand there cut short."""
        self._rows += 1
        too_long = [self._columns[at] for at, cell in enumerate(cells) if self._write[at](self._rows, at, cell) != 0]
        if self._rows <= _ROWS_FOR_WIDTHS:
            self._widths = [max(width, len(cell) + 1) for width, cell in zip(self._widths, cells, strict=True)]
        return too_long

    def close(self) -> None:
        """Write what belongs to the sheet as a whole, and the file.

        Raises ``OSError`` when it cannot be written.
        """
        last_row, last_column = max(self._rows, 1), len(self._columns) - 1
        self._sheet.freeze_panes(1, 0)
        self._sheet.autofilter(0, 0, last_row, last_column)
        self._sheet.ignore_errors({"number_stored_as_text": f"A1:{xl_col_to_name(last_column)}{last_row + 1}"})
        for at, column in enumerate(self._columns):
            self._sheet.set_column(at, at, self._width(at, column))
        self._guard_own_columns(last_row)
        self._colour_reasons(last_row)
        self._write_how_to()
        try:
            self._book.close()
        except FileCreateError as error:
            self._sink.abandon()
            (fault,) = error.args
            raise fault from error

    def _write_header(self) -> None:
        plain = {"bold": True, "bottom": 2, "num_format": "@"}
        log, own = self._book.add_format(plain), self._book.add_format({**plain, "font_color": "#7F7F7F"})
        choice = self._book.add_format({**plain, "bg_color": "#FFF2CC"})
        for at, column in enumerate(self._columns):
            self._sheet.write_string(
                0, at, column, choice if column == _CHOICE else own if column in OWN_COLUMNS else log
            )

    def _writer(self, column: str) -> Any:
        """Choose how the cells of a column are written; what is returned is not 0 for a text that is too long."""
        write_string, own = self._sheet.write_string, OWN_COLUMNS.get(column)
        if own == "integer":
            return self._write_own_number
        style = self._choice if column == _CHOICE else self._text if own is None else self._own
        return lambda row, at, cell: write_string(row, at, cell, style)

    def _write_own_number(self, row: int, at: int, cell: str) -> int:
        """Write a number of ours as one, so that rows can be sorted by it."""
        if cell.isascii() and cell.isdigit() and len(cell) <= _MOST_DIGITS and str(int(cell)) == cell:
            return int(self._sheet.write_number(row, at, int(cell), self._own_number))
        return int(self._sheet.write_string(row, at, cell, self._own))

    def _width(self, at: int, column: str) -> int:
        if column in OWN_COLUMNS:
            return _WIDTH_BY_COLUMN.get(column, len(column) + _ROOM_FOR_THE_FILTER)
        return min(max(self._widths[at], _NARROWEST), _WIDEST)

    def _guard_own_columns(self, last_row: int) -> None:
        """Have our columns refuse what is typed, and ``upload_replay`` offer what may be chosen for its row."""
        for at, column in enumerate(self._columns):
            if column == _CHOICE:
                self._sheet.data_validation(1, at, last_row, at, self._choices())
            elif column in OWN_COLUMNS:
                refuse = {
                    "validate": "custom",
                    "value": "=FALSE",
                    "error_title": "Do not edit",
                    "error_message": "uploader wrote this cell, and needs it to know whose row this is.",
                }
                self._sheet.data_validation(1, at, last_row, at, refuse)

    def _choices(self) -> dict[str, Any]:
        """Choose by the row's own reason, so that the list is right also where a row was sorted to."""
        status, reason = (self._place(column) for column in ("upload_status", "upload_reason"))
        last = _FIRST_CHOICE_LINE + len(_MEANING_BY_CHOICE)
        in_doubt = f"'{_HOW_TO}'!$A${_FIRST_CHOICE_LINE}:$A${_FIRST_CHOICE_LINE + _CHOICES_IN_DOUBT - 1}"
        others = f"'{_HOW_TO}'!$A${_FIRST_CHOICE_LINE + _CHOICES_IN_DOUBT}:$A${last - 1}"
        nothing = f"'{_HOW_TO}'!$A${last}"
        doubts = _is_one_of(
            reason, [reason.value for reason, replay in REPLAY_BY_REASON.items() if replay is Replay.CONFIRM]
        )
        return {
            "validate": "list",
            "source": f'=IF({status}2="{Status.ACCEPTED.value}",{nothing},IF({doubts},{in_doubt},{others}))',
            "ignore_blank": False,
            "error_title": "Choose from the list",
            "error_message": f"The words and what they mean stand on the sheet '{_HOW_TO}'.",
        }

    def _colour_reasons(self, last_row: int) -> None:
        places = sorted(self._columns.index(column) for column in _COLOURED if column in self._columns)
        first, last = xl_col_to_name(places[0]), xl_col_to_name(places[-1])
        for replay, colour in _COLOUR_BY_REPLAY.items():
            reasons = [reason.value for reason, means in REPLAY_BY_REASON.items() if means is replay]
            self._colour(f"{first}2:{last}{last_row + 1}", _is_one_of(self._place("upload_reason"), reasons), colour)
        accepted = _is_one_of(self._place("upload_status"), [Status.ACCEPTED.value])
        self._colour(f"{first}2:{last}{last_row + 1}", accepted, _COLOUR_ACCEPTED)

    def _colour(self, cells: str, formula: str, colour: str) -> None:
        style = self._book.add_format({"bg_color": colour, "font_color": "#000000"})
        self._sheet.conditional_format(cells, {"type": "formula", "criteria": f"={formula}", "format": style})

    def _place(self, column: str) -> str:
        return f"${xl_col_to_name(self._columns.index(column))}"

    def _write_how_to(self) -> None:
        sheet = self._book.add_worksheet(_HOW_TO)
        bold = self._book.add_format({"bold": True})
        sheet.set_column(0, 0, 12)
        sheet.set_column(1, 1, 100)
        sheet.write_string(0, 0, "How to send these rows again", bold)
        for number, step in enumerate(_STEPS, 1):
            sheet.write_string(number, 0, f"{number}.")
            sheet.write_string(number, 1, step)
        sheet.write_string(_FIRST_CHOICE_LINE - 2, 0, _CHOICE, bold)
        for line, (choice, meaning) in enumerate(_MEANING_BY_CHOICE.items(), _FIRST_CHOICE_LINE - 1):
            sheet.write_string(line, 0, choice)
            sheet.write_string(line, 1, meaning)


class _Sink:
    """Passes a zip archive on to a file. An abandoned archive still writes its end: that goes nowhere."""

    def __init__(self, file: BinaryIO) -> None:
        self._file: BinaryIO | None = file

    def abandon(self) -> None:
        self._file = None

    def write(self, content: bytes) -> int:
        return self._file.write(content) if self._file else len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence) if self._file else offset

    def tell(self) -> int:
        return self._file.tell() if self._file else 0

    def flush(self) -> None:
        if self._file:
            self._file.flush()


def _is_one_of(place: str, values: Sequence[str]) -> str:
    return "OR(" + ",".join(f'{place}2="{value}"' for value in values) + ")"
