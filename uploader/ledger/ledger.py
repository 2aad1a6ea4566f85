"""What is known of each row, through any crash: one database file a run.

The rule: a row is recorded as "sending", durably, before its POST starts. After a crash a row that is still "sending"
is in doubt; of every other row it is known exactly whether it was recorded.

Once a run's results are durable its accepted rows shrink to ranges of row numbers; failed rows stay as they are.
"""

from __future__ import annotations

import bisect
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from uploader.ledger.adopted import AdoptedEventIds, Adoption
from uploader.ledger.database import Database, question_marks, unusable
from uploader.ledger.edits import Edits
from uploader.ledger.local_disk import network_file_system
from uploader.ledger.lock import Lock
from uploader.ledger.run_facts import RunFacts, accepted_in, facts_in, keep_facts
from uploader.ledger.run_file import LEDGER_VERSION, TABLES, islands, ledger_path
from uploader.ledger.run_totals import keep_units_uploaded, run_totals
from uploader.model.errors import LedgerRefusal
from uploader.model.identity import EventIds, RunIdentity
from uploader.model.model import Outcome, Reason, RowState, now_milliseconds
from uploader.model.records import row_record

_CRASHED = "may have been recorded: the upload ended while the row was being sent"
_FROM_A_RANGE = Outcome(None)

_KEEP_ACCEPTED_RANGES = f"insert into accepted_range {islands('select row from outcome where reason is null')}"  # noqa: S608 -- words of ours


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

    @property
    def may_be_recorded(self) -> int:
        """Rows that the backend recorded, or may have: none of them is posted again unless a person says so."""
        return self.accepted + self.in_doubt


class Knowledge(Protocol):
    """What is asked of a run's ledger, whether it is held or was only looked at."""

    @property
    def identity(self) -> RunIdentity:
        """What the run is about."""

    def known(self, rows: Sequence[int]) -> dict[int, RowState]:
        """Give the states of those rows that have one, by row number."""

    def own_ids(self, rows: Sequence[int]) -> dict[int, str]:
        """Give the log's own ids that some rows had last, where they are kept: a replay may have changed them."""

    def history(self) -> History:
        """Sum up what earlier commands recorded."""


class Ledger:
    """One run's ledger, held by this process alone until it is closed.

    edits: what failed rows had in their cells, and what replays posted in the place of that.

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
            self._database = Database(self.path, tables=TABLES, version=LEDGER_VERSION)
            undo.callback(self._database.close)
            self._demand_own_file()
            self.edits = Edits(self._database)
            self.event_id_of: Callable[[int], str] = (
                AdoptedEventIds(self._database).of if identity.adopted_run_id else EventIds(identity).of
            )
            self._settle_crashed_rows()
            self._rows_sending: set[int] = set()
            self._is_summed_up = True
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

    def facts(self) -> RunFacts:
        """Give what the run remembers of itself."""
        return facts_in(self._database)

    def remember(self, facts: RunFacts) -> None:
        """Keep facts about the run itself, durably."""
        with self._database.transaction() as connection:
            keep_facts(connection, facts)

    def begin(
        self,
        *,
        path: Path,
        columns: Sequence[str],
        input_name: str,
        input_modified_nanoseconds: int,
        rows: int,
        event_id: str | None,
        schema_path: Path | None,
        compared: dict[str, int],
    ) -> None:
        """Note that an upload begins or continues the run.

        path:        of the usage log, which has ``columns``; its name and when it was modified tell it from a copy.
        event_id:    the column of the log's own ids; None without.
        schema_path: None for the schema that ships.
        compared:    the checksums of the sketches of other runs that it was compared with.
        """
        before = self.facts()
        self.edits.forget_what_was_not_recorded(event_id=event_id)
        self.remember(
            {
                "path": str(path),
                "input": [input_name, input_modified_nanoseconds],
                "input_path": str(path.absolute()),
                "columns": list(columns),
                "rows": rows,
                "event_id": event_id,
                "schema": "" if schema_path is None else str(schema_path.absolute()),
                "compared": compared,
                "compared_first": before.get("compared_first", compared),
                "started_milliseconds": before.get("started_milliseconds") or now_milliseconds(),
                "is_finished": False,
            }
        )

    def end(self, *, is_finished: bool, totals: dict[str, list[int]]) -> int:
        """Note that the run's results are durable; of a finished run the accepted rows shrink to ranges.

        totals: rows and units by reason, as the log states them; ``accepted`` for the accepted ones.

        Gives how many rows were accepted as a replay had edited them; the totals that are kept have what was posted.
        """
        edited = keep_units_uploaded(self._database, units_of_log=accepted_in(totals)[1])
        if is_finished:
            self._shrink()
        self.remember({"is_finished": is_finished, "ended_milliseconds": now_milliseconds()})
        self._keep_totals(totals)
        if edited:
            self.sum_up()
        return edited

    def sum_up(self) -> None:
        """Bring the totals up to date after a replay."""
        facts = self.facts()
        if "units_uploaded" in facts:  # known since the results were first durable
            totals = run_totals(self._database, rows=facts["rows"], units_uploaded=facts["units_uploaded"])
            self._keep_totals(totals)

    def _keep_totals(self, totals: dict[str, list[int]]) -> None:
        self.remember({"totals": totals, "is_summed_up": True})
        self._is_summed_up = True

    @contextlib.contextmanager
    def adopting(self) -> Iterator[Adoption]:
        """Take over what another ledger knew of the run: all that is done within is kept, durably, or nothing of it."""
        with self._database.transaction() as connection:
            yield Adoption(connection, identity=self.identity, record=_record)

    def commit(self, *, settled: Sequence[RowState], sending: Sequence[Sending]) -> None:
        """Record outcomes, and the rows that are about to be posted, in one durable transaction."""
        with self._database.transaction() as connection:
            if self._is_summed_up:
                self._is_summed_up = False
                keep_facts(connection, {"is_summed_up": False})
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
            found = self._database.rows(f"select * from outcome where row in ({question_marks(rows)})", rows)  # noqa: S608 -- question marks
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
            at_milliseconds=max(at, self.facts().get("ended_milliseconds", 0)),
        )

    def own_ids(self, rows: Sequence[int]) -> dict[int, str]:
        """Give the log's own ids (``--event-id``) that some rows had last, where their cells are kept."""
        column = self.facts().get("event_id")
        return self.edits.own_ids(rows, event_id=column) if column else {}

    def _demand_own_file(self) -> None:
        facts = self.facts()
        if facts.get("identity") == self.identity.canonical:
            return
        if "rows" in facts:
            raise LedgerRefusal(
                f"{self.path} holds run {self.identity.run_id} as another command left it just now",
                remedy="see: uploader runs",
            )
        if not self.identity.adopted_run_id:  # that one's is kept together with its rows
            self.remember({"identity": self.identity.canonical})

    def _shrink(self) -> None:
        with self._database.transaction() as connection:
            connection.execute(_KEEP_ACCEPTED_RANGES)
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
