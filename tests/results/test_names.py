"""The names of results and failed files; what stands there already is left alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.results.written import (
    INPUT,
    Run,
    StateOf,
    accepted,
    column,
    even_ones_rejected,
    rejected,
    tree,
    usage_log,
    write_with_ledger,
)
from uploader.model.errors import LedgerFault, SettingsError
from uploader.results.reservation import Names


@pytest.mark.parametrize(
    ("name", "results", "failed"),
    [
        ("usage.csv", "usage.results.csv", "usage.failed.csv"),
        ("USAGE.CSV", "USAGE.results.csv", "USAGE.failed.csv"),
        ("usage.2026-11-21.csv", "usage.2026-11-21.results.csv", "usage.2026-11-21.failed.csv"),
        ("usage.csv.gz", "usage.results.csv", "usage.failed.csv"),
        ("usage.csv.bz2", "usage.results.csv", "usage.failed.csv"),
        ("usage.tsv", "usage.results.tsv", "usage.failed.csv"),
        ("usage.tsv.gz", "usage.results.tsv", "usage.failed.csv"),
        ("usage.parquet", "usage.results.parquet", "usage.failed.csv"),
        ("usage.pq", "usage.results.parquet", "usage.failed.csv"),
        ("für März.csv", "für März.results.csv", "für März.failed.csv"),
    ],
)
def test_results_are_named_after_the_usage_log(folder: Path, name: str, results: str, failed: str) -> None:
    """Both files stand beside the usage log under its name, or in the folder asked for, which is made."""
    path = usage_log(folder / name)
    assert Run().write(path, rejected) == Names(folder / results, folder / failed)
    out = folder / "out" / "nightly"
    assert Run().write(path, rejected, results_dir=out) == Names(out / results, out / failed)
    files = [name, results, failed, "out", "out/nightly", f"out/nightly/{results}", f"out/nightly/{failed}"]
    assert sorted(tree(folder)) == sorted(files)


@pytest.mark.parametrize(
    ("name", "results", "failed"),
    [
        ("usage.csv", "x.csv", "x.failed.csv"),
        ("usage.csv", "X.CSV", "X.failed.csv"),
        ("usage.csv", "out/x.results.csv", "out/x.results.failed.csv"),
        ("usage.tsv", "x.tsv", "x.failed.csv"),
        ("usage.parquet", "x.parquet", "x.failed.csv"),
        ("usage.parquet", "x.pq", "x.failed.csv"),
    ],
)
def test_a_name_that_was_asked_for_is_taken(folder: Path, name: str, results: str, failed: str) -> None:
    """``--results out/x.csv`` is the results file, and the failed file is ``out/x.failed.csv``."""
    path = usage_log(folder / name)
    names = Run().write(path, rejected, results=folder / results)
    assert names == Names(folder / results, folder / failed)
    assert column(names.results, "upload_status") == column(names.failed, "upload_status")


@pytest.mark.parametrize(
    ("name", "results"),
    [
        ("usage.csv", "x.parquet"),
        ("usage.csv", "x.csv.gz"),
        ("usage.csv", "x.tsv"),
        ("usage.csv", "x.txt"),
        ("usage.csv", "x"),
        ("usage.tsv", "x.csv"),
        ("usage.parquet", "x.csv"),
    ],
)
def test_a_name_that_lies_about_the_format_is_refused(folder: Path, name: str, results: str) -> None:
    """``--results`` must name the format that the results will have, else our own replay could not read them."""
    path = usage_log(folder / name)
    before = tree(folder)
    with pytest.raises(SettingsError, match=r"end the name in \.(csv|tsv|parquet)$"):
        Run().write(path, results=folder / results)
    assert tree(folder) == before


def test_the_usage_log_itself_is_never_the_results_file(usage_csv: Path) -> None:
    """``--results`` with the input's own name gets another name."""
    assert Run().write(usage_csv, results=usage_csv).results.name == "usage.2.csv"
    assert usage_csv.read_text() == INPUT


