"""The errors as a set: each says what happened, and what to do next."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from uploader.model import errors

PACKAGE = Path(__file__).parents[1] / "uploader"
OURS = {name for name, found in vars(errors).items() if isinstance(found, type) and issubclass(found, Exception)}


def _raised() -> dict[str, ast.Call]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in OURS:
                continue
            if ast.unparse(node.args[0]) != "''":  # one that is never raised, to ask for its exit code
                found[f"{path.stem} {ast.unparse(node.args[0])[:60]}"] = node
    return found


RAISED = _raised()


@pytest.mark.parametrize("place", RAISED)
def test_every_error_says_what_to_do_next(place: str) -> None:
    """A remedy stands with each, and the first word is no capital: it follows a file's name or 'error: '."""
    call = RAISED[place]
    assert [keyword.arg for keyword in call.keywords] == ["remedy"]
    first = next((node.value for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant)), "")
    assert isinstance(first, str)
    assert not first[:1].isupper() or first.startswith(("SQLite", "UPLOADER_"))


def test_there_are_errors_to_look_at() -> None:
    """The search above finds those of several files."""
    assert len(RAISED) > 50
    assert len({place.split()[0] for place in RAISED}) > 10
