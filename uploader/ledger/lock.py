"""A lock file that says who holds it; the operating system lets go of it when its process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from uploader.model.errors import LedgerRefusal, StoppedError

_MOST_BYTES = 4096
_TRIES = 10
_SECONDS_BETWEEN_TRIES = 0.05
"""Long enough to sit out a command that only looks at the run."""
_TRIES_FOR_A_MOMENT = 100
_TRIES_FOR_A_TURN = 12_000
"""Ten minutes: what is done in a turn takes some seconds for each million rows, unless its process was stopped."""


class Lock:
    """Held from its making until ``release``."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            LedgerRefusal: another process holds it.
            OSError: the file cannot be made or opened.
        """
        self._file = _opened(path)
        if not _takes(self._file, fcntl.LOCK_EX, tries=_TRIES):
            who = _text(self._file) or "another process"
            os.close(self._file)
            raise LedgerRefusal(
                f"this run is being worked on by {who}",
                remedy="wait until it has ended, then run the same command again",
            )
        self.say("")

    def say(self, what: str) -> None:
        """Tell whoever looks what the holder is doing."""
        self._write(
            f"process {os.getpid()} {what}".rstrip().encode("utf-8", "backslashreplace")[: _MOST_BYTES - 1] + b"\n"
        )

    def release(self) -> None:
        """Let go of it."""
        self._write(b"")
        os.close(self._file)

    def _write(self, line: bytes) -> None:
        with contextlib.suppress(OSError):  # words for people; that a disk is full is the ledger's to tell
            os.pwrite(self._file, line, 0)
            os.ftruncate(self._file, len(line))


@contextlib.contextmanager
def turn(path: Path, *, waits: Callable[[], None], should_stop: Callable[[], bool]) -> Iterator[None]:
    """Hold a lock that others wait for, each for its turn.

    waits:       called once, if another process has it.
    should_stop: asked all the time; True ends the wait.

    Raises:
        LedgerRefusal: another process has held it for ten minutes.
        StoppedError: the wait was ended.
        OSError: the file cannot be made or opened.
    """
    file = _opened(path)
    try:
        if not _takes(file, fcntl.LOCK_EX, tries=1):
            waits()
            _wait_for(file, path, should_stop)
        yield
    finally:
        os.close(file)


@contextlib.contextmanager
def moment(path: Path) -> Iterator[None]:
    """Hold a lock that others have for moments only; whoever hangs with it holds up nobody for longer than seconds.

    Raises:
        OSError: the file cannot be made or opened.
    """
    file = _opened(path)
    try:
        _takes(file, fcntl.LOCK_EX, tries=_TRIES_FOR_A_MOMENT)
        yield
    finally:
        os.close(file)


def _wait_for(file: int, path: Path, should_stop: Callable[[], bool]) -> None:
    if _takes(file, fcntl.LOCK_EX, tries=_TRIES_FOR_A_TURN, should_stop=should_stop):
        return
    if should_stop():
        raise StoppedError("not begun, because the command was interrupted", remedy="run the same command again")
    raise LedgerRefusal(
        f"{path} has been held for ten minutes by another command that begins",
        remedy="end it, if it hangs, then run the same command again",
    )


def holder(path: Path) -> str:
    """Give what the process that holds a lock says of itself; empty when none holds it. For people to read.

    Only the lock itself tells: a process of the same number may be another one, in another container above all.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # none there, or a folder that is none: whoever opens the ledger will say so
        return ""
    try:
        return "" if _takes(file, fcntl.LOCK_SH, tries=1) else _text(file) or "another process"
    finally:
        os.close(file)


def _opened(path: Path) -> int:
    """Open a lock's file, or make it; made by root, it is the folder's owner's, whose next upload needs it."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    if os.geteuid() == 0:
        folder = path.parent.stat()
        os.fchown(file, folder.st_uid, folder.st_gid)
    return file


def _takes(file: int, kind: int, *, tries: int, should_stop: Callable[[], bool] = lambda: False) -> bool:
    """Take the lock, unless others hold it all the while; tell whether it was taken."""
    for tries_left in reversed(range(tries)):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        if should_stop():
            return False
        if tries_left:
            time.sleep(_SECONDS_BETWEEN_TRIES)
    return False


def _text(file: int) -> str:
    return os.pread(file, _MOST_BYTES, 0).decode("utf-8", "replace").strip()
