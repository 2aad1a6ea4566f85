"""One CSV record read with care: where it ends, what is wrong with it, and how it stood.

The rules are those of ``csv.reader`` without ``strict``: a quote opens only at the start of a cell, ``""``
inside is a quote, and what follows a closing quote is text up to the next delimiter. So a record that breaks
the strict rules ends where a lenient reader would end it. The verdicts are the same on every version of Python.
"""

from __future__ import annotations

import re
from typing import Final

CELL_LIMIT_CHARACTERS: Final = 131_072
"""``csv.field_size_limit()`` as Python ships it. It is process-wide, so it is never set here."""

RECORD_LIMIT_CHARACTERS: Final = 16 * 1024 * 1024
"""Without a limit, a record that never ends would fill the memory."""

KEPT_CHARACTERS: Final = 64 * 1024
"""How much of a malformed record's text is kept."""

ESCAPED_BYTE: Final = re.compile("[\udc80-\udcff]")
"""What ``errors="surrogateescape"`` makes of a byte that is not UTF-8."""


class Scan:
    """A record, fed one line of the file at a time for as long as ``in_quotes`` says that it goes on.

    first_line: the number in the file of the line to be fed first.

    line_count, cell_count: how many were read so far.
    cell_line: where the last cell began; line_end: LF, CRLF or nothing, as the last line has it.
    """

    def __init__(self, *, first_line: int, delimiter: str) -> None:
        self.in_quotes = False
        self.line_count = 0
        self.cell_count = 0
        self.cell_line = first_line
        self.line_end = ""
        self._first_line = first_line
        self._delimiter = delimiter
        self._cell_characters = 0
        self._characters = 0
        self._fault = ""
        self._parts: list[str] = []

    @property
    def lines(self) -> str:
        """The record's place in the file: ``line 7`` or ``lines 7-9``."""
        return f"line {self._line}" if self.line_count == 1 else f"lines {self._first_line}-{self._line}"

    @property
    def text(self) -> str:
        """The record as it stood, without its line end; no more of it than ``RECORD_LIMIT_CHARACTERS``."""
        return "".join(self._parts)[: self._text_characters]

    @property
    def shortened_text(self) -> str:
        """The text; past ``KEPT_CHARACTERS``, words for what is left out instead."""
        if self._text_characters <= KEPT_CHARACTERS:
            return self.text
        kept = self.text[:KEPT_CHARACTERS]
        left_out = f"{self._text_characters - KEPT_CHARACTERS:,} more characters left out"
        first_line = self._first_line + kept.count("\n")
        return f"{kept} [{left_out}: lines {first_line}-{self._line} of the file]"

    def fault(self, *, width: int) -> str:
        """Name the first thing wrong with the record; nothing is when it is sound and has ``width`` cells."""
        if self._fault or self.cell_count == width:
            return self._fault
        cells = "1 cell" if self.cell_count == 1 else f"{self.cell_count} cells"
        return f"{self.lines}: {cells} where the header has {width}"

    def feed(self, line: str) -> None:
        """Read the record's next line, its line end included."""
        self.line_count += 1
        self.line_end = line[len(_without_line_end(line)) :]
        room = RECORD_LIMIT_CHARACTERS - self._characters
        self._characters += len(line)
        if room > 0:
            self._parts.append(line[:room])
        if len(line) > room:
            self._note(f"a record of more than {RECORD_LIMIT_CHARACTERS:,} characters", line=self._first_line)
        if "\0" in line:
            self._note("a NUL character")
        self._read_cells(line, stop=len(line) - len(self.line_end))

    def _read_cells(self, line: str, *, stop: int) -> None:
        escaped = None if line.isascii() else ESCAPED_BYTE.search(line)
        start = 0
        while True:
            end = self._end_of_cell(line, start, stop)
            if escaped and escaped.start() < end:
                self._note(f"cell {self.cell_count + 1} is not UTF-8")
            if self.in_quotes:
                return
            self.cell_count += 1
            if end == stop:
                return
            start = end + 1

    def _end_of_cell(self, line: str, start: int, stop: int) -> int:
        """Where the cell that goes on at ``start`` ends: at a delimiter or at ``stop``."""
        at = start
        if not self.in_quotes:
            self._cell_characters = 0
            self.cell_line = self._line
            self.in_quotes = line.startswith('"', at)
            at += self.in_quotes
        quoted = self.in_quotes
        while self.in_quotes:
            quote = line.find('"', at)
            if quote < 0:
                self._count(len(line) - at)
                return stop
            self.in_quotes = line.startswith('"', quote + 1)
            self._count(quote - at + self.in_quotes)
            at = quote + 1 + self.in_quotes
        end = line.find(self._delimiter, at, stop)
        if end < 0:
            end = stop
        if "\r" in line[at:end]:
            self._note("a bare carriage return")
        elif quoted and at < end:
            self._note("text after a closing quote")
        self._count(end - at)
        return end

    def _count(self, characters: int) -> None:
        self._cell_characters += characters
        if self._cell_characters > CELL_LIMIT_CHARACTERS:
            self._note(f"a cell of more than {CELL_LIMIT_CHARACTERS:,} characters", line=self.cell_line)

    @property
    def _text_characters(self) -> int:
        return self._characters - len(self.line_end)

    @property
    def _line(self) -> int:
        return self._first_line + self.line_count - 1

    def _note(self, what: str, *, line: int | None = None) -> None:
        if not self._fault:
            self._fault = f"line {line or self._line}: {what}"


def _without_line_end(text: str) -> str:
    """Cut off the LF or CRLF that the text may end in."""
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
