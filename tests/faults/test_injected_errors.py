"""A disk that fails under the run: a clear error, every post recorded, and the same command continues."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest

from tests.command import Ended
from tests.faults.scene import NewScene, Scene, the_error
from tests.faults.tally import Extent
from tests.faults.tracing import Strace


@dataclass(frozen=True, slots=True)
class Calls:
    """System calls of one name: from which on they fail in the short form, and how many there are at least."""

    name: str
    error: str
    short: tuple[int, ...]
    least: int


@pytest.mark.parametrize(
    "calls",
    [
        Calls("pwrite64", "ENOSPC", (26,), 30),
        Calls("pwrite64", "EIO", (), 30),
        Calls("fdatasync", "EIO", (11,), 12),
        Calls("fdatasync", "ENOSPC", (), 12),
        Calls("fsync", "EIO", (2,), 2),
        Calls("link", "ENOSPC", (2,), 1),
        Calls("ftruncate", "EIO", (), 1),
    ],
    ids=lambda calls: f"{calls.name} {calls.error}",
)
def test_a_failing_disk_stops_the_run_and_nothing_is_unrecorded(
    new_scene: NewScene, extent: Extent, strace: Strace, calls: Calls
) -> None:
    """From the n-th such system call on all fail; the command says so in one line and ends; later it continues."""
    for when in extent.of(short=calls.short, full=itertools.count(1)):
        with new_scene(rows=8, concurrency=3) as scene:
            done = scene.upload(before=strace.failing(calls.name, error=calls.error, when=f"{when}+"))
            if done.exit_code == 0:
                assert when > calls.least, f"{calls.name}: the run made fewer calls than it must"
                break
            check_error(done, scene)
            scene.settle()
            assert len(scene.in_doubt) <= scene.concurrency


def test_a_log_that_cannot_be_read_any_more_stops_the_run(new_scene: NewScene, extent: Extent, strace: Strace) -> None:
    """A read error, in the first pass or a later one, ends the command; later it continues."""
    for when in extent.of(short=[4], full=itertools.count(1)):
        with new_scene(rows=8, concurrency=3) as scene:
            done = scene.upload(before=strace.failing("pread64", error="EIO", when=f"{when}+", path=scene.log))
            if done.exit_code == 0:
                assert when > 3, "the log is read in three passes"
                break
            check_error(done, scene)
            scene.settle()
            assert not scene.in_doubt


def check_error(done: Ended, scene: Scene) -> None:
    """Check that the command ended early with one line that names a file and a remedy."""
    assert done.exit_code in (2, 3), done.said
    assert str(scene.home.folder) in the_error(done)
