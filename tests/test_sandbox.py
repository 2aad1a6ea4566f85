"""The sandbox keeps the backend's contract, misbehaves as ordered, and ends when it should."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import math
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from uploader.model.errors import SettingsError, StoppedError
from uploader.sandbox.sandbox import SandboxProcess
from uploader.sandbox.sandbox_backend import Recorded, SandboxSettings
from uploader.sandbox.sandboxed import sandboxed

ROOT = Path(__file__).parent.parent
HEADERS = {"x-tenant-id": "acme", "x-device-id": "dev-1", "Content-Type": "application/json"}
NOTHING = Recorded(look_ups=0, look_ups_by_tenant={}, events=0, units=0, repeated_request_ids={})


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def content(self) -> Any:
        """What the body's JSON says."""
        return json.loads(self.text)


def connect(sandbox: SandboxProcess) -> http.client.HTTPConnection:
    """Make a connection that is opened by its first request and kept."""
    return http.client.HTTPConnection(urlsplit(sandbox.base_url).netloc, timeout=20)


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    body: bytes | None = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Send one request, the target as it stands, and read the answer."""
    connection.request(method, target, body, dict(headers or {}))
    response = connection.getresponse()
    return Answer(response.status, dict(response.headers), response.read().decode())


def event_body(customer_id: str, *, meter_id: str = "api.calls", total_usage: int = 3) -> bytes:
    """Write the body of a right POST."""
    return json.dumps({"meter_id": meter_id, "total_usage": total_usage, "customer_id": customer_id}).encode()


def customer_of(connection: http.client.HTTPConnection, tenant_id: str = "acme") -> str:
    """Look the customer of a tenant up whose id needs no percent-encoding."""
    answer = ask(connection, "GET", f"/api/v1/customer-accounts/tenant/{tenant_id}")
    return str(answer.content[0]["id"])


def is_closed(sock: socket.socket) -> bool:
    """Wait until the other side closes, or TimeoutError."""
    with contextlib.suppress(ConnectionResetError):
        return sock.recv(1) == b""
    return True


def post(connection: http.client.HTTPConnection, body: bytes, **headers: str) -> Answer:
    """Post an event of tenant acme; ``headers`` with _ for -."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return ask(connection, "POST", "/api/v1/events", body, headers=HEADERS | more)


@pytest.fixture(scope="module")
def shared() -> Iterator[SandboxProcess]:
    """Run a sandbox without faults for all tests that record nothing."""
    with SandboxProcess(SandboxSettings()) as process:
        yield process


@pytest.fixture
def to_shared(shared: SandboxProcess) -> Iterator[http.client.HTTPConnection]:
    """Make a connection to the shared sandbox."""
    with contextlib.closing(connect(shared)) as opened:
        yield opened


@pytest.fixture
def sandbox() -> Iterator[SandboxProcess]:
    """Run a fresh sandbox without faults."""
    with SandboxProcess(SandboxSettings()) as process:
        yield process


@pytest.fixture
def connection(sandbox: SandboxProcess) -> Iterator[http.client.HTTPConnection]:
    """Make a connection to the fresh sandbox."""
    with contextlib.closing(connect(sandbox)) as opened:
        yield opened


def test_look_up_gives_each_tenant_a_customer_of_its_own(to_shared: http.client.HTTPConnection) -> None:
    """A look-up answers a list with one account, whose id is the same each time and no other tenant's."""
    answer = ask(to_shared, "GET", "/api/v1/customer-accounts/tenant/acme")
    (account,) = answer.content
    assert answer.status == 200
    assert account["tenant_id"] == "acme"
    assert re.fullmatch("cus_[0-9a-f]{12}", account["id"])
    assert customer_of(to_shared) == account["id"]
    assert customer_of(to_shared, "acme2") != account["id"]


def test_look_up_of_an_unknown_tenant_is_an_empty_list(to_shared: http.client.HTTPConnection) -> None:
    """A tenant whose id begins with "unknown" has no customer."""
    answer = ask(to_shared, "GET", "/api/v1/customer-accounts/tenant/unknown-7")
    assert (answer.status, answer.content) == (200, [])


