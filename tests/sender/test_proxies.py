"""The way to the backend through proxies of HTTP and SOCKS."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import forwarding, scripted
from tests.billing_server import BillingServer
from tests.dead_ports import refusing_port
from tests.sender.calls import (
    EVT,
    IMPATIENT_SECONDS,
    RIGHT,
    assert_never_sent,
    ended,
    judged,
    post_all,
    post_one,
    post_to,
    sending,
)
from tests.socks_proxy import SocksProxy
from uploader.model.model import Reason
from uploader.sender.route import settle_route

pytestmark = pytest.mark.usefixtures("plain_environment")


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
    """Whatever the proxy answers to CONNECT, the row never left, and its answer is not taken for the backend's.

    A proxy that asks for a password would do so for the next row, too.
    """
    is_slow = answer.then is Then.HANG
    with BillingServer(lambda _: answer) as proxy, BillingServer(authority=authority) as server:
        with sending(
            proxy=url_of(proxy),
            ca_bundle=authority_file,
            timeout_seconds=IMPATIENT_SECONDS if is_slow else 10,
        ) as sender:
            told = post_one(sender, server)
        assert_never_sent(told, stops=answer is CONNECT_REFUSED_BY_NAME["407"])
        assert server.connections == 0
        assert {request.method for request in proxy.received} == {"CONNECT"}


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 102 Wait\r\n\r\n", b"HTTP/1.1 200 OK\r\n"], ids=["interim answers", "a head"]
)
def test_a_proxys_answer_without_end_is_soon_given_up(authority_file: Path, data: bytes) -> None:
    """What a proxy says as fast as it is read does not keep all other calls from going on."""
    endless = Answer(endless=data * 1000)
    with BillingServer(lambda _: endless) as proxy, sending(proxy=url_of(proxy), ca_bundle=authority_file) as sender:
        sender.start("d1", post_to("https://backend.invalid", "d1"))
        assert "its answer is damaged" in ended(sender)["d1"].error


def test_a_tls_call_goes_through_a_proxy_reached_over_tls(authority: trustme.CA, authority_file: Path) -> None:
    """TLS to the backend within TLS to the proxy, for many calls at once; each side sees its own part alone."""
    with (
        BillingServer(authority=authority) as server,
        BillingServer(forwarding, authority=authority) as proxy,
        sending(proxy=url_of(proxy), ca_bundle=authority_file) as sender,
    ):
        told_by_device = post_all(sender, server, [f"d{number}" for number in range(40)])
        assert {told.reason for told in told_by_device.values()} == {None}
        assert {request.method for request in proxy.received} == {"CONNECT"}
        assert server.connections == len(proxy.received) <= 8


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "through CONNECT"])
def test_the_proxys_password_is_for_the_proxy_alone(
    authority: trustme.CA, authority_file: Path, proxy: BillingServer, *, is_tls: bool
) -> None:
    """User and password of the proxy's URL, escapes read, go to the proxy (RFC 7617); the backend is not told."""
    proxy_url = url_of(proxy).replace("//", "//meter:a%40b@")
    with BillingServer(authority=authority if is_tls else None) as server:
        with sending(proxy=proxy_url, ca_bundle=authority_file) as sender:
            assert post_one(sender, server).reason is None
        said = base64.b64encode(b"meter:a@b").decode()
        assert proxy.received[0].headers["proxy-authorization"] == f"Basic {said}"
        # A plain request is passed on by the tests' proxy just as it came.
        assert not is_tls or "proxy-authorization" not in server.posts[0].headers


