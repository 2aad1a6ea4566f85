"""The fixtures of the tests of results and failed files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.results.written import INPUT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make an empty folder for a usage log and its results."""
    made = tmp_path / "work"
    made.mkdir()
    return made


@pytest.fixture
def ledgers(tmp_path: Path) -> Path:
    """Name the ledger's folder, elsewhere."""
    return tmp_path / "ledger"


@pytest.fixture
def usage_csv(folder: Path) -> Path:
    """Write a usage log of three rows."""
    path = folder / "usage.csv"
    path.write_text(INPUT)
    return path
