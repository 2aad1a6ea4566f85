"""A lock file that says who holds it; the operating system lets go of it when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from pathlib import Path

from uploader.errors import LedgerRefusal

_MOST_BYTES = 4096
_TRIES = 10
_SECONDS_BETWEEN_TRIES = 0.05
"""Long enough to sit out a command that only looks at the run."""
_PROCESS = re.compile(r"process (\d+)\b.*")


class Lock:
    """Held from its making until ``release``."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            LedgerRefusal: another process holds it.
            OSError: the file cannot be made or opened.
        """
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        if not _is_taken(self._file):
            who = _text(self._file) or "another process"
            os.close(self._file)
            raise LedgerRefusal(
                f"this run is being worked on by {who}",
                remedy="wait until it has ended, then run the same command again",
            )
        self.say("")

    def say(self, what: str) -> None:
        """Tell whoever looks what the holder is doing."""
        self._write(f"process {os.getpid()} {what}".rstrip().encode()[: _MOST_BYTES - 1] + b"\n")

    def release(self) -> None:
        """Let go of it."""
        self._write(b"")
        os.close(self._file)

    def _write(self, line: bytes) -> None:
        with contextlib.suppress(OSError):  # words for people; that a disk is full is the ledger's to tell
            os.pwrite(self._file, line, 0)
            os.ftruncate(self._file, len(line))


def holder(path: Path) -> str:
    """Give what the process that holds a lock says of itself; empty when there is none. For people to read."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # none there, or a folder that is none: whoever opens the ledger will say so
        return ""
    try:
        said = _PROCESS.fullmatch(_text(file))
    finally:
        os.close(file)
    return said[0] if said and _is_alive(int(said[1])) else ""


def _is_taken(file: int) -> bool:
    for tries_left in reversed(range(_TRIES)):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if tries_left:
            time.sleep(_SECONDS_BETWEEN_TRIES)
    return False


def _text(file: int) -> str:
    return os.pread(file, _MOST_BYTES, 0).decode("utf-8", "replace").strip()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
