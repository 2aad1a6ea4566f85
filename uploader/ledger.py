"""What is known of each row, through any crash: one SQLite file a run. The only file that knows `sqlite3`.

The rule: a row is recorded as "sending", durably, before its POST starts. After a crash a row that is still "sending" is
in doubt; of every other row it is known exactly whether it was recorded. WAL with synchronous=FULL is what keeps a
committed transaction through a power loss (sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import sqlite3
import sys
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uploader.errors import LedgerFault, LedgerRefusal
from uploader.model import Outcome, Reason, RowState

LEDGER_VERSION = 1
_NAMESPACE = uuid.UUID("6f1c9d1e-52f1-5d0b-9c39-3a0f7f1c1f5e")
_RUN_ID = re.compile(r"r[0-9a-f]{15}")
_CRASHED = "may have been recorded: the upload ended while the row was being sent"

_TABLES = """
create table run (name text primary key, value text not null) without rowid;
create table outcome (
  row integer primary key, reason text, detail text not null, http_status integer, response text not null,
  attempts integer not null, at_milliseconds integer not null, customer_id text not null
);
create table sending (
  row integer primary key, attempts integer not null, at_milliseconds integer not null, customer_id text not null
);
create table original (row integer primary key, cells text not null);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunIdentity:
    """What makes two uploads the same run: the destination, the period and the content.

    base_url:       normalised.
    period:         the operator's label for a billing period; empty without one.
    content_sha256: hex digest of the usage log's decompressed content.
    """

    base_url: str
    period: str
    content_sha256: str

    @classmethod
    def of_known_run(cls, folder: Path, run_id: str) -> RunIdentity:
        """Find what a run of this ledger was about, by its id.

        Raises:
            LedgerRefusal: this ledger does not know the run.
        """
        path = folder / f"{run_id}.sqlite"
        unknown = LedgerRefusal(
            f"run {run_id} is not known to the ledger in {folder}",
            remedy="give --ledger the folder that the upload used",
        )
        if not _RUN_ID.fullmatch(run_id) or not path.exists():
            raise unknown
        lock = _lock(path)
        try:
            with contextlib.closing(_connect(path)) as connection:
                found = connection.execute("select value from run where name = 'identity'").fetchone()
        except sqlite3.Error as error:
            raise _unusable(path, error) from error
        finally:
            os.close(lock)
        if found is None:
            raise unknown
        base_url, period, content_sha256 = json.loads(found[0])
        return cls(base_url=base_url, period=period, content_sha256=content_sha256)

    @property
    def run_id(self) -> str:
        """The ledger file's name and the results' ``upload_run``; begins with a letter, so no spreadsheet takes it for a number."""
        return "r" + hashlib.sha256(self._canonical.encode()).hexdigest()[:15]

    @property
    def namespace(self) -> uuid.UUID:
        """The namespace of the run's event ids (RFC 9562 section 5.5)."""
        return uuid.uuid5(_NAMESPACE, self._canonical)

    @property
    def _canonical(self) -> str:
        return json.dumps([self.base_url, self.period, self.content_sha256])


class EventIds:
    """Gives each row its event id: UUIDv5 of the run and the row number, the same on every attempt and replay."""

    def __init__(self, identity: RunIdentity) -> None:
        self._prefix = hashlib.sha1(identity.namespace.bytes, usedforsecurity=False)

    def of(self, row_number: int) -> str:
        """Spell ``uuid.uuid5(namespace, str(row_number))``, several times faster."""
        digest = self._prefix.copy()
        digest.update(str(row_number).encode())
        text = digest.hexdigest()
        variant = "89ab"[int(text[16], 16) & 3]
        return f"{text[:8]}-{text[8:12]}-5{text[13:16]}-{variant}{text[17:20]}-{text[20:32]}"


@dataclass(frozen=True, slots=True)
class Sending:
    """One row about to be posted; ``attempts`` counts this one."""

    row: int
    attempts: int
    at_milliseconds: int
    customer_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a run's ledger holds: counts of rows, the highest row that has a state (0 for none), the time of the last."""

    accepted: int
    in_doubt: int
    last_row: int
    at_milliseconds: int


