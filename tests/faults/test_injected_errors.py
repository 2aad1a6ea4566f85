"""A disk that fails under the run: a clear error, nothing posted that is not recorded, and the same command continues."""

from __future__ import annotations

import itertools

import pytest

from tests.command import Ended
from tests.faults.scene import NewScene, Scene, the_error
from tests.faults.tally import Extent
from tests.faults.tracing import Strace


@pytest.mark.parametrize(
    ("call", "error", "least_calls", "short_step"),
    [
        ("pwrite64", "ENOSPC", 30, 13),
        ("pwrite64", "EIO", 30, 23),
        ("fdatasync", "EIO", 12, 5),
        ("fdatasync", "ENOSPC", 12, 11),
        ("fsync", "EIO", 2, 2),
        ("link", "ENOSPC", 1, 1),
        ("ftruncate", "EIO", 1, 1),
    ],
)
def test_a_failing_disk_stops_the_run_and_nothing_is_unrecorded(
    new_scene: NewScene, extent: Extent, strace: Strace, call: str, error: str, least_calls: int, short_step: int
) -> None:
    """From the n-th such system call on all fail; the command says so in one line and ends; later it continues."""
    step = extent.of(short=short_step, full=1)
    for when in itertools.count(step, step):
        with new_scene(rows=8, concurrency=3) as scene:
            done = scene.upload(before=strace.failing(call, error=error, when=f"{when}+"))
            if done.exit_code == 0:
                break
            check_error(done, scene)
            scene.settle()
            assert len(scene.in_doubt) <= scene.concurrency
    assert when > least_calls, f"{call}: the run made fewer calls than it must"


def test_a_log_that_cannot_be_read_any_more_stops_the_run(new_scene: NewScene, extent: Extent, strace: Strace) -> None:
    """A read error, in the first pass or a later one, ends the command; later it continues."""
    for when in extent.of(short=[2, 4], full=range(1, 6)):
        with new_scene(rows=8, concurrency=3) as scene:
            done = scene.upload(before=strace.failing("pread64", error="EIO", when=f"{when}+", path=scene.log))
            check_error(done, scene)
            scene.settle()
            assert not scene.in_doubt


def check_error(done: Ended, scene: Scene) -> None:
    """Check that the command ended early with one line that names a file and a remedy."""
    assert done.exit_code in (2, 3), done.said
    assert str(scene.home.folder) in the_error(done)
