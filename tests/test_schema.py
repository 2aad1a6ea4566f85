"""A row becomes a usage event, or every problem it has is told; header safety holds whatever the schema says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.command import EVENT_COLUMNS
from uploader.model.errors import InputError, SchemaError
from uploader.model.model import Cell, Outcome, Reason, Row, Units, UsageEvent
from uploader.readers.readers import open_usage_log
from uploader.schema.schema import RowCheck, RowSchema

ROOT = Path(__file__).parent.parent
LOG = Path("usage.csv")
GOOD: Mapping[str, Cell] = {"tenant_id": "acme", "device_id": "dev-1", "meter_id": "api.calls", "total_usage": "5"}
INTEGER = {"type": "integer"}


def schema_of(properties: Mapping[str, Any], **rest: Any) -> RowSchema:
    """Make a schema as a user would write one."""
    return RowSchema(json.dumps({"properties": properties, **rest}), name="ours.schema.json")


def judge(row: Mapping[str, Cell], *, schema: RowSchema | None = None) -> UsageEvent | Outcome:
    """Check one row."""
    check = (schema or RowSchema.load(None)).for_columns(tuple(row), path=LOG)
    return check.event(Row(1, tuple(row.values()), ""))


def problems(row: Mapping[str, Cell], *, schema: RowSchema | None = None) -> str:
    """Give what is wrong with a row; empty for a good one."""
    found = judge(row, schema=schema)
    if isinstance(found, UsageEvent):
        return ""
    assert found.reason is Reason.INVALID
    return found.detail


# --- total_usage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "usage"),
    [
        ("0", 0),
        ("7", 7),
        ("007", 7),
        ("+5", 5),
        ("-0", 0),
        ("12.0", 12),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775807.0", 2**63 - 1),
        (7, 7),
        (2**63 - 1, 2**63 - 1),
        (7.0, 7),
        (2.0**53, 2**53),
        (Decimal(7), 7),
        (Decimal("7.000"), 7),
        (Decimal("1E+3"), 1000),
        (Decimal(2**63 - 1), 2**63 - 1),
    ],
)
def test_an_integer_is_read_exactly(cell: Cell, usage: int) -> None:
    """Text in plain notation, and whatever a Parquet file holds that is an integer exactly, is that integer."""
    event = judge({**GOOD, "total_usage": cell})
    assert isinstance(event, UsageEvent)
    assert event.total_usage == usage
    assert type(event.total_usage) is int


@pytest.mark.parametrize(
    "cell",
    [
        "1_000",
        "1,000",
        "1e3",
        "1E3",
        "0x1f",
        "NaN",
        "inf",
        " 1",
        "1 ",
        "1\n",
        "\u00a01",
        "1.",
        "1.00",
        "1.5",
        ".0",
        "+",
        "--1",
        "٣",
        "²",
        "9" * 101,
        "true",
        "null",
        7.5,
        float("nan"),
        float("inf"),
        Decimal("7.5"),
        Decimal("NaN"),
        Decimal("Infinity"),
        True,
        [1],
    ],
)
def test_what_is_no_integer_is_refused(cell: Cell) -> None:
    """No other spelling is guessed at; the words quote the cell."""
    words = problems({**GOOD, "total_usage": cell})
    assert words.startswith("total_usage: ")
    assert words.endswith(" is not an integer")


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("-1", "total_usage: -1 is less than 0"),
        (-1, "total_usage: -1 is less than 0"),
        ("9223372036854775808", "total_usage: 9223372036854775808 is more than 9223372036854775807"),
        (2.0**63, "total_usage: 9223372036854775808 is more than 9223372036854775807"),
        (2**64 - 1, "total_usage: 18446744073709551615 is more than 9223372036854775807"),
        ("", "total_usage: is empty"),
        (None, "total_usage: is empty"),
        (b"5", "total_usage: b'5' is neither text nor a number"),
    ],
)
def test_an_integer_outside_the_limits_is_refused(cell: Cell, words: str) -> None:
    """0 to 2^63-1, and no rounding at its end."""
    assert problems({**GOOD, "total_usage": cell}) == words


@pytest.mark.parametrize(
    ("cell", "units"), [("5", 5), ("-5", -5), ("5.0", 5), (5.0, 5), ("x", None), ("", None), (None, None)]
)
def test_the_books_count_what_a_row_states_valid_or_not(cell: Cell, units: int | None) -> None:
    """Units are those of every cell that can be read as an integer, also of a row that fails."""
    row = {**GOOD, "total_usage": cell}
    found = RowSchema.load(None).for_columns(tuple(row), path=LOG).units(Row(1, tuple(row.values()), ""))
    assert found == (None if units is None else Units("acme", "api.calls", units))


# --- the other columns ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["00123", "NA", "null", "1e5", "a/b", "~!'\"", "x" * 256])
def test_an_id_is_the_text_that_stands_there(text: str) -> None:
    """Nothing that looks like a number or a missing value is taken for one."""
    event = judge({**GOOD, "tenant_id": text, "device_id": text, "meter_id": text})
    assert event == UsageEvent(text, text, text, 5)


@pytest.mark.parametrize("number", [7, 123456789012345678901234567890])
def test_an_integer_in_a_text_column_stands_for_itself(number: int) -> None:
    """A Parquet file may hold its ids as integers."""
    event = judge({**GOOD, "tenant_id": number, "device_id": number, "meter_id": number})
    assert event == UsageEvent(str(number), str(number), str(number), 5)


@pytest.mark.parametrize("column", ["tenant_id", "device_id"])
@pytest.mark.parametrize("text", ["a b", "a\r\nx-evil: 1", "a\n", "\t", "é", "\x7f", "\x00", "\u2028"], ids=ascii)
@pytest.mark.parametrize("schema", [None, schema_of({}), schema_of({"tenant_id": {}, "device_id": True})])
def test_what_cannot_travel_in_a_header_is_refused_whatever_the_schema(
    column: str, text: str, schema: RowSchema | None
) -> None:
    """Spaces, control characters and all outside ASCII, under our schema and under one that allows everything."""
    words = problems({**GOOD, column: text}, schema=schema)
    assert (
        words
        == f"{column}: {text!r} has characters that cannot travel in a header (spaces, control or non-ASCII characters)"
    )


@pytest.mark.parametrize("schema", [None, schema_of({})])
@pytest.mark.parametrize(
    ("column", "cell", "words"),
    [
        ("tenant_id", "", "tenant_id: is empty"),
        ("tenant_id", None, "tenant_id: is empty"),
        ("tenant_id", ".", "tenant_id: '.' cannot stand in a URL"),
        ("tenant_id", "..", "tenant_id: '..' cannot stand in a URL"),
        ("device_id", "", "device_id: is empty"),
        ("device_id", None, "device_id: is empty"),
        ("meter_id", "", "meter_id: is empty"),
        ("meter_id", None, "meter_id: is empty"),
        ("total_usage", "many", "total_usage: 'many' is not an integer"),
    ],
)
def test_what_the_wire_cannot_take_is_refused_whatever_the_schema(
    column: str, cell: Cell, words: str, schema: RowSchema | None
) -> None:
    """Empty ids, ids that a URL would lose, and no number."""
    assert problems({**GOOD, column: cell}, schema=schema) == words


@pytest.mark.parametrize("cell", [5.5, True, b"x", Decimal("5.5"), [1]])
@pytest.mark.parametrize("column", ["tenant_id", "device_id", "meter_id"])
def test_a_text_column_takes_no_other_type(column: str, cell: Cell) -> None:
    """A float or boolean id of a Parquet file is not spelled out by guess."""
    assert problems({**GOOD, column: cell}).startswith(f"{column}: ")


def test_all_problems_of_a_row_are_told_at_once_in_the_order_of_the_columns() -> None:
    """One line names every column that is wrong, in words that an operator understands."""
    row = {"total_usage": "1_000", "meter_id": "", "device_id": "a b", "region": "", "tenant_id": "x" * 300}
    shown = "'" + "x" * 75 + "...'"
    assert problems(row) == (
        "total_usage: '1_000' is not an integer; "
        "meter_id: is empty; "
        "device_id: 'a b' has characters that cannot travel in a header (spaces, control or non-ASCII characters); "
        f"tenant_id: {shown} is longer than 256 characters"
    )


def test_a_row_that_could_not_be_read_is_malformed_and_states_no_usage() -> None:
    """The reader's words are the detail."""
    check = RowSchema.load(None).for_columns(EVENT_COLUMNS, path=LOG)
    row = Row(4, (), "a,b", "line 5: 2 cells instead of 4")
    assert check.event(row) == Outcome(Reason.MALFORMED, "line 5: 2 cells instead of 4")
    assert check.units(row) is None


