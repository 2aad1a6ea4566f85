"""What Python makes of the cells of an Arrow column.

A cell becomes the Python value that says exactly what the file says:

  string, large string, string view, UUID       ``str``
  dictionary                                    what its values become
  integer of any width                          ``int``
  decimal                                       ``Decimal``
  floating point                                ``float``
  boolean, null                                 ``bool``, ``None``
  date, time, timestamp                         ``str``, ISO 8601; with a Z when the timestamps have a zone
  duration                                      ``str``, its count and unit
  anything else                                 as pyarrow gives it: ``bytes``, ``list``, ``dict``

Dates and times are text because Python's own end at year 9999 and at microseconds, and Parquet's do not.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pyarrow as pa

from uploader.model.model import Cell


class NotUtf8(str):
    """A text that is not UTF-8, its bytes surrogate-escaped."""

    __slots__ = ()


def cell_alone(column: Any) -> Cell:
    """Give the value of an array of one; ``NotUtf8`` for text not in UTF-8."""
    try:
        return cells(column)[0]
    except UnicodeDecodeError as error:
        return NotUtf8(error.object, "utf-8", "surrogateescape")


def cells(column: Any) -> list[Cell]:
    """Give an array's values as the module's table says; ``UnicodeDecodeError`` for text not in UTF-8."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        # Some thirty times as fast as to_pylist() of the dictionary array itself.
        return cells(column.dictionary_decode())
    if pa.types.is_temporal(kind):
        return _times_as_text(column)
    if is_uuid(kind):
        return [None if raw is None else str(UUID(bytes=raw)) for raw in column.storage.to_pylist()]
    return list(column.to_pylist())


def is_uuid(kind: Any) -> bool:
    """Tell whether a type is Arrow's of UUIDs."""
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.uuid"


def bare_times(column: Any) -> Any:
    """Give dates, times or durations as an array of text, without T, zone and unit.

    Viewed without its zone, a timestamp is in UTC; so no time zone database is needed.
    """
    kind = column.type
    return (column.view(pa.timestamp(kind.unit)) if pa.types.is_timestamp(kind) else column).cast(pa.string())


def _times_as_text(column: Any) -> list[Cell]:
    kind = column.type
    texts = bare_times(column).to_pylist()
    if pa.types.is_timestamp(kind):
        zone = "Z" if kind.tz else ""
        return [None if text is None else text.replace(" ", "T") + zone for text in texts]
    unit = f" {kind.unit}" if pa.types.is_duration(kind) else ""
    return [None if text is None else text + unit for text in texts]
