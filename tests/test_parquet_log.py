"""A Parquet usage log: whoever wrote it, a cell is exactly what the file says."""

from __future__ import annotations

import csv
import datetime as dt
import errno
import gc
import hashlib
import io
import math
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uploader.model.errors import InputChangedError, InputError
from uploader.model.model import Row
from uploader.readers.content import BLOCK_BYTES
from uploader.readers.parquet_log import AnnotatedParquetWriter, ParquetLog

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file that is not there yet."""
    return tmp_path / "usage.parquet"


def rows_of(log: ParquetLog) -> list[Row]:
    """Read one pass."""
    return [row for batch in log.batches() for row in batch.rows]


def rows_in(path: Path) -> list[Row]:
    """Open a log and read one pass."""
    with ParquetLog(path) as log:
        return rows_of(log)


def cells_in(path: Path) -> list[list[Any]]:
    """Read the cells alone."""
    return [list(row.cells) for row in rows_in(path)]


def exactly(values: Sequence[Any]) -> list[tuple[type, Any]]:
    """Pair values with their types, for 1 == 1.0 == True."""
    return [(type(value), value) for value in values]


def write_column(path: Path, values: Sequence[Any], type_: Any, **options: Any) -> None:
    """Write a file of one column."""
    pq.write_table(pa.table({"column": pa.array(values, type_)}), path, **options)


BIG = 2**63 - 1
USAGE = [("00123", "NA", 5), ("é,\n", "", BIG), ("t3", "null", 0)]


def by_pandas(path: Path) -> None:
    """Write the usage with pandas."""
    pd.DataFrame(USAGE, columns=["tenant", "device", "usage"]).to_parquet(path, index=False)


def by_polars(path: Path) -> None:
    """Write the usage with Polars."""
    pl.DataFrame(USAGE, schema=["tenant", "device", "usage"], orient="row").write_parquet(path)


def by_duckdb(path: Path) -> None:
    """Write the usage with DuckDB."""
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE usage (tenant VARCHAR, device VARCHAR, usage BIGINT)")
        connection.executemany("INSERT INTO usage VALUES (?, ?, ?)", USAGE)
        connection.execute(f"COPY usage TO '{path}' (FORMAT parquet)")


def by_pyarrow(path: Path) -> None:
    """Write the usage with pyarrow, a row group for each row."""
    columns = [list(column) for column in zip(*USAGE, strict=True)]
    pq.write_table(pa.table(columns, names=["tenant", "device", "usage"]), path, row_group_size=1)


@pytest.mark.parametrize("write", [by_pandas, by_polars, by_duckdb, by_pyarrow])
def test_every_writers_file_gives_the_same_rows(path: Path, write: Callable[[Path], None]) -> None:
    """Text stays text, 2^63-1 stays itself, and rows keep their order."""
    write(path)
    with ParquetLog(path) as log:
        assert rows_of(log) == [Row(number, cells, "") for number, cells in enumerate(USAGE, 1)]
        assert log.columns == ("tenant", "device", "usage")
        assert (log.kind, log.delimiter, log.line_end, log.has_bom) == ("parquet", ",", "\n", False)
        assert log.header_text == "tenant,device,usage"
        assert log.row_count == 3
        assert log.content_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_categories_of_pandas_and_polars_are_their_text(path: Path) -> None:
    """A dictionary-encoded column gives its values, also when each row group has a dictionary of its own."""
    pd.DataFrame({"t": pd.Categorical(["b", "a", None, "b"])}).to_parquet(path)
    assert cells_in(path) == [["b"], ["a"], [None], ["b"]]
    pl.DataFrame(
        {
            "t": pl.Series(["b", "a", None], dtype=pl.Categorical),
            "e": pl.Series(["x", "y", "x"], dtype=pl.Enum(["x", "y"])),
        }
    ).write_parquet(path)
    assert cells_in(path) == [["b", "x"], ["a", "y"], [None, "x"]]
    write_column(path, list("abcdef"), pa.dictionary(pa.int32(), pa.string()), row_group_size=2)
    assert [row.cells for row in rows_in(path)] == [(letter,) for letter in "abcdef"]


INTEGERS = [
    (pa.uint64(), 2**64 - 1),
    *((getattr(pa, f"uint{bits}")(), 2**bits - 1) for bits in (8, 16, 32)),
    *((getattr(pa, f"int{bits}")(), -(2 ** (bits - 1))) for bits in (8, 16, 32, 64)),
]


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        *INTEGERS,
        (pa.string(), "00123"),
        (pa.large_string(), "x" * 40),
        (pa.string_view(), "x" * 40),
        (pa.dictionary(pa.int8(), pa.string()), "é"),
        (pa.decimal128(38, 2), Decimal("123456789012345678901234567890123456.78")),
        (pa.decimal256(50, 0), Decimal(10**49)),
        (pa.float16(), 0.5),
        (pa.float32(), 16777217.0 - 1),
        (pa.float64(), 0.1),
        (pa.bool_(), True),
        (pa.binary(), b"\xff"),
        (pa.binary(2), b"ab"),
        (pa.list_(pa.string_view()), ["a", "b"]),
        (pa.struct({"n": pa.int64()}), {"n": BIG}),
    ],
    ids=str,
)
def test_a_value_is_of_its_own_python_type(path: Path, type_: Any, value: Any) -> None:
    """Nothing passes through another type on its way, also where the column has nulls and several row groups."""
    values = [value, None, None, value]
    pq.write_table(pa.table({"column": pa.array(values, type_)}), path, row_group_size=3)
    assert exactly([row.cells[0] for row in rows_in(path)]) == exactly(values)


@pytest.mark.parametrize(
    ("type_", "count", "text"),
    [
        (pa.timestamp("ns"), 1, "1970-01-01T00:00:00.000000001"),
        (pa.timestamp("us"), -1, "1969-12-31T23:59:59.999999"),
        (pa.timestamp("ms"), 253402300800000, "10000-01-01T00:00:00.000"),
        (pa.timestamp("ns", "UTC"), 1, "1970-01-01T00:00:00.000000001Z"),
        (pa.timestamp("us", "Europe/Berlin"), 10**15, "2001-09-09T01:46:40.000000Z"),
        (pa.timestamp("us", "No/Such_Zone"), 0, "1970-01-01T00:00:00.000000Z"),
        (pa.date32(), 20778, "2026-11-21"),
        (pa.time64("ns"), 1, "00:00:00.000000001"),
        (pa.time32("ms"), 1, "00:00:00.001"),
        (pa.duration("ns"), 5, "5 ns"),
    ],
    ids=str,
)
def test_dates_and_times_are_text(path: Path, type_: Any, count: int, text: str) -> None:
    """Nanoseconds, years past 9999 and unknown time zones lose nothing and fail nothing."""
    integers = pa.int32() if type_.bit_width == 32 else pa.int64()
    pq.write_table(pa.table({"column": pa.array([count, None], integers).view(type_)}), path)
    assert cells_in(path) == [[text], [None]]


def test_uuids_are_text(path: Path) -> None:
    """A tenant id that DuckDB wrote as a UUID reads as people write it."""
    id_ = "00000000-1234-5678-9abc-def012345678"
    with duckdb.connect() as connection:
        connection.execute(f"COPY (SELECT '{id_}'::UUID AS tenant) TO '{path}' (FORMAT parquet)")
    assert cells_in(path) == [[id_]]
    assert str(uuid.UUID(id_)) == id_


@pytest.mark.parametrize("type_", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_a_text_that_is_not_utf8_is_one_malformed_row(path: Path, type_: Any) -> None:
    """The rows beside it are read as ever; its own text keeps the bytes."""
    buffer = io.BytesIO()
    table = pa.table({"tenant": pa.array(["a", "bQQ", None], type_), "usage": [1, 2, 3], "t": ["x,", "y,", "z"]})
    pq.write_table(table, buffer, compression="none", write_statistics=False)
    path.write_bytes(buffer.getvalue().replace(b"QQ", b"\xff\xfe"))
    with ParquetLog(path) as log:
        first, bad, last = rows_of(log)
        assert (first.cells, last.cells) == (["a", 1, "x,"], [None, 3, "z"])
        assert (bad.number, bad.cells, bad.fault) == (2, (), "row 2: column 'tenant' is not UTF-8")
        assert log.record_text(bad).encode("utf-8", "surrogateescape") == b'b\xff\xfe,2,"y,"'


@pytest.mark.parametrize(
    ("type_", "value", "text"),
    [
        (pa.int64(), BIG, str(BIG)),
        (pa.decimal128(38, 0), Decimal("1E+30"), "1" + "0" * 30),
        (pa.decimal128(20, 9), Decimal("0.000000001"), "0.000000001"),
        (pa.float64(), 5.0, "5.0"),
        (pa.float64(), 1e22, "1" + "0" * 22 + ".0"),
        (pa.float64(), 1e-7, "1e-07"),
        (pa.float64(), math.inf, "inf"),
        (pa.bool_(), True, "true"),
        (pa.bool_(), False, "false"),
        (pa.int64(), None, '""'),
        (pa.string(), "", '""'),
        (pa.string(), 'a "b", c\r\n', '"a ""b"", c\r\n"'),
        (pa.string(), "a\rb", '"a\rb"'),
        (pa.string(), "a\0b", "a\0b"),
        (pa.string(), "a\nb", '"a\nb"'),
        (pa.timestamp("ms"), dt.datetime(2026, 11, 21, 1, 2, 3), "2026-11-21T01:02:03.000"),  # noqa: DTZ001 -- a naive one is meant
        (pa.binary(), b"\x00\xff", "00ff"),
        (pa.list_(pa.string()), ["é", None], '"[""é"", null]"'),
        (
            pa.struct({"n": pa.decimal128(5, 2), "b": pa.binary()}),
            {"n": Decimal("1.50"), "b": b"\xff"},
            '"{""n"": ""1.50"", ""b"": ""ff""}"',
        ),
    ],
)
def test_a_row_is_rendered_as_csv(path: Path, type_: Any, value: Any, text: str) -> None:
    """The record of a failed row says what the file said, in plain notation, as one CSV record."""
    write_column(path, [value], type_)
    with ParquetLog(path) as log:
        (row,) = rows_of(log)
        assert log.record_text(row) == text


def test_a_file_of_no_rows_is_a_log(path: Path) -> None:
    """A flat day is a valid log, with or without a row group."""
    pq.write_table(pa.table({"a": pa.array([], pa.string())}), path)
    with ParquetLog(path) as log:
        assert rows_of(log) == []
        assert (log.row_count, log.columns) == (0, ("a",))


def test_many_row_groups_give_rows_in_order(path: Path) -> None:
    """Batches have at most 1000 rows, their numbers go on, and their source is exactly their rows."""
    pq.write_table(pa.table({"n": pa.array(range(10_000), pa.int64())}), path, row_group_size=777)
    with ParquetLog(path) as log:
        for _ in range(2):
            batches = list(log.batches())
            assert max(len(batch.rows) for batch in batches) <= 1000
            assert [(row.number, row.cells) for batch in batches for row in batch.rows] == [
                (number + 1, (number,)) for number in range(10_000)
            ]
            for batch in batches:
                assert batch.source["n"].to_pylist() == [row.cells[0] for row in batch.rows]


def test_what_a_pass_finds_out_is_not_known_before_its_end(path: Path) -> None:
    """The number of rows is that of the rows read, not what the footer announces."""
    write_column(path, range(5000), pa.int64())
    with ParquetLog(path) as log:
        with pytest.raises(RuntimeError):
            _ = log.content_sha256
        next(log.batches())
        with pytest.raises(RuntimeError):
            _ = log.row_count


class Plain(pe.KmsClient):  # type: ignore[misc] # pyarrow ships no types
    """A key service that wraps nothing."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        """Give the key as it is."""
        return key_bytes.hex() + master_key_identifier[:0]

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        """Give the key back."""
        return bytes.fromhex(str(wrapped_key) + master_key_identifier[:0])


@pytest.mark.parametrize("plaintext_footer", [False, True])
def test_an_encrypted_file_is_refused(path: Path, plaintext_footer: bool) -> None:  # noqa: FBT001 -- pytest passes it by name
    """Encrypted columns cannot be read, and the message says so."""
    factory = pe.CryptoFactory(lambda _: Plain())
    config = pe.EncryptionConfiguration("foot", column_keys={"key": ["a"]}, plaintext_footer=plaintext_footer)
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    table = pa.table({"a": ["x"]})
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    with pytest.raises(InputError, match=r"usage.parquet.*write it without encryption"):
        rows_in(path)


def test_integers_wider_than_arrows_are_refused_by_name(path: Path) -> None:
    """A 128-bit integer column is an input error, not a crash."""
    pl.DataFrame({"n": pl.Series([1], dtype=pl.Int128)}).write_parquet(path)
    with pytest.raises(InputError, match=r"more than 64 bits.*write the column in another type"):
        rows_in(path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no peak of a process's own memory here")
def test_the_memory_does_not_grow_with_the_row_group(path: Path) -> None:
    """A file that is one row group of 240 MB is read in much less."""
    short = path.with_name("short.parquet")
    write_column(short, [os.urandom(2400)], pa.binary(), compression="none", use_dictionary=False)
    cells = [os.urandom(2400) for _ in range(100_000)]
    write_column(path, cells, pa.binary(), compression="none", use_dictionary=False)
    program = """