def test_columns_may_stand_in_any_order_and_others_are_not_looked_at() -> None:
    """What the schema does not name may hold anything."""
    row = {"note": "\x00é \r\n", **dict(reversed([*GOOD.items()])), "more": object()}
    assert judge(row) == UsageEvent("acme", "dev-1", "api.calls", 5)


def test_what_a_row_states_is_kept_as_it_is_read() -> None:
    """The cells of the event, for a later comparison with an edited copy: numbers as numbers, nothing for nothing."""
    check = RowSchema.load(None).for_columns(("tenant_id", "device_id", "meter_id", "total_usage", "x"), path=LOG)
    assert check.stated(Row(1, ("00123", None, 7, "5.0", "y"), "")) == {
        "tenant_id": "00123",
        "meter_id": "7",
        "total_usage": 5,
    }


# --- a user's own schema ----------------------------------------------------------------------------------------------

OURS = schema_of(
    {
        "meter_id": {"enum": ["api.calls", "storage.hours"]},
        "total_usage": {"type": "integer", "minimum": 1, "maximum": 1000, "multipleOf": 5},
        "region": {"type": "string", "pattern": "^(eu|us)-"},
        "day": {"type": "string", "format": "date"},
        "share": {"type": "number"},
        "seats": {"type": ["integer", "null"]},
        "is_trial": {"type": "boolean"},
    },
    required=["region"],
)
OUR_GOOD = {**GOOD, "region": "eu-1", "day": "2026-11-20", "share": "0.5", "seats": "", "is_trial": "true"}


