"""How many calls at once, when to wait, when to try again, when to stop; the clock is handed in."""

from __future__ import annotations

import random

import pytest

from uploader.model.api import Verdict
from uploader.model.model import Outcome, Reason
from uploader.pacing.pacing import Mode, Pacing

ACCEPTED = Verdict(outcome=Outcome(None, http_status=201))
DOUBT = Verdict(outcome=Outcome(Reason.IN_DOUBT))
UNAVAILABLE = Verdict(outcome=Outcome(Reason.UNAVAILABLE), retry=True)
TOO_MANY = Verdict(outcome=Outcome(Reason.UNAVAILABLE, http_status=429), retry=True)
FOUND = Verdict(outcome=Outcome(None, http_status=200), customer_id="cus_1")
UNKNOWN = Verdict(outcome=Outcome(Reason.CUSTOMER_NOT_FOUND, http_status=404))
LOOKUP_FAILED = Verdict(outcome=Outcome(Reason.LOOKUP_FAILED), retry=True)
WRONG_KEY = Verdict(outcome=Outcome(Reason.REJECTED, http_status=401), stop="a valid key is asked for")


def rejected(http_status: int = 400) -> Verdict:
    """Give a rejection."""
    return Verdict(outcome=Outcome(Reason.REJECTED, http_status=http_status))


def asked_to_wait(seconds: float) -> Verdict:
    """Give a 503 with Retry-After."""
    outcome = Outcome(Reason.UNAVAILABLE, http_status=503)
    return Verdict(outcome=outcome, retry=True, retry_after_seconds=seconds)


POST_BY_LETTER = {"a": ACCEPTED, "d": DOUBT, "u": UNAVAILABLE, "r": rejected(), "9": TOO_MANY}
LOOK_UP_BY_LETTER = {"F": FOUND, "U": UNKNOWN, "L": LOOKUP_FAILED}


class Run:
    """A pacing, and the clock of a run that tells it what its calls came to."""

    def __init__(self, *, retries: int = 2, patience_seconds: float = 600, seed: int = 1) -> None:
        chance = random.Random(seed)  # noqa: S311 -- jitter, not a secret
        self.was_good_before = False
        self.pacing = Pacing(
            concurrency=32,
            retries=retries,
            patience_seconds=patience_seconds,
            chance=chance,
            was_good_before=lambda: self.was_good_before,
        )
        self.now_seconds = 1000.0

    def tell(self, story: str) -> None:
        """Note what calls came to, one letter each, all at this moment."""
        for letter in story:
            if letter in POST_BY_LETTER:
                self.post(POST_BY_LETTER[letter])
            else:
                self.look_up(LOOK_UP_BY_LETTER[letter])

    def post(self, verdict: Verdict) -> None:
        """Note what a post came to."""
        self.pacing.note_post(verdict, now_seconds=self.now_seconds, elapsed_seconds=0.001)

    def look_up(self, verdict: Verdict) -> None:
        """Note what a look-up came to."""
        self.pacing.note_look_up(verdict, now_seconds=self.now_seconds, elapsed_seconds=0.001)

    def probe(self, verdict: Verdict) -> float:
        """Wait until a probe is wanted, and note what it came to; the seconds waited."""
        seconds = self.pass_the_pause()
        assert self.pacing.wants_probe(now_seconds=self.now_seconds)
        assert self.room() == 0
        self.pacing.note_probe(verdict, now_seconds=self.now_seconds)
        return seconds

    def pass_the_pause(self) -> float:
        """Let the clock go on until calls may start again; the seconds waited."""
        seconds = self.pacing.wait_seconds(now_seconds=self.now_seconds)
        self.now_seconds += seconds
        return seconds

    def room(self, *, in_flight: int = 0) -> int:
        """Tell how many calls may start at this moment."""
        return self.pacing.calls_allowed(now_seconds=self.now_seconds, in_flight=in_flight)


@pytest.fixture
def run() -> Run:
    """Begin a run with the settings' defaults."""
    return Run()


@pytest.mark.parametrize(("in_flight", "room"), [(0, 32), (5, 27), (32, 0), (40, 0)])
def test_calls_in_flight_are_limited(run: Run, in_flight: int, room: int) -> None:
    """No more calls may start than the concurrency leaves."""
    assert run.room(in_flight=in_flight) == room


