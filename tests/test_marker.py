"""The mark of an unfinished run, and the sketches that are kept beside the ledger."""

from __future__ import annotations

import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from uploader.ledger.marker import Marker, demand_known_marks, mark_of
from uploader.ledger.seen import SeenRows
from uploader.model.errors import LedgerFault, LedgerRefusal
from uploader.model.identity import RunIdentity

IDENTITY = RunIdentity(base_url="http://127.0.0.1:1/api/v1", period="", content_sha256="0f" * 32)


def mark(folder: Path, run_id: str, *, input_name: str = "usage.csv") -> Marker:
    """Lay a mark."""
    return Marker(folder, input_name=input_name, run_id=run_id, ledger_folder=folder, content_sha256="0f")


def names(folder: Path) -> list[str]:
    """List a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_each_unfinished_run_has_a_mark_of_its_own(tmp_path: Path) -> None:
    """A second run of the same name takes a number; the same run finds its own again; each removes its own alone."""
    first, second = mark(tmp_path, "r1"), mark(tmp_path, "r2")
    mark(tmp_path, "r2")
    assert names(tmp_path) == ["usage.csv.2.uploading", "usage.csv.uploading"]
    assert mark_of(tmp_path, "r2") == tmp_path / "usage.csv.2.uploading"
    first.remove()
    assert names(tmp_path) == ["usage.csv.2.uploading"]
    second.remove()
    second.remove()
    assert mark_of(tmp_path, "r2") is None


def test_a_mark_of_an_unknown_run_refuses_uploads_of_that_name_alone(tmp_path: Path) -> None:
    """A numbered one too, and one that cannot be read; those of other names are not looked at."""
    mark(tmp_path, "r1")
    mark(tmp_path, "r2")
    for known, name, is_refused in (({"r1"}, "usage.csv", True), ({"r1", "r2"}, "usage.csv", False), ((), "u", False)):
        if is_refused:
            with pytest.raises(LedgerRefusal, match="run r2"):
                demand_known_marks(tmp_path, input_name=name, knows=known.__contains__, ledger_folder=tmp_path)
        else:
            demand_known_marks(tmp_path, input_name=name, knows=known.__contains__, ledger_folder=tmp_path)
    (tmp_path / "usage.csv.uploading").write_bytes(b"\xff")
    with pytest.raises(LedgerRefusal, match=r"usage\.csv\.uploading"):
        demand_known_marks(tmp_path, input_name="usage.csv", knows={"r1", "r2"}.__contains__, ledger_folder=tmp_path)


def test_a_mark_that_cannot_be_laid_is_a_fault(tmp_path: Path) -> None:
    """The folder is named."""
    with pytest.raises(LedgerFault, match="gone"):
        mark(tmp_path / "gone", "r1")


def test_sketches_are_kept_by_destination_and_period(tmp_path: Path) -> None:
    """A run sees those of the others of its kind and its own apart; a later one takes the place of the earlier."""
    other, elsewhere = replace(IDENTITY, content_sha256="1f" * 32), replace(IDENTITY, period="2026-11")
    for identity, rows in ((IDENTITY, b"1"), (IDENTITY, b"2"), (other, b"3"), (elsewhere, b"4")):
        SeenRows(tmp_path, identity, event_id=None).keep(rows)
    assert SeenRows(tmp_path, other, event_id=None).kept_by_run() == {IDENTITY.run_id: b"2"}
    assert SeenRows(tmp_path, IDENTITY, event_id=None).kept_by_run() == {other.run_id: b"3"}
    assert SeenRows(tmp_path, elsewhere, event_id=None).kept_by_run() == {}
    SeenRows(tmp_path, IDENTITY, event_id=None).keep_replays(b"5")
    assert SeenRows(tmp_path, IDENTITY, event_id=None).own_replays() == b"5"
    seen = SeenRows(tmp_path, other, event_id=None)
    assert seen.kept_by_run() == {IDENTITY.run_id: b"2", f"{IDENTITY.run_id} (replays)": b"5"}
    assert seen.kept_by_run(but_for=seen.checksums()) == {}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*.theta")} == {0o600}


def test_marks_that_are_laid_at_one_moment_have_each_a_name(tmp_path: Path) -> None:
    """As of two logs of one name with one folder for the results: neither takes the other's."""
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        both = threading.Barrier(2)

        def lay(run_id: str, folder: Path = folder, both: threading.Barrier = both) -> None:
            both.wait()
            Marker(folder, input_name="usage.csv", run_id=run_id, ledger_folder=tmp_path, content_sha256="")

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lay, ("r1", "r2")))
        assert sorted(path.name for path in folder.iterdir()) == ["usage.csv.2.uploading", "usage.csv.uploading"]
        assert all(mark_of(folder, run_id) for run_id in ("r1", "r2"))


def test_a_name_that_results_can_have_can_have_a_mark(tmp_path: Path) -> None:
    """Nothing that is written for it has a longer name than the results' own drafts."""
    name = "x" * 217 + ".csv"
    laid = mark(tmp_path, "r0123456789abcde", input_name=name)
    assert names(tmp_path) == [f"{name}.uploading"]
    laid.remove()
    assert names(tmp_path) == []