import sys
from pathlib import Path
from uploader.readers.parquet_log import ParquetLog
peaks = []
for path, rows in zip(sys.argv[1:], (1, 100_000), strict=True):
    with ParquetLog(Path(path)) as log:
        assert sum(len(batch.rows) for batch in log.batches()) == rows
    peaks += [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peaks[1]) - int(peaks[0]))
"""
    done = subprocess.run([sys.executable, "-c", program, short, path], check=True, capture_output=True, cwd=REPOSITORY)
    assert int(done.stdout) < 180_000  # KiB beyond the peak of one row, whatever else is loaded


@pytest.fixture
def log_of_blocks(path: Path) -> Path:
    """Write a file of several blocks and row groups, its pages with checksums."""
    texts = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(60_000)]
    table = pa.table({"a": texts, "b": texts})
    pq.write_table(
        table, path, row_group_size=10_000, compression="none", use_dictionary=False, write_page_checksum=True
    )
    assert path.stat().st_size > 6 * BLOCK_BYTES
    return path


@pytest.mark.parametrize("kept_bytes", [0, 3, 4, 5, 3 * BLOCK_BYTES, -9, -1])
def test_a_file_cut_short_is_refused(log_of_blocks: Path, kept_bytes: int) -> None:
    """Half a copy is an input error on opening, not a shorter log."""
    os.truncate(log_of_blocks, kept_bytes % log_of_blocks.stat().st_size)
    with pytest.raises(InputError, match=r"usage.parquet.*copy the file again"):
        ParquetLog(log_of_blocks)


def test_a_page_with_a_wrong_checksum_is_refused(log_of_blocks: Path) -> None:
    """A flipped bit in the data is not billed when the writer gave the means to see it."""
    data = bytearray(log_of_blocks.read_bytes())
    data[len(data) // 2] ^= 1
    log_of_blocks.write_bytes(data)
    with pytest.raises(InputError, match=r"cannot be read as Parquet: .*CRC"):
        rows_in(log_of_blocks)


def test_a_file_that_announces_more_rows_than_it_holds_is_refused(path: Path) -> None:
    """Rows that the footer counts and no row group has are not passed over."""
    write_column(path, range(10), pa.int64())
    data = path.read_bytes()
    # Thrift's compact protocol: field 3 (+1 from 2) of type i64, and 10 and 11 as zigzag varints.
    footer = data.rindex(b"\x16\x14", 0, data.index(b"\x19\x1c", data.index(b"schema")))
    path.write_bytes(data[:footer] + b"\x16\x16" + data[footer + 2 :])
    assert pq.read_metadata(path).num_rows == 11
    with pytest.raises(InputError, match="announces 11 rows and holds 10"):
        rows_in(path)


@pytest.mark.parametrize("data", [b"a,b\n1,2\n", b"PK\x03\x04", b""])
def test_what_is_no_parquet_is_refused(path: Path, data: bytes) -> None:
    """A CSV under Parquet's name is an input error with a remedy."""
    path.write_bytes(data)
    with pytest.raises(InputError, match="holds no Parquet data -- name it after what it holds"):
        ParquetLog(path)


