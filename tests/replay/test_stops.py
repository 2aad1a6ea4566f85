"""A replay that is stopped, killed or not alone; and any course of events."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.billing_answers import Answer, reply
from tests.billing_contract import BilledRow
from tests.billing_server import BillingServer
from tests.command import Home, ended
from tests.replay.scene import (
    BEFORE,
    EVERY_PERMISSION,
    HEADER,
    LOST,
    NEVER,
    NO,
    NO_PERMISSION,
    NOT_NOW,
    QUICK_FOLDER,
    Rows,
    Scene,
    cells,
    edited,
    failed_file,
    read,
    results_file,
    setting,
)
from uploader.commands.console import next_steps
from uploader.model.errors import RefusedError
from uploader.replays.judge import Permissions
from uploader.results.results import OWN_COLUMNS

# --- stops, crashes, two at once --------------------------------------------------------------------------------------


def test_a_replay_that_is_stopped_accounts_for_every_row(scene: Scene) -> None:
    """Rows whose turn did not come are said to be not sent; the same command again posts them."""
    log = scene.log(*(f"acme,d{number},api,{number}" for number in range(1, 41)))
    scene.answers = {f"d{number}": [NO] for number in range(2, 41, 3)}
    file = results_file(scene.upload(log))
    scene.stop_after_posts = len(scene.server.posts) + 3

    def edit(rows: Rows) -> None:
        rows.append({**rows[1], "total_usage": "99"})
        rows.append({**rows[38], "total_usage": "99"})
        rows.append({**rows[0], "upload_row": "77", "upload_event_id": ""})

    report = scene.replay(edited(file, edit))
    assert report.stop == "the command was interrupted"
    rows = read(results_file(report))
    assert [row["device_id"] for row in rows] == [*(f"d{number}" for number in range(1, 41)), "d2", "d39", "d1"]
    reasons = [row["upload_reason"] for row in rows]
    assert 3 <= reasons[:40].count("") - 27 <= 10
    assert set(reasons[:40]) == {"", "not_sent"}
    assert reasons[40:] == ["duplicate", "duplicate", "malformed"]
    assert rows[42]["upload_row"] == ""
    scene.stop_after_posts = None
    assert scene.replay(file).failed_rows == 0
    assert sum(scene.server.billed().values()) == 40


def test_rows_that_a_stopped_replay_never_read_are_accounted_for_too(scene: Scene) -> None:
    """Stopped before it read a row, a replay still tells copies from rows, and strangers from both."""
    log = scene.log("acme,ok,api,99", *(f"acme,d{number},api,{number}" for number in range(1, 13)))
    scene.answers = {f"d{number}": [NO] for number in range(1, 13)}
    file = results_file(scene.upload(log))
    scene.stop_after_posts = 0
    last_rows: Rows = []

    def edit(rows: Rows) -> None:
        last_rows.extend([rows.pop(), {**rows[0]}, {**rows[1]}, {**rows[1], "upload_row": "77"}])
        rows.extend([{**rows[0]} for _ in range(1000)] + last_rows)

    report = scene.replay(edited(file, edit))
    assert report.stop
    rows = read(results_file(report))
    assert len(rows) == 12 + 1000 + 4
    assert {row["upload_reason"] for row in rows[12:-4]} == {"duplicate"}
    assert (rows[0]["upload_reason"], rows[0]["upload_detail"]) == ("", BEFORE)
    assert [row["upload_reason"] for row in rows[-4:]] == ["not_sent", "duplicate", "duplicate", "malformed"]
    assert [row["upload_row"] for row in rows[-4:]] == ["13", "", "", ""]
    scene.stop_after_posts = None
    assert scene.replay(file).failed_rows == 0


def test_a_stopped_replay_gives_no_verdict_on_rows_that_it_did_not_reach(scene: Scene) -> None:
    """What they were is not what they are now; a word that was not heeded is told, and an id that is still wrong."""
    log = scene.log(*(f"acme,d{number},api,none" for number in range(20)), "acme,lost,api,1", "acme,bad id,api,1")
    scene.answers = {"lost": [NEVER]}
    file = failed_file(scene.upload(log))
    scene.stop_after_posts = len(scene.server.posts) + 3

    def correct(rows: Rows) -> None:
        for row in rows[:20]:
            row["total_usage"] = "7"
        rows[20]["upload_replay"] = "resend"

    corrected = edited(file, correct)
    report = scene.replay(corrected)
    rows = read(results_file(report))
    by_reason = Counter(row["upload_reason"] for row in rows)
    assert set(by_reason) == {"", "not_sent", "in_doubt", "invalid"}
    assert by_reason["invalid"] == by_reason["in_doubt"] == 1
    unsent = next(row for row in rows if row["upload_reason"] == "not_sent")
    assert unsent["upload_detail"].startswith("the replay ended before its turn; until then: invalid, total_usage: ")
    assert rows[20]["upload_detail"].endswith("the replay ended before its turn: upload_replay said 'resend'")
    assert any("run the same command again" in step for step in next_steps(report, replay_options=""))
    scene.stop_after_posts = None
    assert scene.replay(corrected).failed_rows == 1
    assert scene.posts_of("lost") == 2


def test_rows_that_a_stopped_replay_never_read_keep_the_ids_that_are_known(scene: Scene) -> None:
    """Of a log with ids of its own, a person corrected those too; what was written of them can be replayed."""
    upload_plan = replace(scene.plan, event_id="id")
    log = scene.log(*(f"acme,d{at},api,none,id-{at}" for at in range(5)), header=f"{HEADER},id")
    scene.plan, plan = upload_plan, scene.plan
    file = failed_file(scene.upload(log))
    scene.stop_after_posts = 0

    def correct(rows: Rows) -> None:
        for row in rows:
            row.update(total_usage="7", id=f"new-{row['id']}")

    stopped = scene.replay(edited(file, correct), plan=plan)
    assert set(cells(results_file(stopped), "upload_reason")) == {"not_sent"}
    scene.stop_after_posts = None
    assert scene.replay(failed_file(stopped), plan=plan).failed_rows == 0
    assert len(scene.server.billed()) == 5


def test_rows_beyond_a_batch_are_known(scene: Scene) -> None:
    """In a file of thousands of rows each is found again by its own number, to the last."""
    count = 2100
    log = scene.log(*(f"acme,d{number},api,{number}" for number in range(1, count + 1)))
    scene.answers = {f"d{number}": [NO] for number in (999, 1001, count)}
    scene.plan = replace(scene.plan, settings=replace(scene.plan.settings, concurrency=32))
    report = scene.replay(results_file(scene.upload(log)))
    assert (report.posts, report.failed_rows) == (3, 0)
    assert cells(results_file(report), "upload_row") == [str(number) for number in range(1, count + 1)]
    assert sorted(row[3] for row in scene.posted()) == sorted([*range(1, count + 1), 999, 1001, count])


def test_a_replay_during_its_upload_is_refused(scene: Scene) -> None:
    """While a process works on the run, another is turned away with exit code 2, and posts nothing."""
    home = Home(folder=scene.folder, base_url=scene.server.base_url)
    log = scene.log("acme,d1,api,1", "acme,d2,api,2")
    gate = threading.Event()
    scene.answers = {"d1": [NOT_NOW, replace(reply(201, {}), gate=gate)]}
    file = edited(failed_file(scene.upload(log)))
    with home.started("upload", log) as process:
        scene.server.wait_for(posts=3)
        turned_away = home.run("replay", file)
        gate.set()
        assert ended(process).exit_code == 0
    assert turned_away.exit_code == 2
    assert "this run is being worked on by process" in turned_away.said
    assert home.run("replay", file).exit_code == 0
    assert scene.posts_of("d1") == 2


def test_a_killed_replay_costs_a_question_and_no_row(scene: Scene) -> None:
    """After kill -9 the rows that were in flight are in doubt, whatever the file says; the others are replayed."""
    home = Home(folder=scene.folder, base_url=scene.server.base_url)
    log = scene.log(*(f"acme,d{number},api,{number}" for number in range(1, 9)))
    gate = threading.Event()
    held = [replace(reply(201, {}), gate=gate), replace(reply(500), gate=gate, bills=False)]
    scene.answers = {f"d{number}": [NO] for number in range(1, 9)} | {"d3": [NO, held[0]], "d4": [NO, held[1]]}
    file = failed_file(scene.upload(log))
    with home.started("replay", edited(file, setting(total_usage="7")), "--concurrency", "2") as process:
        scene.server.wait_for(posts=12)
        os.kill(process.pid, signal.SIGKILL)
        assert ended(process).exit_code == -signal.SIGKILL
    gate.set()
    done = home.run("replay", file)
    assert done.exit_code == 1, done.said
    assert "2 rows" in done.said
    again = scene.folder / "usage.replay1.results.csv"
    assert cells(again, "upload_reason") == ["", "", "in_doubt", "in_doubt", "", "", "", ""]
    failed = scene.folder / "usage.replay1.failed.csv"
    marked = edited(failed, scene.mark)
    assert "its cells were edited" in cells(failed_file(scene.replay(marked)), "upload_detail")[0]
    assert scene.replay(edited(marked, setting(total_usage="7"))).failed_rows == 0
    assert Counter(row[1] for row in scene.server.billed().elements()) == {f"d{number}": 1 for number in range(1, 9)}
    assert not list(scene.folder.glob("edited usage.failed.*.part"))


# --- any course of events ---------------------------------------------------------------------------------------------

FATES = st.sampled_from([LOST, NEVER, NOT_NOW, NO, None])
STEPS = st.sampled_from(["upload", "results", "oldest", "latest failed", "latest results"])


@contextlib.contextmanager
def any_scene() -> Iterator[Scene]:
    """Set a scene of its own for one example of a property."""
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(dir=QUICK_FOLDER) as folder,
        BillingServer() as server,
    ):
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        yield Scene(Path(folder), server)


@settings(max_examples=30, deadline=None)
@given(
    fates=st.lists(st.lists(FATES, max_size=3), min_size=1, max_size=4),
    steps=st.lists(st.tuples(STEPS, st.sampled_from([None, 1, 3]), st.booleans()), max_size=6),
)
def test_in_any_course_of_events_each_row_is_billed_once(
    fates: list[list[Answer | None]], steps: list[tuple[str, int | None, bool]]
) -> None:
    """Uploads and replays of any of the files, stopped or not, with an operator who knows the bill: all billed once."""
    with any_scene() as scene:
        right = reply(201, {"id": "evt"})
        scene.answers = {f"d{number}": [fate or right for fate in row] for number, row in enumerate(fates)}
        log = scene.log(*(f"acme,d{number},api,{number}" for number in range(len(fates))))
        report = first = scene.upload(log)
        oldest = scene.folder / "oldest.csv"
        shutil.copy(failed_file(first) if first.failed_rows else results_file(first), oldest)
        for step, stop_after, is_marked in steps:
            scene.stop_after_posts = None if stop_after is None else len(scene.server.posts) + stop_after
            path = {
                "upload": log,
                "results": results_file(first),
                "oldest": oldest,
                "latest failed": failed_file(report),
                "latest results": results_file(report),
            }[step]
            if path == log:
                report = scene.upload(log)
            elif path.exists():
                report = scene.replay(edited(path, scene.mark) if is_marked else path)
        scene.settle(log)
        assert scene.server.billed() == Counter(
            BilledRow("acme", f"d{number}", "api", number) for number in range(len(fates))
        )


COLUMNS = [*HEADER.split(","), *OWN_COLUMNS]
CELLS = st.sampled_from(
    ["", "0", "1", "2", "99", "yes", "no", "resend", "recorded", "accepted", "in_doubt", "acme", "d1"]
)
PLACES = st.tuples(st.integers(0, 5), st.sampled_from(COLUMNS))
EDITS = st.one_of(
    st.tuples(st.just("write"), PLACES, CELLS),
    st.tuples(st.just("copy a cell"), PLACES, st.integers(0, 5)),
    st.tuples(st.just("copy a row"), PLACES, st.integers(0, 5)),
    st.tuples(st.just("sort a column"), PLACES, st.none()),
    st.tuples(st.just("delete a row"), PLACES, st.none()),
)


def bungled(rows: Rows, edits: list[tuple[str, tuple[int, str], Any]]) -> None:
    """Do to a file what a person at a spreadsheet should not."""
    for what, (number, column), value in edits:
        row = rows[number % len(rows)]
        if what == "write":
            row[column] = value
        elif what == "copy a cell":
            row[column] = rows[value % len(rows)][column]
        elif what == "copy a row":
            rows.insert(value, dict(row))
        elif what == "sort a column":
            for other, cell in zip(rows, sorted(other[column] for other in rows), strict=True):
                other[column] = cell
        elif len(rows) > 1:
            rows.remove(row)


@settings(max_examples=30, deadline=None)
@given(
    edits=st.lists(EDITS, max_size=8),
    permissions=st.sampled_from([NO_PERMISSION, EVERY_PERMISSION]),
    of_results=st.booleans(),
    cut=st.none()
    | st.tuples(st.integers(0, 2000), st.integers(0, 40), st.sampled_from([b"", b'"', b"\xff", b",", b"\n"])),
)
def test_whatever_is_done_to_the_file_each_row_is_billed_once(
    edits: list[tuple[str, tuple[int, str], Any]],
    permissions: Permissions,
    of_results: object,
    cut: tuple[int, int, bytes] | None,
) -> None:
    """No edit of any cell, row or byte has an event billed twice, or loses a row for good."""
    with any_scene() as scene:
        scene.answers = {"d2": [NO], "d3": [NOT_NOW], "d4": [NEVER]}
        log = scene.log("acme,d1,api,1", "acme,d2,api,2", "acme,d3,api,3", "acme,d4,api,4", "acme,d5,api")
        first = scene.upload(log)
        file = edited(results_file(first) if of_results else failed_file(first), lambda rows: bungled(rows, edits))
        if cut is not None:
            start, length, instead = cut
            file.write_bytes(file.read_bytes()[:start] + instead + file.read_bytes()[start + length :])
        with contextlib.suppress(RefusedError):
            scene.replay(file, permissions)
        report = scene.settle(log)
        by_word = cells(results_file(report), "upload_detail").count("recorded, by a person's word")
        assert sum(scene.server.billed().values()) == 5 - by_word
