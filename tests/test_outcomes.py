"""The table of outcomes, and what the wire contract sends (``uploader/model/api.py``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest

from uploader.model import api
from uploader.model.api import Exchange, Failure
from uploader.model.model import REPLAY_BY_REASON, Reason, Replay, UsageEvent
from uploader.model.settings import Settings

SETTINGS = Settings(base_url="http://127.0.0.1:1/api/v1")
EVENT = UsageEvent(tenant_id="acme", device_id="d1", meter_id="calls", total_usage=7)
SOON = format_datetime(datetime.now(timezone.utc) + timedelta(days=1), usegmt=True)
RETRIED_4XX = (408, 421, 425, 429)
STOPPING_3XX = (301, 302, 303, 307, 308)


def whole(
    *statuses: int, body: bytes = b'{"id": "evt_1"}', retry_after: str | None = None, framed: bool = True
) -> list[Exchange]:
    """Give whole answers, one for each status."""
    answer = Exchange(sent=True, failure=Failure.NONE, framed=framed, retry_after=retry_after, body=body)
    return [replace(answer, http_status=status) for status in statuses]


def cut(*statuses: int) -> list[Exchange]:
    """Give answers that ended too soon; status 0 where not even the head was whole."""
    start = Exchange(sent=True, failure=Failure.CUT_SHORT, framed=True, error="reset", retry_after="1", body=b"{}")
    return [replace(start, http_status=status) for status in statuses]


def unsent(failure: Failure) -> list[Exchange]:
    """Give an attempt of which nothing left this machine."""
    return [Exchange(sent=False, failure=failure, error="no connection to h:1")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table: what came back, and what must follow from it.

    retried: whether the row may be sent again within the run.
    stops:   whether the whole run must stop.
    """

    exchanges: Sequence[Exchange]
    reason: Reason | None
    replay: Replay | None
    detail: str = ""
    retried: bool = False
    stops: bool = False
    settings: Settings = SETTINGS


SAFE = replace(SETTINGS, safe_statuses=frozenset({500, 502}))
DEDUPED = replace(SETTINGS, idempotency_header="Idempotency-Key")
OTHER_4XX = tuple(status for status in range(400, 500) if status not in (*RETRIED_4XX, 401, 407))
OTHER_5XX = tuple(status for status in range(500, 600))
NOT_AN_OBJECT = (b"[]", b'"x"', b"7", b"null", b"<html>", b"\x1f\x8b\x08", b"[" * 60_000, b"\xff\xfe{")

