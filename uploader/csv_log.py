"""A usage log in CSV: every record as it stands, or the words for why it cannot be read.

Records are split by the standard library's ``csv``, strictly (RFC 4180). A record that breaks its rules is one
malformed row, and the file goes on after it -- but ``csv`` itself goes on at the next line, which may lie inside a
quoted cell of that very record, and would make a row of it that is not there. So whatever ``csv`` refuses, or what
looks odd, is read again by ``csv_scan.Scan``: it finds the record's end, and its verdict is the same on every Python.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Literal

from .content import Compression, Content
from .csv_scan import ESCAPED_BYTE, KEPT_CHARACTERS, Scan
from .errors import InputError
from .model import Batch, Row

RECORD_LIMIT_CHARACTERS: Final = 16 * 1024 * 1024
"""A longer record is malformed; without a limit, one that never ends would fill the memory."""

_BATCH_ROWS = 1000
_BATCH_CHARACTERS = 4 * 1024 * 1024

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


class CsvLog:
    """A CSV usage log, open; ``readers.UsageLog`` says what each attribute is.

    Raises ``InputError`` when the file or its header cannot be taken.
    """

    kind: Final[Literal["csv"]] = "csv"

    def __init__(self, path: Path, *, delimiter: str, compression: Compression | None) -> None:
        self.path: Final = path
        self.delimiter: Final = delimiter
        self._row_count: int | None = None
        self._content = Content(path, compression=compression)
        try:
            with self._open_text() as text:
                header = _Records(text, path=path, delimiter=delimiter).header
        except BaseException:
            self._content.close()
            raise
        self.columns: Final = header.columns
        self.header_text: Final = header.text
        self.line_end: Final = header.line_end
        self.has_bom: Final = header.has_bom

    @property
    def content_sha256(self) -> str:
        """Hex digest of the decompressed content; ``RuntimeError`` before the first complete pass."""
        return self._content.sha256

    @property
    def row_count(self) -> int:
        """Rows, malformed ones included; ``RuntimeError`` before the first complete pass."""
        if self._row_count is None:
            raise RuntimeError(f"{self.path}: the number of rows is known after the first complete pass")
        return self._row_count

    def batches(self) -> Iterator[Batch]:
        """One pass over all rows.

        Raises ``InputError`` for a quote that is still open at the end and for whatever ``Content`` refuses,
        ``InputChangedError`` for content that is no longer the first pass's.
        """
        count = 0
        with self._open_text() as text:
            records = _Records(text, path=self.path, delimiter=self.delimiter)
            while rows := records.next_rows(first_number=count + 1):
                yield Batch(rows)
                count += len(rows)
        self._row_count = count

    def record_text(self, row: Row) -> str:
        """The row's record as it stood, without its line end."""
        return row.text

    def close(self) -> None:
        """Close the file."""
        self._content.close()

    def __enter__(self) -> CsvLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

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


class _RecordTooLongError(Exception):
    """A record goes on past ``RECORD_LIMIT_CHARACTERS``."""


class _Records:
    """The records of one pass: the header at once, then the rows."""

    def __init__(self, text: io.TextIOWrapper, *, path: Path, delimiter: str) -> None:
        self._path = path
        self._delimiter = delimiter
        # The lines of the record that csv is reading, and how many stand before it.
        self._taken: list[str] = []
        self._lines_before = 0
        first_line = text.readline()
        has_bom = first_line.startswith(_BOM)
        self._source = itertools.chain([first_line[1:]] if has_bom else [first_line], text)
        self.header = self._read_header(has_bom=has_bom)
        self._reader = self._new_reader()

    def next_rows(self, *, first_number: int) -> list[Row]:
        """Up to ``_BATCH_ROWS`` more rows; none at the end of the file."""
        taken = self._taken
        width = len(self.header.columns)
        rows: list[Row] = []
        characters = 0
        while len(rows) < _BATCH_ROWS:
            try:
                # A pass costs what this loop costs, so it calls nothing that a sound row does not need.
                for cells in self._reader:
                    line = taken[0] if len(taken) == 1 else "".join(taken)
                    text = line[:-2] if line.endswith("\r\n") else line[:-1] if line.endswith("\n") else line
                    if (
                        len(cells) == width
                        and "\0" not in text
                        and "\r" not in text
                        and (text.isascii() or not ESCAPED_BYTE.search(text))
                    ):
                        rows.append(Row(first_number + len(rows), cells, text))
                        self._lines_before += len(taken)
                        taken.clear()
                    elif text:
                        rows.append(self._examined(first_number + len(rows), cells, text))
                    else:
                        self._lines_before += 1
                        taken.clear()
                    characters += len(text)
                    if len(rows) == _BATCH_ROWS or characters > _BATCH_CHARACTERS:
                        return rows
                break
            except (csv.Error, _RecordTooLongError) as error:
                rows.append(self._broken(first_number + len(rows), str(error)))
                self._reader = self._new_reader()
        return rows

    def _new_reader(self) -> Iterator[list[str]]:
        return csv.reader(self._lines(), delimiter=self._delimiter, strict=True)

    def _lines(self) -> Iterator[str]:
        """The lines of the file, each noted as taken before ``csv`` sees it."""
        taken = self._taken
        characters = 0
        for line in self._source:
            characters = characters + len(line) if taken else len(line)
            taken.append(line)
            if characters > RECORD_LIMIT_CHARACTERS:
                raise _RecordTooLongError(f"a record of more than {RECORD_LIMIT_CHARACTERS:,} characters")
            yield line

    def _examined(self, number: int, cells: list[str], text: str) -> Row:
        """The row of a record that ``csv`` takes, but which may hold what it should not."""
        scan = self._scan()
        fault = scan.fault(width=len(self.header.columns))
        return Row(number, (), scan.text, fault) if fault else Row(number, cells, text)

    def _broken(self, number: int, error: str) -> Row:
        """The malformed row of a record that ``csv`` gave up in the middle of."""
        scan = self._scan()
        fault = scan.fault(width=len(self.header.columns))
        return Row(number, (), scan.text, fault or f"{scan.lines}: {error}")

    def _scan(self) -> Scan:
        """Read one record, from the lines that ``csv`` has taken of it to its end."""
        scan = Scan(first_line=self._lines_before + 1, delimiter=self._delimiter)
        for line in itertools.chain(self._taken, self._source):
            scan.feed(line)
            if not scan.in_quotes:
                break
        if scan.in_quotes:
            raise InputError(
                f"{self._path}: the quote opened in line {scan.cell_line} is still open at the end of the file",
                remedy="close the quote, or copy the file again if it was cut short",
            )
        self._lines_before += scan.line_count
        self._taken.clear()
        return scan

    def _read_header(self, *, has_bom: bool) -> _Header:
        scan = self._scan()
        while scan.line_count and not scan.text:
            scan = self._scan()
        if not scan.line_count:
            raise InputError(f"{self._path} is empty: it has no header", remedy=_SAVE_AS_UTF8)
        fault = scan.fault(width=scan.cell_count)
        if scan.left_out_characters:
            fault = f"{scan.lines}: more than {KEPT_CHARACTERS:,} characters"
        if fault:
            raise InputError(f"{self._path}: its header cannot be read: {fault}", remedy=_SAVE_AS_UTF8)
        (columns,) = csv.reader([scan.text], delimiter=self._delimiter, strict=True)
        return _Header(columns=tuple(columns), text=scan.text, line_end=scan.line_end or "\n", has_bom=has_bom)
