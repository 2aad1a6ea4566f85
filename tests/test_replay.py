"""A replay: which rows it posts, whatever a person, a spreadsheet or a crash did to its file. The oracle is the bill.

After every command no event id was billed twice, every row that any results file has as accepted was billed (or a
person said so), and none was that the newest has as worth a try.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import BilledRow, Received, contract
from tests.billing_server import BillingServer
from tests.command import Home, ended
from uploader.desk import FileReport, Plan, Watcher
from uploader.errors import InputError, LedgerRefusal, RefusedError, UploaderError
from uploader.identity import EventIds
from uploader.judge import Permissions
from uploader.ledger import known_run
from uploader.posting import Progress
from uploader.replay_log import damaged_columns, edited_columns
from uploader.replay_run import replay
from uploader.results import OWN_COLUMNS
from uploader.settings import Settings
from uploader.upload_run import upload

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- where an fsync costs nothing; a kill loses nothing there either
QUICK_FOLDER = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
HEADER = "tenant_id,device_id,meter_id,total_usage"
LOST = Answer(then=Then.FIN)
"""Billed, and the answer is lost."""
NEVER = Answer(then=Then.FIN, bills=False)
"""Not billed, and nobody is told."""
NOT_NOW = reply(408)
"""Certainly not billed."""
NO = reply(422, {"error": "no such meter"})
BEFORE = "accepted before this replay, which did not compare its cells"


class CrashError(Exception):
    """Ends a run as a crash would, as far as its ledger goes."""


WATCHER = Watcher(begin=lambda *_: None, watch=lambda _: None, say=lambda _: None, should_stop=lambda: False)
NO_PERMISSION = Permissions()
EVERY_PERMISSION = Permissions(include_in_doubt=True, accept_changes=True)
Rows = list[dict[str, str]]
Edit = Callable[[Rows], None]


class Scene:
    """A usage log, its ledger, and a backend that answers each device's posts from a list, rightly when it is used up.

    stop_after_posts: the run is told to stop once the server has received so many in all.
    """

    def __init__(self, folder: Path, server: BillingServer) -> None:
        self.folder = folder
        self.server = server
        self.server.respond = self._respond
        self.answers: dict[str, list[Answer]] = {}
        self.plan = Plan(
            settings=Settings(base_url=server.base_url, retries=0, concurrency=4), ledger_folder=folder / "ledger"
        )
        self.stop_after_posts: int | None = None
        self._results: list[Path] = []

    def _respond(self, received: Received) -> Answer:
        if received.method == "POST":
            queue = self.answers.get(received.headers["x-device-id"])
            if queue:
                return queue.pop(0)
        return contract(received)

    def log(self, *records: str, name: str = "usage.csv", header: str = HEADER) -> Path:
        """Write a usage log."""
        path = self.folder / name
        path.write_text("".join(f"{record}\n" for record in (header, *records)))
        return path

    def upload(self, path: Path) -> FileReport:
        """Upload a usage log."""
        (report,) = upload([path], plan=self.plan, watcher=self._watcher())
        return self._noted(report)

    def replay(self, path: Path, permissions: Permissions = NO_PERMISSION, *, plan: Plan | None = None) -> FileReport:
        """Replay one of our files; it must be taken."""
        return self._noted(replay(path, plan=plan or self.plan, watcher=self._watcher(), permissions=permissions))

    def refusal(self, path: Path, *, plan: Plan | None = None) -> UploaderError:
        """Replay one of our files, which must be refused with nothing posted and nothing written."""
        before, posts = sorted(self.folder.iterdir()), len(self.server.posts)
        report = replay(path, plan=plan or self.plan, watcher=self._watcher(), permissions=NO_PERMISSION)
        assert report.error is not None
        assert len(self.server.posts) == posts
        assert sorted(self.folder.iterdir()) == before
        return report.error

    def _watcher(self) -> Watcher:
        return Watcher(begin=lambda *_: None, watch=lambda _: None, say=lambda _: None, should_stop=self._should_stop)

    def _should_stop(self) -> bool:
        return self.stop_after_posts is not None and len(self.server.posts) >= self.stop_after_posts

    def _noted(self, report: FileReport) -> FileReport:
        if report.error is not None:
            raise report.error
        assert report.names is not None
        self._results.append(report.names.results)
        self.check()
        return report

    def posted(self) -> list[tuple[str, str, str, int]]:
        """List what was posted so far."""
        return [tuple(received.billed_row) for received in self.server.posts]  # type: ignore[misc] # a NamedTuple

    def posts_of(self, device_id: str) -> int:
        """Count the posts of a device."""
        return sum(received.headers["x-device-id"] == device_id for received in self.server.posts)

    def mark(self, rows: Rows) -> None:
        """Mark the rows in doubt as somebody does who can look into the backend's books."""
        billed = self.server.billed_by("x-request-id")
        for row in rows:
            if row["upload_replay"] == "confirm":
                row["upload_replay"] = "recorded" if billed[row["upload_event_id"]] else "resend"

    def settle(self, log: Path) -> FileReport:
        """Do, with a sound backend, what an operator does to the end; every row must then be accepted."""
        self.stop_after_posts = None
        self.answers = {}
        report = self.upload(log)
        if report.failed_rows:
            write_in = {"tenant_id": "acme", "device_id": "d5", "meter_id": "api", "total_usage": "5"}
            marked = edited(failed_file(report), self.mark)
            malformed = [{**row, **write_in} if row["upload_reason"] == "malformed" else row for row in read(marked)]
            assert self.replay(save(marked, malformed)).failed_rows == 0
            report = self.upload(log)
        assert report.failed_rows == 0
        return report

    def check(self) -> None:
        """Hold every results file against the bill."""
        billed = self.server.billed_by("x-request-id")
        assert [event_id for event_id, count in billed.items() if count > 1] == []
        for path in self._results:
            if not path.exists():
                continue
            for row in read(path):
                if row["upload_status"] == "accepted":
                    assert billed[row["upload_event_id"]] or row["upload_detail"] == "recorded, by a person's word", row
                elif row["upload_replay"] in ("yes", "fix") and path == self._results[-1]:
                    assert not billed[row["upload_event_id"]], f"billed, and said to be safe to send again: {row}"


