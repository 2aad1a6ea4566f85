"""``replay --without-ledger``: the word of a results or failed file is taken, once, for what became of its rows."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import Received, contract
from tests.billing_server import BillingServer
from tests.command import EVENT_COLUMNS, Ended, Home, cells, ended, read_rows, usage_rows, write_csv
from tests.faults.scene import rewrite
from tests.held_back import HeldBack

NOT_NOW = reply(408)
LOST = Answer(then=Then.FIN)
"""Billed, and the answer is lost."""
NEVER = Answer(then=Then.FIN, bills=False)
"""Not billed, and nobody is told."""
Rows = list[dict[str, Any]]


class Scene:
    """An upload whose ledger is lost: of six rows dev-1 was not recorded, dev-2 may have been, dev-3 cannot be."""

    def __init__(self, home: Home, server: BillingServer, *, doubtful: Answer = LOST) -> None:
        self.home, self.server = home, server
        self.answers = {"dev-1": NOT_NOW, "dev-2": doubtful}
        server.respond = self._respond
        rows = usage_rows(6)
        rows[3] = rows[3]._replace(meter_id="")
        self.log = write_csv(home.folder / "usage.csv", rows)
        self.failed = home.folder / "usage.failed.csv"
        self.results = home.folder / "usage.results.csv"
        assert home.run_here("upload", "usage.csv", "--retries", "0").exit_code == 1
        self.run_id = read_rows(self.failed)[0]["upload_run"]
        self.answers.clear()
        self.lose_ledger()

    def _respond(self, received: Received) -> Answer:
        return self.answers.get(received.headers.get("x-device-id", "")) or contract(received)

    def lose_ledger(self) -> None:
        """Take the ledger away."""
        shutil.rmtree(self.home.ledger)

    def replay(self, path: Path | str, *options: str) -> Ended:
        """Replay a file; nothing may be billed twice."""
        done = self.home.run_here("replay", path, *options)
        assert [row for row, count in self.server.billed_by("x-request-id").items() if count > 1] == []
        return done

    def refusal(self, path: Path | str, *options: str) -> str:
        """Replay a file, which must be refused: nothing is posted, nothing written, and no run known that was not."""
        posts, files, runs = len(self.server.posts), set(self.home.folder.iterdir()), self.runs()
        done = self.replay(path, *options)
        assert done.exit_code == 2, done.said
        assert len(self.server.posts) == posts
        assert {path for path in self.home.folder.iterdir() if path != self.home.ledger} == files - {self.home.ledger}
        assert self.runs() == runs
        return done.said

    def edited(self, edit: Callable[[Rows], object]) -> Path:
        """Save the failed file as a person edited it."""
        rows = read_rows(self.failed)
        edit(rows)
        path = self.failed.with_name("edited.csv")
        rewrite(path, rows)
        return path

    def runs(self) -> str:
        """List what the ledger knows."""
        return self.home.run_here("runs").stdout

    def billed(self) -> list[str]:
        """Name the devices whose rows were billed, each as often."""
        return sorted(row.device_id for row in self.server.billed().elements())


@pytest.fixture
def scene(home: Home, billing_server: BillingServer) -> Scene:
    """Set the scene."""
    return Scene(home, billing_server)


def test_the_rows_of_a_failed_file_are_posted_as_it_says(scene: Scene) -> None:
    """A row that was not recorded goes out under its old id, one in doubt waits, and a person is told what it means."""
    before = {row["device_id"]: row["upload_event_id"] for row in read_rows(scene.failed)}
    done = scene.replay(scene.failed, "--without-ledger")
    assert done.exit_code == 1
    assert "3 rows of run" in done.stderr
    assert "the original upload must not be continued" in done.stderr
    rows = read_rows(scene.home.folder / "usage.replay1.results.csv")
    assert cells(rows, "upload_reason") == ["", "in_doubt", "invalid"]
    assert {row["device_id"]: row["upload_event_id"] for row in rows} == before
    assert set(cells(rows, "upload_run")) == {scene.run_id}
    assert scene.server.posts[-1].headers["x-request-id"] == before["dev-1"]
    assert scene.billed() == ["dev-0", "dev-1", "dev-2", "dev-4", "dev-5"]


def test_an_adopted_run_is_known_from_then_on(scene: Scene) -> None:
    """Its next failed file is replayed without the flag, to the same destination, until nothing is left of it."""
    scene.replay(scene.failed, "--without-ledger")
    failed = scene.home.folder / "usage.replay1.failed.csv"
    rows = read_rows(failed)
    rows[0]["upload_replay"] = "recorded"
    rows[1]["meter_id"] = "api.calls"
    rewrite(failed, rows)
    elsewhere = scene.refusal(failed, "--base-url", "http://127.0.0.1:1/api/v1")
    assert f"give --base-url {scene.home.base_url}" in elsewhere
    done = scene.replay(failed)
    assert done.exit_code == 0, done.said
    assert scene.billed() == ["dev-0", "dev-1", "dev-2", "dev-3", "dev-4", "dev-5"]
    assert scene.replay(scene.failed).exit_code == 0
    assert len(scene.billed()) == 6


@pytest.mark.parametrize("option", ["word", "flag"])
def test_a_row_in_doubt_is_sent_again_by_a_persons_word_alone(
    home: Home, billing_server: BillingServer, option: str
) -> None:
    """With ``resend`` or --include-in-doubt the values of the file go out, once: the next attempt needs a new word."""
    scene = Scene(home, billing_server, doubtful=NEVER)
    scene.answers["dev-2"] = LOST
    words = [] if option == "word" else ["--include-in-doubt"]
    path = scene.edited(lambda rows: rows[1].update(upload_replay="resend"))
    done = scene.replay(path if option == "word" else scene.failed, "--without-ledger", *words)
    assert done.exit_code == 1, done.said
    posts = [post for post in scene.server.posts if post.headers["x-device-id"] == "dev-2"]
    assert len(posts) == 2
    assert posts[0].body == posts[1].body
    scene.replay(path)
    assert len([post for post in scene.server.posts if post.headers["x-device-id"] == "dev-2"]) == 2


def test_a_results_file_is_adopted_whole(scene: Scene) -> None:
    """All rows are known then: accepted ones stay so, with their answers, and the totals are those of the file."""
    accepted = read_rows(scene.results)[0]
    assert scene.replay(scene.results, "--without-ledger").exit_code == 1
    rows = read_rows(scene.home.folder / "usage.replay1.results.csv")
    assert cells(rows, "upload_reason") == ["", "", "in_doubt", "invalid", "", ""]
    assert rows[0] == {**accepted, "upload_detail": "accepted before this replay, which did not compare its cells"}
    line = scene.runs().splitlines()[1]
    assert line.split()[0] == scene.run_id
    assert "adopted" in line
    shown = scene.home.run_here("runs", "show", scene.run_id).stdout
    assert f"from {scene.results}, 6 rows" in shown


def test_rows_that_the_adopted_file_does_not_have_are_never_posted(scene: Scene) -> None:
    """What became of them is not known here: whatever another file of the run says, they are left in doubt."""
    rows = read_rows(scene.results)
    scene.replay(scene.failed, "--without-ledger")
    rows[0].update(upload_status="failed", upload_reason="unavailable", upload_replay="resend")
    rewrite(scene.home.folder / "other.csv", [rows[0], rows[1]])
    posts = len(scene.server.posts)
    assert scene.replay("other.csv", "--include-in-doubt").exit_code == 1
    assert len(scene.server.posts) == posts
    told = read_rows(scene.home.folder / "other.replay1.results.csv")
    assert cells(told, "upload_reason") == ["in_doubt", ""]
    assert cells(told, "upload_row") == ["1", "2"]
    assert "adopted from does not have the row" in told[0]["upload_detail"]


@pytest.mark.parametrize("options", [(), ("--again",), ("--allow-overlap",)], ids=["plain", "again", "overlap"])
def test_an_upload_of_the_adopted_content_is_refused(scene: Scene, options: tuple[str, ...]) -> None:
    """Some of its rows are not known here, so none is posted as if it had never been sent."""
    scene.replay(scene.failed, "--without-ledger")
    posts = len(scene.server.posts)
    done = scene.home.run_here("upload", "usage.csv", *options)
    assert done.exit_code == 2
    assert f"run {scene.run_id} was adopted by this ledger from {scene.failed}" in done.said
    assert len(scene.server.posts) == posts


def test_an_adopted_results_files_rows_count_as_posted(scene: Scene) -> None:
    """A re-export of the same usage is refused as overlap, as with the run's own ledger."""
    scene.replay(scene.results, "--without-ledger")
    write_csv(scene.home.folder / "copy.csv", [*usage_rows(6), *usage_rows(1, tenants=["another"])])
    done = scene.home.run_here("upload", "copy.csv")
    assert done.exit_code == 2
    assert "of its rows were posted before" in done.said


