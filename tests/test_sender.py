"""Every trap of libcurl (design, section 3): a row is never sent twice, and is called what it came to.

The oracle is the billing server's log of complete requests: each test that posts compares the verdicts with it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pycurl
import pytest
import trustme

from tests.billing_answers import (
    RUBBISH_BY_NAME,
    Answer,
    Then,
    chunked,
    cut,
    cut_gzip,
    drip,
    endless,
    gzip_bomb,
    http_1_0,
    interim,
    reply,
    unframed,
)
from tests.billing_contract import Received, Respond, contract, dying_when_reused, forwarding, scripted
from tests.billing_server import BillingServer
from tests.dead_ports import full_port, refusing_port, silent_port
from uploader import api
from uploader.api import MOST_ANSWER_BYTES, Exchange, Failure, Request, Verdict
from uploader.client import settle_route
from uploader.errors import SettingsError
from uploader.model import Reason, UsageEvent
from uploader.sender import Connection, Sender
from uploader.settings import Settings

pytestmark = pytest.mark.usefixtures("plain_environment")

EVT = {"id": "evt_1", "status": "recorded"}
RIGHT = reply(201, EVT)
IMPATIENT_SECONDS = 0.2
NOT_RECORDED = {Reason.UNAVAILABLE, Reason.NOT_SENT, Reason.REJECTED}


@contextlib.contextmanager
def sending(
    *, most_in_flight: int = 8, timeout_seconds: float = 10, proxy: str = "", ca_bundle: Path | str = "unused"
) -> Iterator[Sender[str]]:
    """Make a sender, and close it."""
    sender: Sender[str] = Sender(
        Connection(
            most_in_flight=most_in_flight,
            timeout_seconds=timeout_seconds,
            proxy=proxy,
            ca_bundle=str(ca_bundle),
        )
    )
    with contextlib.closing(sender):
        yield sender


def post_to(base_url: str, device_id: str, *, tenant_id: str = "acme", api_key: str | None = None) -> Request:
    """Make the post of one row, told apart by its device id."""
    event = UsageEvent(tenant_id=tenant_id, device_id=device_id, meter_id="calls", total_usage=7)
    settings = Settings(base_url=base_url, api_key=api_key)
    return api.post_request(settings, event, customer_id=f"cus_{tenant_id}", event_id=f"id-{device_id}")


def ended(sender: Sender[str]) -> dict[str, Exchange]:
    """Wait for all calls in flight."""
    exchange_by_key: dict[str, Exchange] = {}
    while sender.in_flight:
        for key, exchange in sender.wait(timeout_seconds=3600):
            assert key not in exchange_by_key
            exchange_by_key[key] = exchange
    return exchange_by_key


@dataclass(frozen=True, slots=True)
class Told:
    """What the program says of one row."""

    exchange: Exchange
    verdict: Verdict

    @property
    def reason(self) -> Reason | None:
        """Why the row failed; None when it was accepted."""
        return self.verdict.outcome.reason


def judged(server: BillingServer, exchange_by_device: dict[str, Exchange]) -> dict[str, Told]:
    """Judge the posts, and hold every verdict against the server's log: nothing twice, nothing claimed falsely."""
    settings = Settings(base_url=server.base_url)
    received = Counter(post.headers["x-device-id"] for post in server.posts)
    billed = server.billed_by("x-device-id")
    told_by_device = {}
    for device_id, exchange in exchange_by_device.items():
        told = Told(exchange, api.judge_post(settings, exchange))
        assert received[device_id] <= 1, f"{device_id} was sent {received[device_id]} times"
        assert exchange.sent or not received[device_id], exchange
        assert exchange.http_status >= 200 or exchange.failure is not Failure.NONE, exchange
        assert not 0 < exchange.http_status < 200, exchange
        if told.reason is None:
            assert billed[device_id] == 1, exchange
        elif told.reason in NOT_RECORDED:
            assert billed[device_id] == 0, exchange
        told_by_device[device_id] = told
    return told_by_device


def post_all(
    sender: Sender[str], server: BillingServer, device_ids: Iterable[str], *, base_url: str = ""
) -> dict[str, Told]:
    """Post rows at once (so many as there are slots), and judge them."""
    exchange_by_device: dict[str, Exchange] = {}
    waiting = list(reversed(list(device_ids)))
    while waiting or sender.in_flight:
        while waiting and sender.in_flight < 8:
            device_id = waiting.pop()
            sender.start(device_id, post_to(base_url or server.base_url, device_id))
        exchange_by_device |= sender.wait(timeout_seconds=3600)
    return judged(server, exchange_by_device)


def post_one(sender: Sender[str], server: BillingServer, device_id: str = "d1", *, base_url: str = "") -> Told:
    """Post one row, and judge it."""
    return post_all(sender, server, [device_id], base_url=base_url)[device_id]


