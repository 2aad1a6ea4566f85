"""The billing server of the tests does what it says, or the tests that trust it prove nothing."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import itertools
import json
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

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
from tests.billing_contract import BilledRow, dying_when_reused, forwarding, scripted
from tests.billing_server import BillingServer
from tests.dead_ports import full_port, refusing_port, silent_port

EVENT: dict[str, Any] = {"meter_id": "calls", "total_usage": 7, "customer_id": "cus_acme"}
HEADERS = {"x-tenant-id": "acme", "x-device-id": "d1", "Content-Type": "application/json"}
ROW = BilledRow("acme", "d1", "calls", 7)
RIGHT = reply(201, {"id": "evt_1"})


def _post_bytes() -> bytes:
    body = json.dumps(EVENT).encode()
    fields = {"Host": "127.0.0.1", **HEADERS, "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return b"POST /api/v1/events HTTP/1.1\r\n" + lines.encode() + b"\r\n" + body


@contextlib.contextmanager
def _connection(port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        yield connection


def _post(connection: http.client.HTTPConnection, *, event: object = EVENT) -> tuple[int, bytes]:
    connection.request("POST", "/api/v1/events", json.dumps(event), HEADERS)
    answer = connection.getresponse()
    return answer.status, answer.read()


def _post_raw(port: int) -> tuple[bytes, str]:
    """Post once; the bytes that came and how the connection ended: "FIN" or "RST"."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
        sock.sendall(_post_bytes())
        data = b""
        try:
            while piece := sock.recv(65536):
                data += piece
        except ConnectionResetError:
            return data, "RST"
        return data, "FIN"


def test_contract_is_answered_and_logged(billing_server: BillingServer) -> None:
    """A look-up and a post over one connection get the contract's answers and stand in the log."""
    with _connection(billing_server.port) as connection:
        connection.request("GET", "/api/v1/customer-accounts/tenant/a%2Fb")
        assert json.loads(connection.getresponse().read()) == [{"id": "cus_a/b"}]
        status, body = _post(connection)
    assert (status, json.loads(body)) == (201, {"id": "evt_1", "status": "recorded"})
    (look_up,), (post,) = billing_server.look_ups, billing_server.posts
    assert (look_up.tenant_id, look_up.number, look_up.index_on_connection) == ("a/b", 0, 0)
    assert (post.event, post.tenant_id, post.number, post.index_on_connection) == (EVENT, "acme", 1, 1)
    assert post.raw_head.startswith(b"POST /api/v1/events HTTP/1.1\r\n")
    assert look_up.at_seconds <= post.at_seconds
    assert billing_server.billed() == {ROW: 1}
    assert billing_server.billed_by("X-Device-Id") == {"d1": 1}
    assert (billing_server.connections, billing_server.peak_in_flight) == (1, 1)


@pytest.mark.parametrize(
    "event",
    [
        {**EVENT, "total_usage": "7"},
        {**EVENT, "total_usage": True},
        {**EVENT, "customer_id": "cus_other"},
        {**EVENT, "tenant_id": "acme"},
        {"meter_id": "calls", "total_usage": 7},
        [EVENT],
    ],
    ids=["text usage", "boolean usage", "another's customer", "a key too many", "a key too few", "a list"],
)
def test_wrong_post_is_refused_and_not_billed(billing_server: BillingServer, event: object) -> None:
    """A post that breaks the contract gets 400, is logged and bills nothing."""
    with _connection(billing_server.port) as connection:
        assert _post(connection, event=event)[0] == 400
    assert len(billing_server.posts) == 1
    assert not billing_server.billed()


@pytest.mark.parametrize("missing_bytes", [1, 60, len(_post_bytes()) - 1])
def test_request_cut_short_is_no_request(billing_server: BillingServer, missing_bytes: int) -> None:
    """A request that lacks even its last byte is not logged as one, only as a fragment."""
    part = _post_bytes()[:-missing_bytes]
    with socket.create_connection(("127.0.0.1", billing_server.port), timeout=10) as sock:
        sock.sendall(part)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
    billing_server.close()
    assert billing_server.fragments == [part]
    assert not billing_server.received


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"POST /a b HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
    ],
    ids=["TLS", "space in path", "header without colon", "chunked", "two lengths"],
)
def test_rubbish_from_the_client_is_refused(billing_server: BillingServer, data: bytes) -> None:
    """What is no request is answered 400 at once and kept as a fragment."""
    with socket.create_connection(("127.0.0.1", billing_server.port), timeout=10) as sock:
        sock.sendall(data)
        assert sock.recv(65536).startswith(b"HTTP/1.1 400 ")
    billing_server.close()
    assert billing_server.fragments == [data]
    assert not billing_server.received


