"""Disks that are full or read-only, for ledger and results: the same command continues when they are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.billing_server import BillingServer
from tests.command import EVENT_COLUMNS, Home, read_rows, usage_rows, write_csv
from tests.faults.misdeeds import NEVER_RECORDED, answering
from tests.faults.mounts import fill, set_read_only, tmpfs
from tests.faults.scene import AtPost, NewScene, failed_of, the_error
from tests.faults.tally import Extent

ROWS = 400

pytestmark = pytest.mark.usefixtures("can_mount_tmpfs")


def filling(folder: Path, *, posts: int) -> AtPost:
    """Fill a disk at a post."""
    return AtPost(posts=posts, act=lambda _: fill(folder))


def test_a_ledger_disk_that_fills_up_stops_the_run(new_scene: NewScene, tmp_path: Path, extent: Extent) -> None:
    """Posting stops when the ledger's disk is full; rows in flight are in doubt, and the same command continues."""
    for posts in extent.of(short=[150], full=range(1, ROWS, 20)):
        with tmpfs(tmp_path / "ledger", size_bytes=4 << 20) as ledger, new_scene(rows=ROWS) as scene:
            scene.options = ("--ledger", ledger)
            done = scene.upload(at_post=filling(ledger, posts=posts))
            assert done.exit_code == 3
            assert "full" in the_error(done)
            (ledger / "filler").unlink()
            scene.settle()
            assert len(scene.in_doubt) <= scene.concurrency


def test_a_disk_that_is_full_at_the_start_refuses_the_run(new_scene: NewScene, tmp_path: Path) -> None:
    """Without room for the ledger or for the results nothing is posted."""
    with tmpfs(tmp_path / "disk", size_bytes=4 << 20) as disk, new_scene() as scene:
        fill(disk)
        for option in ("--ledger", "--results-dir"):
            scene.options = (option, disk)
            done = scene.upload()
            assert done.exit_code == 2
            assert str(disk) in the_error(done)
        (disk / "filler").unlink()
        scene.settle()


def test_a_ledger_disk_that_is_too_small_refuses_the_run(new_scene: NewScene, tmp_path: Path) -> None:
    """Nothing is posted where the disk would be full midway, each time anew; nor is any row in doubt for it."""
    with tmpfs(tmp_path / "disk", size_bytes=600 << 10) as disk, new_scene(rows=10_000) as scene:
        for options in (("--dry-run",), ()):
            scene.options = ("--ledger", disk, *options)
            done = scene.upload()
            assert done.exit_code == 2
            assert "bytes are free, and the ledger needs 4,950,000 for 10,000 rows" in the_error(done)
        assert not scene.server.posts


def test_failed_rows_leave_a_small_ledger_disk_some_room(tmp_path: Path, billing_server: BillingServer) -> None:
    """Long rows that a person is to correct are kept in full only where there is room for more than them."""
    rows = [(*row[:3], "none", "x" * 2000) for row in usage_rows(6000)]
    write_csv(tmp_path / "usage.csv", rows, columns=(*EVENT_COLUMNS, "note"))
    home = Home(folder=tmp_path, base_url=billing_server.base_url)
    with tmpfs(tmp_path / "disk", size_bytes=12 << 20) as disk:
        run = home.run_here("upload", "usage.csv", "--ledger", disk)
        assert run.exit_code == 1, run.said
        assert len(read_rows(tmp_path / "usage.failed.csv")) == len(rows)
        assert home.run_here("upload", "usage.csv", "--ledger", disk).exit_code == 1


def test_a_results_disk_that_fills_up_costs_no_row(new_scene: NewScene, tmp_path: Path, extent: Extent) -> None:
    """All rows are posted and recorded; the same command again, given room, writes the results and posts nothing."""
    for posts in extent.of(short=[1], full=range(1, ROWS, 20)):
        with tmpfs(tmp_path / "results", size_bytes=1 << 20) as results, new_scene(rows=ROWS) as scene:
            scene.options = ("--results-dir", results)
            done = scene.upload(at_post=filling(results, posts=posts))
            assert done.exit_code == 3
            assert str(results) in the_error(done)
            (results / "filler").unlink()
            assert len(scene.server.posts) == ROWS
            scene.settle()
            assert len(scene.server.posts) == ROWS


@pytest.mark.parametrize("option", ["--ledger", "--results-dir"])
def test_a_disk_that_has_become_read_only_refuses_the_run(new_scene: NewScene, tmp_path: Path, option: str) -> None:
    """With a ledger or a results folder that cannot be written to, neither upload nor replay posts anything."""
    with tmpfs(tmp_path / "disk", size_bytes=4 << 20) as disk, new_scene() as scene:
        scene.options = (option, disk)
        scene.respond = answering({"dev-1": NEVER_RECORDED})
        failed = failed_of(scene.upload())
        assert failed
        copy = Path(shutil.copy(failed, tmp_path))
        scene.mark(copy)
        set_read_only(disk, "ro")
        for done in (scene.upload(), scene.replay(copy)):
            assert done.exit_code == 2
            assert str(disk) in the_error(done)
        set_read_only(disk, "rw")
        scene.settle_by_replay(copy)
