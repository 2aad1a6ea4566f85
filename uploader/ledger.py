"""What is known of each row, through any crash: one database file a run.

The rule: a row is recorded as "sending", durably, before its POST starts. After a crash a row that is still "sending"
is in doubt; of every other row it is known exactly whether it was recorded.

Once a run's results are durable its accepted rows shrink to ranges of row numbers; failed rows stay as they are.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from uploader.adopted import AdoptedEventIds, Adoption
from uploader.database import Database, marks, unusable
from uploader.errors import LedgerRefusal
from uploader.identity import RUN_ID, EventIds, RunIdentity
from uploader.local_disk import network_file_system
from uploader.lock import Lock, holder
from uploader.model import Outcome, Reason, RowState
from uploader.records import row_record
from uploader.run_totals import run_totals, usage_in

LEDGER_VERSION = 3
_CRASHED = "may have been recorded: the upload ended while the row was being sent"
_FROM_A_RANGE = Outcome(None)

# Version 1 kept what a replay posted among the facts of the run; version 2 knew no former ids.
_TABLES = """
create table if not exists run (name text primary key, value text not null) without rowid;
create table if not exists outcome (
  row integer primary key, reason text, detail text not null, http_status integer, response text not null,
  attempts integer not null, at_milliseconds integer not null, customer_id text not null
);
create table if not exists sending (
  row integer primary key, attempts integer not null, at_milliseconds integer not null, customer_id text not null
);
create table if not exists accepted_range (first integer primary key, last integer not null);
create table if not exists original (row integer primary key, cells text not null);
create table if not exists posted (row integer primary key, cells text not null);
insert or ignore into posted
  select cast(substr(name, 16) as integer), value from run where name glob 'posted for row *';
delete from run where name glob 'posted for row *';
create table if not exists former_id (row integer, own_id text, primary key (row, own_id)) without rowid;
create table if not exists counted (row integer primary key);
create table if not exists adopted_row (row integer primary key, event_id text not null unique);
"""

_ISLANDS_OF_ACCEPTED_ROWS = """
insert into accepted_range
  select min(row), max(row) from (
    select row, row - row_number() over (order by row) as island from outcome where reason is null
  ) group by island
"""

_POSTED_AND_NOT_RECORDED = """
select row, cells from posted
where not exists (select 1 from outcome where row = posted.row and (reason is null or reason = 'in_doubt'))
  and ifnull((select last from accepted_range where first <= posted.row order by first desc limit 1), 0) < posted.row
"""

_ACCEPTED_AS_EDITED = """
select original.cells from posted left join original using (row)
where exists (select 1 from outcome where row = posted.row and reason is null)
  or ifnull((select last from accepted_range where first <= posted.row order by first desc limit 1), 0) >= posted.row
