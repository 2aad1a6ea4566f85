"""An HTTP/1.1 answer as its bytes come in: interim heads passed over, the body as far as it came."""

from __future__ import annotations

import re
from typing import Protocol

from uploader.model.api import MOST_ANSWER_BYTES
from uploader.sender.answer_head import Head, end_of_head, read_head

_WITHOUT_A_BODY = frozenset({204, 304})
_SWITCHING_PROTOCOLS = 101
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n")
_LINE_END = re.compile(rb"\r?\n")
_MOST_LINE_BYTES = 16 * 1024
_MOST_RAW_BYTES = 1024 * 1024
"""Bytes of a whole answer, with its interim heads and the lines between its chunks; else some would never end."""
_DAMAGED = "the head of the answer is cut short or damaged"
_DAMAGED_CHUNK = "the chunks of the answer are damaged"
_TOO_LARGE = f"the answer is larger than {MOST_ANSWER_BYTES // 1024} KiB"
_CUT = "the answer ended before it was whole"
_NONE_CAME = "the connection was closed before any answer"


class _Body(Protocol):
    content: bytes
    fault: str

    def feed(self, data: bytes) -> bytes | None:
        """Take bytes in; give what is left behind the body's end, None before it."""


class Answer:
    """One answer, growing.

    head:       the final one; None before it came whole, and when it is damaged.
    fault:      what is wrong with the answer; empty when nothing is. Nothing more is read then.
    is_whole:   it ended where it said it would, or with the connection if it did not say.
    has_excess: bytes came behind its end: nobody asked for them, so the connection is not to be used again.
    """

    __slots__ = ("_body", "_raw_bytes", "_unread", "fault", "has_excess", "head", "is_whole")

    def __init__(self) -> None:
        self.head: Head | None = None
        self.fault = ""
        self.is_whole = False
        self.has_excess = False
        self._raw_bytes = 0
        self._unread = b""
        self._body: _Body | None = None

    @property
    def content(self) -> bytes:
        """The body, decoded from its transfer coding, as far as it came."""
        return b"" if self._body is None else self._body.content

    @property
    def has_begun(self) -> bool:
        """Whether any byte came."""
        return self._raw_bytes > 0

    def feed(self, data: bytes) -> bool:
        """Take in what came; tell whether the answer is over, whole or not."""
        self._raw_bytes += len(data)
        if self._raw_bytes > _MOST_RAW_BYTES:
            self.fault = _TOO_LARGE
            return True
        body = self._body
        if body is None:
            body, data = self._read_heads(data)
            if body is None:
                return bool(self.fault)
        excess = body.feed(data)
        self.fault = body.fault
        if excess is None:
            return bool(self.fault)
        self.is_whole = True
        self.has_excess = bool(excess)
        return True

    def end(self) -> None:
        """Learn that the connection's other side has ended it."""
        if isinstance(self._body, _UntilTheEnd):
            self.is_whole = True
        elif not self.fault:
            self.fault = _CUT if self.head else _DAMAGED if self._unread else _NONE_CAME

    def _read_heads(self, data: bytes) -> tuple[_Body | None, bytes]:
        """Read heads up to the final one; give the body that follows, None before that, and what came of it."""
        searched_bytes = len(self._unread)
        if searched_bytes:
            data = self._unread + data
        while (end := end_of_head(data, searched_bytes=searched_bytes)) is not None and end <= MOST_ANSWER_BYTES:
            searched_bytes = 0
            head = read_head(data[:end])
            if head is None or head.status == _SWITCHING_PROTOCOLS:
                self.fault = _DAMAGED
                return None, b""
            data = data[end:]
            if head.status >= 200:
                self.head = head
                self._body = _body_after(head)
                return self._body, data
        self._unread = data
        if len(data) > MOST_ANSWER_BYTES:
            self.fault = _TOO_LARGE
        return None, b""


def _body_after(head: Head) -> _Body:
    if head.status in _WITHOUT_A_BODY:
        return _OfLength(0)
    if head.is_chunked:
        return _Chunked()
    return _UntilTheEnd() if head.length_bytes is None else _OfLength(head.length_bytes)


class _OfLength:
    __slots__ = ("_length_bytes", "content", "fault")

    def __init__(self, length_bytes: int) -> None:
        self._length_bytes = length_bytes
        self.content = b""
        self.fault = _TOO_LARGE if length_bytes > MOST_ANSWER_BYTES else ""

    def feed(self, data: bytes) -> bytes | None:
        if self.fault:
            return None
        self.content += data
        if len(self.content) < self._length_bytes:
            return None
        excess = self.content[self._length_bytes :]
        self.content = self.content[: self._length_bytes]
        return excess


class _UntilTheEnd:
    __slots__ = ("content", "fault")

    def __init__(self) -> None:
        self.content = b""
        self.fault = ""

    def feed(self, data: bytes) -> bytes | None:
        if len(self.content) + len(data) > MOST_ANSWER_BYTES:
            self.fault = _TOO_LARGE
        else:
            self.content += data
        return None


class _Chunked:
    """RFC 9112 section 7.1; extensions and trailers are read and dropped."""

    __slots__ = ("_is_last", "_left_bytes", "_needs_line_end", "_trailer_bytes", "_unread", "content", "fault")

    def __init__(self) -> None:
        self.content = b""
        self.fault = ""
        self._unread = b""
        self._left_bytes = 0
        self._needs_line_end = False
        self._is_last = False
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> bytes | None:
        self._unread += data
        while self._unread and not self.fault:
            if self._left_bytes:
                self._take_content()
                continue
            line, newline, rest = self._unread.partition(b"\n")
            if not newline:
                if len(line) > _MOST_LINE_BYTES:
                    self.fault = _DAMAGED_CHUNK
                return None
            self._unread = rest
            if self._is_last and not line.rstrip(b"\r"):
                return rest
            self._take_line(line + newline)
        return None

    def _take_content(self) -> None:
        taken = self._unread[: self._left_bytes]
        if len(self.content) + len(taken) > MOST_ANSWER_BYTES:
            self.fault = _TOO_LARGE
            return
        self.content += taken
        self._unread = self._unread[len(taken) :]
        self._left_bytes -= len(taken)
        self._needs_line_end = not self._left_bytes

    def _take_line(self, line: bytes) -> None:
        if self._is_last:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > MOST_ANSWER_BYTES:
                self.fault = _TOO_LARGE
        elif self._needs_line_end:
            self._needs_line_end = False
            if not _LINE_END.fullmatch(line):
                self.fault = _DAMAGED_CHUNK
        elif size := _CHUNK_SIZE.fullmatch(line):
            self._left_bytes = int(size[1], 16)
            self._is_last = not self._left_bytes
        else:
            self.fault = _DAMAGED_CHUNK