def test_a_run_that_the_ledger_knows_is_not_adopted(scene: Scene) -> None:
    """Neither after an upload nor after an adoption: the ledger is to be believed before any file."""
    scene.replay(scene.failed, "--without-ledger")
    assert "replay without --without-ledger" in scene.refusal(scene.failed, "--without-ledger")


def _swap_ids(rows: Rows) -> None:
    rows[0]["upload_event_id"] = rows[1]["upload_event_id"]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda rows: rows[0].update(upload_event_id=""), "upload_event_id '' is not one of ours"),
        (lambda rows: rows[0].update(upload_event_id="{" + rows[0]["upload_event_id"] + "}"), "is not one of ours"),
        (lambda rows: rows[0].update(upload_event_id="not an id"), "upload_event_id 'not an id' is not one of ours"),
        (lambda rows: rows[0].update(upload_row="99999999999"), "upload_row 99999999999 or"),
        (lambda rows: rows[2].update(upload_row="1.2"), "row 3 of the file does not say whose row it is"),
        (lambda rows: rows.append(rows[0]), "row 2 stands in the file twice, or shares its upload_event_id"),
        (_swap_ids, "row 3 stands in the file twice, or shares its upload_event_id"),
        (lambda rows: [row.update(upload_run="../x") for row in rows], "upload_run '../x' is not the id of a run"),
        (lambda rows: rows[0].update(upload_run="r000000000000000"), "names 2 runs"),
    ],
    ids=["no-id", "braces", "no-uuid", "far-row", "no-row", "twice", "shared-id", "no-run", "two-runs"],
)
def test_a_file_that_does_not_say_whose_rows_it_has_is_not_adopted(
    scene: Scene, edit: Callable[[Rows], object], words: str
) -> None:
    """Adopting cannot be repeated, so a slip in one row refuses the file; mended, it is adopted."""
    assert words in scene.refusal(scene.edited(edit), "--without-ledger")
    assert scene.replay(scene.edited(lambda _: None), "--without-ledger").exit_code == 1


