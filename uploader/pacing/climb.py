"""How fast the limit may rise: quickly up to what the backend has held before, gently beyond.

A backend says that it is overrun by refusing, and each refused row may be a question to a person. So the height by
which the limit goes past what is known to be held is the number of those questions, and it is kept small.

What is known to be held is not the limit itself: while this process is busy, answers lie unread, and fewer calls are at
the backend than are in flight. Of those that a turn left in flight, the ones whose answers the next turn finds may have
been such; the others, and those that were just started, were at the backend together.
"""

from __future__ import annotations

UNQUESTIONED = 16
"""Any backend takes so many, or says so at little cost: the limit doubles with each round trip up to here."""

_BACK_PER_ANSWER = 1 / 2  # to where it was before: two round trips for a doubling
_ONWARD_PER_ANSWER = 1 / 4  # a quarter a round trip: a refusal that comes at once meets one or two calls
_UNPROVED_PER_ANSWER = 1 / 16  # not none: a process that is always busy would never prove anything
_LEAST_UNPROVED = 3  # fewer than would pause the run, were all of them refused
_UNPROVED_SHARE = 1 / 16  # of what is known, so that a high limit is reached in seconds


class Climb:
    """Knows what the backend has held, and gives the pace.

    is_full: as many calls as the limit allowed were in flight until this turn: rows enough are ready.
    """

    def __init__(self, *, limit: int) -> None:
        self.is_full = True
        self._limit = limit
        self._ended = 0
        self._left_in_flight = 0
        self._held = 0.0

    def note_end(self) -> None:
        """Learn that a call has ended, however."""
        self._ended += 1

    def note_turn(self, *, limit: int, in_flight: int) -> None:
        """Learn how many calls are left in flight, before others start up to the limit."""
        self.is_full = in_flight + self._ended >= self._limit
        if self.is_full:
            self._held = max(self._held, self._limit - min(self._left_in_flight, self._ended))
        self._limit, self._left_in_flight, self._ended = limit, in_flight, 0

    def know(self, held: float) -> None:
        """Learn from a refusal what the backend holds: it may have been more before."""
        self._held = held

    def per_answer(self, limit: float) -> float:
        """Give the step up from a limit that an answer allows."""
        if limit < UNQUESTIONED:
            return 1.0
        if limit < self._held:
            return _BACK_PER_ANSWER
        if limit < self._held + max(_LEAST_UNPROVED, _UNPROVED_SHARE * self._held):
            return _ONWARD_PER_ANSWER
        return _UNPROVED_PER_ANSWER