@pytest.mark.parametrize("change", ["in place", "shortened", "grown"])
def test_a_row_that_changed_since_the_first_pass_never_comes_out(log_of_blocks: Path, change: str) -> None:
    """The second pass ends before anything of a changed block is read."""
    with ParquetLog(log_of_blocks) as log:
        first = rows_of(log)
        size = log_of_blocks.stat().st_size
        if change == "in place":
            with log_of_blocks.open("r+b") as file:
                file.seek(size // 2)
                file.write(b"\0")
        else:
            os.truncate(log_of_blocks, size - 1 if change == "shortened" else size + 1)
        second: list[Row] = []
        rows = (row for batch in log.batches() for row in batch.rows)
        with pytest.raises(InputChangedError):
            second.extend(rows)
        assert second == first[: len(second)]
        assert len(second) < len(first)


def test_the_first_passs_rows_are_of_the_hashed_content(log_of_blocks: Path) -> None:
    """A change while the first pass is read ends it, for its rows would not be those of the digest."""
    with ParquetLog(log_of_blocks) as log:
        batches = log.batches()
        next(batches)
        with log_of_blocks.open("r+b") as file:
            file.seek(-3 * BLOCK_BYTES, os.SEEK_END)
            file.write(b"\0" * BLOCK_BYTES)
        with pytest.raises(InputChangedError):
            list(batches)


def annotate(log: ParquetLog, file: Any, *, note: str | None = "n") -> None:
    """Write the log with two columns more."""
    writer = AnnotatedParquetWriter(file, log, extra_columns={"upload_note": "text", "upload_row": "integer"})
    for batch in log.batches():
        writer.write(batch, [(note, row.number) for row in batch.rows])
    writer.close()


def test_results_keep_every_type_and_all_metadata(path: Path, tmp_path: Path) -> None:
    """The input's columns come out as they went in, null for null, and the new ones stand after them."""
    schema = pa.schema(
        [
            pa.field("tenant", pa.string_view(), nullable=False, metadata={"owner": "billing"}),
            pa.field("kind", pa.dictionary(pa.int8(), pa.string())),
            pa.field("usage", pa.uint64()),
            pa.field("price", pa.decimal128(38, 4)),
            pa.field("at", pa.timestamp("ns", "Europe/Berlin")),
            pa.field("tags", pa.list_(pa.field("item", pa.large_string()))),
            pa.field("nest", pa.struct({"n": pa.float16()})),
        ],
        metadata={"source": "meter 7"},
    )
    arrays = [
        pa.array(["a", "b", "c"], pa.string_view()),
        pa.array(["x", None, "x"]).dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string())),
        pa.array([2**64 - 1, None, 0], pa.uint64()),
        pa.array([Decimal("1.5"), None, Decimal(0)], pa.decimal128(38, 4)),
        pa.array([1, None, 2], pa.int64()).view(pa.timestamp("ns", "Europe/Berlin")),
        pa.array([["p", None], None, []], pa.list_(pa.large_string())),
        pa.StructArray.from_arrays([pa.array([0.5, None, 1], pa.float32()).cast(pa.float16())], ["n"]),
    ]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, row_group_size=2)
    results = tmp_path / "results.parquet"
    with ParquetLog(path) as log, results.open("wb") as file:
        annotate(log, file)
        assert not file.closed
    written = pq.read_table(results)
    original = pq.read_table(path)
    assert written.schema.remove(8).remove(7).equals(original.schema, check_metadata=True)
    assert written.select(original.column_names).equals(original)
    assert written["upload_note"].to_pylist() == ["n"] * 3
    assert written["upload_row"].to_pylist() == [1, 2, 3]
    assert str(written.schema.field("upload_row").type) == "int64"


