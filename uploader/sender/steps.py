"""What waits for the network without blocking: generators that stop where they must wait, and say for what."""

from __future__ import annotations

import enum
import functools
import selectors
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, TypeVar

from uploader.sender.tls import NOT_YET, Stream, wanted_event

Given = TypeVar("Given")


class Wait(NamedTuple):
    """What is waited for.

    what:          in words.
    sockets:       descriptors, each with its events of ``selectors``; none for the answer to a name.
    until_seconds: by the monotonic clock, when to go on all the same; None for never.
    """

    what: str
    sockets: Sequence[tuple[int, int]] = ()
    until_seconds: float | None = None


Steps = Generator[Wait, None, Given]


class Prospect(enum.Enum):
    """Whether a connection that did not come about may do so later."""

    OPEN = "it may"
    NONE_AT_FIRST = "whoever is there does not speak TLS as it should; it may, if it has before"
    NONE = "the set-up is at fault"


class UnconnectedError(Exception):
    """No connection came about; no request was sent."""

    def __init__(self, words: str, *, prospect: Prospect = Prospect.OPEN) -> None:
        super().__init__(words)
        self.prospect = prospect


def done(stream: Stream, act: Callable[[], Given], *, what: str, blocked: int = selectors.EVENT_READ) -> Steps[Given]:
    """Do what the stream may not be ready for.

    blocked: the event to wait for, unless TLS waits for the other.

    Raises:
        OSError: as the stream does.
    """
    while True:
        try:
            return act()
        except NOT_YET as error:
            events = wanted_event(error) or blocked
        yield Wait(what, [(stream.fileno(), events)])


def sent(stream: Stream, data: bytes, *, what: str) -> Steps[None]:
    """Send all of some bytes; few enough that no more than one wait is likely.

    Raises:
        OSError: as the stream does.
    """
    while data:
        send = functools.partial(stream.send, data)
        sent_bytes = yield from done(stream, send, what=what, blocked=selectors.EVENT_WRITE)
        data = data[sent_bytes:]


def received(stream: Stream, *, most: int, what: str) -> Steps[bytes]:
    """Receive some bytes, one at the least.

    Raises:
        OSError: as the stream does; or the other side has ended the connection.
    """
    data = yield from done(stream, lambda: stream.recv(most), what=what)
    if not data:
        raise ConnectionError("the connection was closed")
    return data
