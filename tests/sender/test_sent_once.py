"""Clients of HTTP send a request again, unasked, when a used connection dies; a row's post is sent once."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest
import trustme

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import Respond, contract, dying_when_reused, forwarding, scripted
from tests.billing_server import BillingServer
from tests.sender.calls import EVT, RIGHT, ended, judged, post_all, post_one, post_to, sending
from uploader.model import api
from uploader.model.model import Reason
from uploader.model.settings import Settings
from uploader.sender.sender import Sender

pytestmark = pytest.mark.usefixtures("plain_environment")


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


def dying(then: Then) -> Respond:
    """Answer rightly, but read what comes over a used connection and let that die without a byte."""
    return lambda received: contract(received) if received.index_on_connection == 0 else Answer(then=then)


@pytest.mark.parametrize("then", [Then.FIN, Then.RST])
@pytest.mark.parametrize("connections", [1, 8])
def test_a_post_over_a_dying_connection_is_not_sent_again(
    billing_server: BillingServer, connections: int, then: Then
) -> None:
    """When a used connection dies before any answer, the POST is not sent again; the row is in doubt instead."""
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
    """With several idle connections that will all die, one after the other is not tried."""
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
        assert api.judge_look_up(Settings(), ended(sender)["first"]).customer_id == "cus_acme"
        billing_server.respond = dying(Then.FIN)
        sender.start("second", look_up)
        verdict = api.judge_look_up(Settings(), ended(sender)["second"])
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
def test_no_status_makes_a_post_be_sent_again(billing_server: BillingServer, status: int, reason: Reason) -> None:
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
