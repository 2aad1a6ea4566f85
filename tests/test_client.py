"""``post_meter_usage`` and ``MeterClient``: one call at a time, over `requests`."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests.utils
import trustme

import uploader
from tests.billing_answers import Answer, Then, cut, endless, reply
from tests.billing_contract import BilledRow, contract, dying_when_reused, forwarding, scripted
from tests.billing_server import BillingServer
from tests.dead_ports import refusing_port, silent_port
from tests.socks_proxy import SocksProxy
from uploader.model.errors import SettingsError
from uploader.sender.client import MeterClient, post_meter_usage
from uploader.sender.route import Route, settle_route

pytestmark = pytest.mark.usefixtures("plain_environment")

EVENT = ("acme", "d1", "calls", 7)
ROW = BilledRow(*EVENT)
EVT = {"id": "evt_1", "status": "recorded"}


@pytest.fixture
def client(billing_server: BillingServer) -> Iterator[MeterClient]:
    """Make a client of the billing server."""
    with MeterClient(base_url=billing_server.base_url) as client:
        yield client


@pytest.fixture
def proxy() -> Iterator[BillingServer]:
    """Start a proxy that forwards."""
    with BillingServer(forwarding) as server:
        yield server


def url_of(proxy: BillingServer) -> str:
    """Give a proxy's URL."""
    return proxy.base_url.removesuffix("/api/v1")


def test_an_event_is_recorded_and_the_answer_returned(billing_server: BillingServer, client: MeterClient) -> None:
    """The tenant is looked up, the event posted once, and the backend's JSON returned."""
    assert client.post_meter_usage(*EVENT) == {"id": "evt_1", "status": "recorded"}
    look_up, post = billing_server.received
    assert (look_up.method, look_up.path) == ("GET", "/api/v1/customer-accounts/tenant/acme")
    assert post.body == b'{"meter_id": "calls", "total_usage": 7, "customer_id": "cus_acme"}'
    assert billing_server.billed() == {ROW: 1}
    assert not {"authorization", "cookie", "x-request-id"} & set(post.headers)


def test_session_and_customers_are_kept(billing_server: BillingServer, client: MeterClient) -> None:
    """Many events go over one connection, with one look-up a tenant."""
    for number in range(10):
        assert client.post_meter_usage(f"t{number % 2}", "d1", "calls", number)
    assert client.customer_id("t0") == "cus_t0"
    assert (billing_server.connections, len(billing_server.look_ups), len(billing_server.posts)) == (1, 2, 10)


LOOK_UPS_THAT_FAIL = {
    "unknown": reply(404),
    "empty list": reply(200, []),
    "no id": reply(200, [{"name": "acme"}]),
    "not JSON": reply(200, b"<html>"),
    "a number": reply(200, b"417"),
    "nesting deeper than Python": reply(200, b"[" * 60_000),
    "500": reply(500, [{"id": "cus_1"}]),
    "no answer": Answer(then=Then.RST),
    "cut": cut(reply(200, [{"id": "cus_1"}]), after_bytes=50),
}


@pytest.mark.parametrize("answer", LOOK_UPS_THAT_FAIL.values(), ids=LOOK_UPS_THAT_FAIL.keys())
def test_a_failed_look_up_is_none_and_asked_again(
    billing_server: BillingServer, client: MeterClient, answer: Answer
) -> None:
    """Nothing is posted without a customer; the next event of the tenant asks anew."""
    billing_server.respond = scripted(look_ups=[answer])
    assert client.post_meter_usage(*EVENT) is None
    assert billing_server.posts == []
    assert client.post_meter_usage(*EVENT) is not None
    assert len(billing_server.look_ups) == 2


POSTS_THAT_FAIL = {
    "400": reply(400, EVT),
    "429": reply(429, EVT, {"Retry-After": "0"}),
    "500": reply(500, EVT),
    "503": reply(503, EVT, {"Retry-After": "0"}),
    "304": reply(304),
    "empty": reply(201),
    "a list": reply(201, [EVT]),
    "not JSON": reply(201, b"<html>"),
    "end": Answer(then=Then.FIN),
    "reset": Answer(then=Then.RST),
    "cut": cut(reply(201, EVT), after_bytes=60),
}


