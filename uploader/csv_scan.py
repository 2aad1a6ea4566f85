"""One CSV record read again with care: where it ends, what is wrong with it, and how it stood.

The rules are those of ``csv.reader`` without ``strict``: a quote opens only at the start of a cell, ``""`` inside is
a quote, and what follows a closing quote is text up to the next delimiter. So a record that strict reading gave up
in the middle of ends where a lenient reader would end it.
"""

from __future__ import annotations

import re
from typing import Final

CELL_LIMIT_CHARACTERS: Final = 131_072
"""``csv.field_size_limit()`` as Python ships it. It is process-wide, so it is never set here."""

KEPT_CHARACTERS: Final = 64 * 1024
"""How much of a scanned record's text is kept."""

ESCAPED_BYTE: Final = re.compile("[\udc80-\udcff]")
"""What ``errors="surrogateescape"`` makes of a byte that is not UTF-8."""


class Scan:
    """A record, fed one line of the file at a time for as long as ``in_quotes`` says that it goes on.

    first_line: the number in the file of the line to be fed first.
    """

    def __init__(self, *, first_line: int, delimiter: str) -> None:
        self.in_quotes = False
        self.line_count = 0
        self.cell_count = 0
        self.cell_line = first_line
        self._first_line = first_line
        self._delimiter = delimiter
        self._cell_characters = 0
        self._fault = ""
        self._parts: list[str] = []
        self._kept_characters = 0
        self.left_out_characters = 0
        self._left_out_line = 0
        self.line_end = ""

    @property
    def lines(self) -> str:
        """The record's place in the file: ``line 7`` or ``lines 7-9``."""
        last = self._last_line
        return f"line {last}" if self.line_count == 1 else f"lines {self._first_line}-{last}"

    @property
    def text(self) -> str:
        """The record without its last line end; past ``KEPT_CHARACTERS``, a note of how much is left out."""
        if not self.left_out_characters:
            return "".join(self._parts)
        lines = f"lines {self._left_out_line}-{self._last_line} of the file"
        return "".join([*self._parts, f" [{self.left_out_characters:,} more characters left out: {lines}]"])

    def fault(self, *, width: int) -> str:
        """The first thing wrong with the record, in words; empty when there is none and it has ``width`` cells."""
        if self._fault or self.cell_count == width:
            return self._fault
        cells = "1 cell" if self.cell_count == 1 else f"{self.cell_count} cells"
        return f"{self.lines}: {cells} where the header has {width}"

    def feed(self, line: str) -> None:
        """Read the record's next line, its line end included."""
        self.line_count += 1
        body = _without_line_end(line)
        self._keep(body, line_end=line[len(body) :])
        if "\0" in body:
            self._note("a NUL character")
        escaped = ESCAPED_BYTE.search(body)
        start = 0
        while True:
            end = self._end_of_cell(line, start, len(body))
            if escaped and escaped.start() < end:
                self._note(f"cell {self.cell_count + 1} is not UTF-8")
            if self.in_quotes:
                return
            self.cell_count += 1
            if end == len(body):
                return
            start = end + 1

    @property
    def _last_line(self) -> int:
        return self._first_line + self.line_count - 1

    def _end_of_cell(self, line: str, start: int, stop: int) -> int:
        """Where the cell that stands at ``start`` ends: at a delimiter, or at ``stop``."""
        at = start
        if not self.in_quotes:
            self._cell_characters = 0
            self.cell_line = self._last_line
            self.in_quotes = line.startswith('"', at)
            at += self.in_quotes
        quoted = self.in_quotes
        while self.in_quotes:
            quote = line.find('"', at)
            if quote < 0:
                self._count(len(line) - at)
                return stop
            escaped = line.startswith('"', quote + 1)
            self._count(quote - at + escaped)
            at = quote + 1 + escaped
            self.in_quotes = escaped
        end = line.find(self._delimiter, at, stop)
        end = stop if end < 0 else end
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

    def _note(self, what: str, *, line: int | None = None) -> None:
        if not self._fault:
            self._fault = f"line {line or self._last_line}: {what}"

    def _keep(self, body: str, *, line_end: str) -> None:
        text = self.line_end + body
        self.line_end = line_end
        kept = text[: KEPT_CHARACTERS - self._kept_characters]
        if kept:
            self._parts.append(kept)
            self._kept_characters += len(kept)
        if len(kept) < len(text):
            self._left_out_line = self._left_out_line or self._last_line
            self.left_out_characters += len(text) - len(kept)


def _without_line_end(text: str) -> str:
    """The text without the LF or CRLF that it may end in."""
    return text[:-2] if text.endswith("\r\n") else text[:-1] if text.endswith("\n") else text
