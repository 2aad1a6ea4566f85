"""Usage logs of every format and packing, opened by their file name; nothing about them is guessed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from uploader.model.errors import InputError
from uploader.model.model import Batch, Row, Sifted
from uploader.readers.content import Compression
from uploader.readers.csv_log import CsvLog
from uploader.readers.open_log import Log
from uploader.schema.known_cells import Column

_DELIMITER_BY_EXTENSION = {".csv": ",", ".tsv": "\t"}
_COMPRESSION_BY_EXTENSION: dict[str, Compression] = {".gz": "gz", ".bz2": "bz2", ".zst": "zst"}
_PARQUET_EXTENSIONS = (".parquet", ".pq")
_WORKBOOK_EXTENSIONS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")


class UsageLog(Log, Protocol):
    """An open usage log: any number of passes over its rows, one at a time.

    The rows of every pass are those of the first, or the pass ends in ``InputChangedError``.
    """

    @property
    def content_sha256(self) -> str:
        """Hex digest of the decompressed content; ``RuntimeError`` before the first complete pass."""

    @property
    def row_count(self) -> int:
        """Rows, malformed ones included; ``RuntimeError`` before the first complete pass."""

    def batches(self) -> Iterator[Batch]:
        """Read the whole file from its start, at most 1000 rows at a time, numbered from 1."""

    def as_text(self, row: Row) -> Row:
        """Give a readable row with its cells as the CSV record has them: itself unless the file is Parquet."""

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> UsageLog: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def open_usage_log(path: Path, *, delimiter: str | None) -> UsageLog:
    """Open a usage log and read its header.

    delimiter: of a CSV file, whatever its extension says; None to go by that (``.csv`` comma, ``.tsv`` tab).

    Raises ``InputError`` when the file cannot be taken as it is.
    """
    return _with_sound_columns(_open_by_extension(path, delimiter=delimiter))


def open_workbook(path: Path) -> UsageLog:
    """Open the sheet with our columns of an .xlsx workbook; only a replay takes one.

    Raises ``InputError`` when the file cannot be taken as it is.
    """
    # openpyxl takes 0.5 s to import.
    from uploader.readers.xlsx_log import XlsxLog  # noqa: PLC0415 -- see the line above

    return _with_sound_columns(XlsxLog(path))


def sifted(log: UsageLog, columns: Sequence[Column] | None) -> Iterator[Sifted]:
    """Read the whole file from its start, as ``UsageLog.batches`` does, but only count the rows that are surely good.

    columns: each judges its cells by itself, and a row is good when all its cells are; the fourth is the usage. None
             when nothing can be said of cells alone.
    """
    if columns is None or log.kind != "parquet":
        for batch in log.batches():
            yield Sifted(batch.rows)
        return
    from uploader.readers.parquet_log import ParquetLog  # noqa: PLC0415 -- pyarrow, as below

    assert isinstance(log, ParquetLog), "only a Parquet log says that it is one"  # noqa: S101 -- an invariant
    yield from log.sifted(columns)


def _with_sound_columns(log: UsageLog) -> UsageLog:
    try:
        _check_columns(log)
    except InputError:
        log.close()
        raise
    return log


def _open_by_extension(path: Path, *, delimiter: str | None) -> UsageLog:
    name = path.name.lower()
    if os.path.isdir(path):  # noqa: PTH112 -- Path.is_dir raises where its folder may not be looked into (till 3.14)
        raise InputError(f"{path} is a folder", remedy=f"name the files in it, as in {path}/*.csv")
    if name.endswith(_PARQUET_EXTENSIONS):
        # pyarrow takes 0.4 s to import, and most runs read CSV.
        from uploader.readers.parquet_log import ParquetLog  # noqa: PLC0415 -- see the line above

        return ParquetLog(path)
    if name.endswith(_WORKBOOK_EXTENSIONS):
        raise InputError(
            f"{path} is a workbook, and a usage log is CSV or Parquet",
            remedy='save its sheet as "CSV UTF-8"; `uploader replay` also takes the .xlsx of a failed file',
        )
    packing = next((extension for extension in _COMPRESSION_BY_EXTENSION if name.endswith(extension)), "")
    separator = _DELIMITER_BY_EXTENSION.get(Path(name.removesuffix(packing)).suffix)
    if separator is None:
        raise InputError(
            f"{path} has no extension of a usage log",
            remedy="name it after what it holds: .csv or .tsv (also with .gz, .bz2 or .zst), .parquet or .pq",
        )
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n\0'):
        raise InputError(
            f"the delimiter {delimiter!r} cannot separate cells",
            remedy="give one character, not a quote or a line end",
        )
    compression = _COMPRESSION_BY_EXTENSION.get(packing)
    return CsvLog(path, delimiter=delimiter or separator, compression=compression)


def _check_columns(log: UsageLog) -> None:
    for number, name in enumerate(log.columns, 1):
        if not name:
            raise InputError(
                f"{log.path}: column {number} has no name",
                remedy="name it in the header, or take it out: spreadsheets leave empty columns (pandas: index=False)",
            )
    for name, count in Counter(log.columns).items():
        if count > 1:
            raise InputError(
                f"{log.path}: {count} columns are named {name!r}", remedy="give each column a name of its own"
            )
