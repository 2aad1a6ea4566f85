"""A host of several addresses, names that must be asked for, and what is said when no connection comes about."""

from __future__ import annotations

import contextlib
import os
import resource
import selectors
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.billing_server import BillingServer
from tests.dead_ports import full_port, refusing_port, silent_port
from tests.sender.calls import (
    IMPATIENT_SECONDS,
    Clock,
    assert_never_sent,
    ended,
    judged,
    post_all,
    post_one,
    post_to,
    sending,
)
from uploader.sender.connecting import connected
from uploader.sender.descriptors import most_sockets
from uploader.sender.dialling import Dialling
from uploader.sender.origin import Origin
from uploader.sender.resolver import Address, Resolver, in_turn
from uploader.sender.steps import Steps, UnconnectedError

Given = TypeVar("Given")

pytestmark = pytest.mark.usefixtures("plain_environment")


def address_of(port: int) -> Address:
    """Give the address of a port of this machine."""
    return Address(socket.AF_INET, ("127.0.0.1", port))


def driven(steps: Steps[Given], sockets_by_turn: list[int] | None = None) -> Given:
    """Let it wait for its sockets as it says, note how many those are, and give what it comes to."""
    while True:
        try:
            wait = next(steps)
        except StopIteration as done:
            given: Given = done.value
            return given
        if sockets_by_turn is not None:
            sockets_by_turn.append(len(wait.sockets))
        with selectors.PollSelector() as selector:  # which takes no file itself
            for descriptor, events in wait.sockets:
                selector.register(descriptor, events)
            selector.select(None if wait.until_seconds is None else max(0, wait.until_seconds - time.monotonic()))


def port_of(addresses: Iterable[Address], *, most_at_once: int = 4, sockets_by_turn: list[int] | None = None) -> int:
    """Connect to one of some addresses; tell to which port."""
    steps = connected([*addresses], door="backend:1", most_at_once=most_at_once)
    connection, address = driven(steps, sockets_by_turn)
    with connection:
        port: int = connection.getpeername()[1]
    assert address == address_of(port)
    return port


