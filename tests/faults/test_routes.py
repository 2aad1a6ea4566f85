"""The way to the backend is wrong, or leads through a proxy: held against what each server on the way received."""

from __future__ import annotations

from collections import Counter
from itertools import repeat
from pathlib import Path

import pytest
import trustme

from tests.billing_answers import drip, reply
from tests.billing_contract import contract, forwarding, scripted
from tests.billing_server import BillingServer
from tests.command import Ended, cells, read_rows
from tests.dead_ports import full_port, refusing_port, silent_port
from tests.faults.scene import NewScene, results_of
from tests.faults.tally import Extent

KEY = "sk-secret-1"
IMPATIENT = ("--timeout", "0.5", "--retries", "0", "--patience", "0")
WRONG_SET_UP = 3


def the_outcomes(done: Ended) -> set[tuple[str, str]]:
    """Give the reasons and replay words of all rows."""
    results = results_of(done)
    assert results, done.said
    rows = read_rows(results)
    return set(zip(cells(rows, "upload_reason"), cells(rows, "upload_replay"), strict=True))


def test_a_backend_that_cannot_be_reached_costs_no_row(new_scene: NewScene, extent: Extent) -> None:
    """Connections time out, TLS hangs, nobody listens or answers: nothing is in doubt, all rows may be sent again."""
    dead_ends = [("http", full_port), ("https", silent_port), ("http", refusing_port), ("http", silent_port)]
    for scheme, port in extent.of(short=dead_ends[:2], full=dead_ends):
        with new_scene() as scene, port() as number:
            scene.options = ("--base-url", f"{scheme}://127.0.0.1:{number}/api/v1", *IMPATIENT)
            done = scene.upload()
            assert done.exit_code in (1, 3)
            assert {replay for _, replay in the_outcomes(done)} == {"yes"}


def test_a_row_does_not_time_out_while_it_waits_for_its_turn(new_scene: NewScene) -> None:
    """The time-out is for an exchange, not for the time before it: all these answers take longer than one may."""
    with new_scene(rows=40, concurrency=1) as scene:
        scene.options = ("--timeout", "3")
        scene.respond = lambda received: drip(contract(received), pause_seconds=0.0012)
        assert scene.upload().exit_code == 0
        scene.check_settled()


def test_a_wrong_authority_stops_the_run(
    new_scene: NewScene, authority: trustme.CA, authority_file: Path, tmp_path: Path, extent: Extent
) -> None:
    """A certificate of an unknown authority: nothing is sent; with the right bundle, the same command goes on."""
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    bundle = {"REQUESTS_CA_BUNDLE": str(other)}
    with new_scene(authority=authority) as scene:
        for variables in extent.of(short=[bundle], full=[bundle, {}]):
            scene.variables = {"UPLOADER_API_KEY": KEY, **variables}
            done = scene.upload()
            assert done.exit_code == WRONG_SET_UP
            assert the_outcomes(done) == {("not_sent", "yes")}
            assert not scene.server.received
        scene.variables = {"UPLOADER_API_KEY": KEY, "REQUESTS_CA_BUNDLE": str(authority_file)}
        scene.settle()
        assert {request.headers["authorization"] for request in scene.server.received} == {f"Bearer {KEY}"}


def test_a_wrong_door_stops_the_run(
    new_scene: NewScene, authority: trustme.CA, authority_file: Path, extent: Extent
) -> None:
    """Nothing is sent to a server that is not who it should be, or does not speak TLS as it should."""
    doors = [("https", authority, "backend.example"), ("https", None, "127.0.0.1"), ("http", authority, "127.0.0.1")]
    for scheme, known_by, name in extent.of(short=doors[:2], full=doors):
        with BillingServer(authority=known_by, names=(name,)) as door, new_scene() as scene:
            scene.options = ("--base-url", f"{scheme}://127.0.0.1:{door.port}/api/v1", *IMPATIENT)
            scene.variables = {"REQUESTS_CA_BUNDLE": str(authority_file)}
            done = scene.upload()
            assert done.exit_code in (1, 3)
            assert {replay for _, replay in the_outcomes(done)} == {"yes"}
            assert not door.received


