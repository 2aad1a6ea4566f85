"""What is open in each account, however many they are: a hundred thousand in memory, all others in a temporary file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from uploader.ledger.database import TemporaryDatabase

AccountKey = tuple[str, str]
"""Tenant and meter."""

_MOST_RECENT = 100_000
"""Some 14 MB. A million would be 135 MB, and each costs some 7 us when it goes to the file."""

_TABLE = "create table kept (meter, tenant, amount, primary key (meter, tenant)) without rowid"
_ADD = "insert into kept values (?, ?, ?) on conflict do update set amount = plus(amount, excluded.amount)"
_FIND = "select amount from kept where meter = ? and tenant = ?"


def _no_amounts() -> defaultdict[str, defaultdict[str, int]]:
    return defaultdict(partial(defaultdict, int))


def _plus(one: str, other: str) -> str:
    """Add as text, since SQLite's own integers end at 64 bits."""
    return str(int(one) + int(other))


@dataclass(slots=True)
class Amounts:
    """An amount, an integer of any size, for each tenant and meter; 0 where nothing was added.

    most_recent:               accounts in memory; up to twice as many before they move to the file.
    recent_by_tenant_by_meter: what was added since; add to it in place, then call ``note_added``.
    """

    most_recent: int = _MOST_RECENT
    recent_by_tenant_by_meter: defaultdict[str, defaultdict[str, int]] = field(default_factory=_no_amounts)
    _added: int = field(default=0, compare=False)
    _kept: TemporaryDatabase | None = None
    _kept_in_all: int = 0

    def note_added(self, count: int) -> None:
        """Learn how often something was added since the last time; accounts move to the file when they are many.

        Raises:
            LedgerFault: the temporary file cannot be written.
        """
        self._added += count
        if self._added >= self.most_recent:  # no more accounts than additions
            self._added = self._recent_accounts()
            if self._added >= self.most_recent:
                self._move_to_file()

    def __len__(self) -> int:
        """Count the accounts that were ever added to."""
        if self._kept is None:
            return self._recent_accounts()
        self._move_to_file()
        count: int = next(self._kept.rows("select count(*) from kept"))[0]
        return count

    def total(self) -> int:
        """Give the sum of all amounts."""
        return self._kept_in_all + sum(sum(by_tenant.values()) for by_tenant in self.recent_by_tenant_by_meter.values())

    def amount(self, key: AccountKey) -> int:
        """Give one account's amount."""
        tenant_id, meter_id = key
        by_tenant = self.recent_by_tenant_by_meter.get(meter_id)
        recent = by_tenant.get(tenant_id, 0) if by_tenant else 0
        if self._kept is None:
            return recent
        return recent + sum(int(amount) for (amount,) in self._kept.rows(_FIND, (_bytes(meter_id), _bytes(tenant_id))))

    def items(self) -> Iterator[tuple[AccountKey, int]]:
        """Go through all accounts; none may be added to meanwhile."""
        if self._kept is not None:
            self._move_to_file()
            for meter, tenant, amount in self._kept.rows("select meter, tenant, amount from kept"):
                yield (_text(tenant), _text(meter)), int(amount)
        for meter_id, by_tenant in self.recent_by_tenant_by_meter.items():
            for tenant_id, amount in by_tenant.items():
                yield (tenant_id, meter_id), amount

    def _recent_accounts(self) -> int:
        return sum(map(len, self.recent_by_tenant_by_meter.values()))

    def _move_to_file(self) -> None:
        if self._kept is None:
            self._kept = TemporaryDatabase(_TABLE, function=("plus", _plus))
        self._kept_in_all = self.total()
        self._kept.change_all(_ADD, self._in_order())
        self.recent_by_tenant_by_meter.clear()
        self._added = 0

    def _in_order(self) -> Iterator[tuple[bytes, bytes, str]]:
        """Give what is in memory in the order of the file, which is then written through once."""
        for meter_id in sorted(self.recent_by_tenant_by_meter):
            by_tenant = self.recent_by_tenant_by_meter[meter_id]
            meter = _bytes(meter_id)
            for tenant_id in sorted(by_tenant):
                yield meter, _bytes(tenant_id), str(by_tenant[tenant_id])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(stored: bytes) -> str:
    return stored.decode("utf-8", "surrogatepass")
