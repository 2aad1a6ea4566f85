"""A socket to whichever of a host's addresses takes it first (Happy Eyeballs, RFC 8305)."""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import time
from collections.abc import Sequence

from uploader.names import Address
from uploader.steps import Steps, UnconnectedError, Wait
from uploader.tls import in_words

_NEXT_ADDRESS_SECONDS = 0.25
"""How long one address has before the next is tried beside it (RFC 8305 section 5)."""

_MOST_ADDRESSES = 8
"""That are tried, each with a socket of its own."""


def connected(addresses: Sequence[Address], *, door: str) -> Steps[socket.socket]:
    """Connect to one of some addresses, tried in their order.

    door: whose they are, for the words.

    Raises:
        UnconnectedError: none of them takes connections.
    """
    untried = list(addresses[:_MOST_ADDRESSES])
    trying: list[socket.socket] = []
    next_seconds = 0.0
    words = ""
    try:
        while untried or trying:
            if untried and (not trying or time.monotonic() >= next_seconds):
                next_seconds = time.monotonic() + _NEXT_ADDRESS_SECONDS
                try:
                    trying.append(_begun(untried.pop(0)))
                except OSError as error:
                    words = in_words(error)
                    continue
            sockets = [(sock.fileno(), selectors.EVENT_WRITE) for sock in trying]
            yield Wait(f"connection to {door}", sockets, next_seconds if untried else None)
            for sock in [*trying]:
                fault = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if fault or _is_connected(sock):
                    trying.remove(sock)
                    if not fault:
                        return sock
                    words = os.strerror(fault)
                    sock.close()
    finally:
        for sock in trying:
            sock.close()
    raise UnconnectedError(f"no connection to {door}: {words}")


def _begun(address: Address) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    with contextlib.ExitStack() as failing:
        failing.callback(sock.close)
        sock.settimeout(0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fault = sock.connect_ex(address.sockaddr)
        if fault not in (0, errno.EINPROGRESS):
            raise OSError(fault, os.strerror(fault))
        failing.pop_all()
    return sock


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
