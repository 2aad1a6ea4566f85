"""The manual's pages as something to run: their commands, the files they show, and what they say is printed.

A page is run from top to bottom in one home folder. Before a fence a comment may say how:
``<!-- test: given NAME, NAME -->`` (what there must be first), ``<!-- test: exit 1 -->``, ``<!-- test: file NAME -->``
(the fence is that file), ``<!-- test: not run, WHY -->``; several in one comment are parted by semicolons. A ``text``
fence right after a command is what it prints.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(
    r"(?:^<!-- test: (?P<marks>[^\n]*?) -->\n+)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A fence of a page that can be tried.

    given:     what there must be before it is run.
    exit_code: what its last command ends with.
    file:      the name of the file that its text is; empty for a command.
    why_not:   why it is not run; empty when it is.
    prints:    what the page says it prints; None when it says nothing.
    """

    line: int
    language: str
    text: str
    given: tuple[str, ...] = ()
    exit_code: int = 0
    file: str = ""
    why_not: str = ""
    prints: str | None = None


def steps(page: str) -> Iterator[Step]:
    """Find what can be tried on a page, in its order."""
    fences = list(_FENCE.finditer(page))
    for fence, after in itertools.zip_longest(fences, fences[1:]):
        marks = dict(_mark(mark) for mark in (fence["marks"] or "").split("; ") if mark)
        if fence["language"] not in ("sh", "python") and "file" not in marks:
            continue
        is_followed = (
            after is not None and after["language"] == "text" and not page[fence.end() : after.start()].strip()
        )
        yield Step(
            line=page[: fence.start("text")].count("\n") + 1,
            language=fence["language"],
            text=fence["text"],
            given=tuple(filter(None, marks.get("given", "").split(", "))),
            exit_code=int(marks.get("exit", "0")),
            file=marks.get("file", ""),
            why_not=marks.get("not run", ""),
            prints=after["text"] if after is not None and is_followed else None,
        )


def _mark(text: str) -> tuple[str, str]:
    for name in ("not run", "given", "exit", "file"):
        if text.startswith(name):
            return name, text.removeprefix(name).lstrip(" ,")
    raise ValueError(f"no such mark: {text}")


def shape(text: str) -> str:
    """Take out of a command's output what differs from run to run."""
    text = re.sub(r"[0-9.,]+ s(?:, [0-9,]+ rows/s)?\)", "N s, N rows/s)", text)
    text = re.sub(r"look-ups in [0-9.,]+ s$", "look-ups in N s", text, flags=re.MULTILINE)
    text = re.sub(r"/\S*/uploader-sandbox-\w+/", "/FOLDER/", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?Z", "MOMENT", text)
    text = re.sub(r"by \d{4}-\d\d-\d\d;", "by DAY;", text)
    text = re.sub(r"\br[0-9a-f]{15}\b", "RUN", text)
    text = re.sub(r'"seconds": [0-9.]+', '"seconds": N', text)
    text = re.sub(r"\b[0-9,]+ bytes", "N bytes", text)
    text = re.sub(r"\([0-9,]+ ms\)", "(N ms)", text)
    text = re.sub(r"^ok +tls .*\n", "", text, flags=re.MULTILINE)  # the tests' backend has no certificate
    text = re.sub(r"^(ok +(?:dns|clock)) .*", r"\1 WORDS", text, flags=re.MULTILINE)
    return "\n".join(re.sub(r" +", " ", line).rstrip() for line in text.strip().splitlines())
