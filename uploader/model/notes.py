"""What a run says of itself while it goes on: one note a change of its state, and never a row's data."""

from __future__ import annotations

import enum
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


class Level(enum.Enum):
    """How much a note matters to whoever reads the log in the morning."""

    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


LOGGING_LEVEL_BY_LEVEL = {Level.INFO: logging.INFO, Level.WARNING: logging.WARNING, Level.ERROR: logging.ERROR}


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence worth reading, and what a program can take from it.

    text:   for a person; it does not name the file.
    event:  what happened, in one word; docs/operations.md lists them.
    path:   the usage log it is about; None for the whole command.
    run_id: the ledger's run; empty where there is none yet.
    counts: whole numbers of rows, units or calls, by their name.
    facts:  anything else, by its name, such as where the results are.
    """

    text: str
    event: str
    level: Level = field(default=Level.INFO, kw_only=True)
    path: Path | None = field(default=None, kw_only=True)
    run_id: str = field(default="", kw_only=True)
    counts: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    facts: Mapping[str, str | int | float | list[str]] = field(default_factory=dict, kw_only=True)

    @property
    def sentence(self) -> str:
        """Give the text with the file that it is about."""
        return self.text if self.path is None else f"{self.path}: {self.text}"