def read(path: Path) -> Rows:
    """Read one of our files, every cell as text."""
    if path.suffix == ".parquet":
        return [
            {name: "" if cell is None else str(cell) for name, cell in row.items()}
            for row in pq.read_table(path).to_pylist()
        ]
    text = path.read_bytes().decode("utf-8-sig")
    found = re.search('upload_row"?([^"])"?upload_status', text)
    assert found
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=found[1]))


def save(path: Path, rows: Rows, **dialect: Any) -> Path:
    """Save rows under a name, as CSV."""
    bom = dialect.pop("bom", "")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), **{"lineterminator": "\n", **dialect})
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes((bom + text.getvalue()).encode())
    return path


def setting(**cells_of_all: str) -> Edit:
    """Set some cells in all rows."""

    def edit(rows: Rows) -> None:
        for row in rows:
            row.update(cells_of_all)

    return edit


def edited(path: Path, *edits: Edit) -> Path:
    """Save one of our files under another name, as a person edited it."""
    rows = read(path)
    for edit in edits:
        edit(rows)
    return save(path.with_name(f"edited {path.stem}.csv"), rows)


def of(rows: Rows, device_id: str) -> dict[str, str]:
    """Find a device's only row."""
    (row,) = (row for row in rows if row["device_id"] == device_id)
    return row


def cells(path: Path, column: str) -> list[str]:
    """Read one column."""
    return [row[column] for row in read(path)]


def failed_file(report: FileReport) -> Path:
    """Give the failed file of a run."""
    assert report.names is not None
    return report.names.failed