LINE_BY_NAME = {
    "2xx, a JSON object": Line(exchanges=whole(200, 201, 202, 299), reason=None, replay=None),
    "2xx, empty": Line(
        exchanges=whole(200, 204, body=b""),
        reason=Reason.IN_DOUBT,
        replay=Replay.CONFIRM,
        detail="probably recorded",
    ),
    "2xx, not a JSON object": Line(
        exchanges=[exchange for body in NOT_AN_OBJECT for exchange in whole(200, body=body)],
        reason=Reason.IN_DOUBT,
        replay=Replay.CONFIRM,
        detail="probably recorded",
    ),
    "2xx, unframed": Line(
        exchanges=whole(200, framed=False),
        reason=Reason.IN_DOUBT,
        replay=Replay.CONFIRM,
        detail="probably recorded",
    ),
    "2xx, cut": Line(
        exchanges=cut(200, 201), reason=Reason.IN_DOUBT, replay=Replay.CONFIRM, detail="probably recorded"
    ),
    "no answer, or cut within": Line(
        exchanges=cut(0, 302, 400, 401, 404, 408, 421, 425, 429, 500, 503),
        reason=Reason.IN_DOUBT,
        replay=Replay.CONFIRM,
        detail="may have been recorded",
    ),
    "never sent": Line(
        exchanges=unsent(Failure.UNREACHABLE), reason=Reason.UNAVAILABLE, replay=Replay.YES, retried=True
    ),
    "never sent: TLS, CA, URL": Line(
        exchanges=unsent(Failure.MISCONFIGURED), reason=Reason.NOT_SENT, replay=Replay.YES, stops=True
    ),
    "408, 421, 425, 429": Line(
        exchanges=[*whole(*RETRIED_4XX), *whole(429, retry_after="7")],
        reason=Reason.UNAVAILABLE,
        replay=Replay.YES,
        retried=True,
    ),
    "503 with Retry-After": Line(
        exchanges=[*whole(503, retry_after="7"), *whole(503, retry_after=SOON)],
        reason=Reason.UNAVAILABLE,
        replay=Replay.YES,
        retried=True,
    ),
    "503 with a Retry-After that says nothing": Line(
        exchanges=[*whole(503, retry_after=""), *whole(503, retry_after="soon"), *whole(503, retry_after="-1")],
        reason=Reason.IN_DOUBT,
        replay=Replay.CONFIRM,
    ),
    "401, 407": Line(exchanges=whole(401, 407), reason=Reason.REJECTED, replay=Replay.FIX, stops=True),
    "other 4xx": Line(exchanges=whole(*OTHER_4XX), reason=Reason.REJECTED, replay=Replay.FIX),
    "5xx, also 503 without Retry-After": Line(
        exchanges=[*whole(*OTHER_5XX), *whole(500, 502, 504, retry_after="7")],
        reason=Reason.IN_DOUBT,
        replay=Replay.CONFIRM,
        detail="may have been recorded",
    ),
    "301, 302, 303, 307, 308": Line(
        exchanges=whole(*STOPPING_3XX), reason=Reason.IN_DOUBT, replay=Replay.CONFIRM, stops=True
    ),
    "other 3xx": Line(exchanges=whole(300, 304, 305, 306, 399), reason=Reason.IN_DOUBT, replay=Replay.CONFIRM),
    "no HTTP status at all": Line(
        exchanges=whole(600, 999, retry_after="7"), reason=Reason.IN_DOUBT, replay=Replay.CONFIRM
    ),
    "--safe-status, one of them": Line(
        exchanges=whole(500, 502), reason=Reason.UNAVAILABLE, replay=Replay.YES, retried=True, settings=SAFE
    ),
    "--safe-status, another": Line(
        exchanges=whole(501, 503, 504), reason=Reason.IN_DOUBT, replay=Replay.CONFIRM, settings=SAFE
    ),
    "--safe-status, cut": Line(exchanges=cut(500, 502), reason=Reason.IN_DOUBT, replay=Replay.CONFIRM, settings=SAFE),
    "--idempotency-header, in doubt": Line(
        exchanges=[*cut(0, 200), *whole(500, 304), *whole(200, framed=False), *whole(200, body=b"")],
        reason=Reason.IN_DOUBT,
        replay=Replay.CONFIRM,
        retried=True,
        settings=DEDUPED,
    ),
    "--idempotency-header, redirected": Line(
        exchanges=whole(*STOPPING_3XX),
        reason=Reason.IN_DOUBT,
        replay=Replay.CONFIRM,
        stops=True,
        settings=DEDUPED,
    ),
    "--idempotency-header, rejected": Line(
        exchanges=whole(400, 404, 409, 422), reason=Reason.REJECTED, replay=Replay.FIX, settings=DEDUPED
    ),
}


@pytest.mark.parametrize("line", LINE_BY_NAME.values(), ids=LINE_BY_NAME.keys())
def test_what_becomes_of_a_posted_row(line: Line) -> None:
    """Every line of the table of outcomes holds, for each answer that falls under it."""
    for exchange in line.exchanges:
        verdict = api.judge_post(line.settings, exchange)
        outcome = verdict.outcome
        assert outcome.reason is line.reason, exchange
        assert (REPLAY_BY_REASON[outcome.reason] if outcome.reason else None) is line.replay
        assert (verdict.retry, bool(verdict.stop)) == (line.retried, line.stops), exchange
        assert outcome.http_status == (exchange.http_status or None)
        assert outcome.detail.startswith(line.detail)
        assert bool(outcome.detail) is (line.reason is not None)
        assert verdict.customer_id == ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookUpLine:
    """One line of the table, for look-ups: the customer id found, or why all the tenant's rows fail."""

    exchanges: Sequence[Exchange]
    customer_id: str = ""
    reason: Reason | None = None
    retried: bool = False
    stops: bool = False


def accounts(*answers: Any) -> list[Exchange]:
    """Give 200s with these bodies as JSON."""
    return [exchange for answer in answers for exchange in whole(200, body=json.dumps(answer).encode())]


