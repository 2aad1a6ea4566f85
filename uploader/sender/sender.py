"""Many calls in flight on one thread, each sent at most once: HTTP/1.1 over connections that are used again.

A request is handed to the kernel at one place, once (link.py). When no byte of it was, it was never sent; when some
were and no whole answer came, nobody can tell what became of it. The libraries for HTTP send a request again by
themselves when a used connection dies before any answer, and report the one success: the row would be billed twice.
They are also slow: of the 40 us that a row took over libcurl, 17 were libcurl's (docs/benchmark.md).
"""

from __future__ import annotations

import math
import selectors
import time
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from uploader.model.api import Exchange, Failure, Request
from uploader.sender.descriptors import most_sockets
from uploader.sender.dialling import Dialling
from uploader.sender.link import Link
from uploader.sender.origin import Origin, origin_of, request_bytes
from uploader.sender.proxies import proxy_of
from uploader.sender.steps import Prospect, Steps, UnconnectedError, Wait
from uploader.sender.tls import Stream, in_words

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_MOST_BEFORE_A_CONNECTION = 8
"""Calls at once until one has a connection, or has ended: a backend that is not there is not run against by all."""
_MOST_IDLE_SECONDS = 2.0
"""A connection idle for longer is not used again: the backend may be closing it, and that race costs a doubt. Half as
long as the backend was seen to leave one open, if that is less."""

