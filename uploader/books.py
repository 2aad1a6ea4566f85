"""Rows and units of usage, in and out: double-entry books that must balance at the end of each run."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from uploader.errors import ImbalanceError
from uploader.model import Reason, RowState
from uploader.schema import Units


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
    by_tenant_and_meter: dict[tuple[str, str], Account]
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


@dataclass(slots=True)
class _Tally:
    """Rows and units of one tenant's meter so far, or of several."""

    rows_in: int = 0
    units_in: int = 0
    rows_out: int = 0
    units_out: int = 0
    rows_accepted: int = 0
    units_accepted: int = 0
    rows_doubted: int = 0
    units_doubted: int = 0

    def add(self, other: _Tally) -> None:
        self.rows_in += other.rows_in
        self.units_in += other.units_in
        self.rows_out += other.rows_out
        self.units_out += other.units_out
        self.rows_accepted += other.rows_accepted
        self.units_accepted += other.units_accepted
        self.rows_doubted += other.rows_doubted
        self.units_doubted += other.units_doubted

    def account(self) -> Account:
        return Account(
            came_in=Entry(self.rows_in, self.units_in),
            accepted=Entry(self.rows_accepted, self.units_accepted),
            failed=Entry(self.rows_out - self.rows_accepted, self.units_out - self.units_accepted),
            in_doubt=Entry(self.rows_doubted, self.units_doubted),
        )


def _sum(tallies: Iterable[_Tally]) -> _Tally:
    everything = _Tally()
    for tally in tallies:
        everything.add(tally)
    return everything


@dataclass(slots=True)
class Books:
    """What the first pass read, and what the results say of it, by tenant and meter."""

    rows_in: int = 0
    rows_out: int = 0
    _tallies: dict[tuple[str, str], _Tally] = field(default_factory=dict)
    _by_reason: ByReason = field(default_factory=ByReason)

    def take_in(self, units: Units | None) -> None:
        """Enter a row that was read."""
        self.rows_in += 1
        if units is not None:
            tally = self._tally(units)
            tally.rows_in += 1
            tally.units_in += units.total_usage

    def take_in_all(self, *, rows: int, stated: Iterable[tuple[tuple[str, str], int]]) -> None:
        """Enter rows that were read: how many, and of those that state their units tenant and meter, and the units."""
        self.rows_in += rows
        for key, units in stated:
            tally = self._tallies.get(key)
            if tally is None:
                tally = self._tallies[key] = _Tally()
            tally.rows_in += 1
            tally.units_in += units

    def give_out(self, units: Units | None, state: RowState) -> None:
        """Enter a row that was written to the results."""
        self.rows_out += 1
        self._by_reason.add(state.outcome.reason, rows=1, units=0 if units is None else units.total_usage)
        if units is not None:
            tally = self._tally(units)
            tally.rows_out += 1
            tally.units_out += units.total_usage
            if state.outcome.reason is None:
                tally.rows_accepted += 1
                tally.units_accepted += units.total_usage
            elif state.outcome.reason is Reason.IN_DOUBT:
                tally.rows_doubted += 1
                tally.units_doubted += units.total_usage

    def _tally(self, units: Units) -> _Tally:
        key = (units.tenant_id, units.meter_id)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = _Tally()
        return tally

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
        faults.extend(
            f"tenant {tenant!r}, meter {meter!r}: {tally.units_in - tally.units_out:+,} units between what was read "
            "and what was written"
            for (tenant, meter), tally in self._tallies.items()
            if tally.units_in != tally.units_out
        )
        if not faults:
            return None
        return ImbalanceError(
            "the totals do not balance: " + "; ".join(faults[:5]),
            remedy="keep the results and the ledger, bill nothing from them, and report this",
        )

    def accounts(self, *, most: int) -> Accounts:
        """Give the largest accounts, at most so many, and the sum of the others."""
        largest = heapq.nlargest(most, self._tallies.items(), key=lambda item: (item[1].units_in, item[1].rows_in))
        named = dict(largest)
        everything = _sum(self._tallies.values())
        others = _sum(tally for key, tally in self._tallies.items() if key not in named)
        everything.rows_in, everything.rows_out = self.rows_in, self.rows_out
        everything.rows_accepted = self._by_reason.rows[None]
        everything.rows_doubted = self._by_reason.rows[Reason.IN_DOUBT]
        return Accounts(
            total=everything.account(),
            by_tenant_and_meter={key: tally.account() for key, tally in largest},
            others=others.account(),
            others_count=len(self._tallies) - len(named),
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