def assert_never_sent(told: Told, *, stops: bool = False) -> None:
    """Hold a verdict against what must be said of a row that never left."""
    assert not told.exchange.sent
    assert told.exchange.http_status == 0
    assert told.reason is (Reason.NOT_SENT if stops else Reason.UNAVAILABLE), told
    assert (told.verdict.retry, bool(told.verdict.stop)) == (not stops, stops)
    assert "libcurl" in told.verdict.outcome.detail


def warm(sender: Sender[str], server: BillingServer, connections: int) -> None:
    """Open this many connections to the server, each used once, and leave them idle."""
    gate = threading.Event()
    server.respond = lambda received: Answer(data=contract(received).data, gate=gate)
    for number in range(connections):
        sender.start(f"warm-{number}", post_to(server.base_url, f"warm-{number}"))
    while server.peak_in_flight < connections:
        sender.wait(timeout_seconds=0.01)
    gate.set()
    assert all(told.reason is None for told in judged(server, ended(sender)).values())
    assert server.connections == connections


# What is accepted


ACCEPTED_BY_NAME = {
    "Content-Length": RIGHT,
    "chunked": chunked(201, EVT),
    "chunked with trailers": chunked(201, EVT, trailers={"X-Sum": "1", "HTTP/1.1 500 Oh": "x"}),
    "HTTP/1.0 with a length": http_1_0(RIGHT),
    "after 100": interim(100, RIGHT),
    "after 103": interim(103, RIGHT),
    "after many interim answers": interim(100, interim(102, interim(103, interim(100, chunked(201, EVT))))),
    "an empty object": reply(200, {}),
    "the most bytes that are read": reply(200, b'{"x": "' + b"x" * (MOST_ANSWER_BYTES - 9) + b'"}'),
    "length spelt otherwise": Answer(b"HTTP/1.1 200\r\ncontent-LENGTH:\t2 \r\n\r\n{}"),
    "chunked spelt otherwise": Answer(b"HTTP/1.1 200 OK\r\nTRANSFER-encoding: Chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("answer", ACCEPTED_BY_NAME.values(), ids=ACCEPTED_BY_NAME.keys())
def test_a_whole_answer_is_an_acceptance(billing_server: BillingServer, answer: Answer) -> None:
    """A 2xx that says how long it is and holds a JSON object accepts the row, and the next one after it."""
    billing_server.respond = scripted(posts=itertools.repeat(answer))
    with sending() as sender:
        for device_id in ("d1", "d2"):
            told = post_one(sender, billing_server, device_id)
            assert told.reason is None, told
            assert told.exchange.http_status in {200, 201}
    assert len(billing_server.posts) == 2


# What proves nothing


IN_DOUBT_BY_NAME = {
    "end without a byte": Answer(then=Then.FIN),
    "reset without a byte": Answer(then=Then.RST),
    "hang without a byte": Answer(then=Then.HANG),
    "hang within the head": cut(RIGHT, after_bytes=20, then=Then.HANG),
    "hang within the body": cut(RIGHT, after_bytes=60, then=Then.HANG),
    "100, then the end": interim(100, Answer(then=Then.FIN)),
    "100, then a reset": interim(100, Answer(then=Then.RST)),
    "100, then a hang": interim(100, Answer(then=Then.HANG)),
    "101": interim(101, cut(RIGHT, after_bytes=len(RIGHT.data))),
    "a drip that lasts for hours": drip(reply(201, {"id": "x" * 10_000}), pause_seconds=0.5),
    "an endless drip": drip(endless("chunked"), pause_seconds=0.01),
    "unframed": unframed(201, EVT),
    "HTTP/1.0, unframed": http_1_0(unframed(201, EVT)),
    "empty": reply(201),
    "204": Answer(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "a list": reply(200, [EVT]),
    "HTML": reply(200, b"<html>It works!</html>"),
    "nesting deeper than Python": reply(200, b"[" * 60_000),
    "a byte more than is read": reply(200, b'{"x": "' + b"x" * (MOST_ANSWER_BYTES - 8) + b'"}'),
    "endless, with a length": endless("length"),
    "endless, chunked": endless("chunked"),
    "endless, unframed": endless("close"),
    "a gzip bomb": gzip_bomb(),
    "cut gzip": cut_gzip(),
    "another transfer coding": Answer(b"HTTP/1.1 201 OK\r\nTransfer-Encoding: x-chunked\r\n\r\n{}", then=Then.FIN),
    "identity is no frame": Answer(b"HTTP/1.1 201 OK\r\nTransfer-Encoding: identity\r\n\r\n{}", then=Then.FIN),
    "a length within a folded header": Answer(
        b"HTTP/1.1 201 OK\r\nX: a\r\n Content-Length: 2\r\n\r\n{}", then=Then.FIN
    ),
    "500": reply(500, EVT),
    "500 with a 201 in its trailers": chunked(500, EVT, trailers={"HTTP/1.1 201 OK": "x", "Content-Length": "2"}),
    "500 with a 201 in its head": Answer(b"HTTP/1.1 500 No\r\nHTTP/1.1 201 OK: x\r\nContent-Length: 2\r\n\r\n{}"),
    "100 with a 201 in its head, then the end": Answer(
        b"HTTP/1.1 100 Go\r\nHTTP/1.1 201 OK: x\r\nContent-Length: 2\r\n\r\n", then=Then.FIN
    ),
    "100 with a 201 in its head, then 500": Answer(
        b"HTTP/1.1 100 Go\r\nHTTP/1.1 201 OK: x\r\nContent-Length: 2\r\n\r\n" + reply(500, EVT).data
    ),
    "503 without Retry-After": reply(503),
    "503 with Retry-After in its trailers": chunked(503, EVT, trailers={"Retry-After": "1"}),
}


@pytest.mark.parametrize("answer", IN_DOUBT_BY_NAME.values(), ids=IN_DOUBT_BY_NAME.keys())
def test_an_answer_that_proves_nothing_leaves_the_row_in_doubt(billing_server: BillingServer, answer: Answer) -> None:
    """No answer, half an answer or a strange one leaves the row in doubt, is not retried, and is soon over."""
    billing_server.respond = scripted(posts=[answer])
    is_slow = answer.then is Then.HANG or answer.pause_seconds
    with sending(timeout_seconds=IMPATIENT_SECONDS if is_slow else 10) as sender:
        told = post_one(sender, billing_server)
        assert told.reason is Reason.IN_DOUBT, told
        assert not told.verdict.retry
        assert len(told.exchange.body) <= MOST_ANSWER_BYTES
        assert len(billing_server.posts) == 1
        # libcurl may try the next row over the connection that just ended; the handle is as good as new.
        post_one(sender, billing_server, "d2")
        assert post_one(sender, billing_server, "d3").reason is None


@pytest.mark.parametrize("name", RUBBISH_BY_NAME)
def test_rubbish_leaves_the_row_in_doubt(billing_server: BillingServer, name: str) -> None:
    """What is not, or only almost, HTTP is no acceptance and stops no run; a folded header is HTTP (RFC 9112, 5.2)."""
    rubbish = RUBBISH_BY_NAME[name]
    billing_server.respond = scripted(posts=[rubbish], look_ups=[rubbish])
    look_up = api.look_up_request(Settings(base_url=billing_server.base_url), "acme")
    is_http = name == "folded header"
    with sending() as sender:
        told = post_one(sender, billing_server)
    with sending() as sender:
        sender.start("look-up", look_up)
        looked_up = api.judge_look_up(ended(sender)["look-up"])
    assert told.reason is (None if is_http else Reason.IN_DOUBT), told
    assert looked_up.outcome.reason is (Reason.CUSTOMER_NOT_FOUND if is_http else Reason.LOOKUP_FAILED)
    assert looked_up.stop == ""
    assert len(billing_server.posts) == 1


def answer_too_many(received: Received) -> Answer:
    """Answer the first post twice."""
    right = contract(received)
    return Answer(data=right.data * (2 if received.number == 0 else 1))


def test_an_answer_too_many_is_not_the_next_rows_answer(billing_server: BillingServer) -> None:
    """What arrives after an answer is never read as the answer to the next row over that connection."""
    billing_server.respond = answer_too_many
    with sending(most_in_flight=1) as sender:
        for number, device_id in enumerate(("d1", "d2")):
            told = post_one(sender, billing_server, device_id)
            assert told.reason is None
            assert f'"evt_{number}"' in told.verdict.outcome.response


# Cut at every byte


FRAMINGS: dict[str, Answer] = {
    "Content-Length": RIGHT,
    "chunked": chunked(201, EVT, trailers={"X-Sum": "1"}),
    "100 first": interim(100, RIGHT),
    "HTTP/1.0": http_1_0(RIGHT),
    "unframed": unframed(201, EVT),
}


@pytest.mark.parametrize("is_reused", [False, True], ids=["fresh", "reused"])
@pytest.mark.parametrize("then", [Then.FIN, Then.RST])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_answer_cut_at_any_byte_is_no_acceptance(
    billing_server: BillingServer, framing: str, then: Then, *, is_reused: bool
) -> None:
    """Wherever an answer ends before its last byte, in head or body, the row is in doubt and is not sent again."""
    whole = FRAMINGS[framing]

    def respond(received: Received) -> Answer:
        device_id = received.headers["x-device-id"]
        return cut(whole, after_bytes=int(device_id), then=then) if device_id.isdigit() else contract(received)

    billing_server.respond = respond
    # A reset may overtake the last byte, so only a proper end is tried with the whole answer.
    offsets = [str(offset) for offset in range(len(whole.data) + (then is Then.FIN))]
    told_by_offset = {}
    for offset in offsets:
        with sending(most_in_flight=1) as sender:
            if is_reused:
                post_one(sender, billing_server, f"before-{offset}")
            told_by_offset[offset] = post_one(sender, billing_server, offset)
    accepted = {offset for offset, told in told_by_offset.items() if told.reason is None}
    in_doubt = {offset for offset, told in told_by_offset.items() if told.reason is Reason.IN_DOUBT}
    is_provable = then is Then.FIN and framing != "unframed"
    assert accepted == ({str(len(whole.data))} if is_provable else set())
    assert accepted | in_doubt == set(offsets)
    posts = {post.headers["x-device-id"]: post for post in billing_server.posts}
    assert {posts[offset].index_on_connection for offset in offsets} == {int(is_reused)}


# Sent again, unasked


def dying(then: Then) -> Respond:
    """Answer rightly, but read what comes over a used connection and let that die without a byte."""
    return lambda received: contract(received) if received.index_on_connection == 0 else Answer(then=then)


@pytest.mark.parametrize("then", [Then.FIN, Then.RST])
@pytest.mark.parametrize("connections", [1, 8])
def test_a_post_over_a_dying_connection_is_not_sent_again(
    billing_server: BillingServer, connections: int, then: Then
) -> None:
    """When a used connection dies before any answer, libcurl would send the POST again; the row is in doubt instead."""
    device_ids = [f"d{number}" for number in range(connections)]
    with sending() as sender:
        warm(sender, billing_server, connections)
        billing_server.respond = dying(then)
        told_by_device = post_all(sender, billing_server, device_ids)
        assert {told.reason for told in told_by_device.values()} == {Reason.IN_DOUBT}
        assert billing_server.billed_by("x-device-id") == Counter(
            [*device_ids, *(f"warm-{number}" for number in range(connections))]
        )
        assert post_one(sender, billing_server, "after").reason is None


def test_a_post_over_one_of_many_dying_connections_is_sent_once(billing_server: BillingServer) -> None:
    """With several idle connections that will all die, libcurl would try one after the other."""
    with sending() as sender:
        warm(sender, billing_server, 8)
        billing_server.respond = dying_when_reused
        assert post_one(sender, billing_server).reason is Reason.IN_DOUBT
    assert billing_server.billed_by("x-device-id")["d1"] == 1


@pytest.mark.parametrize("is_proxied", [False, True], ids=["direct", "through CONNECT"])
def test_a_post_over_a_dying_tls_connection_is_not_sent_again(
    authority: trustme.CA, authority_file: Path, *, is_proxied: bool
) -> None:
    """TLS, and a tunnel through a proxy, change nothing about it."""
    with BillingServer(dying_when_reused, authority=authority) as server, BillingServer(forwarding) as proxy:
        proxy_url = f"http://127.0.0.1:{proxy.port}" if is_proxied else ""
        with sending(proxy=proxy_url, ca_bundle=authority_file) as sender:
            assert post_one(sender, server).reason is None
            told = post_one(sender, server, "d2")
            # Not the 200 that the proxy gave to CONNECT.
            assert (told.reason, told.exchange.http_status) == (Reason.IN_DOUBT, 0)
            assert post_one(sender, server, "d3").reason is None
        assert len(server.posts) == 3


def test_a_connection_that_the_backend_closed_while_idle_costs_no_row(billing_server: BillingServer) -> None:
    """A server that closes without announcing it after each answer: whatever becomes of a row, the verdict is true."""
    billing_server.respond = lambda received: Answer(data=contract(received).data, then=Then.FIN)
    with sending() as sender:
        told_by_device = post_all(sender, billing_server, (f"d{number}" for number in range(100)))
    assert {told.reason for told in told_by_device.values()} <= {None, Reason.IN_DOUBT}


def test_a_look_up_over_a_dying_connection_is_asked_once_and_may_be_again(billing_server: BillingServer) -> None:
    """The guard holds for a GET as well: whether to ask again is for the pacing to say."""
    look_up = api.look_up_request(Settings(base_url=billing_server.base_url), "acme")
    with sending() as sender:
        sender.start("first", look_up)
        assert api.judge_look_up(ended(sender)["first"]).customer_id == "cus_acme"
        billing_server.respond = dying(Then.FIN)
        sender.start("second", look_up)
        verdict = api.judge_look_up(ended(sender)["second"])
    assert (verdict.outcome.reason, verdict.retry) == (Reason.LOOKUP_FAILED, True)
    assert len(billing_server.look_ups) == 2


SAID_BY_STATUS = {
    301: Reason.IN_DOUBT,
    302: Reason.IN_DOUBT,
    303: Reason.IN_DOUBT,
    307: Reason.IN_DOUBT,
    308: Reason.IN_DOUBT,
    401: Reason.REJECTED,
    407: Reason.REJECTED,
    408: Reason.UNAVAILABLE,
    413: Reason.REJECTED,
    417: Reason.REJECTED,
    421: Reason.UNAVAILABLE,
    425: Reason.UNAVAILABLE,
    429: Reason.UNAVAILABLE,
    503: Reason.UNAVAILABLE,
}


@pytest.mark.parametrize(("status", "reason"), SAID_BY_STATUS.items())
def test_no_status_makes_libcurl_send_a_post_again(billing_server: BillingServer, status: int, reason: Reason) -> None:
    """Redirects, calls for a password or for patience: one post, and neither row nor key goes to another server."""
    with BillingServer() as other:
        headers = {
            "Location": f"{other.base_url}/events",
            "Retry-After": "17",
            "WWW-Authenticate": 'Basic realm="x"',
            "Proxy-Authenticate": 'Basic realm="x"',
        }
        billing_server.respond = scripted(posts=[RIGHT, reply(status, EVT, headers)])
        with sending() as sender:
            post_one(sender, billing_server)
            sender.start("d2", post_to(billing_server.base_url, "d2", api_key="secret"))
            told = judged(billing_server, ended(sender))["d2"]
        assert (told.reason, told.exchange.http_status) == (reason, status)
        assert told.exchange.retry_after == "17"
        assert len(billing_server.posts) == 2
        assert (other.received, other.fragments, other.connections) == ([], [], 0)


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
    assert api.judge_look_up(exchanges["look-up"]).outcome.reason is Reason.LOOKUP_FAILED
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


def test_a_connection_idle_for_long_is_not_used_again(billing_server: BillingServer) -> None:
    """The backend may be closing it, and that race would cost a doubt."""
    billing_server.respond = scripted(posts=[RIGHT, Answer(then=Then.HANG)])
    with sending(timeout_seconds=3.1) as sender:
        sender.start("idle", post_to(billing_server.base_url, "idle"))
        sender.start("clock", post_to(billing_server.base_url, "clock"))
        ended(sender)
        assert post_one(sender, billing_server, "late").reason is None
    posts = {post.headers["x-device-id"]: post for post in billing_server.posts}
    assert posts["late"].connection == 2


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
        found = {key: api.judge_look_up(exchange).customer_id for key, exchange in ended(sender).items()}
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


def test_without_the_guard_it_refuses_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pycurl that lacks PREREQFUNCTION is refused before anything is sent, with a way out."""
    monkeypatch.delattr(pycurl, "PREREQFUNCTION")
    with pytest.raises(SettingsError, match="sent twice") as refusal, sending():
        pass
    assert "pip install" in refusal.value.remedy


# What is sent


PRINTABLE = [chr(code) for code in range(0x21, 0x7F)]


def test_every_id_that_may_be_sent_arrives_as_it_is(billing_server: BillingServer) -> None:
    """Each printable character, alone and all together, reaches headers and path unchanged, and nothing else does."""
    tenant_ids = [*(character for character in PRINTABLE if character != "."), "".join(PRINTABLE), "%2e%2e"]
    base_url = billing_server.base_url
    with sending(most_in_flight=1) as sender:
        for tenant_id in tenant_ids:
            event = UsageEvent(tenant_id=tenant_id, device_id=tenant_id, meter_id="calls", total_usage=7)
            assert api.wire_problems(event) == {}
            sender.start("look-up", api.look_up_request(Settings(base_url=base_url), tenant_id))
            assert api.judge_look_up(ended(sender)["look-up"]).customer_id == f"cus_{tenant_id}"
            sender.start(tenant_id, post_to(base_url, tenant_id, tenant_id=tenant_id))
            assert judged(billing_server, ended(sender))[tenant_id].reason is None
    assert [request.tenant_id for request in billing_server.look_ups] == tenant_ids
    assert [post.headers["x-tenant-id"] for post in billing_server.posts] == tenant_ids
    assert billing_server.connections == 1


def test_a_post_is_what_the_contract_says_and_no_more(billing_server: BillingServer) -> None:
    """Method, path, headers and body; no Expect, no Accept-Encoding, no cookie that an answer set."""
    billing_server.respond = scripted(posts=[reply(201, EVT, {"Set-Cookie": "a=b"})])
    with sending() as sender:
        post_one(sender, billing_server, "d1")
        post_one(sender, billing_server, "d2")
    post = billing_server.posts[1]
    assert post.raw_head.startswith(b"POST /api/v1/events HTTP/1.1\r\n")
    assert {name: value for name, value in post.headers.items() if name != "user-agent"} == {
        "host": f"127.0.0.1:{billing_server.port}",
        "accept": "*/*",
        "x-tenant-id": "acme",
        "x-device-id": "d2",
        "content-type": "application/json",
        "x-request-id": "id-d2",
        "content-length": str(len(post.body)),
    }
    assert post.headers["user-agent"].startswith("meter-uploader/")
    assert post.body == b'{"meter_id": "calls", "total_usage": 7, "customer_id": "cus_acme"}'


def test_a_huge_post_waits_for_no_permission(billing_server: BillingServer) -> None:
    """Beyond 1 MB libcurl would ask with ``Expect: 100-continue``, and a refusal would be one more state to doubt."""
    event = UsageEvent(tenant_id="acme", device_id="d1", meter_id="x" * 2_000_000, total_usage=7)
    settings = Settings(base_url=billing_server.base_url)
    with sending() as sender:
        sender.start("d1", api.post_request(settings, event, customer_id="cus_acme", event_id=None))
        assert judged(billing_server, ended(sender))["d1"].reason is None
    assert "expect" not in billing_server.posts[0].headers


def test_a_base_path_is_sent_as_it_is(billing_server: BillingServer) -> None:
    """Dot segments, which libcurl would take out of a path and so ask for another resource, stay."""
    billing_server.respond = scripted(posts=[RIGHT])
    with sending() as sender:
        post_one(sender, billing_server, base_url=f"http://127.0.0.1:{billing_server.port}/a/../%2e%2e/b")
    assert billing_server.posts[0].path.lower() == "/a/../%2e%2e/b/events"


# Never sent


def test_a_refused_connection_sends_nothing() -> None:
    """Nobody listens: the row was certainly not recorded, and may be tried again."""
    with refusing_port() as port, sending() as sender, BillingServer() as server:
        told = post_one(sender, server, base_url=f"http://127.0.0.1:{port}")
    assert_never_sent(told)


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="other systems refuse a connection beyond the queue")
def test_a_connection_that_does_not_come_about_sends_nothing() -> None:
    """A connect timeout has the same libcurl code as a lost answer, but nothing left."""
    with full_port() as port, sending(timeout_seconds=IMPATIENT_SECONDS) as sender, BillingServer() as server:
        told = post_one(sender, server, base_url=f"http://127.0.0.1:{port}")
    assert_never_sent(told)


def test_a_tls_handshake_that_hangs_sends_nothing(authority_file: Path) -> None:
    """Connected, but no TLS within the time: nothing left."""
    sender_made = sending(timeout_seconds=IMPATIENT_SECONDS, ca_bundle=authority_file)
    with silent_port() as port, sender_made as sender, BillingServer() as server:
        told = post_one(sender, server, base_url=f"https://127.0.0.1:{port}")
    assert_never_sent(told)


def test_a_connection_accepted_and_not_read_is_in_doubt() -> None:
    """Over plain HTTP the request has left, read or not, with the same libcurl code as a connect timeout."""
    with silent_port() as port, sending(timeout_seconds=IMPATIENT_SECONDS) as sender, BillingServer() as server:
        told = post_one(sender, server, base_url=f"http://127.0.0.1:{port}")
    assert told.exchange.sent
    assert told.reason is Reason.IN_DOUBT


def test_a_name_that_does_not_resolve_sends_nothing(billing_server: BillingServer) -> None:
    """A DNS failure is retried; the top-level domain is reserved for that (RFC 6761, 6.4)."""
    with sending(timeout_seconds=1) as sender:
        told = post_one(sender, billing_server, base_url="http://metering.invalid")
    assert_never_sent(told)


def test_never_sent_is_known_of_a_handle_that_sent_before(billing_server: BillingServer) -> None:
    """What a handle did in an earlier attempt is no evidence for this one."""
    with sending(most_in_flight=1) as sender, refusing_port() as port:
        assert post_one(sender, billing_server, "d1").reason is None
        assert_never_sent(post_one(sender, billing_server, "d2", base_url=f"http://127.0.0.1:{port}"))
        assert post_one(sender, billing_server, "d3").reason is None
        billing_server.respond = scripted(posts=[Answer(then=Then.FIN)])
        assert post_one(sender, billing_server, "d4").reason is Reason.IN_DOUBT
        assert_never_sent(post_one(sender, billing_server, "d5", base_url=f"http://127.0.0.1:{port}"))


# TLS


def test_tls_is_checked_against_the_bundle_given(authority: trustme.CA, authority_file: Path) -> None:
    """With the right authority and name, rows are accepted over TLS."""
    with BillingServer(authority=authority) as server, sending(ca_bundle=authority_file) as sender:
        assert post_one(sender, server).reason is None


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl names the files of such a folder")
def test_a_folder_of_certificates_is_trusted(authority: trustme.CA, authority_file: Path, tmp_path: Path) -> None:
    """``REQUESTS_CA_BUNDLE`` may name a folder, with a file for each authority by the hash of its name."""
    command = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(authority_file)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / f"{name}.0").write_bytes(authority_file.read_bytes())
    with BillingServer(authority=authority) as server, sending(ca_bundle=tmp_path) as sender:
        assert post_one(sender, server).reason is None


def test_no_http_2_is_offered(authority: trustme.CA, authority_file: Path) -> None:
    """HTTP/2 has its own ways to send a request again; the TLS handshake offers HTTP/1.1 alone (RFC 7301)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])

    def chosen_protocol(listener: socket.socket) -> str | None:
        with context.wrap_socket(listener.accept()[0], server_side=True) as tls:
            return tls.selected_alpn_protocol()

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        ThreadPoolExecutor(1) as executor,
        sending(ca_bundle=authority_file) as sender,
    ):
        chosen = executor.submit(chosen_protocol, listener)
        sender.start("d1", post_to(f"https://127.0.0.1:{listener.getsockname()[1]}", "d1"))
        ended(sender)
        assert chosen.result() == "http/1.1"


