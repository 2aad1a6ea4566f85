"""Which rows a replay posts, and that a resend is exactly what was sent."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.billing_answers import Answer
from tests.replay.scene import (
    BEFORE,
    EVERY_PERMISSION,
    FILE,
    HEADER,
    LOST,
    NEVER,
    NO,
    NO_PERMISSION,
    NOT_NOW,
    WATCHER,
    Scene,
    any_permissions,
    cells,
    edited,
    failed_file,
    of,
    read,
    results_file,
    setting,
    whichever,
)
from uploader.posting.progress import Progress
from uploader.replays.judge import Permissions
from uploader.uploads.upload_run import upload

SHIPPED_SCHEMA = Path(__file__).parents[2] / "schemas" / "usage.schema.json"


class CrashError(Exception):
    """Ends a run as a crash would, as far as its ledger goes."""


# --- what is posted ---------------------------------------------------------------------------------------------------


@whichever
def test_rows_not_recorded_are_posted_and_accepted_ones_never(scene: Scene, whichever: FILE) -> None:
    """Of an unedited file yes and fix rows are posted again, accepted ones are not, and all are in the results."""
    log = scene.log("acme,ok,api,1", "acme,no,api,2", "globex,later,api,3", "globex,fine,api,4")
    scene.answers = {"no": [NO], "later": [NOT_NOW]}
    file = whichever(scene.upload(log))
    before = read(file)
    report = scene.replay(file)
    assert {device: scene.posts_of(device) for device in ("ok", "no", "later", "fine")} == {
        "ok": 1,
        "no": 2,
        "later": 2,
        "fine": 1,
    }
    after = read(results_file(report))
    kept = [*HEADER.split(","), "upload_row", "upload_event_id", "upload_run"]
    assert [[row[name] for name in kept] for row in after] == [[row[name] for name in kept] for row in before]
    assert cells(results_file(report), "upload_status") == ["accepted"] * len(before)
    assert {row["device_id"]: (row["upload_attempts"], row["upload_detail"]) for row in after} == {
        row["device_id"]: ("2", "") if row["upload_status"] == "failed" else ("", BEFORE) for row in before
    }
    assert not failed_file(report).exists()


def test_a_replay_of_nothing_but_accepted_rows_posts_nothing(scene: Scene) -> None:
    """A results file in which every row was accepted is accounted for once more, and nothing is posted."""
    file = results_file(scene.upload(scene.log("acme,d1,api,1", "acme,d2,api,2")))
    report = scene.replay(edited(file, setting(upload_status="failed", upload_replay="yes")))
    assert cells(results_file(report), "upload_status") == ["accepted"] * 2
    assert cells(results_file(report), "upload_detail") == [BEFORE] * 2
    assert len(scene.server.posts) == 2


@pytest.mark.parametrize(
    "claim",
    [
        {"upload_status": "failed", "upload_reason": "rejected", "upload_replay": "yes"},
        {"upload_status": "failed", "upload_reason": "in_doubt", "upload_replay": "resend"},
        {"upload_status": "", "upload_reason": "", "upload_replay": ""},
        {"upload_status": "failed", "upload_reason": "not_sent", "upload_replay": "fix", "total_usage": "7"},
    ],
)
@any_permissions
def test_an_accepted_row_is_never_posted_whatever_the_file_says(
    scene: Scene, claim: dict[str, str], permissions: Permissions
) -> None:
    """Where the ledger has a row as accepted, no word and no permission sends it again."""
    file = results_file(scene.upload(scene.log("acme,d1,api,1")))
    report = scene.replay(edited(file, setting(**claim)), permissions)
    assert cells(results_file(report), "upload_status") == ["accepted"]
    assert scene.posts_of("d1") == 1


@pytest.mark.parametrize(
    ("word", "permissions", "outcome"),
    [
        ("", NO_PERMISSION, "kept"),
        ("confirm", NO_PERMISSION, "kept"),
        ("yes", NO_PERMISSION, "kept"),
        ("fix", NO_PERMISSION, "kept"),
        ("no", NO_PERMISSION, "kept"),
        ("recoded", NO_PERMISSION, "kept"),
        ("resend?", NO_PERMISSION, "kept"),
        ("resend", NO_PERMISSION, "posted"),
        (" Resend ", NO_PERMISSION, "posted"),
        ("recorded", NO_PERMISSION, "recorded"),
        ("RECORDED", NO_PERMISSION, "recorded"),
        ("", EVERY_PERMISSION, "posted"),
        ("confirm", EVERY_PERMISSION, "posted"),
        ("yes", EVERY_PERMISSION, "posted"),
        ("resend", EVERY_PERMISSION, "posted"),
        ("recorded", EVERY_PERMISSION, "recorded"),
        ("recoded", EVERY_PERMISSION, "kept"),
        ("no", EVERY_PERMISSION, "kept"),
    ],
)
def test_a_row_in_doubt_waits_for_a_persons_word(
    scene: Scene, word: str, permissions: Permissions, outcome: str
) -> None:
    """Only ``resend``, or the permission for all, posts a row in doubt; ``recorded`` accepts it; else it stays so."""
    scene.answers = {"d1": [NEVER if outcome == "posted" else LOST]}
    file = results_file(scene.upload(scene.log("acme,d1,api,1")))
    report = scene.replay(edited(file, setting(upload_replay=word)), permissions)
    (row,) = read(results_file(report))
    assert scene.posts_of("d1") == (2 if outcome == "posted" else 1)
    if outcome == "kept":
        assert (row["upload_status"], row["upload_reason"], row["upload_replay"]) == ("failed", "in_doubt", "confirm")
    else:
        assert (row["upload_status"], row["upload_replay"]) == ("accepted", "")
    assert (row["upload_detail"] == "recorded, by a person's word") == (outcome == "recorded")
    assert (f"upload_replay says {word!r}: write resend or recorded" in row["upload_detail"]) == (
        outcome == "kept" and word not in ("", "confirm")
    )


@pytest.mark.parametrize("word", ["recorded", "no", "skip", "yes please", "x"])
def test_an_unknown_word_keeps_a_row_back(scene: Scene, word: str) -> None:
    """A row that was certainly not recorded is posted for a known word or none; ``recorded`` would be a lie."""
    scene.answers = {"d1": [NOT_NOW]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1", "acme,d2,api,2")))
    report = scene.replay(edited(file, setting(upload_replay=word)))
    (row,) = read(results_file(report))
    assert (row["upload_status"], row["upload_reason"]) == ("failed", "unavailable")
    assert f"not sent: upload_replay says {word!r}" in row["upload_detail"]
    assert scene.posts_of("d1") == 1
    assert scene.replay(edited(file, setting(upload_replay="yes"))).failed_rows == 0


@pytest.mark.parametrize("word", ["", "yes", "fix", "confirm", "resend", "YES"])
def test_a_known_word_sends_a_row_that_was_not_recorded(scene: Scene, word: str) -> None:
    """A person who wrote ``resend`` beside a row that needs no word, or removed its word, is understood."""
    scene.answers = {"d1": [NOT_NOW]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    assert cells(results_file(scene.replay(edited(file, setting(upload_replay=word)))), "upload_status") == ["accepted"]


@pytest.mark.parametrize(
    ("second", "reason", "detail"),
    [
        (LOST, "in_doubt", "may have been recorded"),
        (NO, "in_doubt", "; a later attempt: the backend rejected the row: HTTP 422"),
        (NOT_NOW, "in_doubt", "; a later attempt: HTTP 408"),
    ],
)
def test_a_row_once_in_doubt_stays_so_until_accepted(scene: Scene, second: Answer, reason: str, detail: str) -> None:
    """An attempt that fails, however certainly, says nothing about the first; so the row waits for a person again."""
    scene.answers = {"d1": [NEVER, second]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    report = scene.replay(edited(file, setting(upload_replay="resend")))
    (row,) = read(failed_file(report))
    assert (row["upload_reason"], row["upload_replay"], row["upload_attempts"]) == (reason, "confirm", "2")
    assert detail in row["upload_detail"]
    again = scene.replay(failed_file(report))
    assert cells(failed_file(again), "upload_replay") == ["confirm"]
    assert scene.posts_of("d1") == 2
    word = "recorded" if second is LOST else "resend"
    assert scene.replay(edited(failed_file(again), setting(upload_replay=word))).failed_rows == 0


# --- a resend is exactly what was sent --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        {"tenant_id": "globex"},
        {"device_id": "d2"},
        {"meter_id": "api2"},
        {"total_usage": "2"},
        {"total_usage": ""},
        {"tenant_id": "", "device_id": "", "meter_id": "", "total_usage": ""},
    ],
)
@any_permissions
def test_an_edited_row_in_doubt_is_not_sent_again(scene: Scene, edit: dict[str, str], permissions: Permissions) -> None:
    """With other values a resend would bill a second event; so edits of a row in doubt are refused, and it says so."""
    scene.answers = {"d1": [LOST]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    report = scene.replay(edited(file, setting(upload_replay="resend", **edit)), permissions)
    (row,) = read(failed_file(report))
    assert row["upload_reason"] == "in_doubt"
    assert "its cells were edited; put them back" in row["upload_detail"]
    assert len(scene.server.posts) == 1


@pytest.mark.parametrize(
    ("record", "damage"),
    [
        ("00123,d1,api,1", {"tenant_id": "123"}),
        ("acme,1234567890123456,api,1", {"device_id": "1.23457E+15"}),
        ("acme,1234567890123456,api,1", {"device_id": "1,23457E+15"}),
        ("acme,1-2,api,1", {"device_id": "02-Jan"}),
        ("acme,d1,1e5,1", {"meter_id": "100000"}),
        ("acme,d1,api,1234567890123456789", {"total_usage": "1234567890123450000"}),
        ("acme,d1,api,1", {"total_usage": "01"}),
    ],
)
def test_a_resend_posts_what_was_posted_before(scene: Scene, record: str, damage: dict[str, str]) -> None:
    """What a spreadsheet did to the cells in the meantime does not matter: it is posted as it was, and says so."""
    device_id = record.split(",")[1]
    scene.answers = {device_id: [NEVER]}
    file = failed_file(scene.upload(scene.log(record)))
    report = scene.replay(edited(file, setting(upload_replay="resend", **damage)))
    assert report.failed_rows == 0
    first, second = scene.server.posts
    assert (first.billed_row, first.body) == (second.billed_row, second.body)
    assert first.headers["x-request-id"] == second.headers["x-request-id"]
    [detail] = cells(results_file(report), "upload_detail")
    assert detail.startswith("posted again as it was: ") == ("01" not in damage.values()), detail


def test_a_corrected_row_in_doubt_is_sent_again_as_corrected(scene: Scene) -> None:
    """What was posted is the corrected row, so ``resend`` posts that, and never the row as it was first."""
    scene.answers = {"d1": [NO, NEVER]}
    first = failed_file(scene.upload(scene.log("acme,d1,api,5")))
    corrected = edited(first, setting(total_usage="7"))
    second = failed_file(scene.replay(corrected))
    assert cells(second, "upload_reason") == ["in_doubt"]
    refused = scene.replay(edited(first, setting(upload_replay="resend")))
    assert "its cells were edited" in cells(failed_file(refused), "upload_detail")[0]
    assert scene.replay(edited(second, setting(upload_replay="resend"))).failed_rows == 0
    assert [row[3] for row in scene.posted()] == [5, 7, 7]


def test_a_row_edited_to_and_fro_is_sent_again_as_it_was_last(scene: Scene) -> None:
    """After an edited attempt was refused and one with the old values was lost, ``resend`` posts the old values."""
    scene.answers = {"d1": [NO, NO, NEVER]}
    first = failed_file(scene.upload(scene.log("acme,d1,api,5")))
    scene.replay(edited(first, setting(total_usage="7")))
    in_doubt = failed_file(scene.replay(first))
    assert scene.replay(edited(in_doubt, setting(upload_replay="resend"))).failed_rows == 0
    assert [row[3] for row in scene.posted()] == [5, 7, 5, 5]


def test_a_row_that_an_upload_lost_after_a_corrected_attempt_is_sent_again_as_the_upload_had_it(scene: Scene) -> None:
    """What a replay posted before, and was refused, is not in doubt: ``resend`` posts the log's values alone."""
    scene.answers = {"d1": [NO, NO, NEVER]}
    log = scene.log("acme,d1,api,5")
    scene.replay(edited(failed_file(scene.upload(log)), setting(total_usage="7")))
    in_doubt = failed_file(scene.upload(log))
    refused = scene.replay(edited(in_doubt, setting(upload_replay="resend", total_usage="7")))
    assert "its cells were edited" in cells(failed_file(refused), "upload_detail")[0]
    assert scene.replay(edited(in_doubt, setting(upload_replay="resend"))).failed_rows == 0
    assert [row[3] for row in scene.posted()] == [5, 7, 5, 5]


