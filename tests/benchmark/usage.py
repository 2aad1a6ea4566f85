"""Usage logs of any size, the same each time they are made."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

COLUMNS = ("tenant_id", "device_id", "meter_id", "total_usage", "recorded_at")
METERS = ("api.calls", "storage.gb", "pages")
_ROWS_AT_ONCE = 50_000

UsageRow = tuple[str, str, str, int, str]


def usage_rows(count: int, *, tenants: int, night: int = 0) -> Iterator[UsageRow]:
    """Make rows that all differ; the tenants take turns, and another night's rows are others."""
    for number in range(count):
        second = number % 86_400
        yield (
            f"tenant-{number % tenants:07d}",
            f"device-{number * 7_919 % 1_000:04d}",
            METERS[number % len(METERS)],
            (number * 104_729 + night * 15_485_863) % 1_000_003,
            f"2026-11-20T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}Z",
        )


def write_log(path: Path, *, rows: int, tenants: int, night: int = 0) -> Path:
    """Write a usage log, as Parquet if it is named so, else as CSV; one that is there already is left as it is."""
    if path.exists():
        return path
    made = usage_rows(rows, tenants=tenants, night=night)
    if path.suffix == ".parquet":
        _write_parquet(path, made)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            file.write(",".join(COLUMNS) + "\n")
            file.writelines(f"{tenant},{device},{meter},{units},{at}\n" for tenant, device, meter, units, at in made)
    return path


def _write_parquet(path: Path, rows: Iterator[UsageRow]) -> None:
    text = pa.string()
    schema = pa.schema(list(zip(COLUMNS, (text, text, text, pa.int64(), text), strict=True)))
    with pq.ParquetWriter(path, schema) as writer:
        while chunk := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            columns = dict(zip(COLUMNS, map(list, zip(*chunk, strict=True)), strict=True))
            writer.write_table(pa.table(columns, schema=schema))
