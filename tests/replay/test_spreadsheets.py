"""What a spreadsheet does to the cells of a file, and what a replay makes of it."""

from __future__ import annotations

import csv
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tests.billing_contract import contract
from tests.replay.scene import (
    EVERY_PERMISSION,
    FILE,
    LOST,
    NEVER,
    NO,
    NOT_NOW,
    Edit,
    Rows,
    Scene,
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
from uploader.replays.spreadsheets import damaged_columns, edited_columns

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
    ("05-May-24", "5-May-24"),
    ("5May2024", "05.05.2024"),
    ("May-5-2024", "2024-05-05"),
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


WRITTEN_OTHERWISE = [
    ("1,234", "1234"),
    ("1.234", "1234"),
    ("12,345,678", "12345678"),
    ("1 234", "1234"),
    ("1,234.50", "1234.5"),
    (".5", "0.5"),
    ("+.5", "0.5"),
    ("123.", "123"),
    ("(5)", "-5"),
    ("5%", "5.00%"),
    ("5%", "0.05"),
    ("$5", "$5.00"),
    ("R$5", "5"),
    ("5 kr", "5"),
    ("\u20b95", "5"),
    ("--5", "5"),
    ("=1+1", "2"),
    ("+1+1", "2"),
    ("+49-30-123", "-104"),
    ("-1-2", "-3"),
]


@pytest.mark.parametrize(("before", "now"), WRITTEN_OTHERWISE)
def test_an_id_that_reads_as_an_amount_may_be_written_otherwise(before: str, now: str) -> None:
    """That is damage in an id; of a usage, which it was none of, it is what a person corrects it to."""
    assert damaged_columns({"device_id": before}, {"device_id": now}) == ["device_id"]
    assert edited_columns({"device_id": before}, {"device_id": now}) == []
    assert edited_columns({"total_usage": "1,234"}, {"total_usage": 1234}) == ["total_usage"]
    assert edited_columns({"total_usage": "1,234"}, {"total_usage": "1234"}) == ["total_usage"]


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
        ("1,234", "1235"),
        ("$5", "$6"),
        ("=1+1", "acme"),
        ("1,23", "123"),
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
