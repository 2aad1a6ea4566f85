"""A check of usage logs: the verdicts that an upload would give before it posts, and nothing is posted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from uploader.findings import CheckFindings, EventCells
from uploader.log_check import demand_within_budget, fitted_check
from uploader.mapping import ColumnMap
from uploader.model import Outcome
from uploader.own_events import event_in, own_ids_of
from uploader.readers import open_usage_log, sifted
from uploader.schema import RowSchema
from uploader.settings import FailureBudget


def validate(
    path: Path,
    *,
    schema_path: Path | None,
    delimiter: str | None,
    event_id: str | None,
    mapping: ColumnMap,
    max_failed: FailureBudget | None,
    tell: Callable[[int, Outcome], None],
) -> CheckFindings:
    """Check one usage log; ``tell`` is called with the number and the failure of each failing row.

    Raises:
        InputError: the file cannot be taken as a whole.
        SchemaError: the schema file is not a schema.
    """
    findings = CheckFindings()
    with open_usage_log(path, delimiter=delimiter) as log:
        check = fitted_check(log, RowSchema.load(schema_path), mapping)
        event_cells = EventCells(log.columns, mapping=mapping, path=path)
        own_ids = own_ids_of(log, event_id, base_url="")
        columns = check.columns_alone
        if columns is not None and own_ids is not None:
            columns = [*columns, own_ids.column_alone]
        for part in sifted(log, columns):
            findings.take_good(rows=part.good_rows, units=part.good_units)
            for row in part.rows:
                verdict = event_in(row, check, own_ids)
                findings.take_verdict(row, event_cells, verdict, check.units(row))
                if isinstance(verdict, Outcome):
                    tell(row.number, verdict)
        demand_within_budget(log, findings.failed.rows, max_failed)
    return findings
