"""The adaptive limit against simulated backends (tests/pacing_scenes.py): throughput, restraint, and few questions."""

from __future__ import annotations

import functools

import pytest

from tests.pacing_scenes import FIXED, SCENES
from tests.simulated_backend import Answered, Backend, Story, always, simulate, stepwise
from uploader.model.settings import MOST_IN_FLIGHT
from uploader.pacing.lesson import KnownCeiling, Lesson
from uploader.pacing.limit import FIRST_LIMIT, AdaptiveLimit

TAKEN = dict.fromkeys(SCENES, 0.9) | {"shedding earlier": 0.8}
"""The least share of the best fixed limit's throughput; less where that one left many times as many rows in doubt."""


@functools.cache
def story(scene: str, concurrency: int | None = None) -> Story:
    """Tell what happens in a scene."""
    return SCENES[scene].run(concurrency)


def mean_limit(scene: str, first_seconds: float, last_seconds: float) -> float:
    """Give the mean adaptive limit of a span of time."""
    limits = story(scene).limits(first_seconds, last_seconds)
    return sum(limits) / len(limits)


@pytest.mark.parametrize("scene", SCENES)
def test_throughput_is_that_of_the_best_fixed_limit(scene: str) -> None:
    """From the first row on, start and all trials included."""
    best = max(SCENES[scene].rate(story(scene, concurrency)) for concurrency in FIXED)
    assert SCENES[scene].rate(story(scene)) >= TAKEN[scene] * best
    assert not story(scene).stop


def test_bursts_are_no_reason_to_post_less() -> None:
    """While a burst of answers is worked off slots are empty; that is not taken for calls that hang."""
    assert SCENES["bursts"].rate(story("bursts")) >= 0.95 * SCENES["bursts"].rate(story("bursts", 256))


@pytest.mark.parametrize("scene", SCENES)
def test_few_rows_are_left_in_doubt(scene: str) -> None:
    """Fewer than by any fixed limit that is too large for the backend, and none where nothing is refused."""
    in_doubt = story(scene).in_doubt
    assert in_doubt <= SCENES[scene].most_in_doubt
    assert all(in_doubt < story(scene, fixed).in_doubt or not story(scene, fixed).in_doubt for fixed in FIXED)


@pytest.mark.parametrize(
    ("scene", "least", "most"),
    [
        ("queueing", 36, 80),
        ("uneven", 50, 110),
        ("far", 400, MOST_IN_FLIGHT),
        ("near", 48, 256),
        ("single", 1, 8),
        ("shedding", 30, 42),
        ("pacing", 30, 42),
        ("losing", 30, 45),
    ],
)
def test_the_limit_finds_what_the_backend_takes(scene: str, least: int, most: int) -> None:
    """In the second half of the run it is near the backend's own: it neither collapses nor runs away."""
    seconds = SCENES[scene].seconds
    assert least <= mean_limit(scene, seconds / 2, seconds) <= most


def test_a_lost_capacity_is_given_up_and_taken_again() -> None:
    """With a quarter of its workers left the backend gets a quarter of the calls, and all once they are back."""
    assert mean_limit("changing", 6, 10) > 55
    assert mean_limit("changing", 16, 25) < 30
    assert mean_limit("changing", 30, 40) > 55


@pytest.mark.parametrize("workers", [1, 2, 4], ids="{} left".format)
def test_a_capacity_that_comes_back_is_taken_soon(workers: int) -> None:
    """A second after calls are answered quickly again, as many are in flight as before."""
    by_time = stepwise((0, 32), (2, workers), (4, 32))
    backend = Backend(workers=by_time, service_seconds=always(0.01), noise=0, timeout_seconds=1)
    back = simulate(backend, seconds=8)
    assert back.accepted_per_second(5, 8) > 0.95 * 3200 / 1.1
    assert back.in_doubt == 0


def test_a_queue_is_not_taken_for_our_own_slowness() -> None:
    """However busy this process is: when few of the calls are answered in each turn, the others wait there."""
    backend = Backend(workers=always(32), service_seconds=always(0.01), noise=0)
    busy = simulate(backend, seconds=20, row_seconds=270e-6, commit_seconds=300e-6)
    assert busy.accepted_per_second(5, 20) > 0.9 * 3200 / 1.1
    assert busy.most_in_flight <= 128


