"""Bytes of any kind as a usage log: refused with words or read, and no row is lost or there twice."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import tempfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.tally import Extent
from uploader.model.errors import UploaderError
from uploader.model.mapping import AS_IT_STANDS
from uploader.model.model import EVENT_COLUMNS, Row
from uploader.readers.log_check import fitted_reader
from uploader.readers.readers import open_usage_log
from uploader.schema.schema import RowSchema

HEADER = ",".join(EVENT_COLUMNS).encode()
SCHEMA = RowSchema.load(None)
PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}

pieces = st.sampled_from(
    [
        b",",
        b'"',
        b'""',
        b"\n",
        b"\r\n",
        b"\r",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"1",
        b"t",
        b"9" * 30,
        "é".encode(),
        b"\t",
    ]
)
rubbish = st.one_of(st.binary(max_size=200), st.lists(pieces, max_size=60).map(b"".join))
cells = st.text('a1 ,";\t\n\r\x01é日\u2028\U0001f600', max_size=8) | st.sampled_from(["00123", "NA", "1e5", "=1+1"])
records = st.lists(cells, min_size=4, max_size=4)
broken_records = st.sampled_from([b"a,b", b"a,b,c,1,e", b'"a"b,c,d,1', b"\xff,b,c,1", b"a\rb,c,d,1", b"a,b,c,\x001"])


def read_all(path: Path) -> list[Row]:
    """Read a log as an upload does: twice, checked row by row.

    Whatever the file is, rows are numbered from 1 without a gap, and each pass gives the same.
    """
    with open_usage_log(path, delimiter=None) as log:
        first = [row for batch in log.batches() for row in batch.rows]
        assert [row.number for row in first] == list(range(1, log.row_count + 1))
        assert [row for batch in log.batches() for row in batch.rows] == first
        for row in first:
            assert bool(row.fault) == (not row.cells)
            assert row.fault or len(row.cells) == len(log.columns)
        reader = fitted_reader(log, SCHEMA, AS_IT_STANDS, event_id=None, base_url="")
        for row in first:
            reader.event(row)
            reader.check.units(row)
            if not row.fault:
                reader.stated(row)
                log.record_text(row)
        return first


def read_or_refuse(name: str, data: bytes) -> list[Row] | None:
    """Read bytes as a file of that name; None when they are refused, in words that name the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        try:
            return read_all(path)
        except UploaderError as error:
            words = str(error)
        assert name in words
        return None


@pytest.mark.parametrize("packing", PACK)
def test_no_bytes_break_the_csv_reader(extent: Extent, packing: str) -> None:
    """Any bytes behind a header, or without one, packed or not, are read or refused."""

    @extent.examples(short=80, full=20_000)
    @given(st.booleans(), rubbish)
    def read(has_header: bool, data: bytes) -> None:  # noqa: FBT001 -- hypothesis gives it
        content = HEADER + b"\n" + data if has_header else data
        read_or_refuse(f"usage.csv{packing}", PACK[packing](content))

    read()


def test_no_row_of_a_csv_file_is_lost_or_there_twice(extent: Extent) -> None:
    """Sound records come back cell by cell, and each broken one between them is one malformed row."""

    @extent.examples(short=100, full=20_000)
    @given(
        st.lists(records | broken_records | st.just(b""), max_size=12), st.sampled_from(["\n", "\r\n"]), st.booleans()
    )
    def read(lines: list[list[str] | bytes], line_end: str, ends_in_line_end: bool) -> None:  # noqa: FBT001 -- as above
        data = HEADER
        for line in lines:
            data += line_end.encode() + (line if isinstance(line, bytes) else as_record(line))
        rows = read_or_refuse("usage.csv", data + (line_end.encode() if ends_in_line_end else b""))
        assert rows is not None
        expected = [None if isinstance(line, bytes) else line for line in lines if line != b""]
        assert [None if row.fault else list(row.cells) for row in rows] == expected

    read()


def as_record(cells: list[str]) -> bytes:
    """Write a record as the standard library does; before Python 3.13 it quotes a part of the line end alone."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n").encode()


def a_parquet_file(rows: int) -> bytes:
    """Write a small usage log of several types, in several row groups."""
    table = pa.table(
        {
            "tenant_id": pa.array([f"t{n}" for n in range(rows)]).dictionary_encode(),
            "device_id": pa.array(range(rows), pa.int64()),
            "meter_id": pa.array(["calls", None] * (rows // 2), pa.large_string()),
            "total_usage": pa.array([Decimal(n) for n in range(rows)], pa.decimal128(20, 2)),
            "at": pa.array(range(rows), pa.timestamp("us")),
            "more": pa.array([[n, None] for n in range(rows)]),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=5)
    return sink.getvalue()


def test_no_bytes_break_the_parquet_reader(extent: Extent) -> None:
    """A Parquet file with bytes changed, lost or added is read, to its announced number of rows, or refused."""
    sound = a_parquet_file(12)
    places = st.integers(0, len(sound) - 1)
    ends = st.integers(len(sound) - 900, len(sound) - 1)  # the footer is where a change matters most

    @extent.examples(short=80, full=20_000)
    @given(st.lists(st.tuples(places | ends, st.binary(max_size=4), st.integers(0, 4)), min_size=1, max_size=4))
    def read(changes: list[tuple[int, bytes, int]]) -> None:
        data = sound
        for at, put, taken in changes:
            data = data[:at] + put + data[at + taken :]
        read_or_refuse("usage.parquet", data)

    read()
    rows = read_or_refuse("usage.parquet", sound)
    assert rows is not None
    assert [row.cells[1] for row in rows] == list(range(12))