@pytest.mark.parametrize("then", [Then.FIN, Then.RST])
def test_answer_is_cut_at_every_byte(billing_server: BillingServer, then: Then) -> None:
    """Exactly the first bytes of the answer come, then FIN or RST; the request is logged each time."""
    offsets = range(len(RIGHT.data))
    billing_server.respond = scripted(posts=[cut(RIGHT, after_bytes=offset, then=then) for offset in offsets])
    for offset in offsets:
        assert _post_raw(billing_server.port) == (RIGHT.data[:offset], then.name)
    assert billing_server.billed() == {ROW: len(offsets)}


@pytest.mark.parametrize("then", [Then.FIN, Then.RST])
def test_request_may_go_unanswered(billing_server: BillingServer, then: Then) -> None:
    """A request that is read and answered by the end of the connection counts as billed."""
    billing_server.respond = scripted(posts=[Answer(then=then)])
    assert _post_raw(billing_server.port) == (b"", then.name)
    assert billing_server.billed() == {ROW: 1}


def test_hang_lasts_until_the_server_is_closed(billing_server: BillingServer) -> None:
    """A hanging answer sends its bytes and nothing more until the server is closed."""
    billing_server.respond = scripted(posts=[interim(100, Answer(then=Then.HANG))])
    with socket.create_connection(("127.0.0.1", billing_server.port), timeout=10) as sock:
        sock.sendall(_post_bytes())
        assert sock.recv(65536) == b"HTTP/1.1 100 Test\r\n\r\n"
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(10)
        billing_server.close()
        assert sock.recv(65536) == b""


def test_reused_connection_dies_after_the_request_was_read(billing_server: BillingServer) -> None:
    """The first request on a connection is answered; a post after it is logged and never answered."""
    billing_server.respond = dying_when_reused
    with _connection(billing_server.port) as connection:
        assert _post(connection)[0] == 201
        with pytest.raises(http.client.RemoteDisconnected):
            _post(connection)
    assert [(post.connection, post.index_on_connection) for post in billing_server.posts] == [(0, 0), (0, 1)]
    assert billing_server.billed() == {ROW: 2}


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (chunked(201, {"id": "evt_1"}, trailers={"X-Sum": "1"}), 201, b'{"id": "evt_1"}'),
        (unframed(200, b"{}"), 200, b"{}"),
        (http_1_0(RIGHT), 201, b'{"id": "evt_1"}'),
        (interim(100, RIGHT), 201, b'{"id": "evt_1"}'),
        (drip(RIGHT, pause_seconds=0.0001), 201, b'{"id": "evt_1"}'),
        (reply(503, b"later", {"Retry-After": "2"}), 503, b"later"),
        (reply(307, b"", {"Location": "http://127.0.0.1:1/"}), 307, b""),
        (cut_gzip(), 200, cut_gzip().data.partition(b"\r\n\r\n")[2]),
    ],
    ids=["chunked", "unframed", "HTTP/1.0", "100 first", "drip", "503", "redirect", "cut gzip"],
)
def test_odd_but_valid_answer_is_understood(
    billing_server: BillingServer, answer: Answer, status: int, body: bytes
) -> None:
    """An HTTP client takes each odd answer for what it is meant to be."""
    billing_server.respond = scripted(posts=[answer])
    with _connection(billing_server.port) as connection:
        assert _post(connection) == (status, body)


def test_idle_connection_is_closed_unannounced(billing_server: BillingServer) -> None:
    """A whole keep-alive answer may be followed by FIN."""
    answer = cut(RIGHT, after_bytes=len(RIGHT.data))
    billing_server.respond = scripted(posts=[answer])
    assert _post_raw(billing_server.port) == (RIGHT.data, "FIN")
    assert b"close" not in answer.data


def test_early_hints_precede_the_answer(billing_server: BillingServer) -> None:
    """The bytes of 103 go out before those of the answer."""
    billing_server.respond = scripted(posts=[interim(103, unframed(200, b"{}"))])
    data, _ = _post_raw(billing_server.port)
    assert data == b"HTTP/1.1 103 Test\r\n\r\nHTTP/1.1 200 Test\r\n\r\n{}"


