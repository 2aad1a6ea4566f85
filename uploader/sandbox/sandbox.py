"""A metering backend on one's own machine, to try the uploader against (``sandbox``, ``upload --sandbox``).

How it is served, in this process or in a child; what it answers stands in sandbox_backend.py.
The one file that knows Starlette and uvicorn, which the extra ``sandbox`` brings.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import http.client
import importlib.util
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any
from urllib.parse import urlsplit

from uploader.model.errors import SettingsError, StoppedError
from uploader.sandbox.sandbox_backend import (
    BASE_PATH,
    LOOK_UP_PATH,
    NO_ANSWER,
    Answer,
    Backend,
    Recorded,
    SandboxSettings,
    Scope,
    refusal,
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApplication = Callable[[Scope, Receive, Send], Awaitable[None]]
"""The types of ASGI (asgi.readthedocs.io, HTTP & WebSocket message format)."""

_BODY_BYTES_AT_MOST = 65_536
_START_SECONDS_AT_MOST = 60
_READ_SECONDS_AT_MOST = 30


def require_sandbox_extra() -> None:
    """Raise ``SettingsError`` when Starlette or uvicorn is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("starlette", "uvicorn")):
        raise SettingsError(
            "the sandbox needs Starlette and uvicorn, which are not installed",
            remedy="pip install 'meter-uploader[sandbox]'",
        )


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


def _application(settings: SandboxSettings, hang_up: Callable[[Scope], None]) -> ASGIApplication:
    # Imported here, as uvicorn is.
    from starlette.routing import Route, Router  # noqa: PLC0415 -- see above

    backend = Backend(settings)
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


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """One way to be asked, as a bare ASGI application: a fifth faster than Request and JSONResponse."""

    answer: Callable[[Scope, bytes], Answer]
    hang_up: Callable[[Scope], None]
    latency_seconds: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        body = message.get("body", b"")
        while message.get("more_body") and len(body) <= _BODY_BYTES_AT_MOST:
            message = await receive()
            body += message.get("body", b"")
        if message["type"] == "http.disconnect":
            return
        is_too_long = len(body) > _BODY_BYTES_AT_MOST
        answer = refusal(413, "the body is too long") if is_too_long else self.answer(scope, body)
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
        """Ask the sandbox what it has recorded so far; ``StoppedError`` when it does not say."""
        connection = http.client.HTTPConnection(urlsplit(self.base_url).netloc, timeout=_READ_SECONDS_AT_MOST)
        with contextlib.closing(connection):
            try:
                connection.request("GET", f"{BASE_PATH}/sandbox/recorded?limit=0")
                return Recorded(**json.loads(connection.getresponse().read())["totals"])
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise StoppedError(
                    f"the sandbox at {self.base_url} does not say what it recorded: {error}",
                    remedy="the results file has what became of each row; run the command again for a fresh sandbox",
                ) from error


@contextlib.contextmanager
def _child(settings: SandboxSettings) -> Iterator[socket.socket]:
    """Run ``serve_parent`` in a child; the socket is the child's standard input and output."""
    # It finds modules where this process does, and nowhere else: not in the working directory.
    code = "import sys; sys.path[:] = sys.argv[2:]; import uploader.sandbox.sandbox as s; s.serve_parent(sys.argv[1])"
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
    child.settimeout(_START_SECONDS_AT_MOST)
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
