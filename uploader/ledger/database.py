"""SQLite files that keep what was committed, through `kill -9` and power loss, and temporary ones that keep nothing.

The only file that knows `sqlite3`.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from uploader.model.errors import LedgerFault, LedgerRefusal

_IN_USE = "create table if not exists in_use (process integer not null)"
"""Has a row from ``hold`` until the file is closed; a shared file, which several hold, does without."""
_OLDEST_SQLITE = (3, 32)
"""For as many values in a statement as a batch has rows (sqlite.org/limits.html)."""
_LONGEST_WAIT_SECONDS = 10.0
"""For another process's transaction on a shared file; each takes some milliseconds."""
_SECONDS_BETWEEN_TRIES = 0.02
_TEMPORARY_CACHE_KIB = 1024
_REMEDY_OF_DAMAGE = (
    "the file is damaged, and what it recorded may be lost: put a sound copy in its place, with its -wal if it has "
    "one, and do not begin afresh before the backend's owners have said what they recorded"
)


class Database:
    """One file, one connection, one thread; of this process alone, unless it is made to be shared.

    WAL with synchronous=FULL keeps a commit through a power loss (sqlite.org/pragma.html#pragma_synchronous). Errors of
    SQLite and of the disk come out as LedgerFault and are never retried.
    """

    def __init__(self, path: Path, *, tables: str, version: int, is_shared: bool = False) -> None:
        """Open a file of ours, or make it.

        is_shared: other processes may have it open too, and wait for each other's transactions.
        tables:    statements that make what a file of an earlier version lacks too.

        Raises:
            LedgerRefusal: a newer program wrote it, its last commits are lost, or it cannot be used.
        """
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise LedgerRefusal(
                f"this Python has SQLite {sqlite3.sqlite_version}, and {'.'.join(map(str, _OLDEST_SQLITE))} is needed",
                remedy="run the program with a Python that has a newer one; nothing was posted",
            )
        self.path = path
        self._is_shared = is_shared
        has_log = _has_log(path)
        self._connection = _connect(path, is_shared=is_shared)
        try:
            self._make_tables(tables, version)
            if not is_shared:
                self._connection.execute(_IN_USE)  # which a file of an earlier program may lack
                self._demand_last_commits(has_log=has_log)
        except (sqlite3.Error, MemoryError) as error:
            self._connection.close()
            raise unusable(path, error) from error
        except BaseException:
            self._connection.close()
            raise

    def hold(self) -> None:
        """Mark the file as in use, durably: from now on commits may be in the write-ahead log beside it only.

        A marked file is refused when its log is not there any more.
        """
        with self.transaction() as connection:
            connection.execute("insert into in_use values (?)", (os.getpid(),))
        with self._fault():
            is_busy, frames, frames_taken_in = self._connection.execute("pragma wal_checkpoint(passive)").fetchone()
            if is_busy or frames != frames_taken_in:
                raise sqlite3.OperationalError("the write-ahead log cannot be taken in")

    def close(self) -> None:
        """Close the file; what was committed stays."""
        # Committed before SQLite takes the log in and removes it.
        if self._is_shared or _let_go(self._connection):
            with contextlib.suppress(sqlite3.Error, MemoryError):
                self._connection.close()
        else:
            self._close_on_a_failing_disk()

    def _close_on_a_failing_disk(self) -> None:
        """Close the file although its note of being in use could not be taken away.

        SQLite removes a log that it has taken in; then the note would say that commits were lost. If it cannot be taken
        away even now, the log is put back: all of it is in the file, and taking it in once more changes nothing.
        """
        log, kept = _log_of(self.path), self.path.with_name(f"{self.path.name}-wal.kept")
        with contextlib.suppress(OSError):
            kept.unlink(missing_ok=True)
            os.link(log, kept)
        with contextlib.suppress(sqlite3.Error, MemoryError):
            self._connection.close()
        with contextlib.suppress(OSError, MemoryError):
            if not _has_log(self.path) and not _let_go_anew(self.path):
                kept.replace(log)
            kept.unlink(missing_ok=True)

    def rows(self, query: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Give the rows that a query finds."""
        with self._fault():
            found: list[tuple[Any, ...]] = self._connection.execute(query, values).fetchall()
        return found

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Commit what is done within, durably and whole, or nothing of it."""
        with self._fault():
            self._connection.execute("begin immediate")
            try:
                yield self._connection
                self._connection.execute("commit")
            except BaseException:
                # SQLite has often rolled back by itself; a second failure would hide the first.
                with contextlib.suppress(sqlite3.Error, MemoryError):
                    self._connection.execute("rollback")
                raise

    def vacuum(self) -> None:
        """Give the room of what was deleted back to the disk."""
        with self._fault():
            self._connection.execute("vacuum")

    def _make_tables(self, tables: str, version: int) -> None:
        found = self._version()
        if found > version:
            raise LedgerRefusal(
                f"{self.path} was written by a newer version of this program ({found}, and this one knows {version})",
                remedy="upgrade: pip install --upgrade meter-uploader",
            )
        if found < version:
            self._connection.execute("begin immediate")
            if self._version() < version:  # a file that is shared may have been made meanwhile
                for statement in filter(str.strip, tables.split(";")):
                    self._connection.execute(statement)
                if not self._is_shared:  # in the same commit, and so in the same flush
                    self._connection.execute(_IN_USE)
                self._connection.execute(f"pragma user_version = {version}")
            self._connection.execute("commit")

    def _version(self) -> int:
        found: int = self._connection.execute("pragma user_version").fetchone()[0]
        return found

    def _demand_last_commits(self, *, has_log: bool) -> None:
        if not has_log and self._connection.execute("select 1 from in_use limit 1").fetchone():
            raise LedgerRefusal(
                f"ledger {self.path}: its process was killed, and the file {self.path.name}-wal, which has what was "
                "recorded last, is not there",
                remedy="if a database tool or a backup opened the file since, it took that in, and nothing is "  # noqa: S608 -- words for a person
                f'lost: sqlite3 {self.path} "delete from in_use"; else put it back; if it is lost, ask the backend\'s '
                "owners what they recorded, and replay the failed file with --without-ledger and another --ledger",
            )

    @contextlib.contextmanager
    def _fault(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, MemoryError) as error:
            words = "make room, or mend the disk, then run the same command again; what was recorded is safe"
            raise LedgerFault(
                f"ledger {self.path}: {_in_words(error)}", remedy=_REMEDY_OF_DAMAGE if _is_damage(error) else words
            ) from error


class TemporaryDatabase:
    """One table for this process alone, in a file that has no name and ends with it; little of it is held in memory.

    The file is where SQLite has its temporary files: the folder that SQLITE_TMPDIR names, or /var/tmp
    (sqlite.org/tempfiles.html). Errors of SQLite and of the disk come out as LedgerFault.
    """

    def __init__(self, table: str, *, function: tuple[str, Callable[[str, str], str]]) -> None:
        """Make it, and have its statements know a function of two values, by its name."""
        with self._fault():
            # It may be collected, and so closed, in another thread of a program that uploads in several.
            self._connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            weakref.finalize(self, self._connection.close)
            for pragma in ("journal_mode = off", "synchronous = off", f"cache_size = -{_TEMPORARY_CACHE_KIB}"):
                self._connection.execute(f"pragma {pragma}")
            name, of_two = function
            self._connection.create_function(name, 2, of_two, deterministic=True)
            self._connection.execute(table)

    def change_all(self, statement: str, values: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each of the values. Should it fail, nothing may be read any more."""
        with self._fault():
            self._connection.execute("begin")
            self._connection.executemany(statement, values)
            self._connection.execute("commit")

    def rows(self, query: str, values: Sequence[Any] = ()) -> Iterator[tuple[Any, ...]]:
        """Give the rows that a query finds, one by one."""
        with self._fault():
            yield from self._connection.execute(query, values)

    @contextlib.contextmanager
    def _fault(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise LedgerFault(
                f"SQLite's temporary file: {error}",
                remedy="make room in /var/tmp, or name another folder in SQLITE_TMPDIR, then run the same command "
                "again; what was recorded is safe",
            ) from error


def unusable(path: Path, error: Exception) -> LedgerRefusal:
    """Say that a file of the ledger cannot be used at all."""
    words = (
        "make room there, and let this user write to it; do not give --ledger another folder instead: what was billed "
        "is not known there"
    )
    return LedgerRefusal(
        f"ledger {path} cannot be used: {_in_words(error)}",
        remedy=f"{_REMEDY_OF_DAMAGE if _is_damage(error) else words}; nothing was posted",
    )


def _in_words(error: Exception) -> str:
    return str(error) or "out of memory"  # SQLITE_NOMEM comes as a MemoryError without a word


def _is_damage(error: Exception) -> bool:
    """Tell rubbish in a file (SQLITE_CORRUPT, SQLITE_NOTADB) from a disk or a folder that fails.

    docs.python.org/3/library/sqlite3.html#exceptions: those of the database's operation are OperationalError.
    """
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)


def question_marks(values: Sequence[Any]) -> str:
    """Give as many question marks as there are values, for an ``in (...)``."""
    return ",".join("?" * len(values))


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _has_log(path: Path) -> bool:
    """Tell whether commits may stand in a write-ahead log (sqlite.org/wal.html: it is removed when all is closed)."""
    log = _log_of(path)
    return log.exists() and log.stat().st_size > 0


def _let_go(connection: sqlite3.Connection) -> bool:
    """Take the note of ``hold`` away; tell whether there is none any more."""
    try:
        if connection.execute("select 1 from in_use limit 1").fetchone():
            connection.execute("delete from in_use")
    except (sqlite3.Error, MemoryError):
        return False
    return True


def _let_go_anew(path: Path) -> bool:
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path, isolation_level=None)) as again:
        return _let_go(again)
    return False


def _connect(path: Path, *, is_shared: bool) -> sqlite3.Connection:
    try:
        # Only to make it, for this user alone: to close a file that SQLite has open in this process would take its
        # locks away (sqlite.org/howtocorrupt.html, section 2.2).
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, timeout=_LONGEST_WAIT_SECONDS)
    except (sqlite3.Error, OSError, MemoryError) as error:
        raise unusable(path, error) from error
    try:
        if not is_shared:
            connection.execute("pragma locking_mode = exclusive")
        _demand_durability(path, connection)
        # Some systems have deleted rows overwritten: each page of a run that is finished would be written once more.
        connection.execute("pragma secure_delete = fast")
    except (sqlite3.Error, MemoryError) as error:
        connection.close()
        raise unusable(path, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _demand_durability(path: Path, connection: sqlite3.Connection) -> None:
    mode = _mode_once_free(connection)
    if mode != "wal":
        raise LedgerRefusal(
            f"{path}: SQLite cannot keep a write-ahead log there (it answers {mode!r})",
            remedy="give --ledger a folder on a local disk",
        )
    connection.execute("pragma synchronous = full")
    if sys.platform == "darwin":
        connection.execute("pragma fullfsync = 1")


def _mode_once_free(connection: sqlite3.Connection) -> str:
    """Switch to a write-ahead log, for which SQLite itself does not wait while another process begins the file."""
    deadline_seconds = time.monotonic() + _LONGEST_WAIT_SECONDS
    while (mode := _mode_unless_locked(connection, raises=time.monotonic() > deadline_seconds)) is None:
        time.sleep(_SECONDS_BETWEEN_TRIES)
    return mode


def _mode_unless_locked(connection: sqlite3.Connection, *, raises: bool) -> str | None:
    try:
        return str(connection.execute("pragma journal_mode = wal").fetchone()[0])
    except sqlite3.OperationalError as error:
        if raises or "locked" not in str(error):
            raise
        return None
