"""The posting loop over its real parts: a ledger on disk, sockets, and a billing server whose log is the oracle."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import BilledRow, Received, Respond, contract, scripted
from tests.billing_server import BillingServer
from tests.command import usage_rows
from tests.full_disk import no_file_may_grow
from uploader.ledger.ledger import Ledger
from uploader.model.errors import InputChangedError, LedgerFault
from uploader.model.identity import EventIds, RunIdentity
from uploader.model.model import Outcome, Reason, RowState, UsageEvent
from uploader.model.settings import Settings
from uploader.pacing.pacing import Pacing
from uploader.posting.calls import Call, Due
from uploader.posting.customers import Customers
from uploader.posting.posting import Posting
from uploader.posting.progress import Progress
from uploader.sender.sender import Connection, Sender

MOST_ROWS_HELD = 10_000

pytestmark = pytest.mark.usefixtures("plain_environment")


class NoBackOff(random.Random):
    """Draws the shortest wait every time, so that the tests are quick."""

    def uniform(self, a: float, b: float) -> float:  # noqa: ARG002 -- as random.Random has it
        """Give the least."""
        return a


@dataclass(slots=True, kw_only=True)
class Scene:
    """One run's posting to a server, and what is left of it.

    watch: called in every round of the loop.
    """

    folder: Path
    settings: Settings
    should_stop: Callable[[], bool] = lambda: False
    watch: Callable[[Posting], None] = lambda _: None
    progress: Progress = field(default_factory=lambda: Progress(rows=0))
    stop: str = ""

    @property
    def identity(self) -> RunIdentity:
        """The run's."""
        return RunIdentity(base_url=self.settings.base_url, period="", content_sha256="ab" * 32)

    def event_id(self, row: int) -> str:
        """Give a row's event id."""
        return EventIds(self.identity).of(row)

    def due(self, rows: Iterable[BilledRow]) -> Iterator[Due]:
        """Make rows that are due, numbered from 1."""
        for number, row in enumerate(rows, 1):
            yield Due(number, UsageEvent(*row), self.event_id(number))

    def post(self, rows: Iterator[Due | RowState]) -> None:
        """Post them all."""
        with contextlib.ExitStack() as stack:
            ledger = stack.enter_context(Ledger(self.folder, self.identity))
            sender = stack.enter_context(contextlib.closing(self.sender()))
            posting = self.posting(ledger, sender)
            try:
                posting.post_all(rows)
            finally:
                self.stop = posting.pacing.stop

    def sender(self) -> Sender[Call]:
        """Make the sender."""
        return Sender(
            Connection(
                most_in_flight=self.settings.most_in_flight,
                timeout_seconds=self.settings.timeout_seconds,
                proxy="",
                ca_bundle="",
            )
        )

    def posting(self, ledger: Ledger, sender: Sender[Call]) -> Posting:
        """Put the parts together."""
        posting = Posting(
            settings=self.settings,
            ledger=ledger,
            customers=Customers(),
            sender=sender,
            pacing=Pacing(
                concurrency=self.settings.concurrency,
                retries=self.settings.retries,
                patience_seconds=self.settings.patience_seconds,
                chance=NoBackOff(),
                was_good_before=lambda: False,
            ),
            progress=self.progress,
            should_stop=self.should_stop,
            tell=lambda _: self.watch(posting),
        )
        return posting

    def states(self, rows: int) -> list[RowState]:
        """Open the ledger again, as the next command would, and give the states of the first so many rows."""
        with Ledger(self.folder, self.identity) as ledger:
            known = ledger.known(range(1, rows + 1))
        return [known[number] for number in sorted(known)]

    def reasons(self, rows: int) -> list[Reason | None]:
        """Give their reasons; None for an accepted row."""
        return [state.outcome.reason for state in self.states(rows)]


@pytest.fixture
def make_scene(tmp_path: Path, billing_server: BillingServer) -> Callable[..., Scene]:
    """Give the maker of a scene; its arguments are the settings that differ from the usual."""

    def make(**settings: Any) -> Scene:
        return Scene(folder=tmp_path / "ledger", settings=Settings(base_url=billing_server.base_url, **settings))

    return make


MakeScene = Callable[..., Scene]


