"""How long calls took, and how many ended when: in constant memory, whatever the number of calls.

Durations are counted on a logarithmic scale, 16 steps to each doubling, so that a percentile read from it is off by
2.2 % at the most. Time is cut into intervals of equal width; when there are too many of them, two become one.
"""

from __future__ import annotations

import bisect
import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

_STEPS_PER_DOUBLING = 16
_STEP_ENDS_SECONDS = [*(2.0 ** (step / _STEPS_PER_DOUBLING) for step in range(-16 * 20, 16 * 20)), math.inf]
"""From a microsecond to 12 days."""
_MIDDLE_OF_A_STEP = 2.0 ** (-0.5 / _STEPS_PER_DOUBLING)
_MOST_INTERVALS = 120
_MOST_UNCOUNTED = 4096
_SHORTEST_REST_SECONDS = 1e-3
_FIRST_WIDTH_SECONDS = 1 / 16
_SHARES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Durations of whole calls, connecting included, in seconds; percentiles are within 2.2 %, ``longest`` is exact."""

    calls: int
    p50_seconds: float
    p90_seconds: float
    p95_seconds: float
    p99_seconds: float
    longest_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """The posts that ended within one interval.

    begin_seconds: since posting began.
    seconds:       its width; the last one ends when the last post did.
    latency:       None when no post ended in it.
    """

    begin_seconds: float
    seconds: float
    posts: int
    accepted: int
    latency: Latency | None


class _Durations:
    """Counts by step of the logarithmic scale: some 500 numbers at the most."""

    __slots__ = ("count_by_step", "longest_seconds")

    def __init__(self) -> None:
        self.count_by_step: Counter[int] = Counter()
        self.longest_seconds = 0.0

    def add(self, seconds_in_order: list[float]) -> None:
        """Enter durations, the shortest first: sorting many costs less than looking each up."""
        begin, step, number = 0, 0, len(seconds_in_order)
        while begin < number:
            step = bisect.bisect_right(_STEP_ENDS_SECONDS, seconds_in_order[begin], lo=step)
            end = bisect.bisect_left(seconds_in_order, _STEP_ENDS_SECONDS[step], lo=begin)
            self.count_by_step[step] += end - begin
            begin = end
        if number:
            self.longest_seconds = max(self.longest_seconds, seconds_in_order[-1])

    def take_in(self, other: _Durations) -> None:
        self.longest_seconds = max(self.longest_seconds, other.longest_seconds)
        self.count_by_step.update(other.count_by_step)

    def latency(self) -> Latency | None:
        calls = self.count_by_step.total()
        if not calls:
            return None
        p50, p90, p95, p99 = _percentiles(self.count_by_step, calls, longest_seconds=self.longest_seconds)
        return Latency(
            calls=calls,
            p50_seconds=p50,
            p90_seconds=p90,
            p95_seconds=p95,
            p99_seconds=p99,
            longest_seconds=self.longest_seconds,
        )


def _percentiles(count_by_step: Mapping[int, int], calls: int, *, longest_seconds: float) -> list[float]:
    """Give, for each share, the middle of the first step by which at least that share of the calls had ended."""
    found: list[float] = []
    passed = 0
    for step in sorted(count_by_step):
        passed += count_by_step[step]
        middle = _STEP_ENDS_SECONDS[step] * _MIDDLE_OF_A_STEP
        while len(found) < len(_SHARES) and passed >= _SHARES[len(found)] * calls:
            found.append(min(middle, longest_seconds))
    return found


class _Slice:
    """What ended within one interval."""

    __slots__ = ("accepted", "durations", "posts")

    def __init__(self) -> None:
        self.posts = 0
        self.accepted = 0
        self.durations = _Durations()

    def take_in(self, later: _Slice) -> None:
        self.posts += later.posts
        self.accepted += later.accepted
        self.durations.take_in(later.durations)


@dataclass(slots=True)
class Timings:
    """The calls of one file: each is noted once, when it has ended, answered or not.

    begun_seconds: when posting began, on the clock of ``tick``.
    post_retries:  posts that were further attempts at their row within this command; look-ups alike.
    """

    begun_seconds: float = field(default_factory=time.monotonic)
    post_retries: int = 0
    look_up_retries: int = 0
    probes: int = 0
    _accepted: int = 0
    _posts_seconds: list[float] = field(default_factory=list)
    _look_ups: _Durations = field(default_factory=_Durations)
    _slices: list[_Slice] = field(default_factory=lambda: [_Slice()])
    _width_seconds: float = _FIRST_WIDTH_SECONDS
    _now_seconds: float = 0.0

    def tick(self, *, now_seconds: float) -> None:
        """Say what time it is, on a clock that only goes forward: what is noted until the next time ended just now."""
        self._now_seconds = now_seconds
        in_time = now_seconds < self.begun_seconds + len(self._slices) * self._width_seconds
        if not in_time or len(self._posts_seconds) >= _MOST_UNCOUNTED:
            self._count()
        if not in_time:
            self._turn_to(now_seconds)

    def note_post(self, elapsed_seconds: float, *, is_accepted: bool, is_retry: bool) -> None:
        """Enter a post; all but free, since ``tick`` counts."""
        self._posts_seconds.append(elapsed_seconds)
        if is_accepted:
            self._accepted += 1
        if is_retry:
            self.post_retries += 1

    def note_look_up(self, elapsed_seconds: float, *, is_retry: bool, is_probe: bool) -> None:
        """Enter a look-up."""
        self.look_up_retries += is_retry
        self.probes += is_probe
        self._look_ups.add([elapsed_seconds])

    def look_ups(self) -> Latency | None:
        """Sum the look-ups up; None without any."""
        return self._look_ups.latency()

    def posts(self) -> Latency | None:
        """Sum the posts up; None without any."""
        self._count()
        durations = _Durations()
        for one in self._slices:
            durations.take_in(one.durations)
        return durations.latency()

    def intervals(self) -> tuple[Interval, ...]:
        """Give the intervals from the beginning to the last moment noted, at most 120; none when nothing was posted."""
        self._count()
        if not any(one.posts for one in self._slices):
            return ()
        last = len(self._slices) - 1
        width = self._width_seconds
        rest = max(self._now_seconds - self.begun_seconds - last * width, _SHORTEST_REST_SECONDS)
        return tuple(
            Interval(
                begin_seconds=at * width,
                seconds=width if at < last else rest,
                posts=one.posts,
                accepted=one.accepted,
                latency=one.durations.latency(),
            )
            for at, one in enumerate(self._slices)
        )

    def _count(self) -> None:
        """Count what was noted into the interval that it was noted in."""
        current = self._slices[-1]
        current.posts += len(self._posts_seconds)
        current.accepted += self._accepted
        self._posts_seconds.sort()
        current.durations.add(self._posts_seconds)
        self._posts_seconds.clear()
        self._accepted = 0

    def _turn_to(self, now_seconds: float) -> None:
        """Begin the interval that holds this moment, and empty ones up to it."""
        while True:
            at = int((now_seconds - self.begun_seconds) / self._width_seconds)
            if at < _MOST_INTERVALS:
                break
            self._halve()
        self._slices.extend(_Slice() for _ in range(at + 1 - len(self._slices)))

    def _halve(self) -> None:
        """Make one interval of every two."""
        for even, odd in zip(self._slices[::2], self._slices[1::2], strict=False):
            even.take_in(odd)
        self._slices = self._slices[::2]
        self._width_seconds *= 2