@pytest.mark.parametrize(
    "cells_of_the_row",
    [
        {"upload_status": "accepted"},
        {"upload_status": ""},
        {"upload_reason": ""},
        {"upload_reason": "Unavailable?"},
        {"upload_replay": "confirm"},
    ],
    ids=["accepted-with-reason", "no-status", "no-reason", "unknown-reason", "confirm"],
)
def test_a_row_whose_cells_contradict_each_other_is_in_doubt(scene: Scene, cells_of_the_row: dict[str, str]) -> None:
    """Nothing is posted on the word of a row that says two things."""
    posts = len(scene.server.posts)
    path = scene.edited(lambda rows: rows[0].update(cells_of_the_row))
    assert scene.replay(path, "--without-ledger").exit_code == 1
    assert len(scene.server.posts) == posts
    rows = read_rows(scene.home.folder / "edited.replay1.results.csv")
    assert rows[0]["upload_reason"] == "in_doubt"
    assert "do not agree on what became of it" in rows[0]["upload_detail"]


def test_a_file_that_a_later_replay_overtook_is_not_adopted(scene: Scene) -> None:
    """The results beside it have a row as accepted that it has as unsent: by its word it would be billed twice."""
    scene.replay(scene.failed, "--without-ledger")
    scene.lose_ledger()
    words = scene.refusal(scene.failed, "--without-ledger")
    assert f"is not the last word on row 2 of run {scene.run_id}: it has it as unavailable" in words
    assert "usage.replay1.results.csv as accepted" in words
    assert scene.replay("usage.replay1.failed.csv", "--without-ledger").exit_code == 1


