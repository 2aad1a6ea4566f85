"""Sockets that are waited for, by either way a system may have: one that is ready is told of once, until renewed."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable, Iterator

import pytest

from uploader.sockets import EpollSockets, PollSockets, Sockets, best_sockets

LONG_SECONDS = 3600.0
_has_epoll = pytest.mark.skipif(not hasattr(select, "epoll"), reason="the system has no epoll")


@pytest.fixture(params=[pytest.param(EpollSockets, marks=_has_epoll), PollSockets])
def sockets(request: pytest.FixtureRequest) -> Iterator[Sockets]:
    """Wait for none yet."""
    kind: Callable[[], Sockets] = request.param
    with contextlib.closing(kind()) as made:
        yield made


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Connect two sockets."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def told(sockets: Sockets, *, timeout_seconds: float = 0.0) -> list[int]:
    """Give the sockets that are ready."""
    return [number for number, _ in sockets.ready(timeout_seconds=timeout_seconds)]


def test_a_socket_is_told_of_once_until_it_is_renewed(
    sockets: Sockets, pair: tuple[socket.socket, socket.socket]
) -> None:
    """What can still be read is told of again only when somebody goes on waiting for it."""
    ours, theirs = pair
    sockets.want(ours.fileno(), select.POLLIN)
    assert told(sockets) == []
    theirs.send(b"x")
    assert told(sockets, timeout_seconds=LONG_SECONDS) == [ours.fileno()]
    assert told(sockets) == []
    sockets.renew(ours.fileno())
    assert told(sockets, timeout_seconds=LONG_SECONDS) == [ours.fileno()]


def test_a_socket_that_was_forgotten_is_not_renewed(
    sockets: Sockets, pair: tuple[socket.socket, socket.socket]
) -> None:
    """A call that has ended is not waited for, although its connection, kept for the next, may have more to say."""
    ours, theirs = pair
    theirs.send(b"x")
    sockets.want(ours.fileno(), select.POLLIN)
    assert told(sockets, timeout_seconds=LONG_SECONDS) == [ours.fileno()]
    sockets.forget(ours.fileno())
    sockets.renew(ours.fileno())
    assert told(sockets) == []
    sockets.want(ours.fileno(), select.POLLIN)
    assert told(sockets, timeout_seconds=LONG_SECONDS) == [ours.fileno()]


def test_what_a_socket_is_waited_for_may_change(sockets: Sockets, pair: tuple[socket.socket, socket.socket]) -> None:
    """First it may be written to, then there is something to be read, as on a connection that is being made."""
    ours, theirs = pair
    sockets.want(ours.fileno(), select.POLLOUT)
    assert told(sockets, timeout_seconds=LONG_SECONDS) == [ours.fileno()]
    sockets.want(ours.fileno(), select.POLLIN)
    assert told(sockets) == []
    theirs.send(b"x")
    assert told(sockets, timeout_seconds=LONG_SECONDS) == [ours.fileno()]


@pytest.mark.parametrize("is_forgotten", [True, False])
def test_a_closed_sockets_number_may_come_again(sockets: Sockets, *, is_forgotten: bool) -> None:
    """A connection that breaks makes room for another, to which the system gives the same number."""
    ours, theirs = socket.socketpair()
    number = ours.fileno()
    sockets.want(number, select.POLLIN)
    if is_forgotten:
        sockets.forget(number)
    ours.close()
    theirs.close()
    new_ours, new_theirs = socket.socketpair()
    with new_ours, new_theirs:
        assert new_ours.fileno() == number
        sockets.want(number, select.POLLIN)
        new_theirs.send(b"x")
        assert told(sockets, timeout_seconds=LONG_SECONDS) == [number]


def test_epoll_is_taken_where_it_is() -> None:
    """With hundreds of calls in flight it is the quicker by far."""
    with contextlib.closing(best_sockets()) as best:
        assert isinstance(best, EpollSockets) is hasattr(select, "epoll")
