"""How many calls at once, when to wait, when to try again, and when going on would only make doubt.

It never looks at a clock: every method is handed the moment, in seconds of a clock that only goes forward.
"""

from __future__ import annotations

import enum
import random
from collections import Counter, deque
from collections.abc import Callable
from typing import Literal, TypeAlias

from uploader.model.api import Verdict
from uploader.model.model import Outcome, Reason
from uploader.model.settings import MOST_IN_FLIGHT
from uploader.pacing.bucket import TokenBucket
from uploader.pacing.lesson import KnownCeiling, Lesson
from uploader.pacing.limit import AdaptiveLimit

_TROUBLES_IN_A_ROW = 5
_WINDOW_OUTCOMES = 1000
_LEAST_OUTCOMES_FOR_A_SHARE = 200
_MOST_TROUBLED_SHARE = 0.01
_MOST_TRIPS = 3
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_SAME_REJECTIONS = 20
_UNKNOWN_TENANTS = 5
_FIRST_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 30.0
_RETRIES_AT_FIRST = 100.0
_RETRIES_PER_ANSWER = 0.1
_TROUBLE = frozenset({Reason.IN_DOUBT, Reason.UNAVAILABLE, Reason.LOOKUP_FAILED})
_Kind: TypeAlias = Literal["post", "look-up"]
_OVERLOAD = frozenset({408, 429, 502, 503, 504})


class Mode(enum.Enum):
    """How far posting is open."""

    OPEN = "posts up to the limit"
    PROBING = "a look-up finds out whether the backend answers again"
    SINGLE = "one call at a time, until a post is accepted"


