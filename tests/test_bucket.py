"""The cap on rows a second; the clock is handed in."""

from __future__ import annotations

import pytest

from uploader.pacing.bucket import TokenBucket


def started(bucket: TokenBucket, *, seconds: float, step_seconds: float) -> int:
    """Start all that may start, looking so often; the rows."""
    rows = 0
    for step in range(round(seconds / step_seconds) + 1):
        now_seconds = 50.0 + step * step_seconds
        allowed = bucket.allowed(now_seconds=now_seconds)
        bucket.take(allowed, now_seconds=now_seconds)
        rows += allowed
    return rows


@pytest.mark.parametrize("rate", [0.5, 1, 7, 100, 20_000])
@pytest.mark.parametrize("step_seconds", [0.001, 0.05])
def test_the_rate_is_kept_and_used(rate: float, step_seconds: float) -> None:
    """Over a minute all of the rate is let through, and never more than that and one burst."""
    rows = started(TokenBucket(rate_per_second=rate), seconds=60, step_seconds=step_seconds)
    assert 60 * rate - 1 <= rows <= 60 * rate + 1 + rate / 10


@pytest.mark.parametrize(("rate", "burst"), [(0.5, 1), (15, 2), (100, 11), (5000, 501)])
def test_a_burst_is_a_tenth_of_a_second_s_worth(rate: float, burst: int) -> None:
    """However long nothing was sent, no more than that starts at once."""
    bucket = TokenBucket(rate_per_second=rate)
    assert bucket.allowed(now_seconds=0) == burst
    assert bucket.allowed(now_seconds=3600) == burst


def test_it_tells_how_long_to_wait() -> None:
    """After a burst the next row may start when its share of a second is over, and not before."""
    bucket = TokenBucket(rate_per_second=5)
    assert bucket.wait_seconds(now_seconds=9) == 0
    bucket.take(1, now_seconds=9)
    assert bucket.wait_seconds(now_seconds=9) == pytest.approx(0.1)
    assert bucket.wait_seconds(now_seconds=9.06) == pytest.approx(0.04)
    assert bucket.allowed(now_seconds=9.06) == 0
    assert bucket.allowed(now_seconds=9.11) == 1
