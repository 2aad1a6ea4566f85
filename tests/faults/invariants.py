"""What must be true after every scenario, whatever the fault was: the program's words held against the server's log."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tests.billing_contract import BilledRow
from tests.command import Ended, cells

Rows = Sequence[Mapping[str, Any]]

_POSTED_NOTHING = 2
_OUR_FAULT = 4


def check_command(done: Ended, *, posts: int) -> None:
    """Hold the exit code against what was done: never a fault of ours, and 2 means that nothing was posted.

    posts: complete posts that the server received of this command.
    """
    assert "Traceback" not in done.said, done.said
    assert done.exit_code != _OUR_FAULT, done.said
    assert done.exit_code != _POSTED_NOTHING or posts == 0, f"exit 2 after {posts} posts: {done.said}"


def check_files(source: Rows, results: Rows, failed: Rows | None, *, exit_code: int) -> None:
    """Check rows in = rows out, the failed file against the results, and what the exit code says of them."""
    own = [column for column in source[0] if not column.startswith("upload_")]
    assert [_stated(row, own) for row in results] == [_stated(row, own) for row in source]
    failing = [row for row in results if row["upload_status"] == "failed"]
    assert {row["upload_status"] for row in results} <= {"accepted", "failed"}
    assert list(failed or []) == failing
    assert exit_code != 0 or not failing, "exit 0 with failed rows"
    assert exit_code != 1 or failing, "exit 1 without a failed row"
    assert exit_code != 1 or "not_sent" not in cells(failing, "upload_reason"), "exit 1, and rows had no turn"


def _stated(row: Mapping[str, Any], own: Sequence[str]) -> list[str]:
    """Give a row's own cells; those of a malformed row stand in ``upload_raw``."""
    stated = [row[column] for column in own]
    if row.get("upload_raw") and not any(stated):
        raw = next(csv.reader([row["upload_raw"]]))
        return raw if len(raw) == len(own) else stated
    return stated


def check_bills(results: Rows, billed: Counter[str]) -> None:
    """Hold each row's outcome against the bill.

    What is accepted is billed; what is billed is accepted or in doubt; what is safe to send again is not billed.

    billed: how often the server billed each device id, of which every row has its own.
    """
    for row in results:
        bills = billed[row["device_id"]]
        if row["upload_status"] == "accepted":
            assert bills, f"accepted, and not billed: {row}"
        elif row["upload_reason"] == "duplicate":
            continue  # says of the file that it has the row twice, and nothing of the row
        elif row["upload_replay"] in ("yes", "fix"):
            assert not bills, f"billed, and said to be safe to send again: {row}"
        else:
            assert row["upload_replay"] == "confirm", row


def check_nothing_twice(billed: Counter[str], event_ids: Counter[str]) -> None:
    """Check that no row, and no event id, was billed more than once."""
    assert not billed_twice(billed)
    assert not billed_twice(event_ids)


def check_settled(billed: Counter[BilledRow], expected: Sequence[BilledRow]) -> None:
    """Check that all rows were billed exactly once, as they stand."""
    assert billed == Counter(expected), f"{billed - Counter(expected)} too many, {Counter(expected) - billed} lost"


def billed_twice(billed: Counter[str]) -> list[str]:
    """List what was billed more than once."""
    return [name for name, count in billed.items() if count > 1]