def foreign_file(path: Path) -> None:
    """Put somebody's file there."""
    path.write_text("somebody's work\n")


def folder_in_the_way(path: Path) -> None:
    """Put a folder there."""
    path.mkdir()


def link_to_a_file(path: Path) -> None:
    """Put a link to somebody's file there."""
    foreign_file(path.with_name("elsewhere.csv"))
    path.symlink_to("elsewhere.csv")


def dangling_link(path: Path) -> None:
    """Put a link there that leads nowhere."""
    path.symlink_to("gone.csv")


def link_to_itself(path: Path) -> None:
    """Put a link there that never ends."""
    path.symlink_to(path.name)


@pytest.mark.parametrize("obstruct", [foreign_file, folder_in_the_way, link_to_a_file, dangling_link, link_to_itself])
@pytest.mark.parametrize(
    "taken", ["usage.results.csv", "usage.failed.csv", "usage.results.csv.part", "usage.failed.csv.part"]
)
def test_a_taken_name_is_left_alone(usage_csv: Path, taken: str, obstruct: Callable[[Path], None]) -> None:
    """Whatever stands at either name, or at its reservation, both files are numbered and it stays as it was."""
    obstruct(usage_csv.with_name(taken))
    before = tree(usage_csv.parent)
    names = Run().write(usage_csv, rejected)
    assert (names.results.name, names.failed.name) == ("usage.2.results.csv", "usage.2.failed.csv")
    after = tree(usage_csv.parent)
    assert set(after) - set(before) == {"usage.2.results.csv", "usage.2.failed.csv"}
    assert {name: after[name] for name in before} == before


def test_a_name_that_was_asked_for_is_numbered_too(usage_csv: Path) -> None:
    """``--results x.csv`` that is taken becomes ``x.2.csv``, and a third run's ``x.3.csv``."""
    asked_for = usage_csv.with_name("x.csv")
    foreign_file(asked_for)
    names = [Run(run_id=run_id).write(usage_csv, rejected, results=asked_for) for run_id in ("r1", "r2")]
    assert [(name.results.name, name.failed.name) for name in names] == [
        ("x.2.csv", "x.2.failed.csv"),
        ("x.3.csv", "x.3.failed.csv"),
    ]


def test_a_run_overwrites_its_own_files(usage_csv: Path, ledgers: Path) -> None:
    """The same run again, as its ledger knows it, writes its results under the same names."""
    first = write_with_ledger(usage_csv, ledgers, rejected)
    assert column(first.results, "upload_status") == ["failed"] * 3
    assert write_with_ledger(usage_csv, ledgers, even_ones_rejected) == first
    assert column(first.results, "upload_status") == ["accepted", "failed", "accepted"]
    assert column(first.failed, "upload_row") == ["2"]
    assert sorted(tree(usage_csv.parent)) == ["usage.csv", "usage.failed.csv", "usage.results.csv"]


def test_a_run_knows_all_the_files_that_it_wrote(usage_csv: Path) -> None:
    """Results written elsewhere in between do not make a run forget its first ones."""
    run = Run()
    first = run.write(usage_csv, rejected)
    run.write(usage_csv, rejected, results_dir=usage_csv.parent / "out")
    assert run.write(usage_csv, rejected) == first


def test_another_run_takes_other_names(usage_csv: Path, ledgers: Path) -> None:
    """The results of another content under the same file name are left alone."""
    write_with_ledger(usage_csv, ledgers, rejected)
    usage_csv.write_text(INPUT + "acme,d4,api,4\n")
    before = tree(usage_csv.parent)
    assert write_with_ledger(usage_csv, ledgers, rejected).results.name == "usage.2.results.csv"
    after = tree(usage_csv.parent)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize("which", ["results", "failed"])