@pytest.mark.parametrize(
    "story",
    [
        "ddddd",
        "uuuuu",
        "adudud",
        "rddddd",
        "LLLLL",
        "ddLdL",
        # A backend may look customers up and yet leave every post in doubt, and the other way round.
        "dFdFdFdFd",
        "LaLaLaLaL",
        "a" * 198 + "dd" + "aad",
        "F" * 198 + "dd" + "aaL",
    ],
)
def test_troubles_in_a_row_or_in_number_pause_all_calls(run: Run, story: str) -> None:
    """Five doubtful or unavailable outcomes in a row, or more than 1 % of them, stop all calls for a second."""
    run.tell(story[:-1])
    assert (run.pacing.mode, run.room()) == (Mode.OPEN, 32)
    run.tell(story[-1])
    assert (run.pacing.mode, run.room()) == (Mode.PROBING, 0)
    assert not run.pacing.wants_probe(now_seconds=run.now_seconds)
    assert run.pass_the_pause() == 1
    assert run.pacing.wants_probe(now_seconds=run.now_seconds)


@pytest.mark.parametrize(
    "story",
    [
        "dddda" * 10,
        "dudur" * 10,
        "LLLLF" * 10,
        "r" * 19 + "a" + "r" * 500,
        "9" * 50,
        # A share is none before 200 outcomes are known.
        ("a" * 9 + "d") * 19 + "a" * 9,
        "a" * 1000 + ("d" + "a" * 100) * 30,
        # Trouble more than 1,000 outcomes ago is forgotten.
        "ad" * 8 + "a" * 984 + "da" * 10,
    ],
)
def test_fewer_troubles_pause_nothing_for_good(run: Run, story: str) -> None:
    """Troubles that are fewer, further apart or long ago, rejections and a mere 429 call for no probe."""
    run.tell(story)
    assert (run.pacing.mode, run.pacing.stop) == (Mode.OPEN, "")


def test_troubles_of_calls_in_flight_at_the_pause_count_once(run: Run) -> None:
    """What was in flight when the pause began lengthens it no further and is no second trip."""
    run.tell("d" * 32)
    assert run.pass_the_pause() == 1
    run.tell("d" * 32)
    assert run.probe(FOUND) == 0
    assert run.pacing.stop == ""


def test_after_the_probe_one_post_at_a_time_until_one_is_accepted(run: Run) -> None:
    """An answered probe lets out one call at a time; no look-up and no rejection opens the gate, an acceptance does."""
    run.tell("a" + "d" * 5)
    run.probe(FOUND)
    assert run.pacing.mode is Mode.SINGLE
    assert (run.room(), run.room(in_flight=1)) == (1, 0)
    run.tell("FrU9")
    run.pass_the_pause()
    assert (run.pacing.mode, run.room()) == (Mode.SINGLE, 1)
    run.tell("a")
    assert (run.pacing.mode, run.room()) == (Mode.OPEN, 32)


@pytest.mark.parametrize("trouble", ["LLLLL", "a" * 198 + "ddad"])
def test_trouble_before_a_pause_is_forgotten_after_it(run: Run, trouble: str) -> None:
    """Once a post is accepted again, it takes as much trouble as at the start to pause."""
    run.tell(trouble)
    run.probe(FOUND)
    run.tell("a" + "dddd")
    assert run.room() == 32
    run.tell("d")
    assert run.room() == 0


def test_a_probe_for_an_unknown_customer_is_an_answer(run: Run) -> None:
    """The probe asks whether the backend answers, not whether it knows the tenant."""
    run.tell("ddddd")
    run.probe(UNKNOWN)
    assert run.pacing.mode is Mode.SINGLE


@pytest.mark.parametrize("between", ["", "F", "r", "FrFr"])
def test_three_trips_with_no_acceptance_between_end_the_run(run: Run, between: str) -> None:
    """Pauses of 1 and 2 seconds, then the end: look-ups and rejections between do not count as acceptance."""
    run.tell("a" + "d" * 5)
    assert run.probe(FOUND) == 1
    run.tell(between + "d")
    assert run.probe(FOUND) == 2
    assert run.pacing.stop == ""
    run.tell(between + "d")
    assert "2 pauses" in run.pacing.stop
    assert run.room() == 0


