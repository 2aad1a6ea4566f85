"""The nouns of a run: rows, usage events, and what became of them."""

from __future__ import annotations

import enum
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from uploader.model.records import row_record

Cell = Any
"""One cell as it stands in the usage log: ``str`` from CSV; else see ``arrow_cells`` and ``xlsx_log``."""


def cell_text(cell: Cell) -> str:
    """Give a cell as text; empty for none."""
    return "" if cell is None else str(cell)


@row_record(frozen=True, slots=True)
class Row:
    """One row of a usage log, unchanged.

    number: 1 for the first data row; blank lines are not counted.
    cells:  one per column of the log, in its order; empty when ``fault`` is set.
    text:   the record as it stood in a CSV file, without its line end; empty for a readable row of any other.
    fault:  why the row cannot be read; empty for a readable row.
    """

    number: int
    cells: Sequence[Cell]
    text: str
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some consecutive rows, and the form in which their file's format holds them.

    source: what the log's own format needs to write the rows out again unchanged (an Arrow record batch for
            Parquet); None where the rows' text is enough.
    """

    rows: Sequence[Row]
    source: Any = None


@row_record(frozen=True, slots=True)
class UsageEvent:
    """What is posted for one row.

    total_usage: in the meter's own unit.
    """

    tenant_id: str
    device_id: str
    meter_id: str
    total_usage: int


EVENT_COLUMNS = ("tenant_id", "device_id", "meter_id", "total_usage")


@row_record(frozen=True, slots=True)
class Units:
    """How much usage a row states, as far as it can be read; ``tenant_id`` and ``meter_id`` as text."""

    tenant_id: str
    meter_id: str
    total_usage: int


@dataclass(frozen=True, slots=True)
class Sifted:
    """Some consecutive rows of which those that are certainly good were only counted.

    rows:       the others, in their order.
    good_rows:  how many are certainly good.
    good_units: what those state as ``total_usage``, in all.
    """

    rows: Sequence[Row]
    good_rows: int = 0
    good_units: int = 0


class Status(str, enum.Enum):
    """What a row came to, for whoever bills from it."""

    ACCEPTED = "accepted"
    FAILED = "failed"


class Reason(str, enum.Enum):
    """Why a row failed (``upload_reason``); the values are a public contract."""

    INVALID = "invalid"
    MALFORMED = "malformed"
    CUSTOMER_NOT_FOUND = "customer_not_found"
    LOOKUP_FAILED = "lookup_failed"
    UNAVAILABLE = "unavailable"
    REJECTED = "rejected"
    IN_DOUBT = "in_doubt"
    NOT_SENT = "not_sent"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    CHANGED = "changed"


class Replay(str, enum.Enum):
    """What sending a failed row again would mean (``upload_replay``); the values are a public contract."""

    YES = "yes"
    FIX = "fix"
    CONFIRM = "confirm"


REPLAY_BY_REASON = {
    Reason.INVALID: Replay.FIX,
    Reason.MALFORMED: Replay.FIX,
    Reason.CUSTOMER_NOT_FOUND: Replay.FIX,
    Reason.LOOKUP_FAILED: Replay.YES,
    Reason.UNAVAILABLE: Replay.YES,
    Reason.REJECTED: Replay.FIX,
    Reason.IN_DOUBT: Replay.CONFIRM,
    Reason.NOT_SENT: Replay.YES,
    Reason.DUPLICATE: Replay.FIX,
    Reason.CONFLICT: Replay.FIX,
    Reason.CHANGED: Replay.FIX,
}


@row_record(frozen=True, slots=True)
class Outcome:
    """What became of one row so far.

    reason:      None when the backend accepted the row.
    detail:      for a person: what happened, in one line.
    http_status: of the last answer; None when there was none.
    response:    the start of the last answer's body.
    """

    reason: Reason | None
    detail: str = ""
    http_status: int | None = None
    response: str = ""

    @property
    def may_be_recorded(self) -> bool:
        """Whether the backend recorded the row, or may have: it is not posted again unless a person says so."""
        return self.reason is None or self.reason is Reason.IN_DOUBT

    def after_doubt(self, doubt: str) -> Outcome:
        """Keep a row in doubt that an earlier attempt left so, unless it is accepted now.

        doubt: the detail that the earlier attempt left; empty when the row was certainly not recorded.
        """
        if not doubt or self.may_be_recorded:
            return self
        return replace(self, reason=Reason.IN_DOUBT, detail=f"{doubt}; a later attempt: {self.detail}")


@row_record(frozen=True, slots=True)
class RowState:
    """What is known of one row of a run.

    attempts:        POSTs that were started.
    at_milliseconds: when the outcome was known, since 1970 (UTC); 0 when that is not kept.
    customer_id:     empty when no customer was found, or none asked for.
    """

    row: int
    outcome: Outcome
    attempts: int = 0
    at_milliseconds: int = 0
    customer_id: str = ""

    @property
    def is_from_range(self) -> bool:
        """Whether no more is kept of the row than that it was accepted."""
        return self.outcome.reason is None and self.at_milliseconds == 0


def now_milliseconds() -> int:
    """Give the moment, since 1970 (UTC)."""
    return time.time_ns() // 1_000_000