SOCKS = {
    "socks": "127.0.0.1",
    "socks4": "127.0.0.1",
    "socks4a": "localhost",
    "socks5": "127.0.0.1",
    "socks5h": "localhost",
}
"""By scheme, what the proxy is told of the host localhost."""


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize(("scheme", "told_host"), SOCKS.items())
def test_calls_go_through_a_socks_proxy(
    authority: trustme.CA, authority_file: Path, scheme: str, told_host: str, *, is_tls: bool
) -> None:
    """Each version of SOCKS leads to the backend; the name is looked up here or by the proxy, as its scheme says."""
    with (
        BillingServer(authority=authority if is_tls else None) as server,
        SocksProxy() as socks,
        sending(proxy=f"{scheme}://{socks.door}", ca_bundle=authority_file) as sender,
    ):
        base_url = server.base_url.replace("127.0.0.1", "localhost")
        assert post_one(sender, server, base_url=base_url).reason is None
        assert socks.asked == [(told_host, "")]


@pytest.mark.parametrize("scheme", ["socks4", "socks5"])
def test_a_socks_proxy_is_told_an_address_of_ipv4(
    billing_server: BillingServer, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told one address alone, and this machine's order says nothing of what the proxy can reach."""
    asked_the_system = socket.getaddrinfo

    def of_both_families(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        if host != "backend.invalid":
            return asked_the_system(host, *args, **kwargs)
        return [asked_the_system(address, *args, **kwargs)[0] for address in ("::1", "127.0.0.1")]

    with SocksProxy() as socks, sending(proxy=f"{scheme}://{socks.door}") as sender:
        monkeypatch.setattr(socket, "getaddrinfo", of_both_families)
        base_url = billing_server.base_url.replace("127.0.0.1", "backend.invalid")
        assert post_one(sender, billing_server, base_url=base_url).reason is None
        assert socks.asked == [("127.0.0.1", "")]


def test_a_socks_proxy_is_told_user_and_password(billing_server: BillingServer) -> None:
    """SOCKS 5 asks for both, SOCKS 4 takes the user; a wrong password leads nowhere, and would not for the next row."""
    with SocksProxy(password="p@ss") as socks:  # noqa: S106 -- this test's own
        with sending(proxy=f"socks5h://meter:p%40ss@{socks.door}") as sender:
            assert post_one(sender, billing_server).reason is None
        with sending(proxy=f"socks4a://meter@{socks.door}") as sender:
            assert post_one(sender, billing_server, "d2").reason is None
        for user in ("meter:wrong@", ""):
            with sending(proxy=f"socks5h://{user}{socks.door}") as sender:
                assert_never_sent(post_one(sender, billing_server, "d3"), stops=True)
        assert socks.asked == [("127.0.0.1", "meter")] * 2


@pytest.mark.parametrize("scheme", ["socks4", "socks5"])
def test_a_socks_proxy_that_refuses_sends_nothing(billing_server: BillingServer, scheme: str) -> None:
    """Neither a proxy that says no nor a server that speaks no SOCKS gets a row."""
    with SocksProxy(refuses=True) as socks, sending(proxy=f"{scheme}://{socks.door}") as sender:
        assert_never_sent(post_one(sender, billing_server))
    with BillingServer() as none, sending(proxy=f"{scheme}://127.0.0.1:{none.port}", timeout_seconds=1) as sender:
        assert_never_sent(post_one(sender, billing_server))
    assert billing_server.connections == 0


def test_a_tunnel_that_begins_with_rubbish_is_none(authority: trustme.CA, authority_file: Path) -> None:
    """Nobody has anything to say in it before TLS begins."""
    with (
        BillingServer(lambda _: Answer(b"HTTP/1.1 200 OK\r\n\r\nrubbish", then=Then.TUNNEL)) as proxy,
        BillingServer(authority=authority) as server,
        sending(proxy=url_of(proxy), ca_bundle=authority_file) as sender,
    ):
        assert_never_sent(post_one(sender, server))
        assert server.received == []


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "the connection was closed before any answer"), (RIGHT.data[:-1], "the answer ended before it was whole")],
    ids=["no answer", "a part of one"],
)
def test_the_end_of_a_connection_within_tls_to_a_proxy_is_seen(
    authority: trustme.CA, authority_file: Path, data: bytes, words: str
) -> None:
    """An answer that it cuts is none, and nobody waits for the rest of it."""
    cut = Answer(data, then=Then.FIN)
    with (
        BillingServer(scripted(posts=[cut]), authority=authority) as server,
        BillingServer(forwarding, authority=authority) as proxy,
        sending(proxy=url_of(proxy), ca_bundle=authority_file, timeout_seconds=60) as sender,
    ):
        told = post_one(sender, server)
        assert (told.reason, told.exchange.error) == (Reason.IN_DOUBT, words)
        assert post_one(sender, server, "d2").reason is None


