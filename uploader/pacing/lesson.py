"""What the next command should know of a backend's limit: learnt from rows in doubt, forgotten when there are none."""

from __future__ import annotations

from typing import NamedTuple

from uploader.pacing.climb import UNQUESTIONED

_MOST_QUIET_COMMANDS = 7
"""A week of nights: then the limit is found out anew, since the backend may take more by now."""


class KnownCeiling(NamedTuple):
    """How many calls at once were too many for a backend.

    quiet_commands: that posted below it since, and left no row in doubt.
    """

    calls: float
    quiet_commands: int = 0


class Lesson:
    """What one command learns.

    before: what it was told by the one before it.
    """

    def __init__(self, before: KnownCeiling | None) -> None:
        self.before = before
        self._has_left_doubt = False
        self._is_well = False

    def note_accepted(self) -> None:
        """Learn that a post was accepted."""
        self._is_well = True

    def note_doubt(self) -> None:
        """Learn that load left a row in doubt."""
        self._has_left_doubt = True
        self._is_well = False

    def for_the_next(self, ceiling: float) -> KnownCeiling | None:
        """Give what the next command should know, from the ceiling in the end; None for nothing.

        So few calls that any backend takes them, or none accepted since, tell of another trouble than a limit.
        """
        if not self._is_well or (self._has_left_doubt and ceiling < UNQUESTIONED):
            return self.before
        if self._has_left_doubt:
            return KnownCeiling(ceiling)
        if self.before is None or ceiling > self.before.calls:  # which went well
            return None
        quiet_commands = self.before.quiet_commands + 1
        return self.before._replace(quiet_commands=quiet_commands) if quiet_commands < _MOST_QUIET_COMMANDS else None
