"""The ledger keeps what was committed, through crashes and full disks, and refuses what it cannot keep safe."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pytest

from tests.full_disk import no_file_may_grow
from uploader.ledger.claims import Claims, claims_path
from uploader.ledger.database import Database
from uploader.ledger.ledger import History, Ledger, Sending
from uploader.ledger.run_file import LEDGER_VERSION, known_run, remembered
from uploader.model.errors import LedgerFault, LedgerRefusal
from uploader.model.identity import EventIds, RunIdentity
from uploader.model.model import Outcome, Reason, RowState

IDENTITY = RunIdentity(base_url="http://127.0.0.1:1/api/v1", period="", content_sha256="0f" * 32)
ACCEPTED = RowState(1, Outcome(None, "", 201, '{"id": "é=\\u0000"}'), 2, 1_795_000_000_123, "cus_1")
DOUBT = RowState(2, Outcome(Reason.IN_DOUBT, "may have been recorded", None, ""), 1, 1_795_000_000_456, "cus_2")
INVALID = RowState(3, Outcome(Reason.INVALID, "total_usage: is empty"), 0, 1_795_000_000_789)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Name a folder for a ledger; it is not there yet."""
    return tmp_path / "state" / "ledger"


@pytest.fixture
def ledger(folder: Path) -> Iterator[Ledger]:
    """Begin a run."""
    with Ledger(folder, IDENTITY) as ledger:
        yield ledger


def as_left_by_a_crash(ledger: Ledger, folder: Path) -> Path:
    """Copy a ledger's files while it is open: what a process that is killed now would leave."""
    shutil.copytree(ledger.path.parent, folder)
    return folder


# --- identity ---------------------------------------------------------------------------------------------------------


def test_event_ids_are_uuid5_of_the_run_and_the_row() -> None:
    """The fast spelling is the standard library's own, for every row number tried."""
    event_ids = EventIds(IDENTITY)
    rows = [*range(1, 2000), 10**9, 2**63]
    assert [event_ids.of(row) for row in rows] == [str(uuid.uuid5(event_ids.namespace, str(row))) for row in rows]


@pytest.mark.parametrize(
    "other",
    [
        replace(IDENTITY, base_url="http://127.0.0.1:2/api/v1"),
        replace(IDENTITY, period="2026-11"),
        replace(IDENTITY, content_sha256="1f" * 32),
        replace(IDENTITY, again=1),
    ],
    ids=["destination", "period", "content", "again"],
)
def test_another_destination_period_or_content_is_another_run(other: RunIdentity) -> None:
    """Runs that differ in one of them share neither the ledger's file nor any event id."""
    assert other.run_id != IDENTITY.run_id
    assert EventIds(other).of(1) != EventIds(IDENTITY).of(1)
    assert RunIdentity.from_canonical(other.canonical) == other


def test_a_run_id_is_no_number_to_a_spreadsheet() -> None:
    """It begins with a letter that no number has, and is hexadecimal after it."""
    assert IDENTITY.run_id[0] == "r"
    assert len(IDENTITY.run_id) == 16
    int(IDENTITY.run_id[1:], 16)


def test_a_known_run_is_found_by_its_id(folder: Path) -> None:
    """What the run was about is told from its id alone, once no one holds it."""
    identity = replace(IDENTITY, period="2026-11")
    Ledger(folder, identity).close()
    assert known_run(folder, identity.run_id) == identity


@pytest.mark.parametrize("run_id", ["r" + "0" * 15, "", "../../etc/passwd", "r12"])
def test_a_run_that_the_ledger_lacks_is_refused(ledger: Ledger, folder: Path, run_id: str) -> None:
    """An unknown or impossible id is refused with the way out, and no file is made for it."""
    before = set(folder.rglob("*"))
    with pytest.raises(LedgerRefusal, match="--ledger"):
        known_run(folder, run_id)
    assert set(folder.rglob("*")) == before


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_what_was_committed_is_there_when_the_ledger_is_opened_again(folder: Path) -> None:
    """Every field of every state, what was remembered and the counts come back as they were."""
    with Ledger(folder, IDENTITY) as ledger:
        ledger.remember({"rows": 3, "files": {"/a b": [1, 2]}})
        ledger.commit(settled=[ACCEPTED, DOUBT], sending=[])
        ledger.commit(settled=[INVALID], sending=[])
    with Ledger(folder, IDENTITY) as ledger:
        assert ledger.known([1, 2, 3, 4]) == {1: ACCEPTED, 2: DOUBT, 3: INVALID}
        assert ledger.facts() == {
            "identity": IDENTITY.canonical,
            "rows": 3,
            "files": {"/a b": [1, 2]},
            "is_summed_up": False,
        }
        assert ledger.history() == History(accepted=1, in_doubt=1, last_row=3, at_milliseconds=1_795_000_000_789)