def results_file(report: FileReport) -> Path:
    """Give the results file of a run."""
    assert report.names is not None
    return report.names.results


@pytest.fixture
def scene(plain_environment: None, billing_server: BillingServer) -> Iterator[Scene]:
    """Set a scene, and hold all that was said in it against the bill in the end."""
    with tempfile.TemporaryDirectory(dir=QUICK_FOLDER) as folder:
        made = Scene(Path(folder), billing_server)
        yield made
        made.check()


# --- what is posted ---------------------------------------------------------------------------------------------------

any_permissions = pytest.mark.parametrize("permissions", [NO_PERMISSION, EVERY_PERMISSION], ids=["none", "all"])
whichever = pytest.mark.parametrize("whichever", [results_file, failed_file])
FILE = Callable[[FileReport], Path]


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
        word in ("no", "recoded", "resend?")
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
    """What a spreadsheet did to the cells in the meantime does not matter: the row is posted exactly as it was."""
    device_id = record.split(",")[1]
    scene.answers = {device_id: [NEVER]}
    file = failed_file(scene.upload(scene.log(record)))
    report = scene.replay(edited(file, setting(upload_replay="resend", **damage)))
    assert report.failed_rows == 0
    first, second = scene.server.posts
    assert (first.billed_row, first.body) == (second.billed_row, second.body)
    assert first.headers["x-request-id"] == second.headers["x-request-id"]


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


def test_cells_read_by_another_schema_are_not_sent_again(scene: Scene) -> None:
    """What an earlier schema made of a cell is not JSON for the backend; such a row is not resent."""
    as_text = scene.folder / "text.schema.json"
    as_text.write_text('{"properties": {"total_usage": {"type": "string"}}}')
    log = scene.log("acme,d1,api,007")
    textual = replace(scene.plan, schema_path=as_text)
    (report,) = upload([log], plan=textual, watcher=WATCHER)
    assert cells(failed_file(report), "upload_reason") == ["invalid"]
    scene.answers = {"d1": [NEVER]}
    file = failed_file(scene.upload(log))
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


# --- what a spreadsheet does to cells ---------------------------------------------------------------------------------

DAMAGE = [
    ("00123", "123"),
    ("00123", "123.0"),
    ("+49", "49"),
    ("1.50", "1.5"),
    ("1234567890123456", "1.23457E+15"),
    ("1234567890123456", "1,23457E+15"),
    ("1234567890123456789", "1234567890123450000"),
    ("1E5", "100000"),
    ("1E5", "1.00E+05"),
    ("12e-1", "1.2"),
    ("1-2", "02-Jan"),
    ("3/4", "04. Mrz"),
    ("2026-11-21", "21.11.2026"),
    ("2026-11-21", "46347"),
    ("MAR1", "01-Mar"),
    ("SEPT-2", "02-Sep"),
    ("12:30", "12:30:00"),
    ("1.5", "01. Mai"),
    ("true", "TRUE"),
    ("false", "FALSCH"),
    ("1234567890123", "#############"),
    ("-x", "#NAME?"),
]


@pytest.mark.parametrize(("before", "now"), DAMAGE)
def test_what_a_spreadsheet_does_is_told_from_a_persons_edit(before: str, now: str) -> None:
    """A number, date, time or truth in a spreadsheet's own spelling is damage, and no edit."""
    assert damaged_columns({"device_id": before}, {"device_id": now}) == ["device_id"]
    assert edited_columns({"device_id": before}, {"device_id": now}) == []


