"""The results file (every row) and the failed file (those rows alone), beside the usage log or where asked.

The input's columns come first, unchanged, then ours. Names are reserved before the first POST by a file ``NAME.part``,
which later becomes the file itself: written, fsynced, linked to its name, and the folder fsynced. Nothing is ever
overwritten but this run's own unedited files.
"""

from __future__ import annotations

import contextlib
import csv
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from uploader.errors import LedgerFault, RefusedError, SettingsError
from uploader.model import Batch, Outcome, Reason, Row, RowState

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

NOT_SENT = Outcome(Reason.NOT_SENT, "the run ended before this row's turn")

_BYTES_A_ROW = 400
_FORMULA_STARTS = ("=", "+", "-", "@")
_INPUT_NAME = re.compile(r"(.+?)\.(csv|tsv|parquet|pq)(\.gz|\.bz2|\.zst)?", re.IGNORECASE)
_OWN_NAME = re.compile(r"(.+?)(?:\.replay\d+)?\.(?:results|failed)")
_CONTROL_CHARACTERS = dict.fromkeys([*range(32), 127], " ")

OwnCells = Sequence[str | int | None]


class Log(Protocol):
    """What the writers need of a usage log; ``readers.UsageLog`` says more of each."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def kind(self) -> Literal["csv", "parquet"]:
        """The format of its results."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The column names."""

    @property
    def header_text(self) -> str:
        """The header as a CSV record."""

    @property
    def delimiter(self) -> str:
        """The character between cells."""

    @property
    def line_end(self) -> str:
        """LF or CRLF."""

    @property
    def has_bom(self) -> bool:
        """Whether the file begins with a byte order mark."""

    def record_text(self, row: Row) -> str:
        """Give the row as a CSV record, without its line end."""


class TableWriter(Protocol):
    """Writes rows with our cells behind theirs, in one format."""

    def write(self, batch: Batch, extra_cells: Sequence[OwnCells]) -> None:
        """Write the rows of a batch, each with its own cells."""

    def close(self) -> None:
        """Write what the format needs at its end; the file stays open."""


@dataclass(frozen=True, slots=True)
class Names:
    """The two files of a run."""

    results: Path
    failed: Path


# --- names ------------------------------------------------------------------------------------------------------------


def choose_names(log: Log, *, results: Path | None, results_dir: Path | None) -> Iterator[Names]:
    """Give the names that an upload may take, the best first.

    Raises:
        SettingsError: ``results`` has a suffix that does not fit the log's format.
    """
    match = _INPUT_NAME.fullmatch(log.path.name)
    stem = match[1] if match else log.path.stem
    suffix = ".parquet" if log.kind == "parquet" else ".tsv" if log.delimiter == "\t" else ".csv"
    if results is None:
        folder = results_dir or log.path.parent
        yield Names(folder / f"{stem}.results{suffix}", folder / f"{stem}.failed.csv")
        for number in range(2, 10_000):
            yield Names(folder / f"{stem}.{number}.results{suffix}", folder / f"{stem}.{number}.failed.csv")
    elif (log.kind == "parquet") != (results.suffix.lower() in (".parquet", ".pq")):
        raise SettingsError(
            f"--results {results}: {log.path} is {log.kind}, and so will be its results",
            remedy=f"end the name in {suffix}",
        )
    else:
        yield Names(results, results.with_name(f"{results.stem}.failed.csv"))
        for number in range(2, 10_000):
            numbered = results.with_name(f"{results.stem}.{number}{results.suffix}")
            yield Names(numbered, numbered.with_name(f"{numbered.stem}.failed.csv"))


def choose_replay_names(log: Log, *, results_dir: Path | None) -> Iterator[Names]:
    """Give the names that a replay of a results or failed file may take, the best first."""
    match = _INPUT_NAME.fullmatch(log.path.name)
    stem = match[1] if match else log.path.stem
    own = _OWN_NAME.fullmatch(stem)
    stem = own[1] if own else stem
    suffix = ".parquet" if log.kind == "parquet" else ".csv"
    folder = results_dir or log.path.parent
    for number in range(1, 10_000):
        yield Names(
            folder / f"{stem}.replay{number}.results{suffix}",
            folder / f"{stem}.replay{number}.failed.csv",
        )


