"""A metering backend on one's own machine, to try the uploader against (``sandbox``, ``upload --sandbox``).

It keeps the contract of the real one as the published client knows it (look up a customer, post an event),
and has three ways more: ``GET {base}/sandbox/recorded`` (JSON), ``GET /`` (a page for a person), and faults
on order. A tenant whose id begins with ``unknown`` has no customer; a meter whose id begins with
``forbidden`` is refused. What it recorded is in memory only, some 220 bytes an event.

The one file that knows Starlette and uvicorn, which the extra ``sandbox`` brings.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import html
import http.client
import importlib.util
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from uploader.errors import BackendError, SettingsError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApplication = Callable[[Scope, Receive, Send], Awaitable[None]]
"""The types of ASGI (asgi.readthedocs.io, HTTP & WebSocket message format)."""

BASE_PATH = "/api/v1"
LOOK_UP_PATH = f"{BASE_PATH}/customer-accounts/tenant/"
BODY_BYTES_AT_MOST = 65_536
LATENCY_MILLISECONDS_AT_MOST = 600_000
PAGE_EVENTS_AT_MOST = 10_000
SHOWN_EVENTS = 100
START_SECONDS_AT_MOST = 60
READ_SECONDS_AT_MOST = 30


def require_sandbox_extra() -> None:
    """Raise ``SettingsError`` when Starlette or uvicorn is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise SettingsError(
            "the sandbox needs Starlette and uvicorn, which are not installed",
            remedy="pip install 'meter-uploader[sandbox]'",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """How the sandbox listens and misbehaves; ``SettingsError`` for a value it cannot take.

    host, port:           where to listen; port 0 takes a free one.
    latency_milliseconds: how long each answer is held back; an event is recorded before, not after.
    fail_with_503, fail_with_500, drop:
                          shares, 0 to 1 and no more than 1 together, of the POSTs that would otherwise be
                          accepted: a 503 with ``Retry-After: 1`` (not recorded), a 500 (every second one
                          is recorded all the same), the connection closed without an answer (recorded).
    seed:                 which POSTs those are, counted in the order of arrival.
    """

    host: str = "127.0.0.1"
    port: int = 0
    latency_milliseconds: float = 0
    fail_with_503: float = 0
    fail_with_500: float = 0
    drop: float = 0
    seed: int = 0

    def __post_init__(self) -> None:
        shares = (self.fail_with_503, self.fail_with_500, self.drop)
        if not self.host:
            raise SettingsError("the sandbox's host is empty", remedy="name one, such as 127.0.0.1")
        if not 0 <= self.port <= 65_535:
            raise SettingsError(f"the sandbox's port is {self.port}", remedy="choose 0 (a free one) to 65535")
        if not 0 <= self.latency_milliseconds <= LATENCY_MILLISECONDS_AT_MOST:
            raise SettingsError(
                f"the sandbox's latency is {self.latency_milliseconds} milliseconds",
                remedy=f"choose 0 to {LATENCY_MILLISECONDS_AT_MOST}",
            )
        if not (all(0 <= share <= 1 for share in shares) and math.fsum(shares) <= 1):
            raise SettingsError(
                f"the sandbox's faults (503, 500, drop) are {shares}, which are not shares of the POSTs",
                remedy="choose each from 0 to 1, such as 0.05 for one in twenty, and at most 1 together",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What a sandbox has recorded so far.

    look_ups:             customer look-ups answered, those of unknown tenants too.
    look_ups_by_tenant:   only tenants that were looked up more than once.
    events:               events recorded, answered or not.
    units:                the sum of their ``total_usage``.
    repeated_request_ids: ``x-request-id`` -> events, only where more than one was recorded under an id.
    """

    look_ups: int
    look_ups_by_tenant: Mapping[str, int]
    events: int
    units: int
    repeated_request_ids: Mapping[str, int]


def serve(settings: SandboxSettings, *, announce: Callable[[str], None]) -> None:
    """Serve in this process, from its main thread, until SIGINT or SIGTERM; then return.

    ``announce`` is called once with the base URL, when requests are accepted there. ``SettingsError``
    when the extra is missing or the address cannot be had.
    """
    require_sandbox_extra()
    # Imported here: an upload to the real backend does not need it, nor what it costs to load.
    import uvicorn  # noqa: PLC0415 -- see above

    class AnnouncingServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            announce(base_url)

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    def hang_up(scope: Scope) -> None:
        for connection in list(server.server_state.connections):
            if getattr(connection, "client", None) == scope["client"]:
                connection.transport.close()

    listener = _listen(settings)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    base_url = f"http://{host}:{listener.getsockname()[1]}{BASE_PATH}"
    server = AnnouncingServer(
        uvicorn.Config(
            _application(settings, hang_up),
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            # As long as a common proxy's: the client decides when an idle connection goes.
            timeout_keep_alive=75,
            timeout_graceful_shutdown=math.ceil(settings.latency_milliseconds / 1000) + 1,
        )
    )
    # uvicorn ends in order at these signals, then raises them again: that must not end the caller too.
    earlier = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with listener:
            server.run(sockets=[listener])
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _listen(settings: SandboxSettings) -> socket.socket:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        listener = socket.create_server(address, family=family)
    except OSError as error:
        raise SettingsError(
            f"the sandbox cannot listen on {settings.host} port {settings.port}: {error.strerror}",
            remedy="choose another host or port; port 0 takes a free one",
        ) from error
    # create_server leaves the protocol 0, for which asyncio sets no TCP_NODELAY; an answer, written in two
    # pieces, would then wait 40 ms for the other side's delayed ACK.
    return socket.socket(family, kind, protocol, fileno=listener.detach())


class _Event(NamedTuple):
    """One recorded event, in a tuple because there may be 100,000s. ``answered``: 0 for no answer."""

    tenant_id: str
    device_id: str
    meter_id: str
    total_usage: int
    request_id: str
    answered: int


class _Book:
    """All that was looked up and recorded."""

    def __init__(self) -> None:
        self.events: list[_Event] = []
        self._units = 0
        self._look_ups_by_tenant: Counter[str] = Counter()
        self._request_ids: set[str] = set()
        self._repeats_by_request_id: Counter[str] = Counter()

    def look_up(self, tenant_id: str) -> None:
        self._look_ups_by_tenant[tenant_id] += 1

    def record(self, event: _Event) -> int:
        """Return the event's number, from 1."""
        self.events.append(event)
        self._units += event.total_usage
        if event.request_id in self._request_ids:
            self._repeats_by_request_id[event.request_id] += 1
        elif event.request_id:
            self._request_ids.add(event.request_id)
        return len(self.events)

    def recorded(self) -> Recorded:
        return Recorded(
            look_ups=self._look_ups_by_tenant.total(),
            look_ups_by_tenant={tenant: n for tenant, n in self._look_ups_by_tenant.items() if n > 1},
            events=len(self.events),
            units=self._units,
            repeated_request_ids={key: n + 1 for key, n in self._repeats_by_request_id.items()},
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """``status`` 0: none, the connection is closed."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)


NO_ANSWER = _Answer(0, b"")


def _json_answer(status: int, content: object) -> _Answer:
    return _Answer(status, json.dumps(content).encode())


def _refusal(status: int, why: str) -> _Answer:
    return _json_answer(status, {"error": why})


class _Faults:
    """Which fault the next acceptable POST gets."""

    def __init__(self, settings: SandboxSettings) -> None:
        self._random = random.Random(settings.seed)  # noqa: S311 -- drawn to be repeatable, not secret
        self._below_503 = settings.fail_with_503
        self._below_500 = self._below_503 + settings.fail_with_500
        self._below_drop = self._below_500 + settings.drop
        self._failed_with_500 = 0

    def next(self) -> tuple[int, bool]:
        """Return the status to answer with (0: no answer), and whether the event is recorded."""
        draw = self._random.random()
        if draw < self._below_503:
            return 503, False
        if draw < self._below_500:
            self._failed_with_500 += 1
            return 500, self._failed_with_500 % 2 == 0
        if draw < self._below_drop:
            return 0, True
        return 201, True


class _Backend:
    """The answers, given the scope and the body of a request."""

    def __init__(self, settings: SandboxSettings) -> None:
        self._book = _Book()
        self._faults = _Faults(settings)

    def look_up(self, scope: Scope, _body: bytes) -> _Answer:
        # The path as it was sent: only there an id's own slash (%2F) can be told from a separator.
        tenant: str = scope["raw_path"].decode("ascii").removeprefix(LOOK_UP_PATH)
        if not tenant or "/" in tenant:
            return _refusal(404, "the path is not one tenant's: percent-encode its id")
        tenant_id = unquote(tenant)
        self._book.look_up(tenant_id)
        customer_id = _customer_id(tenant_id)
        return _json_answer(200, [{"id": customer_id, "tenant_id": tenant_id}] if customer_id else [])

    def post(self, scope: Scope, body: bytes) -> _Answer:
        header_by_name: dict[bytes, bytes] = dict(scope["headers"])
        tenant_id = header_by_name.get(b"x-tenant-id", b"").decode("latin-1")
        device_id = header_by_name.get(b"x-device-id", b"").decode("latin-1")
        if not tenant_id or not device_id:
            return _refusal(400, "the header x-tenant-id or x-device-id is missing")
        if header_by_name.get(b"content-type", b"").split(b";")[0] != b"application/json":
            return _refusal(400, "the header Content-Type is not application/json")
        match _parsed(body):
            case {"meter_id": str(meter_id), "total_usage": int(usage), "customer_id": str(customer), **rest}:
                is_event = not rest and not isinstance(usage, bool)
            case _:
                is_event = False
        if not is_event:
            return _refusal(400, "the body is not {meter_id: text, total_usage: integer, customer_id: text}")
        if customer != _customer_id(tenant_id):
            return _refusal(422, f"customer {customer} is not tenant {tenant_id}'s")
        if meter_id.startswith("forbidden"):
            return _refusal(422, f"meter {meter_id} takes no usage")
        status, is_recorded = self._faults.next()
        number = 0
        if is_recorded:
            request_id = header_by_name.get(b"x-request-id", b"").decode("latin-1")
            tenant_id, device_id, meter_id = map(sys.intern, (tenant_id, device_id, meter_id))
            number = self._book.record(_Event(tenant_id, device_id, meter_id, usage, request_id, status))
        return _post_answer(status, number)

    def recorded(self, scope: Scope, _body: bytes) -> _Answer:
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        try:
            limit, offset = int(query.get("limit", SHOWN_EVENTS)), int(query.get("offset", 0))
        except ValueError:
            return _refusal(400, "limit and offset are not integers")
        if not 0 <= limit <= PAGE_EVENTS_AT_MOST or offset < 0:
            return _refusal(400, f"limit is 0 to {PAGE_EVENTS_AT_MOST}, offset 0 or more")
        events = [event._asdict() for event in self._book.events[offset : offset + limit]]
        totals = dataclasses.asdict(self._book.recorded())
        return _json_answer(200, {"totals": totals, "limit": limit, "offset": offset, "events": events})

    def page(self, _scope: Scope, _body: bytes) -> _Answer:
        text = _page(self._book.recorded(), self._book.events[-SHOWN_EVENTS:])
        return _Answer(200, text.encode(errors="replace"), ((b"content-type", b"text/html; charset=utf-8"),))


def _customer_id(tenant_id: str) -> str | None:
    if tenant_id.startswith("unknown"):
        return None
    return "cus_" + hashlib.sha256(tenant_id.encode()).hexdigest()[:12]


def _parsed(body: bytes) -> object:
    """Return what the JSON says; None when it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _post_answer(status: int, number: int) -> _Answer:
    if status == 201:
        return _Answer(201, b'{"id": "evt_%08d", "status": "recorded"}' % number)
    if status == 503:
        answer = _refusal(503, "unavailable, as ordered")
        return dataclasses.replace(answer, headers=(*answer.headers, (b"retry-after", b"1")))
    return _refusal(500, "failed, as ordered") if status else NO_ANSWER


def _page(recorded: Recorded, events: list[_Event]) -> str:
    """Write a page of HTML, everything from outside escaped."""
    totals = "".join(
        f"<tr><th>{name.replace('_', ' ')}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in dataclasses.asdict(recorded).items()
    )
    head = "".join(f"<th>{name}</th>" for name in _Event._fields)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in event) + "</tr>"
        for event in reversed(events)
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Metering sandbox</title>"
        "<style>body{font-family:sans-serif}td,th{padding:0 1em 0 0;text-align:left}</style>"
        f"<h1>Metering sandbox</h1><table>{totals}</table>"
        f"<h2>The last {len(events)} events</h2><table><tr>{head}</tr>{rows}</table></html>"
    )


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """One way to be asked, as a bare ASGI application: a fifth faster than Request and JSONResponse."""

    answer: Callable[[Scope, bytes], _Answer]
    hang_up: Callable[[Scope], None]
    latency_seconds: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        body = message.get("body", b"")
        while message.get("more_body") and len(body) <= BODY_BYTES_AT_MOST:
            message = await receive()
            body += message.get("body", b"")
        if message["type"] == "http.disconnect":
            return
        is_too_long = len(body) > BODY_BYTES_AT_MOST
        answer = _refusal(413, "the body is too long") if is_too_long else self.answer(scope, body)
        if self.latency_seconds:
            await asyncio.sleep(self.latency_seconds)
        if answer is NO_ANSWER:
            self.hang_up(scope)
            # Returning before uvicorn has noticed would have it complain of an answer that is missing.
            while message["type"] != "http.disconnect":
                message = await receive()
            return
        length = (b"content-length", b"%d" % len(answer.body))
        headers = (*answer.headers, length)
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})


