"""Names are held, and room is there, before anything is written; what a crash leaves of the files."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.full_disk import no_file_may_grow
from tests.results.written import HEADER, Run, accepted, column, rejected, tree, write_with_ledger
from uploader.model.errors import LedgerFault, RefusedError
from uploader.readers.readers import open_usage_log
from uploader.results.reservation import Reservation, choose_names

REPOSITORY = Path(__file__).parents[2]


def reserve(path: Path, *, run_id: str = "r1", room_bytes: int = 0) -> Reservation:
    """Reserve names for a run that wrote nothing before."""
    with open_usage_log(path, delimiter=None) as log:
        choices = list(itertools.islice(choose_names(log, results=None, results_dir=None), 9))
    return Reservation(choices, run_id=run_id, own_files={}, room_bytes=room_bytes)


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
    with pytest.raises(RefusedError, match=r"cannot be written to .* -- .*another folder with --results-dir$"):
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

from uploader.results.writing import reserved, write_out
from uploader.model.identity import RunIdentity
from uploader.ledger.ledger import Ledger
from uploader.model.model import Outcome, Reason, RowState
from uploader.readers.readers import open_usage_log
from uploader.results.reservation import choose_names

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
