"""The contents of results and failed files, to the byte."""

from __future__ import annotations

import csv
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.results.written import (
    HEADER,
    INPUT,
    Run,
    StateOf,
    column,
    even_ones_rejected,
    rejected,
    reread,
    usage_log,
    write_with_ledger,
)
from uploader.model.model import Outcome, Reason, RowState
from uploader.readers.readers import open_usage_log
from uploader.results.results import OWN_COLUMNS


def test_our_columns_follow_the_inputs(usage_csv: Path) -> None:
    """The thirteen columns of the contract stand behind the input's, in their order, with what is known of each row."""
    at_milliseconds = 1_790_000_000_123
    states = {
        1: RowState(1, Outcome(None, "", 201, '{"id": "evt_1"}'), 1, at_milliseconds, "cus_1"),
        2: RowState(2, Outcome(Reason.IN_DOUBT, "may have been recorded: timeout"), 3, at_milliseconds, "cus_2"),
        3: RowState(3, Outcome(Reason.INVALID, "device_id: is empty")),
    }
    names = Run(run_id="r0123").write(usage_csv, lambda row: states[row.number])
    moment = datetime.fromtimestamp(1_790_000_000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.123Z")
    rows = [
        f'acme,d1,api,1,1,accepted,,,,201,1,event-1,r0123,cus_1,"{{""id"": ""evt_1""}}",{moment},',
        f"globex,d2,api,2,2,failed,in_doubt,may have been recorded: timeout,confirm,,3,event-2,r0123,cus_2,,{moment},",
        "initech,d3,api,3,3,failed,invalid,device_id: is empty,fix,,0,event-3,r0123,,,,",
    ]
    header = (
        f"{HEADER},upload_row,upload_status,upload_reason,upload_detail,upload_replay,upload_http_status,"
        "upload_attempts,upload_event_id,upload_run,upload_customer_id,upload_response,upload_at,upload_raw"
    )
    assert names.results.read_text().splitlines() == [header, *rows]
    assert names.failed.read_text().splitlines() == [header, *rows[1:]]


@pytest.mark.parametrize("name", ["usage.csv", "usage.tsv", "usage.parquet"])
def test_answers_that_the_ledger_let_go_of_are_kept(folder: Path, ledgers: Path, name: str) -> None:
    """Of a row that the ledger only has as accepted, our own results still have the answer; once gone, they say so."""
    usage = usage_log(folder / name)
    own = list(OWN_COLUMNS)
    first = write_with_ledger(usage, ledgers, all_accepted("=evt"))
    cells = {name: column(first.results, name) for name in own}
    assert cells["upload_response"] == ["'=evt"] * 3
    assert write_with_ledger(usage, ledgers) == first
    assert {name: column(first.results, name) for name in own} == cells
    first.results.unlink()
    write_with_ledger(usage, ledgers)
    assert set(column(first.results, "upload_response")) <= {"", None}
    assert (
        column(first.results, "upload_detail")
        == ["accepted before; the answer stood in the results that were written then"] * 3
    )


def all_accepted(response: str) -> StateOf:
    """Accept every row with an answer."""
    return lambda row: RowState(row.number, Outcome(None, "", 201, response), 1, 1_790_000_000_123, "cus_1")


def test_a_row_of_no_run_claims_none(usage_csv: Path) -> None:
    """A row that a replay could not tell the origin of has no row number, event id or run."""
    names = Run().write(usage_csv, lambda _: RowState(0, Outcome(Reason.MALFORMED, "whose row is it?")))
    for name in ("upload_row", "upload_event_id", "upload_run"):
        assert column(names.results, name) == [""] * 3


@pytest.mark.parametrize(
    ("data", "delimiter"),
    [
        pytest.param(b"\xef\xbb\xbf#\r\nacme,d,api,1\r\n", ",", id="BOM and CRLF"),
        pytest.param(b"#\nacme;d;api;1\n", ";", id="semicolons"),
        pytest.param(b"#\nacme|d|api|1\n", "|", id="bars"),
        pytest.param(b'#\n"acme","00123",api,"1"\n', ",", id="quoted without need"),
        pytest.param(b'#\n"a ""b"" c","1,2","l1\nl2",1\n', ",", id="quoted with need"),
        pytest.param(b'#\n"a\r\nb","c\rd",e,1\n', ",", id="line ends in cells"),
        pytest.param(b"#\n acme ,d\t, api,1 \n", ",", id="spaces around"),
        pytest.param(b"#\n00123,1e5,NA,null\n", ",", id="what pandas would change"),
        pytest.param(b"#\n=1+1,+1,-1,@x\n", ",", id="a formula of the user's own"),
        pytest.param(b'#\n,"",,1\n', ",", id="empty cells"),
        pytest.param('#\nä,日本,\U0001f600\u2028,"\ufeff"\n'.encode(), ",", id="not ASCII"),
        pytest.param(b"#\na,b,c,1\na,b,c,2", ",", id="no line end at the end"),
    ],
)
def test_the_inputs_bytes_come_first_and_unchanged(folder: Path, data: bytes, delimiter: str) -> None:
    """Every record of both files begins with the input's own bytes, header included; so do the files, with a BOM."""
    usage = folder / "usage.csv"
    usage.write_bytes(data.replace(b"#", HEADER.replace(",", delimiter).encode()))
    with open_usage_log(usage, delimiter=delimiter) as log:
        records = [log.header_text, *(row.text for batch in log.batches() for row in batch.rows)]
        line_end, start = log.line_end, "\ufeff" if log.has_bom else ""
    names = Run().write(usage, rejected, delimiter=delimiter)
    for path in (names.results, names.failed):
        own = iter(reread(path, delimiter=delimiter)[1])
        own_header = delimiter.join(OWN_COLUMNS)
        tails = [own_header, *(row.text[len(record) + 1 :] for record, row in zip(records[1:], own, strict=True))]
        text = "".join(f"{record}{delimiter}{tail}{line_end}" for record, tail in zip(records, tails, strict=True))
        assert path.read_bytes() == (start + text).encode()
        assert all(tail.count(delimiter) >= len(OWN_COLUMNS) - 1 for tail in tails)


@pytest.mark.parametrize(
    ("record", "raw"),
    [
        (b"acme,d1", "acme,d1"),
        (b"acme,d1,api,1,2", "acme,d1,api,1,2"),
        (b'"acme"x,d1,api,1', '"acme"x,d1,api,1'),
        (b'"ac\nme"x,d1,api,1', '"ac\nme"x,d1,api,1'),
        (b"ac\rme,d1,api,1", "ac\rme,d1,api,1"),
        (b"ac\rme", "ac\rme"),
        (b"\rx", "\rx"),
        (b"ac\xffme,d1,api,1", r"ac\xffme,d1,api,1"),
        (b"ac\0me,d1,api,1", r"ac\x00me,d1,api,1"),
        (b"=1+1,d1", "=1+1,d1"),
    ],
)
def test_a_malformed_rows_text_is_kept(folder: Path, record: bytes, raw: str) -> None:
    """A row that cannot be read has empty cells, its text in ``upload_raw``, and no effect on the rows around it."""
    usage = folder / "usage.csv"
    usage.write_bytes(INPUT.encode() + record + b"\n" + b"umbrella,d5,api,5\n")
    names = Run().write(usage)
    assert column(names.results, "upload_row") == ["1", "2", "3", "4", "5"]
    assert column(names.results, "upload_raw") == ["", "", "", raw, ""]
    assert column(names.results, "tenant_id") == ["acme", "globex", "initech", "", "umbrella"]
    assert column(names.failed, "upload_raw") == [raw]
    assert column(names.failed, "upload_reason") == ["malformed"]


@pytest.mark.parametrize("byte", [b"x", b"\xff", b"\0", b'"', "é".encode()])
def test_a_malformed_row_of_any_length_leaves_our_file_readable(folder: Path, byte: bytes) -> None:
    """The text of an endless row is cut so that its cell is not too long for our own reader, however it is escaped."""
    usage = folder / "usage.csv"
    usage.write_bytes(INPUT.encode() + b"x" + byte * 300_000 + b"\numbrella,d5,api,5\n")
    names = Run().write(usage)
    assert column(names.results, "upload_row") == ["1", "2", "3", "4", "5"]
    (raw,) = column(names.failed, "upload_raw")
    assert raw.startswith("x" + {b"\xff": r"\xff", b"\0": r"\x00"}.get(byte, byte.decode("utf-8", "replace")) * 1000)


AWKWARD_CELLS = ['com,ma "q"', "two\nlines", "a\rb", "\r\n", "ta\tb", "plain", "", " x ", "=1+1"]


def test_a_tab_separated_logs_failed_file_has_commas(folder: Path) -> None:
    """The results of .tsv keep their tabs; the failed file, which a spreadsheet opens as .csv, has the same cells."""
    usage = folder / "usage.tsv"
    with usage.open("w", newline="") as file:
        lines = csv.writer(file, delimiter="\t", lineterminator="\r\n")
        lines.writerows([HEADER.split(","), *([cell, f"d{cell}", "api", "1"] for cell in AWKWARD_CELLS)])
    names = Run().write(usage, rejected)
    assert names.results.read_bytes().startswith(HEADER.replace(",", "\t").encode() + b"\tupload_row\t")
    assert names.failed.read_bytes().startswith(HEADER.encode() + b",upload_row,")
    for path in (names.results, names.failed):
        assert column(path, "tenant_id") == AWKWARD_CELLS
        assert column(path, "device_id") == [f"d{cell}" for cell in AWKWARD_CELLS]


def awkward_table() -> pa.Table:
    """Make a table of every kind of column that a usage log may have, and many that it need not."""
    count = len(AWKWARD_CELLS)
    moments = [datetime(2026, 11, 21, 0, 0, second, tzinfo=timezone.utc) for second in range(count)]
    arrays = {
        "tenant_id": pa.array(AWKWARD_CELLS, pa.large_string()),
        "device_id": pa.array(["d1"] * count).dictionary_encode(),
        "meter_id": pa.array(["api"] * (count - 1) + [None], pa.string()),
        "total_usage": pa.array([2**63 + number for number in range(count)], pa.uint64()),
        "price": pa.array([Decimal("1.10")] * count, pa.decimal128(38, 2)),
        "ratio": pa.array([0.1] * count, pa.float32()),
        "at": pa.array(moments, pa.timestamp("ns", tz="UTC")),
        "flag": pa.array([True, None] * (count // 2) + [False]),
        "blob": pa.array([b"\xff\0"] * count, pa.binary()),
        "tags": pa.array([["a", "b"]] * count, pa.list_(pa.string())),
    }
    table = pa.table(arrays)
    return table.replace_schema_metadata({"origin": "meter 7"})


def test_a_parquet_logs_results_keep_its_types(folder: Path) -> None:
    """The input's columns keep their Arrow types, values and metadata; numbers of ours are numbers."""
    usage = folder / "usage.parquet"
    table = awkward_table()
    pq.write_table(table, usage, row_group_size=2)
    table = pq.read_table(usage)
    results = pq.read_table(Run().write(usage, even_ones_rejected).results)
    assert results.select(table.column_names).equals(table, check_metadata=True)
    assert results.column_names == [*table.column_names, *OWN_COLUMNS]
    assert results["upload_row"].to_pylist() == list(range(1, 10))
    assert {name: str(results.schema.field(name).type) for name in OWN_COLUMNS} == {
        name: "int64" if kind == "integer" else "string" for name, kind in OWN_COLUMNS.items()
    }


def test_a_parquet_logs_failed_file_is_csv(folder: Path) -> None:
    """A person fixes the failed rows, so they are CSV with commas, every cell as exact text."""
    usage = folder / "usage.parquet"
    pq.write_table(awkward_table(), usage)
    failed = Run().write(usage, rejected).failed
    assert column(failed, "tenant_id") == AWKWARD_CELLS
    assert column(failed, "total_usage") == [str(2**63 + number) for number in range(9)]
    assert column(failed, "meter_id") == ["api"] * 8 + [""]
    assert column(failed, "price") == ["1.10"] * 9
    assert column(failed, "at")[8] == "2026-11-21T00:00:08.000000000Z"


def test_a_parquet_row_that_is_not_utf8_keeps_its_bytes_and_its_text(folder: Path, ledgers: Path) -> None:
    """Its results hold the very bytes, and ``upload_raw`` the text with the bad byte spelled out."""
    usage = folder / "usage.parquet"
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"b\xffd"]).buffers())
    pq.write_table(
        pa.table({"tenant_id": bad, "device_id": ["d"] * 2, "meter_id": ["m"] * 2, "total_usage": [1, 2]}), usage
    )
    write_with_ledger(usage, ledgers)
    names = write_with_ledger(usage, ledgers)  # which reads the first ones
    assert pq.read_table(names.results)["tenant_id"].cast(pa.binary()).to_pylist() == [b"ok", b"b\xffd"]
    assert pq.read_table(names.results)["upload_raw"].to_pylist() == [None, r"b\xffd,d,m,2"]
    assert column(names.failed, "upload_raw") == [r"b\xffd,d,m,2"]
