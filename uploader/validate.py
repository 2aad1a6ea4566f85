"""A check of usage logs: the verdicts that an upload would give before it posts, and nothing is posted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from uploader.books import ByReason
from uploader.file_report import FileReport
from uploader.findings import CheckFindings, EventCells
from uploader.log_check import demand_within_budget, fitted_check
from uploader.mapping import ColumnMap
from uploader.model import Outcome
from uploader.own_events import OwnIds, event_in
from uploader.readers import open_usage_log, sifted
from uploader.schema import RowSchema
from uploader.settings import FailureBudget

_WOULD_BE_POSTED = Outcome(None)


def validate(
    path: Path,
    *,
    schema_path: Path | None,
    delimiter: str | None,
    event_id: str | None,
    mapping: ColumnMap,
    max_failed: FailureBudget | None,
    tell: Callable[[int, Outcome], None],
    findings: CheckFindings | None = None,
) -> FileReport:
    """Check one usage log; ``tell`` is called with the number and the failure of each failing row.

    Gives an upload's report, as if every post were accepted.

    findings: is handed every verdict, for a page; None for none.

    Raises:
        InputError: the file cannot be taken as a whole.
        SchemaError: the schema file is not a schema.
    """
    by_reason = ByReason()
    with open_usage_log(path, delimiter=delimiter) as log:
        check = fitted_check(log, RowSchema.load(schema_path), mapping)
        event_cells = EventCells(log.columns, mapping=mapping, path=path)
        own_ids = None if event_id is None else OwnIds(event_id, log.columns, base_url="", path=path)
        columns = check.columns_alone
        if columns is not None and own_ids is not None:
            columns = [*columns, own_ids.column_alone]
        for part in sifted(log, columns):
            by_reason.add(None, rows=part.good_rows, units=part.good_units)
            if findings is not None:
                findings.take_good(rows=part.good_rows, units=part.good_units)
            for row in part.rows:
                event, units = event_in(row, check, own_ids), check.units(row)
                if findings is not None:
                    findings.take_verdict(row, event_cells, event, units)
                outcome = event if isinstance(event, Outcome) else _WOULD_BE_POSTED
                by_reason.add(outcome.reason, rows=1, units=0 if units is None else units.total_usage)
                if outcome.reason is not None:
                    tell(row.number, outcome)
        report = FileReport(path=path, entry_by_reason=by_reason.entries())
        demand_within_budget(log, report.failed_rows, max_failed)
    return report