@pytest.mark.parametrize("trouble", ["another authority", "another name", "no such file", "rubbish file"])
def test_a_tls_error_stops_the_run_before_anything_is_sent(
    authority: trustme.CA, authority_file: Path, tmp_path: Path, trouble: str
) -> None:
    """A certificate of another authority or name, and a CA bundle that cannot be used, are set-up faults."""
    other_file = tmp_path / "other.pem"
    if trouble == "another authority":
        trustme.CA().cert_pem.write_to_path(str(other_file))
    elif trouble == "rubbish file":
        other_file.write_text("rubbish")
    names = ("other.example",) if trouble == "another name" else ("127.0.0.1",)
    ca_bundle = authority_file if trouble == "another name" else other_file
    with BillingServer(authority=authority, names=names) as server, sending(ca_bundle=ca_bundle) as sender:
        told = post_one(sender, server)
    assert_never_sent(told, stops=True)
    assert "REQUESTS_CA_BUNDLE" in told.verdict.stop


def test_tls_to_a_port_that_speaks_none(authority: trustme.CA, authority_file: Path) -> None:
    """At the start that is a wrong base URL and stops the run; once answers came over TLS, it passes like a refusal."""
    with BillingServer() as plain, BillingServer(authority=authority) as server:
        https_to_plain = plain.base_url.replace("http:", "https:")
        with sending(ca_bundle=authority_file) as sender:
            assert_never_sent(post_one(sender, plain, "d1", base_url=https_to_plain), stops=True)
            assert post_one(sender, server, "d2").reason is None
            assert_never_sent(post_one(sender, plain, "d3", base_url=https_to_plain))


