"""The wire contract: URLs, headers and bodies out; from what came back, what became of the row.

The facts are those of the published client, meter-lib 0.0.3. A newer backend's contract would stand beside this
file, with the same functions.
"""

from __future__ import annotations

import email.utils
import functools
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from enum import Enum
from json.encoder import encode_basestring_ascii as json_text
from typing import Any
from urllib.parse import quote

from uploader.model.model import Outcome, Reason, UsageEvent
from uploader.model.records import row_record
from uploader.model.settings import PRINTABLE_ASCII, Settings
from uploader.model.wording import shown

MOST_ANSWER_BYTES = 64 * 1024
_MOST_RESPONSE_CHARACTERS = 1024
NOT_FOR_A_HEADER = "has characters that cannot travel in a header (spaces, control or non-ASCII characters)"
_LONGEST_SECONDS = 1e9
"""The longest Retry-After that is honoured; more digits might not be a number."""
_UNKNOWN_CUSTOMER = "the backend knows no customer for this tenant"
_REDIRECTS_THAT_STOP = frozenset({301, 302, 303, 307, 308})
_SAFE_TO_RETRY = frozenset({408, 421, 425, 429})


class Failure(Enum):
    """Why an exchange is not a whole answer; what became of the request is ``Exchange.sent``."""

    NONE = "a whole answer"
    UNREACHABLE = "no connection"
    MISCONFIGURED = "a TLS, CA or URL error"
    CUT_SHORT = "no whole answer"


@row_record(frozen=True, slots=True)
class Request:
    """One call, ready for the wire; ``body`` is None for a GET."""

    url: str
    headers: tuple[str, ...]
    body: bytes | None = None


@row_record(frozen=True, slots=True)
class Exchange:
    """What is known after one attempt at a call; facts alone, no verdict.

    sent:            some of the request may have left this machine.
    http_status:     of the final answer's head; 0 when none came whole.
    framed:          the answer said how long it is (RFC 9112 section 6.3), so that a cut would show.
    retry_after:     that header as it stood; None without one.
    body:            as far as it came, decoded from its transfer coding.
    error:           the transport's own words; empty when there was no failure.
    elapsed_seconds: of the whole attempt.
    date:            that header as it stood; None without one.
    """

    sent: bool
    failure: Failure
    http_status: int = 0
    framed: bool = False
    retry_after: str | None = None
    body: bytes = b""
    error: str = ""
    elapsed_seconds: float = 0.0
    date: str | None = None


@row_record(frozen=True, slots=True)
class Verdict:
    """What follows from an exchange.

    outcome:             of the row (of all the tenant's rows, for a look-up).
    customer_id:         what a look-up found; empty for a post or a failed look-up.
    retry:               another attempt cannot bill twice.
    retry_after_seconds: the least wait that the backend asked for; None when it asked for none.
    stop:                why no further call makes sense for the whole run; empty to go on.
    """

    outcome: Outcome
    customer_id: str = ""
    retry: bool = False
    retry_after_seconds: float | None = None
    stop: str = ""


def wire_problems(event: UsageEvent) -> dict[str, str]:
    """Say, by column, what keeps an event off the wire whatever the schema says: header and path safety, JSON types.

    The types are checked at run time: a user's own schema may have let anything through.
    """
    return {
        column: problem
        for column, problem_of in WIRE_PROBLEM_BY_COLUMN.items()
        if (problem := problem_of(getattr(event, column)))
    }


def tenant_problem(tenant_id: object) -> str:
    """Say what keeps a tenant id out of a header and a URL's path; empty when nothing does."""
    if tenant_id in (".", ".."):
        return f"{shown(tenant_id)} cannot stand in a URL"
    return _header_problem(tenant_id)


def _header_problem(value: object) -> str:
    if isinstance(value, str) and PRINTABLE_ASCII.fullmatch(value):
        return ""
    return "is empty" if value is None or value == "" else f"{shown(value)} {NOT_FOR_A_HEADER}"


def _meter_problem(meter_id: object) -> str:
    if isinstance(meter_id, str) and meter_id:
        return ""
    return f"{shown(meter_id)} is not text" if meter_id else "is empty"


def _usage_problem(total_usage: object) -> str:
    return "" if type(total_usage) is int else f"{shown(total_usage)} is not an integer"


WIRE_PROBLEM_BY_COLUMN: dict[str, Callable[[object], str]] = {
    "tenant_id": tenant_problem,
    "device_id": _header_problem,
    "meter_id": _meter_problem,
    "total_usage": _usage_problem,
}
"""What keeps a value of a usage event off the wire, by its column; each gives no words when nothing does."""


