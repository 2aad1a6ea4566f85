"""The power is cut: an ext4 file system is shut down under the run, without so much as its journal being written.

After it is mounted again, as a machine does that starts again, the same command must go on from what was flushed.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import read_rows
from tests.faults.misdeeds import rejecting
from tests.faults.mounts import Disk, ext4_disk
from tests.faults.scene import AtPost, NewScene, results_of, the_error
from tests.faults.tally import Extent

ROWS = 300
CONCURRENCY = 16

pytestmark = pytest.mark.usefixtures("can_cut_disks")


def cutting(disk: Disk) -> Callable[[int], None]:
    """Make what cuts a disk while a process stands still, and lets that go on.

    A power loss stops the processor too. An fdatasync that is under way while ext4 is shut down may return 0 without
    having written anything, since jbd2 no longer finds the transaction that it aborted; no power loss does that.
    """

    def cut(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
        disk.cut()
        os.kill(pid, signal.SIGCONT)

    return cut


def test_a_power_loss_costs_no_row(new_scene: NewScene, tmp_path: Path, extent: Extent) -> None:
    """Cut at a post that chance chose, with the ledger and the results on the disk, a run is continued to its end."""
    chance = random.Random(25)  # noqa: S311 -- no secret
    for _ in range(extent.of(short=1, full=25)):
        with ext4_disk(tmp_path / "disk") as disk, new_scene(rows=ROWS, concurrency=CONCURRENCY) as scene:
            scene.options = ("--ledger", disk.folder / "ledger", "--results-dir", disk.folder / "results")
            scene.respond = rejecting({"dev-3"})

            def cut_and_kill(pid: int) -> None:
                os.kill(pid, signal.SIGSTOP)
                os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
                disk.cut()
                os.kill(pid, signal.SIGKILL)

            done = scene.upload(at_post=AtPost(posts=chance.randint(1, ROWS), act=cut_and_kill))
            assert done.exit_code == -signal.SIGKILL
            disk.start_again()
            scene.settle()
            assert len(scene.in_doubt) <= CONCURRENCY


def test_a_disk_that_dies_under_the_run_stops_it(new_scene: NewScene, tmp_path: Path, extent: Extent) -> None:
    """The program outlives its disk: it says so in one line, and on the disk that is back it continues."""
    for posts in extent.of(short=[100], full=range(1, ROWS, 30)):
        with ext4_disk(tmp_path / "disk") as disk, new_scene(rows=ROWS, concurrency=CONCURRENCY) as scene:
            scene.options = ("--ledger", disk.folder / "ledger", "--results-dir", disk.folder / "results")
            done = scene.upload(at_post=AtPost(posts=posts, act=cutting(disk)))
            assert done.exit_code == 3
            assert str(disk.folder) in the_error(done)
            disk.start_again()
            scene.settle()
            assert len(scene.in_doubt) <= CONCURRENCY


def test_results_that_were_announced_survive_a_power_loss(new_scene: NewScene, tmp_path: Path) -> None:
    """When the command has ended, its files are there after a cut, under their names and whole."""
    with ext4_disk(tmp_path / "disk") as disk, new_scene(rows=ROWS, concurrency=CONCURRENCY) as scene:
        scene.options = ("--results-dir", disk.folder)
        scene.respond = rejecting({"dev-3"})
        done = scene.upload()
        disk.cut()
        disk.start_again()
        results = results_of(done)
        assert results
        assert len(read_rows(results)) == ROWS
        assert [row["device_id"] for row in read_rows(disk.folder / "usage.failed.csv")] == ["dev-3"]
        scene.settle()