def test_results_of_a_pandas_file_are_a_pandas_file(path: Path, tmp_path: Path) -> None:
    """What pandas noted of its frame, such as the index, still holds."""
    frame = pd.DataFrame({"usage": [1, 2]}, index=pd.Index(["a", "b"], name="tenant"))
    frame.to_parquet(path)
    results = tmp_path / "results.parquet"
    with ParquetLog(path) as log, results.open("wb") as file:
        annotate(log, file)
    pd.testing.assert_frame_equal(pd.read_parquet(results)[["usage"]], frame)


def test_results_have_row_groups_of_a_useful_size(path: Path, tmp_path: Path) -> None:
    """Small batches are gathered, for a row group of 1000 rows each would be slow to read."""
    write_column(path, range(100_000), pa.int64())
    results = tmp_path / "results.parquet"
    with ParquetLog(path) as log, results.open("wb") as file:
        annotate(log, file)
    metadata = pq.read_metadata(results)
    assert (metadata.num_rows, metadata.num_row_groups) == (100_000, 4)
    assert pq.read_table(results)["upload_row"].to_pylist() == list(range(1, 100_001))


def test_results_of_no_rows_are_a_file(path: Path) -> None:
    """A flat day has results, with all their columns."""
    write_column(path, [], pa.string())
    file = io.BytesIO()
    with ParquetLog(path) as log:
        annotate(log, file)
    assert pq.read_table(file).column_names == ["column", "upload_note", "upload_row"]


