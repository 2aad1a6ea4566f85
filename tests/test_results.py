"""The results and failed files: their names, what a crash leaves of them, and their contents to the byte."""

from __future__ import annotations

import bz2
import csv
import gzip
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.billing_answers import Answer, reply
from tests.billing_contract import Received
from tests.billing_server import BillingServer
from tests.full_disk import no_file_may_grow
from uploader.desk import Plan, Watcher, reserved, write_out
from uploader.errors import InputError, LedgerFault, RefusedError, SettingsError
from uploader.identity import RunIdentity
from uploader.ledger import Ledger
from uploader.model import Batch, Outcome, Reason, Row, RowState
from uploader.parquet_log import AnnotatedParquetWriter, ParquetLog
from uploader.readers import UsageLog, open_usage_log
from uploader.results import OWN_COLUMNS, Names, Reservation, choose_names, write_results
from uploader.settings import Settings
from uploader.upload_run import upload

HEADER = "tenant_id,device_id,meter_id,total_usage"
INPUT = f"{HEADER}\nacme,d1,api,1\nglobex,d2,api,2\ninitech,d3,api,3\n"
REPOSITORY = Path(__file__).parents[1]
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- where an fsync costs nothing, for the many examples of a property
QUICK_FOLDER = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
StateOf = Callable[[Row], RowState]


def accepted(row: Row) -> RowState:
    """Accept a readable row."""
    return RowState(row.number, Outcome(Reason.MALFORMED, row.fault) if row.fault else Outcome(None))


def rejected(row: Row) -> RowState:
    """Reject a readable row."""
    outcome = Outcome(Reason.REJECTED, "no", 422, '{"error": "no"}')
    return RowState(row.number, Outcome(Reason.MALFORMED, row.fault) if row.fault else outcome)


def even_ones_rejected(row: Row) -> RowState:
    """Accept a readable row of an odd number."""
    return (accepted if row.number % 2 else rejected)(row)


def answered(log: UsageLog, state_of: StateOf) -> Iterator[tuple[Batch, Sequence[RowState]]]:
    """Give each batch with its states, as a run does."""
    for batch in log.batches():
        yield batch, [state_of(row) for row in batch.rows]