def test_a_proxy_that_refuses_gets_no_key_and_no_row(
    new_scene: NewScene, authority: trustme.CA, authority_file: Path
) -> None:
    """A refused CONNECT is a request that was never sent; the proxy has seen the backend's address alone."""
    with BillingServer(lambda _: reply(407)) as proxy, new_scene(authority=authority) as scene:
        scene.options = IMPATIENT
        scene.variables = {
            "UPLOADER_API_KEY": KEY,
            "REQUESTS_CA_BUNDLE": str(authority_file),
            "https_proxy": f"http://127.0.0.1:{proxy.port}",
        }
        done = scene.upload()
        assert done.exit_code in (1, 3)
        assert {replay for _, replay in the_outcomes(done)} == {"yes"}
        assert {request.method for request in proxy.received} == {"CONNECT"}
        for request in proxy.received:
            assert KEY.encode() not in request.raw_head
            assert "x-tenant-id" not in request.headers
        assert not scene.server.received
        del scene.variables["https_proxy"]
        scene.settle()


PROXIES = [
    (False, {"http_proxy": "http://{proxy}"}, True),
    (False, {"http_proxy": "http://{proxy}", "NO_PROXY": "127.0.0.1"}, False),
    (True, {"https_proxy": "http://{proxy}"}, True),
    (True, {"HTTPS_PROXY": "http://{proxy}", "NO_PROXY": "127.0.0.1"}, False),
    (False, {"http_proxy": "{proxy}"}, True),
    (False, {"all_proxy": "http://{proxy}"}, True),
    (False, {"https_proxy": "http://{proxy}"}, False),
    (False, {"http_proxy": "http://{proxy}", "no_proxy": "127.0.0.0/8"}, False),
    (False, {"http_proxy": "http://{proxy}", "NO_PROXY": "elsewhere.example"}, True),
]
"""Whether the backend speaks TLS, the variables, and whether the calls then go through the proxy."""


def test_proxies_are_for_look_ups_and_posts_alike(
    new_scene: NewScene, authority: trustme.CA, authority_file: Path, extent: Extent
) -> None:
    """What the environment says of proxies and of certificates holds for all calls, or for none."""
    for is_tls, variables, goes_through in extent.of(short=PROXIES[1:4], full=PROXIES):
        with BillingServer(forwarding) as proxy, new_scene(rows=6, authority=authority if is_tls else None) as scene:
            address = f"127.0.0.1:{proxy.port}"
            scene.variables = {name: value.format(proxy=address) for name, value in variables.items()}
            scene.variables["REQUESTS_CA_BUNDLE"] = str(authority_file)
            assert scene.upload().exit_code == 0, variables
            scene.check_settled()
            assert len(scene.server.look_ups) == 3
            methods = Counter(request.method for request in proxy.received)
            if not goes_through:
                assert not methods, variables
            elif is_tls:
                assert set(methods) == {"CONNECT"}, variables
            else:
                assert methods == {"GET": 3, "POST": 6}, variables


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_redirect_takes_nothing_to_another_host(new_scene: NewScene, extent: Extent, method: str) -> None:
    """No connection is made to where a redirect points: no key, no tenant, no row goes there; and the run stops."""
    for status in extent.of(short=[307], full=[301, 302, 303, 307, 308]):
        with BillingServer() as elsewhere, new_scene() as scene:
            away = reply(status, headers={"Location": elsewhere.base_url})
            scene.respond = scripted(posts=repeat(away)) if method == "POST" else scripted(look_ups=repeat(away))
            scene.variables = {"UPLOADER_API_KEY": KEY}
            assert scene.upload().exit_code == WRONG_SET_UP
            assert elsewhere.connections == 0
