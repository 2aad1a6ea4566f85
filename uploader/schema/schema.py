"""A row -> a usage event, or every problem it has. The only file that knows `jsonschema-rs`.

The schema is JSON Schema 2020-12 for one row as an object of its columns. The plain ``type`` of a property says how its
cells are read; a column that the schema does not name is carried through and never looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import jsonschema_rs

from uploader.model.api import NOT_FOR_A_HEADER, WIRE_PROBLEM_BY_COLUMN, wire_problems
from uploader.model.errors import InputError, SchemaError, SettingsError
from uploader.model.mapping import AS_IT_STANDS, ColumnMap
from uploader.model.model import EVENT_COLUMNS, Cell, Outcome, Reason, Row, Units, UsageEvent, cell_text
from uploader.model.wording import shown
from uploader.schema.cell_readers import ABSENT, reader_of, stated_range
from uploader.schema.known_cells import Column, KnownCells

_ColumnReader: TypeAlias = tuple[str, int, Callable[[Cell], Any]]  # name, place in a row, how its cells are read

_HEADER_PATTERN = r"^[\x21-\x7e]+$"
_JSON_SCALARS = (str, int, float, bool)
_JUDGES_CELLS_ALONE = frozenset(
    {
        "$schema",
        "$id",
        "$comment",
        "$defs",
        "title",
        "description",
        "examples",
        "type",
        "required",
        "properties",
        "additionalProperties",
    }
)
"""With no other keywords a row is good if each required column is there and each cell is good (JSON Schema 10.3)."""


class RowSchema:
    """A schema for the rows of any usage log."""

    def __init__(self, text: str, *, name: str) -> None:
        """Compile a schema.

        Raises:
            SchemaError: not JSON, or not a JSON Schema for an object.
        """
        self.name = name
        document = _parsed(text, name=name)
        properties = document.get("properties", {})
        required = document.get("required", [])
        self._validator = _compiled(document, name=name)
        # None when a cell's verdict may hang on another cell.
        self._alone: Any = None
        if document.keys() <= _JUDGES_CELLS_ALONE and document.get("additionalProperties", True) is True:
            self._alone = _compiled({**document, "required": []}, name=name)
        self._properties: dict[str, Any] = properties
        self._required = (*EVENT_COLUMNS, *(column for column in required if column not in EVENT_COLUMNS))

    @classmethod
    def load(cls, path: Path | None) -> RowSchema:
        """Read a schema file; None stands for the one that ships with this package.

        Raises:
            SchemaError: the file cannot be read, or is not a schema.
        """
        try:
            text = (_shipped_schema() if path is None else path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SchemaError(f"schema {path}: {error}", remedy="give --schema a readable JSON Schema file") from error
        return cls(text, name=str(path or "usage.schema.json"))

    def for_columns(self, columns: Sequence[str], *, path: Path, mapping: ColumnMap = AS_IT_STANDS) -> RowCheck:
        """Fit the schema to a log's columns, under the names by which ``mapping`` has them seen.

        Raises:
            InputError: a column is missing, or the mapping names one that is not there or not in the schema.
        """
        place_by_column = mapping.places(columns, path=path)
        self._demand_known(mapping)
        missing = [column for column in self._required if column not in place_by_column]
        if missing:
            raise InputError(
                f"{path}: no column named {', '.join(map(repr, missing))} (it has {', '.join(map(repr, columns))})",
                remedy=_remedy(missing[0], columns),
            )
        constant_by_column = dict(mapping.constants)
        readers: list[_ColumnReader] = []
        for column, place in place_by_column.items():
            if column in self._properties or column in self._required:
                read = reader_of(column, self._properties.get(column))
                if column in constant_by_column:
                    readers.append((column, 0, _always(read(constant_by_column[column]))))
                else:
                    readers.append((column, place, read))
        known_cells = KnownCells(self._cells_alone(readers, constant_by_column)) if self._alone else None
        return RowCheck(self._validator, readers, known_cells, constant_by_column)

    def _demand_known(self, mapping: ColumnMap) -> None:
        known = dict.fromkeys([*self._required, *self._properties])
        if unknown := [name for name in mapping.names if name not in known]:
            raise SettingsError(
                f"--column or --constant {unknown[0]}: the schema has no such column",
                remedy=f"it has {', '.join(known)}",
            )

    def _cells_alone(self, readers: Sequence[_ColumnReader], constants: Container[str]) -> list[Column]:
        """Give the columns, those of a usage event first."""
        reader_by_column = {reader[0]: reader for reader in readers}
        others = (column for column in reader_by_column if column not in EVENT_COLUMNS)
        return [
            self._cell_alone(*reader_by_column[column], is_constant=column in constants)
            for column in (*EVENT_COLUMNS, *others)
        ]

    def _cell_alone(self, column: str, index: int, read: Callable[[Cell], Any], *, is_constant: bool) -> Column:
        wire_problem = WIRE_PROBLEM_BY_COLUMN.get(column)

        def judge(cell: Cell) -> Any:
            value = read(cell)
            if value is ABSENT:
                if column in self._required:
                    raise ValueError
                return value
            if (wire_problem and wire_problem(value)) or not self._alone.is_valid({column: value}):
                raise ValueError
            return value

        whole_between = stated_range(self._properties.get(column), read)
        if whole_between is not None and not all(_is_good(judge, bound) for bound in whole_between):
            whole_between = None
        return Column(index, judge, is_constant, whole_between)


class RowCheck:
    """The schema, fitted to the columns of one log."""

    def __init__(
        self,
        validator: Any,
        readers: list[_ColumnReader],
        known_cells: KnownCells | None,
        constant_by_column: Mapping[str, str],
    ) -> None:
        self._validator = validator
        self._constant_by_column = constant_by_column
        self._readers = readers
        self._known_cells = known_cells
        by_column = {column: (index, read) for column, index, read in readers}
        self._tenant_at, _ = by_column["tenant_id"]
        self._meter_at, _ = by_column["meter_id"]
        self._usage_at, self._read_usage = by_column["total_usage"]

    def event(self, row: Row) -> UsageEvent | Outcome:
        """Give the row's usage event, or the failure that names all of its problems."""
        if row.fault:
            return Outcome(Reason.MALFORMED, row.fault)
        cells = row.cells
        if self._known_cells is not None and (known := self._known_cells.event(cells)):
            return known
        values = {column: value for column, index, read in self._readers if (value := read(cells[index])) is not ABSENT}
        event = UsageEvent(*[values.get(column) for column in EVENT_COLUMNS])  # type: ignore[arg-type]
        try:
            if self._validator.is_valid(values) and not wire_problems(event):
                return event
            return Outcome(Reason.INVALID, self._all_problems(values, event))
        except ValueError:
            return Outcome(Reason.INVALID, _not_of_json(values))

    @property
    def columns_alone(self) -> Sequence[Column] | None:
        """The columns of which each judges its cells by itself, the usage event's first; None when rows are judged."""
        return None if self._known_cells is None else self._known_cells.columns

    def units(self, row: Row) -> Units | None:
        """Give the usage that the row states, valid or not; None where it cannot be read."""
        if row.fault:
            return None
        cells = row.cells
        usage = self._read_usage(cells[self._usage_at])
        if type(usage) is not int:
            return None
        tenant, meter = cells[self._tenant_at], cells[self._meter_at]
        if self._constant_by_column:
            tenant = self._constant_by_column.get("tenant_id", tenant)
            meter = self._constant_by_column.get("meter_id", meter)
        return Units(cell_text(tenant), cell_text(meter), usage)

    def units_stated(self, rows: Sequence[Row]) -> Iterable[tuple[tuple[str, str], int]]:
        """Give tenant and meter, and the usage, of those rows that state it; what ``units`` gives one by one."""
        sound = [row.cells for row in rows if not row.fault]
        keys = list(map(itemgetter(self._tenant_at, self._meter_at), sound))
        if self._constant_by_column or not set(map(type, chain.from_iterable(keys))) <= {str}:
            stated = filter(None, map(self.units, rows))
            return (((units.tenant_id, units.meter_id), units.total_usage) for units in stated)
        usages = map(self._read_usage, map(itemgetter(self._usage_at), sound))
        return ((key, usage) for key, usage in zip(keys, usages, strict=True) if type(usage) is int)

    def stated(self, row: Row) -> dict[str, Any]:
        """Give the event's cells as they are read, by column, to be compared with an edited copy."""
        return {
            column: value if isinstance(value, _JSON_SCALARS) else str(value)
            for column, index, read in self._readers
            if column in EVENT_COLUMNS and (value := read(row.cells[index])) is not None and value is not ABSENT
        }

    def read_otherwise(self, row: Row, as_text: Row) -> dict[str, Any]:
        """Give those of the event's cells that are read as something else in a copy of the row, and as what."""
        pairs = [
            (column, read(row.cells[index]), read(as_text.cells[index]))
            for column, index, read in self._readers
            if column in EVENT_COLUMNS and row.cells[index] is not None
        ]
        return {column: now for column, was, now in pairs if type(now) is not type(was) or now != was}

    def _all_problems(self, values: dict[str, Any], event: UsageEvent) -> str:
        problems_by_column: dict[str, list[str]] = {column: [] for column, _, _ in self._readers}
        for error in self._validator.iter_errors(values):
            column, words = _words(error, values)
            problems_by_column.setdefault(column, []).append(words)
        for column, words in wire_problems(event).items():
            if not problems_by_column[column]:
                problems_by_column[column].append(words)
        return "; ".join(
            f"{column}: {words}" if column else words
            for column, all_words in problems_by_column.items()
            for words in dict.fromkeys(all_words)
        )


