"""What the billing server of the tests does with one request: right answers, and every wrong one.

An answer is a record of bytes and of what becomes of the connection, so answers compose:
``cut(chunked(201, body), after_bytes=30, then=Then.RST)``, ``interim(100, Answer(then=Then.HANG))``.
"""

from __future__ import annotations

import enum
import functools
import gzip
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal


class Then(enum.Enum):
    """What becomes of the connection after the answer's bytes."""

    KEEP_OPEN = enum.auto()
    FIN = enum.auto()
    RST = enum.auto()
    HANG = enum.auto()
    """Nothing more comes, and the connection stays open until the server is closed."""
    TUNNEL = enum.auto()
    """Bytes are passed both ways between the client and the host that CONNECT named."""
    FORWARD = enum.auto()
    """The absolute-form request is sent to its host, and that host's answer passed back; then FIN."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What one complete request is answered.

    data:          the bytes, just as they go out.
    endless:       sent after ``data``, again and again, for as long as the client listens.
    pause_seconds: above 0, every single byte is sent by itself and followed by this pause.
    gate:          nothing is sent before the test sets it (or the server is closed).
    bills:         whether a backend that answers so has recorded the event. The worst is assumed: true
                   for everything that does not plainly say no.
    """

    data: bytes = b""
    endless: bytes = b""
    pause_seconds: float = 0
    then: Then = Then.KEEP_OPEN
    gate: threading.Event | None = None
    bills: bool = True


Body = bytes | Mapping[str, Any] | list[Any]
"""A body as bytes, or as what JSON is to be made of."""


def reply(status: int, body: Body = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """Answer whole, with Content-Length; nothing is billed for a status that plainly says no."""
    content = _bytes(body)
    head = _head(status, {"Content-Length": str(len(content)), **(headers or {})})
    return Answer(data=head + content, bills=not _says_no(status, headers or {}))


def chunked(status: int, body: Body, *, trailers: Mapping[str, str] | None = None) -> Answer:
    """Answer whole, in chunks of five bytes (RFC 9112, section 7.1)."""
    content = _bytes(body)
    pieces = [content[start : start + 5] for start in range(0, len(content), 5)]
    chunks = b"".join(_chunk(piece) for piece in pieces)
    head = _head(status, {"Transfer-Encoding": "chunked"})
    return Answer(data=head + chunks + b"0\r\n" + _fields(trailers or {}) + b"\r\n")


def unframed(status: int, body: Body) -> Answer:
    """Answer without a length: only the end of the connection ends it."""
    return Answer(data=_head(status, {}) + _bytes(body), then=Then.FIN)


def http_1_0(answer: Answer) -> Answer:
    """Give the same answer as an HTTP/1.0 server, which closes the connection."""
    return replace(answer, data=answer.data.replace(b"HTTP/1.1", b"HTTP/1.0", 1), then=Then.FIN)


def cut(answer: Answer, *, after_bytes: int, then: Then = Then.FIN) -> Answer:
    """Send the first bytes of an answer, and no more of it."""
    return replace(answer, data=answer.data[:after_bytes], then=then)


def interim(status: int, answer: Answer) -> Answer:
    """Answer after an interim answer: 100 (Continue), 103 (Early Hints)."""
    return replace(answer, data=_head(status, {}) + answer.data)


def drip(answer: Answer, *, pause_seconds: float) -> Answer:
    """Send an answer a byte at a time."""
    return replace(answer, pause_seconds=pause_seconds)


def endless(framing: Literal["length", "chunked", "close"]) -> Answer:
    """Answer 200 with a JSON string that never ends; with a length, a terabyte is announced."""
    block = b"x" * 16384
    if framing == "chunked":
        return Answer(data=_head(200, {"Transfer-Encoding": "chunked"}) + _chunk(b'{"id":"'), endless=_chunk(block))
    headers = {"Content-Length": str(10**12)} if framing == "length" else {}
    return Answer(data=_head(200, headers) + b'{"id":"', endless=block)


@functools.cache
def gzip_bomb() -> Answer:
    """Answer 200 with 64 MiB of JSON in 64 KiB of gzip."""
    content = gzip.compress(b'{"id":"' + b"x" * (64 << 20) + b'"}')
    return reply(200, content, {"Content-Encoding": "gzip"})


def cut_gzip() -> Answer:
    """Answer 200, well framed, with a gzip body that lacks its end."""
    return reply(200, gzip.compress(b'{"id":"evt_1"}')[:-9], {"Content-Encoding": "gzip"})


def _rubbish() -> dict[str, Answer]:
    end = b"Content-Length: 2\r\n\r\n{}"
    ok = b"HTTP/1.1 200 OK\r\n"
    many = b"".join(b"X-%d: %d\r\n" % (number, number) for number in range(10_000))
    data_by_name = {
        "HTTP/0.9": b"<html>It works!</html>",
        "binary": bytes(range(128, 256)),
        "status line of another protocol": b"SIP/2.0 200 OK\r\n" + end,
        "status line without a number": b"HTTP/1.1 fine\r\n" + end,
        "status 0": b"HTTP/1.1 000 Zero\r\n" + end,
        "status 999": b"HTTP/1.1 999 Much\r\n" + end,
        "status of four digits": b"HTTP/1.1 2000 OK\r\n" + end,
        "HTTP/3.7": b"HTTP/3.7 200 OK\r\n" + end,
        "header line of 200 KB": ok + b"X-Long: " + b"x" * 200_000 + b"\r\n" + end,
        "10,000 headers": ok + many + end,
        "NUL in a header": ok + b"X-Nul: a\0b\r\n" + end,
        "header without a colon": ok + b"rubbish\r\n" + end,
        "folded header": ok + b"X-Fold: a\r\n b\r\n" + end,
        "two lengths": ok + b"Content-Length: 1\r\n" + end,
        "negative length": ok + b"Content-Length: -1\r\n\r\n{}",
        "length that is no number": ok + b"Content-Length: two\r\n\r\n{}",
        "length and chunked": ok + b"Transfer-Encoding: chunked\r\n" + end,
        "chunk size that is no number": ok + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    }
    return {name: Answer(data=data, then=Then.FIN) for name, data in data_by_name.items()}


RUBBISH_BY_NAME: Mapping[str, Answer] = _rubbish()
"""Answers that are not, or only almost, HTTP; some of them a client may rightly take for a 200."""


def _says_no(status: int, headers: Mapping[str, str]) -> bool:
    """Tell whether no backend would answer so after recording the event."""
    return 400 <= status < 500 or status in {301, 307, 308} or (status == 503 and "Retry-After" in headers)


def _bytes(body: Body) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def _fields(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    return b"HTTP/1.1 %d Test\r\n%b\r\n" % (status, _fields(headers))
