"""The books of a run balance, or the run ends as our own fault."""

from __future__ import annotations

import random
import re
import tracemalloc
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import pytest

from uploader.model.model import Outcome, Reason, RowState, Units
from uploader.results.amounts import Amounts
from uploader.results.books import Account, Books, Entry

ACME_5 = Units("acme", "api.calls", 5)
ACME_7 = Units("acme", "api.calls", 7)
ACME_0 = Units("acme", "api.calls", 0)
GLOBEX_0 = Units("globex", "api.calls", 0)
GLOBEX_5 = Units("globex", "api.calls", 5)
STORAGE_5 = Units("acme", "storage", 5)


class Line(NamedTuple):
    """A row's units, as read or as written, and what became of it."""

    units: Units | None
    reason: Reason | None = None


def books_of(
    read: list[Units | None], written: list[Line], *, most_recent: int = 1_000, most_named: int = 1_000
) -> Books:
    """Enter rows, in and out; ``most_recent`` accounts are held in memory."""
    books = Books(most_named=most_named, open_amounts=Amounts(most_recent=most_recent))
    for units in read:
        books.take_in(units)
    for number, line in enumerate(written, 1):
        books.give_out(line.units, RowState(number, Outcome(line.reason)))
    return books


def test_books_that_balance_say_rows_and_units_by_reason() -> None:
    """Accepted comes first, then the reasons in the contract's order; units that cannot be read count for nothing."""
    books = books_of(
        [ACME_5, GLOBEX_5, None, ACME_7, ACME_7],
        [
            Line(ACME_5),
            Line(GLOBEX_5, Reason.IN_DOUBT),
            Line(None, Reason.MALFORMED),
            Line(ACME_7, Reason.NOT_SENT),
            Line(ACME_7),
        ],
    )
    assert books.imbalance(accepted=2, may_leave_unsent=True) is None
    assert list(books.entry_by_reason().items()) == [
        (None, Entry(2, 12)),
        (Reason.MALFORMED, Entry(1, 0)),
        (Reason.IN_DOUBT, Entry(1, 5)),
        (Reason.NOT_SENT, Entry(1, 7)),
    ]


@pytest.mark.parametrize(
    ("read", "written", "words"),
    [
        ([ACME_5, ACME_7], [Line(ACME_5)], "2 rows were read and 1 written"),
        ([ACME_5], [Line(ACME_5), Line(None)], "1 rows were read and 2 written"),
        ([ACME_5], [Line(ACME_7)], r"tenant 'acme', meter 'api\.calls': -2 units"),
        ([ACME_5], [Line(GLOBEX_5)], r"tenant 'globex', meter 'api\.calls': -5 units"),
        ([ACME_5], [Line(STORAGE_5)], r"tenant 'acme', meter 'storage': -5 units"),
        ([ACME_5], [Line(None)], r"tenant 'acme', meter 'api\.calls': \+5 units"),
        ([ACME_5, ACME_7], [Line(ACME_7), Line(ACME_7)], r"tenant 'acme', meter 'api\.calls': -2 units"),
        ([ACME_0, GLOBEX_5], [Line(GLOBEX_0), Line(GLOBEX_5)], r"'acme', meter 'api\.calls': \+0 units in \+1 rows"),
        ([Units("a", "m", 2**63), Units("a", "m", 2**63)], [Line(Units("a", "m", 2**64)), Line(None)], r"in \+1 rows"),
        ([Units("a", "m", 2**90)], [Line(Units("a", "m", 2**90 - 1))], r"meter 'm': \+1 units in \+0 rows"),
        ([Units("a", "m", -3)], [Line(Units("a", "m", 3))], r"meter 'm': -6 units in \+0 rows"),
    ],
    ids=[
        "row lost",
        "row made up",
        "units",
        "tenant",
        "meter",
        "units lost",
        "row twice for another",
        "row without use for another tenant",
        "units joined in a row",
        "large units",
        "units below zero",
    ],
)
@pytest.mark.parametrize("most_recent", [1_000, 1], ids=["in memory", "in a file"])
def test_rows_or_units_that_went_astray_are_a_fault(
    read: list[Units | None], written: list[Line], words: str, most_recent: int
) -> None:
    """Each way in which what is written can differ from what was read is found, and named."""
    books = books_of(read, written, most_recent=most_recent)
    accepted = len(written)
    assert re.search(words, str(books.imbalance(accepted=accepted, may_leave_unsent=False)))


def test_results_that_say_accepted_of_another_number_of_rows_than_the_ledger_are_a_fault() -> None:
    """The ledger's count is compared where the file holds all the run's rows."""
    books = books_of([ACME_5, ACME_7], [Line(ACME_5), Line(ACME_7)])
    imbalance = str(books.imbalance(accepted=1, may_leave_unsent=False))
    assert "1 rows were accepted and 2 are written as accepted" in imbalance
    assert books.imbalance(accepted=None, may_leave_unsent=False) is None


