"""What a run remembers of itself, beside the states of its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, cast

from uploader.ledger.database import Database
from uploader.model.model import Status


class RunFacts(TypedDict, total=False):
    """What a run remembers of itself; none of it is there before it is known.

    identity:             as ``RunIdentity.canonical`` gives it.
    path:                 of the usage log, as the last command named it.
    input:                its file name, and when it was last modified (ns since 1970).
    input_path:           where it was, absolute.
    columns:              of the usage log.
    adopted:              the file whose word was taken for the run; only of a run that was adopted.
    rows:                 of the usage log; of an adopted run those of its file, the last of which is ``last_row``.
    event_id:             the column of the log's own event ids; None without.
    schema:               the file that its rows were checked by last, absolute; empty for the one that ships.
    started_milliseconds: since 1970, as is ``ended_milliseconds``, when results were last durable.
    is_finished:          whether every row had its turn.
    totals:               rows and units by reason, ``accepted`` for the accepted ones.
    is_summed_up:         False when a command was killed that had changed them.
    units_uploaded:       see ``run_totals``.
    compared:             checksums of the sketches of other runs with which its upload was compared last, and
    compared_first:       those with which it was when it began.
    files:                size and modification time (ns) of the files that the run wrote, by path.
    announced_files:      likewise, those that it was about to place.
    """

    identity: str
    path: str
    input: list[Any]
    input_path: str
    columns: list[str]
    adopted: str
    rows: int
    last_row: int
    event_id: str | None
    schema: str
    started_milliseconds: int
    ended_milliseconds: int
    is_finished: bool
    totals: dict[str, list[int]]
    is_summed_up: bool
    units_uploaded: int
    compared: dict[str, int]
    compared_first: dict[str, int]
    files: dict[str, list[int]]
    announced_files: dict[str, list[int]]


def accepted_in(totals: Mapping[str, Sequence[int]]) -> tuple[int, int]:
    """Give the accepted rows of a run's totals, and their units."""
    rows, units = totals.get(Status.ACCEPTED.value, (0, 0))
    return rows, units


def failed_in(totals: Mapping[str, Sequence[int]]) -> int:
    """Give the failed rows of a run's totals, those in doubt too."""
    return sum(rows for reason, (rows, _) in totals.items() if reason != Status.ACCEPTED.value)


def facts_in(database: Database) -> RunFacts:
    """Read what a run remembers of itself."""
    facts = {name: json.loads(value) for name, value in database.rows("select name, value from run")}
    return cast("RunFacts", facts)


def keep_facts(connection: Any, facts: RunFacts) -> None:
    """Keep facts about the run, in the place of earlier ones, within a transaction."""
    rows = [(name, json.dumps(value)) for name, value in facts.items()]
    connection.executemany("insert or replace into run values (?, ?)", rows)


def has_begun(facts: RunFacts) -> bool:
    """Tell whether the run was begun or adopted; else a command that made its file was refused, or killed, before."""
    return bool({"input", "adopted"} & facts.keys())