def test_unanswered_probes_wear_the_patience_out(run: Run) -> None:
    """A probe leaves no row in doubt: while it is not answered pauses double up to a minute, for ten minutes in all."""
    run.tell("LLLLL")
    waited = []
    while not run.pacing.stop:
        waited.append(run.probe(LOOKUP_FAILED))
    assert waited[:8] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert 540 < sum(waited) <= 600
    assert "--patience" in run.pacing.stop
    assert not run.pacing.wants_probe(now_seconds=run.now_seconds + 1000)


def test_pauses_double_and_patience_ends_them() -> None:
    """With posts accepted between, pauses grow from 1 second twofold each time, until they outlast the patience."""
    run = Run(patience_seconds=20)
    waited = []
    for _ in range(4):
        run.tell("ddddd")
        waited.append(run.probe(FOUND))
        run.tell("a")
    assert waited == [1, 2, 4, 8]
    run.tell("ddddd")
    assert "16 s" in run.pacing.stop
    assert "5 s of patience left (--patience)" in run.pacing.stop


def test_retry_after_pauses_all_calls_and_is_no_trouble(run: Run) -> None:
    """Retry-After only paces: nothing starts before, all may start after, and there is no trip."""
    for seconds in (30, 10, 30):
        run.post(asked_to_wait(seconds))
    run.tell("9" * 10)
    assert run.room() == 0
    assert run.pass_the_pause() == 30
    assert (run.room(), run.pacing.mode) == (32, Mode.OPEN)


@pytest.mark.parametrize("verdict", [TOO_MANY, asked_to_wait(0)])
def test_a_backend_that_names_no_wait_is_left_alone_for_a_second(run: Run, verdict: Verdict) -> None:
    """A 429 that does not say how long, and a Retry-After of 0, pause for a second."""
    run.post(verdict)
    assert run.room() == 0
    assert run.pass_the_pause() == 1


def test_a_backend_that_always_asks_for_a_moment_wears_the_patience_out() -> None:
    """Not even an endless row of ``Retry-After: 0`` keeps a run alive for longer than its patience."""
    run = Run(patience_seconds=10)
    for _ in range(10):
        run.post(asked_to_wait(0))
        run.pass_the_pause()
    assert run.pacing.stop == ""
    run.post(asked_to_wait(0))
    assert "--patience" in run.pacing.stop


def test_retry_after_beyond_the_patience_ends_the_run_and_names_the_time(run: Run) -> None:
    """A wait that the patience does not cover is not begun."""
    run.post(asked_to_wait(3600))
    assert "3,600 s" in run.pacing.stop
    assert "600 s of patience left (--patience)" in run.pacing.stop
    assert run.pass_the_pause() == 0


def test_patience_is_spent_by_the_time_that_passes() -> None:
    """Waits that overlap are spent once; what is left is the measure of the next."""
    run = Run(patience_seconds=20)
    for _ in range(3):
        run.post(asked_to_wait(10))
    run.now_seconds += 5
    run.post(asked_to_wait(10))
    assert run.pass_the_pause() == 10
    run.post(asked_to_wait(3))
    assert run.pass_the_pause() == 3
    assert run.pacing.stop == ""
    run.post(asked_to_wait(3))
    assert "3 s, longer than the 2 s" in run.pacing.stop


def test_a_probe_that_is_asked_to_wait_waits_and_asks_again(run: Run) -> None:
    """Retry-After only paces the probe too: it is neither an answer nor a trip."""
    run.tell("ddddd")
    run.probe(asked_to_wait(7))
    for _ in range(3):
        assert run.probe(asked_to_wait(7)) == 7
    assert run.pacing.stop == ""
    run.probe(FOUND)
    assert run.pacing.mode is Mode.SINGLE


def test_a_wrong_set_up_ends_the_run_at_once(run: Run) -> None:
    """Whatever call meets it, the first reason to stop stays, nothing starts and nothing is retried."""
    run.post(WRONG_KEY)
    run.post(asked_to_wait(3600))
    assert run.pacing.stop == WRONG_KEY.stop
    assert run.room() == 0
    assert run.pacing.retry_delay_seconds(UNAVAILABLE, tries=1) is None
    for note in ("look_up", "note_probe"):
        other = Run()
        if note == "look_up":
            other.look_up(WRONG_KEY)
        else:
            other.pacing.note_probe(WRONG_KEY, now_seconds=0)
        assert other.pacing.stop == WRONG_KEY.stop