@pytest.mark.parametrize(
    "changes",
    [{}, {"share": ""}, {"share": None}, {"share": "1e-3"}, {"is_trial": ""}, {"is_trial": False}, {"seats": 3}],
)
def test_a_users_schema_takes_what_it_describes(changes: Mapping[str, Cell]) -> None:
    """Numbers, booleans and empty cells are read by the types that the schema states."""
    assert problems({**OUR_GOOD, **changes}, schema=OURS) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"meter_id": "other"}, "meter_id: 'other' is not one of 'api.calls', 'storage.hours'"),
        ({"total_usage": "0"}, "total_usage: 0 is less than 1"),
        ({"total_usage": "1005"}, "total_usage: 1005 is more than 1000"),
        ({"total_usage": "7"}, "total_usage: 7 is not a multiple of 5"),
        ({"region": "asia"}, "region: 'asia' does not match ^(eu|us)-"),
        ({"region": None}, "region: is empty"),
        ({"day": "2026-13-01"}, "day: '2026-13-01' is not a date"),
        ({"share": "half"}, "share: 'half' is not a number"),
        ({"is_trial": "yes"}, "is_trial: 'yes' is not true or false"),
        (
            {"meter_id": "x", "total_usage": "-3", "is_trial": "yes"},
            (
                "meter_id: 'x' is not one of 'api.calls', 'storage.hours'; total_usage: -3 is less than 1; "
                "total_usage: -3 is not a multiple of 5; is_trial: 'yes' is not true or false"
            ),
        ),
    ],
)
def test_a_users_schema_refuses_in_plain_words(changes: Mapping[str, Cell], words: str) -> None:
    """Each rule is said as an operator would say it."""
    assert problems({**OUR_GOOD, **changes}, schema=OURS) == words