_LEAST_IDLE_SECONDS = 0.1
"""One that the backend closed sooner was closed for another reason than that it was idle."""
_SECONDS_LEARNED = 60.0
"""How long it is remembered: a backend that was only started anew closes connections, too."""
_NOT_WAITING = Wait("connection")

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How the sender connects.

    most_in_flight:  calls at once, and connections kept to one backend.
    timeout_seconds: for a whole exchange, connecting included, however slowly the answer drips.
    proxy:           its URL; empty for none. The environment's proxies are not looked at.
    ca_bundle:       path of a file or folder of trusted certificates.
    """

    most_in_flight: int
    timeout_seconds: float
    proxy: str
    ca_bundle: str


class _Call(Generic[Key]):
    """One attempt at a call.

    link: the connection that carries it; None before there is one.
    dial: makes one, and ``waits`` is what it waits for now.
    """

    __slots__ = ("began_seconds", "dial", "is_over", "key", "link", "request", "waits")

    def __init__(self, key: Key, request: Request) -> None:
        self.key = key
        self.request = request
        self.began_seconds = 0.0
        self.is_over = False
        self.link: Link[_Call[Key]] | None = None
        self.dial: Steps[Stream] | None = None
        self.waits = _NOT_WAITING


class Sender(Generic[Key]):
    """Up to ``most_in_flight`` calls at once; the caller starts them and waits for what they came to.

    A call's time begins when it starts or, until a first connection came about, with its turn to connect.

    in_flight:      calls that were started and not yet handed back.
    waited_seconds: how long in all this process has slept, waiting for answers.
    """

    def __init__(self, connection: Connection) -> None:
        self._most_in_flight = connection.most_in_flight
        self._timeout_seconds = connection.timeout_seconds
        proxy = proxy_of(connection.proxy)
        self._proxy_lines = None if proxy is None or not proxy.speaks_http else proxy.lines
        self._dialling = Dialling(
            proxy=proxy,
            ca_bundle=connection.ca_bundle,
            most_sockets=most_sockets(calls=connection.most_in_flight),
        )
        self._selector = selectors.DefaultSelector()
        self._hears_bell = False
        self._links: set[Link[_Call[Key]]] = set()
        self._idle_by_origin: dict[Origin, deque[Link[_Call[Key]]]] = {}
        self._most_idle_seconds = _MOST_IDLE_SECONDS
        self._learned_until_seconds = math.inf
        self._held_back: deque[_Call[Key]] = deque()
        self._may_begin_all = False
        self._begun: deque[_Call[Key]] = deque()
        self._connecting: set[_Call[Key]] = set()
        self._ended: list[tuple[Key, Exchange]] = []
        self._has_had_an_answer = False
        self.in_flight = 0
        self.waited_seconds = 0.0

    def start(self, key: Key, request: Request) -> None:
        """Start a call; what it comes to will carry ``key``.

        Raises:
            RuntimeError: as many as may be are in flight.
        """
        if self.in_flight >= self._most_in_flight:
            raise RuntimeError("as many calls as may be are in flight")
        self.in_flight += 1
        call = _Call(key, request)
        if self._may_begin_all:
            self._begin(call)
        else:
            self._held_back.append(call)

    def wait(self, *, timeout_seconds: float) -> list[tuple[Key, Exchange]]:
        """Let calls go on, for the time at most; give those that ended.

        Comes back early, perhaps with none, when something was heard of any call.
        """
        self._begin_held_back()
        if self._ended:
            timeout_seconds = 0.0
        while (before := len(self._ended)) < self.in_flight:
            self._turn(timeout_seconds=timeout_seconds)
            if len(self._ended) == before:
                break
            timeout_seconds = 0.0  # answers that come as fast as they are read are one commit of the ledger, not many
        ended, self._ended = self._ended, []
        self.in_flight -= len(ended)
        return ended

    def close(self) -> None:
        """Drop every call still in flight, and every connection."""
        for call in self._connecting:
            if call.dial is not None:
                call.dial.close()
        for link in self._links:
            link.stream.close()
        for calls in (self._connecting, self._links, self._idle_by_origin, self._begun, self._held_back, self._ended):
            calls.clear()
        self.in_flight = 0
        self._dialling.resolver.close()
        self._selector.close()

    # One turn: all that has happened is seen to.

    def _turn(self, *, timeout_seconds: float) -> None:
        began_seconds = time.monotonic()
        wait_seconds = min(timeout_seconds, self._next_due_seconds() - began_seconds)
        ready = self._selector.select(max(0.0, wait_seconds))
        now_seconds = time.monotonic()
        self.waited_seconds += now_seconds - began_seconds
        for registered, events in ready:
            if isinstance(registered.data, Link):
                self._go_on(registered.data, events)
            elif registered.data is not None:
                self._go_on_connecting(registered.data)
            else:
                self._hear_bell()
        self._see_to_clocks(now_seconds)
        self._begin_held_back()

    def _next_due_seconds(self) -> float:
        while self._begun and self._begun[0].is_over:
            self._begun.popleft()
        due_seconds = self._begun[0].began_seconds + self._timeout_seconds if self._begun else math.inf
        for call in self._connecting:
            if call.waits.until_seconds is not None:
                due_seconds = min(due_seconds, call.waits.until_seconds)
        return due_seconds

    def _hear_bell(self) -> None:
        """Go on with those calls that may wait for a name: one was answered."""
        self._dialling.resolver.silence_bell()
        for waiting in [call for call in self._connecting if not call.waits.sockets]:
            self._go_on_connecting(waiting)

    def _see_to_clocks(self, now_seconds: float) -> None:
        for call in [*self._connecting]:
            if call.waits.until_seconds is not None and call.waits.until_seconds <= now_seconds:
                self._go_on_connecting(call)
        while self._begun and self._begun[0].began_seconds + self._timeout_seconds <= now_seconds:
            call = self._begun.popleft()
            if not call.is_over:
                self._fail_overdue(call)

    # A call begins.

    def _begin_held_back(self) -> None:
        while self._held_back:
            begun = self.in_flight - len(self._held_back) - len(self._ended)
            if not self._may_begin_all and begun >= _MOST_BEFORE_A_CONNECTION:
                return
            self._begin(self._held_back.popleft())

    def _begin(self, call: _Call[Key]) -> None:
        call.began_seconds = time.monotonic()
        try:
            origin = origin_of(call.request.url)
        except ValueError as error:
            self._end(call, _unsent(call, Failure.MISCONFIGURED, str(error)))
            return
        self._note_begun(call)
        link = self._idle_link(origin, now_seconds=call.began_seconds)
        if link is None:
            call.dial = self._dialling.dial(origin)
            self._connecting.add(call)
            self._go_on_connecting(call)
        else:
            self._send(call, link)

    def _note_begun(self, call: _Call[Key]) -> None:
        self._begun.append(call)
        # Behind one that hangs, those that are over would gather until its time is.
        if len(self._begun) > 4 * self._most_in_flight:
            self._begun = deque(begun for begun in self._begun if not begun.is_over)

    def _idle_link(self, origin: Origin, *, now_seconds: float) -> Link[_Call[Key]] | None:
        if now_seconds > self._learned_until_seconds:
            self._most_idle_seconds = _MOST_IDLE_SECONDS
        idle = self._idle_by_origin.get(origin)
        while idle:
            link = idle.popleft()  # the one idle longest: had it been closed, that would most likely be known
            if now_seconds - link.idle_since_seconds > self._most_idle_seconds:
                self._close(link)
            elif link.is_still_idle():
                return link
            else:
                self._learn_of_end(link)
        return None

    def _learn_of_end(self, link: Link[_Call[Key]]) -> None:
        now_seconds = time.monotonic()
        idle_seconds = now_seconds - link.idle_since_seconds
        if idle_seconds >= _LEAST_IDLE_SECONDS:
            self._most_idle_seconds = min(self._most_idle_seconds, idle_seconds / 2)
            self._learned_until_seconds = now_seconds + _SECONDS_LEARNED
        self._close(link)

    def _go_on_connecting(self, call: _Call[Key]) -> None:
        if call.dial is None:  # it has been seen to in this turn
            return
        self._stop_waiting(call)
        try:
            call.waits = next(call.dial)
        except StopIteration as connected:
            self._connecting.discard(call)
            call.dial = None
            self._use_new(call, connected.value)
        except UnconnectedError as error:
            may_pass = (Prospect.OPEN, Prospect.NONE_AT_FIRST) if self._has_had_an_answer else (Prospect.OPEN,)
            failure = Failure.UNREACHABLE if error.prospect in may_pass else Failure.MISCONFIGURED
            self._end(call, _unsent(call, failure, str(error)))
        else:
            for descriptor, events in call.waits.sockets:
                self._selector.register(descriptor, events, call)
            if not self._hears_bell and self._dialling.resolver.bell is not None:
                self._hears_bell = True
                self._selector.register(self._dialling.resolver.bell, _READ)

    def _use_new(self, call: _Call[Key], stream: Stream) -> None:
        link: Link[_Call[Key]] = Link(stream, origin_of(call.request.url))
        self._links.add(link)
        self._selector.register(link.stream.fileno(), _READ, link)
        if time.monotonic() >= call.began_seconds + self._timeout_seconds:
            # This process stood still, say: the request would go out only to be given up.
            self._close(link)
            self._fail_overdue(call)
        elif not link.is_still_idle():
            self._close(link)
            self._fail(call, f"{link.origin.netloc} ended the connection, or spoke, before it was asked anything")
        else:
            self._send(call, link)

    def _stop_waiting(self, call: _Call[Key]) -> None:
        for descriptor, _ in call.waits.sockets:
            self._selector.unregister(descriptor)
        call.waits = _NOT_WAITING

    # Its request goes out, its answer comes in.

    def _send(self, call: _Call[Key], link: Link[_Call[Key]]) -> None:
        self._may_begin_all = True
        call.link = link
        try:
            proxy_lines = self._proxy_lines if link.origin.scheme == "http" else None
            link.begin(call, request_bytes(call.request, proxy_lines=proxy_lines))
        except OSError as error:
            self._fail(call, f"the connection was lost: {in_words(error)}")
            return
        if link.wants_to_write:
            self._selector.modify(link.stream.fileno(), _READ | _WRITE, link)

    def _go_on(self, link: Link[_Call[Key]], events: int) -> None:
        call = link.call
        if call is None:
            if not link.is_still_idle():
                self._idle_by_origin[link.origin].remove(link)
                self._learn_of_end(link)
            return
        try:
            if events & _WRITE:
                link.send()
                if not link.wants_to_write:
                    self._selector.modify(link.stream.fileno(), _READ, link)
            is_over = link.receive()
        except OSError as error:
            self._fail(call, f"the connection was lost: {in_words(error)}")
        else:
            if is_over:
                self._end(call, self._exchange(call, link))

    # It is over.

    def _exchange(self, call: _Call[Key], link: Link[_Call[Key]]) -> Exchange:
        elapsed_seconds = time.monotonic() - call.began_seconds
        answer = link.answer
        head = answer.head
        if head is None:
            return Exchange(
                sent=link.has_sent, failure=Failure.CUT_SHORT, error=answer.fault, elapsed_seconds=elapsed_seconds
            )
        self._has_had_an_answer = True
        if 200 <= head.status <= 299 and not link.has_sent_all:
            answer.fault = "the answer came before the whole request was sent"
        failure = Failure.NONE if answer.is_whole and not answer.fault else Failure.CUT_SHORT
        return Exchange(  # by keyword it would take half as long again
            link.has_sent,
            failure,
            head.status,
            head.framed,
            head.retry_after,
            answer.content,
            answer.fault,
            elapsed_seconds,
            head.date,
        )

    def _fail_overdue(self, call: _Call[Key]) -> None:
        self._fail(call, f"no {_missing(call)} within {self._timeout_seconds:g} s")

    def _fail(self, call: _Call[Key], words: str) -> None:
        if call.link is None or not call.link.has_sent:
            self._end(call, _unsent(call, Failure.UNREACHABLE, words))
            return
        call.link.answer.fault = words
        self._end(call, self._exchange(call, call.link))

    def _end(self, call: _Call[Key], exchange: Exchange) -> None:
        call.is_over = True
        # Else a silent backend would have its time again and again, and keep a run from ending.
        self._may_begin_all = True
        if call.dial is not None:
            self._stop_waiting(call)
            self._connecting.discard(call)
            call.dial.close()
            call.dial = None
        link = call.link
        if link is not None:
            call.link = link.call = None
            if link.may_go_on:
                link.idle_since_seconds = time.monotonic()
                self._idle_by_origin.setdefault(link.origin, deque()).append(link)
            else:
                self._close(link)
        self._ended.append((call.key, exchange))

    def _close(self, link: Link[_Call[Key]]) -> None:
        self._links.discard(link)
        self._selector.unregister(link.stream.fileno())
        link.stream.close()


def _unsent(call: _Call[Key], failure: Failure, words: str) -> Exchange:
    return Exchange(sent=False, failure=failure, error=words, elapsed_seconds=time.monotonic() - call.began_seconds)


def _missing(call: _Call[Key]) -> str:
    if call.link is None or not call.link.has_sent:
        return call.waits.what
    return "whole answer" if call.link.answer.has_begun else "answer"
