"""Calls of a sender, and what the program says of them, held against the server's log of complete requests."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.billing_answers import reply
from tests.billing_server import BillingServer
from uploader.model import api
from uploader.model.api import Exchange, Failure, Request, Verdict
from uploader.model.model import Reason, UsageEvent
from uploader.model.settings import Settings
from uploader.sender.sender import Connection, Sender

EVT = {"id": "evt_1", "status": "recorded"}
RIGHT = reply(201, EVT)
IMPATIENT_SECONDS = 0.2
NOT_RECORDED = {Reason.UNAVAILABLE, Reason.NOT_SENT, Reason.REJECTED}


class Clock:
    """Makes time go on by as much as a test says, besides what it does by itself."""

    def __init__(self) -> None:
        self._genuine = time.monotonic
        self._ahead_seconds = 0.0

    def monotonic(self) -> float:
        """Give the time of ``time.monotonic``, and what was added."""
        return self._genuine() + self._ahead_seconds

    def advance(self, *, seconds: float) -> None:
        """Let so much time be over."""
        self._ahead_seconds += seconds


@contextlib.contextmanager
def sending(
    *, most_in_flight: int = 8, timeout_seconds: float = 10, proxy: str = "", ca_bundle: Path | str = "unused"
) -> Iterator[Sender[str]]:
    """Make a sender, and close it."""
    sender: Sender[str] = Sender(
        Connection(
            most_in_flight=most_in_flight,
            timeout_seconds=timeout_seconds,
            proxy=proxy,
            ca_bundle=str(ca_bundle),
        )
    )
    with contextlib.closing(sender):
        yield sender


def post_to(base_url: str, device_id: str, *, tenant_id: str = "acme", api_key: str | None = None) -> Request:
    """Make the post of one row, told apart by its device id."""
    event = UsageEvent(tenant_id=tenant_id, device_id=device_id, meter_id="calls", total_usage=7)
    settings = Settings(base_url=base_url, api_key=api_key)
    return api.post_request(settings, event, customer_id=f"cus_{tenant_id}", event_id=f"id-{device_id}")


def ended(sender: Sender[str]) -> dict[str, Exchange]:
    """Wait for all calls in flight."""
    exchange_by_key: dict[str, Exchange] = {}
    while sender.in_flight:
        for key, exchange in sender.wait(timeout_seconds=3600):
            assert key not in exchange_by_key
            exchange_by_key[key] = exchange
    return exchange_by_key


@dataclass(frozen=True, slots=True)
class Told:
    """What the program says of one row."""

    exchange: Exchange
    verdict: Verdict

    @property
    def reason(self) -> Reason | None:
        """Why the row failed; None when it was accepted."""
        return self.verdict.outcome.reason


def judged(server: BillingServer, exchange_by_device: dict[str, Exchange]) -> dict[str, Told]:
    """Judge the posts, and hold every verdict against the server's log: nothing twice, nothing claimed falsely."""
    settings = Settings(base_url=server.base_url)
    received = Counter(post.headers["x-device-id"] for post in server.posts)
    billed = server.billed_by("x-device-id")
    told_by_device = {}
    for device_id, exchange in exchange_by_device.items():
        told = Told(exchange, api.judge_post(settings, exchange))
        assert received[device_id] <= 1, f"{device_id} was sent {received[device_id]} times"
        assert exchange.sent or not received[device_id], exchange
        assert exchange.http_status >= 200 or exchange.failure is not Failure.NONE, exchange
        assert not 0 < exchange.http_status < 200, exchange
        if told.reason is None:
            assert billed[device_id] == 1, exchange
        elif told.reason in NOT_RECORDED:
            assert billed[device_id] == 0, exchange
        told_by_device[device_id] = told
    return told_by_device


def post_all(
    sender: Sender[str], server: BillingServer, device_ids: Iterable[str], *, base_url: str = ""
) -> dict[str, Told]:
    """Post rows at once (so many as there are slots), and judge them."""
    exchange_by_device: dict[str, Exchange] = {}
    waiting = list(reversed(list(device_ids)))
    while waiting or sender.in_flight:
        while waiting and sender.in_flight < 8:
            device_id = waiting.pop()
            sender.start(device_id, post_to(base_url or server.base_url, device_id))
        exchange_by_device |= sender.wait(timeout_seconds=3600)
    return judged(server, exchange_by_device)


def post_one(sender: Sender[str], server: BillingServer, device_id: str = "d1", *, base_url: str = "") -> Told:
    """Post one row, and judge it."""
    return post_all(sender, server, [device_id], base_url=base_url)[device_id]


def assert_never_sent(told: Told, *, stops: bool = False) -> None:
    """Hold a verdict against what must be said of a row that never left."""
    assert not told.exchange.sent
    assert told.exchange.http_status == 0
    assert told.reason is (Reason.NOT_SENT if stops else Reason.UNAVAILABLE), told
    assert (told.verdict.retry, bool(told.verdict.stop)) == (not stops, stops)
    assert told.exchange.error
    assert told.exchange.error in told.verdict.outcome.detail