LOOK_UP_LINE_BY_NAME = {
    "found in a list": LookUpLine(exchanges=accounts([{"id": "cus_1"}, {"id": "cus_2"}]), customer_id="cus_1"),
    "found in an object": LookUpLine(exchanges=accounts({"name": "x", "id": "cus_1"}), customer_id="cus_1"),
    "found, unframed": LookUpLine(exchanges=whole(200, body=b'[{"id": "cus_1"}]', framed=False), customer_id="cus_1"),
    "found as a number": LookUpLine(exchanges=accounts([{"id": 417}], {"id": 417}), customer_id="417"),
    "an empty list, or no id": LookUpLine(
        exchanges=accounts(
            [], {}, [{}], [[]], ["cus_1"], {"id": ""}, {"id": None}, {"id": True}, {"id": 1.5}, {"id": "\ud800"}
        ),
        reason=Reason.CUSTOMER_NOT_FOUND,
    ),
    "404": LookUpLine(exchanges=whole(404), reason=Reason.CUSTOMER_NOT_FOUND),
    "other 4xx": LookUpLine(
        exchanges=whole(*(status for status in OTHER_4XX if status != 404)), reason=Reason.LOOKUP_FAILED
    ),
    "408, 421, 425, 429": LookUpLine(exchanges=whole(*RETRIED_4XX), reason=Reason.LOOKUP_FAILED, retried=True),
    "5xx": LookUpLine(exchanges=whole(*OTHER_5XX), reason=Reason.LOOKUP_FAILED, retried=True),
    "no answer, or cut within": LookUpLine(
        exchanges=cut(0, 200, 302, 401, 404, 500), reason=Reason.LOOKUP_FAILED, retried=True
    ),
    "never sent": LookUpLine(exchanges=unsent(Failure.UNREACHABLE), reason=Reason.LOOKUP_FAILED, retried=True),
    "2xx, not a JSON list or object": LookUpLine(
        exchanges=[
            exchange
            for body in (b"", b'"x"', b"null", b"<html>", b'[{"id": "cu', b"[" * 60_000)
            for exchange in whole(200, body=body)
        ],
        reason=Reason.LOOKUP_FAILED,
        retried=True,
    ),
    "other 3xx": LookUpLine(exchanges=whole(300, 304, 399), reason=Reason.LOOKUP_FAILED),
    "301, 302, 303, 307, 308": LookUpLine(exchanges=whole(*STOPPING_3XX), reason=Reason.NOT_SENT, stops=True),
    "401, 407": LookUpLine(exchanges=whole(401, 407), reason=Reason.NOT_SENT, stops=True),
    "never sent: TLS, CA, URL": LookUpLine(exchanges=unsent(Failure.MISCONFIGURED), reason=Reason.NOT_SENT, stops=True),
}


@pytest.mark.parametrize("line", LOOK_UP_LINE_BY_NAME.values(), ids=LOOK_UP_LINE_BY_NAME.keys())
def test_what_a_look_up_comes_to(line: LookUpLine) -> None:
    """A look-up gives the customer, or the reason for which all the tenant's rows fail; a GET may be retried."""
    for exchange in line.exchanges:
        verdict = api.judge_look_up(SETTINGS, exchange)
        assert (verdict.customer_id, verdict.outcome.reason) == (line.customer_id, line.reason), exchange
        assert (verdict.retry, bool(verdict.stop)) == (line.retried, line.stops), exchange
        assert bool(verdict.outcome.detail) is (line.reason is not None)


@pytest.mark.parametrize(
    ("reason", "replay"),
    [
        (Reason.INVALID, Replay.FIX),
        (Reason.MALFORMED, Replay.FIX),
        (Reason.CUSTOMER_NOT_FOUND, Replay.FIX),
        (Reason.LOOKUP_FAILED, Replay.YES),
        (Reason.UNAVAILABLE, Replay.YES),
        (Reason.REJECTED, Replay.FIX),
        (Reason.IN_DOUBT, Replay.CONFIRM),
        (Reason.NOT_SENT, Replay.YES),
        (Reason.DUPLICATE, Replay.FIX),
        (Reason.CONFLICT, Replay.FIX),
        (Reason.CHANGED, Replay.FIX),
    ],
)
def test_what_replaying_a_failed_row_means(reason: Reason, replay: Replay) -> None:
    """Each reason says whether the row may be sent again, must be mended, or needs a person's word."""
    assert REPLAY_BY_REASON[reason] is replay


