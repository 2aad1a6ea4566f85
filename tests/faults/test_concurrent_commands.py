"""Commands that run at the same time, and a clock that goes back between two of them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tests.billing_answers import Answer
from tests.billing_contract import Received, Respond, contract
from tests.command import ended, read_rows, usage_rows, write_csv
from tests.faults.misdeeds import NEVER_RECORDED, answering, rejecting
from tests.faults.scene import NewScene, Scene, failed_of, kill_at, results_of, the_error
from tests.faults.tally import Extent

DAY_SECONDS = 86_400
KILLED = -9


def held_at(gate: threading.Event) -> Respond:
    """Hold every post's answer back until the gate opens."""

    def respond(received: Received) -> Answer:
        answer = contract(received)
        return replace(answer, gate=gate) if received.method == "POST" else answer

    return respond


@contextlib.contextmanager
def in_the_midst(scene: Scene, command: str, source: Path) -> Iterator[int]:
    """Have a command in the midst of its posts, none of them answered, and let it end; gives its process id."""
    gate = threading.Event()
    scene.respond = held_at(gate)
    posts = len(scene.server.posts)
    with scene.started(command, source) as process:
        scene.server.wait_for(posts=posts + 1, timeout_seconds=30)
        yield process.pid
        gate.set()
        done = ended(process)
    scene.drain()
    scene.check(done, source, posts=len(scene.server.posts) - posts)


def test_the_same_content_is_not_uploaded_by_two_at_once(new_scene: NewScene, tmp_path: Path) -> None:
    """The second upload of a content, under whatever name, is refused and names the process that is at it."""
    with new_scene() as scene:
        copy = tmp_path / "copy.csv"
        copy.write_bytes(scene.log.read_bytes())
        with in_the_midst(scene, "upload", scene.log) as pid:
            for log in (scene.log, copy):
                second = scene.home.run("upload", log)
                assert second.exit_code == 2
                assert f"process {pid} " in the_error(second)
        scene.check_settled()


def test_uploads_that_start_together_bill_each_row_once(new_scene: NewScene, extent: Extent) -> None:
    """Of uploads of the same content that start together one posts; others are refused, or find all done."""
    for _ in range(extent.of(short=1, full=20)):
        with new_scene(rows=50) as scene, contextlib.ExitStack() as running:
            processes = [
                running.enter_context(scene.started("upload", scene.log)) for _ in range(extent.of(short=2, full=4))
            ]
            codes = [ended(process).exit_code for process in processes]
            assert 0 in codes
            assert set(codes) <= {0, 2}
            scene.drain()
            scene.check_settled()


def test_different_contents_are_uploaded_side_by_side(new_scene: NewScene, tmp_path: Path) -> None:
    """Two uploads with one ledger and one results folder, of files of the same name, do not get in each other's way."""
    with new_scene() as scene:
        scene.options = ("--results-dir", tmp_path / "results")
        more = usage_rows(30)[12:]
        scene.expected += more
        other = write_csv(tmp_path / "usage.csv", more)
        with in_the_midst(scene, "upload", scene.log):
            # Only what comes after the posts that are held back is answered at once.
            scene.respond = contract
            with scene.started("upload", other) as process:
                done = ended(process)
            assert done.exit_code == 0, done.said
            assert len(read_rows(results_of(done) or other)) == len(more)
        scene.check_settled()


def test_uploads_of_the_same_events_bill_each_once(new_scene: NewScene, tmp_path: Path, extent: Extent) -> None:
    """Two files that share events are uploaded together by their own ids; then each again, until all is settled."""
    for turn in range(extent.of(short=1, full=20)):
        with new_scene(rows=60) as scene:
            by_own_ids = ("upload", "--event-id", "device_id", "--allow-overlap")
            other = write_csv(tmp_path / f"other{turn}.csv", scene.expected[20:])
            with scene.started(*by_own_ids, scene.log) as one, scene.started(*by_own_ids, other) as two:
                assert {ended(one).exit_code, ended(two).exit_code} <= {0, 1}
            for log in (scene.log, other):
                done = scene.home.run(*by_own_ids, log)
                assert done.exit_code == 0, done.said
            scene.check_settled()


def test_a_replay_and_its_upload_do_not_run_at_once(new_scene: NewScene, extent: Extent) -> None:
    """Whichever of the two comes second is refused and posts nothing."""
    for first, second in extent.of(
        short=[("upload", "replay")], full=[("upload", "replay"), ("replay", "upload"), ("replay", "replay")]
    ):
        with new_scene() as scene:
            scene.respond = rejecting({"dev-1", "dev-2"})
            failed = failed_of(scene.upload())
            assert failed
            path_by_command = {"upload": scene.log, "replay": failed}
            with in_the_midst(scene, first, path_by_command[first]) as pid:
                refused = scene.home.run(second, path_by_command[second])
                assert refused.exit_code == 2
                assert f"process {pid} " in the_error(refused)
            scene.check_settled()


def test_a_clock_that_goes_back_changes_nothing(new_scene: NewScene) -> None:
    """All that an earlier command recorded, and the usage log itself, is of tomorrow: the run goes on as ever.

    The machine's clock is not ours to set. What is left behind when it goes back is times that are yet to come.
    """
    with new_scene(rows=20) as scene:
        tomorrow = time.time() + DAY_SECONDS
        os.utime(scene.log, (tomorrow, tomorrow))
        scene.respond = answering({"dev-1": NEVER_RECORDED})
        assert scene.upload(at_post=kill_at(10)).exit_code == KILLED
        set_forward(scene.home.ledger, milliseconds=DAY_SECONDS * 1000)
        scene.settle()
        assert len(scene.in_doubt) <= 1 + scene.concurrency


def set_forward(ledger: Path, *, milliseconds: int) -> None:
    """Add to every time in the ledger."""
    (path,) = ledger.glob("*.sqlite")
    connection = sqlite3.connect(path, isolation_level=None)
    tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
    changed = 0
    for table in tables:
        columns = {column[1] for column in connection.execute(f"pragma table_info({table})")}
        if "at_milliseconds" in columns:
            changed += connection.execute(
                f"update {table} set at_milliseconds = at_milliseconds + ?",  # noqa: S608 -- a name from the ledger
                (milliseconds,),
            ).rowcount
    connection.execute("delete from in_use")  # closing takes the write-ahead log in and away
    connection.close()
    assert changed