@pytest.mark.parametrize("answer", POSTS_THAT_FAIL.values(), ids=POSTS_THAT_FAIL.keys())
def test_a_failed_post_is_none_and_said_in_the_log(
    billing_server: BillingServer,
    client: MeterClient,
    answer: Answer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Any answer but a 2xx with an object, and none at all, is None; the event was sent once, and the log says why."""
    billing_server.respond = scripted(posts=[answer])
    with caplog.at_level(logging.WARNING, logger="uploader"):
        assert client.post_meter_usage(*EVENT) is None
    assert len(billing_server.posts) == 1
    assert f"POST {billing_server.base_url}/events" in caplog.text


def test_an_event_over_a_dying_connection_is_sent_once(billing_server: BillingServer, client: MeterClient) -> None:
    """`requests` does not send again either when a kept connection dies."""
    billing_server.respond = dying_when_reused
    assert client.post_meter_usage(*EVENT) is None
    assert billing_server.billed() == {ROW: 1}


def test_nobody_there_is_none() -> None:
    """A refused connection and a backend that does not answer in time are None."""
    with refusing_port() as port, MeterClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.post_meter_usage(*EVENT) is None
    with (
        silent_port() as port,
        MeterClient(base_url=f"http://127.0.0.1:{port}", timeout_seconds=0.2) as client,
    ):
        assert client.post_meter_usage(*EVENT) is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(billing_server: BillingServer, client: MeterClient, status: int) -> None:
    """A redirect is None, of a look-up and of a post, and the server it names hears nothing."""
    with BillingServer() as other:
        to_events = reply(status, b"", {"Location": f"{other.base_url}/events"})
        to_customer = reply(status, b"", {"Location": f"{other.base_url}/customer-accounts/tenant/acme"})
        billing_server.respond = scripted(posts=[to_events], look_ups=[to_customer])
        assert client.post_meter_usage(*EVENT) is None
        assert client.post_meter_usage(*EVENT) is None
        assert (len(billing_server.look_ups), len(billing_server.posts)) == (2, 1)
        assert other.connections == 0


VALUES_THAT_CANNOT_BE_SENT: list[tuple[Any, Any, Any, Any]] = [
    ("", "d1", "calls", 7),
    (".", "d1", "calls", 7),
    ("..", "d1", "calls", 7),
    ("acme\r\nX-Evil: 1", "d1", "calls", 7),
    ("acmé", "d1", "calls", 7),
    ("acme", "", "calls", 7),
    ("acme", "d 1", "calls", 7),
    ("acme", 1, "calls", 7),
    ("acme", "d1", "", 7),
    ("acme", "d1", None, 7),
    ("acme", "d1", "calls", 7.5),
    ("acme", "d1", "calls", "7"),
    ("acme", "d1", "calls", True),
]


@pytest.mark.parametrize("event", VALUES_THAT_CANNOT_BE_SENT)
def test_values_that_cannot_be_sent_are_errors(
    billing_server: BillingServer, client: MeterClient, event: tuple[Any, Any, Any, Any]
) -> None:
    """A caller's mistake is a ValueError, before anything is sent."""
    with pytest.raises(ValueError, match=r"^(tenant_id|device_id|meter_id|total_usage): "):
        client.post_meter_usage(*event)
    assert billing_server.connections == 0


@pytest.mark.parametrize("tenant_id", ["", ".", "..", "a b", "acme\r\nX-Evil: 1", "acmé", "日"])
def test_a_tenant_that_cannot_be_sent_is_not_looked_up(billing_server: BillingServer, tenant_id: str) -> None:
    """The look-up alone has the same rule, with and without a key."""
    for api_key in (None, "secret"):
        with (
            MeterClient(base_url=billing_server.base_url, api_key=api_key) as client,
            pytest.raises(ValueError, match=r"^tenant_id: "),
        ):
            client.customer_id(tenant_id)
    assert billing_server.connections == 0


@pytest.mark.parametrize("api_key", [None, "secret"])
def test_netrc_does_not_replace_the_key(
    billing_server: BillingServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, api_key: str | None
) -> None:
    """Both calls carry the bearer key, or no key, whatever a .netrc says of the host."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    with MeterClient(base_url=billing_server.base_url, api_key=api_key) as client:
        assert client.post_meter_usage(*EVENT) is not None
    expected = "Bearer secret" if api_key else None
    assert [request.headers.get("authorization") for request in billing_server.received] == [expected] * 2
    assert billing_server.look_ups[0].headers.get("x-tenant-id") == ("acme" if api_key else None)


def test_a_plain_call_goes_through_the_environments_proxy(
    billing_server: BillingServer, proxy: BillingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``http_proxy`` is honoured as it stood when the client was made, and so is ``NO_PROXY``."""
    monkeypatch.setenv("http_proxy", url_of(proxy))
    with MeterClient(base_url=billing_server.base_url) as client:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert client.post_meter_usage(*EVENT) is not None
    assert [request.path for request in proxy.received] == [
        f"{billing_server.base_url}/customer-accounts/tenant/acme",
        f"{billing_server.base_url}/events",
    ]
    with MeterClient(base_url=billing_server.base_url) as client:
        assert client.post_meter_usage(*EVENT) is not None
    assert len(proxy.received) == 2


def test_tls_with_the_environments_certificates_and_proxy(
    authority: trustme.CA, authority_file: Path, proxy: BillingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``REQUESTS_CA_BUNDLE`` is honoured, also through a tunnel, and without it the certificate is refused."""
    with BillingServer(authority=authority) as server:
        with MeterClient(base_url=server.base_url) as client:
            assert client.post_meter_usage(*EVENT) is None
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority_file))
        with MeterClient(base_url=server.base_url) as client:
            assert client.post_meter_usage(*EVENT) is not None
        monkeypatch.setenv("https_proxy", url_of(proxy))
        with MeterClient(base_url=server.base_url, api_key="secret") as client:
            assert client.post_meter_usage(*EVENT) is not None
        assert server.billed() == {ROW: 2}
    assert [request.method for request in proxy.received] == ["CONNECT"]
    assert "authorization" not in proxy.received[0].headers


@pytest.mark.parametrize(
    ("environment", "base_url", "proxy_url"),
    [
        ({"no_proxy": "*"}, "http://backend.example", ""),
        ({"http_proxy": "http://p:3128"}, "http://backend.example", "http://p:3128"),
        ({"HTTP_PROXY": "http://p:3128"}, "http://backend.example", "http://p:3128"),
        ({"http_proxy": "p:3128"}, "http://backend.example", "http://p:3128"),
        ({"http_proxy": "10.0.0.1:3128"}, "http://backend.example", "http://10.0.0.1:3128"),
        ({"http_proxy": "http://u:x%40y@p:3128"}, "http://backend.example", "http://u:x%40y@p:3128"),
        ({"http_proxy": ""}, "http://backend.example", ""),
        ({"http_proxy": "http://p:3128"}, "https://backend.example", ""),
        ({"https_proxy": "http://p:3128"}, "https://backend.example", "http://p:3128"),
        ({"all_proxy": "socks5h://p:1080"}, "https://backend.example", "socks5h://p:1080"),
        ({"http_proxy": "http://p:1", "no_proxy": "other"}, "http://backend.example", "http://p:1"),
        ({"http_proxy": "http://p:1", "no_proxy": "backend.example"}, "http://backend.example", ""),
        ({"http_proxy": "http://p:1", "no_proxy": ".example"}, "http://backend.example:8000", ""),
        ({"http_proxy": "http://p:1", "NO_PROXY": "10.0.0.0/8"}, "http://10.1.2.3", ""),
        ({"http_proxy": "http://p:1", "NO_PROXY": "*"}, "http://backend.example", ""),
    ],
)
def test_the_proxy_is_settled_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], base_url: str, proxy_url: str
) -> None:
    """The run and the client take the proxy that `requests` would, without a scheme too."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert settle_route(base_url, carries_key=False) == Route(
        proxy=proxy_url, ca_bundle=requests.utils.DEFAULT_CA_BUNDLE_PATH
    )


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h"])
def test_a_call_goes_through_a_socks_proxy_as_those_of_a_run_do(
    monkeypatch: pytest.MonkeyPatch, billing_server: BillingServer, scheme: str
) -> None:
    """One setting of the environment holds for both."""
    with SocksProxy() as socks:
        monkeypatch.setenv("all_proxy", f"{scheme}://{socks.door}")
        with MeterClient(base_url=billing_server.base_url) as client:
            client.post_meter_usage(*EVENT)
        assert [host for host, _ in socks.asked] == ["127.0.0.1"]
    assert billing_server.billed() == {ROW: 1}


def test_a_key_does_not_cross_the_network_in_plain_text_to_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key, plain http to the cluster is refused through a proxy elsewhere, and taken through one here."""
    base_url = "http://metering.metering.svc:8000/api/v1"
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    with pytest.raises(SettingsError, match="proxy"):
        MeterClient(base_url=base_url, api_key="secret")
    MeterClient(base_url=base_url).close()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:3128")
    MeterClient(base_url=base_url, api_key="secret").close()


@pytest.mark.parametrize(
    "proxy",
    [
        "http://user:hunter2@127.0.0.1:99999",
        "http://user:hunter2@127.0.0.1:0",
        "http://user:hunter2@bad host:1",
        "http://user:hunter2@",
        "http://user:hun#ter2@proxy.example:3128",
        "http://user:hun/ter2@proxy.example:3128",
        "http://user:hunter2\u00e4@proxy.example:3128",
        "http://user:hunter2@[::1",
        "ftp://user:hunter2@proxy.example:21",
    ],
)
@pytest.mark.parametrize("base_url", ["http://backend.example", "https://backend.example"])
def test_a_proxy_that_is_no_url_is_refused_and_its_password_not_repeated(
    monkeypatch: pytest.MonkeyPatch, base_url: str, proxy: str
) -> None:
    """Else each row would fail by it, with the password in the results."""
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(SettingsError, match="the proxy that the environment names") as refusal:
        settle_route(base_url, carries_key=False)
    assert "ter2" not in f"{refusal.value} {refusal.value.remedy}"


def test_an_answer_that_does_not_end_is_given_up(billing_server: BillingServer) -> None:
    """The client reads so much of an answer and no more: it gives None."""
    billing_server.respond = lambda got: endless("chunked") if got.method == "POST" else contract(got)
    with MeterClient(base_url=billing_server.base_url) as client:
        assert client.post_meter_usage(*EVENT) is None
    assert len(billing_server.posts) == 1


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_certificates_are_settled_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """A file or a folder is taken as it is; one that is missing is refused where TLS would need it."""
    monkeypatch.setenv(name, str(tmp_path))
    assert settle_route("https://backend.example", carries_key=False).ca_bundle == str(tmp_path)
    missing = tmp_path / "missing.pem"
    monkeypatch.setenv(name, str(missing))
    with pytest.raises(SettingsError, match=r"missing\.pem") as refusal:
        MeterClient(base_url="https://backend.example")
    assert "REQUESTS_CA_BUNDLE" in refusal.value.remedy
    assert settle_route("http://backend.example", carries_key=False).proxy == ""


def test_the_function_takes_backend_and_key_from_the_environment(
    billing_server: BillingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``post_meter_usage`` is the client's, for the backend of ``UPLOADER_BASE_URL``, and keeps nothing open."""
    monkeypatch.setenv("UPLOADER_BASE_URL", billing_server.base_url + "/")
    assert post_meter_usage(*EVENT) == {"id": "evt_1", "status": "recorded"}
    monkeypatch.setenv("UPLOADER_API_KEY", "secret")
    assert post_meter_usage(tenant_id="t2", device_id="d1", meter_id="calls", total_usage=0) is not None
    keys = [post.headers.get("authorization") for post in billing_server.posts]
    assert keys == [None, "Bearer secret"]
    assert billing_server.connections == 2
    monkeypatch.setenv("UPLOADER_BASE_URL", "nonsense")
    with pytest.raises(SettingsError):
        post_meter_usage(*EVENT)


def test_the_function_reads_the_key_from_a_file(
    billing_server: BillingServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """``UPLOADER_API_KEY_FILE`` goes before ``UPLOADER_API_KEY``, as it does for the command."""
    (tmp_path / "key").write_text("of-the-file\n")
    monkeypatch.setenv("UPLOADER_BASE_URL", billing_server.base_url)
    monkeypatch.setenv("UPLOADER_API_KEY", "of-the-variable")
    monkeypatch.setenv("UPLOADER_API_KEY_FILE", str(tmp_path / "key"))
    assert post_meter_usage(*EVENT) is not None
    assert {got.headers.get("authorization") for got in billing_server.received} == {"Bearer of-the-file"}


def test_the_package_offers_the_client_and_imports_it_late() -> None:
    """``from uploader import post_meter_usage`` works, and ``import uploader`` alone does not wait for `requests`."""
    assert (uploader.post_meter_usage, uploader.MeterClient) == (post_meter_usage, MeterClient)
    with pytest.raises(AttributeError):
        getattr(uploader, "post_metre_usage")  # noqa: B009 -- mypy would see that it is missing
    code = "import sys, uploader; sys.exit('requests' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
