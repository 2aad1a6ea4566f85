"""How many calls in flight this backend takes, found out by trying. docs/pacing.md tells the story, with pictures.

It never looks at a clock: every method is handed the moment, in seconds of a clock that only goes forward.

The manner is that of TCP, of Vector's adaptive request concurrency and of Netflix's concurrency-limits: double while
that pays, then take small steps, and back off at once when the backend says so. Latency alone cannot be the judge,
since it also rises when this process is the slow one; so a step is judged by the throughput that it brought, and
latency calls for a trial. "Ours" and "ourselves" are said of calls that wait for this process, and not for the backend.

A limit that nobody tells can only be found by going past it once; what is left to choose is by how much, and how
often. By how much is the business of ``climb.py``: gently beyond what the backend is known to have held. How often: not
for ten seconds after a row was left in doubt. A backend that becomes quicker is another thing, and leaves nothing in
doubt: when calls are answered in much less time, or throughput rises though fewer are in flight, doubling begins again
at once, for what was found out before it no longer holds.
"""

from __future__ import annotations

import enum
import math
from dataclasses import replace

from uploader.pacing.climb import UNQUESTIONED, Climb
from uploader.pacing.measured import MeasuredLevel, Window
from uploader.pacing.refusals import Refusals
from uploader.pacing.trials import is_enough, is_enough_to_seek, step_of

FIRST_LIMIT = 4
"""The first calls are the canary; latency alone never leads below it."""

_A_STEP_DOWN_EVERY = 4  # trials; a queue that costs nothing is seen in no other way
_PAYS_A_DOUBLING = 0.4  # elasticity: a third more throughput
_PAYS_A_STEP = 0.15  # elasticity: less is a queue that grows
_PAYS_OURSELVES = 0.11  # elasticity: it burdens nobody, so that little is enough
_STARVES = 0.7  # elasticity: nearly in proportion, the limit alone holds the run back
_QUICKENED = 1.2  # throughput at fewer calls in flight; noise is a twentieth
_HANGS = 0.75  # of the share that was answered in its time at the level before
_MOST_LATENCY_GROWTH = 6.0  # others wait in that queue too
_LATENCY_ALARM = 1.5  # well beyond noise
_HEADROOM = 1.1  # so that the backend is never idle between two calls
_ENOUGH_FOR_OURS = 64  # rows share a commit's cost
_MOST_FOR_OURS = 256  # a commit's cost is spread enough
_FOUND_ANSWERED = 0.5  # of the calls in flight, in each turn, when nothing but this process is slow
_AFTER_SHED = 0.7  # nothing was lost
_AFTER_LOSS = 0.5  # as TCP
_FIRST_HOLD_SECONDS = 1.0  # between trials; a few windows
_LONGEST_HOLD_SECONDS = 2.0  # between trials that fail: what changes is noticed soon


class _Phase(enum.Enum):
    SEEKING = "doubling, while that pays"
    SETTLED = "staying, until the next trial or an alarm"
    TRYING_MORE = "a step up: does it pay?"
    TRYING_LESS = "a step down: does it cost?"
    RECOVERING = "climbing back to just below where the backend refused"