def test_a_note_that_is_not_utf8_is_written_escaped(path: Path) -> None:
    """The text of a malformed row can stand beside it, its stray bytes spelt out; null and empty stay apart."""
    write_column(path, ["a"], pa.string())
    for note, written in (("x\udcff", "x\\udcff"), (None, None), ("", "")):
        file = io.BytesIO()
        with ParquetLog(path) as log:
            annotate(log, file, note=note)
        assert pq.read_table(file)["upload_note"].to_pylist() == [written]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_an_os_error(path: Path) -> None:
    """The writer passes the system's own error on."""
    write_column(path, range(1000), pa.int64())
    with ParquetLog(path) as log, Path("/dev/full").open("wb", buffering=0) as file:
        with pytest.raises(OSError, match="No space") as caught:
            annotate(log, file)
        assert caught.value.errno == errno.ENOSPC


def test_an_abandoned_writer_leaves_a_closed_file_alone(path: Path, tmp_path: Path) -> None:
    """A run that dies of another cause gets no second error from the writer; pytest would show it."""
    write_column(path, range(10), pa.int64())
    with ParquetLog(path) as log:
        with (tmp_path / "results.parquet").open("wb") as file:
            writer = AnnotatedParquetWriter(file, log, extra_columns={})
            for batch in log.batches():
                writer.write(batch, [()] * len(batch.rows))
        del writer
        gc.collect()


# Python 3.10's csv does not read a NUL character.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
records = st.tuples(
    st.none() | texts,
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.floats(allow_nan=False),
    st.none() | st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**20), max_value=10**20),
    st.none() | st.booleans(),
)
TYPES = [pa.string(), pa.int64(), pa.float64(), pa.decimal128(38, 3), pa.bool_()]


@settings(deadline=None, max_examples=60)
@given(st.lists(records, max_size=12), st.integers(1, 5))
def test_what_was_written_is_read_and_written_again(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[Any, ...]], row_group_rows: int
) -> None:
    """Any values come back equal and of their type; so do they from the results, and as text from the record."""
    path = tmp_path_factory.getbasetemp() / "property.parquet"
    columns = [[record[index] for record in table] for index in range(len(TYPES))]
    arrays = [pa.array(column, type_) for column, type_ in zip(columns, TYPES, strict=True)]
    written = pa.table(arrays, names=list("abcde"))
    pq.write_table(written, path, row_group_size=row_group_rows)
    file = io.BytesIO()
    with ParquetLog(path) as log:
        rows = rows_of(log)
        annotate(log, file)
        texts_again = [next(csv.reader(io.StringIO(log.record_text(row), newline=""))) for row in rows]
    assert [exactly(row.cells) for row in rows] == [exactly(record) for record in table]
    assert pq.read_table(file).select(list("abcde")).equals(written)
    for record, again in zip(table, texts_again, strict=True):
        text, integer, real, decimal, boolean = again
        assert text == (record[0] or "")
        assert integer == ("" if record[1] is None else str(record[1]))
        assert (None if real == "" else float(real)) == record[2]
        assert (None if decimal == "" else Decimal(decimal)) == record[3]
        assert boolean == {None: "", True: "true", False: "false"}[record[4]]