"""


@row_record(frozen=True, slots=True)
class Sending:
    """One row about to be posted; ``attempts`` counts this one."""

    row: int
    attempts: int
    at_milliseconds: int
    customer_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What a run's ledger holds: counts of rows, the highest row with a state (0 for none), the time of the last."""

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
            LedgerRefusal: another process holds the run, a newer program wrote its file, it cannot be used, or one of
                an upload and its adopted copy is to be taken for the other.
        """
        self.identity = identity
        self.path = ledger_path(folder, identity.run_id)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            _demand_local(folder)
            self.lock = Lock(self.path.with_suffix(".lock"))
        except OSError as error:
            raise unusable(self.path, error) from error
        with contextlib.ExitStack() as undo:
            undo.callback(self.lock.release)
            self._database = Database(self.path, tables=_TABLES, version=LEDGER_VERSION)
            undo.callback(self._database.close)
            self._demand_own_file()
            self.event_id_of: Callable[[int], str] = (
                AdoptedEventIds(self._database).of if identity.adopted_run_id else EventIds(identity).of
            )
            self._settle_crashed_rows()
            self._rows_sending: set[int] = set()
            self._database.hold()
            undo.pop_all()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the run; what was committed stays."""
        self._database.close()
        self.lock.release()

    def recall(self, name: str) -> Any:
        """Give what was remembered under a name; None for nothing."""
        found = self._database.rows("select value from run where name = ?", (name,))
        return json.loads(found[0][0]) if found else None

    def remember(self, **values: Any) -> None:
        """Keep facts about the run itself, as JSON, durably."""
        with self._database.transaction() as connection:
            connection.executemany(
                "insert or replace into run values (?, ?)",
                [(name, json.dumps(value)) for name, value in values.items()],
            )

    def begin(self, *, path: str, facts: list[Any], rows: int, event_id: str | None) -> None:
        """Note that an upload begins or continues the run.

        facts:    tell the usage log from a copy of it.
        event_id: the column of the log's own ids; None without.
        """
        started = self.recall("started_milliseconds") or _now_milliseconds()
        self._forget_what_was_not_recorded(event_id)
        self.remember(
            path=path, input=facts, rows=rows, event_id=event_id, started_milliseconds=started, is_finished=False
        )

    def _forget_what_was_not_recorded(self, event_id: str | None) -> None:
        """Forget what a replay posted of rows that the upload posts again as its log has them, but for their ids."""
        cells_by_row = {row: json.loads(cells) for row, cells in self._database.rows(_POSTED_AND_NOT_RECORDED)}
        own_ids = [(row, str(cells.get(event_id) or "")) for row, cells in cells_by_row.items()]
        with self._database.transaction() as connection:
            connection.executemany("insert or ignore into former_id values (?, ?)", filter(itemgetter(1), own_ids))
            connection.executemany("delete from posted where row = ?", [(row,) for row in cells_by_row])

    def former_own_ids(self, rows: Sequence[int]) -> dict[int, list[str]]:
        """Give the log's own ids (``--event-id``) that a replay gave some rows, before an upload posted them again."""
        query = f"select row, own_id from former_id where row in ({marks(rows)})"  # noqa: S608 -- question marks alone
        own_ids_by_row: dict[int, list[str]] = {}
        for row, own_id in self._database.rows(query, rows):
            own_ids_by_row.setdefault(row, []).append(own_id)
        return own_ids_by_row

    def end(self, *, is_finished: bool, totals: dict[str, list[int]]) -> int:
        """Note that the run's results are durable; of a finished run the accepted rows shrink to ranges.

        totals: rows and units by reason, as the log states them; ``accepted`` for the accepted ones.

        Gives how many rows were accepted as a replay had edited them; the totals that are kept have what was posted.
        """
        edited = self._count(units_uploaded=totals.get("accepted", [0, 0])[1])
        if is_finished:
            self._shrink()
        self.remember(is_finished=is_finished, totals=totals, ended_milliseconds=_now_milliseconds())
        if edited:
            self.sum_up()
        return edited

    def sum_up(self) -> None:
        """Bring the totals up to date after a replay."""
        units_uploaded = self.recall("units_uploaded")
        if units_uploaded is not None:  # which version 1 did not keep
            rows = self.recall("rows")
            self.remember(totals=run_totals(self._database, rows=rows, units_uploaded=units_uploaded))

    def keep_posted(self, cells_by_row: dict[int, dict[str, Any]]) -> None:
        """Keep what is about to be posted for some rows, where that is not what was posted before or the original."""
        with self._database.transaction() as connection:
            connection.executemany(
                "insert or replace into posted values (?, ?)",
                [(row, json.dumps(cells)) for row, cells in cells_by_row.items()],
            )

    def posted(self, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Give back what ``keep_posted`` kept last of some rows."""
        query = f"select row, cells from posted where row in ({marks(rows)})"  # noqa: S608 -- question marks alone
        return {row: json.loads(cells) for row, cells in self._database.rows(query, rows)}

    @contextlib.contextmanager
    def adopting(self) -> Iterator[Adoption]:
        """Take over what another ledger knew of the run: all that is done within is kept, durably, or nothing of it."""
        with self._database.transaction() as connection:
            yield Adoption(connection, identity=self.identity, record=_record)

    def commit(self, *, settled: Sequence[RowState], sending: Sequence[Sending]) -> None:
        """Record outcomes, and the rows that are about to be posted, in one durable transaction."""
        with self._database.transaction() as connection:
            self._end_sending(connection, settled)
            _record(connection, settled)
            self._rows_sending.update(row.row for row in sending)
            connection.executemany(
                "insert into sending values (?, ?, ?, ?)",
                [(row.row, row.attempts, row.at_milliseconds, row.customer_id) for row in sending],
            )

    def known(self, rows: Sequence[int]) -> dict[int, RowState]:
        """Give the states of those rows that have one, by row number; at most some thousand at a time."""
        if not rows:
            return {}
        first, last = min(rows), max(rows)
        if last - first < len(rows):  # all rows between them: three times as fast
            found = self._database.rows("select * from outcome where row between ? and ?", (first, last))
        else:
            found = self._database.rows(f"select * from outcome where row in ({marks(rows)})", rows)  # noqa: S608 -- question marks
        ranges = self._database.rows(
            "select first, last from accepted_range where last >= ? and first <= ? order by first",
            (first, last),
        )
        state_by_row = {row: RowState(row, _FROM_A_RANGE) for row in rows if is_in(row, ranges)} if ranges else {}
        told: tuple[Any, ...] = ()
        outcome = _FROM_A_RANGE
        for row, reason, detail, status, response, attempts, at, customer_id in found:
            tells = (reason, detail, status, response)
            if tells != told:  # neighbours often came to the same
                told, outcome = tells, Outcome(Reason(reason) if reason else None, detail, status, response)
            state_by_row[row] = RowState(row, outcome, attempts, at, customer_id)
        return state_by_row

    def history(self) -> History:
        """Sum up what earlier commands recorded."""
        [(accepted, in_doubt, last_row, at)] = self._database.rows(
            "select count(*) filter (where reason is null), count(*) filter (where reason = ?), ifnull(max(row), 0), "
            "ifnull(max(at_milliseconds), 0) from outcome",
            (Reason.IN_DOUBT.value,),
        )
        [(in_ranges, last_in_ranges)] = self._database.rows(
            "select ifnull(sum(last - first + 1), 0), ifnull(max(last), 0) from accepted_range"
        )
        return History(
            accepted=accepted + in_ranges,
            in_doubt=in_doubt,
            last_row=max(last_row, last_in_ranges),
            at_milliseconds=max(at, self.recall("ended_milliseconds") or 0),
        )

    def keep_originals(self, cells_by_row: dict[int, dict[str, Any]]) -> None:
        """Keep failed rows' cells as they were, by column, so that a replay can tell what was edited."""
        with self._database.transaction() as connection:
            connection.executemany(
                "insert or ignore into original values (?, ?)",
                [(row, json.dumps(cells)) for row, cells in cells_by_row.items()],
            )

    def originals(self, rows: Sequence[int]) -> dict[int, dict[str, Any]]:
        """Give back what ``keep_originals`` kept of some rows."""
        query = f"select row, cells from original where row in ({marks(rows)})"  # noqa: S608 -- question marks alone
        found = self._database.rows(query, rows)
        return {row: json.loads(cells) for row, cells in found}

    def own_ids(self, rows: Sequence[int]) -> dict[int, str]:
        """Give the log's own ids (``--event-id``) that some rows had last, where their cells are kept."""
        column = self.recall("event_id")
        cells_by_row = {**self.originals(rows), **self.posted(rows)} if column else {}
        return {row: str(cells[column]) for row, cells in cells_by_row.items() if cells.get(column) not in (None, "")}

    def _demand_own_file(self) -> None:
        found = self.recall("identity")
        if found == self.identity.canonical:
            return
        if self.recall("rows") is not None:
            raise LedgerRefusal(
                f"{self.path} holds run {self.identity.run_id} as another command left it just now",
                remedy="see: uploader runs",
            )
        if not self.identity.adopted_run_id:  # that one's is kept together with its rows
            self.remember(identity=self.identity.canonical)

    def _count(self, *, units_uploaded: int) -> int:
        """Keep the units of all accepted rows, and which of them need not be counted by their cells any more.

        Those that a replay edited are counted by what it posted, ever; gives how many they are.
        """
        edited = self._database.rows(_ACCEPTED_AS_EDITED)
        units = units_uploaded - sum(usage_in(cells) for (cells,) in edited)
        with self._database.transaction() as connection:
            connection.execute(
                "insert or ignore into counted select row from outcome where reason is null "
                "and row in (select row from original) and row not in (select row from posted)"
            )
            connection.execute("insert or replace into run values ('units_uploaded', ?)", (json.dumps(units),))
        return len(edited)

    def _shrink(self) -> None:
        with self._database.transaction() as connection:
            connection.execute(_ISLANDS_OF_ACCEPTED_ROWS)
            connection.execute("create table kept as select * from outcome where reason is not null")
            connection.execute("delete from outcome")  # without a condition: whole pages at a time
            connection.execute("insert into outcome select * from kept")
            connection.execute("drop table kept")
        self._database.vacuum()

    def _settle_crashed_rows(self) -> None:
        crashed = self._database.rows("select row, attempts, at_milliseconds, customer_id from sending")
        if crashed:
            in_doubt = Outcome(Reason.IN_DOUBT, _CRASHED)
            states = [RowState(row, in_doubt, attempts, at, customer) for row, attempts, at, customer in crashed]
            with self._database.transaction() as connection:
                connection.execute("delete from sending")
                _record(connection, states)

    def _end_sending(self, connection: Any, states: Sequence[RowState]) -> None:
        self._rows_sending.difference_update([state.row for state in states])
        if self._rows_sending:
            connection.executemany("delete from sending where row = ?", [(state.row,) for state in states])
        else:
            connection.execute("delete from sending")  # without a condition: whole pages at a time


def _record(connection: Any, states: Sequence[RowState]) -> None:
    connection.executemany(
        "insert or replace into outcome values (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                state.row,
                None if (outcome := state.outcome).reason is None else outcome.reason.value,
                outcome.detail,
                outcome.http_status,
                outcome.response,
                state.attempts,
                state.at_milliseconds,
                state.customer_id,
            )
            for state in states
        ],
    )