def by_device(answers: Mapping[str, Iterable[Answer]]) -> Respond:
    """Answer each device's posts from its own list, then rightly."""
    left = {device: iter(given) for device, given in answers.items()}

    def respond(received: Received) -> Answer:
        return next(left.get(received.headers.get("x-device-id", ""), iter(())), None) or contract(received)

    return respond


# --- the order of things ----------------------------------------------------------------------------------------------


def rows_being_sent(ledger: Path, copy: Path) -> set[int]:
    """Read the rows marked as sending out of a copy of a ledger that another connection holds."""
    shutil.copytree(ledger, copy)
    with contextlib.closing(sqlite3.connect(next(copy.glob("*.sqlite")))) as connection:
        return {row for (row,) in connection.execute("select row from sending")}


def test_a_row_is_in_the_ledger_as_sending_before_the_backend_can_read_it(
    make_scene: MakeScene, billing_server: BillingServer, tmp_path: Path
) -> None:
    """Whenever a POST arrives, the ledger's files already say that its row is being sent, first attempt or not."""
    scene = make_scene(concurrency=3)
    rows = usage_rows(9)
    number_by_device = {row.device_id: number for number, row in enumerate(rows, 1)}
    unmarked = []
    attempts: Counter[str] = Counter()

    def respond(received: Received) -> Answer:
        if received.method == "GET":
            return contract(received)
        device = received.headers["x-device-id"]
        attempts[device] += 1
        if number_by_device[device] not in rows_being_sent(scene.folder, tmp_path / f"copy-{received.number}"):
            unmarked.append(device)
        return reply(408) if device == "dev-4" and attempts[device] == 1 else contract(received)

    billing_server.respond = respond
    scene.post(scene.due(rows))
    assert not unmarked
    assert attempts == Counter({row.device_id: 1 for row in rows} | {"dev-4": 2})
    assert billing_server.billed() == Counter(rows)


def test_no_call_is_handed_over_whose_mark_could_not_be_written(
    make_scene: MakeScene, billing_server: BillingServer
) -> None:
    """When the disk is full the rows that were about to start are not started: nothing more reaches the backend."""
    scene = make_scene(concurrency=1)
    rows = usage_rows(6, tenants=["acme"])
    with Ledger(scene.folder, scene.identity) as ledger, contextlib.closing(scene.sender()) as sender:
        posting = scene.posting(ledger, sender)
        with contextlib.ExitStack() as full_disk:

            def fill_the_disk_after_three(posting: Posting) -> None:
                if posting.progress.posts == 3:
                    full_disk.enter_context(no_file_may_grow())

            scene.watch = fill_the_disk_after_three
            with pytest.raises(LedgerFault, match="run the same command again"):
                posting.post_all(scene.due(rows))
        while sender.in_flight:
            sender.wait(timeout_seconds=1)
    assert billing_server.billed() == Counter(rows[:3])
    assert scene.reasons(6) == [None, None, Reason.IN_DOUBT]


def test_calls_in_flight_are_answered_and_recorded_when_the_log_turns_out_to_be_changed(
    make_scene: MakeScene, billing_server: BillingServer
) -> None:
    """An error of the reader ends the run only after the calls in flight have their answers in the ledger."""
    scene = make_scene(concurrency=2)
    rows = usage_rows(6)

    def changing() -> Iterator[Due]:
        yield from scene.due(rows)
        raise InputChangedError("usage.csv changed")

    with pytest.raises(InputChangedError):
        scene.post(changing())
    states = scene.states(6)
    assert billing_server.billed() == Counter(rows[state.row - 1] for state in states)
    assert {state.outcome.reason for state in states} <= {None}


def test_no_more_calls_are_in_flight_than_concurrency_says(
    make_scene: MakeScene, billing_server: BillingServer
) -> None:
    """With every answer held back, three calls are started for --concurrency 3, and no fourth."""
    gate = threading.Event()
    billing_server.respond = lambda received: Answer(contract(received).data, gate=gate)
    scene = make_scene(concurrency=3)
    in_flight: list[int] = []

    def watch(posting: Posting) -> None:
        in_flight.append(posting.sender.in_flight)
        # The server has them all, and a whole round has passed in which nothing was started.
        if in_flight[-2:] == [3, 3] and billing_server.peak_in_flight >= 3:
            gate.set()

    scene.watch = watch
    rows = usage_rows(12, tenants=["a", "b", "c", "d"])
    scene.post(scene.due(rows))
    assert max(in_flight) == billing_server.peak_in_flight == 3
    assert billing_server.billed() == Counter(rows)


