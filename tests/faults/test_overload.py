"""A backend that slows down, then sheds its load, then recovers: doubt stays bounded, and everything is accounted for.

The bound: a run goes on at full width until five outcomes in a row are in trouble. Each right answer that was still on
its way when the outage began may come between them, after up to four, and the count begins again; then the other
requests in flight may be in doubt too. After that one request at a time finds out whether it is over, and the third
pause that it comes to ends the run.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

from tests.billing_answers import Answer, Then, drip, reply
from tests.billing_contract import Received, Respond, contract
from tests.faults.misdeeds import LOST
from tests.faults.scene import NewScene
from tests.faults.tally import Extent

CONCURRENCY = 8
ROWS = 200
IN_A_ROW = 5
SINGLE_REQUESTS = 2
OTHERS_IN_FLIGHT = CONCURRENCY - 1
MOST_IN_DOUBT = OTHERS_IN_FLIGHT * (IN_A_ROW - 1) + IN_A_ROW + OTHERS_IN_FLIGHT + SINGLE_REQUESTS
SLOW = range(40, 60)
SILENT = Answer(then=Then.HANG)


def failing_between(first: int, last: int, answers: list[Answer]) -> Respond:
    """Answer slowly for a while, then wrongly from the first to the last of these posts, and rightly again."""
    posts = itertools.count(1)
    wrong = itertools.cycle(answers)

    def respond(received: Received) -> Answer:
        right = contract(received)
        if received.method != "POST":
            return right
        number = next(posts)
        if number in SLOW:
            return drip(right, pause_seconds=0.001)
        return next(wrong) if first <= number <= last else right

    return respond


def test_a_short_outage_is_waited_for(new_scene: NewScene, extent: Extent) -> None:
    """The run pauses, finds the backend well again, and goes on to the end; what was in flight is in doubt."""
    shedding = [reply(503, b"shedding load"), LOST, replace(LOST, bills=False), SILENT]
    for answers in extent.of(short=[shedding], full=[shedding, [SILENT], [LOST], [reply(500)]]):
        with new_scene(rows=ROWS, concurrency=CONCURRENCY) as scene:
            scene.options = ("--timeout", "2")
            scene.respond = failing_between(100, 100 + IN_A_ROW + 1, answers)
            done = scene.upload()
            assert done.exit_code == 1
            assert IN_A_ROW <= len(scene.in_doubt) <= MOST_IN_DOUBT
            scene.settle()


def test_a_long_outage_ends_the_run(new_scene: NewScene, extent: Extent) -> None:
    """The run gives up after its pauses; the same command, when all is well again, posts the rest."""
    with new_scene(rows=ROWS, concurrency=CONCURRENCY) as scene:
        scene.options = extent.of(short=("--patience", "1"), full=())
        scene.respond = failing_between(100, 10_000, [reply(503), LOST])
        done = scene.upload()
        assert done.exit_code == 3
        assert IN_A_ROW <= len(scene.in_doubt) <= MOST_IN_DOUBT
        scene.settle()


def test_a_backend_that_says_when_to_come_back_leaves_no_doubt(new_scene: NewScene) -> None:
    """429, and 503 with Retry-After, only pace: every row is accepted in the end, and none is in doubt."""
    with new_scene(rows=60, concurrency=CONCURRENCY) as scene:
        scene.respond = failing_between(30, 33, [reply(429), reply(503, headers={"Retry-After": "1"})])
        assert scene.upload().exit_code == 0
        assert not scene.in_doubt
        scene.check_settled()


def test_a_backend_that_fails_now_and_then_is_not_asked_for_ever(new_scene: NewScene, extent: Extent) -> None:
    """With one answer in four lost, never many in a row, the share of doubt ends the run."""
    rows = extent.of(short=1_000, full=4_000)
    with new_scene(rows=rows, concurrency=CONCURRENCY) as scene:
        scene.options = ("--patience", "1")
        answers = itertools.cycle([LOST, None, None, None])

        def respond(received: Received) -> Answer:
            lost = next(answers) if received.method == "POST" else None
            return lost or contract(received)

        scene.respond = respond
        assert scene.upload().exit_code == 3
        # Twice (a second of patience is one pause): 1 in 4 of the 200 outcomes from which on a share is a share.
        assert len(scene.in_doubt) <= 2 * (200 // 4 + CONCURRENCY)
        scene.settle()