def test_a_row_without_a_turn_is_a_fault_unless_the_run_was_stopped() -> None:
    """not_sent is for runs that were stopped; in a finished one it is a row passed over."""
    books = books_of([ACME_5], [Line(ACME_5, Reason.NOT_SENT)])
    assert books.imbalance(accepted=0, may_leave_unsent=True) is None
    assert re.search(r"1 rows were passed over.*bill nothing", str(books.imbalance(accepted=0, may_leave_unsent=False)))


def test_accounts_name_the_largest_and_sum_up_the_others() -> None:
    """By units that came in; what is not named is not lost, and rows without units count in the total."""
    books = books_of(
        [ACME_5, ACME_7, GLOBEX_5, STORAGE_5, None],
        [
            Line(ACME_5),
            Line(ACME_7, Reason.IN_DOUBT),
            Line(GLOBEX_5, Reason.REJECTED),
            Line(STORAGE_5),
            Line(None, Reason.INVALID),
        ],
        most_named=1,
    )
    accounts = books.accounts()
    assert accounts.total == Account(Entry(5, 22), Entry(2, 10), Entry(3, 12), Entry(1, 7))
    assert accounts.by_tenant_and_meter == {
        ("acme", "api.calls"): Account(Entry(2, 12), Entry(1, 5), Entry(1, 7), Entry(1, 7))
    }
    assert accounts.others == Account(Entry(2, 10), Entry(1, 5), Entry(1, 5), Entry(0, 0))
    assert accounts.others_count == 2


@pytest.mark.parametrize("most_recent", [1_000, 30], ids=["in memory", "in a file"])
def test_accounts_are_the_sums_of_their_rows(most_recent: int) -> None:
    """Whatever became of which row, below zero and beyond 64 bits too, an account has its rows and units, no others."""
    chance = random.Random(7)  # noqa: S311 -- the same rows each time, no secret
    reasons = (None, None, Reason.IN_DOUBT, Reason.REJECTED, Reason.INVALID)
    sizes = (0, 1, 2**20, 2**63 - 1, 2**70, -4)
    lines = [
        Line(
            Units(f"tenant-{chance.randrange(40)}", chance.choice("abc"), chance.choice(sizes) + number),
            chance.choice(reasons),
        )
        for number in range(2_000)
    ]
    books = books_of([line.units for line in lines], lines, most_recent=most_recent, most_named=50)
    rows: Counter[tuple[str, tuple[str, str]]] = Counter()
    units: Counter[tuple[str, tuple[str, str]]] = Counter()
    for line in lines:
        assert line.units is not None
        entered = ["came_in", "accepted" if line.reason is None else "failed"]
        for where in [*entered, "in_doubt"] if line.reason is Reason.IN_DOUBT else entered:
            rows[where, (line.units.tenant_id, line.units.meter_id)] += 1
            units[where, (line.units.tenant_id, line.units.meter_id)] += line.units.total_usage
    keys = {key for _, key in rows}
    expected = {
        key: Account(*(Entry(rows[where, key], units[where, key]) for where in Account._fields)) for key in keys
    }
    accounts = books.accounts()
    assert books.imbalance(accepted=None, may_leave_unsent=False) is None
    assert list(accounts.by_tenant_and_meter) == sorted(keys, key=lambda key: expected[key].came_in.units)[:-51:-1]
    assert accounts.by_tenant_and_meter == {key: expected[key] for key in accounts.by_tenant_and_meter}
    assert accounts.total == _sum(expected.values())
    assert accounts.others == _sum(expected[key] for key in keys - accounts.by_tenant_and_meter.keys())
    assert accounts.others_count == len(keys) - 50


def _sum(accounts: Iterable[Account]) -> Account:
    columns = zip(*accounts, strict=True)
    return Account(*(Entry(sum(one.rows for one in column), sum(one.units for one in column)) for column in columns))


def test_a_tenant_costs_little_memory() -> None:
    """A million tenants, each with a row or more, must fit: an integer and a place for each, beside the tenant's id."""
    tenants = 10_000
    tracemalloc.start()
    books = Books()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(tenants):
            books.take_in(Units(f"tenant-{number:07}", "api.calls", 1_000 * number))
        for number in range(tenants):
            books.give_out(Units(f"tenant-{number:07}", "api.calls", 1_000 * number), RowState(1, Outcome(None)))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown / tenants < 170


@pytest.mark.parametrize("written", [[ACME_5, GLOBEX_5, None], [ACME_5, GLOBEX_0, None], [ACME_5, None]])
def test_accepted_rows_are_entered_at_once_as_one_by_one(written: list[Units | None]) -> None:
    """Rows that were all accepted come to the same entries, accounts and faults however they are entered."""
    read = [ACME_5, GLOBEX_5, None]
    at_once = books_of(read, [])
    stated = [((units.tenant_id, units.meter_id), units.total_usage) for units in written if units is not None]
    at_once.give_out_accepted(rows=len(written), stated=stated)
    one_by_one = books_of(read, [Line(units) for units in written])
    assert at_once.entry_by_reason() == one_by_one.entry_by_reason()
    assert at_once.accounts() == one_by_one.accounts()
    faults = [str(books.imbalance(accepted=3, may_leave_unsent=False)) for books in (at_once, one_by_one)]
    assert faults[0] == faults[1]
    assert (faults[0] == "None") == (written == read)
