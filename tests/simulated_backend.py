"""A backend and a run that posts to it, simulated event by event: no clock, no socket, the same outcome every time.

The run is paced by the real ``Pacing``; only the backend and this process's own slowness are made up.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from uploader.model.api import Verdict
from uploader.model.model import Outcome, Reason
from uploader.pacing.lesson import KnownCeiling
from uploader.pacing.pacing import Pacing

ByTime = Callable[[float], float]
"""Of a moment, in seconds from the start of the run."""


def stepwise(*steps: tuple[float, float]) -> ByTime:
    """Give the value of the last step that has begun; a step is its moment and its value."""
    return lambda at_seconds: [value for begun_seconds, value in steps if begun_seconds <= at_seconds][-1]


class Answered(Enum):
    """What a post comes to."""

    ACCEPTED = auto()
    SHED = auto()
    ASKED_TO_WAIT = auto()
    LOST = auto()


_VERDICTS = {
    Answered.ACCEPTED: Verdict(outcome=Outcome(None, http_status=201)),
    Answered.SHED: Verdict(outcome=Outcome(Reason.IN_DOUBT, http_status=503)),
    Answered.ASKED_TO_WAIT: Verdict(outcome=Outcome(Reason.UNAVAILABLE, http_status=429), retry=True),
    Answered.LOST: Verdict(outcome=Outcome(Reason.IN_DOUBT)),
}
_FOUND = Verdict(outcome=Outcome(None, http_status=200), customer_id="cus_1")


def always(value: float) -> ByTime:
    """Give the same at every moment."""
    return lambda _: value


_NOBODY = always(0)
_ANY_NUMBER = always(1e9)


@dataclass(slots=True, kw_only=True)
class Backend:
    """Some workers, and a queue before them that other clients use too.

    workers:           calls worked on at once.
    service_seconds:   the mean time that a worker spends on a call.
    noise:             the part of that time which is random, 0 (all alike) to 1 (exponential).
    others_per_second: calls of other clients.
    most_held:         calls in the queue and at the workers; a further one is refused as ``refusal`` says.
    journey_seconds:   there and back.
    timeout_seconds:   the client's; an answer that takes longer is lost, though the backend did the work.
    crowding_seconds:  what each call that is held adds to the time of a further one.
    """

    workers: ByTime
    service_seconds: ByTime
    noise: float = 0.3
    others_per_second: ByTime = _NOBODY
    most_held: ByTime = _ANY_NUMBER
    refusal: Answered = Answered.SHED
    journey_seconds: float = 0.001
    timeout_seconds: float = 10.0
    crowding_seconds: float = 0.0
    seed: int = 1
    _chance: random.Random = field(init=False)
    _free_at_seconds: list[float] = field(default_factory=list)
    _done_at_seconds: list[float] = field(default_factory=list)
    _other_at_seconds: float = 0.0

    def __post_init__(self) -> None:
        """Seed the dice."""
        self._chance = random.Random(self.seed)  # noqa: S311 -- a simulation

    def take(self, now_seconds: float) -> tuple[Answered, float]:
        """Take a call; give what it comes to, and after how long."""
        self._take_others(now_seconds)
        done_seconds = self._work(now_seconds)
        if done_seconds is None:
            if self.refusal is Answered.LOST:
                return Answered.LOST, self.timeout_seconds
            return self.refusal, self.journey_seconds
        elapsed_seconds = done_seconds - now_seconds + self.journey_seconds
        if elapsed_seconds > self.timeout_seconds:
            return Answered.LOST, self.timeout_seconds
        return Answered.ACCEPTED, elapsed_seconds

    def _take_others(self, now_seconds: float) -> None:
        while (rate := self.others_per_second(self._other_at_seconds)) and self._other_at_seconds <= now_seconds:
            self._work(self._other_at_seconds)
            self._other_at_seconds += self._chance.expovariate(rate)
        self._other_at_seconds = max(self._other_at_seconds, now_seconds)

    def _work(self, now_seconds: float) -> float | None:
        while self._done_at_seconds and self._done_at_seconds[0] <= now_seconds:
            heapq.heappop(self._done_at_seconds)
        if len(self._done_at_seconds) >= self.most_held(now_seconds):
            return None
        workers = min(1000, max(1, int(self.workers(now_seconds))))
        while len(self._free_at_seconds) < workers:
            heapq.heappush(self._free_at_seconds, now_seconds)
        while len(self._free_at_seconds) > workers:
            heapq.heappop(self._free_at_seconds)
        mean_seconds = self.service_seconds(now_seconds) + self.crowding_seconds * len(self._done_at_seconds)
        drawn = self._chance.expovariate(1.0) if self.noise else 1.0
        worked_seconds = mean_seconds * (1 - self.noise + self.noise * drawn)
        done_seconds = max(now_seconds, heapq.heappop(self._free_at_seconds)) + worked_seconds
        heapq.heappush(self._free_at_seconds, done_seconds)
        heapq.heappush(self._done_at_seconds, done_seconds)
        return done_seconds


@dataclass(frozen=True, slots=True)
class Moment:
    """What a post came to, and the limit when its answer was noted."""

    at_seconds: float
    answered: Answered
    latency_seconds: float
    limit: int


@dataclass(slots=True)
class Story:
    """All that happened in a simulated run."""

    moments: list[Moment] = field(default_factory=list)
    stop: str = ""
    known_ceiling: KnownCeiling | None = None
    most_in_flight: int = 0

    def between(self, first_seconds: float, last_seconds: float) -> list[Moment]:
        """Give the answers of a span of time."""
        return [moment for moment in self.moments if first_seconds <= moment.at_seconds < last_seconds]

    def accepted_per_second(self, first_seconds: float, last_seconds: float) -> float:
        """Give the mean rate of a span of time."""
        moments = self.between(first_seconds, last_seconds)
        return sum(moment.answered is Answered.ACCEPTED for moment in moments) / (last_seconds - first_seconds)

    def limits(self, first_seconds: float, last_seconds: float) -> list[int]:
        """Give the limits of a span of time."""
        return [moment.limit for moment in self.between(first_seconds, last_seconds)]

    @property
    def in_doubt(self) -> int:
        """Rows that a person will be asked about."""
        return sum(moment.answered in (Answered.SHED, Answered.LOST) for moment in self.moments)


def simulate(
    backend: Backend,
    *,
    seconds: float,
    concurrency: int | None = None,
    row_seconds: float = 20e-6,
    commit_seconds: float = 300e-6,
    stall_seconds: float = 0.0,
    max_rate_per_second: float | None = None,
    known_ceiling: KnownCeiling | None = None,
) -> Story:
    """Post for so many seconds, or until the run stops.

    row_seconds:    what a row costs this process, its one thread.
    commit_seconds: what each turn of its loop costs beside that: a commit to the disk.
    stall_seconds:  what one commit in eight takes longer: the disk is busy, and answers lie unread.
    known_ceiling:  what the command before left.
    """
    pacing = Pacing(
        concurrency=concurrency,
        retries=2,
        patience_seconds=600,
        chance=random.Random(2),  # noqa: S311 -- a simulation
        was_good_before=lambda: False,
        max_rate_per_second=max_rate_per_second,
        known_ceiling=known_ceiling,
    )
    story = Story()
    serial = itertools.count()
    commits = itertools.count()
    in_flight: list[tuple[float, int, float, Answered | None]] = []
    now = waited = 0.0
    is_probing = False
    while now < seconds and not pacing.stop:
        pacing.note_turn(now_seconds=now, in_flight=len(in_flight), waited_seconds=waited)
        if pacing.wants_probe(now_seconds=now) and not is_probing:
            is_probing = True
            heapq.heappush(in_flight, (now + backend.journey_seconds, next(serial), now, None))
        free = pacing.calls_allowed(now_seconds=now, in_flight=len(in_flight))
        count = pacing.rows_allowed(free, now_seconds=now)
        pacing.note_rows_started(count, now_seconds=now)
        if count:
            now += commit_seconds + row_seconds * count + (stall_seconds if next(commits) % 8 == 7 else 0.0)
        for _ in range(count):
            answered, elapsed = backend.take(now)
            heapq.heappush(in_flight, (now + elapsed, next(serial), now, answered))
        story.most_in_flight = max(story.most_in_flight, len(in_flight))
        pause = pacing.wait_seconds(now_seconds=now) or pacing.row_wait_seconds(now_seconds=now) or seconds
        pause = max(pause, 1e-4)
        until = min(in_flight[0][0] if in_flight else seconds, now + pause)
        if until > now:
            waited += until - now
            now = until
        while in_flight and in_flight[0][0] <= now:
            _, _, began, ended = heapq.heappop(in_flight)
            if ended is None:
                is_probing = False
                pacing.note_probe(_FOUND, now_seconds=now)
                continue
            pacing.note_post(_VERDICTS[ended], now_seconds=now, elapsed_seconds=now - began)
            story.moments.append(Moment(now, ended, now - began, pacing.limit))
    story.stop, story.known_ceiling = pacing.stop, pacing.known_ceiling
    return story
