"""One connection: a request goes out over it once, and its answer comes in; then another may follow."""

from __future__ import annotations

import select
from typing import Generic, TypeVar

from uploader.sender.answer_body import Answer
from uploader.sender.origin import Origin
from uploader.sender.tls import NOT_YET, Stream, holds_some, is_tls

_RECEIVE_BYTES = 64 * 1024

Call = TypeVar("Call")


class Link(Generic[Call]):
    """A connection to whoever takes an origin's requests.

    call:               whose request it carries; None while it is idle.
    answer:             to that request, as far as it came.
    has_sent:           some of that request may have left this machine.
    has_sent_all:       all of it was handed over.
    idle_since_seconds: by the monotonic clock.
    """

    __slots__ = (
        "_is_open",
        "_is_tls",
        "_poll",
        "_unsent",
        "answer",
        "call",
        "has_sent",
        "has_sent_all",
        "idle_since_seconds",
        "origin",
        "stream",
    )

    def __init__(self, stream: Stream, origin: Origin) -> None:
        self.stream = stream
        self.origin = origin
        self.call: Call | None = None
        self.answer = Answer()
        self.has_sent = False
        self.has_sent_all = False
        self.idle_since_seconds = 0.0
        self._unsent = b""
        self._is_open = True
        self._is_tls = is_tls(stream)
        self._poll = select.poll()
        self._poll.register(stream.fileno(), select.POLLIN)

    @property
    def wants_to_write(self) -> bool:
        """Whether some of the request is still to be sent."""
        return bool(self._unsent)

    @property
    def may_go_on(self) -> bool:
        """Whether it may carry another request: the last one is out, its answer whole, and the other side agrees."""
        head = self.answer.head
        is_clean = self.answer.is_whole and not self.answer.has_excess
        return is_clean and self.has_sent_all and self._is_open and head is not None and head.stays_open

    def begin(self, call: Call, request: bytes) -> None:
        """Hand a request over, once.

        Raises:
            OSError: the connection is lost; see ``has_sent``.
        """
        self.call = call
        self.answer = Answer()
        self.has_sent = self.has_sent_all = False
        self._unsent = request
        self.send()

    def send(self) -> None:
        """Send what is left of the request, as far as the connection takes it.

        Raises:
            OSError: the connection is lost, and nothing of the request has left.
        """
        # What TLS was given may have left, whatever it says then. What the kernel refuses has not: send(2) tells of an
        # error only when it took no byte.
        self.has_sent |= self._is_tls
        try:
            sent_bytes = self.stream.send(self._unsent)
        except NOT_YET:
            return
        except OSError:
            self._unsent = b""
            if not self.has_sent:
                raise
            return  # what was answered, if anything, is still to be read
        self.has_sent = True
        self._unsent = self._unsent[sent_bytes:]
        self.has_sent_all = not self._unsent

    def receive(self) -> bool:
        """Take in what came; tell whether the answer is over, whole or not.

        Raises:
            OSError: the connection is lost.
        """
        while True:
            try:
                data = self.stream.recv(_RECEIVE_BYTES)
            except NOT_YET:
                return False
            if not data:
                self._is_open = False
                self.answer.end()
                return True
            if self.answer.feed(data):
                return True
            if not self._is_tls:  # else more may have come that no socket tells of
                return False

    def is_still_idle(self) -> bool:
        """Look whether anything came over an idle connection: its end, or what nobody asked for; not so news of TLS."""
        if not self._poll.poll(0) and not (self._is_tls and holds_some(self.stream)):
            return True  # which trying to receive would tell, too, at three times the cost
        try:
            self.stream.recv(_RECEIVE_BYTES)
        except NOT_YET:
            return True
        except OSError:
            return False
        return False
