"""The names and formats of a replay's files."""

from __future__ import annotations

import csv
import math
import shutil
from dataclasses import replace
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.billing_answers import Answer
from tests.replay.scene import (
    EVERY_PERMISSION,
    HEADER,
    LOST,
    NEVER,
    NO,
    NOT_NOW,
    Scene,
    cells,
    edited,
    failed_file,
    read,
    results_file,
    save,
    setting,
)

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
    assert {(row["meter_id"], row["price"]) for row in rows} == {('a,\r"b', "100.0")}
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
    """``--delimiter`` is tried first; a spreadsheet may have saved the file with another one since."""
    scene.answers = {"d1": [NO]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    odd = replace(scene.plan, delimiter="~")
    report = scene.replay(file, plan=odd)
    assert report.failed_rows == 0
    save(scene.folder / "odd.csv", read(results_file(report)), delimiter="~")
    assert scene.replay(scene.folder / "odd.csv", plan=odd).failed_rows == 0


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("delimiter", ["~", "#", " "])
def test_whatever_parts_our_columns_is_found_out(scene: Scene, delimiter: str, quoting: int) -> None:
    """The header tells it: our names stand in it side by side."""
    scene.answers = {"d1": [NO]}
    file = failed_file(scene.upload(scene.log("acme,d1,api,1")))
    save(scene.folder / "odd.csv", read(file), delimiter=delimiter, quoting=quoting)
    assert scene.replay(scene.folder / "odd.csv").failed_rows == 0


def test_further_columns_are_carried_through(scene: Scene) -> None:
    """Columns of the usage log that the schema does not name, and ones that a person added, stay in the results."""
    scene.answers = {"d1": [NO]}
    log = scene.log('"a\nb",acme,d1,api,1,00', header=f"note,{HEADER},more")
    file = failed_file(scene.upload(log))
    report = scene.replay(edited(file, lambda rows: rows[0].update({"by whom": "Ann; on\nMonday"})))
    (row,) = read(results_file(report))
    assert (row["note"], row["more"], row["by whom"]) == ("a\nb", "00", "Ann; on\nMonday")
    assert list(row)[:7] == ["note", *HEADER.split(","), "more", "by whom"]


UNEDITED = {
    "binary usage": {"total_usage": pa.array([b"5", b"12"], pa.binary())},
    "float ids": {"device_id": pa.array([101.0, 1.5])},
    "not a number": {"device_id": pa.array([math.nan, math.nan])},
    "binary ids": {"meter_id": pa.array([b"cpu", b"api"], pa.binary())},
    "truth values": {"tenant_id": pa.array([True, False])},
    "decimal ids": {"device_id": pa.array([Decimal("1.50"), Decimal("2.00")])},
}


@pytest.mark.parametrize("columns", UNEDITED.values(), ids=UNEDITED.keys())
def test_what_a_parquet_upload_refused_a_replay_refuses_until_it_is_edited(
    scene: Scene, columns: dict[str, pa.Array]
) -> None:
    """The failed file spells typed cells as text, which is no word of a person that the text is meant."""
    usual = {"tenant_id": ["acme"] * 2, "device_id": ["d", "e"], "meter_id": ["api"] * 2, "total_usage": [1, 2]}
    log = scene.folder / "usage.parquet"
    pq.write_table(pa.table({**usual, **columns}), log)
    report = scene.upload(log)
    for _ in range(2):  # what a replay writes is as unedited
        report = scene.replay(failed_file(report))
        assert report.failed_rows == 2
        assert set(cells(failed_file(report), "upload_reason")) == {"invalid"}
    assert scene.posted() == []
    [column] = columns
    mended = edited(failed_file(report), setting(**{column: "7"}))
    assert scene.replay(mended).failed_rows == 0


def test_an_unedited_float_is_no_own_event_id(scene: Scene) -> None:
    """With --event-id, too: as text the id would be another than the mended log's."""
    scene.plan = replace(scene.plan, event_id="id")
    log = scene.folder / "usage.parquet"
    event = {"tenant_id": ["acme"], "device_id": ["d"], "meter_id": ["api"], "total_usage": [1]}
    pq.write_table(pa.table({**event, "id": [101.0]}), log)
    report = scene.replay(failed_file(scene.upload(log)))
    assert (report.failed_rows, scene.posted()) == (1, [])
    assert "id: '101.0' is how this file spells" in cells(failed_file(report), "upload_detail")[0]


@pytest.mark.parametrize("answer", [NOT_NOW, NEVER], ids=["not recorded", "in doubt"])
def test_decimal_usage_is_replayed_unedited(scene: Scene, answer: Answer) -> None:
    """A whole decimal is written so that it is read as the same integer."""
    log = scene.folder / "usage.parquet"
    event = {"tenant_id": ["acme"], "device_id": ["d"], "meter_id": ["api"], "total_usage": [Decimal("7.00")]}
    pq.write_table(pa.table(event), log)
    scene.answers["d"] = [answer]
    failed = failed_file(scene.upload(log))
    assert scene.replay(edited(failed, scene.mark)).failed_rows == 0
    assert scene.posted()[-1][3] == 7


def test_how_an_id_is_spelled_may_be_meant_but_never_a_usage(scene: Scene) -> None:
    """--accept-changes takes the hexadecimal digits of a binary id; of a binary usage it takes none."""
    log = scene.folder / "usage.parquet"
    columns = {"tenant_id": ["acme"] * 2, "device_id": pa.array([b"\x0a"] * 2), "meter_id": ["api"] * 2}
    pq.write_table(pa.table({**columns, "total_usage": [7, 8]}), log)
    report = scene.replay(failed_file(scene.upload(log)))
    assert "or use --accept-changes" in cells(failed_file(report), "upload_detail")[0]
    assert scene.replay(failed_file(report), EVERY_PERMISSION).failed_rows == 0
    assert {row[1] for row in scene.posted()} == {"0a"}
    other = scene.folder / "other.parquet"
    pq.write_table(pa.table({**columns, "total_usage": pa.array([b"5", b"6"])}), other)
    report = scene.replay(failed_file(scene.upload(other)), EVERY_PERMISSION)
    assert (report.failed_rows, len(scene.posted())) == (2, 2)