class Reservation:
    """Holds the names of a run's files from before its first POST until they are written."""

    def __init__(self, choices: Iterable[Names], *, run_id: str, own_files: dict[str, list[int]], room_bytes: int) -> None:
        """Take the first pair of names that is free, or is this run's own and was not edited.

        own_files: size and modification time (ns) of the files that this run wrote before, by path.

        Raises:
            RefusedError: the folder cannot be written to, has too little room, or every name is taken.
        """
        self._run_id = run_id
        self._own_files = own_files
        for names in choices:
            if self._is_free(names.results) and self._is_free(names.failed) and self._reserve(names, room_bytes=room_bytes):
                self.names = names
                return
        raise RefusedError("every name for the results file is taken", remedy="give another with --results or --results-dir")

    def release(self) -> None:
        """Give the names up without having written them."""
        for path in (self.names.results, self.names.failed):
            with contextlib.suppress(FileNotFoundError):
                _part(path).unlink()

    def place(self, *, some_failed: bool) -> None:
        """Give the written files their names, durably; without a failed row there is no failed file, nor an old one of ours.

        Raises:
            LedgerFault: somebody made a file of that name meanwhile, or the folder cannot be written to.
        """
        try:
            self._place(self.names.results)
            if some_failed:
                self._place(self.names.failed)
            else:
                self._drop(self.names.failed)
            _fsync_folder(self.names.results.parent)
        except OSError as error:
            raise LedgerFault(
                f"{self.names.results}: {error.strerror}",
                remedy="run the same command again to have the results written; what was recorded is safe in the ledger",
            ) from error

    def facts(self) -> dict[str, list[int]]:
        """Give, by path, what tells the files as this run wrote them from edited ones: size and modification time (ns)."""
        paths = (self.names.results, self.names.failed)
        facts = {str(part.resolve()): [0, 0] for part in map(_part, paths)}
        for path in paths:
            if path.exists():
                found = path.stat()
                facts[str(path.resolve())] = [found.st_size, found.st_mtime_ns]
        return facts

    def _place(self, path: Path) -> None:
        part = _part(path)
        if self._is_own(path):
            part.replace(path)
        else:
            os.link(part, path)  # unlike a rename it never replaces a file
            part.unlink()

    def _drop(self, path: Path) -> None:
        _part(path).unlink()
        if self._is_own(path):
            path.unlink()

    def _is_free(self, path: Path) -> bool:
        return not os.path.lexists(path) or self._is_own(path)

    def _is_own(self, path: Path) -> bool:
        try:
            found = path.stat()
        except FileNotFoundError:
            return False
        return self._own_files.get(str(path.resolve())) == [found.st_size, found.st_mtime_ns]

    def _reserve(self, names: Names, *, room_bytes: int) -> bool:
        folder = names.results.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            room = shutil.disk_usage(folder).free
            if room < room_bytes:
                raise RefusedError(
                    f"{folder}: {room:,} bytes are free, and the results may need {room_bytes:,}",
                    remedy="make room, or give another folder with --results-dir",
                )
            return self._take(names.results) and self._take(names.failed)
        except OSError as error:
            raise RefusedError(
                f"results cannot be written to {folder}: {error.strerror}",
                remedy="give another folder with --results-dir",
            ) from error

    def _take(self, path: Path) -> bool:
        part = _part(path)
        mark = f"reserved for run {self._run_id}\n"
        try:
            with part.open("x", encoding="utf-8") as file:
                file.write(mark)
        except FileExistsError:
            # Left by a crash of this very run, before or after its ledger knew of it; the ledger's lock says it is ours alone.
            return str(part.resolve()) in self._own_files or part.read_bytes()[:200] == mark.encode()
        return True


def room_needed_bytes(log: Log, *, rows: int) -> int:
    """Estimate the bytes of the results and the failed file at their largest."""
    return 2 * log.path.stat().st_size + rows * _BYTES_A_ROW


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


# --- contents ---------------------------------------------------------------------------------------------------------


