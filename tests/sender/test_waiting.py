"""Time, slots and connections."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import weakref
from pathlib import Path

import pytest
import trustme

from tests.billing_answers import Answer, Then, drip, reply
from tests.billing_contract import Received, contract, scripted
from tests.billing_server import BillingServer
from tests.dead_ports import refusing_port, silent_port
from tests.sender.calls import IMPATIENT_SECONDS, RIGHT, Clock, ended, judged, post_all, post_one, post_to, sending
from uploader.model import api
from uploader.model.api import Failure, Request
from uploader.model.model import Reason, UsageEvent
from uploader.model.settings import Settings
from uploader.sender.sender import Connection, Sender

pytestmark = pytest.mark.usefixtures("plain_environment")
TCP_SOCKETS = Path("/proc/net/tcp")
ESTABLISHED = "01"


def is_connected_to(port: int) -> bool:
    """Tell whether a connection to a port was not closed at its end yet (proc_pid_net(5))."""
    fields = [line.split() for line in TCP_SOCKETS.read_text().splitlines()]
    return any(remote.endswith(f":{port:04X}") and state == ESTABLISHED for _, _, remote, state, *_ in fields)


# Time


def test_the_timeout_is_of_the_whole_exchange_however_it_drips(billing_server: BillingServer) -> None:
    """Calls end in failure while the server still drips their answers, look-ups too; each byte is no new lease."""
    # Some four seconds: with a longer timeout these would be right answers.
    slow = drip(reply(200, {"id": "cus_acme", "status": "recorded"}), pause_seconds=0.05)
    billing_server.respond = scripted(posts=[slow], look_ups=[slow])
    settings = Settings(base_url=billing_server.base_url)
    with sending(timeout_seconds=IMPATIENT_SECONDS) as sender:
        sender.start("post", post_to(billing_server.base_url, "d1"))
        sender.start("look-up", api.look_up_request(settings, "acme"))
        exchanges = ended(sender)
    assert judged(billing_server, {"d1": exchanges["post"]})["d1"].reason is Reason.IN_DOUBT
    assert api.judge_look_up(Settings(), exchanges["look-up"]).outcome.reason is Reason.LOOKUP_FAILED
    assert all(exchange.elapsed_seconds >= IMPATIENT_SECONDS for exchange in exchanges.values())


def test_waiting_ends_when_the_time_is_over(billing_server: BillingServer) -> None:
    """``wait`` gives nothing while nothing has ended, and the call goes on."""
    gate = threading.Event()
    billing_server.respond = lambda received: Answer(data=contract(received).data, gate=gate)
    with sending() as sender:
        sender.start("d1", post_to(billing_server.base_url, "d1"))
        assert sender.wait(timeout_seconds=0) == []
        assert sender.in_flight == 1
        gate.set()
        assert judged(billing_server, ended(sender))["d1"].reason is None
        assert sender.in_flight == 0


def test_a_connection_idle_for_long_is_not_used_again(billing_server: BillingServer, clock: Clock) -> None:
    """The backend may be closing it, and that race would cost a doubt."""
    with sending() as sender:
        for device_id, after_seconds in (("first", 0), ("soon", 1.9), ("late", 2.1)):
            clock.advance(seconds=after_seconds)
            assert post_one(sender, billing_server, device_id).reason is None
    assert [post.index_on_connection > 0 for post in billing_server.posts] == [False, True, False]


def test_a_connection_that_the_backend_closed_unannounced_is_not_used_again(billing_server: BillingServer) -> None:
    """Its end arrives while another call is waited for; a post over it would be in doubt.

    As many calls as there may be connections go out over new ones, not more.
    """
    billing_server.respond = scripted(posts=[Answer(data=RIGHT.data, then=Then.FIN), Answer(then=Then.HANG)])
    with sending(most_in_flight=2, timeout_seconds=0.5) as sender:
        sender.start("idle", post_to(billing_server.base_url, "idle"))
        sender.start("clock", post_to(billing_server.base_url, "clock"))
        ended(sender)
        for number in range(6):
            assert post_one(sender, billing_server, f"late-{number}").reason is None
    late = [post.index_on_connection > 0 for post in billing_server.posts[2:]]
    assert (late[0], late[2:]) == (False, [True] * 4)


def test_waiting_ends_at_once_when_a_call_could_not_even_start(billing_server: BillingServer) -> None:
    """Beside one that takes long, what has ended already is handed back without delay."""
    gate = threading.Event()
    billing_server.respond = lambda received: Answer(data=contract(received).data, gate=gate)
    with sending(timeout_seconds=60) as sender:
        sender.start("slow", post_to(billing_server.base_url, "slow"))
        while not billing_server.peak_in_flight:
            sender.wait(timeout_seconds=0.01)
        sender.start("none", Request(url="foo://bar", headers=()))
        assert [key for key, _ in sender.wait(timeout_seconds=3600)] == ["none"]
        gate.set()
        assert set(ended(sender)) == {"slow"}


def test_a_backend_that_closes_idle_connections_early_is_known_to() -> None:
    """A connection is not used again after half of the time for which one was seen to be left open."""
    with socket.create_server(("127.0.0.1", 0)) as listener, sending(timeout_seconds=60) as sender:
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def answered(name: str) -> socket.socket:
            sender.start(name, post_to(base_url, name))
            sender.wait(timeout_seconds=0)
            connection, _ = listener.accept()
            connection.sendall(RIGHT.data)
            while name not in dict(sender.wait(timeout_seconds=60)):
                pass
            return connection

        sender.start("clock", post_to(base_url, "clock"))
        sender.wait(timeout_seconds=0)
        with listener.accept()[0]:
            began_seconds = time.monotonic()
            with answered("first"):
                while time.monotonic() < began_seconds + 0.2:
                    sender.wait(timeout_seconds=0.2)
            sender.wait(timeout_seconds=60)  # its end is heard
            open_seconds = time.monotonic() - began_seconds
            with answered("second"):
                again_seconds = time.monotonic()
                while time.monotonic() < again_seconds + open_seconds:
                    sender.wait(timeout_seconds=open_seconds)
                with answered("third"):  # over a connection of its own
                    pass


@pytest.mark.skipif(not TCP_SOCKETS.exists(), reason="the system does not tell of its sockets")
def test_what_was_seen_of_idle_connections_is_forgotten_after_a_minute(
    billing_server: BillingServer, clock: Clock
) -> None:
    """A backend that was only started anew closed them, too."""
    billing_server.respond = scripted(posts=[Answer(data=RIGHT.data, then=Then.FIN)])
    with sending() as sender:
        post_one(sender, billing_server, "first")
        while is_connected_to(billing_server.port):
            pass
        for device_id, after_seconds in (("second", 0.5), ("third", 0.4), ("fourth", 61), ("fifth", 0.4)):
            clock.advance(seconds=after_seconds)
            post_one(sender, billing_server, device_id)
    is_used_again = [post.index_on_connection > 0 for post in billing_server.posts]
    assert is_used_again == [False, False, False, False, True]


def test_a_request_that_is_out_is_not_seen_to_again(billing_server: BillingServer) -> None:
    """One that the socket did not take at once is waited for to be written; then only its answer is."""
    gate = threading.Event()
    billing_server.respond = lambda received: Answer(data=contract(received).data, gate=gate)
    event = UsageEvent(tenant_id="acme", device_id="d1", meter_id="x" * 8_000_000, total_usage=7)
    settings = Settings(base_url=billing_server.base_url)
    with sending(timeout_seconds=60) as sender:
        sender.start("d1", api.post_request(settings, event, customer_id="cus_acme", event_id=None))
        while not billing_server.posts:
            sender.wait(timeout_seconds=0.01)
        sender.wait(timeout_seconds=0)
        before_seconds = sender.waited_seconds
        sender.wait(timeout_seconds=0.1)
        assert sender.waited_seconds >= before_seconds + 0.1
        gate.set()
        assert judged(billing_server, ended(sender))["d1"].reason is None


@pytest.mark.skipif(not TCP_SOCKETS.exists(), reason="the system does not tell of its sockets")
@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
def test_a_connection_closed_right_behind_its_answer_is_not_used_again(
    authority: trustme.CA, authority_file: Path, *, is_tls: bool
) -> None:
    """Nobody waits for anything when its end arrives; it is seen before the next call starts."""

    def respond(received: Received) -> Answer:
        return Answer(data=contract(received).data, then=Then.FIN)

    with (
        BillingServer(respond, authority=authority if is_tls else None) as server,
        sending(ca_bundle=authority_file) as sender,
    ):
        for number in range(5):
            assert post_one(sender, server, f"d{number}").reason is None
            while is_connected_to(server.port):
                pass


def test_calls_that_are_over_are_forgotten_while_another_hangs(billing_server: BillingServer) -> None:
    """What a call took is free once it was handed back: a backend that hangs once must not fill the memory."""

    class Name:
        """A key that can be watched."""

    billing_server.respond = scripted(posts=[Answer(then=Then.HANG)])
    sender: Sender[Name] = Sender(Connection(most_in_flight=2, timeout_seconds=60, proxy="", ca_bundle="unused"))
    with contextlib.closing(sender):
        hanging = Name()
        sender.start(hanging, post_to(billing_server.base_url, "hanging"))
        while not billing_server.posts:
            sender.wait(timeout_seconds=0.01)
        names: weakref.WeakSet[Name] = weakref.WeakSet()
        for number in range(100):
            name = Name()
            names.add(name)
            sender.start(name, post_to(billing_server.base_url, f"d{number}"))
            while sender.in_flight == 2:
                sender.wait(timeout_seconds=10)
        assert len(names) <= 10


# Slots and connections


def test_no_more_calls_than_slots(billing_server: BillingServer) -> None:
    """A call beyond the limit is refused, not queued; each one that ends makes room."""
    gate = threading.Event()
    billing_server.respond = lambda received: Answer(data=contract(received).data, gate=gate)
    with sending(most_in_flight=3) as sender:
        for device_id in ("d1", "d2", "d3"):
            sender.start(device_id, post_to(billing_server.base_url, device_id))
        with pytest.raises(RuntimeError):
            sender.start("d4", post_to(billing_server.base_url, "d4"))
        assert sender.in_flight == 3
        while billing_server.peak_in_flight < 3:
            sender.wait(timeout_seconds=0.01)
        gate.set()
        assert set(judged(billing_server, ended(sender))) == {"d1", "d2", "d3"}
        assert post_one(sender, billing_server, "d5").reason is None
    assert billing_server.peak_in_flight == 3
    assert "d4" not in billing_server.billed_by("x-device-id")


def test_connections_are_used_again(billing_server: BillingServer) -> None:
    """Many rows go over as many connections as there are slots, in any mix of look-ups and posts."""
    settings = Settings(base_url=billing_server.base_url)
    with sending() as sender:
        told_by_device = post_all(sender, billing_server, (f"d{number}" for number in range(400)))
        for number in range(8):
            sender.start(f"t{number}", api.look_up_request(settings, f"t{number}"))
        found = {key: api.judge_look_up(Settings(), exchange).customer_id for key, exchange in ended(sender).items()}
        post_one(sender, billing_server, "last")
    assert {told.reason for told in told_by_device.values()} == {None}
    assert found == {f"t{number}": f"cus_t{number}" for number in range(8)}
    assert billing_server.connections <= 8


def test_closing_drops_what_is_in_flight(billing_server: BillingServer) -> None:
    """A sender can be closed while an answer is awaited."""
    billing_server.respond = scripted(posts=[Answer(then=Then.HANG)])
    with sending() as sender:
        sender.start("d1", post_to(billing_server.base_url, "d1"))
        while not billing_server.posts:
            sender.wait(timeout_seconds=0.01)
    assert sender.in_flight == 0


# The first connection


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not list open files")
def test_few_calls_begin_before_one_has_a_connection() -> None:
    """While the backend is yet to be found, further calls wait, and their time does not run."""
    with silent_port() as port, sending(most_in_flight=100, proxy=f"http://127.0.0.1:{port}") as sender:
        before = _open_sockets()
        for n in range(100):
            sender.start(f"d{n}", post_to("https://backend.invalid", f"d{n}"))  # the proxy never says that it is there
        sender.wait(timeout_seconds=0)
        assert 0 < _open_sockets() - before <= 10
        assert sender.in_flight == 100


def test_calls_that_waited_go_out_once_there_is_a_connection(billing_server: BillingServer) -> None:
    """However many are started before the first connection, all are sent, and each once."""
    with sending(most_in_flight=100) as sender:
        for n in range(100):
            sender.start(f"d{n}", post_to(billing_server.base_url, f"d{n}"))
        verdicts = judged(billing_server, ended(sender))
    assert len(verdicts) == 100
    assert {verdict.reason for verdict in verdicts.values()} == {None}


def test_calls_that_waited_end_too_when_there_is_no_connection() -> None:
    """Where nothing listens, each call begins in its turn, and ends unsent."""
    with refusing_port() as port, sending(most_in_flight=100) as sender:
        for n in range(100):
            sender.start(f"d{n}", post_to(f"http://127.0.0.1:{port}", f"d{n}"))
        exchanges = ended(sender)
    assert len(exchanges) == 100
    assert {exchange.failure for exchange in exchanges.values()} == {Failure.UNREACHABLE}


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the system does not list open files")
def test_calls_that_waited_all_begin_once_one_has_ended() -> None:
    """A silent backend has its time twice at the most, however many calls there are: a run that stops waits for it."""
    proxy = silent_port()
    with proxy as port, sending(most_in_flight=100, proxy=f"http://127.0.0.1:{port}", timeout_seconds=0.5) as sender:
        before = _open_sockets()
        for n in range(100):
            sender.start(f"d{n}", post_to("https://backend.invalid", f"d{n}"))
        while sender.in_flight == 100:
            sender.wait(timeout_seconds=3600)
        in_flight = sender.in_flight
        sender.wait(timeout_seconds=0)
        assert _open_sockets() - before == in_flight
        assert {exchange.sent for exchange in ended(sender).values()} == {False}


def _open_sockets() -> int:
    files = Path("/proc/self/fd")
    return sum("socket:" in str(file.readlink()) for file in files.iterdir() if file.is_symlink())
