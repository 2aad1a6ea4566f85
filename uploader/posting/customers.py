"""Tenant -> customer id, each asked for once a command, however many files and rows name the tenant."""

from __future__ import annotations

from collections import deque

from uploader.model.api import Verdict
from uploader.model.model import Outcome

_MOST_RECENT = 20_000
"""Tenants whose customer is found at once; some 4 MB. More are forgotten all at once, and found on the pages again."""
_PAGES = 1 << 16
"""With some 16 tenants on each for a million; half a MB however few there are."""


class Customers:
    """What is known of the tenants so far, and which are still to be asked for.

    A tenant is unasked, then waiting (for a slot, or for its answer), then settled: found or failed, for the whole
    command.

    first_tenant: the one that serves as a probe: the first that was asked for, answered or not; None before.
    """

    def __init__(self, *, most_recent: int = _MOST_RECENT, pages: int = _PAGES) -> None:
        self._most_recent = most_recent
        self._recent_id_by_tenant: dict[str, str] = {}
        self._found = _Pages(pages)
        self._failure_by_tenant: dict[str, Outcome] = {}
        self._last_failure: Outcome | None = None
        self._waiting: set[str] = set()
        self._to_ask: deque[str] = deque()
        self.first_tenant: str | None = None

    @property
    def has_some_to_ask(self) -> bool:
        """Whether a look-up could start now."""
        return bool(self._to_ask)

    def customer_id(self, tenant_id: str) -> str | Outcome | None:
        """Give the customer id, the failure that holds for all the tenant's rows, or None: not known yet.

        A tenant that was never asked for is put in the queue.
        """
        known = self._recent_id_by_tenant.get(tenant_id)
        if known is not None:
            return known
        if tenant_id in self._failure_by_tenant:
            return self._failure_by_tenant[tenant_id]
        if tenant_id in self._waiting:
            return None
        found = self._found_before(tenant_id)
        if found is None:
            self._waiting.add(tenant_id)
            self._to_ask.append(tenant_id)
        return found

    def found_id(self, tenant_id: str) -> str:
        """Give the customer id of a tenant that was found; KeyError for any other."""
        try:
            return self._recent_id_by_tenant[tenant_id]
        except KeyError:
            found = self._found_before(tenant_id)
        if found is None:
            raise KeyError(tenant_id)
        return found

    def forget_questions(self) -> None:
        """Forget which tenants were to be asked for, and which answers are awaited: no row is left that does."""
        self._to_ask.clear()
        self._waiting.clear()

    def next_to_ask(self) -> str:
        """Take a tenant from the queue, to be looked up now."""
        tenant_id = self._to_ask.popleft()
        self.first_tenant = self.first_tenant or tenant_id
        return tenant_id

    def settle(self, tenant_id: str, verdict: Verdict) -> None:
        """Keep a look-up's last answer."""
        self._waiting.discard(tenant_id)
        if verdict.customer_id:
            self._found.keep(tenant_id, verdict.customer_id)
            self._remember(tenant_id, verdict.customer_id)
        else:
            if verdict.outcome != self._last_failure:
                self._last_failure = verdict.outcome
            self._failure_by_tenant[tenant_id] = self._last_failure  # most fail alike: one outcome serves them all

    def _found_before(self, tenant_id: str) -> str | None:
        found = self._found.customer_id(tenant_id)
        if found is not None:
            self._remember(tenant_id, found)
        return found

    def _remember(self, tenant_id: str, customer_id: str) -> None:
        if len(self._recent_id_by_tenant) >= self._most_recent:
            self._recent_id_by_tenant.clear()
        self._recent_id_by_tenant[tenant_id] = customer_id


class _Pages:
    r"""The customer of every tenant that was found, as ``\nTENANT\tCUSTOMER\n`` on one of many pages.

    A third of a dictionary's memory, which takes some 50 bytes for each string alone. Ids with one of the two marks in
    them stand in a dictionary all the same, so that none can look like another tenant's entry.
    """

    def __init__(self, count: int) -> None:
        self._pages = ["\n"] * count
        self._odd: dict[str, str] = {}

    def keep(self, tenant_id: str, customer_id: str) -> None:
        """Keep a customer id, which is not empty, of a tenant without one so far."""
        if _is_odd(tenant_id) or _is_odd(customer_id):
            self._odd[tenant_id] = customer_id
        else:
            self._pages[hash(tenant_id) % len(self._pages)] += f"{tenant_id}\t{customer_id}\n"

    def customer_id(self, tenant_id: str) -> str | None:
        """Give the customer id of a tenant, if it was found."""
        _, mark, rest = self._pages[hash(tenant_id) % len(self._pages)].partition(f"\n{tenant_id}\t")
        if not mark or _is_odd(tenant_id):
            return self._odd.get(tenant_id)
        return rest[: rest.index("\n")]


def _is_odd(text: str) -> bool:
    return "\n" in text or "\t" in text
