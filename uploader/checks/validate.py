"""A check of usage logs: the verdicts that an upload would give before it posts, and nothing is posted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from uploader.model.mapping import ColumnMap
from uploader.model.model import Outcome
from uploader.model.settings import FailureBudget
from uploader.readers.log_check import demand_within_budget, fitted_reader
from uploader.readers.readers import open_usage_log, sifted
from uploader.reports.findings import CheckFindings, EventCells
from uploader.schema.schema import RowSchema


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
        reader = fitted_reader(log, RowSchema.load(schema_path), mapping, event_id=event_id, base_url="")
        event_cells = EventCells(log.columns, mapping=mapping, path=path)
        for part in sifted(log, reader.columns_alone):
            findings.take_good(rows=part.good_rows, units=part.good_units)
            for row in part.rows:
                verdict = reader.event(row)
                findings.take_verdict(row, event_cells, verdict, reader.check.units(row))
                if isinstance(verdict, Outcome):
                    tell(row.number, verdict)
        demand_within_budget(log, findings.failed.rows, max_failed)
    return findings