@dataclass(kw_only=True)
class Run:
    """A run as far as its results go; it remembers which files it wrote, as a ledger does."""

    run_id: str = "r1"
    own_files: dict[str, list[int]] = field(default_factory=dict)

    def write(
        self,
        path: Path,
        state_of: StateOf = accepted,
        *,
        delimiter: str | None = None,
        results: Path | None = None,
        results_dir: Path | None = None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Names:
        """Write the results of a usage log; ``meanwhile`` is called once their names are reserved."""
        with open_usage_log(path, delimiter=delimiter) as log:
            choices = choose_names(log, results=results, results_dir=results_dir)
            reservation = Reservation(choices, run_id=self.run_id, own_files=self.own_files, room_bytes=0)
            meanwhile()
            try:
                write_results(
                    log,
                    reservation,
                    answered(log, state_of),
                    run_id=self.run_id,
                    event_id_of=lambda _row, state: f"event-{state.row}",
                    parquet_table=partial(AnnotatedParquetWriter, log=log, extra_columns=OWN_COLUMNS)
                    if isinstance(log, ParquetLog)
                    else None,
                )
            except LedgerFault:
                reservation.release()
                raise
        self.own_files = reservation.facts()
        return reservation.names


def write_with_ledger(
    path: Path, ledgers: Path, state_of: StateOf = accepted, *, results_dir: Path | None = None
) -> Names:
    """Write the results of a usage log as a command does."""
    with open_usage_log(path, delimiter=None) as log:
        choices = choose_names(log, results=None, results_dir=results_dir)
        with (
            Ledger(ledgers, identity_of(log)) as ledger,
            reserved(choices, log, ledger, rows=log.row_count) as reservation,
        ):
            write_out(
                log, reservation, ledger, answered(log, state_of), event_id_of=lambda _row, state: f"event-{state.row}"
            )
            return reservation.names


def identity_of(log: UsageLog) -> RunIdentity:
    """Make the first pass, and say which run this is."""
    for _ in log.batches():
        pass
    return RunIdentity(base_url="http://127.0.0.1/api/v1", period="", content_sha256=log.content_sha256)


def reserve(path: Path, *, run_id: str = "r1", room_bytes: int = 0) -> Reservation:
    """Reserve names for a run that wrote nothing before."""
    with open_usage_log(path, delimiter=None) as log:
        choices = list(itertools.islice(choose_names(log, results=None, results_dir=None), 9))
    return Reservation(choices, run_id=run_id, own_files={}, room_bytes=room_bytes)


def reread(path: Path, *, delimiter: str | None = None) -> tuple[tuple[str, ...], list[Row]]:
    """Read one of our files with our own reader: its columns and rows."""
    with open_usage_log(path, delimiter=delimiter) as log:
        return log.columns, [row for batch in log.batches() for row in batch.rows]


def column(path: Path, name: str, *, delimiter: str | None = None) -> list[Any]:
    """Read one column of one of our files with our own reader; every row must be sound."""
    columns, rows = reread(path, delimiter=delimiter)
    assert not [row.fault for row in rows if row.fault]
    return [row.cells[columns.index(name)] for row in rows]


def tree(folder: Path) -> dict[str, str]:
    """Show everything in a folder: what a link leads to, what a file holds."""
    shown = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            shown[str(path.relative_to(folder))] = f"-> {path.readlink()}"
        else:
            text = path.read_bytes().decode("latin-1") if path.is_file() else "a folder"
            shown[str(path.relative_to(folder))] = text
    return shown


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


# --- names ------------------------------------------------------------------------------------------------------------


def usage_log(path: Path) -> Path:
    """Write the usual usage log under any name, in the format that it says."""
    if path.suffix in (".parquet", ".pq"):
        columns = {"tenant_id": ["acme", "globex", "initech"], "device_id": ["d1", "d2", "d3"]}
        pq.write_table(pa.table({**columns, "meter_id": ["api"] * 3, "total_usage": [1, 2, 3]}), path)
        return path
    data = (INPUT.replace(",", "\t") if ".tsv" in path.name.lower() else INPUT).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    path.write_bytes(bz2.compress(data) if path.suffix == ".bz2" else data)
    return path


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


# --- reservation ------------------------------------------------------------------------------------------------------


def test_two_runs_at_once_take_different_names(usage_csv: Path) -> None:
    """A name that another run has reserved is taken, before anything is written to it."""
    first, second = reserve(usage_csv, run_id="r1"), reserve(usage_csv, run_id="r2")
    assert first.names.results.name == "usage.results.csv"
    assert second.names.results.name == "usage.2.results.csv"
    first.release()
    second.release()
    assert sorted(tree(usage_csv.parent)) == ["usage.csv"]


def test_a_reservation_holds_while_the_results_are_written(usage_csv: Path) -> None:
    """However much of a run's results is written, another run does not take their name, nor after a crash."""
    first = reserve(usage_csv, run_id="r1")
    with first.writing(first.names.results) as file:
        file.write(b"half")
        assert reserve(usage_csv, run_id="r2").names.results.name == "usage.2.results.csv"
    assert reserve(usage_csv, run_id="r3").names.results.name == "usage.3.results.csv"
    assert reserve(usage_csv, run_id="r1").names == first.names


def test_a_run_that_ended_leaves_its_name_to_others(usage_csv: Path) -> None:
    """A run that once held a name does not take it from the run that holds it now."""
    earlier = Run(run_id="r1")
    earlier.write(usage_csv).results.unlink()
    now = reserve(usage_csv, run_id="r2")
    assert now.names.results.name == "usage.results.csv"
    assert earlier.write(usage_csv).results.name == "usage.2.results.csv"
    now.release()


def test_half_a_pair_is_not_held(usage_csv: Path) -> None:
    """When only the failed file's name is reserved by another run, the results' name is let go again."""
    usage_csv.with_name("usage.failed.csv.part").write_text("reserved for run r9\n")
    reservation = reserve(usage_csv)
    assert reservation.names.failed.name == "usage.2.failed.csv"
    reservation.release()
    assert sorted(tree(usage_csv.parent)) == ["usage.csv", "usage.failed.csv.part"]


def below_a_file(folder: Path) -> Path:
    """Name a folder that cannot be made."""
    (folder / "file").write_text("")
    return folder / "file" / "out"


def too_long_for_a_name(folder: Path) -> Path:
    """Name a folder that no file system can hold."""
    return folder / ("x" * 300)


def write_protected(folder: Path) -> Path:
    """Make a folder that nobody may write to."""
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    out = folder / "out"
    out.mkdir(mode=0o500)
    return out


@pytest.mark.parametrize("refusing", [below_a_file, too_long_for_a_name, write_protected])
def test_a_folder_that_takes_no_results_is_refused(usage_csv: Path, refusing: Callable[[Path], Path]) -> None:
    """Where the results cannot be written, the names are refused; so nothing is posted."""
    results_dir = refusing(usage_csv.parent)
    with pytest.raises(RefusedError, match=r"cannot be written to .* -- give another folder with --results-dir$"):
        Run().write(usage_csv, results_dir=results_dir)
    assert not list(usage_csv.parent.glob("**/*.part"))


def test_too_little_room_is_refused(usage_csv: Path) -> None:
    """Without room for the results the names are refused, and nothing is left behind."""
    with pytest.raises(RefusedError, match=r"bytes are free, and the results may need 1,000,000,000,000,000,000 --"):
        reserve(usage_csv, room_bytes=10**18)
    assert sorted(tree(usage_csv.parent)) == ["usage.csv"]


def test_a_disk_that_fills_up_leaves_the_old_files(folder: Path) -> None:
    """When the new results cannot be written, the old ones stay whole, and the same command can be run again."""
    usage = folder / "usage.csv"
    usage.write_text(f"{HEADER}\n" + "acme,d,api,1\n" * 500)
    run = Run()
    names = run.write(usage, rejected)
    before = tree(folder)
    with no_file_may_grow(), pytest.raises(LedgerFault, match=r"usage\.results\.csv: File too large -- make room"):
        run.write(usage, accepted)
    assert tree(folder) == before
    assert run.write(usage, accepted) == names


WRITER = """
import sys
from pathlib import Path

from uploader.desk import reserved, write_out
from uploader.identity import RunIdentity
from uploader.ledger import Ledger
from uploader.model import Outcome, Reason, RowState
from uploader.readers import open_usage_log
from uploader.results import choose_names

usage, ledgers, at = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]


def wait_to_be_killed(moment):
    if at == moment:
        print("now", flush=True)
        sys.stdin.readline()


def answered(log):
    for number, batch in enumerate(log.batches()):
        yield batch, [RowState(row.number, Outcome(Reason.REJECTED)) for row in batch.rows]
        if number == 1:
            wait_to_be_killed("some rows written")
    wait_to_be_killed("all rows written")


with open_usage_log(usage, delimiter=None) as log:
    for _ in log.batches():
        pass
    identity = RunIdentity(base_url="http://127.0.0.1/api/v1", period="", content_sha256=log.content_sha256)
    names = choose_names(log, results=None, results_dir=usage.parent / "out")
    with Ledger(ledgers, identity) as ledger, reserved(names, log, ledger, rows=log.row_count) as reservation:
        wait_to_be_killed("names reserved")
        write_out(log, reservation, ledger, answered(log), event_id_of=lambda _row, state: f"event-{state.row}")
"""


def writer(usage: Path, ledgers: Path, at: str) -> list[str]:
    """Spell the command line of a program that writes results, every row rejected, and waits at a moment."""
    return [sys.executable, "-c", WRITER, str(usage), str(ledgers), at]


@pytest.mark.parametrize(
    ("at", "runs_before"),
    [("names reserved", 0), ("some rows written", 0), ("some rows written", 1), ("all rows written", 1)],
)
def test_a_kill_leaves_the_old_files_or_none(folder: Path, ledgers: Path, at: str, runs_before: int) -> None:
    """After kill -9 while results are written there are the old ones or none; the same run then writes them whole."""
    usage = folder / "usage.csv"
    usage.write_text(f"{HEADER}\n" + "".join(f"acme,device-{number},api.calls,{number}\n" for number in range(6000)))
    out = folder / "out"
    for _ in range(runs_before):
        write_with_ledger(usage, ledgers, rejected, results_dir=out)
    before = tree(folder)
    with subprocess.Popen(
        writer(usage, ledgers, at), cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"now\n"
        process.kill()
    after = tree(folder)
    assert {name: text for name, text in after.items() if not name.endswith(".part") and name != "out"} == {
        name: text for name, text in before.items() if name != "out"
    }
    assert [name for name in after if name.endswith(".part")]
    assert Run(run_id="another").write(usage, results_dir=out).results.name == "usage.2.results.csv"
    write_with_ledger(usage, ledgers, rejected, results_dir=out)
    assert column(out / "usage.results.csv", "upload_row") == [str(number) for number in range(1, 6001)]
    assert sorted(tree(out)) == ["usage.2.results.csv", "usage.failed.csv", "usage.results.csv"]


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace")
def test_results_are_on_disk_before_they_have_their_name(usage_csv: Path, ledgers: Path) -> None:
    """Each file is fsynced before it gets its name, its folder after; a new folder's parent once the folder is made."""
    trace = ledgers.with_name("trace")
    tracing = ["strace", "-f", "-y", "-qq", "-e", "trace=fsync,link,linkat,mkdir", "-o", str(trace)]
    subprocess.run([*tracing, *writer(usage_csv, ledgers, "the end")], cwd=REPOSITORY, check=True)
    work = str(usage_csv.parent)
    told = []
    for line in trace.read_text().splitlines():
        found = re.fullmatch(r"\d+ +(link|mkdir|fsync)(?:at)?\((.*)\) += 0", line)
        names = re.findall(rf'["<]{re.escape(work)}/?([^">]*)[">]', found[2]) if found else []
        if found and names:
            told.append(" ".join([found[1], *(re.sub(r"\.r[0-9a-f]{15}\.part", ".draft", name) for name in names)]))
    assert told == [
        "mkdir out",
        "fsync ",
        "link out/usage.results.csv.draft out/usage.results.csv.part",
        "link out/usage.failed.csv.draft out/usage.failed.csv.part",
        "fsync out/usage.failed.csv.draft",
        "fsync out/usage.results.csv.draft",
        "link out/usage.results.csv.draft out/usage.results.csv",
        "link out/usage.failed.csv.draft out/usage.failed.csv",
        "fsync out",
    ]


# --- contents ---------------------------------------------------------------------------------------------------------


def test_our_columns_follow_the_inputs(usage_csv: Path) -> None:
    """The thirteen columns of the contract stand behind the input's, in their order, with what is known of each row."""
    at_milliseconds = 1_790_000_000_123
    states = {
        1: RowState(1, Outcome(None, "", 201, '{"id": "evt_1"}'), 1, at_milliseconds, "cus_1"),
        2: RowState(2, Outcome(Reason.IN_DOUBT, "may have been recorded: timeout"), 3, at_milliseconds, "cus_2"),
        3: RowState(3, Outcome(Reason.INVALID, "device_id: is empty")),
    }
    names = Run(run_id="r0123").write(usage_csv, lambda row: states[row.number])
    moment = datetime.fromtimestamp(1_790_000_000, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.123Z")
    rows = [
        f'acme,d1,api,1,1,accepted,,,,201,1,event-1,r0123,cus_1,"{{""id"": ""evt_1""}}",{moment},',
        f"globex,d2,api,2,2,failed,in_doubt,may have been recorded: timeout,confirm,,3,event-2,r0123,cus_2,,{moment},",
        "initech,d3,api,3,3,failed,invalid,device_id: is empty,fix,,0,event-3,r0123,,,,",
    ]
    header = (
        f"{HEADER},upload_row,upload_status,upload_reason,upload_detail,upload_replay,upload_http_status,"
        "upload_attempts,upload_event_id,upload_run,upload_customer_id,upload_response,upload_at,upload_raw"
    )
    assert names.results.read_text().splitlines() == [header, *rows]
    assert names.failed.read_text().splitlines() == [header, *rows[1:]]


@pytest.mark.parametrize("name", ["usage.csv", "usage.tsv", "usage.parquet"])
def test_answers_that_the_ledger_let_go_of_are_kept(folder: Path, ledgers: Path, name: str) -> None:
    """Of a row that the ledger only has as accepted, our own results still have the answer; once gone, they say so."""
    usage = usage_log(folder / name)
    own = list(OWN_COLUMNS)
    first = write_with_ledger(usage, ledgers, all_accepted("=evt"))
    cells = {name: column(first.results, name) for name in own}
    assert cells["upload_response"] == ["'=evt"] * 3
    assert write_with_ledger(usage, ledgers) == first
    assert {name: column(first.results, name) for name in own} == cells
    first.results.unlink()
    write_with_ledger(usage, ledgers)
    assert set(column(first.results, "upload_response")) <= {"", None}
    assert (
        column(first.results, "upload_detail")
        == ["accepted before; the answer stood in the results that were written then"] * 3
    )


def all_accepted(response: str) -> StateOf:
    """Accept every row with an answer."""
    return lambda row: RowState(row.number, Outcome(None, "", 201, response), 1, 1_790_000_000_123, "cus_1")


def test_a_row_of_no_run_claims_none(usage_csv: Path) -> None:
    """A row that a replay could not tell the origin of has no row number, event id or run."""
    names = Run().write(usage_csv, lambda _: RowState(0, Outcome(Reason.MALFORMED, "whose row is it?")))
    for name in ("upload_row", "upload_event_id", "upload_run"):
        assert column(names.results, name) == [""] * 3


@pytest.mark.parametrize(
    ("data", "delimiter"),
    [
        pytest.param(b"\xef\xbb\xbf#\r\nacme,d,api,1\r\n", ",", id="BOM and CRLF"),
        pytest.param(b"#\nacme;d;api;1\n", ";", id="semicolons"),
        pytest.param(b"#\nacme|d|api|1\n", "|", id="bars"),
        pytest.param(b'#\n"acme","00123",api,"1"\n', ",", id="quoted without need"),
        pytest.param(b'#\n"a ""b"" c","1,2","l1\nl2",1\n', ",", id="quoted with need"),
        pytest.param(b'#\n"a\r\nb","c\rd",e,1\n', ",", id="line ends in cells"),
        pytest.param(b"#\n acme ,d\t, api,1 \n", ",", id="spaces around"),
        pytest.param(b"#\n00123,1e5,NA,null\n", ",", id="what pandas would change"),
        pytest.param(b"#\n=1+1,+1,-1,@x\n", ",", id="a formula of the user's own"),
        pytest.param(b'#\n,"",,1\n', ",", id="empty cells"),
        pytest.param('#\nä,日本,\U0001f600\u2028,"\ufeff"\n'.encode(), ",", id="not ASCII"),
        pytest.param(b"#\na,b,c,1\na,b,c,2", ",", id="no line end at the end"),
    ],
)
def test_the_inputs_bytes_come_first_and_unchanged(folder: Path, data: bytes, delimiter: str) -> None:
    """Every record of both files begins with the input's own bytes, header included; so do the files, with a BOM."""
    usage = folder / "usage.csv"
    usage.write_bytes(data.replace(b"#", HEADER.replace(",", delimiter).encode()))
    with open_usage_log(usage, delimiter=delimiter) as log:
        records = [log.header_text, *(row.text for batch in log.batches() for row in batch.rows)]
        line_end, start = log.line_end, "\ufeff" if log.has_bom else ""
    names = Run().write(usage, rejected, delimiter=delimiter)
    for path in (names.results, names.failed):
        own = iter(reread(path, delimiter=delimiter)[1])
        own_header = delimiter.join(OWN_COLUMNS)
        tails = [own_header, *(row.text[len(record) + 1 :] for record, row in zip(records[1:], own, strict=True))]
        text = "".join(f"{record}{delimiter}{tail}{line_end}" for record, tail in zip(records, tails, strict=True))
        assert path.read_bytes() == (start + text).encode()
        assert all(tail.count(delimiter) >= len(OWN_COLUMNS) - 1 for tail in tails)


@pytest.mark.parametrize(
    ("record", "raw"),
    [
        (b"acme,d1", "acme,d1"),
        (b"acme,d1,api,1,2", "acme,d1,api,1,2"),
        (b'"acme"x,d1,api,1', '"acme"x,d1,api,1'),
        (b'"ac\nme"x,d1,api,1', '"ac\nme"x,d1,api,1'),
        (b"ac\rme,d1,api,1", "ac\rme,d1,api,1"),
        (b"ac\rme", "ac\rme"),
        (b"\rx", "\rx"),
        (b"ac\xffme,d1,api,1", r"ac\xffme,d1,api,1"),
        (b"ac\0me,d1,api,1", r"ac\x00me,d1,api,1"),
        (b"=1+1,d1", "=1+1,d1"),
    ],
)
def test_a_malformed_rows_text_is_kept(folder: Path, record: bytes, raw: str) -> None:
    """A row that cannot be read has empty cells, its text in ``upload_raw``, and no effect on the rows around it."""
    usage = folder / "usage.csv"
    usage.write_bytes(INPUT.encode() + record + b"\n" + b"umbrella,d5,api,5\n")
    names = Run().write(usage)
    assert column(names.results, "upload_row") == ["1", "2", "3", "4", "5"]
    assert column(names.results, "upload_raw") == ["", "", "", raw, ""]
    assert column(names.results, "tenant_id") == ["acme", "globex", "initech", "", "umbrella"]
    assert column(names.failed, "upload_raw") == [raw]
    assert column(names.failed, "upload_reason") == ["malformed"]


@pytest.mark.parametrize("byte", [b"x", b"\xff", b"\0", b'"', "é".encode()])
def test_a_malformed_row_of_any_length_leaves_our_file_readable(folder: Path, byte: bytes) -> None:
    """The text of an endless row is cut so that its cell is not too long for our own reader, however it is escaped."""
    usage = folder / "usage.csv"
    usage.write_bytes(INPUT.encode() + b"x" + byte * 300_000 + b"\numbrella,d5,api,5\n")
    names = Run().write(usage)
    assert column(names.results, "upload_row") == ["1", "2", "3", "4", "5"]
    (raw,) = column(names.failed, "upload_raw")
    assert raw.startswith("x" + {b"\xff": r"\xff", b"\0": r"\x00"}.get(byte, byte.decode("utf-8", "replace")) * 1000)


AWKWARD_CELLS = ['com,ma "q"', "two\nlines", "a\rb", "\r\n", "ta\tb", "plain", "", " x ", "=1+1"]


def test_a_tab_separated_logs_failed_file_has_commas(folder: Path) -> None:
    """The results of .tsv keep their tabs; the failed file, which a spreadsheet opens as .csv, has the same cells."""
    usage = folder / "usage.tsv"
    with usage.open("w", newline="") as file:
        lines = csv.writer(file, delimiter="\t", lineterminator="\r\n")
        lines.writerows([HEADER.split(","), *([cell, f"d{cell}", "api", "1"] for cell in AWKWARD_CELLS)])
    names = Run().write(usage, rejected)
    assert names.results.read_bytes().startswith(HEADER.replace(",", "\t").encode() + b"\tupload_row\t")
    assert names.failed.read_bytes().startswith(HEADER.encode() + b",upload_row,")
    for path in (names.results, names.failed):
        assert column(path, "tenant_id") == AWKWARD_CELLS
        assert column(path, "device_id") == [f"d{cell}" for cell in AWKWARD_CELLS]


def awkward_table() -> pa.Table:
    """Make a table of every kind of column that a usage log may have, and many that it need not."""
    count = len(AWKWARD_CELLS)
    moments = [datetime(2026, 11, 21, 0, 0, second, tzinfo=timezone.utc) for second in range(count)]
    arrays = {
        "tenant_id": pa.array(AWKWARD_CELLS, pa.large_string()),
        "device_id": pa.array(["d1"] * count).dictionary_encode(),
        "meter_id": pa.array(["api"] * (count - 1) + [None], pa.string()),
        "total_usage": pa.array([2**63 + number for number in range(count)], pa.uint64()),
        "price": pa.array([Decimal("1.10")] * count, pa.decimal128(38, 2)),
        "ratio": pa.array([0.1] * count, pa.float32()),
        "at": pa.array(moments, pa.timestamp("ns", tz="UTC")),
        "flag": pa.array([True, None] * (count // 2) + [False]),
        "blob": pa.array([b"\xff\0"] * count, pa.binary()),
        "tags": pa.array([["a", "b"]] * count, pa.list_(pa.string())),
    }
    table = pa.table(arrays)
    return table.replace_schema_metadata({"origin": "meter 7"})


def test_a_parquet_logs_results_keep_its_types(folder: Path) -> None:
    """The input's columns keep their Arrow types, values and metadata; numbers of ours are numbers."""
    usage = folder / "usage.parquet"
    table = awkward_table()
    pq.write_table(table, usage, row_group_size=2)
    table = pq.read_table(usage)
    results = pq.read_table(Run().write(usage, even_ones_rejected).results)
    assert results.select(table.column_names).equals(table, check_metadata=True)
    assert results.column_names == [*table.column_names, *OWN_COLUMNS]
    assert results["upload_row"].to_pylist() == list(range(1, 10))
    assert {name: str(results.schema.field(name).type) for name in OWN_COLUMNS} == {
        name: "int64" if kind == "integer" else "string" for name, kind in OWN_COLUMNS.items()
    }


def test_a_parquet_logs_failed_file_is_csv(folder: Path) -> None:
    """A person fixes the failed rows, so they are CSV with commas, every cell as exact text."""
    usage = folder / "usage.parquet"
    pq.write_table(awkward_table(), usage)
    failed = Run().write(usage, rejected).failed
    assert column(failed, "tenant_id") == AWKWARD_CELLS
    assert column(failed, "total_usage") == [str(2**63 + number) for number in range(9)]
    assert column(failed, "meter_id") == ["api"] * 8 + [""]
    assert column(failed, "price") == ["1.10"] * 9
    assert column(failed, "at")[8] == "2026-11-21T00:00:08.000000000Z"


def test_a_parquet_row_that_is_not_utf8_keeps_its_bytes_and_its_text(folder: Path, ledgers: Path) -> None:
    """Its results hold the very bytes, and ``upload_raw`` the text with the bad byte spelled out."""
    usage = folder / "usage.parquet"
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"b\xffd"]).buffers())
    pq.write_table(
        pa.table({"tenant_id": bad, "device_id": ["d"] * 2, "meter_id": ["m"] * 2, "total_usage": [1, 2]}), usage
    )
    write_with_ledger(usage, ledgers)
    names = write_with_ledger(usage, ledgers)  # which reads the first ones
    assert pq.read_table(names.results)["tenant_id"].cast(pa.binary()).to_pylist() == [b"ok", b"b\xffd"]
    assert pq.read_table(names.results)["upload_raw"].to_pylist() == [None, r"b\xffd,d,m,2"]
    assert column(names.failed, "upload_raw") == [r"b\xffd,d,m,2"]


# --- text from the server ---------------------------------------------------------------------------------------------

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


# --- any input --------------------------------------------------------------------------------------------------------

CELLS = st.text(
    st.sampled_from("ab1 \t,;'\"=\r\n") | st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6
)
CSV_BYTES = st.lists(
    st.sampled_from([b",", b";", b'"', b"\n", b"\r", b"\r\n", b"a", b"\xff", b"\0", b"\\x41", b"acme,d,api,1\n", b"="])
    | st.binary(max_size=3),
    max_size=25,
)


def unescaped(raw: str) -> bytes:
    r"""Undo the \xNN of ``upload_raw``."""
    return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), raw.encode())