def ledger_path(folder: Path, run_id: str) -> Path:
    """Name a run's file."""
    return folder / f"{run_id}.sqlite"


def run_ids(folder: Path) -> list[str]:
    """List the runs that a ledger folder knows."""
    return sorted(path.stem for path in folder.glob("r*.sqlite"))


def remembered(folder: Path, run_id: str) -> dict[str, Any] | None:
    """Read what a run remembers of itself, without holding it; None when this folder does not know the run.

    Raises:
        LedgerRefusal: a process is at work on it just now, or its file cannot be read.
    """
    with looked_at(folder, run_id) as database:
        facts = database.rows("select name, value from run") if database else []
    return {name: json.loads(value) for name, value in facts} if facts else None


@contextlib.contextmanager
def looked_at(folder: Path, run_id: str) -> Iterator[Database | None]:
    """Open a run's file for a moment, to look at it; None when this folder does not know the run.

    Raises:
        LedgerRefusal: a process is at work on it just now, or its file cannot be read.
    """
    path = ledger_path(folder, run_id)
    if not path.exists():
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            lock = Lock(path.with_suffix(".lock"))
        except OSError as error:
            raise unusable(path, error) from error
        stack.callback(lock.release)
        yield stack.enter_context(contextlib.closing(Database(path, tables=_TABLES, version=LEDGER_VERSION)))