class Pacing:
    """The policy of one command.

    concurrency:         calls in flight at the most; None to find out what the backend takes.
    was_good_before:     whether posts were accepted there before; asked when first answers speak against the set-up.
    max_rate_per_second: posts started a second at the most; None for no cap.
    known_ceiling:       what an earlier command left; None for nothing.
    stop:                why no further call may start; empty while the run may go on.
    trouble:             what the last call came to that got no good answer; empty while there was none.
    """

    def __init__(
        self,
        *,
        concurrency: int | None,
        most_in_flight: int = MOST_IN_FLIGHT,
        retries: int,
        patience_seconds: float,
        chance: random.Random,
        was_good_before: Callable[[], bool],
        max_rate_per_second: float | None = None,
        known_ceiling: KnownCeiling | None = None,
    ) -> None:
        self.stop = ""
        self.trouble = ""
        self.mode = Mode.OPEN
        self._fixed_limit = concurrency
        self._adaptive_limit = AdaptiveLimit(
            most=most_in_flight, ceiling=None if known_ceiling is None else known_ceiling.calls
        )
        self._lesson = Lesson(known_ceiling)
        self._bucket = None if max_rate_per_second is None else TokenBucket(rate_per_second=max_rate_per_second)
        self._most_tries = retries + 1
        self._patience_seconds = patience_seconds
        self._chance = chance
        self._was_good_before = was_good_before
        self._retries_left = _RETRIES_AT_FIRST
        self._paused_until_seconds = 0.0
        self._next_pause_seconds = _FIRST_PAUSE_SECONDS
        self._trips = 0
        # Apart: a backend whose look-ups are fine may still leave every post in doubt.
        self._troubles_in_a_row = Counter[_Kind]()
        self._window: deque[bool] = deque(maxlen=_WINDOW_OUTCOMES)
        self._troubles_in_window = 0
        self._first_answers: set[int | None] | None = set()
        self._answers = 0
        self._unknown_tenants_by_answer: Counter[int] = Counter()
        self._has_known_a_tenant = False

    @property
    def limit(self) -> int:
        """How many calls may be in flight while all goes well."""
        return self._adaptive_limit.current if self._fixed_limit is None else self._fixed_limit

    @property
    def known_ceiling(self) -> KnownCeiling | None:
        """What the next command should know; what this one was told, where it was stopped or its limit is fixed."""
        if self._fixed_limit is not None or self.stop or self.mode is not Mode.OPEN:
            return self._lesson.before
        return self._lesson.for_the_next(self._adaptive_limit.ceiling)

    def note_turn(self, *, now_seconds: float, in_flight: int, waited_seconds: float) -> None:
        """Learn, before calls are chosen, how many are in flight, and how long in all the process slept for answers."""
        if self.mode is not Mode.OPEN or self.wait_seconds(now_seconds=now_seconds) > 0:
            self._adaptive_limit.measure_anew(now_seconds=now_seconds)
        self._adaptive_limit.note_turn(now_seconds=now_seconds, in_flight=in_flight, waited_seconds=waited_seconds)

    def know_backend(self) -> None:
        """Learn that posts were accepted there before: unknown tenants and rejected rows say nothing of the set-up."""
        self._has_known_a_tenant = True
        self._first_answers = None

    def wait_seconds(self, *, now_seconds: float) -> float:
        """Tell how long no call may start; 0 when one may."""
        return max(0.0, self._paused_until_seconds - now_seconds)

    def calls_allowed(self, *, now_seconds: float, in_flight: int) -> int:
        """Tell how many further calls may start, look-ups and posts, given those in flight."""
        if self.stop or self.wait_seconds(now_seconds=now_seconds) > 0 or self.mode is Mode.PROBING:
            return 0
        limit = 1 if self.mode is Mode.SINGLE else self.limit
        return max(0, limit - in_flight)

    def rows_allowed(self, rows: int, *, now_seconds: float) -> int:
        """Tell how many of so many posts the capped rate lets start now."""
        return rows if self._bucket is None else min(rows, self._bucket.allowed(now_seconds=now_seconds))

    def row_wait_seconds(self, *, now_seconds: float) -> float:
        """Tell how long the capped rate lets no post start; 0 when one may, or without a cap."""
        return 0.0 if self._bucket is None else self._bucket.wait_seconds(now_seconds=now_seconds)

    def note_rows_started(self, rows: int, *, now_seconds: float) -> None:
        """Count posts, retries too, against the capped rate."""
        if self._bucket is not None:
            self._bucket.take(rows, now_seconds=now_seconds)

    def wants_probe(self, *, now_seconds: float) -> bool:
        """Tell whether a look-up should now find out if the backend answers again."""
        return self.mode is Mode.PROBING and not self.stop and self.wait_seconds(now_seconds=now_seconds) == 0

    def retry_delay_seconds(self, verdict: Verdict, *, tries: int) -> float | None:
        """Give the wait before another attempt; None when there is to be none.

        Exponential back-off with full jitter, three attempts unless set otherwise, and one budget for the whole
        command, so that a backend in trouble is not sent twice the load.
        """
        if not verdict.retry or tries >= self._most_tries or self._retries_left < 1 or self.stop:
            return None
        self._retries_left -= 1
        longest = min(_LONGEST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2 ** (tries - 1))
        return max(self._chance.uniform(0, longest), verdict.retry_after_seconds or 0.0)

    def note_post(self, verdict: Verdict, *, now_seconds: float, elapsed_seconds: float) -> None:
        """Learn from what a post came to, and how long it took."""
        if verdict.outcome.reason is None:
            self._note_accepted(now_seconds=now_seconds, elapsed_seconds=elapsed_seconds)
            return
        if not self._notes_overload(verdict, now_seconds=now_seconds, elapsed_seconds=elapsed_seconds):
            self._adaptive_limit.note_answer(now_seconds=now_seconds, elapsed_seconds=elapsed_seconds)
        self._note(verdict, kind="post", now_seconds=now_seconds)
        self._note_rejection(verdict)

    def note_look_up(self, verdict: Verdict, *, now_seconds: float, elapsed_seconds: float) -> None:
        """Learn from what a look-up came to, and how long it took."""
        if not self._notes_overload(verdict, now_seconds=now_seconds, elapsed_seconds=elapsed_seconds):
            self._adaptive_limit.note_look_up(now_seconds=now_seconds, elapsed_seconds=elapsed_seconds)
        self._note(verdict, kind="look-up", now_seconds=now_seconds)
        if verdict.customer_id:
            self._has_known_a_tenant = True
        elif not self._has_known_a_tenant and not verdict.retry:
            self._note_unknown_tenant(verdict.outcome)

    def _note_unknown_tenant(self, outcome: Outcome) -> None:
        is_refused = outcome.reason is Reason.LOOKUP_FAILED
        answer = (outcome.http_status or 0) if is_refused else 0
        self._unknown_tenants_by_answer[answer] += 1
        if self._unknown_tenants_by_answer[answer] < _UNKNOWN_TENANTS:
            return
        if is_refused:
            what = f"the backend refuses to look any of the first {_UNKNOWN_TENANTS} tenants up (HTTP {answer})"
            self.end(f"{what}; check the base URL, and what the key may do")
        elif self._was_good_before():
            self.know_backend()
        else:
            self.end(f"the backend knows none of the first {_UNKNOWN_TENANTS} tenants; check the base URL")

    def note_probe(self, verdict: Verdict, *, now_seconds: float) -> None:
        """Learn from the look-up that asked whether the backend answers again."""
        if self._heeds(verdict, now_seconds=now_seconds):
            return
        if _is_trouble(verdict):
            self.trouble = verdict.outcome.detail
            self._pause_longer(now_seconds=now_seconds)  # no trip: a look-up leaves no row in doubt
        elif self.mode is Mode.PROBING:
            self.mode = Mode.SINGLE

    def _note_accepted(self, *, now_seconds: float, elapsed_seconds: float) -> None:
        self._adaptive_limit.note_answer(now_seconds=now_seconds, elapsed_seconds=elapsed_seconds)
        self._lesson.note_accepted()
        self._note_calm("post")
        self._first_answers = None
        self._trips = 0
        if self.mode is Mode.SINGLE:
            self.mode = Mode.OPEN

    def _notes_overload(self, verdict: Verdict, *, now_seconds: float, elapsed_seconds: float) -> bool:
        """Have the limit fall when the answer, or the lack of one, tells of too much load; tell whether it did."""
        outcome = verdict.outcome
        if outcome.reason not in _TROUBLE or (outcome.http_status and outcome.http_status not in _OVERLOAD):
            return False
        if outcome.reason is Reason.IN_DOUBT:
            self._lesson.note_doubt()
            self._adaptive_limit.note_lost(now_seconds=now_seconds, elapsed_seconds=elapsed_seconds)
        else:
            self._adaptive_limit.note_shed(now_seconds=now_seconds, elapsed_seconds=elapsed_seconds)
        return True

    def _note(self, verdict: Verdict, *, kind: _Kind, now_seconds: float) -> None:
        if self._heeds(verdict, now_seconds=now_seconds):
            return
        if _is_trouble(verdict):
            self.trouble = verdict.outcome.detail
            self._note_trouble(kind, now_seconds=now_seconds)
            return
        self._note_calm(kind)

    def _note_calm(self, kind: _Kind) -> None:
        self._troubles_in_a_row[kind] = 0
        self._retries_left = min(_RETRIES_AT_FIRST, self._retries_left + _RETRIES_PER_ANSWER)
        self._remember(in_trouble=False)

    def _heeds(self, verdict: Verdict, *, now_seconds: float) -> bool:
        """Do as the backend asks, and tell whether it asked the run to stop or to wait."""
        if verdict.stop:
            self.end(verdict.stop)
            return True
        if verdict.retry_after_seconds is None and verdict.outcome.http_status != 429:
            return False
        # Never shorter: a backend that always says "Retry-After: 0" would be asked again without end.
        seconds = max(_FIRST_PAUSE_SECONDS, verdict.retry_after_seconds or 0.0)
        self._pause(seconds, why="the backend asks to wait", now_seconds=now_seconds)
        return True

    def _note_trouble(self, kind: _Kind, *, now_seconds: float) -> None:
        self._troubles_in_a_row[kind] += 1
        self._remember(in_trouble=True)
        if self.mode is Mode.PROBING or self.wait_seconds(now_seconds=now_seconds) > 0:
            return  # it was in flight when posting paused
        known = len(self._window)
        too_large_a_share = (
            known >= _LEAST_OUTCOMES_FOR_A_SHARE and self._troubles_in_window > _MOST_TROUBLED_SHARE * known
        )
        if self.mode is Mode.SINGLE or self._troubles_in_a_row.total() >= _TROUBLES_IN_A_ROW or too_large_a_share:
            self._trip(now_seconds=now_seconds)

    def _remember(self, *, in_trouble: bool) -> None:
        if len(self._window) == _WINDOW_OUTCOMES:
            self._troubles_in_window -= self._window[0]
        self._window.append(in_trouble)
        self._troubles_in_window += in_trouble

    def _trip(self, *, now_seconds: float) -> None:
        self._trips += 1
        if self._trips >= _MOST_TRIPS:
            self.end(
                f"posts had no good answer before and after {_MOST_TRIPS - 1} pauses (the last: {self.trouble}); see "
                "whether the backend is up"
            )
            return
        self.mode = Mode.PROBING
        self._troubles_in_a_row.clear()
        self._window.clear()
        self._troubles_in_window = 0
        self._pause_longer(now_seconds=now_seconds)

    def _pause_longer(self, *, now_seconds: float) -> None:
        why = f"the backend gives no good answer (the last: {self.trouble}), and the next pause is"
        self._pause(self._next_pause_seconds, why=why, now_seconds=now_seconds)
        self._next_pause_seconds = min(_LONGEST_PAUSE_SECONDS, 2 * self._next_pause_seconds)

    def _pause(self, seconds: float, *, why: str, now_seconds: float) -> None:
        until_seconds = now_seconds + seconds
        longer_by_seconds = until_seconds - max(self._paused_until_seconds, now_seconds)
        if longer_by_seconds <= 0:
            return
        if longer_by_seconds > self._patience_seconds:
            left = f"the {self._patience_seconds:,.0f} s of patience left (--patience)"
            self.end(f"{why} {seconds:,.0f} s, longer than {left}")
            return
        self._patience_seconds -= longer_by_seconds
        self._paused_until_seconds = until_seconds

    def _note_rejection(self, verdict: Verdict) -> None:
        if self._first_answers is None:
            return
        self._answers += 1
        status = verdict.outcome.http_status
        self._first_answers.add(status if verdict.outcome.reason is Reason.REJECTED else None)
        if len(self._first_answers) > 1 or None in self._first_answers:
            self._first_answers = None
        elif self._answers == _SAME_REJECTIONS and self._was_good_before():
            self.know_backend()
        elif self._answers == _SAME_REJECTIONS:
            rows = f"each of the first {_SAME_REJECTIONS} rows"
            self.end(f"the backend rejected {rows} with HTTP {status}; check the set-up")

    def end(self, why: str) -> None:
        """Let no further call start; the first reason stands."""
        self.stop = self.stop or why


def _is_trouble(verdict: Verdict) -> bool:
    """Tell whether a call got no good answer; a look-up that was refused for good, as with 403, got one."""
    reason = verdict.outcome.reason
    return reason in _TROUBLE and (reason is not Reason.LOOKUP_FAILED or verdict.retry)
