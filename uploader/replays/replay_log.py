"""A results or failed file as a person and a spreadsheet left it, seen as the usage log that it came from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from uploader.model.model import Reason, Row, Status, cell_text
from uploader.readers.csv_record import csv_record
from uploader.readers.readers import UsageLog
from uploader.results.own_files import demand_own_columns
from uploader.results.results import OWN_COLUMNS

NOBODYS = (
    "upload_row and upload_run do not say whose row this is; put them back as they were, or, if it is new usage, "
    "upload it in a file of its own"
)
_ROW_NUMBER = re.compile(r"0*([1-9][0-9]{0,14})(?:[.,]0+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayEntry:
    """One row of the file: whose row it says it is, what a person wrote, and the usage log's own cells.

    number:         of the original row; 0 when the file does not say.
    run_id:         the run that it belongs to; empty when the file does not say.
    event_id:       of the original row.
    attempts:       POSTs of the row that the person knew of; 0 when the file does not say.
    word:           what stands in ``upload_replay``, in lower case.
    seems_recorded: the file has the row as accepted or in doubt.
    row:            numbered as in the file, with the usage log's cells alone; at fault when it cannot be read.
    """

    number: int = 0
    run_id: str = ""
    event_id: str = ""
    attempts: int = 0
    word: str = ""
    seems_recorded: bool = False
    row: Row


@dataclass(slots=True)
class ReplayLog:
    """The usage log's columns of a results or failed file; its own results are always CSV, whatever it is.

    row_count: known after the first complete pass.
    """

    source: UsageLog
    path: Path = field(init=False)
    columns: tuple[str, ...] = field(init=False)
    header_text: str = field(init=False)
    delimiter: str = field(init=False)
    line_end: str = field(init=False)
    has_bom: bool = field(init=False)
    kind: Literal["csv", "parquet"] = field(init=False, default="csv")
    row_count: int = field(init=False, default=0)
    _own_at: dict[str, int] = field(init=False)
    _kept_at: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """Find our columns.

        Raises:
            InputError: they are not there.
        """
        demand_own_columns(self.source)
        columns = self.source.columns
        self.path = self.source.path
        self.delimiter, self.line_end, self.has_bom = self.source.delimiter, self.source.line_end, self.source.has_bom
        self._own_at = {column: at for at, column in enumerate(columns) if column in OWN_COLUMNS}
        self._kept_at = [at for at, column in enumerate(columns) if column not in OWN_COLUMNS]
        self.columns = tuple(columns[at] for at in self._kept_at)
        self.header_text = self._as_text(self.columns)

    @property
    def size_bytes(self) -> int:
        """Of the file as it was opened."""
        return self.source.size_bytes

    def entries(self) -> Iterator[list[ReplayEntry]]:
        """Make one pass over the file, a batch at a time; rows whose cells were all emptied are none."""
        for rows in self._rows():
            yield [self._entry(row) for row in rows]

    def claims(self) -> Iterator[list[tuple[ReplayEntry, dict[str, str]]]]:
        """Make one pass, and give all that our own columns say of each row, by column; of an unreadable row nothing."""
        for rows in self._rows():
            yield [
                (self._entry(row), {} if row.fault else {name: self._own(row, name) for name in self._own_at})
                for row in rows
            ]

    def record_text(self, row: Row) -> str:
        """Spell a row's kept cells as a CSV record."""
        return self._as_text(row.cells)

    def _rows(self) -> Iterator[list[Row]]:
        count = 0
        for batch in self.source.batches():
            rows = [row for row in batch.rows if row.fault or any(cell_text(cell).strip() for cell in row.cells)]
            count += len(rows)
            yield rows
        self.row_count = count

    def _as_text(self, cells: Sequence[Any]) -> str:
        if self.source.kind == "parquet":
            return self.source.record_text(Row(0, cells, ""))
        return csv_record(cells, self.delimiter)

    def _entry(self, row: Row) -> ReplayEntry:
        if row.fault:
            return ReplayEntry(row=row)
        number = _ROW_NUMBER.fullmatch(self._own(row, "upload_row"))
        attempts = _ROW_NUMBER.fullmatch(self._own(row, "upload_attempts"))
        run_id = self._own(row, "upload_run")
        kept = [row.cells[at] for at in self._kept_at]
        raw = self._own(row, "upload_raw")
        if number is None or not run_id:
            return ReplayEntry(row=Row(row.number, (), self._as_text(kept) if any(kept) else raw, NOBODYS))
        seen = Row(row.number, kept, "")
        if raw and not any(kept):
            seen = Row(row.number, (), raw, "its cells are still empty; write them in, from the text in upload_raw")
        return ReplayEntry(
            number=int(number[1]),
            run_id=run_id,
            event_id=self._own(row, "upload_event_id"),
            attempts=int(attempts[1]) if attempts else 0,
            word=self._own(row, "upload_replay").lower(),
            seems_recorded=self._own(row, "upload_status").lower() == Status.ACCEPTED.value
            or self._own(row, "upload_reason").lower() == Reason.IN_DOUBT.value,
            row=seen,
        )

    def _own(self, row: Row, column: str) -> str:
        at = self._own_at.get(column)
        return "" if at is None else cell_text(row.cells[at]).strip()
