"""Whose row it is: what is posted and what is refused when the file and the ledger differ, or a row cannot be read."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.billing_answers import Answer
from tests.replay.scene import (
    FILE,
    HEADER,
    LOST,
    NEVER,
    NO,
    NO_PERMISSION,
    NOT_NOW,
    WATCHER,
    Rows,
    Scene,
    any_permissions,
    cells,
    edited,
    failed_file,
    of,
    read,
    results_file,
    save,
    setting,
    whichever,
)
from uploader.commands.console import next_steps
from uploader.ledger.run_file import known_run
from uploader.model.errors import InputError, LedgerRefusal, RefusedError
from uploader.model.identity import EventIds
from uploader.model.settings import Settings
from uploader.replays.judge import Permissions
from uploader.uploads.upload_run import upload

# --- whose row is it? -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claim",
    [
        {"upload_row": ""},
        {"upload_row": "0"},
        {"upload_row": "-2"},
        {"upload_row": "x"},
        {"upload_row": "1.5"},
        {"upload_row": "99"},
        {"upload_row": "99999999999999999999"},
        {"upload_row": "3"},
        {"upload_row": "1"},
        {"upload_event_id": ""},
        {"upload_event_id": "e7f7a4c4-8a36-5b0b-9c39-3a0f7f1c1f5e"},
        {"upload_run": ""},
        {"upload_row": "", "upload_run": "", "upload_event_id": "", "tenant_id": "invented"},
    ],
)
@any_permissions
def test_a_row_that_is_not_known_is_not_posted(scene: Scene, claim: dict[str, str], permissions: Permissions) -> None:
    """A row that somebody invented, renumbered or stripped is malformed and claims no origin; the others go on."""
    scene.answers = {"d2": [NO], "d3": [NO]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1", "acme,d2,api,2", "acme,d3,api,3")))
    report = scene.replay(edited(file, lambda rows: rows[0].update(claim)), permissions)
    stranger, other = read(results_file(report))
    assert (stranger["upload_reason"], stranger["upload_replay"]) == ("malformed", "fix")
    assert "put" in stranger["upload_detail"]
    assert [stranger[name] for name in ("upload_row", "upload_run", "upload_event_id")] == [""] * 3
    assert stranger["total_usage"] == "2" or "d2,api,2" in stranger["upload_raw"]
    assert other["upload_status"] == "accepted"
    assert scene.posted()[3:] == [("acme", "d3", "api", 3)]
    assert scene.replay(file).failed_rows == 0


def test_a_row_number_beyond_the_run_is_not_known(scene: Scene) -> None:
    """Even with the right event id for it, a row that the run never had is not posted."""
    scene.answers = {"d1": [NO]}
    report = scene.upload(scene.log("acme,d1,api,1"))
    identity = known_run(scene.plan.ledger_folder, report.run_id)
    claim = setting(upload_row="2", upload_event_id=EventIds(identity).of(2))
    replayed = scene.replay(edited(failed_file(report), claim))
    assert cells(results_file(replayed), "upload_reason") == ["malformed"]
    assert scene.posts_of("d1") == 1


@pytest.mark.parametrize("spelling", ["{}.0", "{},00", "000{}", " {} "])
def test_a_row_number_may_be_spelled_as_spreadsheets_do(scene: Scene, spelling: str) -> None:
    """A row number is known again when a spreadsheet has given it decimals, zeros or spaces."""
    scene.answers = {"d1": [NO]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    assert scene.replay(edited(file, setting(upload_row=spelling.format(1)))).failed_rows == 0


@pytest.mark.parametrize("first", [NO, LOST, None], ids=["rejected", "in doubt", "accepted"])
@pytest.mark.parametrize("cell", ["1", "2"], ids=["copied", "copied and edited"])
def test_a_row_that_stands_in_the_file_twice_is_posted_once(scene: Scene, first: Answer | None, cell: str) -> None:
    """Of a copied row only the first is looked at; the second fails as a duplicate, whatever its cells and words."""
    scene.answers = {"d1": [first] if first else []}
    file = results_file(scene.upload(scene.log("acme,d1,api,1")))

    def copy(rows: Rows) -> None:
        rows[0]["upload_replay"] = "recorded" if first is LOST else "yes"
        rows.append({**rows[0], "total_usage": cell, "upload_replay": "resend"})

    report = scene.replay(edited(file, copy))
    assert cells(results_file(report), "upload_reason") == ["", "duplicate"]
    assert cells(results_file(report), "upload_row") == ["1", ""]
    assert cells(results_file(report), "total_usage") == ["1", cell]
    assert cells(failed_file(report), "upload_detail") == [
        "row 1 stands in the file twice; only the first was looked at"
    ]
    assert scene.posts_of("d1") == (2 if first is NO else 1)
    assert "none of its rows says of which run it is" in str(scene.refusal(failed_file(report)))


def test_a_file_of_several_runs_is_refused(scene: Scene) -> None:
    """Rows of two uploads in one file are not replayed: their row numbers would be taken for each other's."""
    scene.answers = {"d1": [NO], "d2": [NO]}
    first = read(failed_file(scene.upload(scene.log("acme,d1,api,1"))))
    second = read(failed_file(scene.upload(scene.log("acme,d2,api,2"))))
    both = save(scene.folder / "both.csv", [*first, *second])
    refusal = scene.refusal(both)
    assert isinstance(refusal, InputError)
    assert f"upload_run names 2 runs: {first[0]['upload_run']}, {second[0]['upload_run']}" in str(refusal)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("", "none of its rows says of which run it is"),
        ("r0123456789abcde", "run r0123456789abcde is not known to the ledger in"),
        ("../../etc/passwd", "is not known to the ledger in"),
        ("r1", "run r1 is not known to the ledger in"),
    ],
)
def test_a_run_that_the_ledger_does_not_know_is_refused(scene: Scene, run: str, words: str) -> None:
    """Without the run's ledger nobody knows what became of its rows since, so nothing is posted."""
    scene.answers = {"d1": [NO]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    assert words in str(scene.refusal(edited(file, setting(upload_run=run))))


def test_another_ledger_is_refused(scene: Scene) -> None:
    """The file of a run is not taken with a ledger folder that has never seen it."""
    scene.answers = {"d1": [NO]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    plan = replace(scene.plan, ledger_folder=scene.folder / "ledger" / "other")
    assert isinstance(scene.refusal(file, plan=plan), LedgerRefusal)


def test_a_ledger_that_knows_no_row_of_the_run_is_refused(scene: Scene, tmp_path: Path) -> None:
    """A run of the same name that never got as far as its rows is not the one that the file speaks of."""
    scene.answers = {"d1": [NO]}
    log = scene.log("acme,d1,api,1")
    file = failed_file(scene.upload(log))
    not_a_folder = tmp_path / "file"
    not_a_folder.write_text("")
    plan = replace(scene.plan, ledger_folder=tmp_path / "other", results_dir=not_a_folder)
    (report,) = upload([log], plan=plan, watcher=WATCHER)
    assert isinstance(report.error, RefusedError)
    refusal = scene.refusal(file, plan=replace(plan, results_dir=None))
    assert "knows no row of run" in str(refusal)
    assert "give --ledger the folder that the upload used" in str(refusal)


def test_another_destination_is_refused(scene: Scene) -> None:
    """A replay goes to where the upload went, or nowhere; the refusal names both."""
    scene.answers = {"d1": [NO]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    elsewhere = replace(scene.plan, settings=Settings(base_url="http://127.0.0.1:1/api/v1"))
    words = str(scene.refusal(file, plan=elsewhere))
    assert f"comes from an upload to {scene.server.base_url}" in words
    assert words.endswith(f"give --base-url {scene.server.base_url}")


@pytest.mark.parametrize(
    "column", ["upload_row", "upload_status", "upload_reason", "upload_replay", "upload_event_id", "upload_run"]
)
def test_a_file_without_one_of_our_columns_is_refused(scene: Scene, column: str) -> None:
    """What decides about a row must be in the file; the refusal names the column."""
    scene.answers = {"d1": [NO]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    refusal = scene.refusal(edited(file, lambda rows: rows[0].pop(column)))  # type: ignore[arg-type]
    assert f"no column named {column!r}" in str(refusal)
    assert "put its upload_... columns back as they were" in str(refusal)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{HEADER}\nacme,d1,api,1\n", "if it was one, put its upload_... columns back"),
        ("", "is empty"),
        (None, "cannot be opened"),
    ],
)
def test_a_file_that_is_not_ours_is_refused(scene: Scene, text: str | None, words: str) -> None:
    """Anything but a results or failed file is refused, with the reason."""
    path = scene.folder / "usage.csv"
    if text is not None:
        path.write_text(text)
    assert words in str(scene.refusal(path))


def test_a_file_in_another_encoding_is_told_from_one_of_another_run(scene: Scene) -> None:
    """A spreadsheet that saves "CSV" in the encoding of its country leaves rows that cannot be read."""
    scene.answers = {"müller": [NO]}
    file = failed_file(scene.upload(scene.log("acme,müller,api,1")))
    file.write_bytes(file.read_text("utf-8").encode("cp1252"))
    refused = scene.refusal(file)
    assert "none of its rows can be read; the first: " in str(refused)
    assert 'have it save as "CSV UTF-8"' in str(refused)


def test_a_workbook_of_another_kind_is_to_be_saved_as_xlsx(scene: Scene) -> None:
    """Whoever replays it is not told to make a usage log of it."""
    workbook = scene.folder / "usage.failed.ods"
    workbook.write_bytes(b"PK")
    assert "save it as .xlsx" in str(scene.refusal(workbook))


# --- the ledger and the file ------------------------------------------------------------------------------------------


def test_a_renamed_column_is_to_be_put_back(scene: Scene) -> None:
    """A replay sees the columns as the upload did, so that no option is the way on."""
    scene.answers = {"d1": [NO]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    file.write_text(file.read_text().replace("tenant_id", "Tenant", 1))
    refused = scene.refusal(file)
    assert "no column named 'tenant_id'" in str(refused)
    assert refused.remedy == "put the columns back, each under the name that it had"


def test_rows_accepted_since_are_not_posted(scene: Scene) -> None:
    """A failed file older than what the ledger knows posts nothing that was accepted or lost in the meantime."""
    scene.answers = {"d1": [NOT_NOW], "d2": [NOT_NOW, LOST], "d3": [NOT_NOW, NOT_NOW]}
    log = scene.log("acme,d1,api,1", "acme,d2,api,2", "acme,d3,api,3")
    old = edited(failed_file(scene.upload(log)))
    scene.upload(log)
    report = scene.replay(old)
    assert cells(results_file(report), "upload_reason") == ["", "in_doubt", ""]
    assert [scene.posts_of(device) for device in ("d1", "d2", "d3")] == [2, 2, 3]


@pytest.mark.parametrize(
    ("word", "permissions"), [("", NO_PERMISSION), ("yes", NO_PERMISSION), ("", Permissions(accept_changes=True))]
)
def test_a_ledger_older_than_the_file_sends_nothing_that_the_file_has_as_recorded(
    scene: Scene, word: str, permissions: Permissions
) -> None:
    """With a ledger restored from before, rows that the file has as accepted or lost are in doubt, not worth a try."""
    log = scene.log("acme,d1,api,1", "acme,d2,api,2", "acme,d3,api,3", "acme,d4,api,4")
    scene.answers = {"d1": [NOT_NOW], "d2": [NOT_NOW, LOST], "d3": [NOT_NOW, NO]}
    scene.upload(log)
    shutil.copytree(scene.plan.ledger_folder, scene.folder / "backup")
    new = results_file(scene.upload(log))
    assert cells(new, "upload_reason") == ["", "in_doubt", "rejected", ""]
    shutil.rmtree(scene.plan.ledger_folder)
    shutil.move(scene.folder / "backup", scene.plan.ledger_folder)
    report = scene.replay(edited(new, setting(upload_replay=word)), permissions)
    rows = read(results_file(report))
    assert [row["upload_reason"] for row in rows] == ["in_doubt", "in_doubt", "", ""]
    assert "the file says so, and the ledger does not know of it" in of(rows, "d1")["upload_detail"]
    assert [scene.posts_of(device) for device in ("d1", "d2", "d3", "d4")] == [2, 2, 3, 1]


@pytest.mark.parametrize("order", ["replay, upload", "upload, replay", "replay, replay", "upload, upload"])
@whichever
def test_upload_and_replay_never_both_post_a_row(scene: Scene, whichever: FILE, order: str) -> None:
    """What became of a row belongs to the original row: whichever command comes second has nothing left to post."""
    log = scene.log("acme,d1,api,1", "acme,d2,api,2", "acme,d3,api,3")
    scene.answers = {"d1": [NO], "d3": [NOT_NOW]}
    file = edited(whichever(scene.upload(log)))
    for command in order.split(", "):
        report = scene.upload(log) if command == "upload" else scene.replay(file)
        assert report.failed_rows == 0
        assert set(cells(results_file(report), "upload_status")) == {"accepted"}
    assert [scene.posts_of(device) for device in ("d1", "d2", "d3")] == [2, 1, 2]
    assert report.posts == 0


def test_a_row_that_a_replay_left_in_doubt_is_not_posted_by_an_upload(scene: Scene) -> None:
    """Nor is one that an upload left in doubt, by a replay of an older file."""
    log = scene.log("acme,d1,api,1", "acme,d2,api,2")
    scene.answers = {"d1": [NO, LOST], "d2": [NO, NO, LOST]}
    file = edited(failed_file(scene.upload(log)))
    scene.replay(file)
    assert cells(results_file(scene.upload(log)), "upload_reason") == ["in_doubt", "in_doubt"]
    assert cells(results_file(scene.replay(file)), "upload_reason") == ["in_doubt", "in_doubt"]
    assert [scene.posts_of(device) for device in ("d1", "d2")] == [2, 3]


def test_an_upload_tells_what_a_replay_edited(scene: Scene) -> None:
    """The upload's own results, written again after a replay, say which accepted rows are not billed as they stand."""
    log = scene.log("acme,d1,api,1", "acme,d2,api,2")
    scene.answers = {"d1": [NO]}
    scene.replay(edited(failed_file(scene.upload(log)), setting(total_usage="7")))
    report = scene.upload(log)
    assert cells(results_file(report), "upload_detail") == ["accepted as edited for the replay (total_usage)", ""]
    assert results_file(report) == scene.folder / "usage.results.csv"
    assert not (scene.folder / "usage.failed.csv").exists()


def test_an_edit_of_a_row_that_was_accepted_meanwhile_is_told(scene: Scene) -> None:
    """Nobody posts it; the row says with which values it was accepted, and the log warns."""
    scene.answers = {"d1": [NO]}
    failed = failed_file(scene.upload(scene.log("acme,d1,api,1", "acme,d2,api,2")))
    corrected = save(scene.folder / "corrected.csv", read(edited(failed, setting(total_usage="100"))))
    scene.replay(corrected)
    assert scene.warnings == []
    report = scene.replay(edited(failed, setting(total_usage="10")))
    (row,) = read(results_file(report))
    assert (row["upload_status"], row["upload_detail"]) == (
        "accepted",
        "accepted before with total_usage 100; what this file has instead was not posted",
    )
    assert "1 rows were accepted before with other values" in scene.warnings.pop()
    assert report.rows_posted_otherwise == 1
    for unedited in (corrected, failed):
        as_posted = "accepted as edited for the replay (total_usage)"
        assert cells(results_file(scene.replay(unedited)), "upload_detail") == [as_posted]
    assert scene.warnings == []
    assert sorted(row[3] for row in scene.posted()) == [1, 2, 100]


def test_failed_rows_that_the_file_does_not_have_are_told(scene: Scene) -> None:
    """Rows deleted from a failed file are in no later one, and must not be forgotten over an exit code of 0."""
    scene.answers = {device: [NO] for device in ("d1", "d2", "d3")}
    failed = failed_file(scene.upload(scene.log("acme,d1,api,1", "acme,d2,api,2", "acme,d3,api,3", "acme,d4,api,4")))
    rows = read(failed)
    scene.answers["d1"] = [NO]
    scene.replay(save(scene.folder / "part.csv", rows[:2]))
    assert "1 further rows of run" in scene.warnings.pop()
    scene.replay(save(scene.folder / "more.csv", rows[1:]))
    assert "1 further rows of run" in scene.warnings.pop()
    scene.replay(failed)
    assert scene.warnings == []


def test_replays_of_replays_come_to_an_end(scene: Scene) -> None:
    """Each replay's failed file can be replayed again, until none is left; no row is posted once it is accepted."""
    log = scene.log(*(f"acme,d{number},api,{number}" for number in range(1, 6)))
    scene.answers = {
        f"d{number}": [(NO, NOT_NOW, NEVER, LOST)[at % 4] for at in range(number - 1)] for number in range(1, 6)
    }
    file = failed_file(scene.upload(log))
    names = [file.name]
    for _ in range(10):
        report = scene.replay(edited(file, scene.mark))
        file = failed_file(report)
        names.append(file.name)
        if not report.failed_rows:
            break
    assert report.failed_rows == 0
    assert sum(scene.server.billed().values()) == 5
    assert {row[1] for row in scene.server.billed()} == {f"d{number}" for number in range(1, 6)}


# --- malformed rows ---------------------------------------------------------------------------------------------------


def test_a_malformed_row_is_posted_once_a_person_wrote_its_cells(scene: Scene) -> None:
    """From the text in ``upload_raw`` a person fills the cells; the row is then checked and posted as any other."""
    log = scene.log("acme,d1,api", "acme,d2,api,2", '"acme"x,d3,api,3', "acme,d4,api,4,5")
    file = failed_file(scene.upload(log))
    assert cells(file, "upload_raw") == ["acme,d1,api", '"acme"x,d3,api,3', "acme,d4,api,4,5"]

    def write_in(rows: Rows) -> None:
        rows[0].update(tenant_id="acme", device_id="d1", meter_id="api", total_usage="1")
        rows[1].update(tenant_id="acme", device_id="d3", meter_id="api", total_usage="three")

    report = scene.replay(edited(file, write_in))
    rows = read(results_file(report))
    assert [row["upload_reason"] for row in rows] == ["", "invalid", "malformed"]
    assert [row["upload_row"] for row in rows] == ["1", "3", "4"]
    assert "its cells are still empty" in rows[2]["upload_detail"]
    assert rows[2]["upload_raw"] == "acme,d4,api,4,5"
    assert scene.posted() == [("acme", "d2", "api", 2), ("acme", "d1", "api", 1)]
    assert cells(results_file(scene.upload(log)), "upload_reason") == ["", "", "malformed", "malformed"]


@pytest.mark.parametrize("bytes_", [b'"acme"x,d2,api,2', b"acme,d\xff2,api,2", b"acme,d2,api,2,", b"acme,d2", b"\0"])
def test_a_row_of_our_own_file_that_cannot_be_read_is_not_lost(scene: Scene, bytes_: bytes) -> None:
    """A row that an editor broke is malformed in the results, its text kept; the original row is as it was."""
    scene.answers = {"d1": [NO], "d2": [NO]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1", "acme,d2,api,2")))
    broken = scene.folder / "broken.csv"
    broken.write_bytes(file.read_bytes().replace(b"acme,d2,api,2", bytes_))
    report = scene.replay(broken)
    first, second = read(results_file(report))
    assert first["upload_status"] == "accepted"
    assert (second["upload_reason"], second["upload_row"]) == ("malformed", "")
    assert second["upload_detail"].startswith("line 3: ")
    assert second["upload_raw"]
    assert scene.posts_of("d2") == 1
    assert scene.replay(file).failed_rows == 0


def test_where_only_copies_are_left_there_is_nothing_to_run_next(scene: Scene) -> None:
    """Their replay would be refused, and says why."""
    scene.answers = {"d1": [NO], "d2": [NO]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1", "acme,d2,api,2")))
    report = scene.replay(edited(file, lambda rows: rows.append({**rows[0]})))
    assert (report.failed_rows, report.rows_of_no_run) == (1, 1)
    (step,) = next_steps(report, replay_options="")
    assert step.startswith("nothing: no row of the run is left to send")
    assert "none of its rows says of which run it is -- if they are rows of a run" in str(
        scene.refusal(failed_file(report))
    )


def test_rows_that_were_emptied_are_none(scene: Scene) -> None:
    """As a spreadsheet leaves them when their cells are deleted; their rows of the run stay as they are."""
    scene.answers = {f"d{number}": [NO] for number in (1, 2, 3)}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1", "acme,d2,api,2", "acme,d3,api,3")))

    def empty(rows: Rows) -> None:
        for column in rows[1]:
            rows[1][column] = " "
        rows.append(dict.fromkeys(rows[0], ""))

    report = scene.replay(edited(file, empty))
    assert (report.rows, report.failed_rows) == (2, 0)
    assert cells(results_file(report), "device_id") == ["d1", "d3"]
    assert scene.warnings == [
        f"1 further rows of run {report.run_id} are failed, which this file does not have; replay theirs too"
    ]


def test_where_rows_of_the_run_were_displaced_they_are_to_be_put_back(scene: Scene) -> None:
    """They are still to be sent, and a replay of what was written of them would be refused."""
    scene.answers = {f"d{number}": [NO] for number in range(3)}
    file = failed_file(scene.upload(scene.log(*(f"acme,d{number},api,{number}" for number in range(3)))))

    def displace(rows: Rows) -> None:
        numbers = [row["upload_row"] for row in rows]
        for row, number in zip(rows, [*numbers[1:], numbers[0]], strict=True):
            row["upload_row"] = number

    report = scene.replay(edited(file, displace))
    (step,) = next_steps(report, replay_options="")
    assert step.startswith("put upload_row and upload_event_id back as they were")
    scene.warnings.clear()
