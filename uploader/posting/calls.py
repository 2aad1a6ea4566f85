"""What is asked of the backend: a row to be posted, a tenant to be looked up."""

from __future__ import annotations

from typing import TypeAlias

from uploader.model.model import UsageEvent
from uploader.model.records import row_record


@row_record(frozen=True, slots=True)
class Due:
    """A row to be posted.

    attempts: POSTs in earlier commands and in this one.
    tries:    POSTs in this command alone.
    doubt:    what an earlier attempt left open; empty when it was certainly not recorded.
    note:     the detail that the row keeps should it be accepted.
    """

    row: int
    event: UsageEvent
    event_id: str
    attempts: int = 0
    tries: int = 0
    doubt: str = ""
    note: str = ""


@row_record(frozen=True, slots=True)
class LookUp:
    """A tenant to be looked up; a probe asks for a tenant again, to see whether the backend answers."""

    tenant_id: str
    tries: int = 0
    is_probe: bool = False


Call: TypeAlias = Due | LookUp
