"""``kill -9`` at every moment that matters: the same command again finishes the job, and what is unsure is named."""

from __future__ import annotations

import itertools
import random

import pytest

from tests.billing_contract import contract
from tests.faults.misdeeds import LOST, NEVER_RECORDED, answering, rejecting
from tests.faults.scene import NewScene, failed_of, kill_at
from tests.faults.tally import Extent
from tests.faults.tracing import Strace

KILLED = -9
SMALL_RUN_ROWS = 8
DEVICES = [f"dev-{number}" for number in range(SMALL_RUN_ROWS)]


@pytest.mark.parametrize(
    ("call", "least_kills", "short_step"),
    [
        ("fdatasync", 14, 3),
        ("fsync", 2, 2),
        ("write", 3, 2),
        ("link", 1, 2),
        ("unlink", 1, 2),
        ("sendto", 6, 4),
        ("recvfrom", 8, 6),
        ("pwrite64", 30, 16),
    ],
)
def test_an_upload_killed_at_any_system_call_is_continued(
    new_scene: NewScene, extent: Extent, strace: Strace, call: str, least_kills: int, short_step: int
) -> None:
    """Killed before the n-th flush, write, rename, send or receive, only rows that were in flight are in doubt."""
    step = extent.of(short=short_step, full=1)
    for when in itertools.count(step, step):
        with new_scene(rows=SMALL_RUN_ROWS, concurrency=3) as scene:
            scene.respond = rejecting({"dev-3"})  # so that there is something to replay in any case
            if scene.upload(before=strace.killing(call, when=str(when))).exit_code != KILLED:
                break
            scene.settle()
            assert len(scene.in_doubt) <= scene.concurrency
    assert when > least_kills, f"{call}: the run made fewer calls than it must"


def test_an_upload_killed_at_random_moments_is_continued(new_scene: NewScene, extent: Extent) -> None:
    """Killed again and again, always at a post that chance chose, a larger run loses nothing and bills nothing twice."""
    rows, kills = extent.of(short=(600, 6), full=(12_000, 50))
    chance = random.Random(20261120)  # noqa: S311 -- no secret
    while kills > 0:
        with new_scene(rows=rows, concurrency=32) as scene:
            while scene.upload(at_post=kill_at(chance.randint(1, rows // 3))).exit_code == KILLED:
                pass
            kills -= scene.kills
            scene.settle()
            assert len(scene.in_doubt) <= scene.kills * scene.concurrency


def test_a_replay_killed_at_random_moments_is_continued(new_scene: NewScene, extent: Extent) -> None:
    """A killed replay costs a question for each request in flight; rows that it had not reached are safe to send."""
    chance = random.Random(7)  # noqa: S311 -- no secret
    for posts in extent.of(short=[chance.randint(1, 16)], full=range(1, 17)):
        with new_scene(rows=16) as scene:
            scene.respond = rejecting({f"dev-{number}" for number in range(16)})
            failed = failed_of(scene.upload())
            assert failed
            assert scene.replay(failed).exit_code == 1
            scene.respond = rejecting({"dev-3"})
            assert scene.replay(failed, at_post=kill_at(posts)).exit_code == KILLED
            scene.settle_by_replay(failed)
            assert len(scene.in_doubt) <= scene.concurrency


@pytest.mark.parametrize(("call", "short_points"), [("fdatasync", [9]), ("fsync", [3]), ("link", [1]), ("unlink", [3])])
def test_a_replay_killed_at_any_system_call_is_continued(
    new_scene: NewScene, extent: Extent, strace: Strace, call: str, short_points: list[int]
) -> None:
    """Killed before the n-th flush or rename of a replay, a row is billed once all the same."""
    for when in extent.of(short=short_points, full=range(1, 100)):
        with new_scene(rows=6, concurrency=3) as scene:
            scene.respond = answering({"dev-1": LOST, "dev-2": NEVER_RECORDED})
            failed = failed_of(scene.upload())
            assert failed
            scene.mark(failed)
            if scene.replay(failed, before=strace.killing(call, when=str(when))).exit_code != KILLED:
                break
            scene.settle_by_replay(failed)
            assert scene.in_doubt == {"dev-1", "dev-2"}


def test_a_word_is_good_for_one_attempt(new_scene: NewScene) -> None:
    """The same replay again, after it was killed, does not send a second time what a person once wrote ``resend`` for."""
    with new_scene(rows=3) as scene:
        scene.respond = answering({"dev-1": NEVER_RECORDED})
        failed = failed_of(scene.upload())
        assert failed
        scene.mark(failed)
        scene.respond = contract
        assert scene.replay(failed, at_post=kill_at(1)).exit_code == KILLED
        scene.replay(failed)