def test_a_later_outcome_replaces_an_earlier_one(ledger: Ledger) -> None:
    """A row has one state: its last."""
    later = replace(ACCEPTED, row=3, attempts=1)
    ledger.commit(settled=[INVALID], sending=[])
    ledger.commit(settled=[later], sending=[])
    assert ledger.known([3]) == {3: later}


def test_a_failed_rows_original_cells_are_those_first_kept(folder: Path) -> None:
    """Keeping them again, after an edit, changes nothing; unknown rows have none."""
    with Ledger(folder, IDENTITY) as ledger:
        ledger.edits.keep_originals({2: {"tenant_id": "00123", "total_usage": 7}}, as_text_by_row={})
        ledger.edits.keep_originals({2: {"tenant_id": "123"}, 5: {"tenant_id": "x"}}, as_text_by_row={})
    with Ledger(folder, IDENTITY) as ledger:
        assert ledger.edits.originals([1, 2]) == {2: {"tenant_id": "00123", "total_usage": 7}}


def test_a_commit_is_in_the_files_at_once(ledger: Ledger, tmp_path: Path) -> None:
    """A process killed right after the commit loses nothing of it."""
    ledger.commit(settled=[ACCEPTED], sending=[])
    with Ledger(as_left_by_a_crash(ledger, tmp_path / "crashed"), IDENTITY) as found:
        assert found.known([1]) == {1: ACCEPTED}


def test_rows_being_sent_when_the_process_ended_are_in_doubt(ledger: Ledger, tmp_path: Path) -> None:
    """A row still "sending" may have been recorded, also one tried before; settled rows are exactly known."""
    unavailable = RowState(4, Outcome(Reason.UNAVAILABLE, "HTTP 408", 408), 1, 5, "cus_4")
    sending = [Sending(1, 2, 6, "cus_1"), Sending(4, 2, 7, "cus_4"), Sending(9, 1, 8, "cus_9")]
    ledger.commit(settled=[unavailable], sending=sending)
    ledger.commit(settled=[ACCEPTED], sending=[])
    crashed = as_left_by_a_crash(ledger, tmp_path / "crashed")
    for _ in range(2):  # recovered, and opened once more
        with Ledger(crashed, IDENTITY) as found:
            known = found.known([1, 4, 9])
    assert known[1] == ACCEPTED
    assert {row: known[row].outcome.reason for row in (4, 9)} == {4: Reason.IN_DOUBT, 9: Reason.IN_DOUBT}
    assert [(known[row].attempts, known[row].at_milliseconds, known[row].customer_id) for row in (4, 9)] == [
        (2, 7, "cus_4"),
        (1, 8, "cus_9"),
    ]
    assert "the upload ended while the row was being sent" in known[9].outcome.detail


# --- the file ---------------------------------------------------------------------------------------------------------


def test_a_ledger_is_its_owners_alone(ledger: Ledger, folder: Path) -> None:
    """The folder is 0700 and every file in it 0600, write-ahead log included: there are customers' numbers in it."""
    ledger.commit(settled=[ACCEPTED], sending=[])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    names = {path.suffix for path in folder.iterdir()}
    assert {".sqlite", ".sqlite-wal", ".lock"} <= names
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_sqlite_is_set_to_survive_a_power_loss(ledger: Ledger) -> None:
    """WAL and synchronous=FULL, which lost none of the acknowledged commits; EXCLUSIVE locking."""
    connection = ledger._database._connection  # noqa: SLF001 -- a connection's settings are seen on it alone
    pragmas = {
        name: connection.execute(f"pragma {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "locking_mode")
    }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "locking_mode": "exclusive"}


def test_a_ledger_of_a_newer_program_is_left_alone(folder: Path) -> None:
    """It is refused, with the command that upgrades, and not a byte of it is changed."""
    Ledger(folder, IDENTITY).close()
    path = next(folder.glob("*.sqlite"))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"pragma user_version = {LEDGER_VERSION + 1}")
    with pytest.raises(LedgerRefusal, match=r"newer version.*pip install --upgrade meter-uploader"):
        Ledger(folder, IDENTITY)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma user_version").fetchone() == (LEDGER_VERSION + 1,)


def test_a_run_that_someone_holds_is_refused_and_names_the_holder(folder: Path) -> None:
    """The second opening names the process of the first; other runs can be opened, and this one after it was let go."""
    with Ledger(folder, IDENTITY):
        with pytest.raises(LedgerRefusal, match=f"process {os.getpid()} .*wait until it has ended"):
            Ledger(folder, IDENTITY)
        Ledger(folder, replace(IDENTITY, period="another run")).close()
    Ledger(folder, IDENTITY).close()


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    """The message names the ledger, and what to give instead."""
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerRefusal, match=r"file/r.*--ledger"):
        Ledger(tmp_path / "file", IDENTITY)


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(folder: Path) -> None:
    """Whatever stands under the run's name is not overwritten."""
    folder.mkdir(parents=True)
    path = folder / f"{IDENTITY.run_id}.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(LedgerRefusal, match=rf"{path.name}.*may be lost.*nothing was posted"):
        Ledger(folder, IDENTITY)
    assert path.read_bytes() == b"not a database" * 100