def _application(settings: SandboxSettings, hang_up: Callable[[Scope], None]) -> ASGIApplication:
    # Imported here, as uvicorn is.
    from starlette.routing import Route, Router  # noqa: PLC0415 -- see above

    backend = _Backend(settings)
    latency_seconds = settings.latency_milliseconds / 1000
    answers = (
        (f"{BASE_PATH}/events", "POST", backend.post, latency_seconds),
        (f"{LOOK_UP_PATH}{{tenant_id:path}}", "GET", backend.look_up, latency_seconds),
        (f"{BASE_PATH}/sandbox/recorded", "GET", backend.recorded, 0),
        ("/", "GET", backend.page, 0),
    )
    routes = [
        Route(path, _Endpoint(answer, hang_up, wait_seconds), methods=[method])
        for path, method, answer, wait_seconds in answers
    ]
    return Router(routes, redirect_slashes=False)


class SandboxProcess:
    """A sandbox in a child process, for as long as the ``with`` block runs.

    The child has a session of its own, so that Ctrl-C does not reach it, and ends when its standard input
    does: at the end of the block, or when this process dies, however it dies. Entering raises
    ``SettingsError`` when the extra is missing, the address cannot be had or nothing starts in a minute.

    base_url: where to upload to, while the block runs.
    """

    def __init__(self, settings: SandboxSettings) -> None:
        self._settings = settings
        self._with_child = contextlib.ExitStack()
        self.base_url = ""

    def __enter__(self) -> SandboxProcess:
        require_sandbox_extra()
        with contextlib.ExitStack() as with_child:
            self.base_url = _told_base_url(with_child.enter_context(_child(self._settings)))
            self._with_child = with_child.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._with_child.close()

    def recorded(self) -> Recorded:
        """Ask the sandbox what it has recorded so far; ``BackendError`` when it does not say."""
        connection = http.client.HTTPConnection(urlsplit(self.base_url).netloc, timeout=READ_SECONDS_AT_MOST)
        with contextlib.closing(connection):
            try:
                connection.request("GET", f"{BASE_PATH}/sandbox/recorded?limit=0")
                return Recorded(**json.loads(connection.getresponse().read())["totals"])
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise BackendError(
                    f"the sandbox at {self.base_url} does not say what it recorded: {error}",
                    remedy="the results file has what became of each row; run the command again for a fresh sandbox",
                ) from error


