"""Answers of any kind to a post: accepted is a row only for a whole JSON object, by whatever way the bytes came."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from typing import IO, Any, cast

from hypothesis import given
from hypothesis import strategies as st

from tests.billing_answers import Answer, Then, chunked, interim, reply
from tests.billing_server import BillingServer
from tests.faults.tally import Extent
from uploader import api
from uploader.api import Exchange, Failure
from uploader.model import UsageEvent
from uploader.sender import Connection, Sender
from uploader.settings import Settings

EVENT = UsageEvent(tenant_id="acme", device_id="dev-1", meter_id="calls", total_usage=7)
BODY = b'{"id": "evt_1", "status": "recorded", "more": [1, {"x": null}]}'
RIGHT = [reply(201, BODY), chunked(200, BODY), interim(100, reply(202, BODY)), reply(200, b"[]"), reply(500, BODY)]

bodies = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"", b"[]", b"null", b"{", b"{}", b'{"a": 1}', b'{"a": NaN}', b'{"a": 1} x', b"\xff{}", b"[" * 5000]
    ),
    st.integers(0, len(BODY)).map(lambda kept: BODY[:kept]),
)
exchanges = st.builds(
    Exchange,
    sent=st.booleans(),
    failure=st.sampled_from(Failure),
    http_status=st.sampled_from([0, 100, 199, 200, 201, 204, 206, 299, 300, 302, 400, 429, 500, 503, 999]),
    framed=st.booleans(),
    retry_after=st.one_of(st.none(), st.text(max_size=8), st.sampled_from(["1", "-1", "1e9", "9" * 400, "Sun"])),
    body=bodies,
    error=st.text(max_size=5),
)


def is_json_object(body: bytes) -> bool:
    """Tell whether a body is a JSON object, no more and no less."""
    try:
        return isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def test_no_exchange_is_accepted_but_a_whole_json_object(extent: Extent) -> None:
    """A row is accepted if and only if a framed 2xx answer came whole and is a JSON object."""

    @extent.examples(short=200, full=200_000)
    @given(exchanges)
    def judge(exchange: Exchange) -> None:
        verdict = api.judge_post(Settings(), exchange)
        came_whole = exchange.sent and exchange.failure is Failure.NONE and exchange.framed
        right = came_whole and 200 <= exchange.http_status <= 299 and is_json_object(exchange.body)
        assert (verdict.outcome.reason is None) == right
        if verdict.outcome.reason is None:
            assert not verdict.retry
        api.judge_look_up(exchange)

    judge()


def test_no_bytes_on_the_wire_are_accepted_but_a_whole_json_object(extent: Extent) -> None:
    """Right answers with bytes changed, lost or added: what is accepted, another HTTP parser finds whole too."""
    answer = Answer()
    with BillingServer(lambda _: answer) as server:
        settings = Settings(base_url=server.base_url)
        sender: Sender[int] = Sender(Connection(most_in_flight=1, timeout_seconds=10, proxy="", ca_bundle="unused"))
        request = api.post_request(settings, EVENT, customer_id="cus_acme", event_id="1")
        changes = st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3), st.integers(0, 3)), max_size=3)

        @extent.examples(short=150, full=20_000)
        @given(st.sampled_from(RIGHT), changes, st.integers(0, 400), st.sampled_from([Then.FIN, Then.RST]))
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
    """Tell whether bytes are an HTTP answer with a JSON object, whole by its own framing."""
    response = HTTPResponse(cast("Any", _Bytes(data)))
    try:
        response.begin()
        body = b"".join(_chunks(response.fp)) if response.chunked else response.read()
    except (HTTPException, ValueError):
        return False
    return 200 <= response.status <= 299 and is_json_object(body)


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    """Take chunks apart; as in libcurl, whatever follows a chunk's size on its line is not looked at."""
    while True:
        size = re.match(rb"[ \t]*([0-9a-fA-F]+)", stream.readline())
        if not size:
            raise ValueError("no size of a chunk")
        wanted = int(size[1], 16)
        chunk = stream.read(wanted)
        if len(chunk) < wanted:
            raise ValueError("a chunk that is cut")
        if not wanted:
            return
        stream.readline()
        yield chunk


class _Bytes:
    """Stands for a socket of which these bytes can be read."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        """Give them as a file."""
        return io.BytesIO(self._data)
