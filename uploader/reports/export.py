"""A results or failed file as a workbook, in which a person can correct its rows and decide of those in doubt."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from uploader.ledger.durable import fsync_folder
from uploader.model.errors import InputError, RefusedError
from uploader.model.model import Row
from uploader.model.shell import as_argument
from uploader.readers.readers import UsageLog
from uploader.reports.workbook import MOST_CHARACTERS, MOST_COLUMNS, MOST_ROWS, Workbook
from uploader.results.own_files import demand_own_columns, open_own_file

_WORKBOOK = ".xlsx"
_LOST_EXTENSIONS = frozenset({".csv", ".tsv", ".parquet", ".pq", ".gz", ".bz2", ".zst"})
_MOST_NAMED = 3
# A text that looks like an escape is escaped itself; of two that share their "_", xlsxwriter sees only the first.
_ESCAPES_THAT_OVERLAP = re.compile("_x[0-9A-Fa-f]{4}_x(?=[0-9A-Fa-f]{4}_)")
_IN_THE_FILE = "correct the file itself; `uploader replay` takes it as it is"


def export(path: Path, *, workbook: Path | None, delimiter: str | None) -> tuple[Path, int]:
    """Write a workbook of a results or failed file; give its path and the number of rows.

    workbook:  its path; None for the file's own with another extension.
    delimiter: of a CSV file, where it is none of the usual ones.

    Raises:
        InputError: the file is none of ours, or holds what a workbook cannot.
        RefusedError: the workbook cannot be written, or there is a file of that name.
    """
    target = workbook or _derived(path)
    if target.suffix.lower() != _WORKBOOK:
        raise RefusedError(f"{target} is no name of a workbook", remedy=f"end it in {_WORKBOOK}")
    if path.suffix.lower() == _WORKBOOK:
        raise InputError(
            f"{path} is a workbook already",
            remedy=f"edit it, save it, and run: uploader replay {as_argument(path)}",
        )
    with open_own_file(path, delimiter=delimiter) as log:
        demand_own_columns(log)
        _demand_that_it_fits(log)
        with _new_file(target) as file, tempfile.TemporaryDirectory(prefix="uploader-export-") as scratch:
            book = Workbook(file, log.columns, scratch=Path(scratch))
            try:
                rows = _write_rows(log, book)
            finally:
                book.close()
        return target, rows


def _derived(path: Path) -> Path:
    stem = path
    while stem.suffix.lower() in _LOST_EXTENSIONS:
        stem = stem.with_suffix("")
    return stem.with_name(stem.name + _WORKBOOK)


def _demand_that_it_fits(log: UsageLog) -> None:
    if len(log.columns) > MOST_COLUMNS:
        raise InputError(
            f"{log.path} has {len(log.columns):,} columns, and a workbook takes {MOST_COLUMNS:,}", remedy=_IN_THE_FILE
        )
    for batch in log.batches():
        if batch.rows[-1].number > MOST_ROWS:
            raise InputError(
                f"{log.path} has more than the {MOST_ROWS:,} rows that a workbook takes",
                remedy=f"split it, each part with the header, or {_IN_THE_FILE}",
            )


def _write_rows(log: UsageLog, book: Workbook) -> int:
    problems: list[str] = []
    for row in (row for batch in log.batches() for row in batch.rows):
        if len(problems) < _MOST_NAMED:
            problems += [f"row {row.number}: {words}" for words in _write_row(log, row, book)]
    if problems:
        raise InputError(f"{log.path} holds what a workbook cannot: {'; '.join(problems)}", remedy=_IN_THE_FILE)
    return log.row_count


def _write_row(log: UsageLog, row: Row, book: Workbook) -> list[str]:
    """Write a row; say what of it a workbook cannot hold."""
    if row.fault:
        return [row.fault]
    record = log.record_text(row)
    if "\0" in record:
        return ["a cell has a NUL character"]
    try:
        cells = row.cells if log.kind == "csv" else next(csv.reader([record], strict=True))
    except csv.Error as error:
        return [str(error)]
    problems = [f"{column} has more than {MOST_CHARACTERS:,} characters" for column in book.write(cells)]
    if "_x" in record:
        for column, cell in zip(log.columns, cells, strict=True):
            if found := _ESCAPES_THAT_OVERLAP.search(cell):
                problems.append(f"{column} looks like one of a workbook's own escapes ({found[0]})")
    return problems


@contextlib.contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that is to become ``path``, all of it or nothing; what is there already stays.

    Raises:
        RefusedError: it cannot be written, or there is a file of that name.
    """
    taken = RefusedError(f"{path} is there already", remedy="move it away, or give another name with --output")
    if os.path.lexists(path):
        raise taken
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with draft.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a rename it never replaces a file
        fsync_folder(path.parent)
    except FileExistsError as error:
        raise taken from error
    except OSError as error:
        raise RefusedError(
            f"{path} cannot be written: {error.strerror or error}",
            remedy="make room, or give another name with --output",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