def test_a_signal_lets_no_further_call_start(make_scene: MakeScene, billing_server: BillingServer) -> None:
    """Once the run is told to stop, calls in flight are answered and recorded, and other rows stay untouched."""
    scene = make_scene(concurrency=2)
    scene.should_stop = lambda: len(billing_server.posts) >= 4
    rows = usage_rows(20)
    scene.post(scene.due(rows))
    assert 4 <= len(billing_server.posts) <= 5
    assert scene.reasons(20) == [None] * len(billing_server.posts)


# --- attempts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 421, 425])
def test_a_row_that_was_certainly_not_recorded_is_tried_three_times(
    make_scene: MakeScene, billing_server: BillingServer, status: int
) -> None:
    """Accepted at the third attempt it is billed once; refused three times it is unavailable, and billed never."""
    rows = usage_rows(3)
    refused = reply(status)
    billing_server.respond = by_device({"dev-0": [refused] * 2, "dev-1": [refused] * 3})
    scene = make_scene(concurrency=1)
    scene.post(scene.due(rows))
    states = scene.states(3)
    assert [(state.outcome.reason, state.attempts) for state in states] == [
        (None, 3),
        (Reason.UNAVAILABLE, 3),
        (None, 1),
    ]
    assert billing_server.billed() == Counter([rows[0], rows[2]])
    assert states[1].outcome.http_status == status


def test_retries_0_means_one_attempt(make_scene: MakeScene, billing_server: BillingServer) -> None:
    """--retries is the number of further attempts."""
    billing_server.respond = by_device({"dev-0": [reply(408)]})
    scene = make_scene(retries=0)
    scene.post(scene.due(usage_rows(1)))
    assert [(state.outcome.reason, state.attempts) for state in scene.states(1)] == [(Reason.UNAVAILABLE, 1)]
    assert not billing_server.billed()


def test_retry_after_is_heeded_and_the_row_billed_once(make_scene: MakeScene, billing_server: BillingServer) -> None:
    """503 with Retry-After twice, then 201: accepted with three attempts, a second or more after the first."""
    billing_server.respond = by_device({"dev-0": [reply(503, headers={"Retry-After": "1"})] * 2})
    scene = make_scene(concurrency=1)
    rows = usage_rows(1)
    scene.post(scene.due(rows))
    assert [(state.outcome.reason, state.attempts) for state in scene.states(1)] == [(None, 3)]
    assert billing_server.billed() == Counter(rows)
    first, second, third = (request.at_seconds for request in billing_server.posts)
    assert second - first >= 1
    assert third - second >= 1


def test_429_pauses_every_post(make_scene: MakeScene, billing_server: BillingServer) -> None:
    """After a 429 not one post starts for a second; the row and all others are then accepted."""
    billing_server.respond = by_device({"dev-2": [reply(429)]})
    scene = make_scene(concurrency=1)
    rows = usage_rows(8)
    scene.post(scene.due(rows))
    assert billing_server.billed() == Counter(rows)
    at_seconds = [request.at_seconds for request in billing_server.posts]
    refused = [request.headers["x-device-id"] for request in billing_server.posts].index("dev-2")
    assert at_seconds[refused + 1] - at_seconds[refused] >= 1


def test_a_pause_is_slept_through(make_scene: MakeScene, billing_server: BillingServer) -> None:
    """The loop goes round a few times in a pause of a second, not as fast as the processor can."""
    billing_server.respond = by_device({"dev-2": [reply(429)]})
    scene = make_scene(concurrency=1)
    rounds = 0

    def watch(_: Posting) -> None:
        nonlocal rounds
        rounds += 1

    scene.watch = watch
    scene.post(scene.due(usage_rows(8)))
    assert rounds < 200