@pytest.mark.parametrize(("before", "now"), [("acme", "ACME"), ("acme", "acme-corp")], ids=["same size", "longer"])
def test_an_edited_file_is_left_alone(usage_csv: Path, which: str, before: str, now: str) -> None:
    """A file that somebody edited since this run wrote it is not overwritten; the next one is numbered."""
    run = Run()
    edited: Path = getattr(run.write(usage_csv, rejected), which)
    text = edited.read_text().replace(before, now)
    edited.write_text(text)
    assert run.write(usage_csv, rejected).results.name == "usage.2.results.csv"
    assert edited.read_text() == text


def test_an_edited_file_is_known_by_its_size_too(usage_csv: Path) -> None:
    """A program that edits a file and puts its old time back does not make it ours again."""
    run = Run()
    results = run.write(usage_csv).results
    times = results.stat()
    results.write_text(results.read_text() + "a person's note\n")
    os.utime(results, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run.write(usage_csv).results.name == "usage.2.results.csv"


def test_a_link_in_the_place_of_our_own_file_is_left_alone(usage_csv: Path) -> None:
    """Our results, moved away and linked back, are a person's arrangement."""
    run = Run()
    results = run.write(usage_csv).results
    archived = usage_csv.parent / "archive" / "usage.results.csv"
    archived.parent.mkdir()
    shutil.move(results, archived)
    results.symlink_to(archived)
    assert run.write(usage_csv).results.name == "usage.2.results.csv"
    assert results.is_symlink()


def test_the_old_failed_file_goes_when_no_row_fails_any_more(usage_csv: Path, ledgers: Path) -> None:
    """A run that continues to the end removes its own failed file."""
    write_with_ledger(usage_csv, ledgers, rejected)
    write_with_ledger(usage_csv, ledgers, accepted)
    assert sorted(tree(usage_csv.parent)) == ["usage.csv", "usage.results.csv"]


def test_an_edited_failed_file_stays_when_no_row_fails_any_more(usage_csv: Path) -> None:
    """Half-done corrections are a person's work, and stay."""
    run = Run()
    failed = run.write(usage_csv, rejected).failed
    failed.write_text("half-done corrections\n")
    run.write(usage_csv, accepted)
    assert failed.read_text() == "half-done corrections\n"


@pytest.mark.parametrize("state_of", [accepted, rejected])
@pytest.mark.parametrize("runs_before", [0, 1])
def test_a_failed_file_that_appears_during_the_run_is_left_alone(
    usage_csv: Path, state_of: StateOf, runs_before: int
) -> None:
    """What somebody writes while the run goes on is neither replaced nor removed, nor taken for ours by a later one."""
    run = Run()
    for _ in range(runs_before):
        run.write(usage_csv, rejected)
    failed = usage_csv.with_name("usage.failed.csv")
    work = "a person's corrections, made meanwhile\n"
    try:
        run.write(usage_csv, state_of, meanwhile=lambda: failed.write_text(work))
    except LedgerFault as fault:
        assert "File exists" in str(fault)  # noqa: PT017 -- only a run with a failed row has to say so
    for _ in range(2):
        assert run.write(usage_csv, state_of).results.name == "usage.2.results.csv"
    assert failed.read_text() == work
    assert not list(usage_csv.parent.glob("*.part"))


def test_a_results_file_that_appears_during_the_run_is_left_alone(usage_csv: Path) -> None:
    """A file that somebody makes at the results' name is not replaced; run again, the command takes another name."""
    results = usage_csv.with_name("usage.results.csv")
    with pytest.raises(LedgerFault, match=r"usage\.results\.csv: File exists -- .*run the same command again"):
        Run().write(usage_csv, meanwhile=lambda: foreign_file(results))
    assert sorted(tree(usage_csv.parent)) == ["usage.csv", "usage.results.csv"]
    assert Run().write(usage_csv).results.name == "usage.2.results.csv"
    assert results.read_text() == "somebody's work\n"
