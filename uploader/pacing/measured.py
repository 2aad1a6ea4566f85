"""What a limit of calls in flight was seen to bring: throughput, latency, and whose slowness it was."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

_OURS_WAITS_LESS_THAN = 0.2
_HANGING_WHEN_SERVED_LESS_THAN = 0.75
_TOO_FEW_TO_TELL = 16
_SMOOTHING = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLevel:
    """What a limit brought.

    per_second: calls, each look-up counted as the part of a post that its time makes.
    is_ours:    this process hardly ever waited: it is the slow one, and its latencies are its own.
    is_hanging: far fewer calls were answered in their time than were in flight: some have no answer yet.
    """

    limit: float
    per_second: float
    latency_seconds: float
    is_ours: bool
    is_hanging: bool

    @property
    def served(self) -> float:
        """Give the calls in flight that were answered in their time, by Little's law."""
        return self.per_second * self.latency_seconds

    def elasticity_to(self, other: MeasuredLevel) -> float:
        """Tell how throughput followed the limit: 1 in proportion, 0 not at all."""
        return math.log(other.per_second / self.per_second) / math.log(other.limit / self.limit)

    def blended(self, newer: MeasuredLevel) -> MeasuredLevel:
        """Move a part of the way to a newer measurement of the same limit."""
        return replace(
            newer,
            per_second=self.per_second + _SMOOTHING * (newer.per_second - self.per_second),
            latency_seconds=self.latency_seconds + _SMOOTHING * (newer.latency_seconds - self.latency_seconds),
        )


@dataclass(slots=True)
class Window:
    """A measurement under way at one limit, from the end of one turn to that of another.

    waited_seconds: how long this process had slept for answers, in all, when it was opened.
    full_turns:     those after which as many calls were in flight as the limit allows.
    answers:        of posts; only their latency is a measure, look-ups may be quicker or slower.
    """

    opened_seconds: float
    waited_seconds: float
    turns: int = 0
    full_turns: int = 0
    answers: int = 0
    elapsed_seconds: float = 0.0
    look_ups_elapsed_seconds: float = 0.0

    def level(self, limit: float, *, now_seconds: float, waited_seconds: float) -> MeasuredLevel | None:
        """Sum up; None when too few rows were ready, so that nothing is known of the limit."""
        if 2 * self.full_turns < self.turns:
            return None
        passed_seconds = now_seconds - self.opened_seconds
        latency_seconds = max(1e-6, self.elapsed_seconds / self.answers)
        served = (self.elapsed_seconds + self.look_ups_elapsed_seconds) / passed_seconds
        is_ours = waited_seconds - self.waited_seconds < _OURS_WAITS_LESS_THAN * passed_seconds
        is_short_of_answers = limit > _TOO_FEW_TO_TELL and served < _HANGING_WHEN_SERVED_LESS_THAN * limit
        return MeasuredLevel(
            limit=limit,
            per_second=max(1e-6, served) / latency_seconds,
            latency_seconds=latency_seconds,
            is_ours=is_ours,
            is_hanging=is_short_of_answers and not is_ours,
        )