def _remedy(missing: str, columns: Sequence[str]) -> str:
    if len(columns) == 1 and (delimiter := next((one for one in ";\t|" if one in columns[0]), "")):
        return "say what parts its columns: --delimiter " + {"\t": "tab"}.get(delimiter, f"'{delimiter}'")
    return (
        f"name the columns as the schema does, or say which it is: --column {missing}=COLUMN, or what it is in all "
        f"rows: --constant {missing}=VALUE"
    )


def _is_good(judge: Callable[[Cell], Any], cell: Cell) -> bool:
    try:
        judge(cell)
    except ValueError:
        return False
    return True


def _not_of_json(values: dict[str, Any]) -> str:
    """Name the cells of a type that JSON does not have, such as a date of a Parquet file."""
    return "; ".join(
        f"{column}: {shown(value)} is neither text nor a number"
        for column, value in values.items()
        if value is not None and not isinstance(value, _JSON_SCALARS)
    )


def _parsed(text: str, *, name: str) -> dict[str, Any]:
    remedy = "see schemas/usage.schema.json for one that works"
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"schema {name}: not JSON: {error}", remedy=remedy) from error
    if not isinstance(document, dict) or not isinstance(document.get("properties", {}), dict):
        raise SchemaError(f"schema {name}: not a JSON Schema for a row (an object with properties)", remedy=remedy)
    return document


