"""A check of usage logs: the verdicts that an upload would give before it posts, and nothing is posted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from uploader.findings import CheckFindings
from uploader.model import Outcome
from uploader.readers import open_usage_log
from uploader.schema import RowSchema
from uploader.upload import fitted_check


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What a check found: rows in all, those that an upload would fail, and the units that the good ones state."""

    rows: int
    failing: int
    units: int


def validate(
    path: Path,
    *,
    schema_path: Path | None,
    delimiter: str | None,
    tell: Callable[[int, Outcome], None],
    findings: CheckFindings | None = None,
) -> Verdicts:
    """Check one usage log; ``tell`` is called with the number and the failure of each failing row.

    findings: is handed every verdict, for a report; None for none.

    Raises:
        InputError: the file cannot be taken as a whole.
        SchemaError: the schema file is not a schema.
    """
    failing = units = 0
    with open_usage_log(path, delimiter=delimiter) as log:
        check = fitted_check(log, RowSchema.load(schema_path))
        for batch in log.batches():
            for row in batch.rows:
                event = check.event(row)
                if findings is not None:
                    findings.take_verdict(row, log.columns, event, check.units(row))
                if isinstance(event, Outcome):
                    failing += 1
                    tell(row.number, event)
                else:
                    units += event.total_usage
        return Verdicts(rows=log.row_count, failing=failing, units=units)