def test_twenty_same_rejections_at_the_start_end_the_run(run: Run) -> None:
    """When each of the first 20 answers is the same 4xx, the set-up is at fault; look-ups do not count."""
    run.tell("F" + "r" * 19 + "F")
    assert run.pacing.stop == ""
    run.tell("r")
    assert "HTTP 400" in run.pacing.stop


@pytest.mark.parametrize("story", ["r" * 500, "U" * 500])
def test_a_backend_that_was_good_before_is_not_at_fault(run: Run, story: str) -> None:
    """Where posts were accepted before, the first answers speak against rows and tenants, not against the set-up."""
    run.was_good_before = True
    run.tell(story)
    assert run.pacing.stop == ""


@pytest.mark.parametrize("other", [ACCEPTED, DOUBT, UNAVAILABLE, rejected(404)])
@pytest.mark.parametrize("before", [0, 10, 19])
def test_one_other_answer_shows_that_rows_differ(run: Run, before: int, other: Verdict) -> None:
    """With any other answer among the first 20, rejections are the rows' own."""
    run.tell("r" * before)
    run.post(other)
    run.tell("r" * 100)
    assert run.pacing.stop == ""


@pytest.mark.parametrize(
    ("story", "ends"),
    [("UUUUU", True), ("UULUU", False), ("UULUUU", True), ("FUUUUU", False), ("UUUUFU", False), ("UUUU", False)],
)
def test_five_unknown_tenants_at_the_start_end_the_run(run: Run, story: str, *, ends: bool) -> None:
    """When the first five tenants are all unknown, the base URL is at fault."""
    run.tell(story)
    assert ("base URL" in run.pacing.stop) is ends


@pytest.mark.parametrize(
    ("verdict", "attempts", "retries", "again"),
    [
        (UNAVAILABLE, 1, 2, True),
        (UNAVAILABLE, 2, 2, True),
        (UNAVAILABLE, 3, 2, False),
        (UNAVAILABLE, 1, 0, False),
        (UNAVAILABLE, 5, 5, True),
        (LOOKUP_FAILED, 1, 2, True),
        (DOUBT, 1, 2, False),
        (rejected(), 1, 2, False),
    ],
)
def test_a_call_is_tried_three_times_at_most(verdict: Verdict, attempts: int, retries: int, *, again: bool) -> None:
    """Only what cannot bill twice is tried again, so often as the settings allow."""
    delay_seconds = Run(retries=retries).pacing.retry_delay_seconds(verdict, tries=attempts)
    assert (delay_seconds is not None) is again


@pytest.mark.parametrize(("attempts", "longest_seconds"), [(1, 0.5), (2, 1), (3, 2), (4, 4), (7, 30), (100, 30)])
def test_the_wait_before_a_retry_is_drawn_from_a_window_that_doubles(attempts: int, longest_seconds: float) -> None:
    """Full jitter: from 0 to half a second, twice that each time, 30 seconds at most."""
    delays_seconds = [
        Run(retries=100, seed=seed).pacing.retry_delay_seconds(UNAVAILABLE, tries=attempts) for seed in range(200)
    ]
    drawn = sorted(delay_seconds for delay_seconds in delays_seconds if delay_seconds is not None)
    assert len(drawn) == 200
    assert 0 <= drawn[0] < 0.1 * longest_seconds
    assert 0.9 * longest_seconds < drawn[-1] <= longest_seconds


def test_a_retry_waits_as_long_as_the_backend_asks(run: Run) -> None:
    """Retry-After is the least wait before the same call is tried again."""
    assert run.pacing.retry_delay_seconds(asked_to_wait(45), tries=1) == 45


def count_retries(run: Run) -> int:
    """Take retries until there are none left."""
    taken = iter(lambda: run.pacing.retry_delay_seconds(UNAVAILABLE, tries=1), None)
    return sum(1 for _ in taken)


def test_all_calls_share_one_budget_of_retries(run: Run) -> None:
    """A hundred retries, then one for ten answers, and never more than a hundred saved up."""
    assert count_retries(run) == 100
    run.tell("aFrFa")
    assert count_retries(run) == 0
    run.tell("aFaFaFaFaF")
    assert count_retries(run) == 1
    run.tell("d" * 4)
    assert count_retries(run) == 0
    run.tell("a" * 5000)
    assert count_retries(run) == 100
