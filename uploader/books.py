"""Rows and units of usage, in and out: double-entry books that must balance at the end of each run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from uploader.errors import ImbalanceError
from uploader.model import Reason, RowState
from uploader.schema import Units


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a summary; ``units`` counts what rows state as ``total_usage``, where it can be read."""

    rows: int
    units: int


@dataclass(slots=True)
class Books:
    """What the first pass read, and what the results say of it.

    Units are kept by tenant and meter as what came in less what went out, so that nothing but zeros may be left.
    """

    rows_in: int = 0
    rows_out: int = 0
    _units_left: Counter[tuple[str, str]] = field(default_factory=Counter)
    _rows_by_reason: Counter[Reason | None] = field(default_factory=Counter)
    _units_by_reason: Counter[Reason | None] = field(default_factory=Counter)

    def take_in(self, units: Units | None) -> None:
        """Enter a row that was read."""
        self.rows_in += 1
        if units is not None:
            self._units_left[units.tenant_id, units.meter_id] += units.total_usage

    def give_out(self, units: Units | None, state: RowState) -> None:
        """Enter a row that was written to the results."""
        self.rows_out += 1
        self._rows_by_reason[state.outcome.reason] += 1
        if units is not None:
            self._units_left[units.tenant_id, units.meter_id] -= units.total_usage
            self._units_by_reason[state.outcome.reason] += units.total_usage

    def balance(self, *, accepted: int | None, may_leave_unsent: bool) -> None:
        """Check that rows in = accepted + failed, units alike per tenant and meter, and the ledger counts the same.

        accepted:         rows that the ledger has as accepted, None when the file holds some of them only.
        may_leave_unsent: the run was stopped.

        Raises:
            ImbalanceError: they do not balance.
        """
        faults = []
        if self.rows_in != self.rows_out:
            faults.append(f"{self.rows_in:,} rows were read and {self.rows_out:,} written")
        if accepted is not None and self._rows_by_reason[None] != accepted:
            faults.append(f"{accepted:,} rows were accepted and {self._rows_by_reason[None]:,} are written as accepted")
        if not may_leave_unsent and self._rows_by_reason[Reason.NOT_SENT]:
            faults.append(f"{self._rows_by_reason[Reason.NOT_SENT]:,} rows were passed over")
        faults.extend(
            f"tenant {tenant!r}, meter {meter!r}: {units:+,} units between what was read and what was written"
            for (tenant, meter), units in self._units_left.items()
            if units
        )
        if faults:
            raise ImbalanceError(
                "the totals do not balance: " + "; ".join(faults[:5]),
                remedy="keep the results and the ledger, bill nothing from them, and report this",
            )

    def entry_by_reason(self) -> dict[Reason | None, Entry]:
        """Give rows and units by reason, accepted (None) first, then in the order of the contract."""
        return {
            reason: Entry(self._rows_by_reason[reason], self._units_by_reason[reason])
            for reason in (None, *Reason)
            if self._rows_by_reason[reason]
        }

    def totals(self) -> dict[str, list[int]]:
        """Give rows and units by reason, ``accepted`` for the accepted ones, as the ledger keeps them."""
        return {
            "accepted" if reason is None else reason.value: [entry.rows, entry.units]
            for reason, entry in self.entry_by_reason().items()
        }
