"""Rows and units of usage, in and out: double-entry books that must balance at the end of each run."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from operator import itemgetter, sub
from typing import NamedTuple

from uploader.model.errors import ImbalanceError
from uploader.model.model import Reason, RowState, Units
from uploader.results.amounts import AccountKey, Amounts

_MOST_FAULTS = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a summary; ``units`` counts what rows state as ``total_usage``, where it can be read."""

    rows: int
    units: int


class Account(NamedTuple):
    """What came in of one tenant's meter, or of several, and what became of it; ``failed`` includes ``in_doubt``."""

    came_in: Entry
    accepted: Entry
    failed: Entry
    in_doubt: Entry


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """The accounts of a file; a row whose units cannot be read stands in ``total`` alone, with no units.

    by_tenant_and_meter: the largest by the units that came in.
    others:              the sum of all further ones; ``others_count`` says how many they are.
    """

    total: Account
    by_tenant_and_meter: dict[AccountKey, Account]
    others: Account
    others_count: int


@dataclass(slots=True)
class ByReason:
    """Rows and units, by why they failed; None stands for accepted."""

    rows: Counter[Reason | None] = field(default_factory=Counter)
    units: Counter[Reason | None] = field(default_factory=Counter)

    def add(self, reason: Reason | None, *, rows: int, units: int) -> None:
        """Enter rows, and what they state in all."""
        self.rows[reason] += rows
        self.units[reason] += units

    def entries(self) -> dict[Reason | None, Entry]:
        """Give those there are, accepted (None) first, then in the order of the contract."""
        return {reason: Entry(self.rows[reason], self.units[reason]) for reason in (None, *Reason) if self.rows[reason]}


_A_UNIT = 1 << 36
"""An amount is rows + ``_A_UNIT`` * units in one integer: Python's have no limit, and up to 2**24 units take 32 bytes.

A file has fewer than 2**35 rows, so that both can be told from an amount, and from the difference of two.
"""


