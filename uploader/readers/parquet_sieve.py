"""Rows of a Parquet log that are certainly good, told from the others a column at a time.

All that is said here is "these rows are good, and state so many units in all". What is wrong with a row, and whether
anything is, is for the schema to say of that row: whatever is not understood here, or is not certain, is doubtful.
Only for schemas that judge each cell by itself (``known_cells``). Two ways:

- each distinct value of a column is judged once, by the same judge as a row's cell;
- integers, in whatever form, are compared with two bounds between which all are good.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from uploader.model.errors import UploaderError
from uploader.model.model import Cell
from uploader.readers.arrow_cells import bare_times, cells, is_uuid
from uploader.schema.known_cells import Column

_GROUP_ROWS = 64 * 1024
_GROUP_BYTES = 16 * 1024 * 1024
_USAGE_AT = 3
_MANY = 10
"""When more than one cell in so many is none of the integers looked for, each distinct cell is judged instead."""
_MOST_KNOWN_CELLS = 100_000
"""Cells remembered of one column; some 20 MB. More are forgotten all at once."""
_LONGEST_CHARACTERS = 64
_DIGITS_OF_64_BITS = r"\A[0-9]{1,18}\z"
_BAD = object()
"""Stands for a cell of which the judge would not say that it is good."""


# pyarrow.array and pyarrow.scalar would import pandas, which takes most of a second.


def _booleans(values: Sequence[bool]) -> Any:
    return pa.Array.from_buffers(pa.uint8(), len(values), [None, pa.py_buffer(bytes(values))]).cast(pa.bool_())


def _int64s(values: Sequence[int]) -> Any:
    """Raise ``OverflowError`` for a value of more than 64 bits."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(array("q", values))])


_FALSE, _TRUE = _booleans([False, True])
_INEXACT_FLOAT = _int64s([2**53])[0].cast(pa.float64())


class Certain(NamedTuple):
    """What is certain of a group of rows.

    doubtful: an Arrow array of the places, from 0, of the rows to be looked at one by one.
    rows:     how many are certainly good.
    units:    what those state as usage, in all.
    """

    doubtful: Any
    rows: int
    units: int


@dataclass(slots=True)
class BatchGroup:
    """Consecutive record batches.

    sources: each with the number of its first row.
    """

    sources: list[tuple[int, Any]] = field(default_factory=list)
    _plain: list[Any] = field(default_factory=list)
    _bytes: int = 0

    def add(self, first_number: int, source: Any) -> None:
        """Add a record batch of not very many rows."""
        self.sources.append((first_number, source))
        try:
            plain = pa.RecordBatch.from_arrays([_plain(column) for column in source.columns], source.schema.names)
        except pa.ArrowException:
            self._bytes += source.nbytes
            return
        self._plain.append(plain)
        self._bytes += plain.nbytes

    def parts(self) -> Iterator[BatchGroup]:
        """Give each record batch as a group of its own."""
        for first_number, source in self.sources:
            part = BatchGroup()
            part.add(first_number, source)
            yield part

    @property
    def is_full(self) -> bool:
        """Whether more rows would take more memory than they save time."""
        first_number, _ = self.sources[0]
        last_number, last = self.sources[-1]
        return last_number + last.num_rows - first_number >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES

    def in_one(self) -> Any:
        """Give all rows as one record batch without dictionaries and string views; None where pyarrow cannot."""
        if len(self._plain) < len(self.sources):
            return None
        [batch] = pa.Table.from_batches(self._plain).combine_chunks().to_batches()
        return batch


def gathered(sources: Iterable[tuple[int, Any]]) -> Iterator[BatchGroup]:
    """Gather record batches, for a few rows at a time are slow; those before an error come out before it."""
    group = BatchGroup()
    try:
        for first_number, source in sources:
            if not source.num_rows:
                continue
            group.add(first_number, source)
            if group.is_full:
                yield group
                group = BatchGroup()
    except UploaderError:
        if group.sources:
            yield group
        raise
    if group.sources:
        yield group


class Sieve:
    """Tells good rows by what a schema says of columns."""

    def __init__(self, columns: Sequence[Column]) -> None:
        """Begin with nothing known; the fourth column is the usage."""
        self._columns = [_JudgedColumn(column, is_usage=at == _USAGE_AT) for at, column in enumerate(columns)]

    def certain(self, batch: Any) -> Certain | None:
        """Say what is certain of a record batch without dictionaries and string views; None when nothing is."""
        try:
            if not all(_is_readable(column) for column in batch.columns):
                return None
            return self._certain(batch)
        except (pa.ArrowException, ArithmeticError, ValueError):
            return None

    def _certain(self, batch: Any) -> Certain | None:
        are_good, units = None, None
        for column in self._columns:
            found = column.verdicts(batch)
            if found is None:
                return None
            are_good = found.are_good if are_good is None else pc.and_(are_good, found.are_good)
            units = found.integers if found.integers is not None and column.is_usage else units
        if units is None:
            return None
        good_units = units.filter(are_good)
        if good_units.null_count:
            return None
        doubtful = pc.indices_nonzero(pc.invert(are_good))
        return Certain(doubtful, len(good_units), _sum(good_units))


class _Verdicts(NamedTuple):
    """Of each cell of a column whether it is good; and the integers that the good ones are read as, if they are."""

    are_good: Any
    integers: Any = None


