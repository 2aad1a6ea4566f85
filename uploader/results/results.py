"""The results file (every row) and the failed file (those rows alone), beside the usage log or where asked.

The input's columns come first, unchanged, then ours.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from typing import BinaryIO, Literal, Protocol

from uploader.model.errors import LedgerFault
from uploader.model.model import REPLAY_BY_REASON, Batch, Outcome, Reason, Row, RowState, Status
from uploader.readers.csv_record import csv_cell, csv_record
from uploader.readers.csv_scan import CELL_LIMIT_CHARACTERS, Scan
from uploader.readers.open_log import Log
from uploader.results.reservation import Reservation

OWN_COLUMNS: dict[str, Literal["text", "integer"]] = {
    "upload_row": "integer",
    "upload_status": "text",
    "upload_reason": "text",
    "upload_detail": "text",
    "upload_replay": "text",
    "upload_http_status": "integer",
    "upload_attempts": "integer",
    "upload_event_id": "text",
    "upload_run": "text",
    "upload_customer_id": "text",
    "upload_response": "text",
    "upload_at": "text",
    "upload_raw": "text",
}

_VERDICT_BY_REASON: dict[Reason | None, tuple[str, str | None, str | None]] = {
    None: (Status.ACCEPTED.value, None, None),
    **{reason: (Status.FAILED.value, reason.value, replay.value) for reason, replay in REPLAY_BY_REASON.items()},
}
_STATUS_AT = list(OWN_COLUMNS).index("upload_status")
_ANSWER_GONE = "accepted before; the answer stood in the results that were written then"
NOT_SENT = Outcome(Reason.NOT_SENT, "the run ended before this row's turn")

_DELIMITERS_IN_FREE_TEXT_ALONE = ",;\t|"
_MOST_RESPONSE_BYTES = 1024
_STARTS_A_FORMULA = "[=+\\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b]"  # the second half are the wide forms
# Where a cell begins, or would if the file were opened with another delimiter.
_FORMULA = re.compile(f"((?:^|[,;|])[\\s\"']*)({_STARTS_A_FORMULA})")
_MAY_START_A_FORMULA = re.compile(_STARTS_A_FORMULA)  # fifteen times as fast
_LINE_BREAKS_AND_CONTROLS = dict.fromkeys([*range(32), *range(127, 160), 0x2028, 0x2029, 0xFEFF], " ")

OwnCells = Sequence[str | int | None]

_alike = functools.lru_cache(maxsize=1024)(csv_record)
"""Spells cells that row after row has the same."""


class TableWriter(Protocol):
    """Writes rows with our cells behind theirs, in one format."""

    def write(self, batch: Batch, extra_cells: Sequence[OwnCells]) -> None:
        """Write the rows of a batch, each with its own cells."""

    def close(self) -> None:
        """Write what the format needs at its end; the file stays open."""


def write_results(
    log: Log,
    reservation: Reservation,
    answered: Iterable[tuple[Batch, Sequence[RowState]]],
    *,
    run_id: str,
    event_id_of: Callable[[Row, RowState], str],
    parquet_table: Callable[[BinaryIO], TableWriter] | None,
    earlier: Iterable[OwnCells] = (),
) -> None:
    """Write both files and give them their names.

    answered:      every batch of the log with the state of each of its rows; a state's row 0 stands for "of no run".
    event_id_of:   gives a row's event id; empty for a row without one.
    earlier:       our cells as this run wrote them before, row by row from the first; empty when it did not.
    parquet_table: makes the writer for a Parquet log's results; None for CSV.

    Raises:
        LedgerFault: a file cannot be written.
    """
    names = reservation.names
    cells_before = iter(earlier)
    some_failed = False
    try:
        with reservation.writing(names.results) as results_file, reservation.writing(names.failed) as failed_file:
            results = parquet_table(results_file) if parquet_table else CsvTable(results_file, log)
            failed = CsvTable(failed_file, log, delimiter="," if log.delimiter == "\t" else log.delimiter)
            for batch, states in answered:
                cells = []
                for row, state in zip(batch.rows, states, strict=True):
                    before = next(cells_before, None)
                    if before is not None and state.is_from_range and before[_STATUS_AT] == Status.ACCEPTED.value:
                        cells.append(before)  # the ledger has let go of the answer; the file still has it
                    else:
                        cells.append(_own_cells(row, state, event_id=event_id_of(row, state), run_id=run_id))
                results.write(batch, cells)
                failed_at = [at for at, state in enumerate(states) if state.outcome.reason is not None]
                failed.write(Batch([batch.rows[at] for at in failed_at]), [cells[at] for at in failed_at])
                some_failed = some_failed or bool(failed_at)
            results.close()
        reservation.place(some_failed=some_failed)
    except OSError as error:
        raise LedgerFault(
            f"{names.results}: {error.strerror or error}",
            remedy="make room or free the name, then run the same command again; what was recorded is in the ledger",
        ) from error


def earlier_cells(log: Log, batches: Iterator[Batch]) -> Iterator[OwnCells]:
    """Give our cells of a results file, row by row; nothing for a row that cannot be read there either."""
    places = [log.columns.index(column) for column in OWN_COLUMNS]
    nothing = [None] * len(places)
    return ([row.cells[at] for at in places] if row.cells else nothing for batch in batches for row in batch.rows)


def _own_cells(row: Row, state: RowState, *, event_id: str, run_id: str) -> OwnCells:
    """Give our thirteen cells for a row, in the order of ``OWN_COLUMNS``."""
    outcome = state.outcome
    status, reason, replay = _VERDICT_BY_REASON[outcome.reason]
    is_from_range = state.is_from_range
    return (
        state.row or None,
        status,
        reason,
        _safe_text(outcome.detail) or (_ANSWER_GONE if is_from_range else ""),
        replay,
        outcome.http_status,
        None if is_from_range else state.attempts,
        event_id if state.row and event_id else None,
        run_id if state.row else None,
        _safe_text(state.customer_id),
        _at_most_bytes(_safe_text(outcome.response)),
        _moment(state.at_milliseconds),
        _raw_text(row.text) if row.fault else None,
    )


def _at_most_bytes(text: str) -> str:
    if len(text) * 4 <= _MOST_RESPONSE_BYTES:
        return text
    return text.encode()[:_MOST_RESPONSE_BYTES].decode("utf-8", "ignore")


@functools.lru_cache(maxsize=1024)  # answers that are recorded together have one moment
def _moment(at_milliseconds: int) -> str | None:
    if not at_milliseconds:
        return None
    seconds, milliseconds = divmod(at_milliseconds, 1000)
    second = datetime.fromtimestamp(seconds, timezone.utc).isoformat().removesuffix("+00:00")
    return f"{second}.{milliseconds:03}Z"


def _raw_text(text: str) -> str:
    r"""Write bytes that are not UTF-8, and NUL, as \xNN, and not too many: our own row must be readable again."""
    plain = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\0", r"\x00")
    if len(plain) <= CELL_LIMIT_CHARACTERS:
        return plain
    kept = plain[: CELL_LIMIT_CHARACTERS - 64]
    return f"{kept} [{len(plain) - len(kept):,} more characters left out]"


@functools.lru_cache(maxsize=1024)  # customer ids come again and again, as do most backends' answers
def _safe_text(text: str) -> str:
    """Keep a server's text on one line, and from being taken for a formula by a spreadsheet."""
    plain = text if text.isprintable() else text.translate(_LINE_BREAKS_AND_CONTROLS)
    return plain if not _MAY_START_A_FORMULA.search(plain) else _FORMULA.sub(r"\1'\2", plain)