@pytest.mark.parametrize("record", ["acme,d1,api,5", "acme,d1"])
def test_a_corrected_row_in_doubt_can_be_settled_from_the_uploads_own_file(scene: Scene, record: str) -> None:
    """That has the log's cells again, says what was posted last, and takes ``recorded`` for it."""
    log = scene.log(record, "acme,d2,api,1")
    scene.answers = {"d1": [NO]} if record.count(",") == 3 else {}
    whole = {"tenant_id": "acme", "device_id": "d1", "meter_id": "api", "total_usage": "7"}
    corrected = edited(failed_file(scene.upload(log)), setting(**whole))
    scene.answers = {"d1": [LOST]}
    scene.replay(corrected)
    newest = failed_file(scene.upload(log))
    (row,) = read(newest)
    assert "posted last by a replay, with " in row["upload_detail"]
    assert "total_usage 7" in row["upload_detail"]
    assert scene.replay(edited(newest, setting(upload_replay="recorded"))).failed_rows == 0
    assert [posted[3] for posted in scene.posted() if posted[1] == "d1"][-1] == 7


@pytest.mark.parametrize("edit", [{"total_usage": "2"}, {"tenant_id": "globex"}, {"total_usage": "", "meter_id": ""}])
def test_an_edited_row_is_not_taken_as_recorded(scene: Scene, edit: dict[str, str]) -> None:
    """A person says that the backend has it as it was posted; with other cells the results would say otherwise."""
    scene.answers = {"d1": [LOST]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    (row,) = read(failed_file(scene.replay(edited(file, setting(upload_replay="recorded", **edit)))))
    assert row["upload_reason"] == "in_doubt"
    assert "not taken as recorded: its cells were edited" in row["upload_detail"]
    assert scene.replay(edited(file, setting(upload_replay="recorded"))).failed_rows == 0


@pytest.mark.parametrize("usage", ["12x", "12\r\nx-evil: 1"])
def test_an_invalid_original_never_goes_out(scene: Scene, usage: str) -> None:
    """A row that was invalid, and lost once corrected, is not resent from the file with the invalid cells."""
    scene.answers = {"d1": [NEVER]}
    log = scene.log("acme,d1,api,1", f'acme,d1,api,"{usage}"')
    file = failed_file(scene.upload(log))
    assert scene.replay(edited(file, lambda rows: rows[1].update(total_usage="12"))).failed_rows == 1
    scene.replay(edited(file, setting(upload_replay="resend")))
    assert sorted(row[3] for row in scene.posted()) == [1, 1, 12]


@pytest.mark.parametrize("usage", ["12x", "-1", ""])
def test_no_word_sends_an_invalid_row(scene: Scene, usage: str) -> None:
    """A row that was never posted cannot be declared in doubt and resent past the checks."""
    file = failed_file(scene.upload(scene.log("acme,d1,api,1", f"acme,d2,api,{usage}")))
    claim = setting(upload_reason="in_doubt", upload_replay="resend")
    report = scene.replay(edited(file, claim), EVERY_PERMISSION)
    assert cells(results_file(report), "upload_status") == ["failed"]
    assert len(scene.server.posts) == 1


def test_what_the_ledger_does_not_hold_is_not_sent_again(scene: Scene) -> None:
    """With a ledger from just after a crash, which has the row as in doubt and not its cells, nothing is resent."""
    log = scene.log("acme,d1,api,1")

    def crash(_: Progress) -> None:
        raise CrashError

    scene.answers = {"d1": [NEVER]}
    with pytest.raises(CrashError):
        upload([log], plan=scene.plan, watcher=replace(WATCHER, watch=crash))
    shutil.copytree(scene.plan.ledger_folder, scene.folder / "backup")
    file = failed_file(scene.upload(log))
    assert cells(file, "upload_reason") == ["in_doubt"]
    plan = replace(scene.plan, ledger_folder=scene.folder / "backup")
    posts = len(scene.server.posts)
    report = scene.replay(edited(file, setting(upload_replay="resend")), plan=plan)
    assert "the ledger does not hold what was posted" in cells(failed_file(report), "upload_detail")[0]
    assert len(scene.server.posts) == posts


def test_a_row_that_an_earlier_replay_sent_was_compared(scene: Scene) -> None:
    """An old failed file has the cells that were posted: it is told nothing but that the row is accepted."""
    scene.answers = {"d1": [NO]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    for _ in range(2):
        results = results_file(scene.replay(file))
        assert [cells(results, column) for column in ("upload_status", "upload_detail")] == [["accepted"], [""]]
    assert len(scene.posted()) == 2


def test_cells_read_by_another_schema_are_not_sent_again(scene: Scene) -> None:
    """What an earlier schema made of a cell is not JSON for the backend; such a row is not resent."""
    as_text = scene.folder / "text.schema.json"
    as_text.write_text('{"properties": {"total_usage": {"type": "string"}}}')
    log = scene.log("acme,d1,api,007")
    textual = replace(scene.plan, schema_path=as_text)
    (report,) = upload([log], plan=textual, watcher=WATCHER)
    assert cells(failed_file(report), "upload_reason") == ["invalid"]
    scene.answers = {"d1": [NEVER]}
    (report,) = upload([log], plan=replace(scene.plan, schema_path=SHIPPED_SCHEMA), watcher=WATCHER)
    file = failed_file(report)
    assert cells(file, "upload_reason") == ["in_doubt"]
    report = scene.replay(edited(file, setting(upload_replay="resend")), plan=textual)
    assert "the ledger does not hold what was posted" in cells(failed_file(report), "upload_detail")[0]
    assert len(scene.server.posts) == 1


def test_a_malformed_row_in_doubt_is_sent_again_as_written_in(scene: Scene) -> None:
    """A row that could not be read, and was corrected and lost, is resent as it was posted."""
    scene.answers = {"d2": [NEVER]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1", "acme,d2,api")))
    fixed = edited(file, setting(tenant_id="acme", device_id="d2", meter_id="api", total_usage="2"))
    in_doubt = failed_file(scene.replay(fixed))
    assert cells(in_doubt, "upload_reason") == ["in_doubt"]
    refused = scene.replay(edited(file, setting(upload_replay="resend")))
    assert "its cells were edited" in cells(failed_file(refused), "upload_detail")[0]
    assert scene.replay(edited(in_doubt, setting(upload_replay="resend"))).failed_rows == 0
    assert scene.posted()[1:] == [("acme", "d2", "api", 2)] * 2


def test_all_in_doubt_are_sent_again_once_by_one_file(scene: Scene) -> None:
    """--include-in-doubt allows one more attempt at each row as the file has it; the newest file allows the next."""
    log = scene.log("acme,d1,api,1", "acme,d2,api,2")
    scene.answers = {"d1": [NEVER, LOST], "d2": [NEVER]}
    file = failed_file(scene.upload(log))
    newest = failed_file(scene.replay(file, EVERY_PERMISSION))
    report = scene.replay(file, EVERY_PERMISSION)
    assert scene.posts_of("d1") == 2
    assert "replay the newest failed file" in of(read(failed_file(report)), "d1")["upload_detail"]
    assert of(read(newest), "d1")["upload_attempts"] == "2"


def test_a_row_whose_attempts_were_deleted_is_told_what_is_missing(scene: Scene) -> None:
    """They say whether the person knew of its last attempt."""
    scene.answers = {"d1": [NEVER]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    report = scene.replay(edited(file, setting(upload_replay="resend", upload_attempts="")))
    (detail,) = cells(results_file(report), "upload_detail")
    assert detail.endswith("not sent again: its upload_attempts is gone; write back 1")
    assert scene.posts_of("d1") == 1