@pytest.mark.parametrize("name", RUBBISH_BY_NAME)
def test_rubbish_goes_out_as_it_is(billing_server: BillingServer, name: str) -> None:
    """Rubbish reaches the client byte for byte."""
    billing_server.respond = scripted(posts=[RUBBISH_BY_NAME[name]])
    assert _post_raw(billing_server.port) == (RUBBISH_BY_NAME[name].data, "FIN")


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_endless_body_goes_on(billing_server: BillingServer, framing: Literal["length", "chunked", "close"]) -> None:
    """More than a mebibyte of an endless body comes, and the server ends all the same."""
    billing_server.respond = scripted(posts=[endless(framing)])
    with _connection(billing_server.port) as connection:
        connection.request("POST", "/api/v1/events", json.dumps(EVENT), HEADERS)
        assert len(connection.getresponse().read(1 << 20)) == 1 << 20


def test_endless_drip_goes_on(billing_server: BillingServer) -> None:
    """A drip of an endless body outlives the answer's own bytes."""
    answer = drip(endless("close"), pause_seconds=0.0001)
    billing_server.respond = scripted(posts=[answer])
    with socket.create_connection(("127.0.0.1", billing_server.port), timeout=10) as sock:
        sock.sendall(_post_bytes())
        data = b"".join(sock.recv(1) for _ in range(len(answer.data) + 10))
    assert data == answer.data + b"x" * 10


def test_gzip_bomb_is_one(billing_server: BillingServer) -> None:
    """The bomb is well framed, below 100 KB on the wire and 64 MiB of JSON."""
    billing_server.respond = scripted(posts=[gzip_bomb()])
    with _connection(billing_server.port) as connection:
        _, body = _post(connection)
    assert len(body) < 100_000
    assert len(gzip.decompress(body)) > 64 << 20


@pytest.mark.parametrize(
    ("answer", "bills"),
    [
        (reply(201), True),
        (reply(302), True),
        (reply(307), False),
        (reply(404), False),
        (reply(429), False),
        (reply(500), True),
        (reply(503), True),
        (reply(503, headers={"Retry-After": "1"}), False),
        (cut(reply(429), after_bytes=0), False),
        (Answer(then=Then.RST), True),
    ],
)
def test_worst_is_assumed_of_an_answer(answer: Answer, *, bills: bool) -> None:
    """An answer bills unless it plainly says that nothing was recorded."""
    assert answer.bills is bills


def test_script_is_followed_and_then_the_contract(billing_server: BillingServer) -> None:
    """Posts and look-ups are answered from their own lists, and rightly after these."""
    billing_server.respond = scripted(posts=[reply(500), reply(429)], look_ups=itertools.repeat(reply(404)))
    with _connection(billing_server.port) as connection:
        assert [_post(connection)[0] for _ in range(3)] == [500, 429, 201]
        for _ in range(2):
            connection.request("GET", "/api/v1/customer-accounts/tenant/acme")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (404, b"")
    assert billing_server.billed() == {ROW: 2}


def test_gate_holds_answers_until_it_is_set(billing_server: BillingServer) -> None:
    """Requests behind a gate are in flight together, and answered when the test says so."""
    gate = threading.Event()
    held = Answer(data=RIGHT.data, then=Then.FIN, gate=gate)
    billing_server.respond = scripted(posts=itertools.repeat(held))
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(_post_raw, billing_server.port) for _ in range(5)]
        billing_server.wait_for(posts=5)
        assert not any(answer.done() for answer in answers)
        gate.set()
        assert [answer.result() for answer in answers] == [(RIGHT.data, "FIN")] * 5
    assert billing_server.peak_in_flight == 5


def test_waiting_for_requests_that_do_not_come_ends(billing_server: BillingServer) -> None:
    """A wait names what was awaited and what came."""
    with pytest.raises(TimeoutError, match="1 posts and 0 look-ups awaited"):
        billing_server.wait_for(posts=1, timeout_seconds=0.01)


def test_many_connections_lose_and_repeat_nothing(billing_server: BillingServer) -> None:
    """64 connections of 30 posts each leave 1,920 different entries in the log."""

    def post_some(first_usage: int) -> None:
        with _connection(billing_server.port) as connection:
            for usage in range(first_usage, first_usage + 30):
                assert _post(connection, event={**EVENT, "total_usage": usage})[0] == 201

    with ThreadPoolExecutor(64) as pool:
        list(pool.map(post_some, range(0, 1920, 30)))
    assert billing_server.billed() == {ROW._replace(total_usage=usage): 1 for usage in range(1920)}
    assert [post.number for post in billing_server.posts] == list(range(1920))
    assert billing_server.connections == 64