def look_up_request(settings: Settings, tenant_id: str) -> Request:
    """Build the GET that finds a tenant's customer."""
    headers: tuple[str, ...] = ()
    if settings.api_key is not None:
        headers = (f"Authorization: Bearer {settings.api_key}", f"x-tenant-id: {tenant_id}")
    return Request(url=f"{settings.base_url}/customer-accounts/tenant/{quote(tenant_id, safe='')}", headers=headers)


def post_request(settings: Settings, event: UsageEvent, *, customer_id: str, event_id: str | None) -> Request:
    """Build the POST that records one usage event.

    The body is byte for byte what meter-lib sends; ``event_id`` travels in the header that the backend dedupes by, or
    as a mere request id where it has none; None sends none, as meter-lib does.
    """
    headers: tuple[str, ...] = (
        f"x-tenant-id: {event.tenant_id}",
        f"x-device-id: {event.device_id}",
        "Content-Type: application/json",
    )
    if event_id is not None:
        headers += (f"{settings.idempotency_header or 'x-request-id'}: {event_id}",)
    if settings.api_key is not None:
        headers += (f"Authorization: Bearer {settings.api_key}",)
    body = _event_body(meter_id=event.meter_id, total_usage=event.total_usage, customer_id=customer_id)
    return Request(url=f"{settings.base_url}/events", headers=headers, body=body)


def _event_body(*, meter_id: str, total_usage: int, customer_id: str) -> bytes:
    """Spell the JSON body of a POST as ``json.dumps`` would."""
    return (
        f'{{"meter_id": {json_text(meter_id)}, "total_usage": {total_usage}, "customer_id": {json_text(customer_id)}}}'
    ).encode("ascii")


def customer_id_of(answer: object) -> str | None:
    """Find the customer id in a look-up's JSON: of the first account of a list, or of the one object."""
    account = answer[0] if isinstance(answer, list) and answer else answer
    found = account.get("id") if isinstance(account, dict) else None
    if type(found) is int:
        found = str(found)
    # Not printable: a lone surrogate, say, which neither the ledger nor a results file can hold.
    return found if isinstance(found, str) and found and found.isprintable() else None


