"""A usage log in CSV: every record as it stands, or the words for why it cannot be read.

Records are split by the standard library's ``csv``, strictly (RFC 4180), as long as each line is one sound
record (where no quote is in sight, at their delimiters, which comes to the same). A record that breaks the rules
is one malformed row, and the file goes on after it. But ``csv`` itself goes on at the next line, which may lie
inside a quoted cell of that very record, and would make a row of it that is not there. So lines that ``csv``
refuses, or that look odd, are split by ``csv_scan.Scan`` instead.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from uploader.model.errors import InputError
from uploader.model.model import Batch, Row
from uploader.readers.content import Compression, Content
from uploader.readers.csv_scan import CELL_LIMIT_CHARACTERS, ESCAPED_BYTE, Scan
from uploader.readers.open_log import BATCH_ROWS, OpenLog

_CHUNK_CHARACTERS = 64 * 1024

_BOM = "\ufeff"
_SAVE_AS_UTF8 = 'save it as "CSV UTF-8", with the column names in its first line'
_FOREIGN_STARTS = (
    (b"PAR1", "holds Parquet data", "name it .parquet"),
    (b"\x1f\x8b", "holds gzip data", "name it .csv.gz"),
    (b"BZh", "holds bzip2 data", "name it .csv.bz2"),
    (b"\x28\xb5\x2f\xfd", "holds Zstandard data", "name it .csv.zst"),
    (b"PK\x03\x04", "holds a workbook or a zip archive", _SAVE_AS_UTF8),
    (b"\xff\xfe", "holds UTF-16 text", _SAVE_AS_UTF8),
    (b"\xfe\xff", "holds UTF-16 text", _SAVE_AS_UTF8),
)


@final
class CsvLog(OpenLog):
    """A CSV usage log, open; ``readers.UsageLog`` says what each attribute is.

    Raises ``InputError`` when the file or its header cannot be taken.
    """

    kind: Final = "csv"

    def __init__(self, path: Path, *, delimiter: str, compression: Compression | None) -> None:
        super().__init__(Content(path, compression=compression))
        self.delimiter: Final = delimiter
        with self._closed_on_failure(), self._open_text() as text:
            header = _Records(text, path=path, delimiter=delimiter).header
        self.columns: Final = header.columns
        self.header_text: Final = header.text
        self.line_end: Final = header.line_end
        self.has_bom: Final = header.has_bom

    def batches(self) -> Iterator[Batch]:
        """One pass over all rows.

        Raises ``InputError`` for a quote that is still open at the end and for whatever ``Content`` refuses,
        ``InputChangedError`` for content that is no longer the first pass's.
        """
        count = 0
        with self._open_text() as text:
            records = _Records(text, path=self.path, delimiter=self.delimiter)
            while rows := records.next_rows():
                count += len(rows)
                for start in range(0, len(rows), BATCH_ROWS):
                    yield Batch(rows[start : start + BATCH_ROWS])
        self._row_count = count

    def record_text(self, row: Row) -> str:
        """Give the row's record as it stood, without its line end."""
        return row.text

    def _open_text(self) -> io.TextIOWrapper:
        stream = self._content.open_lines()
        start = stream.peek(4)
        for signature, what, remedy in _FOREIGN_STARTS:
            if start.startswith(signature):
                raise InputError(f"{self.path} {what}, not CSV text", remedy=remedy)
        # newline="\n", for with "" a bare carriage return would end a line, and so make two rows of one.
        return io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """The first record of a file; ``text`` is without byte order mark and line end."""

    columns: tuple[str, ...]
    text: str
    line_end: str
    has_bom: bool


class _Records:
    """The records of one pass: the header at once, then the rows."""

    def __init__(self, text: io.TextIOWrapper, *, path: Path, delimiter: str) -> None:
        self._text = text
        self._path = path
        self._delimiter = delimiter
        self._lines_read = 0
        self._rows_read = 0
        self.header = self._read_header()

    def next_rows(self) -> list[Row]:
        """Read some more lines' rows; none at the end of the file."""
        rows: list[Row] = []
        while not rows and (lines := self._text.readlines(_CHUNK_CHARACTERS)):
            rows = self._plain_rows(lines) or self._scanned_rows(lines)
        self._rows_read += len(rows)
        return rows

    def _plain_rows(self, lines: list[str]) -> list[Row]:
        """Split lines that are one sound record each; no rows when any line may be something else.

        This is what a pass over a usual file costs, so no Python code runs for a cell, and little for a line.
        """
        chunk = "".join(lines)
        if (
            len(chunk) > CELL_LIMIT_CHARACTERS
            or "\0" in chunk
            or chunk.count("\r") != chunk.count("\r\n")
            or (not chunk.isascii() and ESCAPED_BYTE.search(chunk))
        ):
            return []
        texts = [line.rstrip("\r\n") for line in lines]
        records = self._split(chunk, lines, texts)
        if len(records) != len(lines) or set(map(len, records)) != {len(self.header.columns)}:
            return []
        self._lines_read += len(lines)
        return list(map(Row, itertools.count(self._rows_read + 1), records, texts))

    def _split(self, chunk: str, lines: list[str], texts: list[str]) -> list[list[str]]:
        """Split lines at their delimiters; no records when ``csv`` refuses them."""
        # Without a quote ``csv`` has no rule but the delimiter, and takes twice as long. It gives no cell for a blank
        # line, and this gives one: where the header has more, either is caught.
        if '"' not in chunk and len(self.header.columns) > 1:
            return [text.split(self._delimiter) for text in texts]
        try:
            return list(csv.reader(lines, delimiter=self._delimiter, strict=True))
        except csv.Error:
            return []

    def _scanned_rows(self, lines: list[str]) -> list[Row]:
        """Split any lines, and as many more as their last record has."""
        source = itertools.chain(lines, self._text)
        last_line = self._lines_read + len(lines)
        rows: list[Row] = []
        while self._lines_read < last_line:
            scan = self._scan(source)
            number = self._rows_read + len(rows) + 1
            text = scan.text
            fault = scan.fault(width=len(self.header.columns))
            if fault and text:
                rows.append(Row(number, (), scan.shortened_text, fault))
            elif text:
                rows.append(Row(number, self._cells(text), text))
        return rows

    def _scan(self, source: Iterator[str]) -> Scan:
        """Read the next record; it has no lines at the end of the file."""
        scan = Scan(first_line=self._lines_read + 1, delimiter=self._delimiter)
        for line in source:
            scan.feed(line)
            if not scan.in_quotes:
                break
        if scan.in_quotes:
            raise InputError(
                f"{self._path}: the quote opened in line {scan.cell_line} is still open at the end",
                remedy="close the quote, or copy the file again if it was cut short",
            )
        self._lines_read += scan.line_count
        return scan

    def _cells(self, text: str) -> list[str]:
        (cells,) = csv.reader([text], delimiter=self._delimiter, strict=True)
        return cells

    def _read_header(self) -> _Header:
        first_line = self._text.readline()
        source = itertools.chain([first_line.removeprefix(_BOM)], self._text)
        scan = self._scan(source)
        while scan.line_count and not scan.text:
            scan = self._scan(source)
        if not scan.line_count:
            raise InputError(f"{self._path} is empty: it has no header", remedy=_SAVE_AS_UTF8)
        fault = scan.fault(width=scan.cell_count)
        if fault:
            raise InputError(f"{self._path}: its header cannot be read: {fault}", remedy=_SAVE_AS_UTF8)
        return _Header(
            columns=tuple(self._cells(scan.text)),
            text=scan.text,
            line_end=scan.line_end or "\n",
            has_bom=first_line.startswith(_BOM),
        )
