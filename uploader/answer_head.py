"""The head of an HTTP/1.1 answer (RFC 9112): its status, whether its body says where it ends, and Retry-After."""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

# All are run over a head in lower case; each begins with characters that can be looked for fast.
_FINAL_HEAD = re.compile(
    rb"^http/1\.[01] (?!1\d\d)(\d{3})(?:[ \r][^\n]*)?(\n(?:(?!\r?\n)[^\n]*\n)*)\r?\n", re.MULTILINE
)
_FRAMED = re.compile(rb"\ncontent-length:[ \t]*[0-9]+[ \t]*\r?\n|\ntransfer-encoding:.*\bchunked[ \t]*\r?\n")
_DAMAGED = re.compile(rb"\r(?!\n)|[\0-\x08\x0b\x0c\x0e-\x1f\x7f]")
"""Forbidden by RFC 9112 section 2.2 and RFC 9110 section 5.5; libcurl takes any line that begins with CR for empty."""
_RETRY_AFTER = re.compile(rb"\nretry-after:[ \t]*([^\r\n]*?)[ \t]*\r?\n")


class Head(NamedTuple):
    """What an answer's head says; the fields are those of ``Exchange``."""

    status: int
    framed: bool
    retry_after: str | None


@functools.lru_cache(maxsize=64)  # most backends answer alike but for the Date, and so within a second
def final_head(heads: bytes) -> Head | None:
    """Read the last of the heads that came, interim ones passed over; None when it is not whole, or any is damaged."""
    lowered = heads.lower()
    found = list(_FINAL_HEAD.finditer(lowered))
    if not found or _DAMAGED.search(heads):
        return None
    start, end = found[-1].span(2)
    retry_after = _RETRY_AFTER.search(lowered, start, end)
    return Head(
        status=int(found[-1][1]),
        framed=bool(_FRAMED.search(lowered, start, end)),
        retry_after=heads[slice(*retry_after.span(1))].decode("latin-1") if retry_after else None,
    )
