"""A metering backend with a capacity: latency, a queue, load shedding, times at which it can do less.

``python -m tests.benchmark.backend BEHAVIOUR`` serves it, BEHAVIOUR being JSON, and says its port on the first line of
its output. It knows just enough of HTTP for the clients that are measured, so that it is not what is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_ACCOUNT = b'[{"id":"cust_0001"}]'
_EVENT = b'{"id":"evt_0001","status":"recorded"}'
JSON = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
FOUND = JSON % (b"200 OK", len(_ACCOUNT), _ACCOUNT)
RECORDED = JSON % (b"201 Created", len(_EVENT), _EVENT)
_SHED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
_REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
_LENGTH = b"content-length:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What the backend can take.

    latency_seconds:      of every answer, whatever the load.
    workers:              calls that are worked on at once, the others wait in line; 0 for any number.
    service_seconds:      of a worker for a call.
    most_in_flight:       calls above are answered 503 at once, without Retry-After; 0 for any number.
    workers_at_seconds:   how many workers there are from when on, counted from the first POST.
    """

    latency_seconds: float = 0.0
    workers: int = 0
    service_seconds: float = 0.0
    most_in_flight: int = 0
    workers_at_seconds: list[tuple[float, int]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Seen:
    """What the backend saw; moments are on the clock of ``time.monotonic``, which a machine's processes share.

    longest_post_gap_seconds: between one POST and the next.
    recorded:                 POSTs answered 201.
    shed:                     calls answered 503.
    """

    look_ups: int = 0
    posts: int = 0
    recorded: int = 0
    shed: int = 0
    first_post_seconds: float = 0.0
    last_post_seconds: float = 0.0
    last_answer_seconds: float = 0.0
    longest_post_gap_seconds: float = 0.0

    def note_post(self, now_seconds: float) -> None:
        """Count a POST."""
        if self.posts == 0:
            self.first_post_seconds = now_seconds
        else:
            gap_seconds = now_seconds - self.last_post_seconds
            self.longest_post_gap_seconds = max(self.longest_post_gap_seconds, gap_seconds)
        self.posts += 1
        self.last_post_seconds = now_seconds

    @property
    def posts_per_second(self) -> float:
        """POSTs a second, from the first to the last."""
        return (self.posts - 1) / max(1e-9, self.last_post_seconds - self.first_post_seconds)

    @property
    def recorded_per_second(self) -> float:
        """Recorded events a second, from the first POST to the last answer."""
        return self.recorded / max(1e-9, self.last_answer_seconds - self.first_post_seconds)


class _Server:
    """The backend itself; everything happens on one event loop."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.seen = Seen()
        self.refuses_after_posts: int | None = None
        self._loop = asyncio.get_running_loop()
        self._workers = behaviour.workers
        self._busy = 0
        self._in_flight = 0
        self._line: deque[tuple[asyncio.Transport, bytes]] = deque()

    def take(self, transport: asyncio.Transport, *, is_post: bool) -> None:
        answer = self._note_post() if is_post else self._note_look_up()
        if answer is _REFUSED:
            self._answer(transport, answer)
            return
        if self._in_flight >= self.behaviour.most_in_flight > 0:
            self.seen.shed += 1
            self._answer(transport, _SHED)
            return
        self._in_flight += 1
        if self.behaviour.workers == 0:
            self._after(self.behaviour.latency_seconds, transport, answer)
        else:
            self._line.append((transport, answer))
            self._work()

    def _note_look_up(self) -> bytes:
        self.seen.look_ups += 1
        return FOUND

    def _note_post(self) -> bytes:
        seen = self.seen
        if seen.posts == 0:
            for at_seconds, workers in self.behaviour.workers_at_seconds:
                self._loop.call_later(at_seconds, self._have_workers, workers)
        seen.note_post(time.monotonic())
        refuses = self.refuses_after_posts is not None and seen.posts > self.refuses_after_posts
        return _REFUSED if refuses else RECORDED

    def _have_workers(self, workers: int) -> None:
        self._workers = workers
        self._work()

    def _work(self) -> None:
        while self._line and self._busy < self._workers:
            self._busy += 1
            self._loop.call_later(self.behaviour.service_seconds, self._done, *self._line.popleft())

    def _done(self, transport: asyncio.Transport, answer: bytes) -> None:
        self._busy -= 1
        self._after(self.behaviour.latency_seconds, transport, answer)
        self._work()

    def _after(self, seconds: float, transport: asyncio.Transport, answer: bytes) -> None:
        if seconds:
            self._loop.call_later(seconds, self._finish, transport, answer)
        else:
            self._finish(transport, answer)

    def _finish(self, transport: asyncio.Transport, answer: bytes) -> None:
        self._in_flight -= 1
        self._answer(transport, answer)

    def _answer(self, transport: asyncio.Transport, answer: bytes) -> None:
        if transport.is_closing():  # the client has given the answer up
            return
        transport.write(answer)
        if answer is RECORDED:
            self.seen.recorded += 1
        self.seen.last_answer_seconds = time.monotonic()


class _Connection(asyncio.Protocol):
    """Splits what arrives into requests."""

    def __init__(self, server: _Server) -> None:
        self._server = server
        self._held = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = self._held[:end]
            whole = end + 4 + body_length(head)
            if len(self._held) < whole:
                return
            self._held = self._held[whole:]
            self._take(head)

    def _take(self, head: bytes) -> None:
        if head.startswith(b"GET /own/"):
            self._answer_ours(head.split(b" ")[1].split(b"/")[2:])
        else:
            self._server.take(self._transport, is_post=head.startswith(b"POST "))

    def _answer_ours(self, words: list[bytes]) -> None:
        server = self._server
        if words[0] == b"refuse":
            server.refuses_after_posts = server.seen.posts + int(words[1])
        elif words[0] == b"mend":
            server.refuses_after_posts = None
        told = json.dumps(asdict(server.seen)).encode()
        self._transport.write(JSON % (b"200 OK", len(told), told))


def body_length(head: bytes) -> int:
    """Read the length of a call's body from its head, 0 where that states none."""
    lower = head.lower()
    at = lower.find(_LENGTH)
    return int(lower[at + len(_LENGTH) :].partition(b"\r\n")[0]) if at >= 0 else 0


@dataclass(frozen=True, slots=True)
class Backend:
    """A running backend; ``root_url`` has no path."""

    root_url: str

    @property
    def base_url(self) -> str:
        """Where it answers as the metering backend."""
        return f"{self.root_url}/api/v1"

    def seen(self) -> Seen:
        """Ask what it saw so far."""
        return self._ask("seen")

    def refuse_after(self, posts: int) -> None:
        """Have it answer 401 to all POSTs after so many more."""
        self._ask(f"refuse/{posts}")

    def mend(self) -> None:
        """Have it refuse no more."""
        self._ask("mend")

    def _ask(self, what: str) -> Seen:
        with urllib.request.urlopen(f"{self.root_url}/own/{what}") as answer:
            return Seen(**json.load(answer))


def backend(behaviour: Behaviour) -> AbstractContextManager[Backend]:
    """Run a backend in a process of its own until the end of the block."""
    return served("tests.benchmark.backend", json.dumps(asdict(behaviour)))


@contextlib.contextmanager
def served(module: str, argument: str) -> Iterator[Backend]:
    """Run a module that serves a backend, and says its port, until the end of the block."""
    command = [sys.executable, "-m", module, argument]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Backend(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.terminate()


async def _serve(behaviour: Behaviour) -> None:
    server = _Server(behaviour)
    listener = await asyncio.get_running_loop().create_server(lambda: _Connection(server), "127.0.0.1", 0, backlog=2048)
    sys.stdout.write(f"{listener.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(Behaviour(**json.loads(sys.argv[1]))))
