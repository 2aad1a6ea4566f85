"""What is sent is what the contract says; and what is said of a row that was never sent."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import scripted
from tests.billing_server import BillingServer
from tests.dead_ports import full_port, refusing_port, silent_port
from tests.sender.calls import (
    EVT,
    IMPATIENT_SECONDS,
    RIGHT,
    assert_never_sent,
    ended,
    judged,
    post_one,
    post_to,
    sending,
)
from uploader.model import api
from uploader.model.api import Request
from uploader.model.model import Reason, UsageEvent
from uploader.model.settings import Settings

pytestmark = pytest.mark.usefixtures("plain_environment")


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
            assert api.judge_look_up(Settings(), ended(sender)["look-up"]).customer_id == f"cus_{tenant_id}"
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
    """No ``Expect: 100-continue``: a refusal would be one more state to doubt. What the socket cannot take waits."""
    event = UsageEvent(tenant_id="acme", device_id="d1", meter_id="x" * 8_000_000, total_usage=7)
    settings = Settings(base_url=billing_server.base_url)
    with sending() as sender:
        sender.start("d1", api.post_request(settings, event, customer_id="cus_acme", event_id=None))
        assert judged(billing_server, ended(sender))["d1"].reason is None
    assert "expect" not in billing_server.posts[0].headers


def test_a_path_is_sent_as_it_is(billing_server: BillingServer) -> None:
    """Dot segments stay: without them another resource would be asked for."""
    billing_server.respond = scripted(posts=[RIGHT])
    with sending() as sender:
        url = f"http://127.0.0.1:{billing_server.port}/a/../%2e%2e/b/events"
        sender.start("post", replace(post_to(billing_server.base_url, "d1"), url=url))
        ended(sender)
    assert billing_server.posts[0].path.lower() == "/a/../%2e%2e/b/events"


# Never sent


def test_a_refused_connection_sends_nothing() -> None:
    """Nobody listens: the row was certainly not recorded, and may be tried again."""
    with refusing_port() as port, sending() as sender, BillingServer() as server:
        told = post_one(sender, server, base_url=f"http://127.0.0.1:{port}")
    assert_never_sent(told)


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="other systems refuse a connection beyond the queue")
def test_a_connection_that_does_not_come_about_sends_nothing() -> None:
    """A connect timeout is a timeout like that of a lost answer, but nothing left."""
    with full_port() as port, sending(timeout_seconds=IMPATIENT_SECONDS) as sender, BillingServer() as server:
        told = post_one(sender, server, base_url=f"http://127.0.0.1:{port}")
    assert_never_sent(told)


def test_a_tls_handshake_that_hangs_sends_nothing(authority_file: Path) -> None:
    """Connected, but no TLS within the time: nothing left."""
    sender_made = sending(timeout_seconds=IMPATIENT_SECONDS, ca_bundle=authority_file)
    with silent_port() as port, sender_made as sender, BillingServer() as server:
        told = post_one(sender, server, base_url=f"https://127.0.0.1:{port}")
    assert_never_sent(told)


@pytest.mark.parametrize("said", [b"", RIGHT.data, b"SSH-2.0-x\r\n"], ids=["ends", "answers", "greets"])
def test_nothing_is_sent_to_whoever_speaks_first(billing_server: BillingServer, said: bytes) -> None:
    """What a new connection brings before anything was asked is the answer to no row, and none goes out over it."""
    with socket.create_server(("127.0.0.1", 0)) as listener, sending() as sender:
        base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        sender.start("d1", post_to(base_url, "d1"))
        sender.wait(timeout_seconds=0)
        listener.accept()[0].close()
        ended(sender)
        sender.start("d2", post_to(base_url, "d2"))  # begins to connect, and hears nothing before the next wait
        with listener.accept()[0] as connection:
            connection.sendall(said)
            if not said:
                connection.shutdown(socket.SHUT_WR)
            assert_never_sent(judged(billing_server, ended(sender))["d2"])
            assert connection.recv(1) == b""


def test_what_is_late_is_not_sent_any_more(billing_server: BillingServer) -> None:
    """A connection that comes when the call's time is over, as after this process stood still, carries no row."""
    with sending(timeout_seconds=0.000_001) as sender:
        told = post_one(sender, billing_server)
    assert_never_sent(told)
    assert billing_server.received == []


def test_a_connection_accepted_and_not_read_is_in_doubt() -> None:
    """Over plain HTTP the request has left, read or not."""
    with silent_port() as port, sending(timeout_seconds=IMPATIENT_SECONDS) as sender, BillingServer() as server:
        told = post_one(sender, server, base_url=f"http://127.0.0.1:{port}")
    assert told.exchange.sent
    assert told.reason is Reason.IN_DOUBT


def test_a_connection_that_ends_before_it_took_a_byte_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel had no room for any of the request when the backend left: the row is not in doubt."""

    def no_room(*_: object) -> int:
        raise BlockingIOError

    monkeypatch.setattr(socket.socket, "send", no_room)
    with socket.create_server(("127.0.0.1", 0)) as listener, sending() as sender, BillingServer() as server:
        sender.start("d1", post_to(f"http://127.0.0.1:{listener.getsockname()[1]}", "d1"))
        sender.wait(timeout_seconds=0)
        listener.accept()[0].close()
        assert_never_sent(judged(server, ended(sender))["d1"])


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "foo://127.0.0.1", "file:///etc/passwd"])
def test_a_url_that_cannot_be_used_stops_the_run(billing_server: BillingServer, url: str) -> None:
    """A bad port and a scheme other than http and https are set-up faults."""
    with sending() as sender:
        sender.start("d1", Request(url=url, headers=(), body=b"{}"))
        told = judged(billing_server, ended(sender))["d1"]
    assert_never_sent(told, stops=True)


def test_a_name_that_does_not_resolve_sends_nothing(billing_server: BillingServer) -> None:
    """A DNS failure is retried; the top-level domain is reserved for that (RFC 6761, 6.4)."""
    with sending(timeout_seconds=1) as sender:
        told = post_one(sender, billing_server, base_url="http://metering.invalid")
    assert_never_sent(told)


def test_never_sent_is_known_of_a_sender_that_sent_before(billing_server: BillingServer) -> None:
    """What was sent in an earlier attempt is no evidence for this one."""
    with sending(most_in_flight=1) as sender, refusing_port() as port:
        assert post_one(sender, billing_server, "d1").reason is None
        assert_never_sent(post_one(sender, billing_server, "d2", base_url=f"http://127.0.0.1:{port}"))
        assert post_one(sender, billing_server, "d3").reason is None
        billing_server.respond = scripted(posts=[Answer(then=Then.FIN)])
        assert post_one(sender, billing_server, "d4").reason is Reason.IN_DOUBT
        assert_never_sent(post_one(sender, billing_server, "d5", base_url=f"http://127.0.0.1:{port}"))
