"""Which answers are an acceptance, and which prove nothing."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path

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
from tests.billing_contract import Received, contract, scripted
from tests.billing_server import BillingServer
from tests.sender.calls import EVT, IMPATIENT_SECONDS, RIGHT, ended, post_one, post_to, sending
from uploader.model import api
from uploader.model.api import MOST_ANSWER_BYTES
from uploader.model.model import Reason, UsageEvent
from uploader.model.settings import Settings

pytestmark = pytest.mark.usefixtures("plain_environment")


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
    "a length with zeros before it": Answer(b"HTTP/1.1 200\r\nContent-Length: %s2\r\n\r\n{}" % (b"0" * 30)),
    "one length, spelt twice": Answer(b"HTTP/1.1 200\r\nContent-Length: 2\r\nContent-Length: 02\r\n\r\n{}"),
    "chunked, with an empty coding": Answer(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: , chunked,\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    ),
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


CHUNKED = b"HTTP/1.1 201 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = ("interim answers without end", "trailers without end", "long extensions without end", "endless, chunked")
"""Some that are sent as fast as they are read."""

IN_DOUBT_BY_NAME = {
    "NUL between heads": Answer(data=b"HTTP/1.1 100 X\r\n\r\x00\nHTTP/1.1 202 X\r\nContent-Length: 2\r\n\r\n{}"),
    "a control character between heads": Answer(
        data=b"HTTP/1.1 100 X\r\n\r\x01\nHTTP/1.1 202 X\r\nContent-Length: 2\r\n\r\n{}"
    ),
    "CR alone between heads": Answer(data=b"HTTP/1.1 100 X\r\n\rX\nHTTP/1.1 202 X\r\nContent-Length: 2\r\n\r\n{}"),
    "a control character in the head": Answer(data=b"HTTP/1.1 202 X\r\nContent-Length: 2\r\nX: \x1b\r\n\r\n{}"),
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
    "interim answers without end": Answer(endless=b"HTTP/1.1 102 Wait\r\n\r\n" * 1000),
    "a head without end": Answer(data=b"HTTP/1.1 201 OK\r\n", endless=b"X: y\r\n" * 1000),
    "a head of one line without end": Answer(data=b"HTTP/1.1 201 OK\r\nX: ", endless=b"y" * 10_000),
    "a chunk longer than it says": Answer(data=CHUNKED + b"2\r\n{}}\r\n0\r\n\r\n"),
    "trailers without end": Answer(data=CHUNKED + b"2\r\n{}\r\n0\r\n", endless=b"X: y\r\n" * 1000),
    "a chunk's extension without end": Answer(data=CHUNKED + b"2;", endless=b"y" * 10_000),
    "long extensions without end": Answer(data=CHUNKED, endless=b"1;" + b"y" * 10_000 + b"\r\n \r\n"),
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
        # The next row may meet the connection that just ended.
        post_one(sender, billing_server, "d2")
        assert post_one(sender, billing_server, "d3").reason is None


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_answer_over_tls_is_soon_over(authority: trustme.CA, authority_file: Path, name: str) -> None:
    """Where more is there whenever it is read on, reading ends all the same."""
    with BillingServer(scripted(posts=[IN_DOUBT_BY_NAME[name]]), authority=authority) as server:
        with sending(ca_bundle=authority_file) as sender:
            told = post_one(sender, server)
        assert told.reason is Reason.IN_DOUBT
        assert "larger than" in told.verdict.outcome.detail


def test_what_is_wrong_with_an_answer_is_said(billing_server: BillingServer) -> None:
    """Whoever reads it knows whether any of an answer came, and which part of it is damaged."""
    words_by_name = {
        "a chunk's extension without end": "the chunks of the answer are damaged",
        "100, then a hang": "no whole answer within 0.2 s",
        "hang without a byte": "no answer within 0.2 s",
    }
    for name, words in words_by_name.items():
        billing_server.respond = scripted(posts=[IN_DOUBT_BY_NAME[name]])
        with sending(timeout_seconds=IMPATIENT_SECONDS if "within" in words else 10) as sender:
            assert post_one(sender, billing_server, name.partition(",")[0].replace(" ", "-")).exchange.error == words


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
        looked_up = api.judge_look_up(Settings(), ended(sender)["look-up"])
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


def test_each_connection_is_looked_at_just_before_it_is_used() -> None:
    """What came over an idle connection, even while others start, is not the answer to the row that is next."""
    with socket.create_server(("127.0.0.1", 0)) as listener, sending() as sender:
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def taken() -> socket.socket:
            connection, _ = listener.accept()
            assert connection.recv(65536)
            return connection

        sender.start("a", post_to(base_url, "a"))
        sender.start("b", post_to(base_url, "b"))
        sender.wait(timeout_seconds=0)
        with taken() as first, taken() as second:
            first.sendall(RIGHT.data)
            second.sendall(RIGHT.data)
            assert set(ended(sender)) == {"a", "b"}
            sender.start("c", post_to(base_url, "c"))
            for connection in (first, second):
                connection.sendall(reply(201, {"id": "nobody asked"}).data)
            sender.start("d", post_to(base_url, "d"))
            while len(sender.wait(timeout_seconds=0.01)) == 0:
                pass
            with taken() as third:
                third.sendall(RIGHT.data)
                assert b"nobody" not in ended(sender)["d"].body


def test_a_row_is_not_accepted_before_the_whole_of_it_was_sent() -> None:
    """A 2xx to half a request is no word on the row: the backend cannot have it."""
    event = UsageEvent(tenant_id="acme", device_id="d1", meter_id="x" * 30_000_000, total_usage=7)
    settings = Settings(base_url="http://127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as listener, sending() as sender:
        settings = Settings(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        sender.start("d1", api.post_request(settings, event, customer_id="cus_acme", event_id=None))
        sender.wait(timeout_seconds=0)
        with listener.accept()[0] as connection:
            assert connection.recv(1000)
            connection.sendall(RIGHT.data)
            verdict = api.judge_post(settings, ended(sender)["d1"])
    assert verdict.outcome.reason is Reason.IN_DOUBT
    assert "before the whole request was sent" in verdict.outcome.detail


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