class CsvTable:
    """Rows as they stood in their CSV file, our cells behind them, in the file's own dialect.

    A tab-separated log's failed file is given commas: a spreadsheet opens a .csv by them.
    """

    def __init__(self, file: BinaryIO, log: Log, *, delimiter: str | None = None) -> None:
        self._file = file
        self._log = log
        self._delimiter = delimiter or log.delimiter
        self._nothing = self._delimiter * (len(log.columns) - 1)
        header = log.header_text if self._delimiter == log.delimiter else csv_record(log.columns, self._delimiter)
        start = "\ufeff" if log.has_bom else ""
        self._write_lines([f"{header}{self._delimiter}{csv_record(OWN_COLUMNS, self._delimiter)}"], start=start)

    def write(self, batch: Batch, extra_cells: Sequence[OwnCells]) -> None:
        """Write the rows of a batch, each with its own cells."""
        self._write_lines([self._line(row, cells) for row, cells in zip(batch.rows, extra_cells, strict=True)])

    def close(self) -> None:
        """CSV needs nothing at its end."""

    def _line(self, row: Row, cells: OwnCells) -> str:
        """Spell a row; one that our reader could not take again stands as its text, as a malformed one does."""
        record = self._record(row)
        if ("\0" in record or len(record) > CELL_LIMIT_CHARACTERS) and not self._can_be_read_again(record):
            record, cells = self._nothing, [*cells[:-1], _raw_text(record)]
        return f"{record}{self._delimiter}{self._own_record(cells)}"

    def _can_be_read_again(self, record: str) -> bool:
        scan = Scan(first_line=1, delimiter=self._delimiter)
        for line in io.StringIO(record, newline="\n"):
            scan.feed(line)
        return not scan.fault(width=len(self._log.columns))

    def _record(self, row: Row) -> str:
        if row.fault:
            return self._nothing
        return (
            self._log.record_text(row)
            if self._delimiter == self._log.delimiter
            else csv_record(row.cells, self._delimiter)
        )

    def _own_record(self, cells: OwnCells) -> str:
        """Spell our cells as ``csv_record`` would, faster: most of them cannot need quotes."""
        if self._delimiter not in _DELIMITERS_IN_FREE_TEXT_ALONE:
            return csv_record(cells, self._delimiter)
        row, status, reason, detail, replay, http_status, attempts, event_id, run, customer, response, at, raw = cells
        delimiter = self._delimiter
        return delimiter.join(
            (
                f"{row or ''}",
                _alike((status, reason, detail, replay, http_status, attempts), delimiter),
                csv_cell(event_id, delimiter),
                _alike((run, customer), delimiter),
                csv_cell(response, delimiter),
                f"{at or ''}",
                csv_cell(raw, delimiter),
            )
        )

    def _write_lines(self, lines: list[str], *, start: str = "") -> None:
        line_end = self._log.line_end
        text = start + line_end.join(lines) + line_end if lines else ""
        self._file.write(text.encode("utf-8", "surrogateescape"))