@pytest.mark.parametrize(
    ("target", "tenant_id"),
    [("a%2Fb", "a/b"), ("a%252Fb", "a%2Fb"), ("%3F%23%25", "?#%"), ("a?b", "a"), ("a+b", "a+b")],
)
def test_look_up_reads_the_path_as_it_was_sent(
    target: str, tenant_id: str, to_shared: http.client.HTTPConnection
) -> None:
    """A percent-encoded tenant id is decoded once, whatever characters it has."""
    answer = ask(to_shared, "GET", f"/api/v1/customer-accounts/tenant/{target}")
    assert [account["tenant_id"] for account in answer.content] == [tenant_id]


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/api/v1/customer-accounts/tenant/a/b", 404),
        ("GET", "/api/v1/customer-accounts/tenant/", 404),
        ("GET", "/api%2Fv1/customer-accounts/tenant/acme", 404),
        ("GET", "/api/v1/event", 404),
        ("GET", "/api/v1/events", 405),
        ("POST", "/api/v1/customer-accounts/tenant/acme", 405),
        ("POST", "/api/v1/events/", 404),
        ("GET", "/api/v1/sandbox/recorded?limit=x", 400),
        ("GET", "/api/v1/sandbox/recorded?limit=-1", 400),
        ("GET", "/api/v1/sandbox/recorded?limit=10001", 400),
        ("GET", "/api/v1/sandbox/recorded?offset=-1", 400),
    ],
)
def test_other_requests_are_refused(
    method: str, target: str, status: int, shared: SandboxProcess, to_shared: http.client.HTTPConnection
) -> None:
    """What the contract does not have is refused, without a redirect, and leaves no trace."""
    before = shared.recorded()
    assert ask(to_shared, method, target).status == status
    assert shared.recorded() == before


def test_a_right_post_is_recorded(sandbox: SandboxProcess, connection: http.client.HTTPConnection) -> None:
    """A right POST is answered 201 with an id and a status, and stands in the record with its request id."""
    customer_id = customer_of(connection)
    answer = post(connection, event_body(customer_id, total_usage=2**63 - 1), x_request_id="r-1")
    assert answer.status == 201
    assert answer.content == {"id": "evt_00000001", "status": "recorded"}
    assert ask(connection, "GET", "/api/v1/sandbox/recorded").content["events"] == [
        {
            "tenant_id": "acme",
            "device_id": "dev-1",
            "meter_id": "api.calls",
            "total_usage": 2**63 - 1,
            "request_id": "r-1",
            "answered": 201,
        }
    ]
    assert sandbox.recorded() == dataclasses.replace(NOTHING, look_ups=1, events=1, units=2**63 - 1)


WRONG_BODIES = [
    b"",
    b"[]",
    b'{"meter_id": "m"',
    b"[" * 50_000,
    b'{"meter_id": "m", "total_usage": 1}',
    b'{"meter_id": "m", "total_usage": 1, "customer_id": "CUSTOMER", "at": "2026-11-20"}',
    b'{"meter_id": 7, "total_usage": 1, "customer_id": "CUSTOMER"}',
    b'{"meter_id": "m", "total_usage": "1", "customer_id": "CUSTOMER"}',
    b'{"meter_id": "m", "total_usage": 1.0, "customer_id": "CUSTOMER"}',
    b'{"meter_id": "m", "total_usage": true, "customer_id": "CUSTOMER"}',
    b'{"meter_id": "m", "total_usage": 1, "customer_id": null}',
]


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        *[({}, body, 400) for body in WRONG_BODIES],
        ({"x-tenant-id": ""}, event_body("CUSTOMER"), 400),
        ({"x-device-id": ""}, event_body("CUSTOMER"), 400),
        ({"Content-Type": "text/plain"}, event_body("CUSTOMER"), 400),
        ({"x-tenant-id": "globex"}, event_body("CUSTOMER"), 422),
        ({"x-tenant-id": "unknown-7"}, event_body(""), 422),
        ({}, event_body("CUSTOMER", meter_id="forbidden.meter"), 422),
        ({}, b" " * 70_000, 413),
    ],
)
def test_a_wrong_post_is_refused_and_not_recorded(
    headers: dict[str, str],
    body: bytes,
    status: int,
    shared: SandboxProcess,
    to_shared: http.client.HTTPConnection,
) -> None:
    """A POST that breaks the contract in one way is refused with a JSON reason and not recorded."""
    body = body.replace(b"CUSTOMER", customer_of(to_shared).encode())
    answer = ask(to_shared, "POST", "/api/v1/events", body, headers=HEADERS | headers)
    assert answer.status == status
    assert answer.content["error"]
    assert shared.recorded().events == 0


