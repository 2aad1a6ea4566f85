"""Whether an upload may begin: the first pass over its log, and every guard that stands before the first POST."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from uploader.books import Books
from uploader.desk import Plan
from uploader.errors import InputError
from uploader.guards import InputFacts, choose_run, demand_known_results, demand_little_overlap
from uploader.identity import RunIdentity
from uploader.mapping import AS_IT_STANDS, ColumnMap
from uploader.marker import demand_known_marks
from uploader.model import Outcome
from uploader.notes import Level, Note
from uploader.overlap import RowSketches
from uploader.own_events import OwnIds, event_in
from uploader.readers import UsageLog
from uploader.reservation import Names, choose_names
from uploader.run_file import is_known
from uploader.schema import RowCheck, RowSchema
from uploader.seen import SeenRows
from uploader.settings import FailureBudget


def sketches_of(log: UsageLog, plan: Plan) -> RowSketches:
    """Begin to sketch the rows of a usage log."""
    return RowSketches(log.columns, mapping=plan.mapping, path=log.path)


def fitted_check(log: UsageLog, schema: RowSchema, mapping: ColumnMap = AS_IT_STANDS) -> RowCheck:
    """Fit the schema to a usage log.

    Raises:
        InputError: a column is missing, or the file is one that this program wrote.
    """
    own = [column for column in log.columns if column.startswith("upload_")]
    if own:
        raise InputError(
            f"{log.path}: its column {own[0]!r} is one that results and failed files have",
            remedy=f"to send its failed rows again: uploader replay {log.path}",
        )
    return schema.for_columns(log.columns, path=log.path, mapping=mapping)


def own_ids_of(log: UsageLog, plan: Plan) -> OwnIds | None:
    """Find the column of the log's own ids; None when events are not named by them.

    Raises:
        InputError: the log has no such column.
    """
    if plan.event_id is None:
        return None
    return OwnIds(plan.event_id, log.columns, base_url=plan.settings.base_url, path=log.path)


def read_through(log: UsageLog, check: RowCheck, own_ids: OwnIds | None, plan: Plan) -> tuple[Books, RowSketches]:
    """Make the first pass: read every row, post nothing; afterwards the log's hash and row count are known.

    Gives the books, and a sketch of the rows.

    Raises:
        InputError: the file is broken, or more of its rows are bad than the failure budget allows.
    """
    books = Books()
    sketch = sketches_of(log, plan)
    bad = 0
    for batch in log.batches():
        books.take_in_all(rows=len(batch.rows), stated=check.units_stated(batch.rows))
        sketch.add_all([row.cells for row in batch.rows if not row.fault])
        if plan.max_failed is not None:
            for row in batch.rows:
                bad += isinstance(event_in(row, check, own_ids), Outcome)
    demand_within_budget(log, bad, plan.max_failed)
    return books, sketch


def demand_within_budget(log: UsageLog, bad: int, budget: FailureBudget | None) -> None:
    """Refuse a log that was read through, and so many of whose rows are bad.

    Raises:
        InputError: they are more than the failure budget allows.
    """
    if budget is not None and bad > budget.most_failed(rows=log.row_count):
        raise InputError(
            f"{log.path}: {bad:,} of {log.row_count:,} rows are invalid or malformed, more than --max-failed allows",
            remedy=f"nothing was posted; see which: uploader validate {log.path}",
        )


def admitted_run(
    log: UsageLog, facts: InputFacts, rows: RowSketches, plan: Plan, *, say: Callable[[Note], None]
) -> RunIdentity:
    """Choose the run that this upload begins or continues, past every guard; say what is odd and no reason to refuse.

    Raises:
        LedgerRefusal: a guard forbids it; nothing was posted.
    """
    first = RunIdentity(
        base_url=plan.settings.base_url,
        period=plan.period,
        content_sha256=log.content_sha256,
        mapping=plan.mapping,
    )
    identity = choose_run(plan.ledger_folder, first, facts, asks_for_all_again=plan.again, event_id=plan.event_id)
    knows = functools.partial(is_known, plan.ledger_folder)
    results = (names.results for names in names_for(log, plan))
    demand_known_results(results, delimiter=log.delimiter, knows=knows, ledger_folder=plan.ledger_folder)
    folder = next(names_for(log, plan)).results.parent
    demand_known_marks(folder, input_name=log.path.name, knows=knows, ledger_folder=plan.ledger_folder)
    if not knows(identity.run_id) and not plan.again and not plan.allow_overlap:
        seen = SeenRows(plan.ledger_folder, identity, event_id=plan.event_id)
        for words in {demand_little_overlap(seen, sketch, path=log.path) for sketch in rows.each()} - {""}:
            say(Note(words, "overlap", level=Level.WARNING, path=log.path, run_id=identity.run_id))
    return identity


def names_for(log: UsageLog, plan: Plan) -> Iterator[Names]:
    """Give the names that the results may take, the best first."""
    return choose_names(log, results=plan.results, results_dir=plan.results_dir)