def write_results(
    log: Log,
    reservation: Reservation,
    answered: Iterable[tuple[Batch, Sequence[RowState]]],
    *,
    run_id: str,
    event_id_of: Callable[[int], str],
    parquet_table: Callable[[BinaryIO], TableWriter] | None,
) -> None:
    """Write both files and give them their names.

    answered:      every batch of the log with the state of each of its rows; a state's row 0 stands for "of no run".
    parquet_table: makes the writer for a Parquet log's results; None for CSV.

    Raises:
        LedgerFault: a file cannot be written.
    """
    names = reservation.names
    some_failed = False
    with _durable_part(names.results) as results_file, _durable_part(names.failed) as failed_file:
        results = parquet_table(results_file) if parquet_table else CsvTable(results_file, log)
        failed = CsvTable(failed_file, log, delimiter="," if log.delimiter == "\t" else log.delimiter)
        for batch, states in answered:
            cells = [
                own_cells(row, state, event_id=event_id_of(state.row), run_id=run_id)
                for row, state in zip(batch.rows, states, strict=True)
            ]
            results.write(batch, cells)
            failed_at = [at for at, state in enumerate(states) if state.outcome.reason is not None]
            failed.write(Batch([batch.rows[at] for at in failed_at]), [cells[at] for at in failed_at])
            some_failed = some_failed or bool(failed_at)
        results.close()
    reservation.place(some_failed=some_failed)


@contextlib.contextmanager
def _durable_part(path: Path) -> Iterator[BinaryIO]:
    """Open a reserved name's ``.part`` file for writing; fsync it at the end."""
    try:
        with _part(path).open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise LedgerFault(
            f"{path}: {error.strerror}",
            remedy="make room, then run the same command again; what was recorded is safe in the ledger",
        ) from error


def own_cells(row: Row, state: RowState, *, event_id: str, run_id: str) -> OwnCells:
    """Give our thirteen cells for a row, in the order of ``OWN_COLUMNS``."""
    outcome = state.outcome
    at = datetime.fromtimestamp(state.at_milliseconds / 1000, timezone.utc) if state.at_milliseconds else None
    return (
        state.row or None,
        outcome.status.value,
        None if outcome.reason is None else outcome.reason.value,
        _safe_text(outcome.detail),
        None if outcome.replay is None else outcome.replay.value,
        outcome.http_status,
        state.attempts,
        event_id if state.row else None,
        run_id if state.row else None,
        _safe_text(state.customer_id),
        _safe_text(outcome.response),
        None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        _raw_text(row.text) if row.fault else None,
    )


def _raw_text(text: str) -> str:
    r"""Write bytes that are not UTF-8, and NUL, as \xNN: with them as they stood our own row could not be read again."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\0", r"\x00")


def _safe_text(text: str) -> str:
    """Keep a server's text on one line, and from being taken for a formula by a spreadsheet."""
    plain = text.translate(_CONTROL_CHARACTERS)
    return f"'{plain}" if plain.startswith(_FORMULA_STARTS) else plain


class CsvTable:
    """Rows as they stood in their CSV file, our cells behind them, in the file's own dialect.

    A tab-separated log's failed file is given commas: a spreadsheet opens a .csv by them.
    """

    def __init__(self, file: BinaryIO, log: Log, *, delimiter: str | None = None) -> None:
        self._file = file
        self._log = log
        self._delimiter = delimiter or log.delimiter
        self._format = csv.writer(_Echo(), delimiter=self._delimiter, lineterminator="").writerow
        self._nothing = self._delimiter * (len(log.columns) - 1)
        header = log.header_text if self._delimiter == log.delimiter else self._format(log.columns)
        self._write_lines([f"{header}{self._delimiter}{self._format(OWN_COLUMNS)}"], start="\ufeff" if log.has_bom else "")

    def write(self, batch: Batch, extra_cells: Sequence[OwnCells]) -> None:
        """Write the rows of a batch, each with its own cells."""
        self._write_lines(
            [
                f"{self._record(row)}{self._delimiter}{self._format(cells)}"
                for row, cells in zip(batch.rows, extra_cells, strict=True)
            ]
        )

    def close(self) -> None:
        """CSV needs nothing at its end."""

    def _record(self, row: Row) -> str:
        if row.fault:
            return self._nothing
        return self._log.record_text(row) if self._delimiter == self._log.delimiter else str(self._format(row.cells))

    def _write_lines(self, lines: list[str], *, start: str = "") -> None:
        line_end = self._log.line_end
        text = start + line_end.join(lines) + line_end if lines else ""
        self._file.write(text.encode("utf-8", "surrogateescape"))


class _Echo:
    """Lets ``csv.writer`` give each record back as text: ``writerow`` returns what ``write`` returned."""

    def write(self, text: str) -> str:
        return text


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
