"""A failed file through LibreOffice Calc itself: typed into, decided, sorted, saved as .xlsx and as CSV, replayed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import Received, contract
from tests.billing_server import BillingServer
from tests.command import EVENT_COLUMNS, Home, cells, read_rows, write_csv
from tests.test_export import HOSTILE_TEXTS, uploaded
from uploader.results.own_files import open_own_file

SESSION = Path(__file__).with_name("libreoffice_session.py")
ITS_PYTHON = "/usr/bin/python3"
LONGEST_SECONDS = 90
Step = Sequence[str | int]


@cache
def is_there() -> bool:
    """Tell whether LibreOffice Calc can be started, and spoken to."""
    if not shutil.which("soffice") or not Path(ITS_PYTHON).exists():
        return False
    return subprocess.run([ITS_PYTHON, "-c", "import uno"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not is_there(), reason="needs libreoffice-calc and python3-uno")


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give LibreOffice a profile of its own; setting it up takes longest."""
    return tmp_path_factory.mktemp("libreoffice")


def in_libreoffice(profile: Path, path: Path, *steps: Step) -> Any:
    """Open a file in LibreOffice and do something with it; give what was read (see libreoffice_session.py)."""
    work = {"profile": str(profile), "open": str(path), "steps": steps}
    done = subprocess.run(
        [ITS_PYTHON, SESSION, json.dumps(work)], capture_output=True, text=True, check=False, timeout=LONGEST_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def misbehave(received: Received) -> Answer:
    """Reject the posts of "wrong"; lose the answer to "lost", which is recorded, and to "gone", which is not."""
    device = received.headers.get("x-device-id", "")
    if device == "wrong":
        return reply(422)
    return Answer(then=Then.FIN, bills=device == "lost") if device in ("lost", "gone") else contract(received)


@pytest.mark.parametrize("suffix", ["xlsx", "csv"])
def test_rows_are_corrected_and_decided_in_libreoffice(
    home: Home, billing_server: BillingServer, profile: Path, suffix: str
) -> None:
    """Typed over, marked `recorded` and `resend`, sorted and saved, every row is billed exactly once, as meant."""
    billing_server.respond = misbehave
    write_csv(
        home.folder / "usage.csv",
        [
            ("acme", "ok", "api", 1),
            ("00123", "wrong", "api", 2),
            ("acme", "lost", "api", 3),
            ("acme", "gone", "api", 4),
            ("acme", "short", "api"),
            ("acme", "open", "1-2", "nine"),
            ("acme", "lost", "=1+1", 6),
        ],
    )
    assert home.run_here("upload", "usage.csv").exit_code == 1
    assert home.run_here("export", "usage.failed.csv").exit_code == 0
    saved = home.folder / f"saved.{suffix}"
    shown = in_libreoffice(
        profile,
        home.folder / "usage.failed.xlsx",
        ["type", "B2", "0077"],
        ["type", "I3", "recorded"],
        ["type", "I4", "resend"],
        *(["type", f"{column}5", text] for column, text in zip("ABCD", ("acme", "1E5", "2-3", "5"), strict=True)),
        ["type", "D6", "9"],
        ["read", "B2"],
        ["read", "B5"],
        ["read", "C5"],
        ["read", "C7"],
        ["sort", "A1:Q7", 4],
        ["hide_rows_but", 0, "acme"],
        ["add_sheet", "mine"],
        ["save", str(home.folder / "saved.xlsx")],
        *([["delete_sheet", "mine"], ["save", str(saved)]] if suffix == "csv" else []),
    )
    assert shown == ["0077", "1E5", "2-3", "=1+1"]
    billing_server.respond = contract
    done = home.run_here("replay", saved.name)
    assert done.exit_code == 1, done.said
    rows = read_rows(home.folder / "saved.replay1.results.csv")
    assert cells(rows, "upload_row") == ["7", "6", "5", "4", "3", "2"]
    assert cells(rows, "upload_replay") == ["confirm", "", "", "", "", ""]
    assert {tuple(row): count for row, count in billing_server.billed().items()} == {
        ("acme", "ok", "api", 1): 1,
        ("00123", "0077", "api", 2): 1,
        ("acme", "lost", "api", 3): 1,
        ("acme", "gone", "api", 4): 1,
        ("acme", "1E5", "2-3", 5): 1,
        ("acme", "open", "1-2", 9): 1,
        ("acme", "lost", "=1+1", 6): 1,
    }


def test_libreoffice_keeps_every_text(home: Home, profile: Path) -> None:
    """Opened and saved, each text is what it was, but for line ends within a cell, which become LF."""
    failed = uploaded(
        home,
        *(("acme", "d", "api", "", text) for text in HOSTILE_TEXTS.values()),
        columns=(*EVENT_COLUMNS, "note"),
    )
    assert home.run_here("export", failed.name).exit_code == 0
    saved = home.folder / "saved.xlsx"
    in_libreoffice(profile, home.folder / "usage.failed.xlsx", ["save", str(saved)])
    with open_own_file(saved, delimiter=None) as log:
        (batch,) = log.batches()
    assert [row.cells[4] for row in batch.rows] == [text.replace("\r", "") for text in HOSTILE_TEXTS.values()]


def test_the_list_offers_what_may_be_chosen_for_its_row(
    home: Home, billing_server: BillingServer, profile: Path
) -> None:
    """LibreOffice finds a word valid in ``upload_replay`` exactly where the row's own reason allows it."""
    billing_server.respond = misbehave
    write_csv(home.folder / "usage.csv", [("acme", "wrong", "api", 1), ("acme", "gone", "api", 2)])
    assert home.run_here("upload", "usage.csv").exit_code == 1
    assert home.run_here("export", "usage.failed.csv").exit_code == 0
    workbook = home.folder / "usage.failed.xlsx"
    book = openpyxl.load_workbook(workbook)
    rules = book["Rows"].data_validations
    rules.dataValidation = [rule for rule in rules.dataValidation if rule.type == "list"]  # the others allow nothing
    book.save(workbook)
    words = ["yes", "fix", "resend", "recorded", "confirm", "nonsense"]
    steps: list[Step] = []
    for cell, last in (("I2", "fix"), ("I3", "confirm")):
        for word in words:
            steps += [["type", cell, word], ["has_invalid"]]
        steps.append(["type", cell, last])
    found = in_libreoffice(profile, workbook, *steps)
    refused_if_rejected, refused_if_in_doubt = found[: len(words)], found[len(words) :]
    assert refused_if_rejected == [False, False, True, True, True, True]
    assert refused_if_in_doubt == [True, True, False, False, False, True]