def test_a_stop_waits_for_the_last_answers_asleep(make_scene: MakeScene, billing_server: BillingServer) -> None:
    """A row that would have been tried again is not, and the loop does not go round for it as fast as it can."""
    both_are_there = threading.Event()
    refused = Answer(reply(408).data, gate=both_are_there)
    billing_server.respond = by_device({"dev-0": [refused], "dev-1": [Answer(then=Then.HANG)]})
    scene = make_scene(concurrency=2, timeout_seconds=0.5)
    scene.should_stop = both_are_there.is_set
    rounds = 0

    def watch(_: Posting) -> None:
        nonlocal rounds
        rounds += 1
        if len(billing_server.posts) == 2:
            both_are_there.set()

    scene.watch = watch
    scene.post(scene.due(usage_rows(2, tenants=["acme"])))
    assert rounds < 200
    assert len(billing_server.posts) == 2


@pytest.mark.parametrize(
    "answer",
    [
        reply(500),
        reply(502),
        reply(503),
        reply(504),
        reply(599),
        reply(304),
        reply(201),
        reply(201, [1]),
        Answer(then=Then.FIN),
        Answer(then=Then.RST),
        Answer(then=Then.HANG),
    ],
    ids=["500", "502", "503", "504", "599", "304", "201 empty", "201 list", "closed", "reset", "silent"],
)
def test_a_row_in_doubt_is_never_sent_again_by_itself(
    make_scene: MakeScene, billing_server: BillingServer, answer: Answer
) -> None:
    """Unless the backend dedupes, a row that may have been recorded has one POST, whatever --retries says."""
    billing_server.respond = by_device({"dev-1": [answer] * 9})
    scene = make_scene(concurrency=1, retries=9, timeout_seconds=0.5)
    rows = usage_rows(3)
    scene.post(scene.due(rows))
    assert [(state.outcome.reason, state.attempts) for state in scene.states(3)] == [
        (None, 1),
        (Reason.IN_DOUBT, 1),
        (None, 1),
    ]
    assert max(billing_server.billed().values()) == 1


def test_with_a_dedupe_header_a_doubt_is_cleared_by_the_same_event_id(
    make_scene: MakeScene, billing_server: BillingServer
) -> None:
    """--idempotency-header lets a row in doubt be sent again, every time under the id that the row always has."""
    billing_server.respond = by_device({"dev-0": [reply(500), Answer(then=Then.RST)]})
    scene = make_scene(idempotency_header="Idempotency-Key")
    scene.post(scene.due(usage_rows(1)))
    assert [(state.outcome.reason, state.attempts) for state in scene.states(1)] == [(None, 3)]
    assert [request.headers["idempotency-key"] for request in billing_server.posts] == [scene.event_id(1)] * 3
    assert not any("x-request-id" in request.headers for request in billing_server.posts)


@pytest.mark.parametrize("later", [reply(422), reply(408)], ids=["rejected", "unavailable"])
def test_a_row_once_in_doubt_stays_in_doubt_until_it_is_accepted(
    make_scene: MakeScene, billing_server: BillingServer, later: Answer
) -> None:
    """A later attempt that says no does not say that the first one was not recorded; the detail tells both."""
    billing_server.respond = by_device({"dev-0": [reply(500), *[later] * 2]})
    scene = make_scene(idempotency_header="Idempotency-Key")
    scene.post(scene.due(usage_rows(1)))
    (state,) = scene.states(1)
    assert state.outcome.reason is Reason.IN_DOUBT
    assert "HTTP 500" in state.outcome.detail
    assert "a later attempt" in state.outcome.detail


def test_a_doubt_of_an_earlier_command_stays_when_the_customer_is_gone(
    make_scene: MakeScene, billing_server: BillingServer
) -> None:
    """A row that was in doubt is not made "certainly not recorded" by a look-up that fails now."""
    billing_server.respond = scripted(look_ups=[reply(404)])
    scene = make_scene()
    event = UsageEvent("acme", "dev-0", "api.calls", 1)
    scene.post(iter([Due(1, event, scene.event_id(1), attempts=1, doubt="HTTP 500")]))
    assert scene.reasons(1) == [Reason.IN_DOUBT]
    assert not billing_server.posts