def test_no_tls_to_a_port_that_speaks_it(authority: trustme.CA) -> None:
    """The request has left in plain text, so it counts as sent."""
    with BillingServer(authority=authority) as server, sending() as sender:
        told = post_one(sender, server, base_url=server.base_url.replace("https:", "http:"))
    assert told.reason is Reason.IN_DOUBT
    assert server.received == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "foo://127.0.0.1", "file:///etc/passwd"])
def test_a_url_that_cannot_be_used_stops_the_run(billing_server: BillingServer, url: str) -> None:
    """A bad port and a scheme other than http and https are set-up faults."""
    with sending() as sender:
        sender.start("d1", Request(url=url, headers=(), body=b"{}"))
        told = judged(billing_server, ended(sender))["d1"]
    assert_never_sent(told, stops=True)


# Proxies


@pytest.fixture
def proxy() -> Iterator[BillingServer]:
    """Start a proxy that forwards."""
    with BillingServer(forwarding) as server:
        yield server


def url_of(proxy: BillingServer) -> str:
    """Give the proxy's URL."""
    return proxy.base_url.removesuffix("/api/v1")


def test_a_plain_call_goes_through_the_proxy_given(billing_server: BillingServer, proxy: BillingServer) -> None:
    """The proxy passes the row on, and its backend's answer back."""
    with sending(proxy=url_of(proxy)) as sender:
        assert post_one(sender, billing_server).reason is None
    assert [request.path for request in proxy.received] == [f"{billing_server.base_url}/events"]


