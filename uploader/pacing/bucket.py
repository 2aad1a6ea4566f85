"""A cap on rows a second: a token bucket. It never looks at a clock: every method is handed the moment, in seconds."""

from __future__ import annotations

_LONGEST_BURST_SECONDS = 0.1
_ROUNDING = 1e-6


class TokenBucket:
    """Lets rows through at a rate, and at most a tenth of a second's worth of them and one at once.

    rate_per_second: rows a second; over any span of t seconds at most the burst and ``rate_per_second * t`` pass.
    """

    def __init__(self, *, rate_per_second: float) -> None:
        self._rate_per_second = rate_per_second
        self._most = 1.0 + rate_per_second * _LONGEST_BURST_SECONDS
        self._tokens = self._most
        self._at_seconds: float | None = None

    def allowed(self, *, now_seconds: float) -> int:
        """Tell how many rows may start now."""
        self._fill(now_seconds)
        return int(self._tokens + _ROUNDING)

    def take(self, rows: int, *, now_seconds: float) -> None:
        """Note that so many rows were started, no more than are allowed."""
        self._fill(now_seconds)
        self._tokens -= rows

    def wait_seconds(self, *, now_seconds: float) -> float:
        """Tell how long no row may start; 0 when one may."""
        self._fill(now_seconds)
        return max(0.0, (1.0 - self._tokens) / self._rate_per_second)

    def _fill(self, now_seconds: float) -> None:
        if self._at_seconds is not None:
            passed_seconds = now_seconds - self._at_seconds
            self._tokens = min(self._most, self._tokens + passed_seconds * self._rate_per_second)
        self._at_seconds = now_seconds