def test_a_full_disk_is_a_fault_and_what_was_committed_before_stays(folder: Path) -> None:
    """A commit that cannot be written raises, is not there afterwards, and takes nothing else with it."""
    with Ledger(folder, IDENTITY) as ledger:
        ledger.commit(settled=[ACCEPTED], sending=[])
        with no_file_may_grow(), pytest.raises(LedgerFault, match="run the same command again"):
            ledger.commit(settled=[DOUBT], sending=[Sending(5, 1, 9, "cus_5")])
    with Ledger(folder, IDENTITY) as ledger:
        assert ledger.known([1, 2, 5]) == {1: ACCEPTED}


@pytest.mark.parametrize(
    "write",
    [
        lambda ledger: ledger.remember({"rows": 1}),
        lambda ledger: ledger.edits.keep_originals({1: {"tenant_id": "acme"}}, as_text_by_row={}),
    ],
    ids=["facts", "originals"],
)
def test_no_write_of_any_kind_fails_unsaid(ledger: Ledger, write: Callable[[Ledger], None]) -> None:
    """Facts and originals that cannot be written raise as commits do."""
    with no_file_may_grow(), pytest.raises(LedgerFault, match="what was recorded is safe"):
        write(ledger)


def test_what_a_replay_posted_is_kept_by_row(folder: Path) -> None:
    """The last values count; rows that went out as they were have none, and the facts of the run stay few."""
    with Ledger(folder, IDENTITY) as ledger:
        ledger.edits.keep_posted({2: {"total_usage": 7}, 5: {"total_usage": 1}})
        ledger.edits.keep_posted({2: {"total_usage": 8}})
    with Ledger(folder, IDENTITY) as ledger:
        assert ledger.edits.posted([1, 2, 5]) == {2: {"total_usage": 8}, 5: {"total_usage": 1}}
    assert set(remembered(folder, IDENTITY.run_id)) == {"identity"}


def test_a_ledger_of_version_1_is_taken_over(folder: Path) -> None:
    """What it has is kept, and what it kept among the run's facts is found in its own table."""
    with Ledger(folder, IDENTITY) as ledger:
        ledger.commit(settled=[ACCEPTED, DOUBT], sending=[])
        ledger.remember({"rows": 3})
        path = ledger.path
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("insert into run values (?, ?)", ("posted for row 2", '{"total_usage": 8}'))
        connection.commit()
        connection.executescript("drop table posted; drop table adopted_row; pragma user_version = 1")
    with Ledger(folder, IDENTITY) as ledger:
        assert ledger.known([1, 2]) == {1: ACCEPTED, 2: DOUBT}
        assert ledger.edits.posted([2]) == {2: {"total_usage": 8}}
        assert ledger.facts() == {"identity": IDENTITY.canonical, "rows": 3, "is_summed_up": False}
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("pragma user_version").fetchone() == (LEDGER_VERSION,)


def test_a_ledger_of_version_3_is_taken_over(folder: Path) -> None:
    """What it kept of the log among a row's cells is no cell of the row, and rows of the log can be kept."""
    with Ledger(folder, IDENTITY) as ledger:
        ledger.edits.keep_originals({2: {"tenant_id": "acme", "upload_log_cells": ["acme", "d"]}}, as_text_by_row={})
        path = ledger.path
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("drop table log_row; pragma user_version = 3")
    with Ledger(folder, IDENTITY) as ledger:
        assert ledger.edits.originals([2]) == {2: {"tenant_id": "acme"}}
        assert ledger.edits.log_cells([2]) == {}
        ledger.edits.keep_log_cells({2: ["acme", "d"]})
        assert ledger.edits.log_cells([2]) == {2: ["acme", "d"]}


def test_the_logs_cells_of_accepted_rows_are_forgotten(ledger: Ledger) -> None:
    """Those of rows in doubt stay."""
    ledger.commit(settled=[ACCEPTED, DOUBT], sending=[])
    ledger.edits.keep_log_cells({1: ["a"], 2: ["b"], 3: ["c"]})
    ledger.edits.forget_log_cells_of_accepted()
    assert ledger.edits.log_cells([1, 2, 3]) == {2: ["b"], 3: ["c"]}
    ledger.edits.forget_log_cells()
    assert ledger.edits.log_cells([1, 2, 3]) == {}


# --- a write-ahead log that is lost -----------------------------------------------------------------------------------


