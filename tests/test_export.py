"""A failed file through a workbook and back: what is written, what is read again, and what is billed then."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xlsxwriter
from openpyxl.worksheet.formula import ArrayFormula

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import Received, contract
from tests.command import EVENT_COLUMNS, Home, cells, ended, read_rows
from uploader.model.errors import InputChangedError, InputError
from uploader.readers.xlsx_log import NoText, XlsxLog
from uploader.results.own_files import open_own_file
from uploader.results.results import OWN_COLUMNS

HOSTILE_TEXTS = {
    "zeros": "00123",
    "exponent": "1E5",
    "digits": "12345678901234567890",
    "formula": "=1+1",
    "plus": "+5",
    "minus": "-5",
    "at": "@SUM(A1)",
    "array": "{=A1}",
    "link": "https://example.com/?a=1&b=2",
    "date": "2026-11-21",
    "short date": "1-2",
    "boolean": "true",
    "error": "#N/A",
    "spaces": "  x  ",
    "lines": "a\nb",
    "crlf": "a\r\nb",
    "tab": "a\tb",
    "markup": "<b>&amp;</b>\"'",
    "escape": "_x000D_",
    "escaped escape": "_x005F_",
    "part of an escape": "x005F_1",
    "control": "a\x01b\x1f",
    "high control": "a\x7f\x85b",
    "no character": "\ufffe\uffff",
    "emoji": "\U0001f600",
}
NO_SUCH_METER = "no"
LOST = "lost"


def misbehave(received: Received) -> Answer:
    """Reject the posts of devices named "no...", and lose the answers to those named "lost...", recorded or not."""
    device = received.headers.get("x-device-id", "")
    if device.startswith(NO_SUCH_METER):
        return reply(422)
    if device.startswith(LOST):
        return Answer(then=Then.FIN, bills=device.endswith("recorded"))
    return contract(received)


@pytest.fixture
def troubled(home: Home, billing_server: Any) -> Home:
    """Give a home whose backend rejects and loses posts until ``recovered``."""
    billing_server.respond = misbehave
    return home


def uploaded(home: Home, *rows: tuple[object, ...], columns: tuple[str, ...] = EVENT_COLUMNS) -> Path:
    """Upload some rows; give the failed file."""
    with (home.folder / "usage.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    assert home.run_here("upload", "usage.csv").exit_code in (1, 3)
    return home.folder / "usage.failed.csv"


def exported(home: Home, path: Path) -> Path:
    """Export a file; give the workbook."""
    done = home.run_here("export", path.name)
    assert done.exit_code == 0, done.said
    workbook = re.match(r"(.+\.xlsx): ", done.stdout)
    assert workbook
    return home.folder / workbook[1]


def edited(path: Path, edit: Callable[[Any], None]) -> Path:
    """Open a workbook, edit its sheet of rows, and save it; its texts are then shared ones, as Excel saves them."""
    book = openpyxl.load_workbook(path)
    edit(book["Rows"])
    book.save(path)
    return path


def column_of(sheet: Any, name: str) -> int:
    """Find a column by its header, from 1."""
    return [cell.value for cell in sheet[1]].index(name) + 1


def setting(line: int, **values: Any) -> Callable[[Any], None]:
    """Write into cells of a line, by column; the header is line 1."""

    def edit(sheet: Any) -> None:
        for name, value in values.items():
            sheet.cell(line, column_of(sheet, name)).value = value

    return edit


def workbook_of(path: Path, *lines: list[Any], in_cells: bool = True) -> Path:
    """Write a workbook of texts, in the cells or shared, below our columns."""
    book = xlsxwriter.Workbook(path, {"constant_memory": in_cells, "strings_to_formulas": False})
    sheet = book.add_worksheet()
    for number, line in enumerate([["note", *OWN_COLUMNS], *lines]):
        for at, text in enumerate(line):
            sheet.write_string(number, at, text)
    book.close()
    return path


# --- what is written --------------------------------------------------------------------------------------------------


def test_every_text_goes_through_a_workbook_unchanged(troubled: Home) -> None:
    """Whatever a cell looks like it is text in the sheet, and a replay finds it as it was."""
    failed = uploaded(
        troubled,
        *(("acme", "d", "api", "", text) for text in HOSTILE_TEXTS.values()),
        columns=(*EVENT_COLUMNS, "note"),
    )
    workbook = exported(troubled, failed)
    sheet = openpyxl.load_workbook(workbook)["Rows"]
    log_cells = [cell for line in sheet.iter_rows(min_row=2, max_col=5) for cell in line]
    assert {(cell.data_type, cell.number_format) for cell in log_cells} == {("s", "@")}
    assert troubled.run_here("replay", workbook.name).exit_code == 1
    again = troubled.folder / "usage.replay1.results.csv"
    assert cells(read_rows(again), "note") == list(HOSTILE_TEXTS.values())
    assert set(cells(read_rows(again), "upload_reason")) == {"invalid"}


def test_the_sheet_is_made_for_a_person(troubled: Home) -> None:
    """The header stays in sight, filters are on, our columns refuse what is typed, and the choice is a list."""
    workbook = exported(troubled, uploaded(troubled, ("acme", "no-1", "api", 7)))
    book = openpyxl.load_workbook(workbook)
    sheet = book["Rows"]
    assert [cell.value for cell in sheet[1]] == [*EVENT_COLUMNS, *OWN_COLUMNS]
    assert (sheet.freeze_panes, sheet.auto_filter.ref) == ("A2", "A1:Q2")
    rules = {str(rule.sqref): rule for rule in sheet.data_validations.dataValidation}
    choice = rules.pop("I2")
    assert choice.type == "list"
    assert {(rule.type, rule.formula1) for rule in rules.values()} == {("custom", "FALSE")}
    assert len(rules) == len(OWN_COLUMNS) - 1
    words = [book["How to"].cell(line, 1).value for line in range(9, 15)]
    assert words == ["resend", "recorded", "confirm", "yes", "fix", None]
    assert "'How to'!$A$9:$A$11,'How to'!$A$12:$A$13" in choice.formula1
    assert sheet["E2"].value == 1
    assert sheet.column_dimensions["H"].width > 50


def test_a_results_file_is_exported_too(troubled: Home) -> None:
    """Accepted rows stand in the workbook as well, and are not posted again."""
    uploaded(troubled, ("acme", "ok", "api", 1), ("acme", "no-1", "api", 7))
    workbook = exported(troubled, troubled.folder / "usage.results.csv")
    assert workbook.name == "usage.results.xlsx"
    edited(workbook, setting(3, device_id="ok-2"))
    done = troubled.run_here("replay", workbook.name)
    assert (done.exit_code, "1 posts" in done.said) == (0, True)


def test_parquet_results_are_exported(troubled: Home) -> None:
    """Cells of a Parquet file are spelled as in the failed file, exactly."""
    table = pa.table(
        {
            "tenant_id": ["acme"],
            "device_id": ["no-1"],
            "meter_id": ["api"],
            "total_usage": [9007199254740993],
            "price": [1.5],
            "at": [datetime(2026, 11, 21)],  # noqa: DTZ001 -- as many logs have them
            "note": ['a,"b"\nc'],
        }
    )
    pq.write_table(table, troubled.folder / "usage.parquet")
    assert troubled.run_here("upload", "usage.parquet").exit_code == 1
    workbook = exported(troubled, troubled.folder / "usage.results.parquet")
    sheet = openpyxl.load_workbook(workbook)["Rows"]
    shown = [cell.value for cell in sheet[2]][:7]
    (failed,) = read_rows(troubled.folder / "usage.failed.csv")
    assert shown == [failed[column] for column in table.column_names]
    assert (shown[3], shown[6]) == ("9007199254740993", 'a,"b"\nc')
    edited(workbook, setting(2, device_id="ok"))
    assert troubled.run_here("replay", workbook.name).exit_code == 0


def test_a_file_without_a_row_is_exported(home: Home) -> None:
    """A failed file whose rows were all deleted still makes a workbook, and a replay of it says what is wrong."""
    (home.folder / "usage.failed.csv").write_text(",".join([*EVENT_COLUMNS, *OWN_COLUMNS]) + "\n")
    workbook = exported(home, home.folder / "usage.failed.csv")
    done = home.run_here("replay", workbook.name)
    assert (done.exit_code, "it has no row" in done.said) == (2, True)


def test_nothing_is_overwritten(troubled: Home) -> None:
    """A workbook of that name stays as it is; another name can be given."""
    failed = uploaded(troubled, ("acme", "no-1", "api", 7))
    workbook = exported(troubled, failed)
    workbook.write_bytes(b"edited")
    done = troubled.run_here("export", failed.name)
    assert (done.exit_code, workbook.read_bytes()) == (2, b"edited")
    assert "usage.failed.xlsx is there already" in done.said
    assert troubled.run_here("export", failed.name, "-o", "mine.xlsx").exit_code == 0
    assert XlsxLog(troubled.folder / "mine.xlsx").columns == (*EVENT_COLUMNS, *OWN_COLUMNS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["usage.csv"], "no column named 'upload_row'"),
        (["usage.failed.csv", "-o", "usage.failed.csv"], "end it in .xlsx"),
        (["usage.failed.csv", "-o", "no/folder/x.xlsx"], "cannot be written: No such file or directory"),
        (["nothing.csv"], "No such file"),
        (["usage.failed.xlsx"], "is a workbook already"),
    ],
    ids=["a usage log", "another extension", "no folder", "no file", "a workbook"],
)
def test_an_export_that_cannot_be_is_refused(troubled: Home, arguments: list[str], words: str) -> None:
    """The error is one line, the exit code 2, and nothing is left behind."""
    uploaded(troubled, ("acme", "no-1", "api", 7))
    before = sorted(troubled.folder.iterdir())
    done = troubled.run_here("export", *arguments)
    assert (done.exit_code, words in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.said
    assert sorted(troubled.folder.iterdir()) == before


def test_what_a_workbook_cannot_hold_is_named(troubled: Home) -> None:
    """A cell past 32,767 UTF-16 units is never cut short: the export is refused, and names it."""
    failed = uploaded(
        troubled,
        ("acme", "no-1", "api", 7, "x" * 32_767),
        ("acme", "no-2", "api", 7, "\U0001f600" * 16_384),
        ("acme", "no-3", "api", 7, "_x005F_x0041_"),
        columns=(*EVENT_COLUMNS, "note"),
    )
    done = troubled.run_here("export", failed.name)
    assert done.exit_code == 2
    assert (
        "holds what a workbook cannot: row 2: note has more than 32,767 characters; row 3: note looks like one of a "
        "workbook's own escapes (_x005F_x) --" in done.stderr
    )
    assert not list(troubled.folder.glob("*.xlsx*"))


def test_a_row_that_cannot_be_read_is_named(troubled: Home) -> None:
    """A failed file that was damaged by hand is not exported without the damaged row."""
    failed = uploaded(troubled, ("acme", "no-1", "api", 7))
    failed.write_text(failed.read_text() + "one,two\n")
    done = troubled.run_here("export", failed.name)
    assert (done.exit_code, "row 2: line 3: 2 cells where the header has 17" in done.stderr) == (2, True)


def test_a_disk_that_fills_up_leaves_nothing(troubled: Home) -> None:
    """The error is one line, and no file is left half written."""
    failed = uploaded(troubled, ("acme", "no-1", "api", 7))
    before = sorted(troubled.folder.iterdir())
    with troubled.started("export", failed.name, before=["prlimit", "--fsize=3000"]) as process:
        done = ended(process)
    assert (done.exit_code, "Traceback" in done.stderr) == (2, False), done.said
    assert "usage.failed.xlsx cannot be written: File too large" in done.stderr
    assert sorted(troubled.folder.iterdir()) == before


@pytest.mark.parametrize("size", ["rows", "columns"])
def test_a_file_too_large_for_a_workbook_is_refused(home: Home, size: str) -> None:
    """More rows or columns than a sheet has are refused before anything is written."""
    path = home.folder / "usage.failed.csv"
    extra = [f"c{number}" for number in range(16_384 if size == "columns" else 0)]
    ours = ["upload_row", "upload_status", "upload_reason", "upload_replay", "upload_event_id", "upload_run"]
    path.write_text(",".join([*ours, *extra]) + "\n" + ",,,,,\n" * (1_048_576 if size == "rows" else 0))
    done = home.run_here("export", path.name)
    assert done.exit_code == 2
    assert {"rows": "more than the 1,048,575 rows", "columns": "takes 16,384"}[size] in done.stderr


# --- what is read again -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_cells", [True, False], ids=["in cells", "shared"])
def test_texts_are_read_as_they_stand(tmp_path: Path, *, in_cells: bool) -> None:
    """Texts within the cells, as we write them, and shared ones, as Excel and LibreOffice do, are read alike."""
    path = workbook_of(tmp_path / "x.xlsx", *([text] for text in HOSTILE_TEXTS.values()), in_cells=in_cells)
    with open_own_file(path, delimiter=None) as log:
        (batch,) = log.batches()
    assert [row.cells[0] for row in batch.rows] == list(HOSTILE_TEXTS.values())


TYPED = {
    "whole": (5, 5),
    "whole as a float": (5.0, 5),
    "exponent": (1e5, 100_000),
    "negative": (-3, -3),
    "fifteen digits": (999_999_999_999_999, 999_999_999_999_999),
    "fraction": (1.5, "1.5"),
    "sixteen digits": (1_234_567_890_123_456, NoText("1.23456789012346E+15", "the rounded number")),
    "date": (date(2026, 1, 2), NoText("2026-01-02", "the date or time")),
    "moment": (datetime(2026, 1, 2, 3, 4), NoText("2026-01-02 03:04:00", "the date or time")),  # noqa: DTZ001 -- a sheet's
    "time": (time(3, 4), NoText("03:04:00", "the date or time")),
    "boolean": (True, NoText("TRUE", "the value")),
    "error": ("#N/A", NoText("#N/A", "the error")),
    "formula": ("=1+1", NoText("=1+1", "the formula")),
    "array formula": (ArrayFormula("A2", "=SUM(B1:B2)"), NoText("={...}", "the formula")),
    "text": ("00123", "00123"),
    "nothing": (None, ""),
}


@pytest.mark.parametrize(("typed", "read"), TYPED.values(), ids=TYPED)
def test_what_a_person_types_is_read_for_what_it_is(tmp_path: Path, typed: Any, read: Any) -> None:
    """Whole numbers are numbers; what is neither text nor surely a number is never taken for either."""
    path = edited_first_cell(tmp_path / "x.xlsx", typed)
    with open_own_file(path, delimiter=None) as log:
        (batch,) = log.batches()
    cell = batch.rows[0].cells[0]
    assert (type(cell), repr(cell), str(cell)) == (type(read), repr(read), str(read))


def edited_first_cell(path: Path, value: Any) -> Path:
    """Make a workbook with our columns, and a value in its first cell."""
    book = openpyxl.Workbook()
    book.active.append(["note", *OWN_COLUMNS])
    book.active.append([value, 1])
    book.save(path)
    return path


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("device_id", date(2026, 1, 2), "device_id: the date or time 2026-01-02 is neither text nor a number"),
        ("total_usage", "=6+1", "total_usage: the formula =6+1 is neither text nor a number"),
        ("meter_id", True, "meter_id: the value TRUE is neither text nor a number"),
        ("total_usage", 10**16, "total_usage: the rounded number 1.00000000000000E+16 is neither"),
        ("total_usage", 1.5, "total_usage: '1.5' is not an integer"),
    ],
    ids=["date", "formula", "boolean", "rounded", "fraction"],
)
def test_what_a_spreadsheet_makes_of_a_cell_is_not_posted(
    troubled: Home, billing_server: Any, column: str, value: Any, words: str
) -> None:
    """A date, a formula, a rounded number in a column of the event fails the row, in clear words."""
    workbook = exported(troubled, uploaded(troubled, ("acme", "no-1", "api", 7)))
    posts = len(billing_server.posts)
    edited(workbook, setting(2, **{column: value}))
    assert troubled.run_here("replay", workbook.name).exit_code == 1
    (row,) = read_rows(troubled.folder / "usage.replay1.failed.csv")
    assert (row["upload_reason"], row["upload_detail"][: len(words)]) == ("invalid", words)
    assert len(billing_server.posts) == posts


def test_a_damaged_id_is_changed_as_in_csv(troubled: Home) -> None:
    """Ids of which someone had the spreadsheet make numbers or dates fail as ``changed``."""
    failed = uploaded(troubled, ("00123", "no-1", "api", 7), ("acme", "no-1", "1-2", 7))
    workbook = edited(exported(troubled, failed), setting(2, tenant_id=123))
    edited(workbook, setting(3, meter_id=date(2026, 2, 1)))
    assert troubled.run_here("replay", workbook.name).exit_code == 1
    rows = read_rows(troubled.folder / "usage.replay1.results.csv")
    assert cells(rows, "upload_reason") == ["changed", "changed"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot be read as a workbook"),
        (b"tenant_id,device_id\n", "cannot be read as a workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "cannot be read as a workbook"),
    ],
    ids=["empty", "CSV", "encrypted"],
)
def test_what_is_no_workbook_is_refused(home: Home, content: bytes, words: str) -> None:
    """The error is one line that says what to do."""
    (home.folder / "x.xlsx").write_bytes(content)
    done = home.run_here("replay", "x.xlsx")
    assert (done.exit_code, words in done.said, "save it again as .xlsx" in done.said) == (2, True, True)
    assert sum("x.xlsx" in line for line in done.stdout.splitlines()) == 1


def test_a_damaged_workbook_is_refused(tmp_path: Path) -> None:
    """Not one byte of the rows can differ from what was saved, or the archive's checksum fails."""
    path = workbook_of(tmp_path / "x.xlsx", *([f"note {number}"] for number in range(2000)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read as a workbook"), XlsxLog(path) as log:
        list(log.batches())


def test_a_workbook_that_changes_after_the_first_pass_is_noticed(tmp_path: Path) -> None:
    """What is posted is what was counted: a workbook saved meanwhile ends the run."""
    path = workbook_of(tmp_path / "x.xlsx", ["before"])
    with XlsxLog(path) as log:
        first = [row for batch in log.batches() for row in batch.rows]
        assert (log.row_count, len(log.content_sha256)) == (1, 64)
        assert [row for batch in log.batches() for row in batch.rows] == first
        content = path.read_bytes()
        descriptor = os.open(path, os.O_WRONLY)
        os.pwrite(descriptor, bytes([content[100] ^ 1]), 100)
        os.close(descriptor)
        with pytest.raises(InputChangedError):
            list(log.batches())


def test_only_a_replay_takes_a_workbook(home: Home, billing_server: Any) -> None:
    """A usage log is CSV or Parquet; an upload or a check of a workbook says so."""
    workbook_of(home.folder / "usage.xlsx")
    for command in ("upload", "validate"):
        done = home.run_here(command, "usage.xlsx")
        assert (done.exit_code, "is a workbook, and a usage log is CSV or Parquet" in done.said) == (2, True)
    assert billing_server.received == []


# --- what is billed then ----------------------------------------------------------------------------------------------


def test_rows_in_doubt_are_decided_in_a_workbook(troubled: Home, billing_server: Any) -> None:
    """`recorded` is not posted, `resend` exactly once, and what nobody decided stays in doubt."""
    devices = ("lost-1-recorded", "lost-2", "lost-3")
    workbook = exported(troubled, uploaded(troubled, *(("acme", device, "api", 7) for device in devices)))
    billing_server.respond = contract

    def decide(sheet: Any) -> None:
        setting(2, upload_replay="recorded")(sheet)
        setting(3, upload_replay="resend")(sheet)

    edited(workbook, decide)
    assert troubled.run_here("replay", workbook.name).exit_code == 1
    rows = read_rows(troubled.folder / "usage.replay1.results.csv")
    assert cells(rows, "upload_status") == ["accepted", "accepted", "failed"]
    assert cells(rows, "upload_replay") == ["", "", "confirm"]
    assert {row.device_id: count for row, count in billing_server.billed().items()} == {devices[0]: 1, devices[1]: 1}


def test_a_malformed_row_is_written_in(troubled: Home, billing_server: Any) -> None:
    """A row that could not be read stands in the sheet as empty cells, and is posted once they are written in."""
    (troubled.folder / "usage.csv").write_text(",".join(EVENT_COLUMNS) + "\nacme,ok,api\n")
    assert troubled.run_here("upload", "usage.csv").exit_code == 1
    workbook = exported(troubled, troubled.folder / "usage.failed.csv")
    sheet = openpyxl.load_workbook(workbook)["Rows"]
    assert (sheet["A2"].number_format, sheet["Q2"].value) == ("@", "acme,ok,api")
    edited(workbook, setting(2, tenant_id="acme", device_id="ok", meter_id="api", total_usage=41))
    assert troubled.run_here("replay", workbook.name).exit_code == 0
    assert [tuple(row) for row in billing_server.billed()] == [("acme", "ok", "api", 41)]


def test_rows_that_were_sorted_deleted_and_hidden_keep_their_own(troubled: Home, billing_server: Any) -> None:
    """Whose row it is stands in the row; sheets of one's own, hidden rows and an empty first line do no harm."""
    failed = uploaded(troubled, *(("acme", f"no-{number}", "api", number) for number in range(1, 6)))
    workbook = exported(troubled, failed)

    def rearrange(sheet: Any) -> None:
        lines = [[cell.value for cell in line] for line in sheet.iter_rows(min_row=2)]
        for number, line in enumerate(reversed(lines), 2):
            for at, value in enumerate(line, 1):
                sheet.cell(number, at).value = value if at != 2 else f"ok-{value}"
        sheet.delete_rows(3)
        sheet.insert_rows(1)
        sheet.row_dimensions[4].hidden = True
        sheet.parent.create_sheet("mine", 0)["A1"] = "upload nothing of this"

    edited(workbook, rearrange)
    billing_server.respond = contract
    assert troubled.run_here("replay", workbook.name).exit_code == 0
    rows = read_rows(troubled.folder / "usage.replay1.results.csv")
    assert [(row["upload_row"], row["device_id"], row["total_usage"]) for row in rows] == [
        (str(number), f"ok-no-{number}", str(number)) for number in (5, 3, 2, 1)
    ]
    assert sum(billing_server.billed().values()) == 4


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (setting(2, upload_row=2), "are not those of a row of this run (r"),
        (setting(2, upload_row="=1"), "upload_row and upload_run do not say whose row this is"),
        (lambda sheet: sheet.cell(2, 19, "my note"), "cell S2 stands behind the last column of the header; empty it"),
    ],
    ids=["another number", "a formula", "a note beside it"],
)
def test_a_row_that_lost_its_place_is_not_posted(
    troubled: Home, billing_server: Any, edit: Callable[[Any], None], words: str
) -> None:
    """A row that no longer says whose it is fails as malformed, and says what to put back."""
    workbook = exported(troubled, uploaded(troubled, ("acme", "no-1", "api", 7), ("acme", "no-2", "api", 7)))
    edited(workbook, edit)
    posts = len(billing_server.posts)
    assert troubled.run_here("replay", workbook.name).exit_code == 1
    first = read_rows(troubled.folder / "usage.replay1.results.csv")[0]
    assert (first["upload_reason"], words in first["upload_detail"]) == ("malformed", True)
    assert len(billing_server.posts) == posts + 1