def _compiled(document: dict[str, Any], *, name: str) -> Any:
    try:
        return jsonschema_rs.Draft202012Validator(document, validate_formats=True, retriever=_refuse_to_fetch)
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError, RecursionError) as error:
        first_line = str(error).splitlines()[0]
        remedy = "correct it; it must be JSON Schema 2020-12 in one file"
        raise SchemaError(f"schema {name}: {first_line}", remedy=remedy) from error


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"{uri} is outside the schema file")


def _shipped_schema() -> Path:
    in_wheel = Path(__file__).parents[1] / "schemas" / "usage.schema.json"
    in_checkout = Path(__file__).parents[2] / "schemas" / "usage.schema.json"
    return in_wheel if in_wheel.exists() else in_checkout


def _always(value: Any) -> Callable[[Cell], Any]:
    return lambda _cell: value


def _words(error: Any, values: dict[str, Any]) -> tuple[str, str]:
    """Say a validation error as an operator would: the column, and what is wrong with its cell."""
    rule, stated = error.kind.name, error.kind.value
    if rule == "required":
        return str(stated), "is empty"
    column = str(error.instance_path[0]) if error.instance_path else ""
    if not column:
        return "", str(error.message)
    cell = values.get(column)
    if cell == "":
        return column, "is empty"
    sentence = _SENTENCE_BY_RULE.get(rule)
    if sentence is None:
        return column, f"{shown(cell)}: {error.message}"
    return column, f"{shown(cell)} {sentence(stated)}"


def _type_sentence(stated: Any) -> str:
    names = stated if isinstance(stated, list) else [stated]
    plain = {
        "integer": "an integer",
        "number": "a number",
        "string": "text",
        "boolean": "true or false",
        "null": "empty",
    }
    return "is not " + " or ".join(plain.get(str(name), str(name)) for name in names)


_SENTENCE_BY_RULE: dict[str, Callable[[Any], str]] = {
    "type": _type_sentence,
    "minimum": lambda limit: f"is less than {limit}",
    "maximum": lambda limit: f"is more than {limit}",
    "exclusiveMinimum": lambda limit: f"is not more than {limit}",
    "exclusiveMaximum": lambda limit: f"is not less than {limit}",
    "multipleOf": lambda step: f"is not a multiple of {step}",
    "minLength": lambda limit: f"is shorter than {limit} characters",
    "maxLength": lambda limit: f"is longer than {limit} characters",
    "pattern": lambda pattern: NOT_FOR_A_HEADER if pattern == _HEADER_PATTERN else f"does not match {pattern}",
    "format": lambda name: f"is not a {name}",
    "const": lambda value: f"is not {shown(value)}",
    "enum": lambda options: f"is not one of {', '.join(shown(option) for option in options[:20])}",
}
