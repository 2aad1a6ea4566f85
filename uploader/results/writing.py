"""The last step of a run: its results, under names that were held before the first POST."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from uploader.ledger.ledger import Ledger
from uploader.model.model import Batch, Row, RowState
from uploader.model.notes import Note
from uploader.readers.open_log import Log
from uploader.readers.readers import open_usage_log
from uploader.results.reservation import Names, Reservation, room_needed_bytes
from uploader.results.results import OWN_COLUMNS, OwnCells, TableWriter, earlier_cells, write_results


@contextlib.contextmanager
def reserved(choices: Iterator[Names], log: Log, ledger: Ledger, *, rows: int) -> Iterator[Reservation]:
    """Hold the names of the results; let go of them should the run fail."""
    facts = ledger.facts()
    reservation = Reservation(
        choices,
        run_id=ledger.identity.run_id,
        own_files=facts.get("files", {}),
        room_bytes=room_needed_bytes(log, rows=rows),
        announced_files=facts.get("announced_files", {}),
        announce=lambda files: ledger.remember({"announced_files": files}),
    )
    try:
        ledger.remember({"files": reservation.own_files()})
        yield reservation
    except BaseException:
        reservation.release()
        raise


def write_out(
    log: Log,
    reservation: Reservation,
    ledger: Ledger,
    answered: Iterator[tuple[Batch, Sequence[RowState]]],
    *,
    event_id_of: Callable[[Row, RowState], str],
) -> None:
    """Make the third pass: write the results, and have the ledger know them as this run's own."""
    with contextlib.ExitStack() as stack:
        earlier: Iterable[OwnCells] = ()
        if reservation.is_own(reservation.names.results):
            before = stack.enter_context(open_usage_log(reservation.names.results, delimiter=log.delimiter))
            earlier = earlier_cells(before, before.batches())
        write_results(
            log,
            reservation,
            answered,
            run_id=ledger.identity.run_id,
            event_id_of=event_id_of,
            earlier=earlier,
            parquet_table=_parquet_table(log) if log.kind == "parquet" else None,
        )
    ledger.remember({"files": reservation.own_files()})


def results_note(path: Path, reservation: Reservation, *, run_id: str) -> Note:
    """Say where the results are, once they are durable."""
    facts = {"results": str(reservation.names.results)}
    if reservation.is_own(reservation.names.failed):
        facts["failed_file"] = str(reservation.names.failed)
    text = f"results written to {' and '.join(facts.values())}"
    return Note(text, "results_written", path=path, run_id=run_id, facts=facts)


def _parquet_table(log: Log) -> Callable[[BinaryIO], TableWriter]:
    # pyarrow takes 0.4 s to import; a log that is Parquet has paid for it already.
    from uploader.readers.parquet_log import AnnotatedParquetWriter, ParquetLog  # noqa: PLC0415 -- see above

    assert isinstance(log, ParquetLog), "only a Parquet log says that it is one"  # noqa: S101 -- an invariant
    return lambda file: AnnotatedParquetWriter(file, log, extra_columns=OWN_COLUMNS)
