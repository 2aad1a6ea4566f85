"""What the billing server of the tests is asked, and which answer it chooses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote

from tests.billing_answers import Answer, Then, reply

LOOK_UP_PATH = "/api/v1/customer-accounts/tenant/"
EVENTS_PATH = "/api/v1/events"
EVENT_TYPES = {"meter_id": str, "total_usage": int, "customer_id": str}


class BilledRow(NamedTuple):
    """What is billed for one row."""

    tenant_id: str
    device_id: str
    meter_id: str
    total_usage: int


@dataclass(frozen=True, slots=True)
class Received:
    """One complete request.

    number:              0 for the first the server received, over all connections.
    path:                the request's target as it was sent.
    headers:             by lower-cased name; repeated ones joined by ", ".
    connection:          0 for the first TCP connection the server accepted.
    index_on_connection: 0 for the first request on its connection.
    at_seconds:          on the monotonic clock.
    """

    number: int
    method: str
    path: str
    headers: Mapping[str, str]
    raw_head: bytes
    body: bytes
    connection: int
    index_on_connection: int
    at_seconds: float

    @property
    def event(self) -> dict[str, Any]:
        """The posted usage event."""
        event: dict[str, Any] = json.loads(self.body)
        return event

    @property
    def tenant_id(self) -> str:
        """The tenant of a look-up or a post."""
        if self.method == "GET":
            return unquote(self.path.removeprefix(LOOK_UP_PATH))
        return self.headers["x-tenant-id"]

    @property
    def billed_row(self) -> BilledRow:
        """What the posted event is billed as."""
        event = self.event
        headers = self.headers
        return BilledRow(headers["x-tenant-id"], headers["x-device-id"], event["meter_id"], event["total_usage"])


Respond = Callable[[Received], Answer]
"""Chooses the answer to a request. Called for one request at a time, so it may keep a count or a queue."""


def contract(received: Received) -> Answer:
    """Answer rightly: every tenant is the customer ``cus_<tenant>``, every right post is recorded."""
    if received.method == "GET" and received.path.startswith(LOOK_UP_PATH):
        return reply(200, [{"id": f"cus_{received.tenant_id}"}])
    if received.method == "POST" and received.path == EVENTS_PATH:
        problem = _problem_of_post(received)
        if problem:
            return reply(400, {"error": problem})
        return reply(201, {"id": f"evt_{received.number}", "status": "recorded"})
    return reply(404, {"error": f"no {received.method} {received.path} here"})


def scripted(*, posts: Iterable[Answer] = (), look_ups: Iterable[Answer] = ()) -> Respond:
    """Answer from the lists, in the order the requests come; rightly when they are used up.

    ``itertools.repeat(answer)`` answers all alike.
    """
    answers_by_method = {"POST": iter(posts), "GET": iter(look_ups)}

    def respond(received: Received) -> Answer:
        answer = next(answers_by_method.get(received.method, iter(())), None)
        return answer or contract(received)

    return respond


def dying_when_reused(received: Received) -> Answer:
    """Read a POST that comes over a used connection, and close without a word.

    A client may take that for a connection that died idle, and send the row a second time.
    """
    if received.method == "POST" and received.index_on_connection > 0:
        return Answer(then=Then.FIN)
    return contract(received)


def forwarding(received: Received) -> Answer:
    """Do what a proxy does: CONNECT opens a tunnel, an absolute-form request is passed on."""
    if received.method == "CONNECT":
        return Answer(data=b"HTTP/1.1 200 Connection established\r\n\r\n", then=Then.TUNNEL)
    return Answer(then=Then.FORWARD)


def _problem_of_post(received: Received) -> str:
    """Say what breaks the contract (``uploader/model/api.py``); empty for a right post."""
    headers = received.headers
    if headers.get("content-type") != "application/json" or not headers.get("x-device-id"):
        return "Content-Type: application/json and x-device-id are required"
    try:
        event = json.loads(received.body)
    except ValueError:
        return "the body is not JSON"
    if not isinstance(event, dict) or {key: type(value) for key, value in event.items()} != EVENT_TYPES:
        return f"the body is not a usage event: {event}"
    if event["customer_id"] != f"cus_{headers.get('x-tenant-id')}":
        return "customer_id is not of the tenant"
    return ""
