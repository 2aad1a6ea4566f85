"""Results written as a run does, and read again."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from uploader.ledger.ledger import Ledger
from uploader.model.errors import LedgerFault
from uploader.model.identity import RunIdentity
from uploader.model.model import Batch, Outcome, Reason, Row, RowState
from uploader.readers.parquet_log import AnnotatedParquetWriter, ParquetLog
from uploader.readers.readers import UsageLog, open_usage_log
from uploader.results.reservation import Names, Reservation, choose_names
from uploader.results.results import OWN_COLUMNS, write_results
from uploader.results.writing import reserved, write_out

HEADER = "tenant_id,device_id,meter_id,total_usage"
INPUT = f"{HEADER}\nacme,d1,api,1\nglobex,d2,api,2\ninitech,d3,api,3\n"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- where an fsync costs nothing, for the many examples of a property
QUICK_FOLDER = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
StateOf = Callable[[Row], RowState]


def accepted(row: Row) -> RowState:
    """Accept a readable row."""
    return RowState(row.number, Outcome(Reason.MALFORMED, row.fault) if row.fault else Outcome(None))


def rejected(row: Row) -> RowState:
    """Reject a readable row."""
    outcome = Outcome(Reason.REJECTED, "no", 422, '{"error": "no"}')
    return RowState(row.number, Outcome(Reason.MALFORMED, row.fault) if row.fault else outcome)


def even_ones_rejected(row: Row) -> RowState:
    """Accept a readable row of an odd number."""
    return (accepted if row.number % 2 else rejected)(row)


def answered(log: UsageLog, state_of: StateOf) -> Iterator[tuple[Batch, Sequence[RowState]]]:
    """Give each batch with its states, as a run does."""
    for batch in log.batches():
        yield batch, [state_of(row) for row in batch.rows]


@dataclass(kw_only=True)
class Run:
    """A run as far as its results go; it remembers which files it wrote, as a ledger does."""

    run_id: str = "r1"
    own_files: dict[str, list[int]] = field(default_factory=dict)

    def write(
        self,
        path: Path,
        state_of: StateOf = accepted,
        *,
        delimiter: str | None = None,
        results: Path | None = None,
        results_dir: Path | None = None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Names:
        """Write the results of a usage log; ``meanwhile`` is called once their names are reserved."""
        with open_usage_log(path, delimiter=delimiter) as log:
            choices = choose_names(log, results=results, results_dir=results_dir)
            reservation = Reservation(choices, run_id=self.run_id, own_files=self.own_files, room_bytes=0)
            meanwhile()
            try:
                write_results(
                    log,
                    reservation,
                    answered(log, state_of),
                    run_id=self.run_id,
                    event_id_of=lambda _row, state: f"event-{state.row}",
                    parquet_table=partial(AnnotatedParquetWriter, log=log, extra_columns=OWN_COLUMNS)
                    if isinstance(log, ParquetLog)
                    else None,
                )
            except LedgerFault:
                reservation.release()
                raise
        self.own_files = reservation.own_files()
        return reservation.names


def write_with_ledger(
    path: Path, ledgers: Path, state_of: StateOf = accepted, *, results_dir: Path | None = None
) -> Names:
    """Write the results of a usage log as a command does."""
    with open_usage_log(path, delimiter=None) as log:
        choices = choose_names(log, results=None, results_dir=results_dir)
        with (
            Ledger(ledgers, identity_of(log)) as ledger,
            reserved(choices, log, ledger, rows=log.row_count) as reservation,
        ):
            write_out(
                log, reservation, ledger, answered(log, state_of), event_id_of=lambda _row, state: f"event-{state.row}"
            )
            return reservation.names


def identity_of(log: UsageLog) -> RunIdentity:
    """Make the first pass, and say which run this is."""
    for _ in log.batches():
        pass
    return RunIdentity(base_url="http://127.0.0.1/api/v1", period="", content_sha256=log.content_sha256)


def reread(path: Path, *, delimiter: str | None = None) -> tuple[tuple[str, ...], list[Row]]:
    """Read one of our files with our own reader: its columns and rows."""
    with open_usage_log(path, delimiter=delimiter) as log:
        return log.columns, [row for batch in log.batches() for row in batch.rows]


def column(path: Path, name: str, *, delimiter: str | None = None) -> list[Any]:
    """Read one column of one of our files with our own reader; every row must be sound."""
    columns, rows = reread(path, delimiter=delimiter)
    assert not [row.fault for row in rows if row.fault]
    return [row.cells[columns.index(name)] for row in rows]


def tree(folder: Path) -> dict[str, str]:
    """Show everything in a folder: what a link leads to, what a file holds."""
    shown = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            shown[str(path.relative_to(folder))] = f"-> {path.readlink()}"
        else:
            text = path.read_bytes().decode("latin-1") if path.is_file() else "a folder"
            shown[str(path.relative_to(folder))] = text
    return shown


def usage_log(path: Path) -> Path:
    """Write the usual usage log under any name, in the format that it says."""
    if path.suffix in (".parquet", ".pq"):
        columns = {"tenant_id": ["acme", "globex", "initech"], "device_id": ["d1", "d2", "d3"]}
        pq.write_table(pa.table({**columns, "meter_id": ["api"] * 3, "total_usage": [1, 2, 3]}), path)
        return path
    data = (INPUT.replace(",", "\t") if ".tsv" in path.name.lower() else INPUT).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    path.write_bytes(bz2.compress(data) if path.suffix == ".bz2" else data)
    return path
