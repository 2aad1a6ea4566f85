"""Many calls in flight on one thread, each sent at most once. The only file that knows libcurl.

libcurl sends a POST again, unasked, when a reused connection dies before any answer, and reports the one success. The
guard is PREREQFUNCTION (libcurl 7.80), called each time a request is about to go out: the second call within one
attempt aborts it. The same count proves that a request never left; the error code does not (28 is a connect timeout
and a lost answer alike).

Only sockets that are ready are read (curl_multi_socket_action). curl_multi_perform tries every call in flight each
time: with 256 of them behind 50 ms it made 26 reads an answer, and cost a tenth of the rate. They are waited for by
poll(2): epoll_ctl(2) for each call costs more than that, even with hundreds in flight.
"""

from __future__ import annotations

import functools
import select
import time
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import pycurl

from uploader.answer_head import final_head
from uploader.api import MOST_ANSWER_BYTES, Exchange, Failure, Request
from uploader.errors import SettingsError
from uploader.idle_connections import IdleConnections

_FIRST_LIBCURL_WITH_THE_HOOK = 0x075000
_MOST_BEFORE_A_CONNECTION = 8
"""Calls at once until one has a connection, or has ended: each looks up the backend's address, of which libcurl does
some ten at a time, and the time of those that wait for their turn would run."""
_MOST_IDLE_SECONDS = 2
"""A connection idle for longer is not reused: the backend may be closing it, and that race costs a doubt."""

_MISCONFIGURED = frozenset(
    {
        pycurl.E_UNSUPPORTED_PROTOCOL,
        pycurl.E_URL_MALFORMAT,
        pycurl.E_SSL_ENGINE_NOTFOUND,
        pycurl.E_SSL_ENGINE_SETFAILED,
        pycurl.E_SSL_CERTPROBLEM,
        pycurl.E_SSL_CIPHER,
        pycurl.E_PEER_FAILED_VERIFICATION,
        pycurl.E_SSL_CACERT_BADFILE,
        pycurl.E_SSL_ISSUER_ERROR,
    }
)
_EVENTS_BY_INTEREST = {
    pycurl.POLL_IN: select.POLLIN,
    pycurl.POLL_OUT: select.POLLOUT,
    pycurl.POLL_INOUT: select.POLLIN | select.POLLOUT,
}

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """How the sender connects.

    most_in_flight:  calls at once, and connections kept.
    timeout_seconds: for a whole exchange, connecting included, however slowly the answer drips.
    proxy:           its URL; empty for none. The environment's proxies are not looked at again.
    ca_bundle:       path of a file or folder of trusted certificates.
    """

    most_in_flight: int
    timeout_seconds: float
    proxy: str
    ca_bundle: str


class _Slot(Generic[Key]):
    """One reusable libcurl handle, and what its present attempt has brought."""

    __slots__ = ("body", "connects_anew", "curl", "head", "key", "prereq_calls", "url")

    def __init__(self) -> None:
        self.curl: Any = pycurl.Curl()
        self.head: list[bytes] = []
        self.body: list[bytes] = []
        self.prereq_calls = 0
        self.url = ""
        self.connects_anew = False
        self.key: Key

    def begin(self, key: Key) -> None:
        self.key = key
        self.prereq_calls = 0
        self.body.clear()
        self.head.clear()

    def about_to_send(self, *_addresses: object) -> int:
        self.head.clear()  # what came so far is a proxy's answer to CONNECT
        self.prereq_calls += 1
        permission: int = pycurl.PREREQFUNC_OK if self.prereq_calls == 1 else pycurl.PREREQFUNC_ABORT
        return permission


