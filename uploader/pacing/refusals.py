"""What refusals and lost answers tell of the backend: how many calls were too many, and when to ask for more again."""

from __future__ import annotations

import math
from collections import deque

from uploader.pacing.ceiling import Ceiling

_MOST_TOO_MANY = 1 / 8  # of the limit: the climb never goes further past what the backend holds
_SPARED_SECONDS = 10.0  # a row in doubt costs a person longer than that, and a limit a little too low costs little
_RECALLED_SECONDS = 300.0  # what an earlier command paid for with questions is not asked again in most nights
_LIMITS_REMEMBERED = 1000  # for longer than a call lasts


class Refusals:
    """Remembers the limits of late, so that a refusal is held against the limit under which its call began."""

    def __init__(self, *, limit: float) -> None:
        self._ceiling = Ceiling()
        self._limits: deque[tuple[float, float]] = deque([(-math.inf, limit)], maxlen=_LIMITS_REMEMBERED)
        self._burst_began_seconds = -math.inf
        self._refused_in_burst = 0
        self._spared_until_seconds = -math.inf

    @property
    def ceiling(self) -> float:
        """The limit at which calls were refused, here or in an earlier command; infinity when none were."""
        return self._ceiling.at

    def recall(self, ceiling: float, *, now_seconds: float) -> None:
        """Begin with what an earlier command found."""
        self._ceiling.recall(ceiling, until_seconds=now_seconds + _RECALLED_SECONDS)

    def note_limit(self, limit: float, *, in_flight: int, now_seconds: float) -> None:
        """Learn the limit under which calls start now; a lower one holds only once a call may start under it."""
        last = self._limits[-1][1]
        if limit > last or in_flight < limit < last:
            self._limits.append((now_seconds, limit))

    def note_refused(self, *, began_seconds: float, now_seconds: float) -> float:
        """Learn of a call that was refused or lost, and give the limit under which it began."""
        limit = next((limit for at, limit in reversed(self._limits) if at <= began_seconds), self._limits[0][1])
        if began_seconds > self._burst_began_seconds:
            self._burst_began_seconds, self._refused_in_burst = now_seconds, 0
        self._refused_in_burst += 1
        # The refusals of one burst say by how much the limit was too high; capped, for when all are refused the cause
        # is another.
        self._ceiling.lay(limit - min(self._refused_in_burst, _MOST_TOO_MANY * limit), now_seconds=now_seconds)
        return limit

    def note_doubt(self, *, now_seconds: float) -> None:
        """Learn that a row was left in doubt: none is to be risked again for a while."""
        self._spared_until_seconds = now_seconds + _SPARED_SECONDS

    def note_hanging(self, served: float, *, now_seconds: float) -> None:
        """Learn that no more calls than these were answered in their time."""
        self._ceiling.lay(served, now_seconds=now_seconds)

    def pass_at(self, limit: float) -> bool:
        """Learn that a limit turned out well; tell whether it was above what was known."""
        return self._ceiling.pass_at(limit)

    def highest(self, *, now_seconds: float) -> float:
        """Give the highest limit to try now."""
        return self._ceiling.highest(now_seconds=now_seconds, may_go_past=now_seconds >= self._spared_until_seconds)