def test_what_a_safe_status_answers_is_not_in_doubt(make_scene: MakeScene, billing_server: BillingServer) -> None:
    """By the operator's word a 502 was not recorded: such a row is tried again; one answered 500 is in doubt."""
    billing_server.respond = by_device({"dev-0": [reply(502)], "dev-1": [reply(502)] * 3, "dev-2": [reply(500)]})
    scene = make_scene(concurrency=1, safe_statuses=frozenset({502}))
    scene.post(scene.due(usage_rows(3)))
    assert [(state.outcome.reason, state.attempts) for state in scene.states(3)] == [
        (None, 2),
        (Reason.UNAVAILABLE, 3),
        (Reason.IN_DOUBT, 1),
    ]


# --- look-ups ---------------------------------------------------------------------------------------------------------


def test_a_failed_look_up_is_asked_again_and_its_rows_wait(
    make_scene: MakeScene, billing_server: BillingServer
) -> None:
    """Two look-ups that fail and a third that finds the customer: all the tenant's rows are posted, once."""
    billing_server.respond = scripted(look_ups=[reply(500), Answer(then=Then.RST)])
    scene = make_scene()
    rows = usage_rows(5, tenants=["acme"])
    scene.post(scene.due(rows))
    assert len(billing_server.look_ups) == 3
    assert billing_server.billed() == Counter(rows)


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([reply(404)], Reason.CUSTOMER_NOT_FOUND),
        ([reply(200, [])], Reason.CUSTOMER_NOT_FOUND),
        ([reply(200, [{"name": "acme"}])], Reason.CUSTOMER_NOT_FOUND),
        ([reply(500)] * 3, Reason.LOOKUP_FAILED),
        ([reply(200, b"<html>")] * 3, Reason.LOOKUP_FAILED),
        ([reply(403)], Reason.LOOKUP_FAILED),
    ],
    ids=["404", "empty list", "no id", "500", "not JSON", "403"],
)
def test_a_tenant_without_a_customer_fails_all_its_rows_and_no_other(
    make_scene: MakeScene, billing_server: BillingServer, answers: list[Answer], reason: Reason
) -> None:
    """The tenant is asked for as often as its answer deserves; nothing is posted for it, and other rows are."""
    left = iter(answers)

    def respond(received: Received) -> Answer:
        is_of_globex = received.method == "GET" and received.tenant_id == "globex"
        return next(left) if is_of_globex else contract(received)

    billing_server.respond = respond
    scene = make_scene()
    rows = usage_rows(6, tenants=["acme", "globex"])
    scene.post(scene.due(rows))
    assert scene.reasons(6) == [None, reason] * 3
    assert billing_server.billed() == Counter(rows[0::2])
    assert next(left, None) is None


def test_other_tenants_rows_flow_while_one_look_up_waits(make_scene: MakeScene, billing_server: BillingServer) -> None:
    """The answer to the first tenant's look-up comes only after the last row of the second was posted."""
    gate = threading.Event()
    rows = usage_rows(10, tenants=["slow", "quick"])

    def respond(received: Received) -> Answer:
        if received.method == "GET" and received.tenant_id == "slow":
            return Answer(contract(received).data, gate=gate)
        if received.method == "POST" and received.headers["x-device-id"] == "dev-9":
            gate.set()
        return contract(received)

    billing_server.respond = respond
    scene = make_scene(concurrency=2)
    scene.post(scene.due(rows))
    assert [request.tenant_id for request in billing_server.posts] == ["quick"] * 5 + ["slow"] * 5
    assert len(billing_server.look_ups) == 2


# --- a backend in trouble ---------------------------------------------------------------------------------------------


def test_five_doubts_in_a_row_pause_posting_until_a_look_up_is_answered(
    make_scene: MakeScene, billing_server: BillingServer
) -> None:
    """After the fifth 500 the next request is a look-up; answered, one post goes alone, and then all the rest."""
    billing_server.respond = scripted(posts=[reply(500)] * 5)
    scene = make_scene(concurrency=1)
    rows = usage_rows(12, tenants=["acme"])
    scene.post(scene.due(rows))
    assert [request.method for request in billing_server.received] == ["GET", *["POST"] * 5, "GET", *["POST"] * 7]
    assert scene.reasons(12) == [Reason.IN_DOUBT] * 5 + [None] * 7
    assert billing_server.billed() == Counter(rows)


