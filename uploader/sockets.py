"""Which of many sockets have something to be read, or may be written to, without asking after each."""

from __future__ import annotations

import select
from abc import ABC, abstractmethod


class Sockets(ABC):
    """The sockets that somebody waits for, by their numbers; each is told of once, until it is renewed."""

    def __init__(self) -> None:
        self._events_by_socket: dict[int, int] = {}

    @abstractmethod
    def want(self, socket: int, events: int) -> None:
        """Wait for events (POLLIN, POLLOUT) on a socket from now on, instead of what it was waited for before."""

    @abstractmethod
    def ready(self, *, timeout_seconds: float) -> list[tuple[int, int]]:
        """Wait until some are ready, or the time is over; give their numbers, and the events.

        One that was forgotten may be among them.
        """

    @abstractmethod
    def close(self) -> None:
        """Wait for none any more; the sockets stay as they are."""

    def renew(self, socket: int) -> None:
        """Go on waiting for a socket that was ready, unless it was forgotten meanwhile."""
        events = self._events_by_socket.get(socket)
        if events is not None:
            self.want(socket, events)

    def forget(self, socket: int) -> None:
        """Wait no more for a socket."""
        self._events_by_socket.pop(socket, None)


class EpollSockets(Sockets):
    """By Linux's epoll, at the cost of the sockets that are ready (epoll_ctl(2), EPOLLONESHOT).

    It lets go by itself of a socket that was closed, so that another which is given its number is a new one to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._epoll = select.epoll()

    def want(self, socket: int, events: int) -> None:
        """Wait for events on a socket."""
        self._events_by_socket[socket] = events
        try:
            self._epoll.modify(socket, events | select.EPOLLONESHOT)
        except FileNotFoundError:
            self._epoll.register(socket, events | select.EPOLLONESHOT)

    def ready(self, *, timeout_seconds: float) -> list[tuple[int, int]]:
        """Wait until some are ready, or the time is over."""
        return self._epoll.poll(timeout_seconds)

    def close(self) -> None:
        """Wait for none any more."""
        self._epoll.close()


class PollSockets(Sockets):
    """By poll(2), for a system without epoll: it goes through all of them each time."""

    def __init__(self) -> None:
        super().__init__()
        self._poll = select.poll()

    def want(self, socket: int, events: int) -> None:
        """Wait for events on a socket."""
        self._events_by_socket[socket] = events
        self._poll.register(socket, events)

    def ready(self, *, timeout_seconds: float) -> list[tuple[int, int]]:
        """Wait until some are ready, or the time is over."""
        found = self._poll.poll(timeout_seconds * 1000)
        for socket, _ in found:
            self._poll.unregister(socket)
        return found

    def close(self) -> None:
        """Wait for none any more."""
        self._poll = select.poll()


def best_sockets() -> Sockets:
    """Give the quicker of the two that this system has."""
    return EpollSockets() if hasattr(select, "epoll") else PollSockets()