def test_a_tls_call_goes_through_a_tunnel_that_is_told_nothing(
    authority: trustme.CA, authority_file: Path, proxy: BillingServer
) -> None:
    """CONNECT carries no header of ours: neither the key nor an id is for the proxy to see."""
    with BillingServer(authority=authority) as server:
        with sending(proxy=url_of(proxy), ca_bundle=authority_file) as sender:
            sender.start("d1", post_to(server.base_url, "d1", api_key="secret"))
            assert judged(server, ended(sender))["d1"].reason is None
        assert server.posts[0].headers["authorization"] == "Bearer secret"
    assert [request.method for request in proxy.received] == ["CONNECT"]
    assert set(proxy.received[0].headers) == {"host", "user-agent", "proxy-connection"}


def test_a_proxy_reached_over_tls_is_checked_against_the_bundle_given(
    billing_server: BillingServer, authority: trustme.CA, authority_file: Path, tmp_path: Path
) -> None:
    """The one CA bundle serves for a proxy too, as it does in `requests`."""
    other_file = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other_file))
    with BillingServer(forwarding, authority=authority) as proxy:
        with sending(proxy=url_of(proxy), ca_bundle=authority_file) as sender:
            assert post_one(sender, billing_server).reason is None
        with sending(proxy=url_of(proxy), ca_bundle=other_file) as sender:
            assert_never_sent(post_one(sender, billing_server, "d2"), stops=True)


