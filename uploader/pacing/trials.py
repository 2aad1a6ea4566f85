"""How large a step is tried, and how long it is looked at: enough for its effect to show through the noise."""

from __future__ import annotations

from uploader.pacing.measured import MeasuredLevel, Window

_STEP_SHARE = 0.25  # of the limit
_LEAST_STEP = 4
_COARSE_STEP = 16  # below 64 in flight, where the noise is larger,
_COARSE_STEP_SHARE = 0.5  # but never more than by half
_LEAST_SEEK_ANSWERS = 24  # for a mean
_LEAST_SEEK_SECONDS = 0.05  # a dozen commits
_LEAST_STEADY_ANSWERS = 20  # for a mean, where time is the measure
_LEAST_STEADY_SECONDS = 0.2  # some dozens of commits
_ENOUGH_STEADY_ANSWERS = 100  # for a tenth of noise
_ENOUGH_STEADY_SECONDS = 1.0  # for slow backends


def step_of(level: MeasuredLevel) -> float:
    """Give the step from a level; larger where this process is the slow one, since it presses nobody."""
    if level.is_ours:
        return level.limit / 2
    coarse = min(_COARSE_STEP, level.limit * _COARSE_STEP_SHARE)
    return max(_LEAST_STEP, coarse, level.limit * _STEP_SHARE)


def is_enough_to_seek(window: Window, *, limit: float, passed_seconds: float, looks: int) -> bool:
    """Tell whether a doubling can be judged: one round trip, or two for a second look."""
    least_answers = looks * max(_LEAST_SEEK_ANSWERS, limit)
    return window.answers >= least_answers and passed_seconds >= _LEAST_SEEK_SECONDS


def is_enough(window: Window, *, limit: float, passed_seconds: float) -> bool:
    """Tell whether a small step, or the limit as it stands, can be judged: two round trips or more."""
    if window.answers < max(_LEAST_STEADY_ANSWERS, 2 * limit) or passed_seconds < _LEAST_STEADY_SECONDS:
        return False
    return window.answers >= _ENOUGH_STEADY_ANSWERS or passed_seconds >= _ENOUGH_STEADY_SECONDS