class AdaptiveLimit:
    """The number of calls that may be in flight, look-ups and posts together.

    most:    it never goes above this.
    ceiling: where an earlier command met refusals; it stays below that for a while. None for nowhere.
    """

    def __init__(self, *, most: int, ceiling: float | None = None) -> None:
        self._most = float(most)
        self._limit = float(min(FIRST_LIMIT, most))
        self._target = float(min(UNQUESTIONED, most))
        self._phase = _Phase.SEEKING
        self._anchor: MeasuredLevel | None = None
        self._lowest_latency_seconds = math.inf
        self._is_alarmed = False
        self._looks_again = False
        self._steps_up = 0
        self._hold_seconds = _FIRST_HOLD_SECONDS
        self._next_trial_seconds = 0.0
        self._refusals = Refusals(limit=self._limit)
        self._to_recall = ceiling
        self._steady_since_seconds = -math.inf
        self._window: Window | None = None
        self._is_window_due = False
        self._climb = Climb(limit=self.current)

    @property
    def current(self) -> int:
        """The limit."""
        return int(self._limit)

    @property
    def ceiling(self) -> float:
        """The limit at which calls were refused, here or in an earlier command; infinity when none were."""
        return self._refusals.ceiling if self._to_recall is None else self._to_recall

    def note_turn(self, *, now_seconds: float, in_flight: int, waited_seconds: float) -> None:
        """Learn, before further calls start, how full the limit was.

        waited_seconds: how long this process has slept in all, waiting for answers.
        """
        if self._to_recall is not None:
            self._refusals.recall(self._to_recall, now_seconds=now_seconds)
            self._to_recall = None
            self._go_to(min(self._target, self._highest(now_seconds)), now_seconds=now_seconds)
        self._climb.note_turn(limit=self.current, in_flight=in_flight)
        self._refusals.note_limit(self._limit, in_flight=in_flight, now_seconds=now_seconds)
        if self._is_window_due:
            self._is_window_due = False
            self._window = Window(now_seconds, waited_seconds)
        elif self._window is not None:
            self._window.turns += 1
            self._window.full_turns += self._climb.is_full
            self._judge(self._window, now_seconds, waited_seconds)

    def measure_anew(self, *, now_seconds: float) -> None:
        """Drop the measurement under way: calls are paused, or few for another reason."""
        self._window = None
        self._is_window_due = False
        self._steady_since_seconds = now_seconds

    def note_answer(self, *, now_seconds: float, elapsed_seconds: float) -> None:
        """Learn that a post was answered by a backend that is not in trouble."""
        self._climb.note_end()
        if self._limit < self._target:
            self._rise(now_seconds)
        elif self._window is not None:
            self._window.answers += 1
            self._window.elapsed_seconds += elapsed_seconds
        elif now_seconds - elapsed_seconds >= self._steady_since_seconds:
            self._is_window_due = True  # all answers from here on are to calls started at this limit

    def note_look_up(self, *, now_seconds: float, elapsed_seconds: float) -> None:
        """Learn that a look-up was answered."""
        self._climb.note_end()
        if self._limit < self._target:
            self._rise(now_seconds)
        elif self._window is not None:
            self._window.look_ups_elapsed_seconds += elapsed_seconds

    def note_shed(self, *, now_seconds: float, elapsed_seconds: float) -> None:
        """Learn that the backend asked to wait, or could not be reached."""
        self._climb.note_end()
        self._cut(_AFTER_SHED, began_seconds=now_seconds - elapsed_seconds, now_seconds=now_seconds)

    def note_lost(self, *, now_seconds: float, elapsed_seconds: float) -> None:
        """Learn that load left a row in doubt: its answer was lost, or says that the backend was overrun."""
        self._climb.note_end()
        self._refusals.note_doubt(now_seconds=now_seconds)
        self._cut(_AFTER_LOSS, began_seconds=now_seconds - elapsed_seconds, now_seconds=now_seconds)

    def _rise(self, now_seconds: float) -> None:
        if not self._climb.is_full:
            return
        self._limit = min(self._target, self._limit + self._climb.per_answer(self._limit))
        if self._limit == self._target:
            self.measure_anew(now_seconds=now_seconds)
            # The last round trip was nearly the same: while the limit is sought, there is no time for another.
            self._is_window_due = self._phase is _Phase.SEEKING
            if self._phase is _Phase.RECOVERING:
                self._settle(now_seconds)

    def _cut(self, factor: float, *, began_seconds: float, now_seconds: float) -> None:
        """Fall to a part of what the limit was when the call began, so that one round trip's troubles count once."""
        at_the_time = self._refusals.note_refused(began_seconds=began_seconds, now_seconds=now_seconds)
        self._phase = _Phase.RECOVERING
        self._anchor = None
        self._go_to(min(self._limit, at_the_time * factor), now_seconds=now_seconds)
        self._target = max(self._limit, self._highest(now_seconds))
        self._climb.know(self._target)

    def _highest(self, now_seconds: float) -> float:
        return min(self._most, self._refusals.highest(now_seconds=now_seconds))

    def _go_to(self, limit: float, *, now_seconds: float) -> None:
        """Aim at a limit: down at once, up with the answers."""
        self._target = float(max(1, int(limit)))
        self._limit = min(self._limit, self._target)
        self.measure_anew(now_seconds=now_seconds)

    def _judge(self, window: Window, now_seconds: float, waited_seconds: float) -> None:
        passed_seconds = now_seconds - window.opened_seconds
        if not self._is_enough(window, passed_seconds):
            return
        self.measure_anew(now_seconds=now_seconds)
        self._window = Window(now_seconds, waited_seconds)  # unless the limit moves, the next one follows on
        level = window.level(self._limit, now_seconds=now_seconds, waited_seconds=waited_seconds)
        if level is None:
            return
        level = replace(
            level,
            # Calls that began before the window count whole: a burst too many, and more in flight than may be.
            per_second=min(level.per_second, level.limit / level.latency_seconds),
            # A turn that finds few of the calls answered tells of a backend with a queue, however busy this process is.
            is_ours=level.is_ours and window.answers >= _FOUND_ANSWERED * level.limit * window.turns,
        )
        if not level.is_ours:
            self._lowest_latency_seconds = min(self._lowest_latency_seconds, level.latency_seconds)
        self._decide(level, now_seconds)

    def _is_enough(self, window: Window, passed_seconds: float) -> bool:
        if self._phase is _Phase.SEEKING:
            looks = 1 + self._looks_again
            return is_enough_to_seek(window, limit=self._limit, passed_seconds=passed_seconds, looks=looks)
        return is_enough(window, limit=self._limit, passed_seconds=passed_seconds)

    def _decide(self, level: MeasuredLevel, now_seconds: float) -> None:
        before = self._anchor
        if before is None:
            self._anchor = level
            if self._phase is _Phase.SEEKING:
                self._seek(now_seconds)
        elif self._phase is _Phase.SEEKING:
            self._decide_seeking(before, level, now_seconds)
        elif self._phase is _Phase.TRYING_MORE:
            self._decide_more(before, level, now_seconds)
        elif self._phase is _Phase.TRYING_LESS:
            self._decide_less(before, level, now_seconds)
        else:
            self._decide_settled(before, level, now_seconds)

    def _decide_seeking(self, before: MeasuredLevel, level: MeasuredLevel, now_seconds: float) -> None:
        if level.limit <= UNQUESTIONED or self._pays(before, level, least=_PAYS_A_DOUBLING):
            self._anchor = level
            self._seek(now_seconds)
            return
        self._looks_again = not self._looks_again  # a first look may be chance
        if self._looks_again:
            return
        self._steps_up = _A_STEP_DOWN_EVERY - 1  # the last that paid may already have been too far
        limit = before.limit
        if self._hangs(before, level):
            self._refusals.note_hanging(level.served, now_seconds=now_seconds)
        elif not level.is_ours:
            # By Little's law: the calls that the backend works on at once, as fast as it did before.
            limit = max(limit, min(level.limit, _HEADROOM * level.per_second * before.latency_seconds))
        self._go_to(min(limit, self._highest(now_seconds)), now_seconds=now_seconds)
        self._settle(now_seconds)

    def _decide_more(self, before: MeasuredLevel, level: MeasuredLevel, now_seconds: float) -> None:
        if not self._pays(before, level, least=_PAYS_A_STEP):
            self._go_back(before, now_seconds)
            return
        self._anchor = level
        self._hold_seconds = _FIRST_HOLD_SECONDS
        if self._refusals.pass_at(level.limit):
            self._settle(now_seconds)  # answers may yet be lost that have not run out of time
            self._steps_up = 0
        elif before.elasticity_to(level) >= _STARVES:
            self._seek(now_seconds)
        else:
            self._try_more(now_seconds)

    def _decide_less(self, before: MeasuredLevel, level: MeasuredLevel, now_seconds: float) -> None:
        if level.per_second > _QUICKENED * before.per_second:
            self._anchor = level
            self._seek(now_seconds)
            return
        least = _PAYS_OURSELVES if level.is_ours else _PAYS_A_STEP
        is_better = self._is_slow(before) and level.latency_seconds < before.latency_seconds
        if is_better or before.elasticity_to(level) < least:
            self._anchor = level
            self._hold_seconds = _FIRST_HOLD_SECONDS
            self._try_less(step_of(level), now_seconds)
            return
        if self._is_alarmed and not level.is_ours:
            self._lowest_latency_seconds = level.latency_seconds  # slower whatever we do
        self._go_back(before, now_seconds)
        if before.elasticity_to(level) >= _STARVES:
            self._next_trial_seconds = now_seconds  # nothing waits at the backend: more is worth a trial at once

    def _decide_settled(self, before: MeasuredLevel, level: MeasuredLevel, now_seconds: float) -> None:
        growth = level.latency_seconds / before.latency_seconds
        if not level.is_ours and not before.is_ours and not 1 / _LATENCY_ALARM < growth < _LATENCY_ALARM:
            self._anchor = level
            self._hold_seconds = _FIRST_HOLD_SECONDS
            if growth > 1:
                self._is_alarmed = True
                self._try_less(level.limit * min(0.5, 1 - 1 / growth), now_seconds)
            else:
                self._seek(now_seconds)
            return
        self._anchor = before.blended(level)
        if now_seconds < self._next_trial_seconds:
            return
        self._steps_up = (self._steps_up + 1) % _A_STEP_DOWN_EVERY
        if self._steps_up == 0 or self._is_slow(self._anchor):
            self._try_less(step_of(self._anchor), now_seconds)
        else:
            self._try_more(now_seconds)

    def _pays(self, before: MeasuredLevel, level: MeasuredLevel, *, least: float) -> bool:
        if self._hangs(before, level):
            return False
        if level.is_ours:
            # More in flight cannot press the backend, since we send no faster; it spreads the cost of a commit.
            return level.limit <= _ENOUGH_FOR_OURS or before.elasticity_to(level) >= _PAYS_OURSELVES
        return before.elasticity_to(level) >= least and not self._is_slow(level)

    def _hangs(self, before: MeasuredLevel, level: MeasuredLevel) -> bool:
        """Tell whether calls have no answer that had one at the level before."""
        # While this process is busy with a burst of answers, slots are empty too: but that share was there before.
        return level.is_hanging and level.served / level.limit < _HANGS * before.served / before.limit

    def _is_slow(self, level: MeasuredLevel) -> bool:
        return not level.is_ours and level.latency_seconds > _MOST_LATENCY_GROWTH * self._lowest_latency_seconds

    def _seek(self, now_seconds: float) -> None:
        self._looks_again = False
        self._phase = _Phase.SEEKING
        self._go_up(max(self._limit, UNQUESTIONED - self._limit), now_seconds)

    def _try_more(self, now_seconds: float) -> None:
        assert self._anchor is not None, "a trial has something to be compared with"  # noqa: S101 -- an invariant
        self._phase = _Phase.TRYING_MORE
        step = step_of(self._anchor)
        self._go_up(2 * step if self._anchor.is_ours else step, now_seconds)

    def _go_up(self, step: float, now_seconds: float) -> None:
        most = _MOST_FOR_OURS if self._anchor is not None and self._anchor.is_ours else self._most
        limit = min(most, self._highest(now_seconds), self._limit + step)
        if limit < self._limit + 1:
            self._settle(now_seconds)
        else:
            self._go_to(limit, now_seconds=now_seconds)

    def _try_less(self, step: float, now_seconds: float) -> None:
        assert self._anchor is not None, "a trial has something to be compared with"  # noqa: S101 -- an invariant
        least = _ENOUGH_FOR_OURS if self._anchor.is_ours else FIRST_LIMIT
        limit = max(least, self._limit - step)
        if limit > self._limit - 1:
            self._settle(now_seconds)
            return
        self._phase = _Phase.TRYING_LESS
        self._go_to(limit, now_seconds=now_seconds)

    def _go_back(self, before: MeasuredLevel, now_seconds: float) -> None:
        self._hold_seconds = min(_LONGEST_HOLD_SECONDS, 2 * self._hold_seconds)
        self._go_to(before.limit, now_seconds=now_seconds)
        self._settle(now_seconds)
        self._anchor = before

    def _settle(self, now_seconds: float) -> None:
        self._phase = _Phase.SETTLED
        self._anchor = None
        self._is_alarmed = False
        self._next_trial_seconds = now_seconds + self._hold_seconds
