"""A proxy on the way: how it is asked for a connection to the backend. In a tunnel it is told no header of a call."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from uploader.model.api import MOST_ANSWER_BYTES
from uploader.model.settings import DEFAULT_PORT_BY_SCHEME
from uploader.sender import socks
from uploader.sender.answer_head import Head, end_of_head, read_head
from uploader.sender.origin import Origin, user_agent
from uploader.sender.steps import Prospect, Steps, UnconnectedError, received, sent
from uploader.sender.tls import Stream, in_words

_SOCKS_PORT = 1080
_KEEP_ALIVE = "Proxy-Connection: Keep-Alive\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """Where a proxy is, whether it is spoken to by HTTP or by SOCKS, and who asks; ``user`` is None without one."""

    origin: Origin
    user: str | None
    password: str

    @property
    def named(self) -> str:
        """How it is called in messages, without its password."""
        return f"the proxy {self.origin.netloc}"

    @property
    def speaks_http(self) -> bool:
        """Whether it takes requests; else SOCKS."""
        return self.origin.scheme in DEFAULT_PORT_BY_SCHEME

    @property
    def resolves_names(self) -> bool:
        """Whether it is given the backend's name; else an address."""
        return self.origin.scheme not in socks.RESOLVED_HERE

    @property
    def lines(self) -> str:
        """The header lines that are for the proxy itself."""
        if self.user is None:
            return _KEEP_ALIVE
        pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode("ascii")
        return f"Proxy-Authorization: Basic {pair}\r\n{_KEEP_ALIVE}"


def proxy_of(url: str) -> Proxy | None:
    """Read a proxy's URL; None for an empty one."""
    if not url:
        return None
    parts = urlsplit(url)
    port = parts.port or DEFAULT_PORT_BY_SCHEME.get(parts.scheme, _SOCKS_PORT)
    return Proxy(
        origin=Origin(parts.scheme, parts.hostname or "", port),
        user=None if parts.username is None else unquote(parts.username),
        password=unquote(parts.password or ""),
    )


def tunnel(stream: Stream, proxy: Proxy, backend: Origin) -> Steps[None]:
    """Have a proxy of HTTP pass all bytes on to the backend (CONNECT, RFC 9110 section 9.3.6).

    Raises:
        UnconnectedError: it does not.
    """
    door = backend.netloc
    lines = f"Host: {door}\r\n{proxy.lines}User-Agent: {user_agent()}\r\n"
    what = f"tunnel to {door} from {proxy.named}"
    try:
        yield from sent(stream, f"CONNECT {door} HTTP/1.1\r\n{lines}\r\n".encode("ascii"), what=what)
        head = yield from _answer_of(stream, what=what)
    except OSError as error:
        raise UnconnectedError(f"no {what}: {in_words(error)}") from error
    if head is None:
        raise UnconnectedError(f"no {what}: its answer is damaged")
    if head.status == 407:
        raise UnconnectedError(f"no {what}: it asks for a user and password (HTTP 407)", prospect=Prospect.NONE)
    if not 200 <= head.status <= 299:
        raise UnconnectedError(f"no {what}: HTTP {head.status}")


def _answer_of(stream: Stream, *, what: str) -> Steps[Head | None]:
    """Receive the head of a proxy's answer; None when it is damaged, or more came, which nobody can have sent."""
    data, left_bytes = b"", MOST_ANSWER_BYTES  # of all interim heads together: else some would never end
    while left_bytes > 0:
        end = end_of_head(data)
        if end is None:
            came = yield from received(stream, most=4096, what=what)
            data += came
            left_bytes -= len(came)
            continue
        head = read_head(data[:end])
        data = data[end:]
        if head is None or head.status >= 200:
            return head if head is None or head.status >= 300 or not data else None
    return None


def socks_way(stream: Stream, proxy: Proxy, backend: Origin, *, addresses: Sequence[str]) -> Steps[None]:
    """Have a proxy of SOCKS pass all bytes on to the backend.

    addresses: of the backend, where the proxy is given one.

    Raises:
        UnconnectedError: it does not.
    """
    scheme = proxy.origin.scheme
    host = backend.host if proxy.resolves_names else socks.chosen_address(addresses)
    talk = socks.talk(scheme, host=host, port=backend.port, user=proxy.user or "", password=proxy.password)
    what = f"way to {backend.netloc} through {proxy.named}"
    try:
        step = next(talk)
        while True:
            yield from sent(stream, step.sends, what=what)
            came = b""
            while len(came) < step.then_receives_bytes:
                came += yield from received(stream, most=step.then_receives_bytes - len(came), what=what)
            step = talk.send(came)
    except StopIteration:
        return
    except (OSError, ValueError) as error:
        prospect = Prospect.NONE if isinstance(error, socks.LoginError) else Prospect.OPEN
        raise UnconnectedError(f"no {what}: {in_words(error)}", prospect=prospect) from error