def test_a_post_cut_short_is_not_recorded(shared: SandboxProcess, to_shared: http.client.HTTPConnection) -> None:
    """A POST whose sender leaves before its end is not recorded, though what came of it could be read."""
    address = urlsplit(shared.base_url)
    body = event_body(customer_of(to_shared))
    lines = [f"{name}: {value}" for name, value in (HEADERS | {"Content-Length": str(len(body) + 1)}).items()]
    head = "\r\n".join(["POST /api/v1/events HTTP/1.1", "Host: sandbox", *lines, "", ""])
    with socket.create_connection((address.hostname, address.port or 80), timeout=10) as sender:
        sender.sendall(head.encode() + body)
        sender.shutdown(socket.SHUT_WR)
        while sender.recv(4096):
            pass
    assert shared.recorded().events == 0


def test_recorded_names_what_came_more_than_once(
    sandbox: SandboxProcess, connection: http.client.HTTPConnection
) -> None:
    """The totals name tenants looked up again and request ids recorded again, and only those."""
    customer_id = [customer_of(connection, tenant) for tenant in ("globex", "globex", "acme")][-1]
    for request_id in ("r-1", "r-2", "r-2", "r-2", "", ""):
        post(connection, event_body(customer_id), x_request_id=request_id)
    assert sandbox.recorded() == Recorded(
        look_ups=3, look_ups_by_tenant={"globex": 2}, events=6, units=18, repeated_request_ids={"r-2": 3}
    )


def test_recorded_events_come_in_pages(connection: http.client.HTTPConnection) -> None:
    """``limit`` and ``offset`` choose a stretch of the events in the order they were recorded."""
    customer_id = customer_of(connection)
    for units in range(7):
        post(connection, event_body(customer_id, total_usage=units))
    pages = [
        ask(connection, "GET", f"/api/v1/sandbox/recorded?limit=3&offset={offset}").content["events"]
        for offset in (0, 3, 6, 9)
    ]
    assert [[event["total_usage"] for event in page] for page in pages] == [[0, 1, 2], [3, 4, 5], [6], []]