@pytest.mark.parametrize(
    "properties",
    [{}, {"total_usage": {"minimum": 1}}, {"total_usage": {"$ref": "#/$defs/usage"}}, {"total_usage": True}],
    ids=["not named", "no type", "reference", "anything"],
)
def test_a_schema_need_not_say_that_usage_is_an_integer(properties: Mapping[str, Any]) -> None:
    """total_usage is read as an integer unless the schema states another type, and counted in the books."""
    schema = schema_of(properties, **{"$defs": {"usage": {"type": "integer"}}})
    assert judge(GOOD, schema=schema) == UsageEvent("acme", "dev-1", "api.calls", 5)
    check = schema.for_columns(EVENT_COLUMNS, path=LOG)
    assert check.units(Row(1, tuple(GOOD.values()), "")) == Units("acme", "api.calls", 5)


def test_a_limit_that_depends_on_the_meter_is_held() -> None:
    """JSON Schema's if and then work on a row as on any object."""
    schema = schema_of(
        {"total_usage": INTEGER},
        **{
            "if": {"properties": {"meter_id": {"const": "api.calls"}}},
            "then": {"properties": {"total_usage": {"maximum": 4}}},
        },
    )
    assert problems(GOOD, schema=schema) == "total_usage: 5 is more than 4"
    assert problems({**GOOD, "meter_id": "storage"}, schema=schema) == ""


@pytest.mark.parametrize("schema", [RowSchema.load(None), OURS])
def test_a_missing_column_refuses_the_log(schema: RowSchema) -> None:
    """The message names the file, the missing columns and those that are there."""
    with pytest.raises(
        InputError, match=r"usage\.csv: no column named 'device_id', 'meter_id'.*\(it has 'tenant_id', 'total_usage'"
    ):
        schema.for_columns(("tenant_id", "total_usage", "region"), path=LOG)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_a_log_that_another_delimiter_parts_is_told_by_its_header(delimiter: str) -> None:
    """Read with commas its header is one column; the way on is the delimiter, and no mapping of columns."""
    header = delimiter.join(EVENT_COLUMNS)
    with pytest.raises(InputError, match="no column named") as refused:
        RowSchema.load(None).for_columns((header,), path=LOG)
    spelled = {"\t": "tab"}.get(delimiter, f"'{delimiter}'")
    assert refused.value.remedy == f"say what parts its columns: --delimiter {spelled}"


def test_a_column_that_a_users_schema_requires_must_be_there() -> None:
    """An extra required column is one that the log lacks, not one that each row lacks."""
    with pytest.raises(InputError, match="no column named 'region'"):
        OURS.for_columns(EVENT_COLUMNS, path=LOG)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON Schema for a row"),
        ("true", "not a JSON Schema for a row"),
        ('{"properties": []}', "not a JSON Schema for a row"),
        ('{"properties": {"a": {"type": "int"}}}', '"int"'),
        ('{"properties": {"a": {"pattern": "("}}}', "regex"),
        ('{"required": "tenant_id"}', '"tenant_id" is not of type "array"'),
        ('{"$ref": "http://127.0.0.1:1/other.json"}', "outside the schema file"),
        ('{"$ref": "file:///etc/hostname"}', "outside the schema file"),
        ('{"$ref": "#/$defs/nothing"}', "nothing"),
    ],
)
def test_a_file_that_is_no_schema_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """In one line, with the file's name and a remedy; nothing is fetched from anywhere."""
    path = tmp_path / "ours.schema.json"
    path.write_text(text)
    with pytest.raises(SchemaError) as refusal:
        RowSchema.load(path)
    message = str(refusal.value)
    assert words in message
    assert str(path) in message
    assert " -- " in message
    assert "\n" not in message


