"""Answers of any kind to a post: accepted is a row only for a whole JSON object, by whatever way the bytes came."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from tests.billing_answers import Answer, Then, chunked, interim, reply, unframed
from tests.billing_server import BillingServer
from tests.faults.tally import Extent
from uploader.model import api
from uploader.model.api import Exchange, Failure
from uploader.model.model import UsageEvent
from uploader.model.settings import Settings
from uploader.sender.sender import Connection, Sender

MOST_HEADS = 5
EVENT = UsageEvent(tenant_id="acme", device_id="dev-1", meter_id="calls", total_usage=7)
BODY = b'{"id": "evt_1", "status": "recorded", "more": [1, {"x": null}]}'
RIGHT = [reply(201, BODY), chunked(200, BODY), interim(100, reply(202, BODY)), reply(200, b"[]"), unframed(200, BODY)]

bodies = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"", b"[]", b"null", b"{", b"{}", b'{"a": 1}', b'{"a": NaN}', b'{"a": 1} x', b"\xff{}", b"[" * 5000]
    ),
    st.integers(0, len(BODY)).map(lambda kept: BODY[:kept]),
    st.just(BODY),
)
exchanges = st.builds(
    Exchange,
    sent=st.sampled_from([True, True, True, False]),
    failure=st.sampled_from([Failure.NONE] * 6 + list(Failure)),
    http_status=st.sampled_from([200, 201, 299] * 5 + [0, 100, 199, 204, 206, 300, 302, 400, 429, 500, 503, 999]),
    framed=st.booleans(),
    retry_after=st.sampled_from([None, "", "1", "-1", "1e9", "9" * 400, "٣", "Sun", "Sun, 06 Nov 1994 08:49:37 GMT"]),
    body=bodies,
    error=st.sampled_from(["", "words"]),
)


def is_json_object(body: bytes) -> bool:
    """Tell whether a body is a JSON object, no more and no less."""
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def test_no_exchange_is_accepted_but_a_whole_json_object(extent: Extent) -> None:
    """A row is accepted if and only if a framed 2xx answer came whole and is a JSON object."""

    @extent.examples(short=200, full=50_000)
    @given(exchanges)
    def judge(exchange: Exchange) -> None:
        verdict = api.judge_post(Settings(), exchange)
        came_whole = exchange.sent and exchange.failure is Failure.NONE and exchange.framed
        right = came_whole and 200 <= exchange.http_status <= 299 and is_json_object(exchange.body)
        assert (verdict.outcome.reason is None) == right
        if verdict.outcome.reason is None:
            assert not verdict.retry
        api.judge_look_up(Settings(), exchange)

    judge()


def test_no_bytes_on_the_wire_are_accepted_but_a_whole_json_object(extent: Extent) -> None:
    """Right answers with bytes changed, lost or added: what is accepted is whole by its own framing."""
    answer = Answer()
    with BillingServer(lambda _: answer) as server:
        settings = Settings(base_url=server.base_url)
        sender: Sender[int] = Sender(Connection(most_in_flight=1, timeout_seconds=10, proxy="", ca_bundle="unused"))
        request = api.post_request(settings, EVENT, customer_id="cus_acme", event_id="1")
        changes = st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3), st.integers(0, 3)), max_size=3)

        @extent.examples(short=150, full=20_000)
        @given(
            st.sampled_from(RIGHT),
            changes,
            st.integers(0, 400) | st.integers(-9, -1),
            st.sampled_from([Then.FIN, Then.RST]),
        )
        def send(right: Answer, changes: list[tuple[int, bytes, int]], kept: int, then: Then) -> None:
            nonlocal answer
            data = right.data
            for at, put, taken in changes:
                data = data[:at] + put + data[at + taken :]
            answer = Answer(data=data[:kept], then=then)
            sender.start(1, request)
            ended: list[tuple[int, Exchange]] = []
            while not ended:
                ended = sender.wait(timeout_seconds=10)
            ((_, exchange),) = ended
            if api.judge_post(settings, exchange).outcome.reason is None:
                assert is_whole_json_object(answer.data), answer.data

        try:
            send()
        finally:
            sender.close()
        assert len(server.posts) == len({post.number for post in server.posts})


def is_whole_json_object(data: bytes) -> bool:
    """Tell whether bytes are a 2xx answer with a JSON object that is whole by the framing that the answer states."""
    for _ in range(MOST_HEADS):
        head, rest = [*re.split(rb"\n\r?\n", data, maxsplit=1), b""][:2]  # a bare LF ends a line too
        status = re.match(rb"HTTP/1\.[01] (\d{3})", head)
        if not status or not status[1].startswith(b"1"):
            break
        data = rest
    if not status or not status[1].startswith(b"2"):
        return False
    length = re.search(rb"(?i)\ncontent-length:[ \t]*(\d+)", head)
    if re.search(rb"(?i)\ntransfer-encoding:[^\n]*chunked", head):
        return is_json_object(b"".join(_chunks(io.BytesIO(rest))))
    return length is not None and len(rest) >= int(length[1]) and is_json_object(rest[: int(length[1])])


def _chunks(stream: io.BytesIO) -> Iterator[bytes]:
    """Take chunks apart up to the last, or to a cut; only the size on a size's line is looked at."""
    while size := re.match(rb"[ \t]*([0-9a-fA-F]+)", stream.readline()):
        wanted = int(size[1], 16)
        chunk = stream.read(wanted)
        if not wanted:
            return
        if len(chunk) < wanted:
            break
        stream.readline()
        yield chunk
    yield b"cut"