@settings(max_examples=200, deadline=None)
@given(body=CSV_BYTES.map(b"".join), line_end=st.sampled_from([b"\n", b"\r\n"]), has_bom=st.booleans())
def test_results_of_any_bytes_can_be_read_again(body: bytes, line_end: bytes, has_bom: object) -> None:
    """Of any input that can be taken, our own reader finds every row in the results once, in order, with its text."""
    with tempfile.TemporaryDirectory(dir=QUICK_FOLDER) as folder:
        usage = Path(folder) / "usage.csv"
        usage.write_bytes((b"\xef\xbb\xbf" if has_bom else b"") + HEADER.encode() + line_end + body)
        try:
            _, rows = reread(usage)
        except InputError:
            return  # a quote that is open at the end
        names = Run().write(usage, rejected)
        for path in (names.results, names.failed):
            if not path.exists():
                assert not rows
                continue
            columns, ours = reread(path)
            assert columns == (*HEADER.split(","), *OWN_COLUMNS)
            assert [row.fault for row in ours] == [""] * len(rows)
            assert [row.cells[4] for row in ours] == [str(row.number) for row in rows]
            for row, own in zip(rows, ours, strict=True):
                if not row.fault:
                    assert own.text.startswith(f"{row.text},")
                    assert own.cells[:4] == row.cells
                elif "\\" not in row.text:
                    assert unescaped(own.cells[-1]) == row.text.encode("utf-8", "surrogateescape")