@contextlib.contextmanager
def _child(settings: SandboxSettings) -> Iterator[socket.socket]:
    """Run ``serve_parent`` in a child; the socket is the child's standard input and output."""
    # It finds modules where this process does, and nowhere else: not in the working directory.
    code = "import sys; sys.path[:] = sys.argv[2:]; import uploader.sandbox as s; s.serve_parent(sys.argv[1])"
    command = [sys.executable, "-c", code, json.dumps(dataclasses.asdict(settings)), *sys.path]
    ours, its = socket.socketpair()
    with ours:
        with its:
            child = subprocess.Popen(  # noqa: S603 -- our own interpreter and code
                command, stdin=its.fileno(), stdout=its.fileno(), start_new_session=True
            )
        try:
            yield ours
        finally:
            # It has nothing to save.
            child.kill()
            child.wait()


def _told_base_url(child: socket.socket) -> str:
    child.settimeout(START_SECONDS_AT_MOST)
    try:
        with child.makefile("rb") as lines:
            told = json.loads(lines.readline())
    except (OSError, ValueError) as error:
        raise SettingsError("the sandbox did not start", remedy="its own message is above") from error
    if "base_url" not in told:
        raise SettingsError(told["what"], remedy=told["remedy"])
    return str(told["base_url"])


def serve_parent(settings: str) -> None:
    """Serve for a ``SandboxProcess``, in its child, until standard input ends.

    ``settings`` is a ``SandboxSettings`` as JSON. One line of JSON goes to standard output: the base URL,
    or why there is none.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        serve(SandboxSettings(**json.loads(settings)), announce=lambda url: _tell({"base_url": url}))
    except SettingsError as error:
        _tell({"what": error.args[0], "remedy": error.remedy})


def _end_with_parent() -> None:
    # Not sys.stdin: a thread that waits there holds a lock which the interpreter wants at its own end.
    with contextlib.suppress(ConnectionError):
        while os.read(0, 1):
            pass
    # At once: in order would be after the last answer held back.
    os._exit(0)


def _tell(message: Mapping[str, str]) -> None:
    # A parent that is gone has no ear; _end_with_parent sees to the rest.
    with contextlib.suppress(ConnectionError):
        os.write(1, json.dumps(message).encode() + b"\n")