class _JudgedColumn:
    def __init__(self, column: Column, *, is_usage: bool) -> None:
        self.is_usage = is_usage
        self._column = column
        self._known: dict[Cell, Any] = {}
        self._nothing = self._judged(None)

    def verdicts(self, batch: Any) -> _Verdicts | None:
        """Judge all cells; None when nothing can be said."""
        if self._column.is_constant:
            return self._of_constant(batch.num_rows)
        column = batch.column(self._column.place)
        in_range = self._of_range(column)
        if in_range is not None and in_range.are_good.false_count * _MANY <= batch.num_rows:
            return in_range
        return self._of_distinct(column)

    def _of_constant(self, rows: int) -> _Verdicts | None:
        if self._nothing is _BAD:
            return None
        integers = pa.repeat(_int64s([self._nothing])[0], rows) if self.is_usage else None
        return _Verdicts(pa.repeat(_TRUE, rows), integers)

    def _of_range(self, column: Any) -> _Verdicts | None:
        if self._column.whole_between is None or (integers := _integers(column)) is None:
            return None
        least, most = _int64s(self._column.whole_between)
        are_good = pc.and_(pc.greater_equal(integers, least), pc.less_equal(integers, most))
        return _Verdicts(are_good.fill_null(_FALSE), integers)

    def _of_distinct(self, column: Any) -> _Verdicts | None:
        found = _distinct(column)
        if found is None:
            return None
        values = [self._value(cell) for cell in cells(found.values)]
        are_good = _booleans([value is not _BAD for value in values]).take(found.places)
        are_good = are_good.fill_null(_FALSE if self._nothing is _BAD else _TRUE)
        if not self.is_usage:
            return _Verdicts(are_good)
        integers = _int64s([0 if value is _BAD else value for value in values]).take(found.places)
        return _Verdicts(are_good, integers)

    def _value(self, cell: Cell) -> Any:
        """Judge a cell, or remember it; all cells of a column are of one type, so that equal texts are the same."""
        if type(cell) is not str or len(cell) > _LONGEST_CHARACTERS:
            return self._judged(cell)
        value = self._known.get(cell)
        if value is None:
            if len(self._known) >= _MOST_KNOWN_CELLS:
                self._known.clear()
            value = self._known[cell] = self._judged(cell)
        return value

    def _judged(self, cell: Cell) -> Any:
        try:
            return self._column.judge(cell)
        except ValueError:
            return _BAD


def _plain(column: Any) -> Any:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.dictionary_decode())
    # pyarrow 26 can neither filter nor take string views.
    return column.cast(pa.large_string()) if pa.types.is_string_view(kind) else column


def _is_readable(column: Any) -> bool:
    """Whether each cell of a column has a value in Python, for one that has none spoils its row or the file.

    Raises ``pyarrow.ArrowInvalid`` for text that is not UTF-8, and where a time has no text.
    """
    kind = column.type
    column.validate(full=True)
    if pa.types.is_temporal(kind):
        bare_times(column)
    return pa.types.is_temporal(kind) or is_uuid(kind) or _is_simple(kind)


def _is_simple(kind: Any) -> bool:
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_struct(kind):
        return all(_is_simple(kind.field(at).type) for at in range(kind.num_fields))
    is_text = types.is_string(kind) or types.is_large_string(kind)
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    is_binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return bool(is_text or is_number or is_binary or types.is_boolean(kind) or types.is_null(kind))


def _integers(column: Any) -> Any:
    """Give what a column states as 64-bit integers, null where that is not certain; None for no such column."""
    kind = column.type
    if pa.types.is_floating(kind):
        floats = column.cast(pa.float64())
        is_exact = pc.and_(pc.equal(pc.floor(floats), floats), pc.less(pc.abs(floats), _INEXACT_FLOAT))
        return pc.if_else(is_exact, floats, pa.nulls(1, pa.float64())[0]).cast(pa.int64())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        are_digits = pc.match_substring_regex(column, _DIGITS_OF_64_BITS)
        return pc.if_else(are_digits, column, pa.nulls(1, kind)[0]).cast(pa.int64())
    if not pa.types.is_integer(kind) and not pa.types.is_decimal(kind):
        return None
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:  # one has a fraction, or more than 64 bits
        return None


class _Distinct(NamedTuple):
    """The distinct values of a column, and for each of its cells the place of its value, null for null."""

    values: Any
    places: Any


def _distinct(column: Any) -> _Distinct | None:
    kind = column.type
    if pa.types.is_floating(kind):
        # By their bits: -0.0 equals 0.0, and no NaN another.
        bits = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[kind.bit_width]
        encoded = column.view(bits).dictionary_encode()
        return _Distinct(encoded.dictionary.view(kind), encoded.indices)
    if is_uuid(kind):
        encoded = column.storage.dictionary_encode()
        return _Distinct(kind.wrap_array(encoded.dictionary), encoded.indices)
    if pa.types.is_nested(kind):
        return None
    encoded = column.dictionary_encode()
    return _Distinct(encoded.dictionary, encoded.indices)


def _sum(integers: Any) -> int:
    """Add up 64-bit integers; pyarrow's own sum wraps around unsaid."""
    if len(integers) == 0:
        return 0
    ends = pc.min_max(integers).as_py()
    if max(-ends["min"], ends["max"]) * len(integers) < 2**63:
        return int(pc.sum(integers).as_py())
    return sum(integers.to_pylist())
