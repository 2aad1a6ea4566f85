"""Text from the server in the results: cut, and harmless in a spreadsheet."""

from __future__ import annotations

import re
import tempfile
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.results.written import QUICK_FOLDER, Run, StateOf, column, usage_log
from uploader.model.model import Outcome, Reason, RowState
from uploader.results.reservation import Names

WIDE_FORMULAS = ["\uff1d1", "\uff0b1", "\uff0d1", "\uff20x", "\ufe661", "\ufe621", "\ufe631", "\ufe6bx"]
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", *WIDE_FORMULAS]
LEADS = [
    "",
    "\t",
    "\r",
    "\n",
    "\0",
    " ",
    "\xa0",
    "\u3000",
    "\x1f",
    "\x85",
    "\u2028",
    "\ufeff",
    '"',
    ",",
    ";",
    'x;"',
    "x, ",
    "x|",
]


def starts_a_formula(cell: str) -> bool:
    """Tell whether a spreadsheet might find a formula, be it by opening the file with another delimiter."""
    starts = [re.sub(r'^[\s"\ufeff\0]+', "", piece)[:1] for piece in re.split("[,;|\t\r\n]", cell)]
    return any(unicodedata.normalize("NFKC", start) in {"=", "+", "-", "@"} for start in starts)


def all_say(text: str, *, response: str | None = None) -> StateOf:
    """Have the server say a text wherever it can say one."""
    outcome = Outcome(Reason.REJECTED, text, 422, text if response is None else response)
    return lambda row: RowState(row.number, outcome, 1, 1, text)


def texts_of(names: Names) -> dict[str, str]:
    """Read the columns that may hold a server's text, of one row."""
    return {name: column(names.results, name)[0] for name in ("upload_detail", "upload_response", "upload_customer_id")}


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_servers_text_never_starts_a_formula(usage_csv: Path, formula: str) -> None:
    """No text from outside is taken for a formula, whatever leads up to it, nor does it begin another line."""
    for number, lead in enumerate(LEADS):
        text = lead + formula
        assert starts_a_formula(text), "the test's own eye"
        names = Run(run_id=f"r{number}").write(usage_csv, all_say(text))
        for cell in texts_of(names).values():
            assert not starts_a_formula(cell)
            assert len(cell.splitlines()) == 1
            assert cell.replace("'", "").endswith(formula)


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(st.sampled_from("=+-@,;|'\" \t\r\n\0\u2028\x85\uff1dab1") | st.characters(exclude_categories=["Cs"]))
)
def test_any_text_from_a_server_is_harmless(text: str) -> None:
    """Whatever a server sends, its text starts no formula and no line, and fits in a kibibyte."""
    with tempfile.TemporaryDirectory(dir=QUICK_FOLDER) as folder:
        usage = usage_log(Path(folder) / "usage.csv")
        texts = texts_of(Run().write(usage, all_say(text, response=text * 100)))
    for cell in texts.values():
        assert not starts_a_formula(cell)
        assert len(cell.splitlines()) <= 1
    assert len(texts["upload_response"].encode()) <= 1024


@pytest.mark.parametrize(
    "text", ['{"id": "evt_1", "n": [1, 2]}', "<html>Bad gateway</html>", "日本語 ä 😀", "a=b+c-d@e"]
)
def test_a_servers_harmless_text_is_unchanged(usage_csv: Path, text: str) -> None:
    """A text in which no spreadsheet could find a formula stays as it came."""
    assert set(texts_of(Run().write(usage_csv, all_say(text))).values()) == {text}


@pytest.mark.parametrize("character", ["x", "é", "日", "😀"])
def test_a_long_answer_is_cut_between_characters(usage_csv: Path, character: str) -> None:
    """Of a long answer a kibibyte is kept, and no half of a character."""
    texts = texts_of(Run().write(usage_csv, all_say("", response=character * 1024)))
    assert texts["upload_response"] == character * (1024 // len(character.encode()))