def test_page_shows_the_last_100_events_escaped(connection: http.client.HTTPConnection) -> None:
    """The page for a person shows the totals and the last 100 events, and nothing in them acts as HTML."""
    customer_id = customer_of(connection)
    for number in range(102):
        post(connection, event_body(customer_id, meter_id=f"<script>{number}\ud800&"))
    page = ask(connection, "GET", "/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<script" not in page.text
    assert [f"&lt;script&gt;{number}?&amp;" in page.text for number in (0, 1, 2, 101)] == [
        False,
        False,
        True,
        True,
    ]
    assert "<th>events</th><td>102</td>" in page.text


def faulty_statuses(settings: SandboxSettings, posts: int) -> tuple[list[int], list[int]]:
    """Post so many events; return the statuses answered, 0 for none, and those of the events recorded."""
    statuses = []
    with SandboxProcess(settings) as sandbox, contextlib.closing(connect(sandbox)) as connection:
        customer_id = customer_of(connection)
        for _ in range(posts):
            try:
                answer = post(connection, event_body(customer_id))
            except http.client.RemoteDisconnected:
                connection.close()
                statuses.append(0)
                continue
            statuses.append(answer.status)
            assert answer.headers.get("retry-after") == ("1" if answer.status == 503 else None)
        listed = ask(connection, "GET", f"/api/v1/sandbox/recorded?limit={posts}").content["events"]
    return statuses, [event["answered"] for event in listed]


@pytest.mark.parametrize(
    ("settings", "answered", "recorded"),
    [
        (SandboxSettings(fail_with_503=1), [503] * 4, []),
        (SandboxSettings(fail_with_500=1), [500] * 4, [500] * 2),
        (SandboxSettings(drop=1), [0] * 4, [0] * 4),
    ],
    ids=["503", "500", "drop"],
)
def test_faults_answer_and_record_as_ordered(
    settings: SandboxSettings, answered: list[int], recorded: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    """A 503 is never recorded, every second 500 is, and a dropped POST always; none is complained of."""
    assert faulty_statuses(settings, 4) == (answered, recorded)
    assert capfd.readouterr().err == ""


def test_faults_come_in_their_shares_the_same_each_time() -> None:
    """Faults are about as many as ordered, the same POSTs for the same seed, others for another."""
    settings = SandboxSettings(fail_with_503=0.2, fail_with_500=0.2, drop=0.2, seed=7)
    answered, recorded = faulty_statuses(settings, 300)
    assert faulty_statuses(settings, 300) == (answered, recorded)
    assert faulty_statuses(dataclasses.replace(settings, seed=8), 300) != (answered, recorded)
    assert all(40 <= answered.count(status) <= 80 for status in (503, 500, 0))
    assert recorded.count(500) == answered.count(500) // 2
    assert [recorded.count(status) for status in (0, 201, 503)] == [answered.count(0), answered.count(201), 0]


def test_refused_posts_use_up_no_fault() -> None:
    """A POST that the sandbox would refuse anyway is refused, whatever faults are ordered."""
    with (
        SandboxProcess(SandboxSettings(drop=1)) as faulty,
        contextlib.closing(connect(faulty)) as connection,
    ):
        customer_id = customer_of(connection)
        assert post(connection, event_body(customer_id, meter_id="forbidden.meter")).status == 422


def test_a_held_back_answer_is_recorded_already_and_delays_no_end(
    to_shared: http.client.HTTPConnection,
) -> None:
    """With latency an event is recorded before its answer is due, and the sandbox ends without that."""
    body = event_body(customer_of(to_shared))
    with contextlib.ExitStack() as at_end:
        with SandboxProcess(SandboxSettings(latency_milliseconds=600_000)) as slow:
            waiting = at_end.enter_context(contextlib.closing(connect(slow)))
            waiting.request("POST", "/api/v1/events", body, HEADERS)
            assert any(slow.recorded().events == 1 for _ in range(5_000))
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            waiting.getresponse()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"host": ""}, "host"),
        ({"port": -1}, "port"),
        ({"port": 65_536}, "port"),
        ({"latency_milliseconds": -1}, "latency"),
        ({"latency_milliseconds": 600_001}, "latency"),
        ({"latency_milliseconds": math.nan}, "latency"),
        ({"drop": -0.1}, "faults"),
        ({"fail_with_500": 1.1}, "faults"),
        ({"fail_with_503": math.nan}, "faults"),
        ({"fail_with_503": 0.5, "fail_with_500": 0.4, "drop": 0.2}, "faults"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(values: dict[str, Any], named: str) -> None:
    """A setting out of its range is refused with a message that names it and the remedy."""
    with pytest.raises(SettingsError, match=f"sandbox's {named}") as refused:
        SandboxSettings(**values)
    assert refused.value.remedy


def test_shares_may_be_all_posts_together() -> None:
    """Three shares that are one on paper are taken, whatever binary fractions make of them."""
    assert SandboxSettings(fail_with_503=0.6, fail_with_500=0.3, drop=0.1).drop == 0.1


def test_a_port_in_use_is_refused() -> None:
    """A sandbox that cannot have its port says so in the process that wants it, with a remedy."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with (
            pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1 port {port}: .+ -- choose another"),
            SandboxProcess(SandboxSettings(port=port)),
        ):
            pass


def test_a_host_that_is_not_here_is_refused() -> None:
    """A host without an address is refused, not waited for."""
    with (
        pytest.raises(SettingsError, match=r"cannot listen on no\.such\.host\.invalid"),
        SandboxProcess(SandboxSettings(host="no.such.host.invalid")),
    ):
        pass


def test_an_ipv6_address_stands_in_brackets() -> None:
    """The base URL of a sandbox on an IPv6 address can be used as it is."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    with SandboxProcess(SandboxSettings(host="::1")) as sandbox:
        assert sandbox.base_url.startswith("http://[::1]:")
        assert sandbox.recorded() == NOTHING


def test_a_missing_extra_is_named() -> None:
    """Without Starlette and uvicorn, asking for a sandbox says which extra to install."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from uploader.sandbox.sandbox import *\n"
        "try: SandboxProcess(SandboxSettings()).__enter__()\n"
        "except SettingsError as error: print(error)"
    )
    # -S: the standard library alone.
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert "pip install 'meter-uploader[sandbox]'" in said.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_announces_its_url_and_returns_at_a_signal(number: signal.Signals) -> None:
    """``serve`` tells where it listens, answers there, and returns at a signal with nothing to say."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from uploader.sandbox.sandbox import *\n"
        "serve(SandboxSettings(), announce=lambda url: print(url, flush=True)); print('returned')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().strip())
        with contextlib.closing(http.client.HTTPConnection(address.netloc, timeout=10)) as connection:
            assert ask(connection, "GET", f"{address.path}/sandbox/recorded").status == 200
            process.send_signal(number)
            said, complained = process.communicate(timeout=20)
    assert (said, complained, process.returncode) == ("returned\n", "", 0)


def test_the_process_ends_with_its_block() -> None:
    """After the block the child is gone: connections that were open are closed, and no new one is taken."""
    with SandboxProcess(SandboxSettings()) as sandbox:
        connection = connect(sandbox)
        customer_of(connection)
    with contextlib.closing(connection):
        assert connection.sock is not None
        assert is_closed(connection.sock)
    with pytest.raises(StoppedError, match=re.escape(sandbox.base_url)):
        sandbox.recorded()


PARENT = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from uploader.sandbox.sandbox import SandboxProcess
from uploader.sandbox.sandbox_backend import SandboxSettings
with SandboxProcess(SandboxSettings(latency_milliseconds=float(sys.argv[1]))) as sandbox:
    # Inside, since whoever reads the address may send the signal before the next statement.
    try:
        print(sandbox.base_url, flush=True)
        sys.stdin.read()
    except KeyboardInterrupt:
        # Again and again, because a server that got the signal too would answer for a moment.
        print({{sandbox.recorded().look_ups for _ in range(300)}}, flush=True)
"""


@contextlib.contextmanager
def parent_of_sandbox(*, latency_milliseconds: int) -> Iterator[subprocess.Popen[str]]:
    """Run a program that has a sandbox, as a terminal would: in a process group of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(latency_milliseconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_sandbox_outlives_ctrl_c_until_its_parent_ends_it() -> None:
    """A SIGINT for the whole process group leaves the sandbox to be asked what it recorded."""
    with parent_of_sandbox(latency_milliseconds=0) as parent:
        assert parent.stdout is not None
        address = urlsplit(parent.stdout.readline().strip())
        with contextlib.closing(http.client.HTTPConnection(address.netloc, timeout=10)) as connection:
            customer_of(connection)
            os.killpg(parent.pid, signal.SIGINT)
            said, _ = parent.communicate(timeout=20)
            assert connection.sock is not None
            assert is_closed(connection.sock)
    assert (said, parent.returncode) == ("{1}\n", 0)


def test_the_sandbox_ends_when_its_parent_is_killed() -> None:
    """A ``kill -9`` of its parent ends the sandbox too, whatever answers it still holds back."""
    with parent_of_sandbox(latency_milliseconds=600_000) as parent:
        assert parent.stdout is not None
        address = urlsplit(parent.stdout.readline().strip())
        with contextlib.closing(http.client.HTTPConnection(address.netloc, timeout=20)) as connection:
            connection.request("GET", f"{address.path}/customer-accounts/tenant/acme")
            assert connection.sock is not None
            assert select.select([connection.sock], [], [], 0)[0] == []
            parent.kill()
            assert is_closed(connection.sock)


def test_modules_in_the_working_directory_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child finds its modules where this process does, not in the folder it happens to run in."""
    for name in ("uvicorn", "json", "uploader"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with SandboxProcess(SandboxSettings()) as sandbox:
        assert sandbox.recorded() == NOTHING


@pytest.mark.parametrize("writes", [True, False])
def test_a_trial_leaves_a_folder_only_if_it_holds_results(*, writes: bool) -> None:
    """An upload that was interrupted before its first file leaves nothing behind."""
    options: dict[str, Any] = {"results_dir": None}
    with sandboxed(options):
        folder: Path = options["results_dir"]
        if writes:
            (folder / "usage.results.csv").touch()
    assert folder.exists() is writes
    assert not options["ledger"].exists()
    shutil.rmtree(folder, ignore_errors=True)