@pytest.mark.parametrize("column", ["tenant_id", "device_id", "meter_id"])
def test_an_id_that_a_spreadsheet_changed_is_not_posted(scene: Scene, column: str) -> None:
    """Another id would bill somebody else; so the row fails as ``changed``, naming both, until a person takes it."""
    usual = {"tenant_id": "acme", "device_id": "d1", "meter_id": "api"}
    records = [",".join({**usual, column: before}.values()) + f",{at}" for at, (before, _) in enumerate(DAMAGE)]
    log = scene.log("acme,ok,api,99", *records)
    scene.server.respond = lambda received: (
        NO if received.method == "POST" and received.event["total_usage"] != 99 else contract(received)
    )
    file = failed_file(scene.upload(log))
    scene.server.respond = contract
    posts = len(scene.server.posts)

    def damage(rows: Rows) -> None:
        for row, (_, now) in zip(rows, DAMAGE, strict=True):
            row[column] = now

    report = scene.replay(edited(file, damage))
    for row, (before, now) in zip(read(failed_file(report)), DAMAGE, strict=True):
        assert (row["upload_reason"], row["upload_replay"]) == ("changed", "fix")
        assert f"{column}: {before!r} has become {now!r}, as spreadsheets do" in row["upload_detail"]
    assert len(scene.server.posts) == posts
    taken = scene.replay(edited(failed_file(report), setting(tenant_id="acme")), EVERY_PERMISSION)
    posted = [now for _, now in DAMAGE if column != "device_id" or " " not in now]
    assert (taken.posts, taken.failed_rows) == (len(posted), len(DAMAGE) - len(posted))
    assert "changed" not in cells(results_file(taken), "upload_reason")


def test_a_total_that_a_spreadsheet_changed_is_not_posted(scene: Scene) -> None:
    """A number of more digits than a spreadsheet keeps is not billed with the last ones gone."""
    scene.answers = {"d1": [NOT_NOW]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1234567890123456789")))
    report = scene.replay(edited(file, setting(total_usage="1234567890123450000")))
    assert cells(failed_file(report), "upload_reason") == ["changed"]
    assert len(scene.server.posts) == 1


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("acme", "globex"),
        ("dev-1", "dev-2"),
        ("1234", "1235"),
        ("123", "124.0"),
        (" 00123", "00123"),
        ("00123 ", "00123"),
        ("10.0.0.1", "10.0.0.2"),
        ("1-2", "acme"),
        ("marketing1", "marketing-1"),
        ("true", "acme"),
        ("#1", "#2"),
    ],
)
def test_a_persons_correction_is_not_taken_for_damage(before: str, now: str) -> None:
    """An id that is plainly another one is what the person wants."""
    assert damaged_columns({"device_id": before}, {"device_id": now}) == []
    assert edited_columns({"device_id": before}, {"device_id": now}) == ["device_id"]


