"""The books of a run balance, or the run ends as our own fault."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from uploader.books import Books, Entry
from uploader.errors import ImbalanceError
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
    books.balance(accepted=2, may_leave_unsent=True)
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
    with pytest.raises(ImbalanceError, match=words):
        books.balance(accepted=accepted, may_leave_unsent=False)


def test_results_that_say_accepted_of_another_number_of_rows_than_the_ledger_are_a_fault() -> None:
    """The ledger's count is compared where the file holds all the run's rows."""
    books = books_of([ACME_5, ACME_7], [Line(ACME_5), Line(ACME_7)])
    with pytest.raises(ImbalanceError, match="1 rows were accepted and 2 are written as accepted"):
        books.balance(accepted=1, may_leave_unsent=False)
    books.balance(accepted=None, may_leave_unsent=False)


def test_a_row_without_a_turn_is_a_fault_unless_the_run_was_stopped() -> None:
    """not_sent is for runs that were stopped; in a finished one it is a row passed over."""
    books = books_of([ACME_5], [Line(ACME_5, Reason.NOT_SENT)])
    books.balance(accepted=0, may_leave_unsent=True)
    with pytest.raises(ImbalanceError, match=r"1 rows were passed over.*bill nothing"):
        books.balance(accepted=0, may_leave_unsent=False)
