"""Tells when posting pauses, probes, goes on and ends, from what can be seen of the pacing in every round."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from uploader.model.notes import Level, Note
from uploader.pacing.pacing import Mode, Pacing

_SAME_PAUSE_SECONDS = 0.5
"""Answers that were in flight lengthen a pause by their own small differences: not worth a line each."""


class PacingNotes:
    """Compares the pacing with how it last was, and says what has changed.

    say: takes the notes.
    """

    def __init__(self, pacing: Pacing, *, say: Callable[[Note], None]) -> None:
        self._pacing = pacing
        self._say = say
        self._mode = pacing.mode
        self._paused_until_seconds = 0.0
        self._is_probing = False
        self._stopped: Path | None = None

    def look(self, path: Path, *, stop: str) -> None:
        """Say what has changed, while posting the rows of one file.

        stop: why no further call starts for it; empty while it goes on.
        """
        if stop:
            if self._stopped != path:
                self._stopped = path
                text = f"no further call starts: {stop}; those in flight are waited for"
                self._say(Note(text, "stopping", level=Level.WARNING, path=path, facts={"why": stop}))
            return
        now_seconds = time.monotonic()
        wait_seconds = self._pacing.wait_seconds(now_seconds=now_seconds)
        if wait_seconds > 0:
            self._look_at_pause(path, wait_seconds, until_seconds=now_seconds + wait_seconds)
        else:
            self._look_at_mode(path)
        self._mode = self._pacing.mode

    def _look_at_pause(self, path: Path, wait_seconds: float, *, until_seconds: float) -> None:
        if until_seconds < self._paused_until_seconds + _SAME_PAUSE_SECONDS:
            return
        self._paused_until_seconds = until_seconds
        self._is_probing = False
        why = "the backend asks to wait"
        event = "paused"
        if self._pacing.mode is Mode.PROBING:
            has_tripped = self._mode is not Mode.PROBING
            event = "tripped" if has_tripped else "paused"
            what = "calls get no good answer" if has_tripped else "the backend is not ready yet"
            why = f"{what}; the last: {self._pacing.trouble}"
        text = f"posting pauses for {wait_seconds:,.1f} s: {why}"
        seconds = round(wait_seconds, 3)
        self._say(Note(text, event, level=Level.WARNING, path=path, facts={"why": why, "seconds": seconds}))

    def _look_at_mode(self, path: Path) -> None:
        mode = self._pacing.mode
        if mode is Mode.PROBING:
            if not self._is_probing:
                self._is_probing = True
                self._say(Note("a look-up asks whether the backend answers again", "probing", path=path))
        elif mode is Mode.SINGLE:
            if self._mode is not mode:
                text = "the backend answers again; one call at a time until a post is accepted"
                self._say(Note(text, "probed", path=path))
        elif self._mode is not mode or self._paused_until_seconds:
            self._say(Note("posting goes on", "resumed", path=path))
        if mode is not Mode.PROBING:
            self._paused_until_seconds = 0.0
            self._is_probing = False