def test_calls_that_take_longer_are_no_reason_to_post_less() -> None:
    """When each call takes three times as long, whatever the load, fewer in flight would only cost throughput."""
    assert mean_limit("slower", 17, 25) > 50


def test_a_refusal_is_heeded_within_a_round_trip() -> None:
    """Where 503 begins at 40 in flight, doubling ends there and then."""
    moments = story("shedding").moments
    first = next(moment for moment in moments if moment.answered is Answered.SHED)
    assert first.limit <= 21
    assert sum(moment.answered is Answered.SHED for moment in story("shedding").between(0, 5)) <= 4


@pytest.mark.parametrize("most_held", [20, 33, 48, 70, 100, 200])
@pytest.mark.parametrize("stall_seconds", [0.0, 0.01, 0.02])
def test_a_limit_is_overrun_by_little(most_held: int, stall_seconds: float) -> None:
    """Wherever 503 begins, few rows are in doubt; even when answers lie unread for as long as a call takes."""
    backend = Backend(workers=always(1000), service_seconds=always(0.02), noise=0, most_held=always(most_held))
    run = simulate(backend, seconds=8, row_seconds=75e-6, commit_seconds=500e-6, stall_seconds=stall_seconds)
    assert run.in_doubt <= max(3, most_held / 16) + 1


def test_refusals_become_rarer() -> None:
    """A backend whose limit stays is asked ever more rarely whether it does."""
    backend = Backend(workers=always(100), service_seconds=always(0.3), most_held=always(40))
    long = simulate(backend, seconds=300)
    early = sum(moment.answered is Answered.SHED for moment in long.between(0, 60))
    late = sum(moment.answered is Answered.SHED for moment in long.between(240, 300))
    assert late < early <= 12
    assert long.in_doubt <= 25


@pytest.mark.parametrize("scene", ["shedding", "shedding soon", "losing"])
def test_the_next_commands_leave_no_row_in_doubt_where_the_first_did(scene: str) -> None:
    """For a week of nights they stay below the limit that it met, as fast as it was; then it is found out anew."""
    night = story(scene)
    assert night.in_doubt
    for _ in range(7):
        assert night.known_ceiling is not None
        night = SCENES[scene].run(None, known_ceiling=night.known_ceiling)
        assert night.in_doubt == 0
        assert SCENES[scene].rate(night) >= 0.99 * SCENES[scene].rate(story(scene))
    assert night.known_ceiling is None


def test_a_ceiling_that_is_no_more_is_forgotten() -> None:
    """After five minutes the next command asks for more; where that goes well, the one after it is told nothing."""
    backend = Backend(workers=always(1000), service_seconds=always(0.5), noise=0)
    night = simulate(backend, seconds=400, known_ceiling=KnownCeiling(20.0))
    assert max(night.limits(0, 300)) < 20
    assert max(night.limits(300, 400)) > 100
    assert night.in_doubt == 0
    assert night.known_ceiling is None


def test_what_was_no_limit_of_the_backend_is_not_handed_on() -> None:
    """That it asked to wait leaves no doubt; so few calls, trouble in the end, and a fixed limit tell of no limit."""
    assert story("queueing").known_ceiling is None
    assert story("pacing").known_ceiling is None
    assert SCENES["shedding"].run(128).known_ceiling is None
    for most_held in (always(10), stepwise((0, 40), (2, 0))):
        backend = Backend(workers=always(100), service_seconds=always(0.1), most_held=most_held)
        run = simulate(backend, seconds=40)
        assert run.in_doubt
        assert run.known_ceiling is None


def test_a_limit_is_handed_on_once_a_post_was_accepted_after_it() -> None:
    """Until then the backend may simply be down."""
    lesson = Lesson(None)
    lesson.note_accepted()
    lesson.note_doubt()
    assert lesson.for_the_next(40.0) is None
    lesson.note_accepted()
    assert lesson.for_the_next(40.0) == KnownCeiling(40.0)


def test_a_command_that_learns_nothing_hands_on_what_it_was_told() -> None:
    """One that posts nothing, has a fixed limit, or meets a backend that is down."""
    told = KnownCeiling(40.0, 3)
    down = Backend(workers=always(100), service_seconds=always(0.1), most_held=always(0))
    assert simulate(down, seconds=0, known_ceiling=told).known_ceiling == told
    assert simulate(down, seconds=40, known_ceiling=told).known_ceiling == told
    assert simulate(SCENES["far"].backend(), seconds=5, concurrency=8, known_ceiling=told).known_ceiling == told