def is_known(folder: Path, run_id: str) -> bool:
    """Tell whether a run was begun or adopted in this ledger, or is at work just now; an empty file is no knowledge.

    Raises:
        LedgerRefusal: its file cannot be read.
    """
    if not RUN_ID.fullmatch(run_id):
        return False
    if holder(ledger_path(folder, run_id).with_suffix(".lock")):
        return True
    return bool({"input", "adopted"} & (remembered(folder, run_id) or {}).keys())


def known_run(folder: Path, run_id: str) -> RunIdentity:
    """Find what a run was about.

    Raises:
        LedgerRefusal: this ledger does not know it, or a process is at work on it.
    """
    known = remembered(folder, run_id) if RUN_ID.fullmatch(run_id) else None
    if known is None:
        raise LedgerRefusal(
            f"run {run_id} is not known to the ledger in {folder}",
            remedy="give --ledger the folder that the upload used; for one that is lost there is --without-ledger",
        )
    return RunIdentity.from_canonical(known["identity"])


def _now_milliseconds() -> int:
    return time.time_ns() // 1_000_000


def is_in(row: int, ranges: Sequence[tuple[int, int]]) -> bool:
    """Tell whether one of the ranges (first, last), which are in order, has the row."""
    at = bisect.bisect_right(ranges, (row, sys.maxsize)) - 1
    return at >= 0 and row <= ranges[at][1]


def _demand_local(folder: Path) -> None:
    kind = network_file_system(folder)
    if kind:
        raise LedgerRefusal(
            f"the ledger's folder {folder} is on a network file system ({kind}), where a flush or a lock may be lost",
            remedy="give --ledger a folder on a local disk",
        )
