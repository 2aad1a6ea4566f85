"""Amounts by account are the same whether they are in memory or in the temporary file."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from tests.full_disk import no_file_may_grow
from uploader.model.errors import LedgerFault
from uploader.results.amounts import Amounts

CHANGES = (0, 1, -1, 2**36, 2**63 - 1, -(2**70))


def added(amounts: Amounts, changes: list[tuple[str, str, int]]) -> Amounts:
    """Add changes, each of a tenant and a meter, a few at a time."""
    for start in range(0, len(changes), 3):
        for tenant_id, meter_id, change in changes[start : start + 3]:
            amounts.recent_by_tenant_by_meter[meter_id][tenant_id] += change
        amounts.note_added(len(changes[start : start + 3]))
    return amounts


def many(count: int) -> list[tuple[str, str, int]]:
    """Make changes of as many accounts, in no order."""
    return [(f"tenant-{number * 7_919 % count:06}", "api.calls", number) for number in range(count)]


@pytest.mark.parametrize("most_recent", [1, 2, 50, 10_000])
def test_amounts_are_sums_of_what_was_added(most_recent: int) -> None:
    """Of any size, under any name, and however many accounts are in memory at once."""
    chance = random.Random(most_recent)  # noqa: S311 -- the same changes each time, no secret
    tenants = ["", "a", "A", "é", "\0", "\ud800", *(f"t{number}" for number in range(60))]
    changes = [(chance.choice(tenants), chance.choice(["", "m", "é"]), chance.choice(CHANGES)) for _ in range(2_000)]
    amounts = added(Amounts(most_recent=most_recent), changes)
    expected: Counter[tuple[str, str]] = Counter()
    for tenant_id, meter_id, change in changes:
        expected[tenant_id, meter_id] += change
    assert amounts.total() == sum(expected.values())
    assert {key: amounts.amount(key) for key in expected} == expected
    assert len(amounts) == len(expected)
    assert sorted(amounts.items()) == sorted(expected.items())
    assert amounts.amount(("nobody", "m")) == amounts.amount(("a", "nothing")) == 0


def test_many_accounts_are_not_in_memory() -> None:
    """Beyond so many, an account costs next to nothing here, and goes on being added to."""
    accounts = 20_000
    tracemalloc.start()
    try:
        amounts = added(Amounts(most_recent=500), many(accounts))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(amounts) == accounts
    assert amounts.total() == sum(range(accounts))
    assert held < accounts * 20


def test_few_accounts_make_no_file() -> None:
    """However often they are added to; else a file is open, that has no name, until nobody holds the amounts."""
    before = _temporary_files()
    few = added(Amounts(most_recent=500), many(499) * 5)
    with_few = _temporary_files()
    amounts = added(Amounts(most_recent=500), many(60_000))
    with_many = _temporary_files()
    del amounts
    gc.collect()
    assert len(few) == 499
    assert (with_few - before, len(with_many - before), _temporary_files() - before) == (set(), 1, set())
    assert all(name.endswith("(deleted)") for name in with_many)


def _temporary_files() -> set[str]:
    """Give SQLite's temporary files that this process has open, by what Linux calls them."""
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("no /proc here")
    paths = [str(path.readlink()) for path in folder.iterdir() if path.is_symlink()]
    return {path for path in paths if "/etilqs_" in path}


def test_a_full_disk_is_a_fault_that_names_the_folder() -> None:
    """An account that cannot be kept ends the run, which can be continued."""
    with pytest.raises(LedgerFault, match="temporary file") as raised, no_file_may_grow():
        added(Amounts(most_recent=500), many(60_000))
    assert "SQLITE_TMPDIR" in raised.value.remedy
