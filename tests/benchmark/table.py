"""Figures, and how they are shown: Markdown for people, JSON for programs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median


class UnmeasuredError(Exception):
    """Something could not be measured here; the message says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One figure.

    target: in words; empty when nothing is demanded of it.
    is_met: None when nothing is demanded, or it was not measured.
    note:   how it was measured, or why it was not.
    """

    what: str
    value: str
    target: str = ""
    is_met: bool | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Grid:
    """Figures that are best seen side by side; every line has as many cells as the header."""

    header: Sequence[str]
    lines: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What one part of the benchmark found.

    samples: every single figure behind the rows, by what was measured, in the order of the rounds.
    """

    name: str
    title: str
    rows: Sequence[Row]
    grids: Sequence[Grid] = ()
    samples: dict[str, list[float]] = field(default_factory=dict)


def unmeasured(what: str, why: UnmeasuredError, *, target: str = "") -> Row:
    """Make the row of something that could not be measured."""
    return Row(what=what, value="not measured", target=target, note=str(why))


def at_least(what: str, value: float, least: float, *, digits: int = 2, unit: str = "", note: str = "") -> Row:
    """Make the row of a figure that must not be smaller."""
    return Row(
        what=what,
        value=f"{value:,.{digits}f}{unit}",
        target=f"at least {least:,g}{unit}",
        is_met=value >= least,
        note=note,
    )


def at_most(what: str, value: float, most: float, *, digits: int = 2, unit: str = "", note: str = "") -> Row:
    """Make the row of a figure that must not be larger."""
    return Row(
        what=what,
        value=f"{value:,.{digits}f}{unit}",
        target=f"at most {most:,g}{unit}",
        is_met=value <= most,
        note=note,
    )


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Give the median of the rounds' ratios: both of a round were measured under the same load of the machine."""
    return median(one / other for one, other in zip(ours, theirs, strict=True))


def per_second(values: Sequence[float], *, what: str = "rows") -> str:
    """Show rates by their median, with their range when there are several."""
    middle = f"{median(values):,.0f} {what}/s"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.0f} to {max(values):,.0f})"


def markdown(section: Section) -> str:
    """Show a section as Markdown tables."""
    parts = []
    if section.rows:
        lines = [(row.what, row.value, row.target, _verdict(row), row.note) for row in section.rows]
        parts.append(_markdown_table(("", "measured", "target", "met", "how"), lines))
    parts.extend(_markdown_table(grid.header, grid.lines) for grid in section.grids)
    return "\n\n".join(parts)


def write_into(path: Path, text_by_name: dict[str, str]) -> None:
    """Put texts between the marks ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` of a Markdown file.

    Raises:
        UnmeasuredError: the file lacks the marks for one of them.
    """
    whole = path.read_text(encoding="utf-8")
    for name, text in text_by_name.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
        if not pattern.search(whole):
            raise UnmeasuredError(f"{path} lacks the marks {begin} and {end}")
        filled = f"{begin}\n{text}\n{end}"
        whole = pattern.sub(lambda _, filled=filled: filled, whole)  # type: ignore[misc]  # its type cannot be written
    path.write_text(whole, encoding="utf-8")


def _verdict(row: Row) -> str:
    return {None: "", True: "yes", False: "**no**"}[row.is_met]


def _markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    return "\n".join([line(header), line(["---"] * len(header)), *(line(cells) for cells in lines)])