def _entry(amount: int) -> Entry:
    """Tell rows and units of an amount, or of a difference, apart."""
    rows = (amount + _A_UNIT // 2) % _A_UNIT - _A_UNIT // 2
    return Entry(rows, (amount - rows) // _A_UNIT)


@dataclass(slots=True)
class _Failures:
    """How much was given out as failed, and as in doubt, which is a part of it: in all, and by tenant and meter."""

    in_all: int = 0
    in_doubt_in_all: int = 0
    by_key: Counter[AccountKey] = field(default_factory=Counter)
    in_doubt_by_key: Counter[AccountKey] = field(default_factory=Counter)

    def note(self, key: AccountKey, amount: int, *, is_in_doubt: bool, is_named: bool) -> None:
        self.in_all += amount
        if is_named:
            self.by_key[key] += amount
        if is_in_doubt:
            self.in_doubt_in_all += amount
            if is_named:
                self.in_doubt_by_key[key] += amount


def _account(came_in: int, went_out: int, failed: int, in_doubt: int) -> Account:
    return Account(_entry(came_in), _entry(went_out - failed), _entry(failed), _entry(in_doubt))


@dataclass(frozen=True, slots=True, kw_only=True)
class _CameIn:
    """What came in, once nothing more does: of how many tenants' meters, in all, and of the largest."""

    keys: int
    amount: int
    amount_by_largest: dict[AccountKey, int]


@dataclass(slots=True)
class Books:
    """What the first pass read, and what the results say of it, by tenant and meter.

    For most of a million tenants one number is kept: what came in and has not gone out yet. More is kept of the
    ``most_named`` largest accounts; which they are is settled when the first row is given out.

    Rows that are entered raise LedgerFault where the accounts are too many for memory, and the disk is full.
    """

    rows_in: int = 0
    rows_out: int = 0
    most_named: int = 1000
    open_amounts: Amounts = field(default_factory=Amounts)
    _by_reason: ByReason = field(default_factory=ByReason)
    _failures: _Failures = field(default_factory=_Failures)
    _came_in: _CameIn | None = None

    def take_in(self, units: Units | None) -> None:
        """Enter a row that was read."""
        stated = () if units is None else (((units.tenant_id, units.meter_id), units.total_usage),)
        self.take_in_all(rows=1, stated=stated)

    def take_in_all(self, *, rows: int, stated: Iterable[tuple[AccountKey, int]]) -> None:
        """Enter rows that were read; ``stated`` has tenant, meter and units of those whose usage can be read."""
        assert self._came_in is None, "all rows are taken in before one is given out"  # noqa: S101 -- an invariant
        self.rows_in += rows
        by_meter = self.open_amounts.recent_by_tenant_by_meter
        for (tenant_id, meter_id), units in stated:
            by_meter[meter_id][tenant_id] += units * _A_UNIT + 1
        self.open_amounts.note_added(rows)

    def give_out(self, units: Units | None, state: RowState) -> None:
        """Enter a row that was written to the results."""
        came_in = self._came_in or self._end_intake()
        self.rows_out += 1
        reason = state.outcome.reason
        if units is None:
            self._by_reason.add(reason, rows=1, units=0)
            return
        self._by_reason.add(reason, rows=1, units=units.total_usage)
        amount = units.total_usage * _A_UNIT + 1
        self.open_amounts.recent_by_tenant_by_meter[units.meter_id][units.tenant_id] -= amount
        self.open_amounts.note_added(1)
        if reason is not None:
            key = (units.tenant_id, units.meter_id)
            self._failures.note(
                key, amount, is_in_doubt=reason is Reason.IN_DOUBT, is_named=key in came_in.amount_by_largest
            )

    def give_out_accepted(self, *, rows: int, stated: Iterable[tuple[AccountKey, int]]) -> None:
        """Enter rows that were written as accepted: how many, and of those that state their units what these are."""
        if self._came_in is None:
            self._end_intake()
        self.rows_out += rows
        by_meter = self.open_amounts.recent_by_tenant_by_meter
        units_in_all = 0
        for (tenant_id, meter_id), units in stated:
            units_in_all += units
            by_meter[meter_id][tenant_id] -= units * _A_UNIT + 1
        self.open_amounts.note_added(rows)
        self._by_reason.add(None, rows=rows, units=units_in_all)

    def _end_intake(self) -> _CameIn:
        self._came_in = _CameIn(
            keys=len(self.open_amounts),
            amount=self.open_amounts.total(),
            amount_by_largest=dict(heapq.nlargest(self.most_named, self.open_amounts.items(), key=itemgetter(1))),
        )
        return self._came_in

    def imbalance(self, *, accepted: int | None, may_leave_unsent: bool) -> ImbalanceError | None:
        """Check that rows in = accepted + failed, units alike per tenant and meter, and the ledger counts the same.

        accepted:         rows that the ledger has as accepted, None when the file holds some of them only.
        may_leave_unsent: the run was stopped.

        None when all balances.
        """
        faults = []
        if self.rows_in != self.rows_out:
            faults.append(f"{self.rows_in:,} rows were read and {self.rows_out:,} written")
        if accepted is not None and self._by_reason.rows[None] != accepted:
            faults.append(f"{accepted:,} rows were accepted and {self._by_reason.rows[None]:,} are written as accepted")
        if not may_leave_unsent and self._by_reason.rows[Reason.NOT_SENT]:
            faults.append(f"{self._by_reason.rows[Reason.NOT_SENT]:,} rows were passed over")
        astray = ((key, _entry(amount)) for key, amount in self.open_amounts.items() if amount)
        faults.extend(
            f"tenant {tenant!r}, meter {meter!r}: {entry.units:+,} units in {entry.rows:+,} rows between what was read "
            "and what was written"
            for (tenant, meter), entry in islice(astray, _MOST_FAULTS)
        )
        if not faults:
            return None
        return ImbalanceError(
            "the totals do not balance: " + "; ".join(faults[:_MOST_FAULTS]),
            remedy="keep the results and the ledger, bill nothing from them, and report this",
        )

    def accounts(self) -> Accounts:
        """Give the largest accounts, at most ``most_named``, and the sum of the others."""
        came_in, failures = self._came_in or self._end_intake(), self._failures
        went_out = came_in.amount - self.open_amounts.total()
        others = (came_in.amount, went_out, failures.in_all, failures.in_doubt_in_all)
        named: dict[AccountKey, Account] = {}
        for key, amount in came_in.amount_by_largest.items():
            went_out = amount - self.open_amounts.amount(key)
            amounts = (amount, went_out, failures.by_key[key], failures.in_doubt_by_key[key])
            others = tuple(map(sub, others, amounts))
            named[key] = _account(*amounts)
        return Accounts(
            total=self._total(came_in.amount),
            by_tenant_and_meter=named,
            others=_account(*others),
            others_count=came_in.keys - len(named),
        )

    def _total(self, came_in: int) -> Account:
        """Sum up all rows, those that state no units too."""
        rows, units = self._by_reason.rows, self._by_reason.units
        return Account(
            came_in=Entry(self.rows_in, _entry(came_in).units),
            accepted=Entry(rows[None], units[None]),
            failed=Entry(self.rows_out - rows[None], sum(units.values()) - units[None]),
            in_doubt=Entry(rows[Reason.IN_DOUBT], units[Reason.IN_DOUBT]),
        )

    def entry_by_reason(self) -> dict[Reason | None, Entry]:
        """Give rows and units by reason, accepted (None) first, then in the order of the contract."""
        return self._by_reason.entries()

    def totals(self) -> dict[str, list[int]]:
        """Give rows and units by reason, ``accepted`` for the accepted ones, as the ledger keeps them."""
        return {
            "accepted" if reason is None else reason.value: [entry.rows, entry.units]
            for reason, entry in self.entry_by_reason().items()
        }