CONNECT_REFUSED_BY_NAME = {
    "403": reply(403),
    "407": reply(407, b"", {"Proxy-Authenticate": 'Basic realm="x"'}),
    "502": reply(502, EVT),
    "503 with Retry-After": reply(503, EVT, {"Retry-After": "9"}),
    "redirect": reply(302, b"", {"Location": "https://127.0.0.1:1/"}),
    "end": Answer(then=Then.FIN),
    "reset": Answer(then=Then.RST),
    "hang": Answer(then=Then.HANG),
    "rubbish": Answer(b"rubbish\r\n\r\n", then=Then.FIN),
    "tunnel into silence": Answer(b"HTTP/1.1 200 OK\r\nRetry-After: 9\r\n\r\n", then=Then.HANG),
}


@pytest.mark.parametrize("answer", CONNECT_REFUSED_BY_NAME.values(), ids=CONNECT_REFUSED_BY_NAME.keys())
def test_a_tunnel_that_is_refused_sends_nothing(authority: trustme.CA, authority_file: Path, answer: Answer) -> None:
    """Whatever the proxy answers to CONNECT, the row never left, and its answer is not taken for the backend's."""
    is_slow = answer.then is Then.HANG
    with BillingServer(lambda _: answer) as proxy, BillingServer(authority=authority) as server:
        with sending(
            proxy=url_of(proxy),
            ca_bundle=authority_file,
            timeout_seconds=IMPATIENT_SECONDS if is_slow else 10,
        ) as sender:
            told = post_one(sender, server)
        assert_never_sent(told)
        assert server.connections == 0
        assert {request.method for request in proxy.received} == {"CONNECT"}


