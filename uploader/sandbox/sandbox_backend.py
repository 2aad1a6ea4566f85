"""What a sandbox is asked and answers, what it records, and which faults it has on order; no network in it.

It keeps the contract of the real backend as the published client knows it (look up a customer, post an event),
and has three ways more: ``GET {base}/sandbox/recorded`` (JSON), ``GET /`` (a page for a person), and faults
on order. A tenant whose id begins with ``unknown`` has no customer; a meter whose id begins with
``forbidden`` is refused. What it recorded is in memory only, some 220 bytes an event.
"""

from __future__ import annotations

import dataclasses
import hashlib
import html
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from uploader.model.api import json_of
from uploader.model.errors import SettingsError

Scope = MutableMapping[str, Any]
"""A request but for its body, as ASGI has it (asgi.readthedocs.io, HTTP & WebSocket message format)."""

BASE_PATH = "/api/v1"
LOOK_UP_PATH = f"{BASE_PATH}/customer-accounts/tenant/"
_LATENCY_MILLISECONDS_AT_MOST = 600_000
_PAGE_EVENTS_AT_MOST = 10_000
_SHOWN_EVENTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSettings:
    """How the sandbox listens and misbehaves; ``SettingsError`` for a value it cannot take.

    host, port:           where to listen; port 0 takes a free one.
    latency_milliseconds: how long each answer is held back; an event is recorded before, not after.
    fail_with_503, fail_with_500, drop:
                          shares, 0 to 1 and no more than 1 together, of the POSTs that would otherwise be
                          accepted: a 503 with ``Retry-After: 1`` (not recorded), a 500 (every second one
                          is recorded all the same), the connection closed without an answer (recorded).
    seed:                 which POSTs those are, counted in the order of arrival.
    """

    host: str = "127.0.0.1"
    port: int = 0
    latency_milliseconds: float = 0
    fail_with_503: float = 0
    fail_with_500: float = 0
    drop: float = 0
    seed: int = 0

    def __post_init__(self) -> None:
        shares = (self.fail_with_503, self.fail_with_500, self.drop)
        if not self.host:
            raise SettingsError("the sandbox's host is empty", remedy="name one, such as 127.0.0.1")
        if not 0 <= self.port <= 65_535:
            raise SettingsError(f"the sandbox's port is {self.port}", remedy="choose 0 (a free one) to 65535")
        if not 0 <= self.latency_milliseconds <= _LATENCY_MILLISECONDS_AT_MOST:
            raise SettingsError(
                f"the sandbox's latency is {self.latency_milliseconds} milliseconds",
                remedy=f"choose 0 to {_LATENCY_MILLISECONDS_AT_MOST}",
            )
        if not (all(0 <= share <= 1 for share in shares) and math.fsum(shares) <= 1):
            raise SettingsError(
                f"the sandbox's faults (503, 500, drop) are {shares}, which are not shares of the POSTs",
                remedy="choose each from 0 to 1, such as 0.05 for one in twenty, and at most 1 together",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What a sandbox has recorded so far.

    look_ups:             customer look-ups answered, those of unknown tenants too.
    look_ups_by_tenant:   only tenants that were looked up more than once.
    events:               events recorded, answered or not.
    units:                the sum of their ``total_usage``.
    repeated_request_ids: ``x-request-id`` -> events, only where more than one was recorded under an id.
    """

    look_ups: int
    look_ups_by_tenant: Mapping[str, int]
    events: int
    units: int
    repeated_request_ids: Mapping[str, int]


class Backend:
    """The answers, given the scope and the body of a request."""

    def __init__(self, settings: SandboxSettings) -> None:
        self._book = _Book()
        self._faults = _Faults(settings)

    def look_up(self, scope: Scope, _body: bytes) -> Answer:
        """Look a tenant's customer up."""
        # The path as it was sent: only there an id's own slash (%2F) can be told from a separator.
        tenant: str = scope["raw_path"].decode("ascii").removeprefix(LOOK_UP_PATH)
        if not tenant or "/" in tenant:
            return refusal(404, "the path is not one tenant's: percent-encode its id")
        tenant_id = unquote(tenant)
        self._book.look_up(tenant_id)
        customer_id = _customer_id(tenant_id)
        return _json_answer(200, [{"id": customer_id, "tenant_id": tenant_id}] if customer_id else [])

    def post(self, scope: Scope, body: bytes) -> Answer:
        """Take an event, or refuse it, or have a fault."""
        header_by_name: dict[bytes, bytes] = dict(scope["headers"])
        tenant_id = header_by_name.get(b"x-tenant-id", b"").decode("latin-1")
        device_id = header_by_name.get(b"x-device-id", b"").decode("latin-1")
        if not tenant_id or not device_id:
            return refusal(400, "the header x-tenant-id or x-device-id is missing")
        if header_by_name.get(b"content-type", b"").split(b";")[0] != b"application/json":
            return refusal(400, "the header Content-Type is not application/json")
        match json_of(body):
            case {"meter_id": str(meter_id), "total_usage": int(usage), "customer_id": str(customer), **rest}:
                is_event = not rest and not isinstance(usage, bool)
            case _:
                is_event = False
        if not is_event:
            return refusal(400, "the body is not {meter_id: text, total_usage: integer, customer_id: text}")
        if customer != _customer_id(tenant_id):
            return refusal(422, f"customer {customer} is not tenant {tenant_id}'s")
        if meter_id.startswith("forbidden"):
            return refusal(422, f"meter {meter_id} takes no usage")
        status, is_recorded = self._faults.next()
        number = 0
        if is_recorded:
            request_id = header_by_name.get(b"x-request-id", b"").decode("latin-1")
            tenant_id, device_id, meter_id = map(sys.intern, (tenant_id, device_id, meter_id))
            number = self._book.record(_Event(tenant_id, device_id, meter_id, usage, request_id, status))
        return _post_answer(status, number)

    def recorded(self, scope: Scope, _body: bytes) -> Answer:
        """Tell a program what was recorded: totals, and some of the events."""
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        try:
            limit, offset = int(query.get("limit", _SHOWN_EVENTS)), int(query.get("offset", 0))
        except ValueError:
            return refusal(400, "limit and offset are not integers")
        if not 0 <= limit <= _PAGE_EVENTS_AT_MOST or offset < 0:
            return refusal(400, f"limit is 0 to {_PAGE_EVENTS_AT_MOST}, offset 0 or more")
        events = [event._asdict() for event in self._book.events[offset : offset + limit]]
        totals = dataclasses.asdict(self._book.recorded())
        return _json_answer(200, {"totals": totals, "limit": limit, "offset": offset, "events": events})

    def page(self, _scope: Scope, _body: bytes) -> Answer:
        """Tell a person what was recorded: totals, and the last events."""
        text = _page(self._book.recorded(), self._book.events[-_SHOWN_EVENTS:])
        return Answer(200, text.encode(errors="replace"), ((b"content-type", b"text/html; charset=utf-8"),))


@dataclass(frozen=True, slots=True)
class Answer:
    """``status`` 0: none, the connection is closed."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)


NO_ANSWER = Answer(0, b"")


def _json_answer(status: int, content: object) -> Answer:
    return Answer(status, json.dumps(content).encode())


def refusal(status: int, why: str) -> Answer:
    """Answer that a request is refused."""
    return _json_answer(status, {"error": why})


def _post_answer(status: int, number: int) -> Answer:
    if status == 201:
        return Answer(201, b'{"id": "evt_%08d", "status": "recorded"}' % number)
    if status == 503:
        answer = refusal(503, "unavailable, as ordered")
        return dataclasses.replace(answer, headers=(*answer.headers, (b"retry-after", b"1")))
    return refusal(500, "failed, as ordered") if status else NO_ANSWER


def _customer_id(tenant_id: str) -> str | None:
    if tenant_id.startswith("unknown"):
        return None
    return "cus_" + hashlib.sha256(tenant_id.encode()).hexdigest()[:12]


class _Event(NamedTuple):
    """One recorded event, in a tuple because there may be 100,000s. ``answered``: 0 for no answer."""

    tenant_id: str
    device_id: str
    meter_id: str
    total_usage: int
    request_id: str
    answered: int


class _Book:
    """All that was looked up and recorded."""

    def __init__(self) -> None:
        self.events: list[_Event] = []
        self._units = 0
        self._look_ups_by_tenant: Counter[str] = Counter()
        self._request_ids: set[str] = set()
        self._repeats_by_request_id: Counter[str] = Counter()

    def look_up(self, tenant_id: str) -> None:
        self._look_ups_by_tenant[tenant_id] += 1

    def record(self, event: _Event) -> int:
        """Return the event's number, from 1."""
        self.events.append(event)
        self._units += event.total_usage
        if event.request_id in self._request_ids:
            self._repeats_by_request_id[event.request_id] += 1
        elif event.request_id:
            self._request_ids.add(event.request_id)
        return len(self.events)

    def recorded(self) -> Recorded:
        return Recorded(
            look_ups=self._look_ups_by_tenant.total(),
            look_ups_by_tenant={tenant: n for tenant, n in self._look_ups_by_tenant.items() if n > 1},
            events=len(self.events),
            units=self._units,
            repeated_request_ids={key: n + 1 for key, n in self._repeats_by_request_id.items()},
        )


class _Faults:
    """Which fault the next acceptable POST gets."""

    def __init__(self, settings: SandboxSettings) -> None:
        self._random = random.Random(settings.seed)  # noqa: S311 -- drawn to be repeatable, not secret
        self._below_503 = settings.fail_with_503
        self._below_500 = self._below_503 + settings.fail_with_500
        self._below_drop = self._below_500 + settings.drop
        self._failed_with_500 = 0

    def next(self) -> tuple[int, bool]:
        """Return the status to answer with (0: no answer), and whether the event is recorded."""
        draw = self._random.random()
        if draw < self._below_503:
            return 503, False
        if draw < self._below_500:
            self._failed_with_500 += 1
            return 500, self._failed_with_500 % 2 == 0
        if draw < self._below_drop:
            return 0, True
        return 201, True


def _page(recorded: Recorded, events: list[_Event]) -> str:
    """Write a page of HTML, everything from outside escaped."""
    totals = "".join(
        f"<tr><th>{name.replace('_', ' ')}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in dataclasses.asdict(recorded).items()
    )
    head = "".join(f"<th>{name}</th>" for name in _Event._fields)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in event) + "</tr>"
        for event in reversed(events)
    )
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Metering sandbox</title>"
        "<style>body{font-family:sans-serif}td,th{padding:0 1em 0 0;text-align:left}</style>"
        f"<h1>Metering sandbox</h1><table>{totals}</table>"
        f"<h2>The last {len(events)} events</h2><table><tr>{head}</tr>{rows}</table></html>"
    )