def test_nothing_outlives_the_server() -> None:
    """Closing ends idle, hanging, held, dripping and endless connections, and every thread."""
    threads_before = set(threading.enumerate())
    answers = [
        RIGHT,
        Answer(then=Then.HANG),
        Answer(gate=threading.Event()),
        drip(RIGHT, pause_seconds=3600),
        endless("length"),
    ]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(BillingServer(scripted(posts=answers)))
        for _ in answers:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            sock.sendall(_post_bytes())
        stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
        server.wait_for(posts=len(answers))
        server.close()
        assert set(threading.enumerate()) == threads_before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=10)


def test_tls_is_spoken_with_the_authoritys_certificate(authority: trustme.CA, authority_file: Path) -> None:
    """A client that trusts the authority gets its answer, whichever of the two host names it uses."""
    trusting = ssl.create_default_context(cafile=str(authority_file))
    with BillingServer(authority=authority) as server:
        assert server.base_url.startswith("https://127.0.0.1:")
        for host in ("127.0.0.1", "localhost"):
            connection = http.client.HTTPSConnection(host, server.port, context=trusting, timeout=10)
            with contextlib.closing(connection):
                assert _post(connection)[0] == 201
        assert server.billed() == {ROW: 2}


@pytest.mark.parametrize("wrong", ["name", "authority"])
def test_tls_fails_where_it_should(authority: trustme.CA, authority_file: Path, wrong: str) -> None:
    """A certificate for another name, or of another authority, is refused before any request."""
    trusting = ssl.create_default_context(cafile=str(authority_file))
    server = (
        BillingServer(authority=authority, names=("elsewhere.example",))
        if wrong == "name"
        else BillingServer(authority=trustme.CA())
    )
    with server:
        connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=trusting, timeout=10)
        with contextlib.closing(connection), pytest.raises(ssl.SSLCertVerificationError):
            _post(connection)
        assert not server.received


def test_proxy_opens_a_tunnel(authority: trustme.CA, authority_file: Path) -> None:
    """CONNECT reaches a TLS server behind the proxy; both log what they saw."""
    trusting = ssl.create_default_context(cafile=str(authority_file))
    with BillingServer(authority=authority) as server, BillingServer(forwarding) as proxy:
        connection = http.client.HTTPSConnection("127.0.0.1", proxy.port, context=trusting, timeout=10)
        with contextlib.closing(connection):
            connection.set_tunnel("127.0.0.1", server.port)
            assert [_post(connection)[0] for _ in range(2)] == [201, 201]
        assert server.billed() == {ROW: 2}
        assert [(seen.method, seen.path) for seen in proxy.received] == [("CONNECT", f"127.0.0.1:{server.port}")]


def test_proxy_forwards_plain_requests(billing_server: BillingServer) -> None:
    """Absolute-form requests reach the server in origin form, one a connection; both log what they saw."""
    url = f"{billing_server.base_url}/events"
    with BillingServer(forwarding) as proxy, _connection(proxy.port) as connection:
        for _ in range(2):
            connection.request("POST", url, json.dumps(EVENT), HEADERS)
            answer = connection.getresponse()
            assert (answer.status, answer.getheader("Connection")) == (201, "close")
            answer.read()
        assert [seen.path for seen in proxy.received] == [url, url]
    assert [post.path for post in billing_server.posts] == ["/api/v1/events"] * 2
    assert billing_server.billed() == {ROW: 2}


def test_proxy_may_refuse(billing_server: BillingServer) -> None:
    """A proxy that answers CONNECT with 407 lets nothing through."""
    with BillingServer(lambda _: reply(407)) as proxy, _connection(proxy.port) as connection:
        connection.set_tunnel("127.0.0.1", billing_server.port)
        with pytest.raises(OSError, match="407"):
            _post(connection)
    assert billing_server.connections == 0


def test_refusing_port_refuses() -> None:
    """Nobody listens there, as long as it is held."""
    with refusing_port() as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=10)


def test_silent_port_takes_a_request_and_never_answers() -> None:
    """The connect and the send succeed; nothing comes back."""
    with silent_port() as port, socket.create_connection(("127.0.0.1", port), timeout=0.1) as sock:
        sock.sendall(_post_bytes())
        with pytest.raises(TimeoutError):
            sock.recv(1)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse or take what the queue cannot hold")
def test_full_port_leaves_a_connect_hanging() -> None:
    """A connect neither succeeds nor fails."""
    with full_port() as port, pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", port), timeout=0.1)