def test_a_proxy_that_is_not_there_sends_nothing(billing_server: BillingServer) -> None:
    """Nothing goes past a proxy that refuses connections or has no name."""
    with refusing_port() as port:
        for number, proxy_url in enumerate((f"http://127.0.0.1:{port}", "http://proxy.invalid:3128")):
            with sending(proxy=proxy_url, timeout_seconds=1) as sender:
                assert_never_sent(post_one(sender, billing_server, f"d{number}"))
    assert billing_server.connections == 0


@pytest.mark.parametrize(
    ("status", "reason"),
    [(407, Reason.REJECTED), (403, Reason.REJECTED), (502, Reason.IN_DOUBT), (504, Reason.IN_DOUBT)],
)
def test_a_plain_proxys_own_answer_is_judged_like_any(
    billing_server: BillingServer, status: int, reason: Reason
) -> None:
    """Over plain HTTP nothing tells the proxy's answer from the backend's: a 5xx leaves the row in doubt."""
    with BillingServer(lambda _: reply(status)) as proxy, sending(proxy=url_of(proxy)) as sender:
        assert post_one(sender, billing_server).reason is reason
    assert billing_server.connections == 0


def test_proxies_of_the_environment_are_settled_once(
    billing_server: BillingServer, proxy: BillingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The route settled at the start holds: what the environment says of proxies later, libcurl never asks."""
    with refusing_port() as port:
        direct = settle_route(billing_server.base_url)
        with monkeypatch.context() as environment:
            for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
                environment.setenv(name, f"http://127.0.0.1:{port}")
            with sending(proxy=direct.proxy, ca_bundle=direct.ca_bundle) as sender:
                assert post_one(sender, billing_server, "direct").reason is None
    assert proxy.received == []
    monkeypatch.setenv("http_proxy", url_of(proxy))
    proxied = settle_route(billing_server.base_url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    with sending(proxy=proxied.proxy, ca_bundle=proxied.ca_bundle) as sender:
        assert post_one(sender, billing_server, "proxied").reason is None
    assert len(proxy.received) == 1