def test_a_resend_that_an_earlier_replay_used_up_is_not_adopted(home: Home, billing_server: BillingServer) -> None:
    """An older copy of a row in doubt knows of fewer attempts; its ``resend`` was heeded once."""
    scene = Scene(home, billing_server, doubtful=NEVER)
    scene.answers["dev-2"] = LOST
    path = scene.edited(lambda rows: rows[1].update(upload_replay="resend"))
    scene.replay(path, "--without-ledger")
    scene.lose_ledger()
    rows = [row for row in read_rows(path) if row["device_id"] == "dev-2"]
    rewrite(path, rows)
    assert "in doubt after 2 attempts" in scene.refusal(path, "--without-ledger")


def test_foreign_files_beside_it_do_not_matter(scene: Scene) -> None:
    """Results of other runs, and what only has such a name, are passed over."""
    folder = scene.home.folder
    (folder / "a.results.csv").write_bytes(b'a,b\n"1')
    (folder / "b.results.txt").write_text("")
    (folder / "c.results.csv").write_bytes(b"\xff\xfe\n")
    rows = read_rows(scene.results)
    for row in rows:
        row.update(upload_run="r000000000000000", upload_status="accepted", upload_reason="")
    rewrite(folder / "d.results.csv", rows)
    assert scene.replay(scene.failed, "--without-ledger").exit_code == 1


def test_a_mark_of_an_unfinished_upload_refuses_the_adoption(scene: Scene) -> None:
    """The upload may have posted since the file was written."""
    mark = scene.home.folder / "usage.csv.uploading"
    mark.write_text(f'{{"run": "{scene.run_id}"}}')
    assert "has not finished, and may have posted rows since" in scene.refusal(scene.failed, "--without-ledger")
    mark.unlink()
    assert scene.replay(scene.failed, "--without-ledger").exit_code == 1


def test_a_replay_that_was_killed_refuses_the_adoption(home: Home, billing_server: BillingServer) -> None:
    """Its reserved names lie there still, and what it posted is known to a lost ledger alone."""
    scene = Scene(home, billing_server, doubtful=NEVER)
    scene.replay(scene.failed, "--without-ledger")
    newest = scene.home.folder / "usage.replay1.failed.csv"
    backend = HeldBack(answered=0)
    scene.server.respond = backend
    edited = read_rows(newest)
    edited[0].update(upload_replay="resend")
    rewrite(newest, edited)
    posts = len(scene.server.posts)
    with scene.home.started("replay", newest.name) as process:
        scene.server.wait_for(posts=posts + 1)
        process.kill()
        ended(process)
    backend.release()
    scene.lose_ledger()
    words = scene.refusal(newest.name, "--without-ledger")
    assert f"usage.replay2.failed.csv.part: a command of run {scene.run_id} has not finished" in words


def test_a_draft_of_any_size_is_no_obstacle(scene: Scene) -> None:
    """Of the drafts beside the file only the first line is read."""
    with (scene.home.folder / "march.results.csv.r0000000000000000.part").open("wb") as draft:
        draft.truncate(1 << 42)
    assert scene.replay(scene.failed, "--without-ledger").exit_code == 1


