"""The published client, meter-lib 0.0.3, and ours: the same calls and answers, against the same servers.

Each call is made in a process of its own in which the one host name that meter-lib knows leads to a server
of the test; the library itself is as it was published.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.billing_contract import Received
from tests.billing_server import BillingServer
from uploader.sandbox.sandbox import SandboxProcess
from uploader.sandbox.sandbox_backend import SandboxSettings

Event = tuple[str, str, str, int]
"""tenant_id, device_id, meter_id, total_usage"""

ROOT = Path(__file__).parent.parent
CASES = [
    ("acme", "dev-1", "pages.processed.rate.hourly", 24),
    ("00417", "00001", "api.calls", 0),
    ("tenant+1@example.com", "a=b&c;d,e", 'mètre "à" café \\ <x>', 9_223_372_036_854_775_807),
]

# The port is mapped with the name, so that 8000 need not be free.
CALL = """
import importlib, json, socket, sys
genuine = socket.getaddrinfo
def getaddrinfo(host, port, *rest, **named):
    if (host, port) == ("metering.metering.svc.cluster.local", 8000):
        host, port = sys.argv[2], int(sys.argv[3])
    return genuine(host, port, *rest, **named)
socket.getaddrinfo = getaddrinfo
answer = importlib.import_module(sys.argv[1]).post_meter_usage(*json.loads(sys.argv[4]))
print()
print(json.dumps(answer))
"""


@dataclass(frozen=True, slots=True)
class Client:
    """A module with a ``post_meter_usage``, and the folder it is imported from."""

    module: str
    folder: Path


OURS = Client("uploader.sender.client", ROOT)


@pytest.fixture(scope="module")
def meter_lib(tmp_path_factory: pytest.TempPathFactory) -> Client:
    """Install meter-lib 0.0.3 into a folder of its own; without a package index the tests are skipped."""
    folder = tmp_path_factory.mktemp("meter_lib")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    try:
        pip = subprocess.run(
            [*install, "--target", folder, "meter-lib==0.0.3"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("meter-lib 0.0.3 cannot be installed: pip did not end within 60 s")
    if pip.returncode != 0:
        pytest.skip(f"meter-lib 0.0.3 cannot be installed: {pip.stderr.strip().splitlines()[-1:]}")
    return Client("meter_lib", folder)


@pytest.fixture(params=["meter_lib", "ours"])
def client(request: pytest.FixtureRequest) -> Client:
    """Choose whose ``post_meter_usage`` is called; ours needs no package index."""
    chosen: Client = OURS if request.param == "ours" else request.getfixturevalue("meter_lib")
    return chosen


def call(client: Client, event: Event, *, base_url: str) -> Any:
    """Return what a client's ``post_meter_usage`` returns."""
    address = urlsplit(base_url)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UPLOADER_")}
    # No proxy: the name leads to this machine only within the process.
    environment |= {"PYTHONPATH": str(client.folder), "NO_PROXY": "*", "no_proxy": "*"}
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            CALL,
            client.module,
            str(address.hostname),
            str(address.port),
            json.dumps(event),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def on_the_wire(client: Client, event: Event) -> list[Received]:
    """Return every request, as it arrived, that one call of ``post_meter_usage`` makes."""
    with BillingServer() as server:
        call(client, event, base_url=server.base_url)
        return server.received


@pytest.mark.parametrize("event", CASES)
def test_meter_lib_sends_what_the_contract_says(event: Event, meter_lib: Client) -> None:
    """meter-lib looks the tenant up and posts one event, in the form that the contract was taken from."""
    tenant_id, device_id, meter_id, total_usage = event
    look_up, post = on_the_wire(meter_lib, event)
    assert look_up.raw_head.startswith(b"GET /api/v1/customer-accounts/tenant/")
    assert look_up.tenant_id == tenant_id
    assert look_up.body == b""
    assert post.raw_head.startswith(b"POST /api/v1/events HTTP/1.1\r\n")
    assert post.headers["x-tenant-id"] == tenant_id
    assert post.headers["x-device-id"] == device_id
    assert post.headers["content-type"] == "application/json"
    assert post.event == {"meter_id": meter_id, "total_usage": total_usage, "customer_id": f"cus_{tenant_id}"}


@pytest.mark.parametrize("event", CASES)
def test_our_client_sends_what_meter_lib_sends(event: Event, meter_lib: Client) -> None:
    """Our ``post_meter_usage`` makes meter-lib's requests: same lines, ids and body, no header it lacks."""
    theirs = on_the_wire(meter_lib, event)
    ours = on_the_wire(OURS, event)
    assert [request.method for request in ours] == [request.method for request in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert our.body == their.body
        assert set(our.headers) <= set(their.headers)
        for name in ("host", "x-tenant-id", "x-device-id", "content-type", "content-length"):
            assert our.headers.get(name) == their.headers.get(name)
    assert ours[0].tenant_id == theirs[0].tenant_id
    assert ours[1].path == theirs[1].path


def test_paths_are_the_same_for_ids_that_need_no_encoding(meter_lib: Client) -> None:
    """The look-up's path is meter-lib's, byte for byte, for an id of unreserved characters (RFC 3986 2.3)."""
    event = ("Acme-00_7.~x", "dev-1", "api.calls", 1)
    theirs, ours = (on_the_wire(client, event)[0] for client in (meter_lib, OURS))
    assert ours.path == theirs.path == "/api/v1/customer-accounts/tenant/Acme-00_7.~x"


@pytest.mark.parametrize("event", CASES)
def test_an_accepted_event_is_answered_and_recorded(event: Event, client: Client) -> None:
    """The client returns the sandbox's JSON, and the sandbox has recorded the one event and one look-up."""
    with SandboxProcess(SandboxSettings()) as sandbox:
        answer = call(client, event, base_url=sandbox.base_url)
        recorded = sandbox.recorded()
    assert answer == {"id": "evt_00000001", "status": "recorded"}
    assert (recorded.look_ups, recorded.events, recorded.units) == (1, 1, event[3])


@pytest.mark.parametrize(
    ("event", "settings", "events_recorded"),
    [
        (("unknown-customer", "dev-1", "api.calls", 3), SandboxSettings(), 0),
        (("acme", "dev-1", "forbidden.meter", 3), SandboxSettings(), 0),
        (CASES[0], SandboxSettings(fail_with_503=1), 0),
        (CASES[0], SandboxSettings(fail_with_500=1), 0),
        (CASES[0], SandboxSettings(drop=1), 1),
    ],
    ids=["unknown tenant", "forbidden meter", "503", "500", "no answer"],
)
def test_a_failed_event_is_none(
    event: Event,
    settings: SandboxSettings,
    events_recorded: int,
    client: Client,
) -> None:
    """The client returns None for every failure, and has sent the event no second time."""
    with SandboxProcess(settings) as sandbox:
        answer = call(client, event, base_url=sandbox.base_url)
        recorded = sandbox.recorded()
    assert answer is None
    assert (recorded.look_ups, recorded.events) == (1, events_recorded)