PAST = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994")
NONSENSE = ("", "soon", "-1", "1.5", "1e3", "\u0663", "1 Jan 99999999999999999999 00:00:00 GMT")


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [
        ("7", 7, 7),
        (" 120 ", 120, 120),
        ("0", 0, 0),
        *((date, 0, 0) for date in PAST),
        pytest.param(SOON, 80_000, 86_400, id="in a day"),
        pytest.param(SOON.replace("GMT", "-0000"), 80_000, 86_400, id="in a day, -0000"),
        pytest.param(SOON.replace(" GMT", ""), 80_000, 86_400, id="in a day, no zone"),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_read_as_seconds_or_as_a_date(status: int, retry_after: str, least: float, most: float) -> None:
    """The wait that the backend asks for is passed on, for a post and a look-up alike; a past date is no wait."""
    (exchange,) = whole(status, retry_after=retry_after)
    for verdict in (api.judge_post(SETTINGS, exchange), api.judge_look_up(SETTINGS, exchange)):
        assert verdict.retry_after_seconds is not None
        assert least <= verdict.retry_after_seconds <= most


@pytest.mark.parametrize("retry_after", [None, *NONSENSE])
def test_no_retry_after_is_no_wait(retry_after: str | None) -> None:
    """A missing or nonsensical Retry-After asks for nothing."""
    (exchange,) = whole(429, retry_after=retry_after)
    for verdict in (api.judge_post(SETTINGS, exchange), api.judge_look_up(SETTINGS, exchange)):
        assert verdict.retry
        assert verdict.retry_after_seconds is None


def test_retry_after_counts_for_a_safe_status() -> None:
    """What --safe-status declares as not recorded is paced as the backend asks."""
    (exchange,) = whole(502, retry_after="9")
    assert api.judge_post(SAFE, exchange).retry_after_seconds == 9


@pytest.mark.parametrize("judge", [api.judge_post, api.judge_look_up])
def test_a_stop_names_its_remedy(judge: Any) -> None:
    """A stop of the whole run says what came back and where to look."""
    for exchange, words in (
        (whole(401)[0], ("401", "UPLOADER_API_KEY")),
        (whole(407)[0], ("407", "proxy", "http_proxy")),
        (whole(302)[0], ("302", "--base-url")),
        (unsent(Failure.MISCONFIGURED)[0], ("no connection to h:1", "REQUESTS_CA_BUNDLE")),
    ):
        stop = judge(SETTINGS, exchange).stop
        assert all(word in stop for word in words), stop


def test_the_start_of_the_answer_is_kept() -> None:
    """An outcome keeps at most 1,024 characters of the answer, and bytes that are no text do no harm."""
    (exchange,) = whole(400, body="é".encode() * 4000 + b"\xff")
    assert api.judge_post(SETTINGS, exchange).outcome.response == "é" * 1024
    (exchange,) = whole(400, body=b"\xff\x00")
    assert api.judge_post(SETTINGS, exchange).outcome.response == "\ufffd\x00"


IDS = {
    "plain": ("acme", "d1", "calls", "cus_acme"),
    "URL characters": ("a/b?c#d%2e;e&f=g+h:i@j", "d/1", "m", "c"),
    "quotes and unicode in the body": ('"', "\\", 'mètre "à" café \\ \n\0\ud800\U0001f600', "c\u2028"),
}


@pytest.mark.parametrize(("tenant_id", "device_id", "meter_id", "customer_id"), IDS.values(), ids=IDS.keys())
def test_the_requests_are_those_of_the_contract(
    tenant_id: str, device_id: str, meter_id: str, customer_id: str
) -> None:
    """Path, headers and body are the contract's, the body byte for byte what ``json.dumps`` makes."""
    event = UsageEvent(tenant_id=tenant_id, device_id=device_id, meter_id=meter_id, total_usage=2**63 - 1)
    post = api.post_request(SETTINGS, event, customer_id=customer_id, event_id=None)
    assert post.url == "http://127.0.0.1:1/api/v1/events"
    assert post.headers == (
        f"x-tenant-id: {tenant_id}",
        f"x-device-id: {device_id}",
        "Content-Type: application/json",
    )
    body = {"meter_id": meter_id, "total_usage": 2**63 - 1, "customer_id": customer_id}
    assert post.body == json.dumps(body).encode()
    look_up = api.look_up_request(SETTINGS, tenant_id)
    before, _, last = look_up.url.rpartition("/")
    assert before == "http://127.0.0.1:1/api/v1/customer-accounts/tenant"
    assert not set(last) & set('/?#;&=+:@"\\ \n')
    assert (look_up.headers, look_up.body) == ((), None)


@pytest.mark.parametrize(("settings", "name"), [(SETTINGS, "x-request-id"), (DEDUPED, "Idempotency-Key")])
def test_the_event_id_travels_in_one_header(settings: Settings, name: str) -> None:
    """The event id is sent under the name that the backend dedupes by, or else as a request id; never as both."""
    headers = api.post_request(settings, EVENT, customer_id="c", event_id="e-1").headers
    assert [header for header in headers if "e-1" in header] == [f"{name}: e-1"]


def test_the_key_is_sent_with_both_calls() -> None:
    """Behind a portal, both calls carry the bearer key, and the look-up the tenant as well."""
    settings = replace(SETTINGS, api_key="k-1")
    bearer = "Authorization: Bearer k-1"
    assert bearer in api.post_request(settings, EVENT, customer_id="c", event_id="e-1").headers
    assert api.look_up_request(settings, "acme").headers == (bearer, "x-tenant-id: acme")


SMUGGLED = ("", " ", "a b", "a\r\nX-Evil: 1", "a\nb", "a\r", "a\tb", "a\0b", "\x7f", "é", "\u0130", "a\ud800")


@pytest.mark.parametrize("value", [*SMUGGLED, None, 7, b"acme"])
@pytest.mark.parametrize("column", ["tenant_id", "device_id"])
def test_what_no_header_can_carry_is_a_problem_of_the_row(column: str, value: Any) -> None:
    """An id that would smuggle a header, lose itself or change on the way never gets there."""
    problems = api.wire_problems(replace(EVENT, **{column: value}))
    assert list(problems) == [column]
    assert all(character.isprintable() for character in problems[column])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("tenant_id", "."),
        ("tenant_id", ".."),
        ("meter_id", ""),
        ("meter_id", None),
        ("meter_id", 7),
        ("total_usage", None),
        ("total_usage", "7"),
        ("total_usage", 7.0),
        ("total_usage", True),
    ],
)
def test_what_the_contract_does_not_take_is_a_problem_of_the_row(column: str, value: Any) -> None:
    """An id that changes the path, and a value of another type than the contract's, are refused."""
    assert list(api.wire_problems(replace(EVENT, **{column: value}))) == [column]


