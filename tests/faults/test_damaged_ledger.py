"""A ledger that is damaged, lost or written by a newer program: it is said, and nothing is billed twice."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.misdeeds import NEVER_RECORDED, answering
from tests.faults.scene import NewScene, Scene, failed_of, kill_at, the_error
from tests.faults.tally import Extent

PAGE_BYTES = 4096
KILLED = -9


def ledger_file(scene: Scene) -> Path:
    """Find the only run's ledger."""
    (path,) = scene.home.ledger.glob("*.sqlite")
    return path


def overwrite(path: Path, *, at: int, count: int) -> None:
    """Put chance's bytes into a file."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(random.Random(at).randbytes(count))  # noqa: S311 -- no secret


def make_newer(path: Path) -> None:
    """Give a ledger the version of a program that does not exist yet."""
    connection = sqlite3.connect(path)
    connection.execute("pragma user_version = 99")
    connection.close()


def overwrite_header(path: Path) -> None:
    """Make the file's start unreadable."""
    overwrite(path, at=0, count=100)


def cut_in_half(path: Path) -> None:
    """Take the end of the file away."""
    os.truncate(path, path.stat().st_size // 2)


def test_a_ledger_that_cannot_be_understood_refuses_the_run(new_scene: NewScene) -> None:
    """On the word of a ledger that is damaged or newer nothing is posted; with the sound one, the run continues."""
    with new_scene() as scene:
        scene.respond = answering({"dev-1": NEVER_RECORDED})
        failed = failed_of(scene.upload())
        assert failed
        path = ledger_file(scene)
        sound = path.read_bytes()
        for damage, words in (
            (overwrite_header, "not a database"),
            (cut_in_half, "malformed"),
            (make_newer, "newer version"),
        ):
            damage(path)
            done = scene.upload()
            assert done.exit_code == 2
            assert words in the_error(done)
            assert str(path) in the_error(done)
            path.write_bytes(sound)
        make_newer(path)
        assert scene.replay(failed).exit_code == 2
        path.write_bytes(sound)
        scene.settle()


def test_whichever_page_is_damaged_nothing_is_posted(new_scene: NewScene, extent: Extent) -> None:
    """Wherever the ledger's file has become rubbish, the run ends with an error, or did without what stood there."""
    with new_scene(rows=extent.of(short=100, full=1000), concurrency=32) as scene:
        assert scene.upload().exit_code == 0
        path = ledger_file(scene)
        sound = path.read_bytes()
        pages = range(0, len(sound), PAGE_BYTES)
        for at in extent.of(short=pages[2:4], full=pages):
            overwrite(path, at=at, count=PAGE_BYTES)
            done = scene.upload()
            if done.exit_code == 0:  # a table's page that a finished run has no row in
                assert "(0 posts" in done.stdout
            else:
                assert done.exit_code in (2, 3)
                assert str(path) in the_error(done)
                assert "what was recorded is safe" not in the_error(done)
            path.write_bytes(sound)
        scene.check_settled()


def lose_all(scene: Scene) -> None:
    """Take the ledger's folder away."""
    shutil.rmtree(scene.home.ledger)


def empty(scene: Scene) -> None:
    """Leave nothing in the ledger's file, and no write-ahead log."""
    os.truncate(ledger_file(scene), 0)
    lose_write_ahead_log(scene)


def lose_write_ahead_log(scene: Scene) -> None:
    """Take the write-ahead log away, which after a crash holds nearly everything."""
    for path in scene.home.ledger.glob("*.sqlite-wal"):
        path.unlink()


@pytest.mark.parametrize("lose", [lose_all, empty])
def test_a_lost_ledger_does_not_look_like_a_fresh_start_after_a_whole_run(
    new_scene: NewScene, lose: Callable[[Scene], None]
) -> None:
    """The results name a run that the ledger does not know: nothing is posted."""
    with new_scene() as scene:
        assert scene.upload().exit_code == 0
        lose(scene)
        assert scene.upload().exit_code == 2


@pytest.mark.parametrize("lose", [lose_all, empty, lose_write_ahead_log])
def test_a_lost_ledger_does_not_look_like_a_fresh_start_after_a_crash(
    new_scene: NewScene, lose: Callable[[Scene], None]
) -> None:
    """What was laid beside the results names a run that the ledger does not know: nothing is posted."""
    with new_scene() as scene:
        assert scene.upload(at_post=kill_at(6)).exit_code == KILLED
        lose(scene)
        assert scene.upload().exit_code == 2


def test_a_write_ahead_log_that_was_lost_is_noticed(new_scene: NewScene) -> None:
    """Without any mark beside the results the ledger says that its last commits are gone; with them it goes on."""
    with new_scene(rows=100) as scene:
        assert scene.upload(at_post=kill_at(60)).exit_code == KILLED
        (log,) = scene.home.ledger.glob("*.sqlite-wal")
        aside = log.rename(log.with_suffix(".aside"))
        scene.log.with_name("usage.csv.uploading").unlink()
        done = scene.upload()
        assert done.exit_code == 2
        assert f"{log.name}, which has what was recorded last, is not there" in the_error(done)
        assert "recorded last, is not there" in scene.home.run("runs").stdout
        aside.rename(log)
        assert scene.home.run("runs").exit_code == 0  # takes the log in, and removes it
        assert not log.exists()
        scene.settle()
