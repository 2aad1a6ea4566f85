"""The books of a run balance, or the run ends as our own fault."""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from uploader.books import Account, Books, Entry
from uploader.model import Outcome, Reason, RowState
from uploader.schema import Units

ACME_5 = Units("acme", "api.calls", 5)
ACME_7 = Units("acme", "api.calls", 7)
GLOBEX_5 = Units("globex", "api.calls", 5)
STORAGE_5 = Units("acme", "storage", 5)


class Line(NamedTuple):
    """A row's units, as read or as written, and what became of it."""

    units: Units | None
    reason: Reason | None = None


def books_of(read: list[Units | None], written: list[Line]) -> Books:
    """Enter rows, in and out."""
    books = Books()
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
    ],
    ids=["row lost", "row made up", "units", "tenant", "meter", "units lost", "row twice for another"],
)
def test_rows_or_units_that_went_astray_are_a_fault(read: list[Units | None], written: list[Line], words: str) -> None:
    """Each way in which what is written can differ from what was read is found, and named."""
    books = books_of(read, written)
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
    )
    accounts = books.accounts(most=1)
    assert accounts.total == Account(Entry(5, 22), Entry(2, 10), Entry(3, 12), Entry(1, 7))
    assert accounts.by_tenant_and_meter == {
        ("acme", "api.calls"): Account(Entry(2, 12), Entry(1, 5), Entry(1, 7), Entry(1, 7))
    }
    assert accounts.others == Account(Entry(2, 10), Entry(1, 5), Entry(1, 5), Entry(0, 0))
    assert accounts.others_count == 2
