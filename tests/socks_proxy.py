"""A SOCKS proxy for the tests: versions 4, 4a and 5, with a password or without."""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import BinaryIO, cast


@dataclass(kw_only=True)
class SocksProxy:
    """A proxy on 127.0.0.1, in threads of this process, from its making until ``close``.

    password: demanded of the user ``meter``; none is when it is empty. SOCKS 4 has none.
    refuses:  whoever asks.
    asked:    the host of each connection, as it was named, and who asked.
    """

    password: str = ""
    refuses: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)
    _listener: socket.socket = field(default_factory=lambda: socket.create_server(("127.0.0.1", 0)))

    def __post_init__(self) -> None:
        """Begin to serve."""
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> SocksProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # else whoever accepts goes on once more
        self._listener.close()

    @property
    def door(self) -> str:
        """Where it is."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, IndexError), client.makefile("rb") as file:
            asks = cast("BinaryIO", file)
            version = asks.read(1)[0]
            host, port, user = self._asked_4(asks) if version == 4 else self._asked_5(client, asks)
            self.asked.append((host, user))
            status = (91 if version == 4 else 5) if self.refuses else (90 if version == 4 else 0)
            said = struct.pack(">BB", 0 if version == 4 else 5, status)
            client.sendall(said + (bytes(6) if version == 4 else b"\0\1" + bytes(6)))
            if not self.refuses:
                with socket.create_connection((host, port), timeout=10) as backend:
                    _pass_both_ways(client, backend)

    @staticmethod
    def _asked_4(asks: BinaryIO) -> tuple[str, int, str]:
        _, port, number = struct.unpack(">BHI", asks.read(7))
        user, name = _until_nul(asks), ""
        if 0 < number < 256:
            name = _until_nul(asks)
        return name or str(ipaddress.IPv4Address(number)), port, user

    def _asked_5(self, client: socket.socket, asks: BinaryIO) -> tuple[str, int, str]:
        read = asks.read
        methods = read(read(1)[0])
        wanted = 2 if self.password else 0
        client.sendall(bytes([5, wanted if wanted in methods else 255]))
        user = ""
        if self.password:
            read(1)
            user, password = (read(read(1)[0]).decode() for _ in range(2))
            client.sendall(bytes([1, (user, password) != ("meter", self.password)]))
        kind = read(4)[3]
        bare = read(read(1)[0] if kind == 3 else 4 if kind == 1 else 16)
        host = bare.decode() if kind == 3 else str(ipaddress.ip_address(bare))
        return host, struct.unpack(">H", read(2))[0], user


def _until_nul(asks: BinaryIO) -> str:
    text = b""
    while (byte := asks.read(1)) != b"\0":
        text += byte
    return text.decode()


def _pass_both_ways(client: socket.socket, backend: socket.socket) -> None:
    while True:
        for source in select.select([client, backend], [], [])[0]:
            data = source.recv(65536)
            if not data:
                return
            (backend if source is client else client).sendall(data)
