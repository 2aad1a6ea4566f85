"""Where the backend refused: how long to stay below it, and how to go past it again."""

from __future__ import annotations

import math

_BELOW = 0.95
_SAME = 0.8
_FIRST_SECONDS = 2.0
_LONGEST_SECONDS = 320.0
_LONGER = 1.5
_FIRST_STEP_PAST = 0.05


class Ceiling:
    """A limit at which calls were refused or lost; there is none at first.

    Met again at about the same place it holds half as long again, so that a backend whose limit stays is asked ever
    more rarely, and few rows are left in doubt by asking.
    """

    def __init__(self) -> None:
        self._at = math.inf
        self._until_seconds = -math.inf
        self._seconds = _FIRST_SECONDS
        self._step_past = _FIRST_STEP_PAST

    @property
    def at(self) -> float:
        """The limit; infinity when there is none."""
        return self._at

    def recall(self, at: float, *, until_seconds: float) -> None:
        """Begin with the limit that an earlier command met."""
        self._at, self._until_seconds = at, until_seconds

    def lay(self, limit: float, *, now_seconds: float) -> None:
        """Note that calls were refused or lost at a limit; of one call at a time, at the least."""
        limit = max(1.0, limit)  # else the step past it would be none, for ever
        self._step_past = _FIRST_STEP_PAST
        if now_seconds < self._until_seconds:
            self._at = min(self._at, limit)
            return
        is_same = _SAME * self._at <= limit <= self._at / _SAME
        self._seconds = min(_LONGEST_SECONDS, _LONGER * self._seconds) if is_same else _FIRST_SECONDS
        self._at = limit
        self._until_seconds = now_seconds + self._seconds

    def pass_at(self, limit: float) -> bool:
        """Move up to a limit that turned out well, if it is above; tell whether it was. The next step may be larger."""
        if limit <= self._at:
            return False
        self._at = limit
        self._step_past *= 2
        return True

    def highest(self, *, now_seconds: float, may_go_past: bool) -> float:
        """Give the highest limit to try now: below the ceiling, or once its time is over a little past it."""
        if not may_go_past or now_seconds < self._until_seconds:
            return max(1.0, self._at * _BELOW)
        return max(self._at + 1, self._at * (1 + self._step_past))