def json_of(body: bytes) -> Any:
    """Read an answer's JSON; None when it is none, or nests deeper than Python follows."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def judge_look_up(settings: Settings, exchange: Exchange) -> Verdict:
    """Say what a look-up came to; being a GET it may always be asked again, unless the answer would stay the same."""
    verdict = _judge_look_up(exchange)
    return verdict if settings.api_key is None else _without_key(verdict, settings.api_key, exchange)


def _judge_look_up(exchange: Exchange) -> Verdict:
    if stop := _why_stop(exchange):
        return Verdict(outcome=_outcome(Reason.NOT_SENT, exchange, stop), stop=stop)
    status = exchange.http_status
    if exchange.failure is not Failure.NONE or not 200 <= status <= 499 or status in _SAFE_TO_RETRY:
        detail = f"the customer look-up failed: {_happening(exchange)}"
        return Verdict(
            outcome=_outcome(Reason.LOOKUP_FAILED, exchange, detail),
            retry=True,
            retry_after_seconds=_seconds(exchange.retry_after) if status in (429, 503) else None,
        )
    if status == 404:
        return Verdict(outcome=_outcome(Reason.CUSTOMER_NOT_FOUND, exchange, _UNKNOWN_CUSTOMER))
    if status >= 300:
        detail = f"the customer look-up was refused: HTTP {status}"
        return Verdict(outcome=_outcome(Reason.LOOKUP_FAILED, exchange, detail))
    return _judge_account(exchange)


def _judge_account(exchange: Exchange) -> Verdict:
    answer = json_of(exchange.body)  # a list or object that was cut does not parse, framed or not
    if not isinstance(answer, list | dict):
        detail = "the customer look-up's answer was not JSON"
        return Verdict(outcome=_outcome(Reason.LOOKUP_FAILED, exchange, detail), retry=True)
    customer_id = customer_id_of(answer)
    if customer_id is None:
        return Verdict(outcome=_outcome(Reason.CUSTOMER_NOT_FOUND, exchange, _UNKNOWN_CUSTOMER))
    return Verdict(outcome=Outcome(reason=None, http_status=exchange.http_status), customer_id=customer_id)


def judge_post(settings: Settings, exchange: Exchange) -> Verdict:
    """Say what became of a posted row: the table of outcomes, in one place.

    A row counts as not recorded only when that is certain: the request never left, or the answer says so.
    """
    verdict = _judge_post(settings, exchange)
    return verdict if settings.api_key is None else _without_key(verdict, settings.api_key, exchange)


def _judge_post(settings: Settings, exchange: Exchange) -> Verdict:
    status = exchange.http_status
    if not exchange.sent:
        stop = _why_stop(exchange)
        reason = Reason.NOT_SENT if stop else Reason.UNAVAILABLE
        return Verdict(outcome=_outcome(reason, exchange, stop or _happening(exchange)), retry=not stop, stop=stop)
    if exchange.failure is not Failure.NONE:
        before = "probably recorded: " if 200 <= status <= 299 else "may have been recorded: "
        return _doubt(settings, exchange, before + _happening(exchange))
    if 200 <= status <= 299:
        return _judge_recorded(settings, exchange)
    return _judge_refused(settings, exchange)


def _without_key(verdict: Verdict, api_key: str, exchange: Exchange) -> Verdict:
    """Take the API key out of what is kept of an answer that repeats it, as one for debugging may."""
    body = exchange.body
    for spelled in (api_key, json_text(api_key)[1:-1]):
        body = body.replace(spelled.encode(), b"(the API key)")
    if body == exchange.body:
        return verdict
    response = _response(body)
    return replace(verdict, outcome=replace(verdict.outcome, response=response))


def _judge_refused(settings: Settings, exchange: Exchange) -> Verdict:
    status = exchange.http_status
    if status in settings.safe_statuses:
        return _unavailable(exchange, f"HTTP {status}, which --safe-status declares as not recorded")
    if status in _SAFE_TO_RETRY or (status == 503 and _seconds(exchange.retry_after) is not None):
        return _unavailable(exchange, f"HTTP {status}: the backend is not taking rows now")
    if 400 <= status <= 499:
        detail = f"the backend rejected the row: HTTP {status}"
        return Verdict(outcome=_outcome(Reason.REJECTED, exchange, detail), stop=_why_stop(exchange))
    return _doubt(settings, exchange, f"may have been recorded: HTTP {status or '?'}", stop=_why_stop(exchange))


def _judge_recorded(settings: Settings, exchange: Exchange) -> Verdict:
    if not exchange.framed:
        return _doubt(settings, exchange, "probably recorded: the answer did not say where it ends")
    accepted = _accepted(exchange.http_status, exchange.body)
    return accepted or _doubt(settings, exchange, "probably recorded: the answer was not a JSON object")


@functools.lru_cache(maxsize=16)  # many backends answer each post alike
def _accepted(http_status: int, body: bytes) -> Verdict | None:
    """Give the verdict of a whole 2xx answer; None when it is not a JSON object."""
    if not isinstance(json_of(body), dict):
        return None
    return Verdict(outcome=Outcome(reason=None, http_status=http_status, response=_response(body)))


def _unavailable(exchange: Exchange, detail: str) -> Verdict:
    return Verdict(
        outcome=_outcome(Reason.UNAVAILABLE, exchange, detail),
        retry=True,
        retry_after_seconds=_seconds(exchange.retry_after),
    )


def _doubt(settings: Settings, exchange: Exchange, detail: str, *, stop: str = "") -> Verdict:
    may_repeat = settings.idempotency_header is not None and not stop
    return Verdict(outcome=_outcome(Reason.IN_DOUBT, exchange, detail), retry=may_repeat, stop=stop)


def _why_stop(exchange: Exchange) -> str:
    """Tell why a wrong set-up, not this one row, is at fault; empty when it is not."""
    if exchange.failure is Failure.MISCONFIGURED:
        remedy = "check --base-url, REQUESTS_CA_BUNDLE and the proxy settings"
        return f"cannot talk to the backend: {exchange.error}; {remedy}"
    if exchange.failure is not Failure.NONE:
        return ""
    if exchange.http_status == 401:
        return "the backend asks for a valid key (HTTP 401); check UPLOADER_API_KEY or UPLOADER_API_KEY_FILE"
    if exchange.http_status == 407:
        return "the proxy asks for a user and password (HTTP 407); check http_proxy and all_proxy"
    if exchange.http_status in _REDIRECTS_THAT_STOP:
        return f"the backend redirects (HTTP {exchange.http_status}); check --base-url"
    return ""


def _outcome(reason: Reason, exchange: Exchange, detail: str) -> Outcome:
    status = exchange.http_status or None
    return Outcome(reason=reason, detail=detail, http_status=status, response=_response(exchange.body))


def _response(body: bytes) -> str:
    return body[: 4 * _MOST_RESPONSE_CHARACTERS].decode("utf-8", "replace")[:_MOST_RESPONSE_CHARACTERS]


def _happening(exchange: Exchange) -> str:
    if exchange.failure is Failure.NONE:
        return f"HTTP {exchange.http_status or '?'}"
    return exchange.error or exchange.failure.value


def _seconds(retry_after: str | None) -> float | None:
    """Read a Retry-After header, seconds or a date (RFC 9110 section 10.2.3); None when it is neither."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _LONGEST_SECONDS)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, (moment - datetime.now(timezone.utc)).total_seconds())