def spelled(cells: Sequence[str], *, delimiter: str, quotes_all: object) -> str:
    """Spell a CSV record."""
    return delimiter.join(
        '"' + cell.replace('"', '""') + '"' if quotes_all or re.search('[",;\t\r\n]', cell) else cell for cell in cells
    )


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(*[CELLS] * 6).filter(any), max_size=8),
    quotes_all=st.booleans(),
    line_end=st.sampled_from(["\n", "\r\n"]),
    name=st.sampled_from(["usage.csv", "usage.csv.gz", "usage.tsv"]),
)
def test_results_carry_any_table_unchanged(
    rows: list[tuple[str, ...]], quotes_all: object, line_end: str, name: str
) -> None:
    """Any cells, however they were quoted, are the same in the results and in the failed file."""
    columns = [*HEADER.split(","), "a note", "=x"]
    delimiter = "\t" if ".tsv" in name else ","
    lines = [spelled(cells, delimiter=delimiter, quotes_all=quotes_all) for cells in (columns, *rows)]
    data = "".join(line + line_end for line in lines).encode()
    with tempfile.TemporaryDirectory(dir=QUICK_FOLDER) as folder:
        usage = Path(folder) / name
        usage.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        names = Run().write(usage, rejected)
        for path in [names.results, *([names.failed] if rows else [])]:
            found, ours = reread(path)
            assert list(found) == [*columns, *OWN_COLUMNS]
            assert [tuple(row.cells[:6]) for row in ours] == rows


