"""One connection of the billing server: bytes in to a whole request, an answer out to bytes."""

from __future__ import annotations

import contextlib
import itertools
import re
import select
import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from tests.billing_answers import Answer, Then, reply

HEAD_END = b"\r\n\r\n"
REQUEST_LINE = re.compile(r"([A-Z]+) (\S+) HTTP/1\.[01]")
HEADER_LINE = re.compile(r"([^\s:]+):[ \t]*(.*?)[ \t]*")
RECEIVE_BYTES = 65536


class NotARequestError(Exception):
    """What arrived can never become a request that this server takes."""


class Request(NamedTuple):
    """One whole request; headers by lower-cased name, repeated ones joined by ", "."""

    method: str
    path: str
    headers: Mapping[str, str]
    raw_head: bytes
    body: bytes


class Wire:
    """One accepted connection, served by one thread; only ``abandon`` may be called by another.

    closing: set when the server closes.
    """

    def __init__(self, sock: socket.socket, *, tls: ssl.SSLContext | None, closing: threading.Event) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._closing = closing
        # The handshake is left to the first read, in the thread that serves the connection.
        self._sock = tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False) if tls else sock
        self.unread = b""

    def read_request(self) -> Request | None:
        """Wait for a whole request; None when the client leaves before it is one.

        What is not consumed stays in ``unread``. A body must have a Content-Length, and ``Expect`` is not
        heeded: the client of the contract sends small bodies at once.
        """
        while (head_bytes := self.unread.find(HEAD_END)) < 0:
            # A TLS client on a plain port; it waits for an answer, and real servers give one.
            if self.unread and not self.unread[:1].isupper():
                raise NotARequestError
            if not self._receive():
                return None
        raw_head = self.unread[: head_bytes + len(HEAD_END)]
        method, path, headers = _parse(raw_head)
        length = headers.get("content-length", "0")
        if "transfer-encoding" in headers or not length.isdecimal():
            raise NotARequestError
        whole_bytes = len(raw_head) + int(length)
        while len(self.unread) < whole_bytes:
            if not self._receive():
                return None
        body = self.unread[len(raw_head) : whole_bytes]
        self.unread = self.unread[whole_bytes:]
        return Request(method, path, headers, raw_head, body)

    def refuse(self) -> None:
        """Answer what is not a request."""
        self._sock.sendall(reply(400).data)

    def perform(self, answer: Answer, request: Request) -> None:
        """Send the answer and do to the connection what it says; OSError when the client has left."""
        for piece in _pieces(answer):
            self._sock.sendall(piece)
            if answer.pause_seconds:
                self._closing.wait(answer.pause_seconds)
        if answer.then is Then.RST:
            # No lingering: closing throws away what was not sent and resets (socket(7), SO_LINGER).
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif answer.then is Then.HANG:
            while self._receive():
                pass
        elif answer.then is Then.TUNNEL:
            host, _, port = request.path.rpartition(":")
            with socket.create_connection((host, int(port)), timeout=10) as upstream:
                self._pass_both_ways(upstream)
        elif answer.then is Then.FORWARD:
            self._forward(request)

    def abandon(self) -> None:
        """End the connection under the thread that serves it."""
        with contextlib.suppress(OSError):
            # Not SSLSocket's own, which takes the TLS state away from under the other thread.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket; the client sees FIN, or RST if that was the answer."""
        self._sock.close()

    def _receive(self) -> bool:
        data = self._sock.recv(RECEIVE_BYTES)
        self.unread += data
        return bool(data)

    def _pass_both_ways(self, upstream: socket.socket) -> None:
        while True:
            for source in select.select([self._sock, upstream], [], [])[0]:
                data = source.recv(RECEIVE_BYTES)
                if not data:
                    return
                (upstream if source is self._sock else self._sock).sendall(data)

    def _forward(self, request: Request) -> None:
        url = urlsplit(request.path)
        request_line, _, fields = request.raw_head.partition(b"\r\n")
        origin_line = request_line.replace(f"http://{url.netloc}".encode(), b"", 1)
        upstream = socket.create_connection((url.hostname, url.port or 80), timeout=10)
        with upstream, upstream.makefile("rb") as answer:
            upstream.sendall(origin_line + b"\r\nConnection: close\r\n" + fields + request.body)
            # One request a connection, and the client is told, or it would send its next one into the dark.
            if status_line := answer.readline():
                self._sock.sendall(status_line + b"Connection: close\r\n")
            while data := answer.read1():
                self._sock.sendall(data)


def _pieces(answer: Answer) -> Iterator[bytes]:
    blocks = itertools.chain([answer.data], itertools.repeat(answer.endless) if answer.endless else [])
    if not answer.pause_seconds:
        return blocks
    return (bytes([byte]) for block in blocks for byte in block)


def _parse(raw_head: bytes) -> tuple[str, str, Mapping[str, str]]:
    request_line, *lines = raw_head.removesuffix(HEAD_END).decode("latin-1").split("\r\n")
    request_match = REQUEST_LINE.fullmatch(request_line)
    if not request_match:
        raise NotARequestError
    value_by_name: dict[str, str] = {}
    for line in lines:
        match = HEADER_LINE.fullmatch(line)
        if not match:
            raise NotARequestError
        name = match[1].lower()
        value_by_name[name] = f"{value_by_name[name]}, {match[2]}" if name in value_by_name else match[2]
    return request_match[1], request_match[2], value_by_name
