"""A usage log in Parquet, whoever wrote it; ``arrow_cells`` says what a cell becomes."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, final

import pyarrow as pa
import pyarrow.parquet as pq

from uploader.model.errors import InputError
from uploader.model.model import Batch, Cell, Row, Sifted
from uploader.readers.arrow_cells import NotUtf8, cell_alone, cells
from uploader.readers.content import Content
from uploader.readers.csv_record import csv_record
from uploader.readers.open_log import BATCH_ROWS, OpenLog
from uploader.readers.parquet_sieve import BatchGroup, Sieve, gathered
from uploader.schema.known_cells import Column

# Without it, pyarrow holds each column of a row group in memory, and a row group may be the whole file.
_COLUMN_BUFFER_BYTES = 256 * 1024
# Columns lie apart in the file and are read in turns; a block that is not kept is read and verified again. With 16, the
# peak of a long log is 13 MB higher; with 4, a log of seven columns is read in a tenth more time.
_KEPT_BLOCKS = 4
_ROW_GROUP_ROWS = 32 * 1024
_ROW_GROUP_BYTES = 16 * 1024 * 1024
# A column of ever different texts soon fills it, and is written plainly from there on.
_DICTIONARY_BYTES = 64 * 1024
_WRITE_AGAIN = "copy the file again, or write it again"
_WHOLE = re.compile(r"\.0+\Z")


@final
class ParquetLog(OpenLog):
    """A Parquet usage log, open; ``readers.UsageLog`` says what each attribute is.

    schema: the Arrow schema of the file, its metadata included.

    Raises ``InputError`` when the file cannot be taken.
    """

    kind: Final = "parquet"
    delimiter: Final = ","
    line_end: Final = "\n"
    has_bom: Final = False

    def __init__(self, path: Path) -> None:
        super().__init__(Content(path))
        self._bytes = self._content.open_seekable(kept_blocks=_KEPT_BLOCKS)
        with self._closed_on_failure(), self._reading():
            self._file = self._open()
            self.schema: Final = self._file.schema_arrow
            self.columns: Final[tuple[str, ...]] = tuple(self.schema.names)
        self.header_text: Final = csv_record(self.columns, self.delimiter)

    def batches(self) -> Iterator[Batch]:
        """One pass over all rows; a batch's ``source`` is the ``pyarrow.RecordBatch`` of exactly its rows.

        Raises ``InputError`` for a file that is damaged or holds what pyarrow cannot read,
        ``InputChangedError`` for content that is no longer the first pass's.
        """
        for first_number, source in self._sources():
            yield Batch(self._rows(source, range(first_number, first_number + source.num_rows)), source)

    def sifted(self, columns: Sequence[Column]) -> Iterator[Sifted]:
        """One pass over all rows, those that are certainly good only counted; ``readers.sifted`` says of what columns.

        Raises what ``batches`` does, where it does.
        """
        sieve = Sieve(columns)
        for group in gathered(self._sources()):
            yield from self._sifted(group, sieve)

    def _sifted(self, group: BatchGroup, sieve: Sieve) -> Iterator[Sifted]:
        rows = group.in_one()
        certain = None if rows is None else sieve.certain(rows)
        first_number, source = group.sources[0]
        if certain is not None:
            yield Sifted((), certain.rows, certain.units)
            for start in range(0, len(certain.doubtful), BATCH_ROWS):
                doubtful = certain.doubtful[start : start + BATCH_ROWS]
                numbers = [first_number + at for at in doubtful.to_pylist()]
                yield Sifted(self._rows(rows.take(doubtful), numbers))
        elif len(group.sources) > 1:
            for part in group.parts():
                yield from self._sifted(part, sieve)
        else:
            yield Sifted(self._rows(source, range(first_number, first_number + source.num_rows)))

    def _sources(self) -> Iterator[tuple[int, Any]]:
        """Give the file's record batches of at most 1000 rows, and the number of the first row of each."""
        # Hashed before any row of it is read, the file's very first rows are of the hashed content too.
        self._content.hash_file()
        self._bytes.forget_blocks()
        count = 0
        for source in self._record_batches():
            yield count + 1, source
            count += source.num_rows
        announced = self._file.metadata.num_rows
        if count != announced:
            raise InputError(
                f"{self.path} is damaged: it announces {announced:,} rows and holds {count:,}",
                remedy=_WRITE_AGAIN,
            )
        self._row_count = count

    def as_text(self, row: Row) -> Row:
        """Give a readable row with its cells as ``record_text`` renders them."""
        return Row(row.number, [_cell_text(cell) for cell in row.cells], row.text)

    def record_text(self, row: Row) -> str:
        """Render the row as a CSV record.

        Decimals stand in plain notation, whole ones and whole floats ending in .0, but for decimals without places;
        other floats in their shortest exact form, null as nothing,
        binary as hexadecimal digits, lists and structs as JSON. Bytes that are not UTF-8 are surrogate-escaped.
        """
        return row.text or csv_record(map(_cell_text, row.cells), self.delimiter)

    def _open(self) -> Any:
        start = self._bytes.read(4)
        if start == b"PARE":
            raise InputError(f"{self.path} is encrypted", remedy="write it without encryption")
        if start != b"PAR1":
            raise InputError(
                f"{self.path} holds no Parquet data", remedy=f"name it after what it holds, or {_WRITE_AGAIN}"
            )
        # A page that carries a checksum is checked, so that a damaged number is not billed.
        return pq.ParquetFile(
            self._bytes, pre_buffer=False, buffer_size=_COLUMN_BUFFER_BYTES, page_checksum_verification=True
        )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn whatever pyarrow raises on a file it cannot read into an ``InputError``."""
        try:
            yield
        except (pa.ArrowException, ArithmeticError, OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{self.path} cannot be read as Parquet: {reason}", remedy=_remedy(error)) from error

    def _record_batches(self) -> Iterator[Any]:
        # One thread: more made it no faster and took more memory.
        batches = self._file.iter_batches(BATCH_ROWS, use_threads=False)
        while True:
            with self._reading():
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _rows(self, source: Any, numbers: Sequence[int]) -> list[Row]:
        with self._reading():
            try:
                columns = [cells(column) for column in source.columns]
            except UnicodeDecodeError:
                alone = (source.slice(index, 1) for index in range(source.num_rows))
                return [self._row_alone(row, number) for number, row in zip(numbers, alone, strict=True)]
        records = zip(*columns, strict=True)
        return [Row(number, cells, "") for number, cells in zip(numbers, records, strict=True)]

    def _row_alone(self, source: Any, number: int) -> Row:
        """Read one row of a batch in which some text is not UTF-8."""
        cells = [cell_alone(column) for column in source.columns]
        pairs = zip(self.columns, cells, strict=True)
        faults = [f"column {name!r} is not UTF-8" for name, cell in pairs if isinstance(cell, NotUtf8)]
        if not faults:
            return Row(number, cells, "")
        text = csv_record(map(_cell_text, cells), self.delimiter)
        return Row(number, (), text, f"row {number}: {', '.join(faults)}")


class AnnotatedParquetWriter:
    """Writes a log's rows with their own columns unchanged (same Arrow types and metadata), and more columns.

    file:          receives the Parquet data; it is neither closed nor synced.
    extra_columns: name to type of the columns to be added, in their order.
    """

    def __init__(
        self, file: BinaryIO, log: ParquetLog, *, extra_columns: Mapping[str, Literal["text", "integer"]]
    ) -> None:
        self._extra_types = [pa.string() if kind == "text" else pa.int64() for kind in extra_columns.values()]
        self._schema = log.schema
        for name, type_ in zip(extra_columns, self._extra_types, strict=True):
            self._schema = self._schema.append(pa.field(name, type_))
        self._pending: list[Any] = []
        self._pending_rows = 0
        self._pending_bytes = 0
        self._writer = _Writer(file, self._schema, dictionary_pagesize_limit=_DICTIONARY_BYTES)

    def write(self, batch: Batch, extra_cells: Sequence[Sequence[str | int | None]]) -> None:
        """Add a batch of the log; ``extra_cells`` has one sequence per row of it.

        Raises ``OSError`` when the file cannot be written.
        """
        columns = zip(zip(*extra_cells, strict=True), self._extra_types, strict=True)
        added = [_extra_array(cells, type_) for cells, type_ in columns]
        widened = pa.RecordBatch.from_arrays([*batch.source.columns, *added], schema=self._schema)
        self._pending.append(widened)
        self._pending_rows += widened.num_rows
        self._pending_bytes += widened.nbytes
        if self._pending_rows >= _ROW_GROUP_ROWS or self._pending_bytes >= _ROW_GROUP_BYTES:
            self._write_row_group()

    def close(self) -> None:
        """Write what is left and the footer, without which the file cannot be read."""
        if self._pending:
            self._write_row_group()
        self._writer.close()

    def _write_row_group(self) -> None:
        self._writer.write_table(pa.Table.from_batches(self._pending, self._schema))
        self._pending = []
        self._pending_rows = 0
        self._pending_bytes = 0
        pa.default_memory_pool().release_unused()  # else what lies between the groups' leftovers adds up


def _remedy(error: Exception) -> str:
    if isinstance(error, NotImplementedError):
        return "write the column in another type, such as a 64-bit integer or text"
    return "write it without encryption" if "decrypt" in str(error) else _WRITE_AGAIN


class _Writer(pq.ParquetWriter):  # type: ignore[misc] # pyarrow ships no types
    def __del__(self) -> None:
        """Do nothing: pyarrow's own would end an abandoned file with a footer, even one closed by now."""


def read_table(path: Path) -> Any:
    """Read a whole file into memory, as a ``pyarrow.Table``."""
    return pq.read_table(path)


def _cell_text(cell: Cell) -> str:
    if cell is None or isinstance(cell, str):
        return cell or ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, (list, tuple, dict)):
        return json.dumps(cell, ensure_ascii=False, default=_cell_text)
    if isinstance(cell, Decimal):
        # "1.00" is no integer to a replay.
        return _WHOLE.sub(".0", format(cell, "f"))
    if isinstance(cell, float) and cell.is_integer():
        return f"{cell:.1f}"  # not 1e+16, which a replay could not read as an integer
    return cell.hex() if isinstance(cell, bytes) else str(cell)


def _extra_array(cells: Sequence[str | int | None], type_: Any) -> Any:
    try:
        return pa.array(cells, type_)
    except UnicodeEncodeError:
        # The text of a malformed row holds bytes that were not UTF-8; a Parquet text cannot.
        plain = [cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell for cell in cells]
        return pa.array(plain, type_)