def test_a_refusing_address_leads_to_the_next(billing_server: BillingServer) -> None:
    """As for a host whose IPv6 address nobody listens at."""
    with refusing_port() as dead:
        assert port_of([address_of(dead), address_of(dead), address_of(billing_server.port)]) == billing_server.port


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="other systems refuse a connection beyond the queue")
def test_a_silent_address_does_not_hold_up_the_next(billing_server: BillingServer) -> None:
    """An address that never answers has others tried beside it; it would have taken the whole of a call's time."""
    with full_port() as silent:
        assert port_of([address_of(silent), address_of(billing_server.port)]) == billing_server.port


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="other systems refuse a connection beyond the queue")
def test_a_sender_tries_the_next_address_in_time(
    billing_server: BillingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a call waits for a silent address, nothing but the clock says that the next is to be tried."""
    with full_port() as silent, sending(timeout_seconds=5) as sender:
        doors = [(socket.AF_INET, 0, 0, "", ("127.0.0.1", port)) for port in (silent, billing_server.port)]
        with monkeypatch.context() as names:
            names.setattr(socket, "getaddrinfo", lambda *_, **__: doors)
            told = post_one(sender, billing_server, base_url="http://backend.invalid/api/v1")
        assert told.reason is None


def test_however_many_addresses_refuse_the_next_is_tried(billing_server: BillingServer) -> None:
    """As for a name that stands for many machines of which some are gone."""
    with refusing_port() as dead:
        assert port_of([*[address_of(dead)] * 20, address_of(billing_server.port)]) == billing_server.port


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="other systems refuse a connection beyond the queue")
def test_no_more_sockets_are_taken_than_may_be(billing_server: BillingServer) -> None:
    """The address that was tried first makes room for the next; the process may have so many files open."""
    sockets_by_turn: list[int] = []
    with full_port() as silent:
        addresses = [*[address_of(silent)] * 2, address_of(billing_server.port)]
        assert port_of(addresses, most_at_once=1, sockets_by_turn=sockets_by_turn) == billing_server.port
    assert max(sockets_by_turn) == 1


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="other systems refuse a connection beyond the queue")
def test_an_address_for_which_there_is_no_socket_is_tried_later() -> None:
    """The system lets this process open no more files: that says nothing of the address, and one is given up for it."""
    with full_port() as silent, silent_port() as taking, contextlib.ExitStack() as filled:
        steps = connected([address_of(silent), address_of(taking)], door="backend:1", most_at_once=4)
        assert len(next(steps).sockets) == 1
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        filled.callback(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len([*Path("/proc/self/fd").iterdir()]), before[1]))
        with contextlib.suppress(OSError):
            while True:
                filled.callback(os.close, os.dup(0))
        connection, address = driven(steps)
        connection.close()
    assert address == address_of(taking)


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="other systems refuse a connection beyond the queue")
def test_the_address_that_took_a_connection_is_tried_first(
    billing_server: BillingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each further connection would wait for those that never answer."""
    dialling = Dialling(proxy=None, ca_bundle="unused", most_sockets=4)
    with full_port() as silent, contextlib.closing(dialling.resolver):
        doors = [(socket.AF_INET, 0, 0, "", ("127.0.0.1", port)) for port in (silent, billing_server.port)]
        at_most = []
        with monkeypatch.context() as names:
            names.setattr(socket, "getaddrinfo", lambda *_, **__: doors)
            for _ in range(2):
                sockets_by_turn: list[int] = []
                driven(dialling.dial(Origin("http", "backend.invalid", 80)), sockets_by_turn).close()
                at_most.append(max(sockets_by_turn))
    assert at_most == [2, 1]


@pytest.mark.parametrize(("calls", "most"), [(1, 4), (64, 4), (10**6, 1)])
def test_calls_share_the_files_that_may_be_open(calls: int, most: int) -> None:
    """Many calls may try one address at a time each, few calls some."""
    resource_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert resource_limit[0] >= 64 * 4 + 40, "a limit as on most machines"
    assert most_sockets(calls=calls) == most


def test_no_address_takes_connections() -> None:
    """What is said names the door, and why the last one was closed."""
    with refusing_port() as dead, pytest.raises(UnconnectedError, match=r"backend:1: Connection refused"):
        port_of([address_of(dead), address_of(dead)])


def test_families_of_addresses_take_turns() -> None:
    """A family of many addresses that lead nowhere does not go before the other's first (RFC 8305 section 4)."""
    of_six = [Address(socket.AF_INET6, (f"::{number}", 1, 0, 0)) for number in (1, 2, 3)]
    of_four = [Address(socket.AF_INET, ("127.0.0.1", 1))]
    assert in_turn([*of_six, *of_four]) == [of_six[0], of_four[0], of_six[1], of_six[2]]


def test_a_name_is_asked_for_once_for_many_calls(billing_server: BillingServer) -> None:
    """Calls that begin together wait for one answer, and later ones use it."""
    resolver = Resolver()
    try:
        assert resolver.ask("localhost", 80) is resolver.ask("localhost", 80)
        assert resolver.ask("127.0.0.1", 80).addresses == [Address(socket.AF_INET, ("127.0.0.1", 80))]
    finally:
        resolver.close()
    with sending(most_in_flight=100) as sender:
        base_url = billing_server.base_url.replace("127.0.0.1", "localhost")
        told = post_all(sender, billing_server, [f"d{number}" for number in range(50)], base_url=base_url)
    assert {row.reason for row in told.values()} == {None}


def test_a_name_that_was_not_found_is_asked_for_again() -> None:
    """A failure is not remembered: the name server may be back."""
    resolver = Resolver()
    try:
        first = resolver.ask("metering.invalid", 80)
        while not first.is_answered:
            pass
        assert first.error
        assert resolver.ask("metering.invalid", 80) is not first
    finally:
        resolver.close()


def test_a_names_addresses_are_known_for_a_minute(clock: Clock) -> None:
    """Then it is asked for again: a backend may have moved."""
    with contextlib.closing(Resolver()) as resolver:
        first = resolver.answer("localhost", 80, timeout_seconds=10)
        clock.advance(seconds=59)
        assert resolver.ask("localhost", 80) is first
        clock.advance(seconds=2)
        assert resolver.ask("localhost", 80) is not first


def test_a_name_for_which_there_is_no_thread_sends_nothing(
    billing_server: BillingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system lets this user have no more threads: that passes, like a name server that is down."""

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with sending() as sender, monkeypatch.context() as threads:
        threads.setattr(threading.Thread, "start", refused)
        told = post_one(sender, billing_server, base_url="http://metering.invalid")
    assert_never_sent(told)
    assert told.exchange.error == "no address of metering.invalid:80: can't start new thread"


@pytest.fixture
def unanswered_name(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give a host of which the name server says nothing while the test lasts."""
    asked_the_system = socket.getaddrinfo
    is_over = threading.Event()

    def silent(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        if host == "metering.invalid" and not kwargs["flags"]:
            is_over.wait()
        return asked_the_system(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    yield "metering.invalid"
    is_over.set()


def test_an_answer_is_waited_for_in_time(unanswered_name: str) -> None:
    """Whoever asks for nothing but a name has its addresses, or hears that the name server is silent."""
    with contextlib.closing(Resolver()) as resolver:
        assert resolver.answer("localhost", 80, timeout_seconds=10).addresses
        question = resolver.answer(unanswered_name, 80, timeout_seconds=0.1)
    assert question.error == "no answer from the name server within 0.1 s"


def test_a_call_that_waits_for_a_name_ends_in_time(billing_server: BillingServer, unanswered_name: str) -> None:
    """The time of a call is over, whatever the name server does; the next goes to another host meanwhile."""
    with sending(timeout_seconds=1) as sender:
        sender.start("d1", post_to(f"http://{unanswered_name}", "d1"))
        sender.start("d2", post_to(billing_server.base_url, "d2"))
        exchanges = ended(sender)
    told = judged(billing_server, exchanges)
    assert list(told) == ["d2", "d1"]
    assert (told["d1"].exchange.sent, told["d1"].verdict.retry) == (False, True)
    assert told["d1"].exchange.error == "no address of metering.invalid:80 from the name server within 1 s"


def test_what_was_waited_for_is_said(authority_file: Path) -> None:
    """Whoever reads it knows whether name, connection, TLS or proxy failed, and whose it is."""
    with silent_port() as silent, refusing_port() as dead, BillingServer() as plain:
        said = {
            f"no TLS with 127.0.0.1:{silent} within 0.2 s": (f"https://127.0.0.1:{silent}", ""),
            f"no TLS with 127.0.0.1:{plain.port}: the other side does not speak TLS": (
                f"https://127.0.0.1:{plain.port}",
                "",
            ),
            f"no connection to 127.0.0.1:{dead}: Connection refused": (f"http://127.0.0.1:{dead}", ""),
            f"no connection to the proxy 127.0.0.1:{dead}: Connection refused": (
                "http://backend.invalid",
                f"http://user:secret@127.0.0.1:{dead}",
            ),
            f"no tunnel to backend.invalid:443 from the proxy 127.0.0.1:{silent} within 0.2 s": (
                "https://backend.invalid",
                f"http://127.0.0.1:{silent}",
            ),
            f"no way to backend.invalid:80 through the proxy 127.0.0.1:{silent} within 0.2 s": (
                "http://backend.invalid",
                f"socks5h://127.0.0.1:{silent}",
            ),
            "no address of the proxy backend.invalid:3128: ": ("http://other.invalid", "http://backend.invalid:3128"),
        }
        for words, (base_url, proxy_url) in said.items():
            timeout_seconds = IMPATIENT_SECONDS if "within" in words else 10
            with sending(proxy=proxy_url, ca_bundle=authority_file, timeout_seconds=timeout_seconds) as sender:
                sender.start("d1", post_to(base_url, "d1"))
                assert words in ended(sender)["d1"].error