def test_a_retry_after_beyond_the_patience_ends_the_run_at_once(
    make_scene: MakeScene, billing_server: BillingServer
) -> None:
    """An hour asked for, ten minutes of patience: the run stops and names the time; the row may be sent again."""
    billing_server.respond = scripted(posts=[reply(503, headers={"Retry-After": "3600"})])
    scene = make_scene(concurrency=1)
    scene.post(scene.due(usage_rows(3, tenants=["acme"])))
    assert "3,600 s" in scene.stop
    assert scene.reasons(3) == [Reason.UNAVAILABLE]
    assert len(billing_server.posts) == 1


@pytest.mark.parametrize("slow", [None, 1, 2, 3], ids=["quick", "slow 1", "slow 2", "slow 3"])
def test_look_ups_and_posts_take_turns_however_long_an_answer_takes(
    make_scene: MakeScene, billing_server: BillingServer, slow: int | None
) -> None:
    """One slot goes to a look-up and to a post in turn; turns of the loop in which none was free do not count."""
    scene = make_scene(concurrency=1)
    has_turned = threading.Event()
    scene.watch = lambda _: has_turned.set()

    def respond(request: Received) -> Answer:
        if request.number == slow:
            has_turned.clear()
            assert has_turned.wait(10)
        return contract(request)

    billing_server.respond = respond
    scene.post(scene.due(usage_rows(6, tenants=["acme"] * 3 + ["b", "c", "d"])))
    assert [request.method for request in billing_server.received] == ["GET", "POST", "GET"] + ["POST", "GET"] * 2 + [
        "POST"
    ] * 3


# --- size -------------------------------------------------------------------------------------------------------------


def test_no_more_rows_are_read_ahead_than_memory_is_meant_for(
    make_scene: MakeScene, billing_server: BillingServer
) -> None:
    """While a tenant's look-up is under way ten thousand of its rows are held, and no more are read."""
    scene = make_scene()
    is_over = threading.Event()
    read = 0

    def should_stop() -> bool:
        if read >= MOST_ROWS_HELD:
            is_over.set()
        return is_over.is_set()

    def respond(request: Received) -> Answer:
        assert is_over.wait(10)
        return contract(request)

    def reading() -> Iterator[Due | RowState]:
        nonlocal read
        yield RowState(1, Outcome(Reason.INVALID, "device_id: is empty"))
        for due in itertools.islice(scene.due(usage_rows(MOST_ROWS_HELD + 500, tenants=["acme"])), 1, None):
            read += 1
            yield due

    scene.should_stop = should_stop
    billing_server.respond = respond
    scene.post(reading())
    assert read == MOST_ROWS_HELD
    assert not billing_server.posts


def test_the_first_tenants_are_asked_for_before_the_log_is_read_far(
    make_scene: MakeScene, billing_server: BillingServer
) -> None:
    """A look-up is on its way when a thousand rows are read, and those after them are read meanwhile."""
    scene = make_scene()
    is_asked = threading.Event()

    def respond(request: Received) -> Answer:
        is_asked.set()
        return contract(request)

    def reading() -> Iterator[Due]:
        for due in scene.due(usage_rows(1_200, tenants=["acme"])):
            assert due.row <= 1_000 or is_asked.wait(10)
            yield due

    billing_server.respond = respond
    scene.post(reading())
    assert len(billing_server.posts) == 1_200


@pytest.mark.timeout(30)
def test_rows_that_cannot_be_posted_are_recorded_a_few_at_a_time_and_without_a_wait(make_scene: MakeScene) -> None:
    """A log of invalid rows is neither gathered in memory nor slowed down to a few rows each fifth of a second."""
    scene = make_scene(concurrency=1)
    settled = [0]
    scene.watch = lambda posting: settled.append(posting.progress.settled)
    invalid = Outcome(Reason.INVALID, "total_usage: 'x' is not an integer")
    scene.post(RowState(number, invalid) for number in range(1, 401))
    assert scene.reasons(400) == [Reason.INVALID] * 400
    assert max(after - before for before, after in itertools.pairwise(settled)) <= 2