INTEGERS = [pa.int8(), pa.uint16(), pa.int32(), pa.uint64()]
TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]


@settings(max_examples=50, deadline=None)
@given(data=st.data(), text_type=st.sampled_from(TEXTS), integer_type=st.sampled_from(INTEGERS))
def test_results_carry_any_parquet_table_unchanged(data: st.DataObject, text_type: Any, integer_type: Any) -> None:
    """Any values, of any type that pandas, Polars or Arrow write, are the same in the results."""
    count = data.draw(st.integers(0, 5))
    texts = st.lists(st.none() | CELLS, min_size=count, max_size=count)
    numbers = st.lists(st.none() | st.integers(0, 127), min_size=count, max_size=count)
    columns = {name: pa.array(data.draw(texts), pa.string()).cast(text_type) for name in HEADER.split(",")[:3]}
    table = pa.table({**columns, "total_usage": pa.array(data.draw(numbers), integer_type)})
    with tempfile.TemporaryDirectory(dir=QUICK_FOLDER) as folder:
        usage = Path(folder) / "usage.parquet"
        pq.write_table(table, usage)
        names = Run().write(usage, rejected)
        results = pq.read_table(names.results)
        assert results.select(table.column_names).equals(pq.read_table(usage), check_metadata=True)
        assert results["upload_row"].to_pylist() == list(range(1, count + 1))
        if count:
            cells = [["" if cell is None else str(cell) for cell in row.values()] for row in table.to_pylist()]
            assert [list(row.cells[:4]) for row in reread(names.failed)[1]] == cells


