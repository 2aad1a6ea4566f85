"""The billing server of the tests: the metering contract over real sockets, with every misdeed at hand.

Its log of complete requests (head and whole body were read) is the oracle of the tests: whatever the client
believes, a row that stands in it twice was billed twice.

It is a proxy too: ``BillingServer(forwarding)``; a refusing one: ``BillingServer(lambda _: reply(407))``.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import threading
import time
from collections import Counter
from typing import final

import trustme

from tests.billing_answers import Answer, Then
from tests.billing_contract import BilledRow, Received, Respond, contract
from tests.billing_wire import NotARequestError, Request, Wire


@final
class BillingServer:
    """A server on 127.0.0.1 in threads of this process, from its making until ``close``.

    respond:   chooses each answer.
    authority: given, the server speaks TLS with a certificate for ``names``.
    """

    def __init__(
        self,
        respond: Respond = contract,
        *,
        authority: trustme.CA | None = None,
        names: tuple[str, ...] = ("127.0.0.1", "localhost"),
    ) -> None:
        self.respond = respond
        self._tls = _tls_context(authority, names) if authority else None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self.base_url = f"{'https' if authority else 'http'}://127.0.0.1:{self.port}/api/v1"
        self._changed = threading.Condition()
        self._received: list[Received] = []
        self._billed: list[Received] = []
        self._count_by_method: Counter[str] = Counter()
        self._fragments: list[bytes] = []
        self._wires: list[Wire] = []
        self._gates: set[threading.Event] = set()
        self._in_flight = 0
        self._peak_in_flight = 0
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> BillingServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def received(self) -> list[Received]:
        """Every complete request so far, in the order they were completed."""
        with self._changed:
            return self._received.copy()

    @property
    def posts(self) -> list[Received]:
        """The complete posts of usage events, whatever they were answered."""
        return [request for request in self.received if request.method == "POST"]

    @property
    def look_ups(self) -> list[Received]:
        """The complete customer look-ups, whatever they were answered."""
        return [request for request in self.received if request.method == "GET"]

    @property
    def fragments(self) -> list[bytes]:
        """What arrived and never became a complete HTTP request."""
        with self._changed:
            return self._fragments.copy()

    @property
    def connections(self) -> int:
        """How many TCP connections were accepted so far."""
        with self._changed:
            return len(self._wires)

    @property
    def peak_in_flight(self) -> int:
        """The most complete requests at one time whose answers had not begun; arrange it with gates."""
        with self._changed:
            return self._peak_in_flight

    def billed(self) -> Counter[BilledRow]:
        """How often each row was billed: posts whose answer does not plainly say no."""
        with self._changed:
            return Counter(request.billed_row for request in self._billed)

    def billed_by(self, header_name: str) -> Counter[str]:
        """How often each value of a header (an event id) was billed."""
        with self._changed:
            return Counter(request.headers[header_name.lower()] for request in self._billed)

    def wait_for(self, *, posts: int = 0, look_ups: int = 0, timeout_seconds: float = 10) -> None:
        """Wait until so many complete requests were received; TimeoutError when they do not come."""
        counts = self._count_by_method
        with self._changed:
            if not self._changed.wait_for(
                lambda: counts["POST"] >= posts and counts["GET"] >= look_ups, timeout_seconds
            ):
                raise TimeoutError(f"{posts} posts and {look_ups} look-ups awaited, {dict(counts)} received")

    def close(self) -> None:
        """End every connection and thread; may be called twice."""
        with self._changed:
            already_closing = self._closing.is_set()
            self._closing.set()
            for wire in self._wires:
                wire.abandon()
            for gate in self._gates:
                gate.set()
        if already_closing:
            return
        # Closing a listener wakes its accept() on no system for certain; a connection does on all.
        socket.create_connection(("127.0.0.1", self.port), timeout=10).close()
        for thread in self._threads:
            thread.join(timeout=10)
            if thread.is_alive():
                raise TimeoutError("a thread of the billing server does not end")
        self._listener.close()

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            with self._changed:
                if self._closing.is_set():
                    sock.close()
                    return
                try:
                    wire = Wire(sock, tls=self._tls, closing=self._closing)
                except OSError:
                    # The client has left already.
                    sock.close()
                    continue
                thread = threading.Thread(target=self._serve, args=(wire, len(self._wires)), daemon=True)
                self._wires.append(wire)
                self._threads.append(thread)
                # Under the lock, so that close() never joins a thread that was not started.
                thread.start()

    def _serve(self, wire: Wire, connection: int) -> None:
        # OSError: the client left, or the server closes.
        with contextlib.closing(wire), contextlib.suppress(OSError):
            for index in itertools.count():
                if not self._answer_next(wire, connection, index):
                    break
        if wire.unread:
            with self._changed:
                self._fragments.append(wire.unread)

    def _answer_next(self, wire: Wire, connection: int, index: int) -> bool:
        """Answer one request; whether another may come over the connection."""
        try:
            request = wire.read_request()
        except NotARequestError:
            wire.refuse()
            return False
        if request is None:
            return False
        answer = self._log(request, connection, index)
        if answer.gate:
            self._wait_at(answer.gate)
        # Before the answer: once it has that, the client may rightly start another request.
        with self._changed:
            self._in_flight -= 1
        wire.perform(answer, request)
        return answer.then is Then.KEEP_OPEN and "close" not in request.headers.get("connection", "")

    def _log(self, request: Request, connection: int, index: int) -> Answer:
        with self._changed:
            received = Received(
                **request._asdict(),
                number=len(self._received),
                connection=connection,
                index_on_connection=index,
                at_seconds=time.monotonic(),
            )
            answer = self.respond(received)
            self._received.append(received)
            if received.method == "POST" and answer.bills:
                self._billed.append(received)
            self._count_by_method[received.method] += 1
            self._in_flight += 1
            self._peak_in_flight = max(self._peak_in_flight, self._in_flight)
            self._changed.notify_all()
        return answer

    def _wait_at(self, gate: threading.Event) -> None:
        with self._changed:
            if self._closing.is_set():
                return
            # close() sets it, so that no thread outlives the server.
            self._gates.add(gate)
        gate.wait()


def _tls_context(authority: trustme.CA, names: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context
