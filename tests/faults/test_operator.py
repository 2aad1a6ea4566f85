"""What an operator does between the commands, and what becomes of the words and the values that they write."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.billing_contract import contract
from tests.command import cells, read_rows
from tests.faults.misdeeds import LOST, NEVER_RECORDED, answering, rejecting
from tests.faults.scene import NewScene, Scene, failed_of, kill_at, rewrite

KILLED = -9


def edit(path: Path, **cells: str) -> None:
    """Write something else into every row of a file."""
    rewrite(path, [{**row, **cells} for row in read_rows(path)])


@pytest.fixture
def asked_to_resend(new_scene: NewScene) -> Scene:
    """Make a scene with one row in doubt that was not recorded, for which a person has written ``resend``."""
    scene = new_scene(rows=3)
    scene.respond = answering({"dev-1": NEVER_RECORDED})
    failed = failed_of(scene.upload())
    assert failed
    scene.mark(failed)
    return scene


def test_a_word_is_used_up_by_a_replay_that_was_killed(asked_to_resend: Scene) -> None:
    """The same replay once more does not send a second time what a person wrote ``resend`` for once."""
    with asked_to_resend as scene:
        failed = scene.home.folder / "usage.failed.csv"
        scene.respond = contract
        assert scene.replay(failed, at_post=kill_at(1)).exit_code == KILLED
        assert scene.replay(failed).exit_code == 1
        scene.settle_by_replay(failed)


def test_a_word_is_used_up_by_an_attempt_that_is_in_doubt_again(asked_to_resend: Scene) -> None:
    """Likewise when the answer to the row that was sent again is lost too."""
    with asked_to_resend as scene:
        failed = scene.home.folder / "usage.failed.csv"
        scene.respond = answering({"dev-1": LOST})
        assert scene.replay(failed).exit_code == 1
        assert scene.replay(failed).exit_code == 1
        scene.settle_by_replay(failed)


def test_a_row_that_was_mended_and_then_in_doubt_is_sent_again_as_it_was_mended(new_scene: NewScene) -> None:
    """``resend`` posts what was posted before, also when that is not what the usage log has."""
    with new_scene(rows=3, broken={"dev-1"}) as scene:
        failed = failed_of(scene.upload())
        assert failed
        scene.mark(failed)
        scene.respond = answering({"dev-1": NEVER_RECORDED})
        failed = failed_of(scene.replay(failed))
        assert failed
        scene.settle_by_replay(failed)


def test_what_is_sent_again_is_what_was_sent_last(new_scene: NewScene) -> None:
    """A row is edited and rejected, put back and left in doubt: ``resend`` posts it as it was put back."""
    with new_scene(rows=3) as scene:
        scene.respond = rejecting({"dev-1"})
        failed = failed_of(scene.upload())
        assert failed
        edit(failed, total_usage="999999")
        failed = failed_of(scene.replay(failed))
        assert failed
        edit(failed, total_usage="101")
        scene.respond = answering({"dev-1": NEVER_RECORDED})
        failed = failed_of(scene.replay(failed))
        assert failed
        scene.settle_by_replay(failed)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_run_that_nobody_can_be_told_of_goes_on(new_scene: NewScene) -> None:
    """Output that cannot be written costs the words alone: rows, results and exit code are right."""
    with new_scene() as scene:
        scene.respond = rejecting({"dev-1"})
        scene.upload()
        scene.respond = contract
        assert scene.upload(before=("sh", "-c", 'exec "$0" "$@" >/dev/full 2>/dev/full')).exit_code == 0
        scene.check_settled()
        assert "failed" not in cells(read_rows(scene.home.folder / "usage.results.csv"), "upload_status")
