"""The end of a command: last words that may find no reader, an exit code that holds all the same, and signals."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TextIO

import click

if TYPE_CHECKING:
    from uploader.commands.log_lines import LogLines

_ONE_WORD_SECONDS = 1.0
"""Signals so close together mean one: timeout(1) tells a command, and at once its whole group."""


def last_words(text: str, *, err: bool = False) -> None:
    """Print; whoever was to read it may have gone (``| head``, a closed terminal), and is owed the exit code still."""
    encoding = getattr(sys.stderr if err else sys.stdout, "encoding", None) or "utf-8"
    with contextlib.suppress(OSError):
        # A file's name may hold what a strict stream cannot spell.
        click.echo(text.encode(encoding, "backslashreplace").decode(encoding), err=err)


def log_the_end(log: LogLines, exit_code: int, *, text: str = "", facts: Mapping[str, str | int | list[str]]) -> None:
    """Log that the command ended, as the log's last line; without a text that says its exit code alone."""
    from uploader.model.notes import Level, Note  # noqa: PLC0415 -- only a run has notes

    level = {0: Level.INFO, 1: Level.WARNING}.get(exit_code, Level.ERROR)
    text = text or f"ended with exit code {exit_code}"
    log.say(Note(text, "command_ended", level=level, facts={"exit_code": exit_code, **facts}))
    log.end()


def exit_code_of_signal(number: int) -> int:
    """Give the exit code of a command that a signal ended."""
    return 128 + number


def end(exit_code: int) -> NoReturn:
    """End with this exit code; with words left that no one reads, Python would end with its own, 120."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None when the caller closed it (2>&-)
        _empty(stream)
    sys.exit(exit_code)


def _empty(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Note the first SIGINT, SIGTERM or SIGHUP; a later one ends the process at once, which the ledger survives."""
    noted: list[int] = []
    impatient_seconds = math.inf

    def note(number: int, _frame: FrameType | None) -> None:
        nonlocal impatient_seconds
        if not noted:
            impatient_seconds = time.monotonic() + _ONE_WORD_SECONDS
            noted.append(number)
        elif time.monotonic() >= impatient_seconds:
            os._exit(exit_code_of_signal(number))

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # One that the caller has set aside stays so: nohup ignores SIGHUP.
    before = {number: signal.signal(number, note) for number in numbers if signal.getsignal(number) != signal.SIG_IGN}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
