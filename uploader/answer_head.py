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
_FOLD = re.compile(rb"[ \t]*\r?\n[ \t]+")
_DAMAGED = re.compile(rb"\r(?!\n)|[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Forbidden by RFC 9112 section 2.2 and RFC 9110 section 5.5."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What an answer's head says.

    length_bytes: of the body, as Content-Length has it; None without one, or when the body is chunked.
    is_chunked:   the body ends with its last chunk (RFC 9112 section 7.1).
    retry_after:  that header as it stood; None without one.
    stays_open:   the connection may carry another request after this answer.
    """

    status: int
    length_bytes: int | None
    is_chunked: bool
    retry_after: str | None
    stays_open: bool

    @property
    def framed(self) -> bool:
        """Whether the head tells where the body ends, so that a cut would show."""
        return self.is_chunked or self.length_bytes is not None


def end_of_head(data: bytes) -> int | None:
    """Find where the first head in some bytes ends; None when it is not whole yet."""
    found = _HEAD_END.search(data)
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
    lengths = {*values_by_name.get(b"content-length", ())}
    if len(lengths) > 1 or not all(length.isdigit() for length in lengths):
        return None
    codings = _listed(values_by_name.get(b"transfer-encoding", ()))
    options = _listed(values_by_name.get(b"connection", ()))
    retry_after = values_by_name.get(b"retry-after")
    return Head(
        status=status,
        length_bytes=int(lengths.pop()[:20]) if lengths and not codings else None,
        is_chunked=codings[-1:] == [b"chunked"],
        retry_after=retry_after[0].decode("latin-1") if retry_after else None,
        # Both a length and a coding: whoever wrote that may see another end than this reader (section 6.3).
        stays_open=b"close" not in options and (is_http_1_1 or b"keep-alive" in options) and not (lengths and codings),
    )


def _listed(values: list[bytes] | tuple[()]) -> list[bytes]:
    return [entry.strip().lower() for value in values for entry in value.split(b",")]
