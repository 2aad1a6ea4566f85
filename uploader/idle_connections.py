"""Connections that no call uses just now, and whether the backend has closed one of them, unannounced.

libcurl looks once a second which idle connections were closed; until then it would send a request over one, and the
row would be in doubt.
"""

from __future__ import annotations

import math
import os
import select
import time

_SECONDS_UNTIL_FORGOTTEN = 1.5
"""When libcurl has surely looked."""


class IdleConnections:
    """Listens to the idle sockets of a sender; whatever comes on one of them is its end."""

    def __init__(self, *, most: int) -> None:
        """Begin with none; ``most`` is how many connections are kept."""
        self._most = most
        self._inode_by_connection: dict[int, int] = {}
        self._poll = select.poll()
        self._sockets: set[int] = set()
        self._has_closed_ones: bool | None = None
        self._closed_ones_until_seconds = -math.inf
        self._left_to_connect_anew = 0

    def note_connecting(self, socket: int) -> None:
        """Learn of a connection that is being made."""
        self._inode_by_connection[socket] = os.fstat(socket).st_ino

    def add(self, socket: int) -> None:
        """Learn that a socket is not used any more; one that was never connecting is libcurl's own, which it closes."""
        if socket in self._inode_by_connection:
            self._sockets.add(socket)
            self._poll.register(socket, select.POLLIN)

    def remove(self, socket: int) -> None:
        """Learn that a socket is used again, if it was idle."""
        if socket in self._sockets:
            self._sockets.remove(socket)
            self._poll.unregister(socket)

    def begin_turn(self) -> None:
        """Have the next call that starts look again; those that start together look once."""
        self._has_closed_ones = None

    def must_next_connect_anew(self) -> bool:
        """Tell whether the call that starts now must not take an idle connection: libcurl may hold closed ones."""
        if self._has_closed_ones is None:
            self._has_closed_ones = self._look()
        must = self._has_closed_ones and self._left_to_connect_anew > 0
        self._left_to_connect_anew -= must
        return must

    def _look(self) -> bool:
        for socket, _ in self._poll.poll(0) if self._sockets else ():
            self.remove(socket)
            # Else it is libcurl that has closed it, and its number may be another's by now.
            if _inode(socket) == self._inode_by_connection.pop(socket):
                self._closed_ones_until_seconds = time.monotonic() + _SECONDS_UNTIL_FORGOTTEN
                # So many new ones, at the most, take the places of all that there were.
                self._left_to_connect_anew = self._most
        return time.monotonic() < self._closed_ones_until_seconds


def _inode(descriptor: int) -> int | None:
    try:
        return os.fstat(descriptor).st_ino
    except OSError:  # it was closed
        return None
