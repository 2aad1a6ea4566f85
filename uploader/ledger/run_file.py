"""One run's file in the ledger's folder: its name, its tables, and a look into it, which holds it for a moment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from uploader.ledger.database import Database, unusable
from uploader.ledger.lock import Lock, holder
from uploader.ledger.run_facts import RunFacts, accepted_in, facts_in, has_begun
from uploader.model.errors import LedgerRefusal
from uploader.model.identity import RUN_ID, RunIdentity

LEDGER_VERSION = 4
# Version 1 kept what a replay posted among the facts of the run; version 2 knew no former ids, version 3 no rows of
# the log.
TABLES = """
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
create table if not exists log_row (row integer primary key, cells text not null);
create table if not exists former_id (row integer, own_id text, primary key (row, own_id)) without rowid;
create table if not exists counted (row integer primary key);
create table if not exists adopted_row (row integer primary key, event_id text not null unique);
"""


def in_a_range(row: str) -> str:
    """Give the SQL that tells whether a row, an expression, is in a range of accepted rows."""
    last = f"select last from accepted_range where first <= {row} order by first desc limit 1"  # noqa: S608 -- words of ours alone
    return f"ifnull(({last}), 0) >= {row}"


def islands(rows: str) -> str:
    """Give the SQL that finds the first and the last of each unbroken run of the rows that a query finds, in order."""
    return f"""
select min(row), max(row) from (
  select row, row - row_number() over (order by row) as island from ({rows})
) group by island order by 1
"""  # noqa: S608 -- words of ours alone


def ledger_path(folder: Path, run_id: str) -> Path:
    """Name a run's file."""
    return folder / f"{run_id}.sqlite"


def run_ids(folder: Path) -> list[str]:
    """List the runs that a ledger folder knows.

    Raises:
        LedgerRefusal: it may not be looked into.
    """
    try:
        names = os.listdir(folder)  # noqa: PTH208 -- Path.glob() passes over what may not be looked into
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unusable(folder, error) from error
    return sorted(name.removesuffix(".sqlite") for name in names if name.endswith(".sqlite") and name.startswith("r"))


def remembered(folder: Path, run_id: str) -> RunFacts:
    """Read what a run remembers of itself, and let go of it; nothing when this folder does not know the run.

    Raises:
        LedgerRefusal: a process is at work on it just now, or its file cannot be read.
    """
    with looked_at(folder, run_id) as database:
        return facts_in(database) if database else RunFacts()


@contextlib.contextmanager
def looked_at(folder: Path, run_id: str) -> Iterator[Database | None]:
    """Open a run's file for a moment, to look at it; None when this folder does not know the run.

    Raises:
        LedgerRefusal: a process is at work on it just now, or its file cannot be read.
    """
    path = ledger_path(folder, run_id)
    if not RUN_ID.fullmatch(run_id):
        yield None
        return
    try:
        is_there = path.exists()
    except OSError as error:
        raise unusable(path, error) from error
    if not is_there:
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            lock = Lock(path.with_suffix(".lock"))
        except OSError as error:
            raise unusable(path, error) from error
        stack.callback(lock.release)
        yield stack.enter_context(contextlib.closing(Database(path, tables=TABLES, version=LEDGER_VERSION)))


def is_known(folder: Path, run_id: str) -> bool:
    """Tell whether a run was begun or adopted in this ledger, or is at work just now; an empty file is no knowledge.

    Raises:
        LedgerRefusal: its file cannot be read.
    """
    if not RUN_ID.fullmatch(run_id):
        return False
    if holder(ledger_path(folder, run_id).with_suffix(".lock")):
        return True
    return has_begun(remembered(folder, run_id))


def has_accepted_rows(folder: Path, *, base_url: str) -> bool:
    """Tell whether a destination has accepted rows of a run that has ended, as far as its runs can be looked into."""
    latest_first = sorted(folder.glob("r*.sqlite"), key=_modified_seconds, reverse=True)
    for path in latest_first:
        if holder(path.with_suffix(".lock")):
            continue
        with contextlib.suppress(LedgerRefusal):  # begun since, or damaged
            facts = remembered(folder, path.stem)
            is_there = "identity" in facts and RunIdentity.from_canonical(facts["identity"]).base_url == base_url
            if is_there and accepted_in(facts.get("totals", {}))[0]:
                return True
    return False


def _modified_seconds(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def known_run(folder: Path, run_id: str) -> RunIdentity:
    """Find what a run was about.

    Raises:
        LedgerRefusal: this ledger does not know it, or a process is at work on it.
    """
    known = remembered(folder, run_id)
    if not known:
        raise LedgerRefusal(
            f"run {run_id} is not known to the ledger in {folder}",
            remedy="give --ledger the folder that the upload used; for one that is lost there is --without-ledger",
        )
    return RunIdentity.from_canonical(known["identity"])