class Sender(Generic[Key]):
    """Up to ``most_in_flight`` calls at once; the caller starts them and waits for what they came to.

    A call is handed to libcurl only when a slot is free, since libcurl's clock would run while it waits in a queue.

    waited_seconds: how long in all this process has slept, waiting for answers.
    """

    def __init__(self, connection: Connection) -> None:
        _demand_single_send()
        self._connection = connection
        self._multi: Any = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, connection.most_in_flight)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._poll = select.poll()
        self._idle = IdleConnections(most=connection.most_in_flight)
        self._slots: list[_Slot[Key]] = []
        self._free: list[_Slot[Key]] = []
        self._slot_by_curl: dict[Any, _Slot[Key]] = {}
        self._held_back: deque[_Slot[Key]] = deque()
        self._holds_none_back = False
        self._has_had_an_answer = False
        self.waited_seconds = 0.0

    @property
    def in_flight(self) -> int:
        """Calls that were started and not yet handed back."""
        return len(self._slot_by_curl)

    def start(self, key: Key, request: Request) -> None:
        """Start a call; what it comes to will carry ``key``.

        Raises:
            RuntimeError: no slot is free.
        """
        slot = self._free_slot()
        slot.begin(key)
        curl = slot.curl
        if slot.url != request.url:  # all posts have one
            slot.url = request.url
            curl.setopt(pycurl.URL, request.url)
        if request.body is None:
            curl.setopt(pycurl.HTTPGET, 1)
        else:
            curl.setopt(pycurl.POSTFIELDS, request.body)  # this makes it a POST, too
        curl.setopt(pycurl.HTTPHEADER, ["Expect:", *request.headers])
        connects_anew = self._idle.must_next_connect_anew()
        if slot.connects_anew is not connects_anew:
            slot.connects_anew = connects_anew
            curl.setopt(pycurl.FRESH_CONNECT, int(connects_anew))
        self._slot_by_curl[curl] = slot
        if self._holds_none_back:
            self._multi.add_handle(curl)
        else:
            self._held_back.append(slot)

    def wait(self, *, timeout_seconds: float) -> list[tuple[Key, Exchange]]:
        """Let calls go on, for the time at most; give those that ended.

        Comes back early, perhaps with none, when something was heard of any call.
        """
        self._idle.begin_turn()
        ended = self._advance(())  # sends what was started
        if ended:
            timeout_seconds = 0.0
        # Answers that come as fast as they are read are one commit of the ledger, not many.
        while self._slot_by_curl and (more := self._advance(self._sockets_ready(timeout_seconds=timeout_seconds))):
            ended += more
            timeout_seconds = 0.0
        return ended

    def close(self) -> None:
        """Drop every call still in flight, and every connection."""
        for slot in self._slot_by_curl.values():
            if slot not in self._held_back:
                self._multi.remove_handle(slot.curl)
        self._slot_by_curl.clear()
        self._held_back.clear()
        self._free.clear()
        for slot in self._slots:
            slot.curl.close()
        self._slots.clear()
        self._multi.close()

    def _free_slot(self) -> _Slot[Key]:
        if self._free:
            return self._free.pop()
        if len(self._slots) >= self._connection.most_in_flight:
            raise RuntimeError("every slot is in flight")
        slot: _Slot[Key] = _Slot()
        _prepare(slot, self._connection)
        self._slots.append(slot)
        return slot

    def _watch(self, interest: int, socket: int, _multi: object, _data: object) -> None:
        if interest == pycurl.POLL_REMOVE:
            self._poll.unregister(socket)
            self._idle.add(socket)
            return
        if interest != pycurl.POLL_IN:
            self._idle.note_connecting(socket)
        self._idle.remove(socket)
        self._poll.register(socket, _EVENTS_BY_INTEREST[interest])

    def _sockets_ready(self, *, timeout_seconds: float) -> list[tuple[int, int]]:
        # No socket tells of libcurl's own clocks, such as an exchange's time being over.
        due_milliseconds = self._multi.timeout()
        if due_milliseconds >= 0:
            timeout_seconds = min(timeout_seconds, due_milliseconds / 1000)
        began_seconds = time.monotonic()
        ready = self._poll.poll(timeout_seconds * 1000)
        self.waited_seconds += time.monotonic() - began_seconds
        return ready

    def _advance(self, ready: Sequence[tuple[int, int]]) -> list[tuple[Key, Exchange]]:
        for socket, _events in ready:
            self._multi.socket_action(socket, 0)  # libcurl sees for itself what there is to do
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        while self._held_back and self._hand_over():
            self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        ended: list[tuple[Key, Exchange]] = []
        while True:
            queued, succeeded, failed = self._multi.info_read()
            ended += [self._take_back(curl, code=0, words="") for curl in succeeded]
            ended += [self._take_back(curl, code=code, words=words) for curl, code, words in failed]
            if not queued:
                return ended

    def _hand_over(self) -> int:
        """Hand libcurl as many calls as may begin now; tell how many."""
        self._holds_none_back |= any(slot.prereq_calls for slot in self._slot_by_curl.values())
        begun = len(self._slot_by_curl) - len(self._held_back)
        most = len(self._held_back) if self._holds_none_back else _MOST_BEFORE_A_CONNECTION - begun
        beginning = [self._held_back.popleft() for _ in range(min(most, len(self._held_back)))]
        for slot in beginning:
            self._multi.add_handle(slot.curl)
        return len(beginning)

    def _take_back(self, curl: Any, *, code: int, words: str) -> tuple[Key, Exchange]:
        slot = self._slot_by_curl.pop(curl)
        exchange = self._read(slot, code=code, words=words)
        # Else a silent backend would have its time again and again, and keep a run from ending.
        self._holds_none_back = True
        self._has_had_an_answer |= exchange.http_status > 0
        self._multi.remove_handle(curl)
        self._free.append(slot)
        return slot.key, exchange

    def _read(self, slot: _Slot[Key], *, code: int, words: str) -> Exchange:
        sent = slot.prereq_calls > 0 or self._went_out_all_the_same(slot, code=code)
        # Unsent, any head there is a proxy's answer to CONNECT.
        head = final_head(b"".join(slot.head)) if sent else None
        elapsed_seconds: float = slot.curl.getinfo(pycurl.TOTAL_TIME)
        if head is None:
            failure = self._failure(sent=sent, code=code or pycurl.E_GOT_NOTHING)
            return Exchange(sent=sent, failure=failure, error=_in_words(code, words), elapsed_seconds=elapsed_seconds)
        failure = self._failure(sent=sent, code=code) if code else Failure.NONE
        error = _in_words(code, words) if code else ""
        status, framed, retry_after = head
        return Exchange(sent, failure, status, framed, retry_after, b"".join(slot.body), error, elapsed_seconds)

    def _went_out_all_the_same(self, slot: _Slot[Key], *, code: int) -> bool:
        """Cross-check the count: when in doubt about it, the request counts as sent."""
        through_proxy = bool(self._connection.proxy)  # REQUEST_SIZE counts a CONNECT too
        return code == 0 or (not through_proxy and slot.curl.getinfo(pycurl.REQUEST_SIZE) > 0)

    def _failure(self, *, sent: bool, code: int) -> Failure:
        if sent:
            return Failure.CUT_SHORT
        if code in _MISCONFIGURED or (code == pycurl.E_SSL_CONNECT_ERROR and not self._has_had_an_answer):
            return Failure.MISCONFIGURED
        return Failure.UNREACHABLE


