"""A socket to whichever of a host's addresses takes it first (Happy Eyeballs, RFC 8305)."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from uploader.sender.resolver import Address
from uploader.sender.steps import Steps, UnconnectedError, Wait
from uploader.sender.tls import in_words

_NEXT_ADDRESS_SECONDS = 0.25
"""How long one address has before the next is tried beside it (RFC 8305 section 5)."""

_LEAST_SECONDS = 1.0
"""How long it has before it is given up for another, where no more may be tried at once: lost packets come again."""

_NO_SOCKETS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class _Attempt(NamedTuple):
    sock: socket.socket
    address: Address
    began_seconds: float


def connected(addresses: Sequence[Address], *, door: str, most_at_once: int) -> Steps[tuple[socket.socket, Address]]:
    """Connect to one of some addresses, tried in their order; give the connection, and which it leads to.

    door:         whose they are, for the words.
    most_at_once: sockets that this may take.

    Raises:
        UnconnectedError: none of them takes connections.
    """
    race = _Race(addresses, most_at_once=most_at_once)
    try:
        race.begin_next()
        while race.is_on:
            yield race.wait(door)
            if (connection := race.winner()) is not None:
                return connection
            race.begin_next()
    finally:
        race.close()
    raise UnconnectedError(f"no connection to {door}: {race.words}")


class _Race:
    """Addresses that are tried one beside the other.

    words: why the last that failed did.
    """

    def __init__(self, addresses: Sequence[Address], *, most_at_once: int) -> None:
        self.words = ""
        self._untried = deque(addresses)
        self._trying: deque[_Attempt] = deque()
        self._most_at_once = most_at_once
        self._next_seconds = 0.0
        self._lacks_sockets = False

    @property
    def is_on(self) -> bool:
        """Whether any address may yet take the connection."""
        return bool(self._untried or self._trying)

    def begin_next(self) -> None:
        """Begin to try further addresses, if it is time."""
        while self._untried and (now_seconds := time.monotonic()) >= self._next_seconds:
            if self._trying and (self._lacks_sockets or len(self._trying) >= self._most_at_once):
                self._trying.popleft().sock.close()
            self._begin(self._untried[0], now_seconds)
            if not self._lacks_sockets:
                self._untried.popleft()

    def _begin(self, address: Address, now_seconds: float) -> None:
        self._lacks_sockets = False
        self._next_seconds = now_seconds + _NEXT_ADDRESS_SECONDS
        try:
            self._trying.append(_begun(address, now_seconds))
        except OSError as error:
            self.words = in_words(error)
            self._lacks_sockets = error.errno in _NO_SOCKETS  # other calls will give theirs back
            if not self._lacks_sockets:
                self._next_seconds = 0.0
        if self._trying and (self._lacks_sockets or len(self._trying) >= self._most_at_once):
            self._next_seconds = max(self._next_seconds, self._trying[0].began_seconds + _LEAST_SECONDS)

    def wait(self, door: str) -> Wait:
        """Say what is waited for."""
        sockets = [(attempt.sock.fileno(), selectors.EVENT_WRITE) for attempt in self._trying]
        why = f" ({self.words})" if self._lacks_sockets else ""
        return Wait(f"connection to {door}{why}", sockets, self._next_seconds if self._untried or not sockets else None)

    def winner(self) -> tuple[socket.socket, Address] | None:
        """Look which attempts have ended; give the first that has a connection."""
        for attempt in [*self._trying]:
            fault = attempt.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not fault and not _is_connected(attempt.sock):
                continue
            self._trying.remove(attempt)
            if not fault:
                return attempt.sock, attempt.address
            self.words = os.strerror(fault)
            attempt.sock.close()
            self._next_seconds = 0.0
        return None

    def close(self) -> None:
        """Give up whatever is being tried."""
        for attempt in self._trying:
            attempt.sock.close()


def _begun(address: Address, now_seconds: float) -> _Attempt:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    with contextlib.ExitStack() as failing:
        failing.callback(sock.close)
        sock.settimeout(0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fault = sock.connect_ex(address.sockaddr)
        if fault not in (0, errno.EINPROGRESS):
            raise OSError(fault, os.strerror(fault))
        failing.pop_all()
    return _Attempt(sock, address, now_seconds)


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
