"""A metering backend that is far away: it answers any number of calls, each so many seconds after it came.

``python -m tests.benchmark.distant SECONDS`` serves it, and says its port on the first line of its output. An event
loop's timers are a millisecond late, which is two parts in a hundred of 50; these wait for the microsecond.
"""

from __future__ import annotations

import json
import select
import selectors
import socket
import sys
import time
from collections import deque
from contextlib import AbstractContextManager
from dataclasses import asdict

from tests.benchmark.backend import FOUND, JSON, RECORDED, Backend, Seen, body_length, served

_MOST_BYTES = 1 << 16


class _Server:
    """The backend itself; one thread, which sleeps until a call comes or an answer is due."""

    def __init__(self, latency_seconds: float) -> None:
        self.seen = Seen()
        self._latency_seconds = latency_seconds
        self._due: deque[tuple[float, socket.socket, bytes]] = deque()
        self._selector = selectors.DefaultSelector()

    def serve(self, listener: socket.socket) -> None:
        """Answer until the process is ended."""
        self._selector.register(listener, selectors.EVENT_READ)
        held: dict[socket.socket, bytes] = {}
        while True:
            self._answer_those_due()
            wait_seconds = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
            select.select([self._selector], [], [], wait_seconds)  # an epoll's own timeout is of whole milliseconds
            came_seconds = time.monotonic()
            for key, _ in self._selector.select(0):
                if key.fileobj is listener:
                    self._selector.register(_accepted(listener), selectors.EVENT_READ)
                    continue
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                rest = self._read(connection, held.pop(connection, b""), came_seconds)
                if rest:
                    held[connection] = rest
                self._answer_those_due()

    def _answer_those_due(self) -> None:
        due = self._due
        while due and due[0][0] <= time.monotonic():
            _, connection, answer = due.popleft()
            try:
                connection.send(answer)
            except OSError:  # the client has given the answer up
                continue
            self.seen.recorded += answer is RECORDED
            self.seen.last_answer_seconds = time.monotonic()

    def _read(self, connection: socket.socket, held: bytes, came_seconds: float) -> bytes:
        """Take what has arrived; give what is left of it, the start of a call."""
        try:
            data = connection.recv(_MOST_BYTES)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(connection)
            connection.close()
            return b""
        data = held + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = data[:end]
            whole = end + 4 + body_length(head)
            if len(data) < whole:
                break
            self._take(connection, head, came_seconds)
            data = data[whole:]
        return data

    def _take(self, connection: socket.socket, head: bytes, came_seconds: float) -> None:
        if head.startswith(b"GET /own/"):
            told = json.dumps(asdict(self.seen)).encode()
            connection.send(JSON % (b"200 OK", len(told), told))
        elif head.startswith(b"POST "):
            self.seen.note_post(came_seconds)
            self._due.append((came_seconds + self._latency_seconds, connection, RECORDED))
        else:
            self.seen.look_ups += 1
            self._due.append((came_seconds + self._latency_seconds, connection, FOUND))


def _accepted(listener: socket.socket) -> socket.socket:
    connection, _ = listener.accept()
    connection.setblocking(False)  # noqa: FBT003 -- the standard library's
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def distant_backend(latency_seconds: float) -> AbstractContextManager[Backend]:
    """Run a backend in a process of its own until the end of the block."""
    return served("tests.benchmark.distant", str(latency_seconds))


def _main() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        sys.stdout.write(f"{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        _Server(float(sys.argv[1])).serve(listener)


if __name__ == "__main__":
    _main()
