"""The head of an HTTP/1.1 answer (RFC 9112): its status, where its body ends, whether the connection goes on.

What is damaged is no head at all, and so no acceptance: a row is in doubt rather than wrongly called recorded.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

_HEAD_END = re.compile(rb"\n\r?\n")
"""A line may end with LF alone (RFC 9112 section 2.2)."""
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?:[ \r][^\n]*)?\n")
_FOLD = re.compile(rb"\r?\n[ \t]+")
_MOST_DIGITS = 20
"""Digits of a length that are read: one with so many is too large, however it goes on."""
_DAMAGED = re.compile(rb"\r(?!\n)|[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Forbidden by RFC 9112 section 2.2 and RFC 9110 section 5.5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What an answer's head says.

    length_bytes: of the body, as Content-Length has it; None without one, or when the body is chunked.
    is_chunked:   the body ends with its last chunk (RFC 9112 section 7.1).
    retry_after:  that header as it stood; None without one.
    stays_open:   the connection may carry another request after this answer.
    date:         that header as it stood; None without one.
    """

    status: int
    length_bytes: int | None
    is_chunked: bool
    retry_after: str | None
    stays_open: bool
    date: str | None

    @property
    def framed(self) -> bool:
        """Whether the head tells where the body ends, so that a cut would show."""
        return self.is_chunked or self.length_bytes is not None


def end_of_head(data: bytes, *, searched_bytes: int = 0) -> int | None:
    """Find where the first head in some bytes ends; None when it is not whole yet.

    searched_bytes: so many, from the first, have no end in them.
    """
    found = _HEAD_END.search(data, max(0, searched_bytes - 2))
    return found.end() if found else None


@functools.lru_cache(maxsize=64)  # most backends answer alike but for the Date, and so within a second
def read_head(data: bytes) -> Head | None:
    """Read a whole head, its empty line included; None when it is damaged."""
    status_line = _STATUS_LINE.match(data)
    if not status_line or _DAMAGED.search(data):
        return None
    values_by_name: dict[bytes, list[bytes]] = {}
    # A header may go on in the next line, if that begins with a space (RFC 9112 section 5.2).
    for line in _FOLD.sub(b" ", data[status_line.end() :]).split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon:
            values_by_name.setdefault(name.lower(), []).append(value.strip())
        elif line.strip():
            return None
    return _told(int(status_line[2]), values_by_name, is_http_1_1=status_line[1] == b"1")


def _told(status: int, values_by_name: dict[bytes, list[bytes]], *, is_http_1_1: bool) -> Head | None:
    stated_lengths = values_by_name.get(b"content-length", ())
    if not all(length.isdigit() for length in stated_lengths):
        return None
    lengths = {int(length.lstrip(b"0")[:_MOST_DIGITS] or b"0") for length in stated_lengths}
    if len(lengths) > 1:
        return None
    codings = _listed(values_by_name.get(b"transfer-encoding", ()))
    # Old proxies speak of the connection to them by a header of their own.
    options = [
        option for name in (b"connection", b"proxy-connection") for option in _listed(values_by_name.get(name, ()))
    ]
    return Head(
        status=status,
        length_bytes=next(iter(lengths)) if lengths and not codings else None,
        is_chunked=codings[-1:] == [b"chunked"],
        retry_after=_first(values_by_name.get(b"retry-after")),
        # Both a length and a coding: whoever wrote that may see another end than this reader (section 6.3).
        stays_open=b"close" not in options and (is_http_1_1 or b"keep-alive" in options) and not (lengths and codings),
        date=_first(values_by_name.get(b"date")),
    )


def _first(values: list[bytes] | None) -> str | None:
    return values[0].decode("latin-1") if values else None


def _listed(values: list[bytes] | tuple[()]) -> list[bytes]:
    entries = (entry.strip().lower() for value in values for entry in value.split(b","))
    return [entry for entry in entries if entry]
