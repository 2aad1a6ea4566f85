"""What is said to a SOCKS proxy before a connection passes through it: SOCKS 4, 4a and 5.

SOCKS 4 and 4a are documented by their makers (the files SOCKS4.protocol and SOCKS4A of the reference server); SOCKS 5
is RFC 1928, its passwords RFC 1929.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Generator, Sequence
from typing import NamedTuple

RESOLVED_HERE = frozenset({"socks", "socks4", "socks5"})
"""Schemes by which the proxy is given an address; by the others it is given the host's name."""
_SOCKS_5 = frozenset({"socks5", "socks5h"})
_CONNECT = 1
_NO_PASSWORD, _PASSWORD = 0, 2
_IPV4, _NAME, _IPV6 = 1, 3, 4
_GRANTED_4 = 90


class Step(NamedTuple):
    """One turn of the talk: bytes to send, then how many to receive."""

    sends: bytes
    then_receives_bytes: int


Talk = Generator[Step, bytes, None]


class LoginError(ValueError):
    """The proxy does not take the user or the password, or asks for one."""


def chosen_address(addresses: Sequence[str]) -> str:
    """Choose the one address to name to the proxy: SOCKS 4 knows IPv4 alone, and all reach that more often."""
    return next((address for address in addresses if ":" not in address), addresses[0])


def talk(scheme: str, *, host: str, port: int, user: str, password: str) -> Talk:
    """Ask for a connection; takes what was received for each step.

    Raises:
        LoginError: the proxy is told of another user than it takes.
        ValueError: the proxy refuses, is none, or cannot be told of such a host.
    """
    if scheme in _SOCKS_5:
        return _talk_5(host, port, user.encode(), password.encode())
    return _talk_4(host, port, user.encode())


def _talk_4(host: str, port: int, user: bytes) -> Talk:
    name = b""
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        if ":" in host:
            raise ValueError("SOCKS 4 knows no IPv6") from None
        address, name = ipaddress.IPv4Address("0.0.0.1"), host.encode("ascii") + b"\0"
    answer = yield Step(struct.pack(">BBH", 4, _CONNECT, port) + address.packed + user + b"\0" + name, 8)
    if answer[0] != 0 or answer[1] != _GRANTED_4:
        raise ValueError(f"SOCKS 4 answers {answer[1]}")


def _talk_5(host: str, port: int, user: bytes, password: bytes) -> Talk:
    if max(len(user), len(password)) > 255:
        raise LoginError("SOCKS 5 takes a user and a password of 255 bytes at the most")
    methods = bytes([_NO_PASSWORD, _PASSWORD] if user else [_NO_PASSWORD])
    version, method = yield Step(bytes([5, len(methods)]) + methods, 2)
    if version != 5:
        raise ValueError("it speaks no SOCKS 5")
    if method not in methods:
        raise LoginError("it does not take this user" if user else "it asks for a user and password")
    if method == _PASSWORD:
        _, status = yield Step(bytes([1, len(user)]) + user + bytes([len(password)]) + password, 2)
        if status:
            raise LoginError("it refuses the password")
    answer = yield Step(bytes([5, _CONNECT, 0]) + _address_5(host) + struct.pack(">H", port), 5)
    if answer[1]:
        raise ValueError(f"SOCKS 5 answers {answer[1]}")
    bound_bytes = {_IPV4: 4, _IPV6: 16, _NAME: 1 + answer[4]}.get(answer[3])
    if bound_bytes is None:
        raise ValueError("it speaks no SOCKS 5")
    yield Step(b"", bound_bytes - 1 + 2)


def _address_5(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        return bytes([_NAME, len(name)]) + name
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed
