"""Good rows told a column at a time: what is said of a Parquet log is what its rows one by one come to."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uploader.checks.validate import validate
from uploader.model.errors import InputError
from uploader.model.mapping import AS_IT_STANDS, ColumnMap
from uploader.model.model import Outcome, Row, UsageEvent
from uploader.model.settings import FailureBudget
from uploader.readers.parquet_log import ParquetLog
from uploader.readers.readers import sifted
from uploader.reports.findings import CheckFindings
from uploader.reports.report import page_of_checks
from uploader.schema.schema import RowCheck, RowSchema

REPOSITORY = Path(__file__).parents[1]
SHIPPED = (REPOSITORY / "schemas" / "usage.schema.json").read_text(encoding="utf-8")
COLUMNS = ("tenant_id", "device_id", "meter_id", "total_usage", "region")
_NEVER_BROKEN = {"minProperties": 0}
"""A keyword that no row breaks, and that makes a schema be checked row by row."""


@dataclass(frozen=True, slots=True)
class Kind:
    """An Arrow type, and how a column of it is made of values."""

    type: Any
    values: st.SearchStrategy[Any]

    def array(self, values: Sequence[Any]) -> Any:
        """Make a column."""
        if pa.types.is_temporal(self.type):
            return pa.array(values, pa.int32() if self.type.bit_width == 32 else pa.int64()).view(self.type)
        return pa.array(values, self.type)


def _integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    least, most = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return st.sampled_from([0, 1, 5, most, most - 1, least]) | st.integers(least, most)


_NUMERALS = ["1", "1.0", "01", "-1", "-0", "+7", "1_0", "7\n", "٣", "9" * 18, "9" * 19, "9" * 20, "nan", "1e3"]
_WORDS = ["t", "", " x", "é", "..", "true", "null", "a" * 256, "a" * 257, "x\0", "\x7f", "2026-11-20"]
_TEXTS = st.sampled_from([*_NUMERALS, *_WORDS, "2026-11-20T00:00:00Z"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=3
)
_FLOATS = st.sampled_from([0.0, -0.0, 1.0, 1.5, -1.0, float("nan"), float("inf"), -float("inf"), 65504.0])
_DOUBLES = st.sampled_from([2.0**53, 2.0**53 - 1, 2.0**62, 2.0**63, 2.0**64, 1e300, 5e-324, 2.0**53 + 2])
_OTHER_NAN: float = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000001))[0]
_COUNTS = st.sampled_from([0, 1, -1, 86_400_000, 2**31 - 1])
_DECIMALS = st.sampled_from(["0", "-0", "1", "-1", "1.5", "0.01", "100", "9223372036854775807", "9223372036854775808"])
_KINDS = [
    *(Kind(getattr(pa, f"int{bits}")(), _integers(bits, signed=True)) for bits in (8, 16, 32, 64)),
    *(Kind(getattr(pa, f"uint{bits}")(), _integers(bits, signed=False)) for bits in (8, 16, 32, 64)),
    Kind(pa.string(), _TEXTS),
    Kind(pa.large_string(), _TEXTS),
    Kind(pa.string_view(), _TEXTS),
    Kind(pa.dictionary(pa.int32(), pa.string()), _TEXTS),
    Kind(pa.float16(), _FLOATS),
    Kind(pa.float32(), _FLOATS),
    Kind(pa.float64(), _FLOATS | _DOUBLES | st.just(_OTHER_NAN) | st.floats()),
    Kind(pa.decimal128(38, 2), _DECIMALS.map(Decimal)),
    Kind(pa.decimal128(38, 0), st.sampled_from([Decimal(10**37), Decimal(2**63 - 1), Decimal(0), Decimal(-5)])),
    Kind(pa.decimal256(60, 5), _DECIMALS.map(Decimal) | st.sampled_from([Decimal(10**40), Decimal("1.00001")])),
    Kind(pa.bool_(), st.booleans()),
    Kind(pa.null(), st.none()),
    Kind(pa.binary(), st.sampled_from([b"t", b"\xff", b""])),
    Kind(pa.date32(), _COUNTS),
    Kind(pa.timestamp("us"), _COUNTS | st.just(253402300800000000)),
    Kind(pa.timestamp("ns", "Europe/Berlin"), _COUNTS),
    Kind(pa.time64("us"), _COUNTS.map(abs)),
    Kind(pa.duration("ms"), _COUNTS),
    Kind(pa.list_(pa.string()), st.lists(_TEXTS, max_size=2)),
    Kind(pa.struct({"n": pa.int64()}), st.fixed_dictionaries({"n": st.sampled_from([1, None])})),
]
_GOOD_KINDS = {
    "tenant_id": Kind(pa.string(), st.sampled_from(["t1", "t2", "t3"])),
    "device_id": Kind(pa.dictionary(pa.int32(), pa.string()), st.sampled_from(["d", "d2"])),
    "meter_id": Kind(pa.large_string(), st.sampled_from(["m", "é"])),
    "total_usage": Kind(pa.int64(), _integers(64, signed=False).filter(lambda units: units < 2**63)),
    "region": Kind(pa.string(), _TEXTS),
}

_BOUNDS = st.sampled_from([0, 1, 5, 0.5, -1.5, 1e19, -1e19, 1e300, 2**63 - 1, 2**64, -(2**63), 2**53, 9.5e18])
_TYPES = ["string", "integer", "number", "boolean", "null"]
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from([*_TYPES, ["string", "null"], ["integer", "null"], ["string", "integer"]]),
    "minimum": _BOUNDS,
    "maximum": _BOUNDS,
    "exclusiveMinimum": _BOUNDS,
    "exclusiveMaximum": _BOUNDS,
    "maxLength": st.sampled_from([1, 3]),
    "pattern": st.sampled_from(["^[a-z]+$", "^[0-9.]+$"]),
    "enum": st.sampled_from([["t", "1", 1], ["true", True, None, 0]]),
    "const": st.sampled_from(["1", 1, None, 0]),
    "multipleOf": st.sampled_from([2, 0.5]),
    "not": st.sampled_from([{"const": "t"}, {"const": 5}, {"$ref": "#"}, {}]),
    "format": st.sampled_from(["date-time", "date"]),
    "title": st.just("a title"),
}
_RULES = st.dictionaries(st.sampled_from(sorted(_VALUES)), st.just(None), max_size=3)
_PROPERTY = _RULES.flatmap(lambda rules: st.fixed_dictionaries({rule: _VALUES[rule] for rule in rules}))
_SCHEMAS = st.just(json.loads(SHIPPED)) | st.fixed_dictionaries(
    {
        "properties": st.dictionaries(st.sampled_from(COLUMNS), st.one_of(_PROPERTY, st.booleans()), max_size=3),
        "required": st.lists(st.sampled_from(["tenant_id", "region"]), unique=True),
    },
    optional={"type": st.sampled_from(["object", "array"]), "minProperties": st.just(0)},
)


@st.composite
def _tables(draw: st.DrawFn) -> Any:
    """Make a table most of whose columns are good, and some of any type."""
    rows = draw(st.integers(0, 12))
    arrays = {}
    for column in COLUMNS:
        kind = draw(st.one_of(st.just(_GOOD_KINDS[column]), st.sampled_from(_KINDS)))
        cells = kind.values if draw(st.booleans()) else st.none() | kind.values
        arrays[column] = kind.array(draw(st.lists(cells, min_size=rows, max_size=rows)))
    return pa.table(arrays)


def _check(document: dict[str, Any], mapping: ColumnMap = AS_IT_STANDS, columns: Sequence[str] = COLUMNS) -> RowCheck:
    return RowSchema(json.dumps(document), name="x").for_columns(columns, path=Path("x.parquet"), mapping=mapping)


def _exactly(row: Row) -> tuple[Any, ...]:
    """Tell 1 from True and 1.0, and a NaN not from itself."""
    return (row.number, [(type(cell), repr(cell)) for cell in row.cells], row.text, row.fault)


def _demand_the_same(path: Path, check: RowCheck) -> int:
    """Compare a log that is sifted with its rows one by one; gives how many were not looked at."""
    with ParquetLog(path) as log:
        parts = list(sifted(log, check.columns_alone))
        assert log.row_count == sum(len(part.rows) + part.good_rows for part in parts)
        doubtful = {row.number: row for part in parts for row in part.rows}
        assert list(doubtful) == sorted(doubtful)
        good_rows = good_units = 0
        for batch in log.batches():
            for row in batch.rows:
                if row.number in doubtful:
                    assert _exactly(doubtful[row.number]) == _exactly(row)
                    continue
                event, units = check.event(row), check.units(row)
                assert isinstance(event, UsageEvent), (event, row)
                assert units is not None
                good_rows += 1
                good_units += units.total_usage
    assert good_rows == sum(part.good_rows for part in parts)
    assert good_units == sum(part.good_units for part in parts)
    return good_rows


@settings(max_examples=100, deadline=None)
@given(table=_tables(), document=_SCHEMAS, row_group_rows=st.integers(1, 5))
def test_what_is_called_good_is_good(
    tmp_path_factory: pytest.TempPathFactory, table: Any, document: dict[str, Any], row_group_rows: int
) -> None:
    """Whatever the types, cells and schema: no row is passed that its own check would not, and the sums are exact."""
    path = tmp_path_factory.getbasetemp() / "sieve.parquet"
    pq.write_table(table, path, row_group_size=row_group_rows)
    _demand_the_same(path, _check(document))


_USAGE = {
    "tenant_id": pa.array(["t1", "t2", "t1"]),
    "device_id": pa.array(["d", "d", "d"]),
    "meter_id": pa.array(["m", "m", "n"]),
    "total_usage": pa.array([1, 2**40, 0]),
    "region": pa.array([None, "é", ""]),
}
_ANY_REGION = {"properties": {"region": {"type": ["string", "null"], "maxLength": 40}}}
_ANY_NUMBER = {"properties": {"region": {"type": ["number", "null"]}}}


@pytest.mark.parametrize(
    ("column", "cells", "document"),
    [
        *(("total_usage", pa.array([1, 200, 0], type_), None) for type_ in (pa.uint8(), pa.int16(), pa.uint64())),
        ("total_usage", pa.array([1.0, 2.0**53 - 1, -0.0]), None),
        ("total_usage", pa.array([Decimal("1.00"), Decimal(2**62), Decimal(0)], pa.decimal128(30, 2)), None),
        ("total_usage", pa.array(["1", "9" * 18, "007"]), None),
        (
            "total_usage",
            pa.array(["+1", "9" * 18, "7.0"]),
            {"properties": {"total_usage": {"enum": [1, 7, 10**18 - 1]}}},
        ),
        ("total_usage", pa.array([2**63 - 1] * 3), None),
        ("total_usage", pa.array([-(2**63)] * 3), {}),
        ("tenant_id", pa.array(["t1", "t2", "t1"], pa.string_view()), None),
        ("tenant_id", pa.array(["t1", "t2", "t1"]).dictionary_encode(), None),
        ("tenant_id", pa.array([1, 2, 3]), None),
        ("region", pa.array([1, None, 2**63 - 1]).view(pa.timestamp("ns", "UTC")), _ANY_REGION),
        ("region", pa.array([0.5, -0.0, None]), _ANY_NUMBER),
        ("region", pa.array([["a"], None, []], pa.list_(pa.string())), None),
        ("region", pa.array([b"\xff", None, b""]), None),
        ("region", pa.array([1, None, 3]).cast(pa.duration("s")), None),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else None,
)
def test_good_rows_are_not_looked_at_one_by_one(
    tmp_path: Path, column: str, cells: Any, document: dict[str, Any] | None
) -> None:
    """That is what makes it fast, whatever type the writer chose."""
    path = tmp_path / "usage.parquet"
    pq.write_table(pa.table({**_USAGE, column: cells}), path)
    assert _demand_the_same(path, _check(json.loads(SHIPPED) if document is None else document)) == 3


def by_duckdb(path: Path) -> None:
    """Write UUIDs and a wide integer."""
    query = (
        "SELECT uuid() AS tenant_id, 'd' AS device_id, 'm' AS meter_id, i::HUGEINT AS total_usage FROM range(5) r(i)"
    )
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({query.replace('i::HUGEINT', 'i::DECIMAL(20, 3)')}) TO '{path}' (FORMAT parquet)")


def by_polars(path: Path) -> None:
    """Write texts, of few kinds and of many."""
    texts = ["a", "b", "c", "d", "e"]
    frame = pl.DataFrame({"tenant_id": texts, "device_id": texts, "meter_id": texts, "total_usage": [0.0, 1, 2, 3, 4]})
    frame.with_columns(pl.col("meter_id").cast(pl.Categorical)).write_parquet(path)


@pytest.mark.parametrize("write", [by_duckdb, by_polars])
def test_other_writers_files_are_understood(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """No row of a good file is looked at by itself, whoever wrote it."""
    write(tmp_path / "usage.parquet")
    check = _check(json.loads(SHIPPED), columns=COLUMNS[:4])
    assert _demand_the_same(tmp_path / "usage.parquet", check) == 5


def test_an_integer_that_cannot_be_posted_is_looked_at(tmp_path: Path) -> None:
    """A schema may let a device be a number; a header cannot."""
    pq.write_table(pa.table({**_USAGE, "device_id": pa.array([1, 2, 3])}), tmp_path / "usage.parquet")
    assert _demand_the_same(tmp_path / "usage.parquet", _check({"properties": {"device_id": {"type": "integer"}}})) == 0


def test_an_empty_cell_among_good_integers_is_looked_at(tmp_path: Path) -> None:
    """A column that must be there is good nowhere that it is empty."""
    cells = {column: pa.array([array[0].as_py()] * 20) for column, array in _USAGE.items()}
    cells["region"] = pa.array([1] * 19 + [None])
    pq.write_table(pa.table(cells), tmp_path / "usage.parquet")
    document = {"required": ["region"], "properties": {"region": {"type": "integer"}}}
    assert _demand_the_same(tmp_path / "usage.parquet", _check(document)) == 19


@pytest.mark.parametrize(
    "constants", [("region", "eu"), ("total_usage", "3"), ("tenant_id", "é"), ("total_usage", "-")]
)
def test_constants_stand_for_cells(tmp_path: Path, constants: tuple[str, str]) -> None:
    """What --constant says is judged once, and counts in each row."""
    columns = [column for column in COLUMNS if column != constants[0]]
    pq.write_table(pa.table({column: _USAGE[column] for column in columns}), tmp_path / "usage.parquet")
    check = _check(_ANY_REGION, ColumnMap(constants=(constants,)), columns)
    assert _demand_the_same(tmp_path / "usage.parquet", check) == (3 if constants[1] in ("eu", "3") else 0)


_ROWS = 70_000
"""More than are sifted at once."""


def _write_large(path: Path) -> None:
    """Write a log in whose rows each kind of fault stands somewhere, one of them bytes that are not UTF-8."""
    tenants = [f"tenant-{number % 1000}" for number in range(_ROWS)]
    usage: list[int | None] = [2**62 + number for number in range(_ROWS)]
    notes: list[str | None] = [f"note {number}" for number in range(_ROWS)]
    tenants[5], tenants[1000], tenants[69_999] = "a b", "", ".."
    usage[5], usage[64 * 1024 - 1], usage[64 * 1024] = -1, None, -(2**63)
    notes[68_000] = "QQ"
    rest = {"device_id": ["d"] * _ROWS, "meter_id": ["m"] * _ROWS, "note": notes, "id": range(_ROWS)}
    table = pa.table({"tenant_id": tenants, "total_usage": usage, **rest})
    pq.write_table(table, path, compression="none", use_dictionary=False, row_group_size=50_000)
    path.write_bytes(path.read_bytes().replace(b"QQ", b"Q\xff"))


def _validated(
    path: Path, schema: dict[str, Any], *, event_id: str | None = None, max_failed: FailureBudget | None = None
) -> tuple[Any, ...]:
    """Check a log as the command does; gives all that it says."""
    schema_path = path.parent / "some.schema.json"
    schema_path.write_text(json.dumps(schema), encoding="utf-8")
    told: list[tuple[int, Outcome]] = []
    found: CheckFindings | str
    try:
        found = validate(
            path,
            schema_path=schema_path,
            delimiter=None,
            event_id=event_id,
            mapping=AS_IT_STANDS,
            max_failed=max_failed,
            tell=lambda number, outcome: told.append((number, outcome)),
        )
    except InputError as refusal:
        found = str(refusal)
    entries, error = ({}, found) if isinstance(found, str) else (found.entry_by_reason(), "")
    page = page_of_checks([(path, found)])
    return told, list(entries.items()), error, page[: page.rindex("<footer>")]


@pytest.mark.parametrize("event_id", [None, "note", "id"])
def test_a_large_log_with_faults_is_told_of_as_row_by_row(tmp_path: Path, event_id: str | None) -> None:
    """Failures, counts, sums beyond 64 bits and the page are the same to the letter."""
    path = tmp_path / "usage.parquet"
    _write_large(path)
    schema = json.loads(SHIPPED)
    found = _validated(path, schema, event_id=event_id)
    assert [number for number, _ in found[0]] == [6, 1001, 64 * 1024, 64 * 1024 + 1, 68_001, 70_000]
    assert found == _validated(path, {**schema, **_NEVER_BROKEN}, event_id=event_id)


def test_what_comes_before_damage_is_told(tmp_path: Path) -> None:
    """The failures of the rows before a damaged page are named, as they are row by row."""
    path = tmp_path / "usage.parquet"
    _write_large(path)
    data = bytearray(path.read_bytes())
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data[start : start + 64] = b"\xff" * 64
    path.write_bytes(data)
    schema = json.loads(SHIPPED)
    told, _, error, _ = found = _validated(path, schema)
    assert [number for number, _ in told] == [6, 1001]
    assert "cannot be read as Parquet" in error
    assert found == _validated(path, {**schema, **_NEVER_BROKEN})


_PROGRAM = """
import sys
from pathlib import Path
from uploader.model.mapping import AS_IT_STANDS
from uploader.checks.validate import validate
peaks = []
for path, rows in zip(sys.argv[1:], (300, 30_000), strict=True):
    report = validate(Path(path), schema_path=None, delimiter=None, event_id=None, mapping=AS_IT_STANDS,
                      max_failed=None, tell=print)
    assert report.accepted.rows == rows, report
    peaks += [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
assert "pandas" not in sys.modules
print(int(peaks[1]) - int(peaks[0]))
"""


def _write_notes(path: Path, *, rows: int, is_dictionary: bool) -> None:
    notes = pa.array([os.urandom(5000).hex() for _ in range(50)])
    notes = pa.DictionaryArray.from_arrays(pa.array([number % 50 for number in range(rows)], pa.int32()), notes)
    columns = {column: ["x"] * rows for column in COLUMNS[:3]}
    table = pa.table({**columns, "total_usage": [1] * rows, "note": notes if is_dictionary else notes.cast("string")})
    pq.write_table(table, path, compression="zstd", use_dictionary=is_dictionary, row_group_size=rows)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no peak of a process's own memory here")
@pytest.mark.parametrize("is_dictionary", [True, False])
def test_memory_does_not_grow_with_the_cells(tmp_path: Path, *, is_dictionary: bool) -> None:
    """300 MB of text in one row group, or what unpacks to that, is checked in much less, and without pandas."""
    paths = [tmp_path / "short.parquet", tmp_path / "usage.parquet"]
    for path, rows in zip(paths, (300, 30_000), strict=True):
        _write_notes(path, rows=rows, is_dictionary=is_dictionary)
    done = subprocess.run([sys.executable, "-c", _PROGRAM, *paths], check=True, capture_output=True, cwd=REPOSITORY)
    assert int(done.stdout) < 220_000  # KiB beyond the peak of 300 rows, whatever else is loaded
