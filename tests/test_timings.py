"""Percentiles and rates that are kept in constant memory are near those of the full list."""

from __future__ import annotations

import random
import statistics

import pytest

from uploader.posting.timings import Timings


def timings_of(durations: list[float], *, a_second: float) -> Timings:
    """Note durations as posts that end at a steady rate, every second one accepted, in rounds of ten."""
    timings = Timings(begun_seconds=1000.0)
    for at, seconds in enumerate(durations):
        if at % 10 == 0:
            timings.tick(now_seconds=1000.0 + at / a_second)
        timings.note_post(seconds, is_accepted=at % 2 == 0, is_retry=at % 5 == 0)
    return timings


@pytest.mark.parametrize("scale_seconds", [2e-5, 0.01, 9.0], ids=["20 us", "10 ms", "9 s"])
def test_percentiles_are_within_their_bound(scale_seconds: float) -> None:
    """Each is within 2.2 % of the exact one, and the longest is exact, for durations of a wide spread."""
    chance = random.Random(1)  # noqa: S311 -- not a secret
    durations = [scale_seconds * chance.lognormvariate(0, 0.7) for _ in range(20_000)]
    latency = timings_of(durations, a_second=1000).posts()
    assert latency is not None
    exact = statistics.quantiles(durations, n=100)
    assert latency.calls == 20_000
    assert latency.longest_seconds == max(durations)
    found = (latency.p50_seconds, latency.p90_seconds, latency.p95_seconds, latency.p99_seconds)
    assert found == pytest.approx([exact[49], exact[89], exact[94], exact[98]], rel=0.025)


@pytest.mark.parametrize("a_second", [100_000.0, 100.0, 0.5], ids=["short", "minutes", "half a day"])
def test_intervals_are_bounded_and_lose_nothing(a_second: float) -> None:
    """However long the run, there are at most 120, of one width but for the last, and their posts are all posts."""
    intervals = timings_of([0.01] * 20_000, a_second=a_second).intervals()
    assert len(intervals) <= 120
    assert sum(interval.posts for interval in intervals) == 20_000
    assert sum(interval.accepted for interval in intervals) == 10_000
    assert len({interval.seconds for interval in intervals[:-1]}) <= 1
    assert [interval.begin_seconds for interval in intervals] == [
        at * intervals[0].seconds for at in range(len(intervals))
    ]
    last = intervals[-1]
    assert last.begin_seconds + last.seconds == pytest.approx(19_990 / a_second, abs=0.002)
    for interval in intervals[:-1]:
        assert interval.posts / interval.seconds == pytest.approx(a_second, rel=0.5, abs=200 * 16)


def test_a_pause_is_seen() -> None:
    """What is noted after a pause stands behind it, and the intervals in between are empty."""
    timings = Timings(begun_seconds=0.0)
    timings.tick(now_seconds=0.01)
    timings.note_post(0.01, is_accepted=True, is_retry=False)
    timings.tick(now_seconds=5.0)
    timings.note_post(2.0, is_accepted=False, is_retry=True)
    intervals = timings.intervals()
    assert [at for at, interval in enumerate(intervals) if interval.posts] == [0, 80]
    assert intervals[0].latency is not None
    assert intervals[0].latency.longest_seconds == 0.01
    assert intervals[1].latency is None
    assert timings.post_retries == 1


def test_nothing_noted_is_nothing_known() -> None:
    """Without a post there is no latency and no interval; look-ups and probes are counted apart."""
    timings = Timings(begun_seconds=0.0)
    assert timings.posts() is None
    assert timings.look_ups() is None
    timings.tick(now_seconds=60.0)
    assert timings.intervals() == ()
    timings.note_look_up(0.25, is_retry=False, is_probe=False)
    timings.note_look_up(0.0, is_retry=True, is_probe=True)
    found = timings.look_ups()
    assert found is not None
    assert (found.calls, found.longest_seconds) == (2, 0.25)
    assert (timings.look_up_retries, timings.probes) == (1, 1)
    assert timings.posts() is None