def _prepare(slot: _Slot[Any], connection: Connection) -> None:
    """Set what is the same for every call; see the traps at the top and in the options' own man pages."""
    milliseconds = max(1, round(connection.timeout_seconds * 1000))
    is_folder = Path(connection.ca_bundle).is_dir()
    for option, value in (
        (pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1),
        (pycurl.FOLLOWLOCATION, 0),
        (pycurl.PATH_AS_IS, 1),
        (pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS),
        (pycurl.NOSIGNAL, 1),
        (pycurl.TIMEOUT_MS, milliseconds),
        (pycurl.CONNECTTIMEOUT_MS, milliseconds),
        (pycurl.MAXAGE_CONN, _MOST_IDLE_SECONDS),
        (pycurl.MAXFILESIZE, MOST_ANSWER_BYTES),
        (pycurl.USERAGENT, _user_agent()),
        (pycurl.PROXY, connection.proxy),  # set even when empty: unset, libcurl reads the environment
        (pycurl.NOPROXY, ""),
        (pycurl.CAPATH if is_folder else pycurl.CAINFO, connection.ca_bundle),
        (pycurl.PROXY_CAPATH if is_folder else pycurl.PROXY_CAINFO, connection.ca_bundle),
        (pycurl.HEADERFUNCTION, slot.head.append),
        (pycurl.WRITEFUNCTION, slot.body.append),
        (pycurl.PREREQFUNCTION, slot.about_to_send),
    ):
        slot.curl.setopt(option, value)


@functools.cache  # some milliseconds
def _user_agent() -> str:
    return f"meter-uploader/{version('meter-uploader')}"


def _demand_single_send() -> None:
    """Refuse to run on a libcurl that cannot be kept from sending a POST twice.

    Raises:
        SettingsError: pycurl is older than 7.49, or its libcurl than 7.80.
    """
    if not hasattr(pycurl, "PREREQFUNCTION") or pycurl.version_info()[2] < _FIRST_LIBCURL_WITH_THE_HOOK:
        raise SettingsError(
            f"{pycurl.version} cannot guard a POST against being sent twice (no PREREQFUNCTION)",
            remedy="install pycurl 7.49 or newer from its wheel: pip install --upgrade --only-binary :all: pycurl",
        )


def _in_words(code: int, words: str) -> str:
    if not code:
        return "the head of the answer is cut short or damaged"
    if code == pycurl.E_ABORTED_BY_CALLBACK:  # by our guard, as the connection was lost
        words = "the connection was closed before any answer"
    return f"{words or 'the answer ended before it was whole'} (libcurl {code})"
