"""Every trap of libcurl (design, section 3): a row is never sent twice, and is called what it came to.

The oracle is the billing server's log of complete requests: each test that posts compares the verdicts with it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
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
from uploader.api import Exchange, Failure, Request, Verdict
from uploader.client import settle_route
from uploader.errors import SettingsError
from uploader.model import Reason, UsageEvent
from uploader.sender import MOST_ANSWER_BYTES, Connection, Sender
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
        for key, exchange in sender.wait(timeout_seconds=10):
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
        exchange_by_device |= sender.wait(timeout_seconds=10)
    return judged(server, exchange_by_device)


def post_one(
    sender: Sender[str], server: BillingServer, device_id: str = "d1", *, base_url: str = ""
) -> Told:
    """Post one row, and judge it."""
    return post_all(sender, server, [device_id], base_url=base_url)[device_id]


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
    """A 2xx that says how long it is and holds a JSON object accepts the row, the next one over the same connection too."""
    billing_server.respond = scripted(posts=itertools.repeat(answer))
    with sending() as sender:
        for device_id in ("d1", "d2"):
            told = post_one(sender, billing_server, device_id)
            assert told.reason is None, told
            assert told.exchange.http_status == int(answer.data.rsplit(b"HTTP/1.", 1)[1][2:5]) or "chunked" in str(answer)
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
    "another transfer coding": Answer(
        b"HTTP/1.1 201 OK\r\nTransfer-Encoding: x-chunked\r\n\r\n{}", then=Then.FIN
    ),
    "identity is no frame": Answer(
        b"HTTP/1.1 201 OK\r\nTransfer-Encoding: identity\r\n\r\n{}", then=Then.FIN
    ),
    "a length within a folded header": Answer(
        b"HTTP/1.1 201 OK\r\nX: a\r\n Content-Length: 2\r\n\r\n{}", then=Then.FIN
    ),
    "500": reply(500, EVT),
    "500 with a 201 in its trailers": chunked(500, EVT, trailers={"HTTP/1.1 201 OK": "x", "Content-Length": "2"}),
    "500 with a 201 in its head": Answer(
        b"HTTP/1.1 500 No\r\nHTTP/1.1 201 OK: x\r\nContent-Length: 2\r\n\r\n{}"
    ),
    "100 with a 201 in its head, then the end": Answer(
        b"HTTP/1.1 100 Go\r\nHTTP/1.1 201 OK: x\r\nContent-Length: 2\r\n\r\n", then=Then.FIN
    ),
    "503 without Retry-After": reply(503),
    "503 with Retry-After in its trailers": chunked(503, EVT, trailers={"Retry-After": "1"}),
}


@pytest.mark.parametrize("answer", IN_DOUBT_BY_NAME.values(), ids=IN_DOUBT_BY_NAME.keys())
def test_an_answer_that_proves_nothing_leaves_the_row_in_doubt(
    billing_server: BillingServer, answer: Answer
) -> None:
    """No answer, half an answer or a strange one leaves the row in doubt, is not retried, and is soon over."""
    billing_server.respond = scripted(posts=[answer])
    is_slow = answer.then is Then.HANG or answer.pause_seconds
    with sending(timeout_seconds=IMPATIENT_SECONDS if is_slow else 10) as sender:
        told = post_one(sender, billing_server)
        assert told.reason is Reason.IN_DOUBT, told
        assert not told.verdict.retry
        assert len(told.exchange.body) <= MOST_ANSWER_BYTES
        assert len(billing_server.posts) == 1
        # The handle is as good as new.
        assert post_one(sender, billing_server, "d2").reason is None


@pytest.mark.parametrize("name", RUBBISH_BY_NAME)
def test_rubbish_leaves_the_row_in_doubt(billing_server: BillingServer, name: str) -> None:
    """What is not, or only almost, HTTP is no acceptance; a folded header (RFC 9112, 5.2) is allowed."""
    billing_server.respond = scripted(posts=[RUBBISH_BY_NAME[name]])
    with sending() as sender:
        told = post_one(sender, billing_server)
    assert told.reason is (None if name == "folded header" else Reason.IN_DOUBT), told
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
        return contract(received) if device_id == "warm" else cut(whole, after_bytes=int(device_id), then=then)

    billing_server.respond = respond
    # A reset may overtake the last byte, so only a proper end is tried with the whole answer.
    offsets = [str(offset) for offset in range(len(whole.data) + (then is Then.FIN))]
    with sending() as sender:
        if is_reused:
            told_by_offset = {}
            for offset in offsets:
                exchanges = cut_over_a_used_connection(sender, billing_server, offset)
                told_by_offset |= judged(billing_server, exchanges)
        else:
            told_by_offset = post_all(sender, billing_server, offsets)
    accepted = {offset for offset, told in told_by_offset.items() if told.reason is None}
    in_doubt = {offset for offset, told in told_by_offset.items() if told.reason is Reason.IN_DOUBT}
    is_whole = then is Then.FIN and framing != "unframed"
    assert accepted == ({str(len(whole.data))} if is_whole else set())
    assert accepted | in_doubt == set(offsets)
    received = [post for post in billing_server.posts if post.headers["x-device-id"] != "warm"]
    assert len(received) == len(offsets)
    assert any(post.index_on_connection for post in received) is is_reused