def test_two_sheets_of_rows_are_refused(troubled: Home) -> None:
    """A copy of the sheet, hidden perhaps, leaves open which one was meant."""
    workbook = exported(troubled, uploaded(troubled, ("acme", "no-1", "api", 7)))
    edited(workbook, lambda sheet: sheet.parent.copy_worksheet(sheet))
    done = troubled.run_here("replay", workbook.name)
    assert (done.exit_code, "2 sheets with upload_... columns: 'Rows', 'Rows Copy'" in done.said) == (2, True)


def test_a_line_end_that_a_spreadsheet_changed_is_no_correction(troubled: Home, billing_server: Any) -> None:
    """Within a cell, LibreOffice knows LF alone; a meter id with CR LF is then ``changed``, not another meter."""
    workbook = exported(troubled, uploaded(troubled, ("acme", "no-1", "a\r\nb", 7)))
    posts = len(billing_server.posts)
    edited(workbook, setting(2, meter_id="a\nb"))
    assert troubled.run_here("replay", workbook.name).exit_code == 1
    assert cells(read_rows(troubled.folder / "usage.replay1.failed.csv"), "upload_reason") == ["changed"]
    assert len(billing_server.posts) == posts


@pytest.mark.parametrize("cell", ["a\0b", "x" * 131_073], ids=["NUL", "oversize"])
def test_a_parquet_cell_that_csv_cannot_hold_does_not_lose_its_row(
    troubled: Home, billing_server: Any, cell: str
) -> None:
    """In the failed file such a row stands as its text: it keeps its place, and is posted once it is written in."""
    event = {"tenant_id": ["acme"] * 2, "device_id": ["no-1", "no-2"], "meter_id": ["api"] * 2, "total_usage": [7, 8]}
    pq.write_table(pa.table({**event, "note": [cell, "fine"]}), troubled.folder / "usage.parquet")
    assert troubled.run_here("upload", "usage.parquet").exit_code == 1
    failed = troubled.folder / "usage.failed.csv"
    rows = read_rows(failed)
    assert [(row["upload_row"], row["device_id"]) for row in rows] == [("1", ""), ("2", "no-2")]
    assert rows[0]["upload_raw"].startswith("acme,no-1,api,7," + cell.replace("\0", r"\x00")[:100])
    assert troubled.run_here("replay", failed.name).exit_code == 1
    assert read_rows(troubled.folder / "usage.replay1.failed.csv")[0]["upload_row"] == "1"
    billing_server.respond = contract
    text = failed.read_text(encoding="utf-8")
    failed.write_text(text.replace("\n,,,,,1,", "\nacme,no-1,api,7,,1,", 1), encoding="utf-8")
    assert troubled.run_here("replay", failed.name).exit_code == 0
    assert sorted(tuple(row) for row in billing_server.billed()) == [
        ("acme", "no-1", "api", 7),
        ("acme", "no-2", "api", 8),
    ]