def test_a_correction_is_posted_and_told(scene: Scene) -> None:
    """Corrected cells are posted, and the results name the columns that were edited."""
    scene.answers = {"d1": [NO], "d2": [NO], "d3": [NO]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1", "acme,d2,api,2", "acme,d3,api,3")))

    def correct(rows: Rows) -> None:
        of(rows, "d1").update(tenant_id="globex", total_usage="10")
        of(rows, "d2").update(device_id="d22")

    report = scene.replay(edited(file, correct))
    assert cells(results_file(report), "upload_detail") == [
        "accepted as edited for the replay (tenant_id, total_usage)",
        "accepted as edited for the replay (device_id)",
        "",
    ]
    assert sorted(scene.posted()[3:]) == [
        ("acme", "d22", "api", 2),
        ("acme", "d3", "api", 3),
        ("globex", "d1", "api", 10),
    ]


def test_a_correction_is_checked(scene: Scene) -> None:
    """A row that still breaks the schema, or breaks it now, fails as invalid and is not posted."""
    scene.answers = {"d1": [NO], "d2": [NO]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1", "acme,d2,api,2", "acme,d3,api,many")))
    report = scene.replay(edited(file, lambda rows: of(rows, "d1").update(total_usage="-1")))
    assert cells(results_file(report), "upload_reason") == ["invalid", "", "invalid"]
    assert scene.posts_of("d1") == 1
    assert scene.posts_of("d3") == 0


def as_a_spreadsheet_has_it(text: str) -> Any:
    """Make of a CSV cell what a spreadsheet makes of it: a number, a date, or text."""
    if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?(E[+-]?[0-9]+)?", text, re.IGNORECASE):
        return int(text) if text.isdigit() and len(text) < 16 else float(text)
    if found := re.fullmatch(r"([0-9]{1,2})-([0-9]{1,2})", text):
        return datetime(2026, int(found[1]), int(found[2]))  # noqa: DTZ001 -- spreadsheets know no time zone
    return text or None


def as_a_spreadsheet_shows_it(value: Any) -> str:
    """Give the text that a spreadsheet shows of a value, and saves."""
    if isinstance(value, datetime):
        return value.strftime("%d-%b")
    if isinstance(value, int | float) and abs(value) >= 1e11:
        return f"{value:.5E}"
    return "" if value is None else str(value)


def through_a_spreadsheet(path: Path, edit: Edit, **dialect: Any) -> Path:
    """Open one of our files in a spreadsheet, edit it, and save it as the CSV of that spreadsheet's country."""
    rows = read(path)
    book = openpyxl.Workbook()
    for cells_of_row in [list(rows[0]), *([as_a_spreadsheet_has_it(cell) for cell in row.values()] for row in rows)]:
        book.active.append(cells_of_row)
    saved = path.with_suffix(".xlsx")
    book.save(saved)
    header, *body = openpyxl.load_workbook(saved).active.iter_rows(values_only=True)
    shown = [dict(zip(header, map(as_a_spreadsheet_shows_it, row), strict=True)) for row in body]
    edit(shown)
    return save(path.with_name(f"from a spreadsheet {path.stem}.csv"), shown, **dialect)


DIALECTS = {
    "comma": {},
    "Excel": {"bom": "\ufeff", "lineterminator": "\r\n"},
    "Excel in Germany": {"bom": "\ufeff", "lineterminator": "\r\n", "delimiter": ";"},
    "LibreOffice in Germany, all quoted": {"delimiter": ";", "quoting": csv.QUOTE_ALL},
    "tabs": {"delimiter": "\t"},
    "bars": {"delimiter": "|"},
}


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
@whichever
def test_a_file_comes_back_from_a_spreadsheet(scene: Scene, whichever: FILE, dialect: dict[str, Any]) -> None:
    """Opened, edited and saved: corrections are posted, damaged ids are not, marks are obeyed, accepted rows stay."""
    log = scene.log(
        "acme,ok,api,1",
        "acme,wrong,apy,2",
        "00123,leading,api,3",
        "acme,1234567890123456,api,4",
        "acme,1-2,api,5",
        "acme,lost,api,6",
        "00777,never,api,7",
        "acme,unsure,api,8",
        'acme,quoted,"a, ""b""; c\td|e",9',
        "acme,later,api,10",
    )
    scene.answers = {
        "wrong": [NO],
        "leading": [NOT_NOW],
        "1234567890123456": [NO],
        "1-2": [NO],
        "lost": [LOST],
        "never": [NEVER],
        "unsure": [LOST],
        "quoted": [NO],
        "later": [NOT_NOW],
    }
    file = whichever(scene.upload(log))

    def edit(rows: Rows) -> None:
        of(rows, "wrong").update(meter_id="api")
        of(rows, "lost").update(upload_replay="recorded")
        of(rows, "never").update(upload_replay="Resend")

    report = scene.replay(through_a_spreadsheet(file, edit, **dialect))
    rows = read(results_file(report))
    assert len(rows) == len(read(file))
    assert {row["device_id"]: row["upload_reason"] for row in rows if row["upload_status"] == "failed"} == {
        "leading": "changed",
        "1.23457E+15": "changed",
        "02-Jan": "changed",
        "unsure": "in_doubt",
    }
    assert ("acme", "wrong", "api", 2) in scene.posted()
    assert scene.posted().count(("00777", "never", "api", 7)) == 2
    assert scene.posted().count(("acme", "quoted", 'a, "b"; c\td|e', 9)) == 2
    assert {scene.posts_of(device) for device in ("ok", "leading", "1-2", "unsure", "lost")} == {1}


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
    assert "names 0 runs" in str(scene.refusal(failed_file(report)))


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
        ("", "names 0 runs"),
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
    assert "put the upload_... columns back as they were" in str(refusal)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{HEADER}\nacme,d1,api,1\n", "to upload a usage log: uploader upload"),
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


# --- the ledger and the file ------------------------------------------------------------------------------------------


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


# --- names ------------------------------------------------------------------------------------------------------------


def test_each_replay_gets_a_number(scene: Scene) -> None:
    """The first replay writes usage.replay1.*, the next replay2, of whichever file; no replay overwrites another's."""
    log = scene.log("acme,d1,api,1", "acme,d2,api,2")
    scene.answers = {"d1": [NO] * 9, "d2": []}
    file = results_file(scene.upload(log))
    seen: dict[str, bytes] = {}
    for number in range(1, 5):
        report = scene.replay(file)
        assert results_file(report).name == f"usage.replay{number}.results.csv"
        assert failed_file(report).name == f"usage.replay{number}.failed.csv"
        assert {name: (scene.folder / name).read_bytes() for name in seen} == seen
        seen |= {path.name: path.read_bytes() for path in (results_file(report), failed_file(report))}
        file = failed_file(report) if number % 2 else scene.folder / "usage.failed.csv"
    assert not list(scene.folder.glob("*.part"))


@pytest.mark.parametrize(
    ("name", "replay1"),
    [
        ("usage.results.csv", "usage.replay1.results.csv"),
        ("usage.failed.csv", "usage.replay1.results.csv"),
        ("usage.2.failed.csv", "usage.2.replay1.results.csv"),
        ("usage.replay3.failed.csv", "usage.replay1.results.csv"),
        ("corrected by Ann.csv", "corrected by Ann.replay1.results.csv"),
        ("x.csv", "x.replay1.results.csv"),
    ],
)
def test_a_replay_is_named_after_the_first_file(scene: Scene, name: str, replay1: str) -> None:
    """Whatever its file is named, the replay's names are those of the upload's, and its number."""
    scene.answers = {"d1": [NO]}
    failed = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    (scene.folder / "in").mkdir()
    file = scene.folder / "in" / name
    shutil.copy(failed, file)
    assert results_file(scene.replay(file)) == file.with_name(replay1)


def test_names_that_are_taken_are_left_alone(scene: Scene) -> None:
    """A file of a person's at a replay's name, of either kind, makes it take the next number; ``--results-dir`` too."""
    scene.answers = {"d1": [NO] * 9}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    (scene.folder / "usage.replay1.failed.csv").write_text("a person's")
    (scene.folder / "usage.replay2.results.csv").symlink_to("nowhere")
    assert results_file(scene.replay(file)).name == "usage.replay3.results.csv"
    assert (scene.folder / "usage.replay1.failed.csv").read_text() == "a person's"
    out = scene.folder / "out"
    assert (
        results_file(scene.replay(file, plan=replace(scene.plan, results_dir=out))) == out / "usage.replay1.results.csv"
    )


# --- formats ----------------------------------------------------------------------------------------------------------


def test_results_in_parquet_can_be_replayed(scene: Scene) -> None:
    """A Parquet log's results are taken as they are, numbers and all; the replay's own results are CSV."""
    log = scene.folder / "usage.parquet"
    columns = {
        "tenant_id": ["acme"] * 4,
        "device_id": ["d1", "d2", "d3", "d4"],
        "meter_id": pa.array(['a,\r"b'] * 4).dictionary_encode(),
        "total_usage": pa.array([1, 2**53 + 1, 3, None], pa.int64()),
        "price": pa.array([Decimal("1E+2")] * 4, pa.decimal128(20, 2)),
        "flag": [True] * 4,
    }
    pq.write_table(pa.table(columns), log)
    scene.answers = {"d1": [NO], "d2": [LOST]}
    report = scene.replay(results_file(scene.upload(log)))
    assert results_file(report).name == "usage.replay1.results.csv"
    rows = read(results_file(report))
    assert [row["upload_reason"] for row in rows] == ["", "in_doubt", "", "invalid"]
    assert [row["total_usage"] for row in rows] == ["1", str(2**53 + 1), "3", ""]
    assert {row["flag"] for row in rows} == {"true"}
    assert {(row["meter_id"], row["price"]) for row in rows} == {('a,\r"b', "100.00")}
    assert scene.posted()[3:] == [("acme", "d1", 'a,\r"b', 1)]


def test_a_parquet_logs_failed_file_can_be_replayed(scene: Scene) -> None:
    """The failed file is text, and its numbers are what they were."""
    log = scene.folder / "usage.parquet"
    columns = {"tenant_id": [7], "device_id": ["d1"], "meter_id": ["api"], "total_usage": [Decimal("12.0")]}
    pq.write_table(pa.table(columns), log)
    scene.answers = {"d1": [NEVER]}
    file = failed_file(scene.upload(log))
    assert scene.replay(edited(file, setting(upload_replay="resend"))).failed_rows == 0
    assert scene.posted() == [("7", "d1", "api", 12)] * 2


def test_tab_separated_results_can_be_replayed(scene: Scene) -> None:
    """The results of .tsv are replayed into results with tabs and a failed file with commas, each named so."""
    scene.answers = {"d1": [NO] * 2, "d2": [NO]}
    log = scene.log("acme\td1\ta,b\t1", "acme\td2\tapi\t2", name="usage.tsv", header=HEADER.replace(",", "\t"))
    report = scene.replay(results_file(scene.upload(log)))
    assert results_file(report).name == "usage.replay1.results.tsv"
    assert results_file(report).read_text().startswith("tenant_id\tdevice_id")
    assert failed_file(report).read_text().startswith("tenant_id,device_id")
    assert cells(failed_file(report), "meter_id") == ["a,b"]
    assert scene.replay(failed_file(report)).failed_rows == 0


def test_a_delimiter_can_be_given(scene: Scene) -> None:
    """``--delimiter`` is taken at its word."""
    scene.answers = {"d1": [NO]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    save(scene.folder / "odd.csv", read(file), delimiter="~")
    assert "no column named" in str(scene.refusal(scene.folder / "odd.csv"))
    assert scene.replay(scene.folder / "odd.csv", plan=replace(scene.plan, delimiter="~")).failed_rows == 0


def test_further_columns_are_carried_through(scene: Scene) -> None:
    """Columns of the usage log that the schema does not name, and ones that a person added, stay in the results."""
    scene.answers = {"d1": [NO]}
    log = scene.log('"a\nb",acme,d1,api,1,00', header=f"note,{HEADER},more")
    file = failed_file(scene.upload(log))
    report = scene.replay(edited(file, lambda rows: rows[0].update({"by whom": "Ann; on\nMonday"})))
    (row,) = read(results_file(report))
    assert (row["note"], row["more"], row["by whom"]) == ("a\nb", "00", "Ann; on\nMonday")
    assert list(row)[:7] == ["note", *HEADER.split(","), "more", "by whom"]


# --- stops, crashes, two at once --------------------------------------------------------------------------------------


def test_a_replay_that_is_stopped_accounts_for_every_row(scene: Scene) -> None:
    """Rows whose turn did not come are in the results as they were; the same command again posts them."""
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
    assert set(reasons[:40]) == {"", "rejected"}
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
    assert [row["upload_reason"] for row in rows[-4:]] == ["rejected", "duplicate", "duplicate", "malformed"]
    assert [row["upload_row"] for row in rows[-4:]] == ["13", "", "", ""]
    scene.stop_after_posts = None
    assert scene.replay(file).failed_rows == 0


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
