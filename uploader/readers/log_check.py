"""What a usage log must be as a whole, whatever its rows are."""

from __future__ import annotations

from uploader.model.errors import InputError
from uploader.model.mapping import ColumnMap
from uploader.model.settings import FailureBudget
from uploader.model.shell import as_argument
from uploader.readers.event_reader import EventReader
from uploader.readers.readers import UsageLog
from uploader.schema.schema import RowSchema


def fitted_reader(
    log: UsageLog, schema: RowSchema, mapping: ColumnMap, *, event_id: str | None, base_url: str
) -> EventReader:
    """Fit the schema to a usage log; see ``EventReader.of`` for its own event ids.

    Raises:
        InputError: a column is missing, or the file is one that this program wrote.
    """
    own = [column for column in log.columns if column.startswith("upload_")]
    if own:
        raise InputError(
            f"{log.path}: its column {own[0]!r} is one that results and failed files have",
            remedy=f"to send its failed rows again: uploader replay {as_argument(log.path)}",
        )
    check = schema.for_columns(log.columns, path=log.path, mapping=mapping)
    return EventReader.of(log, check, event_id=event_id, base_url=base_url)


def demand_within_budget(log: UsageLog, bad: int, budget: FailureBudget | None) -> None:
    """Refuse a log that was read through, and so many of whose rows are bad.

    Raises:
        InputError: they are more than the failure budget allows.
    """
    if budget is not None and bad > (most := budget.most_failed(rows=log.row_count)):
        raise InputError(
            f"{log.path}: {bad:,} of {log.row_count:,} rows are invalid or malformed, and --max-failed allows {most:,}",
            remedy=f"nothing was posted; see which: uploader validate {as_argument(log.path)}; have the export "
            "mended, or allow more",
        )
