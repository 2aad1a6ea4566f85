"""Write the sample usage logs anew, into the folder given or the one this script lies in.

    python sample_data/make_sample_data.py [FOLDER]

The CSV files are the same byte for byte each time; usage.parquet holds the same rows each time, in whatever
way the installed pyarrow writes them.
"""  # noqa: INP001 -- a script, not part of a package

import csv
import datetime as dt
import hashlib
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 200
FIRST_HOUR = dt.datetime(2026, 11, 20, tzinfo=dt.timezone.utc)
HEADER = ("tenant_id", "device_id", "meter_id", "total_usage", "recorded_at")
METERS = ("pages.processed.rate.hourly", "api.calls", "storage.gigabyte.hours")
# One id with leading zeros and one with a slash: ids are text, whatever they look like.
TENANTS = (
    "acme",
    "globex",
    "initech",
    "umbrella/eu",
    "00417",
    "hooli",
    "stark-industries",
    "wayne.enterprises",
    "tyrell",
    "cyberdyne",
    "soylent",
    "wonka",
)

UsageRow = tuple[str, str, str, int, dt.datetime]

# What each row comes to against the sandbox stands in its last cell, and is carried through to the results.
ROWS_WITH_ERRORS = b"""\
tenant_id,device_id,meter_id,total_usage,expected
acme,acme-01,api.calls,120,accepted
acme,acme-02,api.calls,0,accepted
globex,globex-01,pages.processed.rate.hourly,37,accepted
initech,initech-01,storage.gigabyte.hours,88.0,accepted
00417,00001,api.calls,+5,accepted
umbrella/eu,"rack,3",api.calls,1024,accepted
acme,acme-01,api.calls,-1,invalid
acme,acme-01,api.calls,,invalid
acme,acme-01,api.calls,12.5,invalid
acme,acme-01,api.calls,"1,000",invalid
acme,acme-01,api.calls,1e3,invalid
acme,acme-01,api.calls, 7,invalid
acme,acme-01,api.calls,9223372036854775808,invalid
globex,globex-01,api.calls,41,accepted
,globex-01,api.calls,3,invalid
glo bex,globex-01,api.calls,3,invalid
z\xc3\xbcrich,globex-01,api.calls,3,invalid
globex,,api.calls,3,invalid
globex,globex-01,,3,invalid
,,,many,invalid
hooli,hooli-01,pages.processed.rate.hourly,64,accepted
hooli,hooli-01,pages.processed.rate.hourly,malformed
hooli,hooli-01,pages.processed.rate.hourly,64,65,malformed
hooli,caf\xe9-01,pages.processed.rate.hourly,64,malformed
"hooli"x,hooli-01,pages.processed.rate.hourly,64,malformed
hooli,hooli-02,pages.processed.rate.hourly,65,accepted
unknown-customer,till-01,api.calls,12,customer_not_found
unknown-customer,till-02,api.calls,13,customer_not_found
initech,initech-01,forbidden.meter,14,rejected
initech,initech-02,api.calls,15,accepted
hooli,hooli-01,forbidden.meter,16,rejected
acme,acme-03,storage.gigabyte.hours,17,accepted
"""


def usage_rows() -> list[UsageRow]:
    """Make up ``ROWS`` hours of usage, the same each time on every Python."""
    rows = []
    for number in range(ROWS):
        draw = hashlib.sha256(f"usage row {number}".encode()).digest()
        tenant_id = TENANTS[number % len(TENANTS)]
        device_id = f"{tenant_id.partition('/')[0]}-{draw[0] % 4 + 1:02}"
        usage = int.from_bytes(draw[2:4], "big") % 5_000
        recorded_at = FIRST_HOUR + dt.timedelta(minutes=15 * (number // len(TENANTS)))
        rows.append((tenant_id, device_id, METERS[draw[1] % len(METERS)], usage, recorded_at))
    return rows


def write_csv(path: Path, rows: list[UsageRow]) -> None:
    """Write the rows with times as ISO 8601 in UTC, to the second."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows((*row[:4], row[4].strftime("%Y-%m-%dT%H:%M:%SZ")) for row in rows)


def write_parquet(path: Path, rows: list[UsageRow]) -> None:
    """Write the rows with usage as int64 and times as timestamps."""
    types = (pa.string(), pa.string(), pa.string(), pa.int64(), pa.timestamp("ms", tz="UTC"))
    columns = [pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), types, strict=True)]
    pq.write_table(pa.table(columns, names=HEADER), path)


def main(folder: Path) -> None:
    """Write all sample files into an existing folder."""
    rows = usage_rows()
    write_csv(folder / "usage.csv", rows)
    write_parquet(folder / "usage.parquet", rows)
    (folder / "usage_with_errors.csv").write_bytes(ROWS_WITH_ERRORS)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
