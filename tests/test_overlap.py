"""How well the share of rows that were posted before is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal

import pytest

from uploader.ledger.overlap import RowSketch, overlap_with, rows_of_log_again
from uploader.model.model import Cell

COLUMNS = ("tenant_id", "device_id", "meter_id", "total_usage", "at")


def _sketch(*ranges: range) -> bytes:
    sketch = RowSketch(COLUMNS)
    for numbers in ranges:
        for number in numbers:
            sketch.add((f"t{number % 200}", "d", "m", number % 97, f"{number}Z"))
    return sketch.to_bytes()


@pytest.mark.parametrize("share", [0.001, 0.1, 0.49, 0.51, 0.99])
def test_a_true_share_is_estimated_closely(share: float) -> None:
    """Whatever the true share of 50,000 rows, the estimate is within three parts in a hundred."""
    known = round(50_000 * share)
    overlap = overlap_with(_sketch(range(known), range(10**6, 10**6 + 50_000 - known)), {"r": _sketch(range(50_000))})
    assert overlap.share == pytest.approx(share, abs=0.03)


def test_a_month_is_found_in_its_thirty_nights() -> None:
    """A month's export stands wholly in its nights, and a night wholly in the month's upload."""
    nights = {f"r{night}": _sketch(range(night * 2000, night * 2000 + 2000)) for night in range(30)}
    month = _sketch(range(60_000))
    assert overlap_with(month, nights).share > 0.9
    assert overlap_with(nights["r7"], {"month": month}).share > 0.9


def test_a_log_of_a_little_of_each_of_many_nights_is_found() -> None:
    """One tenant's year stands in all its nights, though in each of them there is hardly any of it."""
    nights = {f"r{night}": _sketch(range(night * 1000, night * 1000 + 1000)) for night in range(200)}
    of_tenant = [range(night * 1000, night * 1000 + 5) for night in range(200)]
    assert overlap_with(_sketch(*of_tenant), nights).share > 0.9


def test_a_year_of_nights_with_time_stamps_overlaps_with_none() -> None:
    """A night whose rows bear their time shares nothing with 365 others."""
    nights = {f"r{night}": _sketch(range(night * 300, night * 300 + 300)) for night in range(365)}
    assert overlap_with(_sketch(range(10**6, 10**6 + 300)), nights).share == 0


def test_a_row_that_two_runs_hold_counts_once() -> None:
    """A third of the rows in each of two earlier runs is a third, not two."""
    third = _sketch(range(10_000))
    overlap = overlap_with(_sketch(range(30_000)), {"r1": third, "r2": third})
    assert overlap.share < 0.5


@pytest.mark.parametrize("rows", [20, 50, 100, 1_000])
def test_a_short_log_that_stands_in_a_long_run_is_found_or_said_to_be_too_short(rows: int) -> None:
    """All of its rows that could be in the sample of the long run are; when they are few, it says so."""
    long_run = _sketch(range(200_000))
    for first in range(0, 10_000, 1_000):
        overlap = overlap_with(_sketch(range(first, first + rows)), {"r": long_run})
        assert overlap.share == 1 or overlap.too_large == ["r"]
        assert overlap_with(_sketch(range(10**6 + first, 10**6 + first + rows)), {"r": long_run}).share == 0
    assert overlap_with(_sketch(range(10**6, 10**6 + rows)), {"r": _sketch(range(2_000))}).too_large == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("", None),
        ("7", 7),
        ("7", 7.0),
        ("7.0", 7),
        ("7.00", Decimal("7.0")),
        ("true", True),
        ("True", True),
        ("1.5", 1.5),
    ],
)
@pytest.mark.parametrize("columns", [("device_id", "note"), ("note", "device_id"), ("True", "7.0")])
def test_a_copy_in_another_format_is_the_same(columns: Sequence[str], one: Cell, other: Cell) -> None:
    """An empty cell that has become null, an integer that a gap has made a float, and True are what they were."""
    sketches = RowSketch(columns), RowSketch(columns)
    for sketch, cell in zip(sketches, (one, other), strict=True):
        sketch.add_all([["d1", cell], [cell, "text"]])
    assert overlap_with(sketches[0].to_bytes(), {"r": sketches[1].to_bytes()}).share == 1


@pytest.mark.parametrize("spelled", ["{}.0", "+{}", "00{}", int, float, Decimal])
def test_a_usage_that_another_tool_spelled_otherwise_is_the_same(spelled: str | Callable[[str], Cell]) -> None:
    """What is read as the same number is the same usage, as when pandas writes a column with a gap as 7.0."""
    again = spelled.format if isinstance(spelled, str) else spelled
    rows: list[list[Cell]] = [["acme", f"d{number}", str(number)] for number in range(2_000)]
    known, copy = (
        RowSketch(["tenant_id", "device_id", "total_usage"]),
        RowSketch(["total_usage", "tenant_id", "device_id"]),
    )
    known.add_all(rows)
    copy.add_all([[again(str(usage)), tenant, device] for tenant, device, usage in rows])
    assert overlap_with(copy.to_bytes(), {"r": known.to_bytes()}).share == 1


@pytest.mark.parametrize("usage", ["", None, "x", "7.5", math.nan])
def test_a_usage_that_is_no_integer_is_compared_as_it_stands(usage: Cell) -> None:
    """A row that cannot be posted is still the same row in a copy."""
    one, other = RowSketch(["device_id", "total_usage"]), RowSketch(["device_id", "total_usage"])
    for sketch in (one, other):
        sketch.add_all([["d1", usage], ["d2", "7"]])
    assert overlap_with(one.to_bytes(), {"r": other.to_bytes()}).share == 1


def test_an_empty_log_overlaps_with_nothing() -> None:
    """A log without rows has no share of anything."""
    assert overlap_with(_sketch(), {"r": _sketch(range(10))}).share == 0


def test_a_sketch_stays_small_however_many_rows_there_are() -> None:
    """A ledger keeps one for each run, for years."""
    assert len(_sketch(range(100_000))) < 66_000


def test_a_log_of_which_no_row_was_posted_is_none_again() -> None:
    """However long it is; and one of which few were, too few to be in a sample, is."""
    log = _sketch(range(50_000))
    assert rows_of_log_again(log, run_id="r", log=log, posted=[_sketch()], most_share=0.5) == 0
    assert rows_of_log_again(log, run_id="r", log=log, posted=[_sketch(), _sketch(range(3))], most_share=0.5) > 40_000