def log_of(folder: Path) -> Path:
    """Name the write-ahead log of the only run of a folder."""
    return folder / f"{IDENTITY.run_id}.sqlite-wal"


@pytest.mark.parametrize("lose", [Path.unlink, lambda log: os.truncate(log, 0)], ids=["gone", "emptied"])
def test_a_ledger_without_its_last_commits_is_refused(
    ledger: Ledger, tmp_path: Path, lose: Callable[[Path], None]
) -> None:
    """Left by a crash, without its log it is used for nothing until a person has said that nothing is lost."""
    ledger.commit(settled=[ACCEPTED], sending=[])
    crashed = as_left_by_a_crash(ledger, tmp_path / "crashed")
    lose(log_of(crashed))
    for look in (lambda: Ledger(crashed, IDENTITY), lambda: remembered(crashed, IDENTITY.run_id)):
        with pytest.raises(LedgerRefusal, match=r"sqlite-wal.* is not there.*delete from in_use"):
            look()
    with contextlib.closing(sqlite3.connect(crashed / ledger.path.name)) as connection:
        connection.execute("delete from in_use")
        connection.commit()
    Ledger(crashed, IDENTITY).close()


def test_whoever_takes_the_log_in_leaves_a_ledger_that_can_be_opened(folder: Path, tmp_path: Path) -> None:
    """A command that only looks at a crashed run removes its log, and nothing is lost by that; crash after crash."""
    for number in range(3):
        with Ledger(folder, IDENTITY) as ledger:
            ledger.commit(settled=[replace(ACCEPTED, row=10 + number)], sending=[Sending(20 + number, 1, 6, "cus_2")])
            folder = as_left_by_a_crash(ledger, tmp_path / f"crashed-{number}")
        assert log_of(folder).exists()
        assert remembered(folder, IDENTITY.run_id)
        assert not log_of(folder).exists()
    with Ledger(folder, IDENTITY) as found:
        reasons = {row: state.outcome.reason for row, state in found.known(range(30)).items()}
    assert reasons == {**dict.fromkeys([10, 11, 12]), **dict.fromkeys([20, 21, 22], Reason.IN_DOUBT)}


def test_a_full_disk_at_the_end_locks_no_one_out(folder: Path) -> None:
    """Neither the note that it is in use nor its log is lost alone."""
    ledger = Ledger(folder, IDENTITY)
    ledger.commit(settled=[ACCEPTED], sending=[])
    with no_file_may_grow():
        ledger.close()
    with Ledger(folder, IDENTITY) as found:
        assert found.known([1]) == {1: ACCEPTED}


def test_a_copy_of_the_file_alone_of_a_ledger_in_use_is_refused(folder: Path, tmp_path: Path) -> None:
    """From the moment it is opened, for the first time or again; of a closed one the file is all there is."""
    for number in range(2):
        copy = tmp_path / f"copy-{number}"
        copy.mkdir()
        with Ledger(folder, IDENTITY) as ledger:
            shutil.copy(ledger.path, copy)
            with pytest.raises(LedgerRefusal, match="is not there"):
                Ledger(copy, IDENTITY)
        shutil.copy(ledger.path, copy)
        Ledger(copy, IDENTITY).close()


def test_a_shared_file_that_another_process_begins_just_now_is_waited_for(tmp_path: Path) -> None:
    """SQLite itself gives up at once when a file is to get its write-ahead log while it is being made."""
    other = sqlite3.connect(claims_path(tmp_path), isolation_level=None)
    other.execute("begin immediate")
    other.execute("create table begun (at integer)")
    with ThreadPoolExecutor() as pool:
        opened = pool.submit(lambda: Claims(tmp_path).close())
        wait([opened], timeout=0.2)
        assert not opened.done()
        other.execute("commit")
        opened.result(timeout=60)
    other.close()


def test_deleted_rows_are_not_written_once_more(tmp_path: Path) -> None:
    """Some systems' SQLite overwrites what is deleted: a run's end would take its room on the disk again."""
    tables = "create table t (x text)"
    with contextlib.closing(Database(tmp_path / "x.sqlite", tables=tables, version=1)) as database:
        with database.transaction() as connection:
            connection.executemany("insert into t values (?)", [("x" * 1000,)] * 3000)
        database.rows("pragma wal_checkpoint(restart)")
        with database.transaction() as connection:
            connection.execute("delete from t")
        assert _pages_in(tmp_path / "x.sqlite-wal") < 100


def _pages_in(log: Path) -> int:
    """Count the pages that a write-ahead log has, without its earlier rounds' (sqlite.org/fileformat2.html)."""
    data = log.read_bytes()
    size = int.from_bytes(data[8:12], "big") + 24
    frames = [data[start : start + 24] for start in range(32, len(data), size)]
    return sum(frame[8:16] == data[16:24] for frame in frames)
