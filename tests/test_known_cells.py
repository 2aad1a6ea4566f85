"""Cells that were checked before: the verdicts stay those of the whole row's check."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uploader.model.model import Row, UsageEvent
from uploader.schema.schema import RowCheck, RowSchema

COLUMNS = ("tenant_id", "device_id", "meter_id", "total_usage", "region", "note")
SHIPPED = (Path(__file__).parents[1] / "schemas" / "usage.schema.json").read_text(encoding="utf-8")
_NEVER_BROKEN = {"minProperties": 0}
"""A keyword that no row breaks, and that makes a schema be checked row by row."""

_TEXTS = st.sampled_from(
    ["t", "1", "1.0", "01", "-1", "+7", "1_0", "", " x", "é", "..", "true", "null", "9" * 19, "a" * 300]
)
_OTHERS = [None, 0, 1, -1, True, False, 1.0, 0.5, 2**63, Decimal("1.0"), Decimal("1.50"), Decimal("1.5"), [1]]
_CELLS = st.one_of(_TEXTS, st.sampled_from(_OTHERS))
_RULES = st.dictionaries(
    st.sampled_from(["type", "minimum", "maxLength", "minLength", "pattern", "enum", "const", "not"]),
    st.just(None),
    max_size=3,
)
_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(["string", "integer", "number", "boolean", ["string", "null"], ["integer", "null"]]),
    "minimum": st.sampled_from([0, 1, 5]),
    "maxLength": st.sampled_from([1, 3]),
    "minLength": st.sampled_from([0, 2]),
    "pattern": st.sampled_from(["^[a-z]+$", "^[0-9.]+$"]),
    "enum": st.sampled_from([["t", "1", 1], ["true", True, None]]),
    "const": st.sampled_from(["1", 1, None]),
    "not": st.sampled_from([{"const": "t"}, {"$ref": "#"}, {}]),
}
_PROPERTY = _RULES.flatmap(lambda rules: st.fixed_dictionaries({rule: _VALUES[rule] for rule in rules}))
_SCHEMA = st.fixed_dictionaries(
    {
        "properties": st.dictionaries(st.sampled_from(COLUMNS), st.one_of(_PROPERTY, st.booleans()), max_size=4),
        "required": st.lists(st.sampled_from(["tenant_id", "region"]), unique=True),
    },
    optional={"type": st.sampled_from(["object", "array"]), "additionalProperties": st.booleans()},
)


def _check(document: dict[str, Any]) -> RowCheck:
    return RowSchema(json.dumps(document), name="x").for_columns(COLUMNS, path=Path("x.csv"))


def _demand_the_same(document: dict[str, Any], rows: list[list[Any]]) -> None:
    remembers, does_not = _check(document), _check({**document, **_NEVER_BROKEN})
    for number, cells in enumerate([*rows, *reversed(rows)], 1):
        row = Row(number, cells, "")
        assert remembers.event(row) == does_not.event(row)


@settings(max_examples=200, deadline=None)
@given(document=_SCHEMA, rows=st.lists(st.lists(_CELLS, min_size=6, max_size=6), min_size=1, max_size=8))
def test_any_schema_gives_the_verdicts_of_the_whole_row(document: dict[str, Any], rows: list[list[Any]]) -> None:
    """Whatever schema and cells: what is remembered of cells changes no verdict, no event and no word."""
    _demand_the_same(document, rows)


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.lists(_CELLS, min_size=6, max_size=6), min_size=1, max_size=8))
def test_the_shipped_schema_gives_the_verdicts_of_the_whole_row(rows: list[list[Any]]) -> None:
    """Likewise with the schema that most use."""
    _demand_the_same(json.loads(SHIPPED), rows)


@pytest.mark.parametrize("cell", [True, 1.5, Decimal("1.5"), "1.5"], ids=["true", "float", "decimal", "text"])
def test_a_cell_that_only_equals_a_good_one_is_checked(cell: Any) -> None:
    """True equals 1 in Python, and is no usage."""
    check = _check(json.loads(SHIPPED))
    good = check.event(Row(1, ["t", "d", "m", 1, "", ""], ""))
    assert good == _check({}).event(Row(1, ["t", "d", "m", 1, "", ""], ""))
    assert check.event(Row(2, ["t", "d", "m", cell, "", ""], "")) != good


def test_more_cells_than_are_remembered() -> None:
    """A log of a million tenants is checked like any other."""
    check = _check(json.loads(SHIPPED))
    for number in range(1, 25_000):
        event = check.event(Row(number, [f"t{number}", "d", "m", str(number), "", ""], ""))
        assert (event.tenant_id, event.total_usage) == (f"t{number}", number)  # type: ignore[union-attr]


def test_a_required_column_needs_no_rule_of_its_own() -> None:
    """A schema may demand a column and say nothing else of it; a row that has it is good."""
    check = _check({"required": ["region"]})
    assert check.event(Row(1, ["t", "d", "m", "1", "eu", ""], "")) == _check({}).event(
        Row(1, ["t", "d", "m", "1"] * 2, "")
    )


@pytest.mark.parametrize("rules", [{"minimum": 5}, {"maximum": 99}, {"minimum": 5, "maximum": 99}])
def test_plain_digits_are_held_against_the_bounds(rules: dict[str, int]) -> None:
    """Usage in plain digits, which differs from row to row, is good within the schema's bounds and nowhere else."""
    check = _check({"properties": {"total_usage": {"type": "integer", **rules}}})
    for usage in (*range(110), 10**17, 10**18):
        event = check.event(Row(1, ["t", "d", "m", str(usage), "", ""], ""))
        assert isinstance(event, UsageEvent) == (rules.get("minimum", 0) <= usage <= rules.get("maximum", usage))
