"""Host names -> addresses, asked for in threads: the system's resolver can take its time, and answers must be read."""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

_SECONDS_KNOWN = 60.0
"""After which a name is asked for again; its addresses may be others by then."""


class Address(NamedTuple):
    """Where to connect: a family of addresses, and what `socket.connect` takes in it."""

    family: int
    sockaddr: tuple[Any, ...]


@dataclass(slots=True)
class Question:
    """A name that was asked for; without error, ``addresses`` has at least one, in the order to be tried."""

    is_answered: bool = False
    addresses: Sequence[Address] = ()
    error: str = ""
    asked_seconds: float = field(default_factory=time.monotonic)

    def prefer(self, address: Address) -> None:
        """Have one that took a connection be tried first: of the others, some may never answer."""
        if self.addresses[0] != address:
            self.addresses = [address, *(other for other in self.addresses if other != address)]


class Resolver:
    """Asks the system for names, each once at a time.

    bell: becomes readable when a question was answered; None until one needs the wait.
    """

    def __init__(self) -> None:
        self._question_by_door: dict[tuple[str, int], Question] = {}
        self._ringer: socket.socket | None = None
        self.bell: socket.socket | None = None

    def ask(self, host: str, port: int) -> Question:
        """Ask for a host's addresses. An address in numbers is answered at once."""
        known = self._question_by_door.get((host, port))
        if known is not None and not known.error and time.monotonic() - known.asked_seconds < _SECONDS_KNOWN:
            return known
        question = Question()
        _answer(question, host, port, flags=socket.AI_NUMERICHOST)
        if question.error:
            question = self._ask_the_system(host, port)
        self._question_by_door[host, port] = question
        return question

    def answer(self, host: str, port: int, *, timeout_seconds: float) -> Question:
        """Ask for a host's addresses and wait for them; that there are none in time is the answer's error."""
        question, until_seconds = self.ask(host, port), time.monotonic() + timeout_seconds
        while self.bell is not None and not question.is_answered:
            left_seconds = until_seconds - time.monotonic()
            if left_seconds <= 0:
                return Question(is_answered=True, error=f"no answer from the name server within {timeout_seconds:g} s")
            select.select([self.bell], [], [], left_seconds)
            self.silence_bell()
        return question

    def silence_bell(self) -> None:
        """Take note of the rings so far."""
        if self.bell is not None:
            with contextlib.suppress(BlockingIOError):
                self.bell.recv(1024)

    def close(self) -> None:
        """Wait for no answer any more."""
        for end in (self.bell, self._ringer):
            if end is not None:
                end.close()

    def _ask_the_system(self, host: str, port: int) -> Question:
        question = Question()
        try:
            if self.bell is None:
                self.bell, self._ringer = socket.socketpair()
                self.bell.settimeout(0)
                self._ringer.settimeout(0)
            threading.Thread(target=_ask, args=(question, host, port, self._ringer), daemon=True).start()
        except (OSError, RuntimeError) as error:  # the system lets this user have no more files, or threads
            question.error, question.is_answered = str(error), True
        return question


def _ask(question: Question, host: str, port: int, ringer: socket.socket) -> None:
    _answer(question, host, port, flags=0)
    with contextlib.suppress(OSError):  # nobody waits any more, or there are more rings than were heard
        ringer.send(b"!")


def _answer(question: Question, host: str, port: int, *, flags: int) -> None:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError) as error:  # a proxy's name may be none
        question.error = getattr(error, "strerror", None) or str(error)
    else:
        question.addresses = in_turn([Address(family, sockaddr) for family, _, _, _, sockaddr in found])
    question.is_answered = True


def in_turn(addresses: Sequence[Address]) -> list[Address]:
    """Put the families in turn, so that one that leads nowhere holds little up (RFC 8305 section 4)."""
    families = list(dict.fromkeys(address.family for address in addresses))
    of_families = [[address for address in addresses if address.family == family] for family in families]
    return [address for rank in itertools.zip_longest(*of_families) for address in rank if address is not None]