def test_a_capped_rate_keeps_the_limit_small() -> None:
    """While the cap, not the backend, holds the run back, nothing speaks for more calls in flight."""
    backend = Backend(workers=always(1000), service_seconds=always(0.1))
    capped = simulate(backend, seconds=20, max_rate_per_second=100)
    assert 95 <= capped.accepted_per_second(5, 20) <= 101
    assert capped.most_in_flight <= 20


# --- single steps -----------------------------------------------------------------------------------------------------


class Rounds:
    """A limit, and a clock of round trips in which every call that may start is answered."""

    def __init__(self, *, most: int = MOST_IN_FLIGHT) -> None:
        self.limit = AdaptiveLimit(most=most)
        self.now_seconds = 0.0

    def answer(self, rounds: int, *, latency_seconds: float = 0.1) -> None:
        """Have so many rounds answered, all calls of a round at once."""
        for _ in range(rounds):
            in_flight = self.limit.current
            self.now_seconds += latency_seconds
            for _ in range(in_flight):
                self.limit.note_answer(now_seconds=self.now_seconds, elapsed_seconds=latency_seconds)
            self.limit.note_turn(now_seconds=self.now_seconds, in_flight=0, waited_seconds=self.now_seconds)

    def lose(self, calls: int, *, elapsed_seconds: float = 0.1) -> None:
        """Have so many answers lost at this moment."""
        for _ in range(calls):
            self.limit.note_lost(now_seconds=self.now_seconds, elapsed_seconds=elapsed_seconds)


def test_the_first_calls_are_few() -> None:
    """The limit starts small, however many it may become."""
    assert AdaptiveLimit(most=MOST_IN_FLIGHT).current == FIRST_LIMIT == 4
    assert AdaptiveLimit(most=2).current == 2


def test_nothing_is_learned_before_the_first_answer() -> None:
    """Turns of the loop alone, calls under way, raise nothing."""
    limit = AdaptiveLimit(most=MOST_IN_FLIGHT)
    for turn in range(100):
        limit.note_turn(now_seconds=turn, in_flight=4, waited_seconds=turn)
    assert limit.current == 4


def test_the_bound_is_kept() -> None:
    """A backend that takes anything is sent no more calls at once than the bound."""
    rounds = Rounds(most=50)
    rounds.answer(200)
    assert rounds.limit.current == 50


def test_troubles_of_one_round_trip_count_once() -> None:
    """Twenty answers lost at once halve the limit once; another one, sent since, halves it again."""
    rounds = Rounds()
    rounds.answer(200)
    before = rounds.limit.current
    rounds.lose(20)
    halved = rounds.limit.current
    assert halved == before // 2
    rounds.answer(2)
    regained = rounds.limit.current
    rounds.lose(1, elapsed_seconds=0.0)
    assert rounds.limit.current == regained // 2


def test_a_lost_answer_can_lead_down_to_one_call() -> None:
    """Losing on and on ends at one call in flight, never at none."""
    rounds = Rounds()
    for _ in range(20):
        rounds.answer(1)
        rounds.lose(1, elapsed_seconds=0.0)
    assert rounds.limit.current == 1


@pytest.mark.parametrize("refusals", [3, 8, 20])
def test_a_backend_that_refused_every_call_is_sent_more_once_it_takes_them(refusals: int) -> None:
    """Refused down to one call at a time, and there once more: when all is well again the limit rises again."""
    rounds = Rounds()
    for _ in range(refusals):
        rounds.answer(1)
        rounds.limit.note_shed(now_seconds=rounds.now_seconds, elapsed_seconds=0.0)
    rounds.answer(2000)
    assert rounds.limit.current > 100


def test_a_backend_that_asks_to_wait_is_sent_less() -> None:
    """A refusal costs less than a lost answer: the limit falls to seven tenths."""
    rounds = Rounds()
    rounds.answer(200)
    before = rounds.limit.current
    rounds.limit.note_shed(now_seconds=rounds.now_seconds, elapsed_seconds=0.1)
    assert rounds.limit.current == int(before * 0.7)
