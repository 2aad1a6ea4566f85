"""``kill -9`` at every moment that matters: the same command again finishes the job, and what is unsure is named."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import pytest

from tests.faults.misdeeds import LOST, NEVER_RECORDED, answering, rejecting
from tests.faults.scene import NewScene, failed_of, kill_at, results_of
from tests.faults.tally import Extent
from tests.faults.tracing import Strace

KILLED = -9


@dataclass(frozen=True, slots=True)
class Calls:
    """The system calls of one name: at which of them the short form kills, and how many there are at least."""

    name: str
    short: tuple[int, ...]
    least: int


@pytest.mark.parametrize(
    "calls",
    [
        Calls("fdatasync", (14,), 14),
        Calls("fsync", (), 2),
        Calls("link", (1,), 1),
        Calls("unlink", (), 1),
        Calls("sendto", (6,), 6),
        Calls("recvfrom", (), 8),
        Calls("pwrite64", (), 30),
        Calls("write", (), 3),
    ],
    ids=lambda calls: calls.name,
)
def test_an_upload_killed_at_any_system_call_is_continued(
    new_scene: NewScene, extent: Extent, strace: Strace, calls: Calls
) -> None:
    """Killed before the n-th flush, rename, send, receive or write, only rows that were in flight are in doubt."""
    for when in extent.of(short=calls.short, full=itertools.count(1)):
        with new_scene(rows=8, concurrency=3) as scene:
            scene.respond = rejecting({"dev-3"})  # so that there is something to replay in any case
            if scene.upload(before=strace.killing(calls.name, when=str(when))).exit_code != KILLED:
                assert when > calls.least, f"{calls.name}: the run made fewer calls than it must"
                break
            scene.settle()
            assert len(scene.in_doubt) <= scene.concurrency


@pytest.mark.parametrize(
    ("call", "when", "note"),
    [("link", 5, ""), ("fsync", 12, ""), ("fsync", 12, "a note\n")],
    ids=["between the two", "after both", "edited"],
)
def test_results_that_were_placed_before_a_kill_are_this_runs_own(
    new_scene: NewScene, strace: Strace, call: str, when: int, note: str
) -> None:
    """Killed before the ledger has them as written, the next command replaces them, but not what a person edited."""
    with new_scene(rows=8, concurrency=3) as scene:
        scene.respond = rejecting({"dev-3"})
        assert scene.upload(before=strace.killing(call, when=str(when))).exit_code == KILLED
        results = scene.log.with_name("usage.results.csv")
        assert results.exists()
        assert results.with_name("usage.failed.csv").exists() == (call == "fsync")
        with results.open("a") as file:
            file.write(note)
        done = scene.upload()
        assert results_of(done) == (scene.log.with_name("usage.2.results.csv") if note else results)
        assert results.read_text().endswith("a note\n") == bool(note)


def test_an_upload_killed_at_random_moments_is_continued(new_scene: NewScene, extent: Extent) -> None:
    """Killed again and again, each time at a post that chance chose, a larger run bills every row once."""
    rows, kills = extent.of(short=(300, 3), full=(12_000, 50))
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
    for posts in extent.of(short=[7], full=range(1, 17)):
        with new_scene(rows=16) as scene:
            scene.respond = rejecting({f"dev-{number}" for number in range(16)})
            failed = failed_of(scene.upload())
            assert failed
            scene.respond = rejecting({"dev-3"})
            assert scene.replay(failed, at_post=kill_at(posts)).exit_code == KILLED
            scene.settle_by_replay(failed)
            assert len(scene.in_doubt) <= scene.concurrency


@pytest.mark.parametrize(
    "calls",
    [
        Calls("fdatasync", (9,), 8),
        Calls("fsync", (), 2),
        Calls("link", (), 1),
        Calls("unlink", (), 1),
        # One look-up, and the one row that is marked to be sent again.
        Calls("sendto", (), 2),
        Calls("recvfrom", (), 2),
    ],
    ids=lambda calls: calls.name,
)
def test_a_replay_killed_at_any_system_call_is_continued(
    new_scene: NewScene, extent: Extent, strace: Strace, calls: Calls
) -> None:
    """Killed before the n-th flush, rename, send or receive of a replay, a row is billed once all the same."""
    for when in extent.of(short=calls.short, full=itertools.count(1)):
        with new_scene(rows=6, concurrency=3) as scene:
            scene.respond = answering({"dev-1": LOST, "dev-2": NEVER_RECORDED})
            failed = failed_of(scene.upload())
            assert failed
            scene.mark(failed)
            if scene.replay(failed, before=strace.killing(calls.name, when=str(when))).exit_code != KILLED:
                assert when > calls.least, f"{calls.name}: the replay made fewer calls than it must"
                break
            scene.settle_by_replay(failed)
            assert scene.in_doubt == {"dev-1", "dev-2"}
