"""How far the posting of a file has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from uploader.model.model import Reason, RowState
from uploader.posting.timings import Timings


@dataclass(slots=True)
class Progress:
    """Counts of one file's posting so far. ``rows`` is all of its rows; look-ups, posts and retries are calls.

    stop:             why no further call starts for this file, whatever becomes of others; empty while it goes on.
    """

    rows: int
    settled: int = 0
    accepted: int = 0
    failed: int = 0
    in_doubt: int = 0
    look_ups: int = 0
    posts: int = 0
    retries: int = 0
    stop: str = ""
    timings: Timings = field(default_factory=Timings)

    def settle(self, state: RowState) -> None:
        """Count a row whose state is final for this command."""
        self.settled += 1
        reason = state.outcome.reason
        self.accepted += reason is None
        self.failed += reason is not None
        self.in_doubt += reason is Reason.IN_DOUBT