HEAD = b"HTTP/1.1 201 OK\r\nContent-Length: 2\r\n\r\n"
RECORDS = {"an answer in two": ([HEAD, b"{}"], 1), "an answer too many": ([HEAD + b"{}", HEAD + b"[]"], 2)}
"""By name, what a backend sends at once, each in a record of its own; over how many connections two rows then go."""


@pytest.mark.parametrize(("records", "connections"), RECORDS.values(), ids=RECORDS.keys())
def test_records_that_come_together_are_all_read(
    authority: trustme.CA, authority_file: Path, records: list[bytes], connections: int
) -> None:
    """Within TLS to a proxy more may have come than any socket tells of; it is no other row's answer."""
    with (
        BillingServer(forwarding, authority=authority) as proxy,
        socket.create_server(("127.0.0.1", 0)) as listener,
        ThreadPoolExecutor(1) as executor,
        sending(proxy=url_of(proxy), ca_bundle=authority_file, timeout_seconds=5) as sender,
    ):
        base_url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        served = executor.submit(_serve_in_records, listener, authority, records, connections=connections)
        for device_id in ("d1", "d2"):
            sender.start(device_id, post_to(base_url, device_id))
            exchange = ended(sender)[device_id]
            assert (exchange.http_status, exchange.body, exchange.error) == (201, b"{}", "")
        sender.close()
        assert served.result() == 2


def _serve_in_records(listener: socket.socket, authority: trustme.CA, records: list[bytes], *, connections: int) -> int:
    """Answer every request of some connections over TLS with the same records; tell how many requests there were."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    requests = 0
    for _ in range(connections):
        came, goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(came, goes, server_side=True)
        with listener.accept()[0] as connection:
            is_shaken = False
            while data := connection.recv(65536):
                came.write(data)
                with contextlib.suppress(ssl.SSLWantReadError):
                    if not is_shaken:
                        tls.do_handshake()
                        is_shaken = True
                    if tls.read(65536):
                        requests += 1
                        for record in records:
                            tls.write(record)
                connection.sendall(goes.read())
    return requests


def test_a_tunnel_may_be_announced(authority: trustme.CA, authority_file: Path) -> None:
    """An interim answer to CONNECT, and the final one in the same packet."""
    both = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    with (
        BillingServer(lambda _: Answer(both, then=Then.TUNNEL)) as proxy,
        BillingServer(authority=authority) as server,
        sending(proxy=url_of(proxy), ca_bundle=authority_file, timeout_seconds=5) as sender,
    ):
        assert post_one(sender, server).reason is None


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
    """The route settled at the start holds: what the environment says of proxies later is not asked."""
    with refusing_port() as port:
        direct = settle_route(billing_server.base_url, carries_key=False)
        with monkeypatch.context() as environment:
            for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
                environment.setenv(name, f"http://127.0.0.1:{port}")
            with sending(proxy=direct.proxy, ca_bundle=direct.ca_bundle) as sender:
                assert post_one(sender, billing_server, "direct").reason is None
    assert proxy.received == []
    monkeypatch.setenv("http_proxy", url_of(proxy))
    proxied = settle_route(billing_server.base_url, carries_key=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "*")
    with sending(proxy=proxied.proxy, ca_bundle=proxied.ca_bundle) as sender:
        assert post_one(sender, billing_server, "proxied").reason is None
    assert len(proxy.received) == 1