@pytest.mark.parametrize(
    "event", [EVENT, replace(EVENT, tenant_id="...", device_id=".."), replace(EVENT, meter_id=" ", total_usage=-1)]
)
def test_what_the_contract_takes_is_no_problem(event: UsageEvent) -> None:
    """The wire adds no rule of its own to what is safe: limits are the schema's."""
    assert api.wire_problems(event) == {}


def test_a_problem_quotes_no_more_than_a_line_holds() -> None:
    """A huge cell is cut where it is quoted."""
    problem = api.wire_problems(replace(EVENT, device_id="x y" * 100_000))["device_id"]
    assert problem.startswith("'x yx y")
    assert len(problem) < 200


@pytest.mark.parametrize("status", [201, 422, 500])
def test_a_key_that_an_answer_repeats_is_not_kept(status: int) -> None:
    """A backend for debugging may send the headers back; what becomes of the row stays the same."""
    settings = replace(SETTINGS, api_key="s3cret")
    (plain,) = whole(status)
    exchange = replace(plain, body=b'{"authorization": "Bearer s3cret", "x": "' + b"y" * 980 + b's3cret"}')
    for judge in (api.judge_post, api.judge_look_up):
        masked, as_it_stands = judge(settings, exchange), judge(SETTINGS, exchange)
        assert "s3c" not in masked.outcome.response
        assert "s3c" in as_it_stands.outcome.response or as_it_stands.outcome.reason is None
        assert masked.outcome.reason is as_it_stands.outcome.reason
    assert "(the API key)" in api.judge_post(settings, exchange).outcome.response
    quoted = replace(plain, body=rb'{"authorization": "Bearer s3c\"ret"}')
    assert "ret" not in api.judge_post(replace(SETTINGS, api_key='s3c"ret'), quoted).outcome.response