class Ledger:
    """One run's ledger, held by this process alone until it is closed.

    Used by one thread. Every method raises LedgerFault when the file cannot be read or written; it is never retried.
    """

    def __init__(self, folder: Path, identity: RunIdentity) -> None:
        """Open the run's file, or begin it; rows that were being sent when an earlier process ended become in doubt.

        Raises:
            LedgerRefusal: another process holds the run, a newer program wrote its file, or it cannot be used.
        """
        self.identity = identity
        self.path = folder / f"{identity.run_id}.sqlite"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _lock(self.path)
        except OSError as error:
            raise _unusable(self.path, error) from error
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._lock)
            try:
                self._connection = undo.enter_context(contextlib.closing(_connect(self.path)))
                self._begin_or_continue()
            except (sqlite3.Error, OSError) as error:
                raise _unusable(self.path, error) from error
            undo.pop_all()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the run; what was committed stays."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()
        os.close(self._lock)

    def recall(self, name: str) -> Any:
        """Give what was remembered under a name; None for nothing."""
        with _fault(self.path):
            found = self._connection.execute("select value from run where name = ?", (name,)).fetchone()
        return json.loads(found[0]) if found else None

    def remember(self, **values: Any) -> None:
        """Keep facts about the run itself, as JSON, durably."""
        with self._transaction():
            self._connection.executemany(
                "insert or replace into run values (?, ?)", [(name, json.dumps(value)) for name, value in values.items()]
            )

    def commit(self, *, settled: Sequence[RowState], sending: Sequence[Sending]) -> None:
        """Record outcomes, and the rows that are about to be posted, in one durable transaction."""
        with self._transaction():
            self._record(settled)
            self._connection.executemany(
                "insert into sending values (?, ?, ?, ?)",
                [(row.row, row.attempts, row.at_milliseconds, row.customer_id) for row in sending],
            )

    def known(self, rows: Sequence[int]) -> dict[int, RowState]:
        """Give the states of those rows that have one, by row number; at most some thousand at a time."""
        with _fault(self.path):
            found = self._connection.execute(
                f"select * from outcome where row in ({_marks(rows)})",  # noqa: S608 -- question marks alone
                rows,
            ).fetchall()
        return {
            row: RowState(row, Outcome(Reason(reason) if reason else None, detail, status, response), attempts, at, customer_id)
            for row, reason, detail, status, response, attempts, at, customer_id in found
        }

    def history(self) -> History:
        """Sum up what earlier commands recorded."""
        with _fault(self.path):
            accepted, in_doubt, last_row, at = self._connection.execute(
                "select count(*) filter (where reason is null), count(*) filter (where reason = ?), ifnull(max(row), 0), "
                "ifnull(max(at_milliseconds), 0) from outcome",
                (Reason.IN_DOUBT.value,),
            ).fetchone()
        return History(accepted=accepted, in_doubt=in_doubt, last_row=last_row, at_milliseconds=at)

    def keep_originals(self, cells_by_row: dict[int, dict[str, Any]]) -> None:
        """Keep failed rows' cells as they were, by column, so that a replay can tell what was edited."""
        with self._transaction():
            self._connection.executemany(
                "insert or ignore into original values (?, ?)",
                [(row, json.dumps(cells)) for row, cells in cells_by_row.items()],
            )

    def originals(self, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Give back what ``keep_originals`` kept of some rows."""
        with _fault(self.path):
            found = self._connection.execute(
                f"select row, cells from original where row in ({_marks(rows)})",  # noqa: S608 -- question marks alone
                rows,
            ).fetchall()
        return {row: json.loads(cells) for row, cells in found}

    def _record(self, states: Sequence[RowState]) -> None:
        self._connection.executemany("delete from sending where row = ?", [(state.row,) for state in states])
        self._connection.executemany(
            "insert or replace into outcome values (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    state.row,
                    None if state.outcome.reason is None else state.outcome.reason.value,
                    state.outcome.detail,
                    state.outcome.http_status,
                    state.outcome.response,
                    state.attempts,
                    state.at_milliseconds,
                    state.customer_id,
                )
                for state in states
            ],
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with _fault(self.path):
            self._connection.execute("begin immediate")
            try:
                yield
                self._connection.execute("commit")
            except BaseException:
                # SQLite has often rolled back by itself; a second failure would hide the first.
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("rollback")
                raise

    def _begin_or_continue(self) -> None:
        found = self._connection.execute("pragma user_version").fetchone()[0]
        if found > LEDGER_VERSION:
            raise LedgerRefusal(
                f"{self.path} was written by a newer version of this program (ledger {found}, this one knows {LEDGER_VERSION})",
                remedy="upgrade: pip install --upgrade meter-uploader",
            )
        if found == 0:
            self._connection.executescript(f"begin immediate; {_TABLES} pragma user_version = {LEDGER_VERSION}; commit;")
            self.remember(identity=[self.identity.base_url, self.identity.period, self.identity.content_sha256])
        self._settle_crashed_rows()

    def _settle_crashed_rows(self) -> None:
        crashed = self._connection.execute("select row, attempts, at_milliseconds, customer_id from sending").fetchall()
        if crashed:
            in_doubt = Outcome(Reason.IN_DOUBT, _CRASHED)
            with self._transaction():
                self._record([RowState(row, in_doubt, attempts, at, customer) for row, attempts, at, customer in crashed])


def _marks(values: Sequence[int]) -> str:
    return ",".join("?" * len(values))


def _connect(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        _make_durable(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _make_durable(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("pragma locking_mode = exclusive")
    mode = connection.execute("pragma journal_mode = wal").fetchone()[0]
    if mode != "wal":
        raise LedgerRefusal(
            f"{path}: SQLite cannot keep a write-ahead log there (it answers {mode!r})",
            remedy="give --ledger a folder on a local disk",
        )
    connection.execute("pragma synchronous = full")
    if sys.platform == "darwin":
        connection.execute("pragma fullfsync = 1")


def _lock(path: Path) -> int:
    """Take the run's lock file; the operating system lets go of it when this process ends, however it ends."""
    lock_path = path.with_suffix(".lock")
    lock = os.open(lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 1000, 0).decode("utf-8", "replace").strip() or "another process"
        os.close(lock)
        raise LedgerRefusal(
            f"this run is being worked on by {holder} (lock {lock_path})",
            remedy="wait until it has ended, then run the same command again",
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"process {os.getpid()}\n".encode(), 0)
    return lock


def _unusable(path: Path, error: Exception) -> LedgerRefusal:
    return LedgerRefusal(
        f"ledger {path} cannot be used: {error}",
        remedy="give --ledger a folder on a local disk that can be written to; nothing was posted",
    )


@contextlib.contextmanager
def _fault(path: Path) -> Iterator[None]:
    """Turn the operating system's and SQLite's errors into the run's own."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise LedgerFault(
            f"ledger {path}: {error}",
            remedy="make room, or mend the disk, then run the same command again; what was recorded is safe",
        ) from error