def test_a_schema_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Not there, a folder, and not UTF-8."""
    latin = tmp_path / "latin.json"
    latin.write_bytes(b'{"title": "\xe9"}')
    for path in (tmp_path / "nothing.json", tmp_path, latin):
        with pytest.raises(SchemaError, match="--schema"):
            RowSchema.load(path)


def test_the_schema_that_ships_is_the_one_file_of_the_checkout() -> None:
    """Without --schema it is schemas/usage.schema.json that holds."""
    ours = RowSchema.load(ROOT / "schemas" / "usage.schema.json")
    assert problems({**GOOD, "total_usage": "-1"}, schema=ours) == problems({**GOOD, "total_usage": "-1"})


# --- from a Parquet file ----------------------------------------------------------------------------------------------

USAGE_ARRAYS = {
    **{str(kind()): pa.array([5, 7], kind()) for kind in (pa.int8, pa.uint8, pa.int32, pa.int64, pa.uint64)},
    "float64": pa.array([5.0, 7.0], pa.float64()),
    "float32": pa.array([5.0, 7.0], pa.float32()),
    "decimal": pa.array([Decimal("5.00"), Decimal("7.00")], pa.decimal128(38, 2)),
    "text": pa.array(["5", "7.0"], pa.string()),
    "large text": pa.array(["5", "7"], pa.large_string()),
    "dictionary": pa.array([5, 7], pa.int64()).dictionary_encode(),
}


def check_of_parquet(path: Path, columns: Mapping[str, Any]) -> tuple[RowCheck, Sequence[Row]]:
    """Write a Parquet file, and give its rows with the check that fits them."""
    pq.write_table(pa.table(dict(columns)), path)
    with open_usage_log(path, delimiter=None) as log:
        rows = [row for batch in log.batches() for row in batch.rows]
        return RowSchema.load(None).for_columns(log.columns, path=path), rows


@pytest.mark.parametrize("name", USAGE_ARRAYS)
def test_usage_of_every_numeric_type_of_a_parquet_file_is_read(tmp_path: Path, name: str) -> None:
    """Whatever width or kind of number the writer chose, the rows' usage is the same."""
    ids = {"tenant_id": [123, 123], "device_id": ["00123", "d"], "meter_id": pa.array(["m", "m"]).dictionary_encode()}
    check, rows = check_of_parquet(tmp_path / "usage.parquet", {**ids, "total_usage": USAGE_ARRAYS[name]})
    assert [check.event(row) for row in rows] == [UsageEvent("123", "00123", "m", 5), UsageEvent("123", "d", "m", 7)]


def test_integers_beyond_what_a_float_holds_come_through_a_parquet_file_exactly(tmp_path: Path) -> None:
    """2^53 + 1 and 2^63 - 1, as an integer and as a decimal, are not rounded on the way."""
    exact = [2**53 + 1, 2**63 - 1]
    ids = {"tenant_id": ["a", "a"], "device_id": exact, "meter_id": ["m", "m"]}
    for usage in (pa.array(exact, pa.int64()), pa.array(map(Decimal, exact), pa.decimal128(20, 0))):
        check, rows = check_of_parquet(tmp_path / "usage.parquet", {**ids, "total_usage": usage})
        assert [check.event(row) for row in rows] == [UsageEvent("a", str(number), "m", number) for number in exact]


def test_nulls_of_a_parquet_file_are_empty_cells(tmp_path: Path) -> None:
    """Also where pandas has made floats of integers to hold them."""
    columns = {
        "tenant_id": ["a", None],
        "device_id": [None, "d"],
        "meter_id": ["m", "m"],
        "total_usage": pa.array([5.0, None]),
    }
    check, rows = check_of_parquet(tmp_path / "usage.parquet", columns)
    outcomes = [check.event(row) for row in rows]
    assert [outcome.detail for outcome in outcomes if isinstance(outcome, Outcome)] == [
        "device_id: is empty",
        "tenant_id: is empty; total_usage: is empty",
    ]
