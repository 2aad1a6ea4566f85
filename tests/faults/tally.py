"""How much of the fault suite is run, and the figures that it comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Extent:
    """The short form, for every day, or the full one (``--faults=full``)."""

    is_full: bool

    def of(self, *, short: T, full: T) -> T:
        """Choose between the two forms."""
        return full if self.is_full else short

    def examples(self, *, short: int, full: int, **further: Any) -> settings:
        """Choose how many examples hypothesis tries; in the short form they are the same every time."""
        return settings(
            max_examples=self.of(short=short, full=full),
            derandomize=not self.is_full,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            **further,
        )


@dataclass(slots=True)
class Tally:
    """What the scenarios come to.

    kills:        processes ended by SIGKILL, and disks cut.
    rows:         in all usage logs.
    in_doubt:     rows that were in doubt at any time.
    billed_twice: rows that the server billed more than once.
    lost:         rows that were not billed although the scenario was brought to its end.
    """

    scenarios: int = 0
    kills: int = 0
    rows: int = 0
    in_doubt: int = 0
    billed_twice: int = 0
    lost: int = 0

    def add(self, figures: Mapping[str, int]) -> None:
        """Add what another process counted, by the names of the fields."""
        for name, figure in figures.items():
            setattr(self, name, getattr(self, name) + figure)

    def __str__(self) -> str:
        """Give the summary line."""
        return (
            f"{self.scenarios:,} scenarios, {self.kills:,} kills, {self.rows:,} rows, {self.in_doubt:,} rows in doubt, "
            f"{self.billed_twice:,} billed twice, {self.lost:,} lost"
        )
