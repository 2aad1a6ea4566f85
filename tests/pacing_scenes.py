"""Backends of all manners, simulated: what the tests of the limiter hold it to, and what docs/pacing.md shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.simulated_backend import Answered, Backend, Story, always, simulate, stepwise
from uploader.pacing.lesson import KnownCeiling

FIXED = (8, 32, 64, 128)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A backend, how long it is posted to, and how many rows the adaptive limit may leave in doubt there."""

    title: str
    backend: Callable[[], Backend]
    seconds: float = 40.0
    most_in_doubt: int = 0
    row_seconds: float = 20e-6
    commit_seconds: float = 300e-6
    stall_seconds: float = 0.0

    def run(self, concurrency: int | None, *, known_ceiling: KnownCeiling | None = None) -> Story:
        """Post to a fresh copy of the backend; None for the adaptive limit.

        known_ceiling: what an earlier run left of it.
        """
        return simulate(
            self.backend(),
            seconds=self.seconds,
            concurrency=concurrency,
            row_seconds=self.row_seconds,
            commit_seconds=self.commit_seconds,
            stall_seconds=self.stall_seconds,
            known_ceiling=known_ceiling,
        )

    def rate(self, story: Story) -> float:
        """Give the rows accepted a second, from the first moment on."""
        return story.accepted_per_second(0, self.seconds)


SCENES = {
    "queueing": Scene(
        title="40 workers and an endless queue",
        backend=lambda: Backend(workers=always(40), service_seconds=always(0.1)),
    ),
    "uneven": Scene(
        title="60 workers whose times vary widely",
        backend=lambda: Backend(workers=always(60), service_seconds=always(0.15), noise=1.0),
    ),
    "far": Scene(
        title="50 ms away, and never busy",
        backend=lambda: Backend(workers=always(1000), service_seconds=always(0.002), journey_seconds=0.05),
        seconds=10,
    ),
    "near": Scene(
        title="faster than this process can post",
        backend=lambda: Backend(workers=always(4), service_seconds=always(0.0001), journey_seconds=0.0001),
        seconds=5,
        row_seconds=200e-6,
        commit_seconds=4e-3,
    ),
    "single": Scene(
        title="one worker",
        backend=lambda: Backend(workers=always(1), service_seconds=always(0.005)),
    ),
    "changing": Scene(
        title="60 workers, 15 of them from 10 s to 25 s",
        backend=lambda: Backend(workers=stepwise((0, 60), (10, 15), (25, 60)), service_seconds=always(0.1)),
    ),
    "shared": Scene(
        title="40 workers; from 10 s to 25 s others take 70 % of them",
        backend=lambda: Backend(
            workers=always(40),
            service_seconds=always(0.1),
            others_per_second=stepwise((0, 0), (10, 280), (25, 0)),
        ),
    ),
    "slower": Scene(
        title="three times as slow for each call from 10 s to 25 s",
        backend=lambda: Backend(workers=always(60), service_seconds=stepwise((0, 0.1), (10, 0.3), (25, 0.1))),
    ),
    "shedding": Scene(
        title="more than 40 at once are answered 503",
        backend=lambda: Backend(workers=always(100), service_seconds=always(0.1), most_held=always(40)),
        most_in_doubt=15,
    ),
    "pacing": Scene(
        title="more than 40 at once are answered 429",
        backend=lambda: Backend(
            workers=always(100), service_seconds=always(0.1), most_held=always(40), refusal=Answered.ASKED_TO_WAIT
        ),
    ),
    "losing": Scene(
        title="more than 40 at once are never answered",
        backend=lambda: Backend(
            workers=always(100),
            service_seconds=always(0.1),
            most_held=always(40),
            refusal=Answered.LOST,
            timeout_seconds=2,
        ),
        most_in_doubt=60,
    ),
    "shedding soon": Scene(
        title="more than 48 at once are answered 503, the others after 20 ms, for 8 s",
        backend=lambda: Backend(workers=always(1000), service_seconds=always(0.02), noise=0, most_held=always(48)),
        seconds=8,
        most_in_doubt=3,
        row_seconds=75e-6,
        commit_seconds=500e-6,
        stall_seconds=10e-3,
    ),
    "falling": Scene(
        title="32 workers, 2 of them from 2 s to 4 s, for 8 s",
        backend=lambda: Backend(
            workers=stepwise((0, 32), (2, 2), (4, 32)), service_seconds=always(0.01), noise=0, timeout_seconds=1
        ),
        seconds=8,
        row_seconds=75e-6,
        commit_seconds=500e-6,
    ),
    "bursts": Scene(
        title="50 ms away, never busy, and this process takes its time with each answer",
        backend=lambda: Backend(workers=always(1000), service_seconds=always(0.001), noise=0, journey_seconds=0.05),
        seconds=8,
        row_seconds=75e-6,
        commit_seconds=500e-6,
    ),
    "shedding earlier": Scene(
        title="503 above 80 at once, above 20 from 10 s to 25 s",
        backend=lambda: Backend(
            workers=always(100), service_seconds=always(0.1), most_held=stepwise((0, 80), (10, 20), (25, 80))
        ),
        most_in_doubt=40,
    ),
}
