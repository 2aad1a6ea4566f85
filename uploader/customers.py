"""Tenant -> customer id, each asked for once a command, however many files and rows name the tenant."""

from __future__ import annotations

from collections import deque

from uploader.api import Verdict
from uploader.model import Outcome


class Customers:
    """What is known of the tenants so far, and which are still to be asked for.

    A tenant is unasked, then waiting (for a slot, or for its answer), then settled: found or failed, for the whole
    command.

    first_tenant: the one that serves as a probe: the first that was asked for, answered or not; None before.
    """

    def __init__(self) -> None:
        self._found: dict[str, str] = {}
        self._failed: dict[str, Outcome] = {}
        self._waiting: set[str] = set()
        self._to_ask: deque[str] = deque()
        self.first_tenant: str | None = None
        self.look_ups = 0

    @property
    def has_some_to_ask(self) -> bool:
        """Whether a look-up could start now."""
        return bool(self._to_ask)

    def customer_id(self, tenant_id: str) -> str | Outcome | None:
        """Give the customer id, the failure that holds for all the tenant's rows, or None: not known yet.

        A tenant that was never asked for is put in the queue.
        """
        known = self._found.get(tenant_id)
        if known is not None:
            return known
        if tenant_id in self._failed:
            return self._failed[tenant_id]
        if tenant_id not in self._waiting:
            self._waiting.add(tenant_id)
            self._to_ask.append(tenant_id)
        return None

    def found_id(self, tenant_id: str) -> str:
        """Give the customer id of a tenant that was found; KeyError for any other."""
        return self._found[tenant_id]

    def next_to_ask(self) -> str:
        """Take a tenant from the queue, to be looked up now."""
        self.look_ups += 1
        tenant_id = self._to_ask.popleft()
        self.first_tenant = self.first_tenant or tenant_id
        return tenant_id

    def settle(self, tenant_id: str, verdict: Verdict) -> None:
        """Keep a look-up's last answer."""
        self._waiting.discard(tenant_id)
        if verdict.customer_id:
            self._found[tenant_id] = verdict.customer_id
        else:
            self._failed[tenant_id] = verdict.outcome
