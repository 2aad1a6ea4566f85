"""The second pass over a usage log: which of its rows are posted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from uploader.ledger.ledger import Knowledge
from uploader.model.model import Row, RowState, UsageEvent, now_milliseconds
from uploader.posting.calls import Due
from uploader.posting.progress import Progress
from uploader.readers.readers import UsageLog
from uploader.uploads.naming import Naming
from uploader.uploads.own_events import OwnEvents


def due_rows(
    log: UsageLog, naming: Naming, own_events: OwnEvents | None, ledger: Knowledge, progress: Progress
) -> Iterator[Due | RowState]:
    """Make the second pass: every row that is neither accepted nor in doubt, or its state if it cannot be posted."""
    last_known_row = ledger.history().last_row
    for batch in log.batches():
        numbers = [row.number for row in batch.rows]
        state_by_row = ledger.known(numbers) if numbers[0] <= last_known_row else {}
        decisions = _decided(batch.rows, state_by_row, naming, progress)
        # Without claims each row is decided when it is asked for: decided all at once, they would have answers wait.
        yield from decisions if own_events is None else own_events.claimed(list(decisions))


def _decided(
    rows: Sequence[Row], state_by_row: Mapping[int, RowState], naming: Naming, progress: Progress
) -> Iterator[Due | RowState]:
    for row in rows:
        before = state_by_row.get(row.number) if state_by_row else None
        if before is not None and before.outcome.may_be_recorded:
            progress.settle(before)
            continue
        event = naming.reader.event(row)
        attempts = before.attempts if before else 0
        if isinstance(event, UsageEvent):
            yield Due(row.number, event, naming.event_id(row), attempts=attempts)
        else:
            yield RowState(row.number, event, attempts, now_milliseconds())
