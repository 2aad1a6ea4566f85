"""Whom a URL is for, and the head of a request for it (RFC 9110 section 4.3.1, RFC 9112 section 3.2)."""

from __future__ import annotations

import functools
from importlib.metadata import version
from typing import NamedTuple
from urllib.parse import urlsplit

from uploader.model.api import Request
from uploader.model.settings import DEFAULT_PORT_BY_SCHEME


class Origin(NamedTuple):
    """Whom a connection is made to."""

    scheme: str
    host: str
    port: int

    @property
    def netloc(self) -> str:
        """Host and port, as in a URL."""
        return f"{_in_url(self.host)}:{self.port}"


def _in_url(host: str) -> str:
    """Spell a host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


@functools.lru_cache(maxsize=64)  # all posts have one
def origin_of(url: str) -> Origin:
    """Find whom a URL is for.

    Raises:
        ValueError: it is no URL of http or https with a host.
    """
    parts = urlsplit(url)
    port = parts.port or DEFAULT_PORT_BY_SCHEME.get(parts.scheme)
    if parts.scheme not in DEFAULT_PORT_BY_SCHEME or port is None or not parts.hostname:
        raise ValueError(f"{url}: not an http or https URL with a host")
    return Origin(parts.scheme, parts.hostname, port)


@functools.cache  # some milliseconds
def user_agent() -> str:
    """Say who calls."""
    return f"meter-uploader/{version('meter-uploader')}"


def request_bytes(request: Request, *, proxy_lines: str | None) -> bytes:
    """Write a request out.

    proxy_lines: headers for the proxy that is to pass the request on; None when it goes to the origin itself.
    """
    head = _common_head(request.url, proxy_lines)
    if request.body is None:
        return "\r\n".join((f"GET {head}", *request.headers, "\r\n")).encode("ascii")
    length = f"Content-Length: {len(request.body)}\r\n\r\n"
    return "\r\n".join((f"POST {head}", *request.headers, length)).encode("ascii") + request.body


@functools.lru_cache(maxsize=64)
def _common_head(url: str, proxy_lines: str | None) -> str:
    origin, parts = origin_of(url), urlsplit(url)
    is_default = origin.port == DEFAULT_PORT_BY_SCHEME[origin.scheme]
    host = _in_url(origin.host) if is_default else origin.netloc
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if proxy_lines is not None:
        target = f"{origin.scheme}://{host}{target}"
    lines = f"Host: {host}\r\n{proxy_lines or ''}User-Agent: {user_agent()}\r\nAccept: */*"
    return f"{target} HTTP/1.1\r\n{lines}"