# --- a whole upload ---------------------------------------------------------------------------------------------------


def evil_but_sound(received: Received) -> Answer:
    """Do as the contract says, in words that are dangerous in a spreadsheet."""
    if received.method == "GET":
        return reply(200, [{"id": "=HYPERLINK(1)"}])
    if received.event["total_usage"] == 2:
        return reply(422, b"\t=cmd|' /C calc'!A0\r\n@next," + b"x" * 5000)
    return reply(201, {"id": "=1"})


@pytest.mark.usefixtures("plain_environment")
@pytest.mark.parametrize("name", ["usage.csv", "usage.tsv", "usage.parquet"])
def test_the_results_of_an_upload_say_what_the_backend_did(
    folder: Path, ledgers: Path, billing_server: BillingServer, name: str
) -> None:
    """Each row has the backend's customer and answer, made harmless, and is accepted if and only if it was billed."""
    billing_server.respond = evil_but_sound
    usage = usage_log(folder / name)
    plan = Plan(settings=Settings(base_url=billing_server.base_url, retries=0), ledger_folder=ledgers)
    watcher = Watcher(begin=lambda *_: None, watch=lambda _: None, say=lambda _: None, should_stop=lambda: False)
    (report,) = upload([usage], plan=plan, watcher=watcher)
    assert report.error is None
    assert report.names is not None
    results = report.names.results
    assert column(results, "upload_status") == ["accepted", "failed", "accepted"]
    assert column(results, "upload_customer_id") == ["'=HYPERLINK(1)"] * 3
    assert column(results, "upload_response")[0] == '{"id": "=1"}'
    refusal = column(report.names.failed, "upload_response")[0]
    assert refusal.startswith(" '=cmd|' /C calc'!A0  @next,xxx")
    assert len(refusal) == 1024
    assert column(report.names.failed, "device_id") == ["d2"]
    billed = billing_server.billed_by("x-request-id")
    event_ids = column(results, "upload_event_id")
    assert billed == {event_ids[0]: 1, event_ids[2]: 1}
