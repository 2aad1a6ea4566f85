"""Whatever an operator, a moody backend and crashes do, in whatever order: nothing twice, nothing lost."""

from __future__ import annotations

import random
from pathlib import Path
from typing import ClassVar

from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.command import Ended, read_rows
from tests.faults.misdeeds import moody
from tests.faults.scene import NewScene, Scene, failed_of, kill_at, rewrite
from tests.faults.tally import Extent

ROWS = 24
BROKEN = ("dev-5", "dev-11")
KILLS = st.one_of(st.none(), st.integers(1, ROWS))


class Nights(RuleBasedStateMachine):
    """A usage log and its operator, night after night.

    The operator sees the backend's books, and marks rows in doubt by them before each replay; rows that are broken in
    the log are mended on the way. What else they do to a failed file must do no harm.
    """

    new_scene: ClassVar[NewScene]

    def __init__(self) -> None:
        super().__init__()
        self.scene: Scene = self.new_scene(rows=ROWS, broken=BROKEN).__enter__()
        # A backend in trouble is not waited for: the operator comes again.
        self.scene.options = ("--patience", "0", "--retries", "1", "--timeout", "5")
        self.failed: list[Path] = []

    @initialize(seed=st.integers(0, 2**32), kill=KILLS)
    def begin(self, seed: int, kill: int | None) -> None:
        """Upload for the first time, to a backend that fails now and then."""
        self.change_mood(seed, 0.1)
        self.upload(kill)

    @rule(seed=st.integers(0, 2**32), share=st.sampled_from([0.0, 0.1, 0.3, 0.8]))
    def change_mood(self, seed: int, share: float) -> None:
        """Have the backend fail at random from now on, or be well again."""
        self.scene.respond = moody(seed, share=share)

    @rule(kill=KILLS)
    def upload(self, kill: int | None) -> None:
        """Run the upload again; perhaps the process is killed."""
        self._note(self.scene.upload(at_post=kill_at(kill) if kill else None))

    @rule(kill=KILLS, age=st.integers(0, 3), is_marked=st.booleans())
    def replay(self, kill: int | None, age: int, is_marked: bool) -> None:  # noqa: FBT001 -- hypothesis gives it
        """Replay the newest failed file or an older one, with new marks or as it is; perhaps the process is killed."""
        failed = self._failed_files()
        if not failed:
            return
        path = failed[-1 - age % len(failed)]
        if is_marked:
            self.scene.mark(path)
        self._note(self.scene.replay(path, at_post=kill_at(kill) if kill else None))

    @rule(seed=st.integers(0, 2**32))
    def mess_up(self, seed: int) -> None:
        """Sort the newest failed file anew, lose some of its rows, and have some twice."""
        failed = self._failed_files()
        if not failed:
            return
        chance = random.Random(seed)  # noqa: S311 -- no secret
        rows = read_rows(failed[-1])
        rewrite(failed[-1], chance.choices(rows, k=len(rows)))

    def teardown(self) -> None:
        """Bring it to its end."""
        with self.scene:
            self.scene.settle()

    def _failed_files(self) -> list[Path]:
        # An upload that finds all its rows accepted meanwhile, by replays, takes its failed file away.
        return [path for path in self.failed if path.exists()]

    def _note(self, done: Ended) -> None:
        failed = failed_of(done)
        if failed:
            self.failed.append(failed)


def test_nights_of_every_kind(new_scene: NewScene, extent: Extent) -> None:
    """Upload, crash, resume, replay, edit and re-run, in whatever order: all is billed once in the end."""

    class NightsHere(Nights):
        pass

    NightsHere.new_scene = staticmethod(new_scene)
    run_state_machine_as_test(
        NightsHere,
        # No shrinking: a run of processes is never quite the same twice.
        settings=extent.examples(
            short=2, full=60, stateful_step_count=extent.of(short=6, full=12), phases=[Phase.generate]
        ),
    )