@pytest.mark.parametrize("period", [(), ("--period", "november")])
def test_rows_of_an_adopted_run_are_known_under_its_period(
    home: Home, billing_server: BillingServer, period: tuple[str, ...]
) -> None:
    """Which no file says: it is given with the adoption."""
    rows = usage_rows(6)
    write_csv(home.folder / "usage.csv", rows)
    billing_server.respond = lambda received: (
        contract(received) if received.method == "GET" or received.billed_row in rows[2:] else reply(422)
    )
    assert home.run_here("upload", "usage.csv", *period).exit_code == 1
    billing_server.respond = contract
    shutil.rmtree(home.ledger)
    assert home.run_here("replay", "usage.results.csv", "--without-ledger", *period).exit_code == 0
    write_csv(home.folder / "again.csv", rows[::-1])
    assert home.run_here("upload", "again.csv", *period).exit_code == 2
    assert home.run_here("upload", "again.csv", "--period", "december").exit_code == 0


def test_a_replay_has_the_period_of_its_upload(scene: Scene) -> None:
    """That of a variable, which is meant for uploads, does not matter."""
    assert scene.replay(scene.failed, "--without-ledger").exit_code == 1
    assert "--period: a replay has that of its upload" in scene.replay("usage.replay1.failed.csv", "--period", "x").said
    run = scene.home.run_here("replay", "usage.replay1.failed.csv", variables={"UPLOADER_PERIOD": "x"})
    assert run.exit_code == 1


def test_results_of_any_name_may_be_the_last_word(scene: Scene) -> None:
    """What was accepted stands in a file that --results named, too."""
    scene.replay(scene.failed, "--without-ledger")
    scene.lose_ledger()
    results = scene.home.folder / "usage.replay1.results.csv"
    (scene.home.folder / "tuesday.csv.gz").write_bytes(gzip.compress(results.read_bytes()))
    os.mkfifo(scene.home.folder / "pipe.csv")
    results.unlink()
    assert "tuesday.csv.gz as accepted" in scene.refusal(scene.failed, "--without-ledger")


def test_a_run_of_again_that_was_adopted_is_known_to_uploads(home: Home, billing_server: BillingServer) -> None:
    """Though the runs of the content that came before it are not."""
    write_csv(home.folder / "usage.csv", usage_rows(4))
    assert home.run_here("upload", "usage.csv").exit_code == 0
    billing_server.respond = lambda received: contract(received) if received.method == "GET" else NOT_NOW
    home.run_here("upload", "usage.csv", "--again", "--retries", "0")
    shutil.rmtree(home.ledger)
    billing_server.respond = contract
    assert home.run_here("replay", "usage.2.failed.csv", "--without-ledger").exit_code == 0
    for path in home.folder.glob("usage.*results.csv"):
        path.unlink()  # else those tell
    posts = len(billing_server.posts)
    done = home.run_here("upload", "usage.csv")
    assert done.exit_code == 2
    assert "was adopted by this ledger" in done.said
    assert len(billing_server.posts) == posts


def test_a_malformed_row_is_posted_once_it_was_written_in(home: Home, billing_server: BillingServer) -> None:
    """Its cells are those that a person wrote, before the adoption or after it."""
    write_csv(home.folder / "usage.csv", [*usage_rows(2), ("acme", "dev-2", "api.calls"), ("acme", "dev-3", "m")])
    assert home.run_here("upload", "usage.csv").exit_code == 1
    shutil.rmtree(home.ledger)
    for name, exit_code in (("usage.failed.csv", 1), ("usage.replay1.failed.csv", 0)):
        rows = read_rows(home.folder / name)
        device = rows[0]["upload_raw"].split(",")[1]
        rows[0].update(zip(EVENT_COLUMNS, ("acme", device, "api.calls", "7"), strict=True))
        rewrite(home.folder / name, rows)
        option = ["--without-ledger"] if exit_code else []
        assert home.run_here("replay", name, *option).exit_code == exit_code
    assert len(billing_server.billed()) == 4
