"""The sample data is what its script writes, and shows what it says it shows."""

from __future__ import annotations

import contextlib
import csv
import http.client
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import jsonschema_rs
import pyarrow.parquet as pq
import pytest

from uploader.sandbox.sandbox import SandboxProcess
from uploader.sandbox.sandbox_backend import SandboxSettings

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "sample_data"
SCHEMA = json.loads((ROOT / "schemas" / "usage.schema.json").read_text(encoding="utf-8"))
CHECK = jsonschema_rs.validator_for(SCHEMA)
REQUIRED = ("tenant_id", "device_id", "meter_id", "total_usage")


@pytest.fixture(scope="module")
def written_anew(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the samples into a folder of their own."""
    folder = tmp_path_factory.mktemp("sample_data")
    subprocess.run([sys.executable, SAMPLES / "make_sample_data.py", folder], check=True, timeout=60)
    return folder


def as_row(cells: list[str], header: list[str]) -> dict[str, Any]:
    """Read one CSV record as the contract says that a usage log is read."""
    row: dict[str, Any] = dict(zip(header, cells, strict=True))
    usage = row["total_usage"].removesuffix(".0")
    if usage.removeprefix("+").removeprefix("-").isdigit():
        row["total_usage"] = int(usage)
    return row


@pytest.mark.parametrize("name", ["usage.csv", "usage_with_errors.csv"])
def test_csv_samples_are_what_the_script_writes(name: str, written_anew: Path) -> None:
    """The CSV samples in the repository are the script's, byte for byte."""
    assert (SAMPLES / name).read_bytes() == (written_anew / name).read_bytes()


def test_parquet_sample_is_what_the_script_writes(written_anew: Path) -> None:
    """The Parquet sample holds the script's table, types included."""
    assert pq.read_table(SAMPLES / "usage.parquet").equals(pq.read_table(written_anew / "usage.parquet"))


def test_parquet_and_csv_samples_are_the_same_rows() -> None:
    """The Parquet sample holds the rows of the CSV sample in their order."""
    with (SAMPLES / "usage.csv").open(encoding="utf-8", newline="") as file:
        from_csv = list(csv.DictReader(file))
    from_parquet = pq.read_table(SAMPLES / "usage.parquet").to_pylist()
    for row in from_parquet:
        row["total_usage"] = str(row["total_usage"])
        row["recorded_at"] = row["recorded_at"].strftime("%Y-%m-%dT%H:%M:%SZ")
    assert from_parquet == from_csv


def test_clean_sample_breaks_no_rule() -> None:
    """Each of the clean sample's 200 rows, of 12 tenants and 3 meters, keeps the schema."""
    with (SAMPLES / "usage.csv").open(encoding="utf-8", newline="") as file:
        header, *records = csv.reader(file, strict=True)
    rows = [as_row(cells, header) for cells in records]
    assert [row for row in rows if not CHECK.is_valid(row)] == []
    assert len(rows) == 200
    assert len({row["tenant_id"] for row in rows}) == 12
    assert len({row["meter_id"] for row in rows}) == 3
    assert set(header) > set(REQUIRED)


def outcome(line: bytes, header: list[str], base_url: str) -> str:
    """Say what one line of a CSV file comes to: read, check, look up, post; no code of the uploader's."""
    try:
        (cells,) = csv.reader([line.decode()], strict=True)
        row = as_row(cells, header)
    except (csv.Error, ValueError):
        return "malformed"
    if not CHECK.is_valid(row):
        return "invalid"
    address = urlsplit(base_url)
    connection = http.client.HTTPConnection(address.netloc, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", f"{address.path}/customer-accounts/tenant/{quote(row['tenant_id'], safe='')}")
        accounts = json.load(connection.getresponse())
        if not accounts:
            return "customer_not_found"
        body = {
            "meter_id": row["meter_id"],
            "total_usage": row["total_usage"],
            "customer_id": accounts[0]["id"],
        }
        headers = {
            "x-tenant-id": row["tenant_id"],
            "x-device-id": row["device_id"],
            "Content-Type": "application/json",
        }
        connection.request("POST", f"{address.path}/events", json.dumps(body), headers)
        return "accepted" if connection.getresponse().status == 201 else "rejected"


def test_sample_with_errors_shows_what_its_last_column_says() -> None:
    """Each row of the sample with errors comes, against the sandbox, to what its last cell says."""
    first, *lines = (SAMPLES / "usage_with_errors.csv").read_bytes().splitlines()
    header = first.decode().split(",")
    with SandboxProcess(SandboxSettings()) as sandbox:
        outcomes = [outcome(line, header, sandbox.base_url) for line in lines]
    assert outcomes == [line.decode("latin-1").rpartition(",")[2] for line in lines]
    assert set(outcomes) == {"accepted", "invalid", "malformed", "customer_not_found", "rejected"}


def test_sample_with_errors_has_a_row_with_several_problems() -> None:
    """At least one invalid row breaks more than one rule, so that reporting them all can be seen."""
    first, *lines = (SAMPLES / "usage_with_errors.csv").read_bytes().splitlines()
    header = first.decode().split(",")
    invalid = [line.decode().split(",") for line in lines if line.endswith(b",invalid") and b'"' not in line]
    assert max(len(list(CHECK.iter_errors(as_row(cells, header)))) for cells in invalid) == 4


GOOD_ROW = {"tenant_id": "acme", "device_id": "acme-01", "meter_id": "api.calls", "total_usage": 1}


def test_schema_is_a_valid_one_that_explains_itself() -> None:
    """The schema is JSON Schema 2020-12 and has an id, a title and a description of everything."""
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert jsonschema_rs.meta.is_valid(SCHEMA)
    assert SCHEMA["$id"]
    assert SCHEMA["title"]
    assert SCHEMA["description"]
    assert all(SCHEMA["properties"][name]["description"] for name in REQUIRED)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"recorded_at": "2026-11-20", "note": None},
        {"tenant_id": "00123"},
        {"tenant_id": "!~/%"},
        {"device_id": "d" * 256},
        {"meter_id": "mètre à café"},
        {"meter_id": "m" * 256},
        {"total_usage": 0},
        {"total_usage": 2**63 - 1},
    ],
)
def test_schema_takes(change: dict[str, Any]) -> None:
    """The schema takes every id and usage that the contract allows, and further columns."""
    assert CHECK.is_valid(GOOD_ROW | change)


@pytest.mark.parametrize(
    "change",
    [
        {"tenant_id": ""},
        {"tenant_id": "a b"},
        {"tenant_id": "acme\n"},
        {"tenant_id": "acme\r\nx-admin: 1"},
        {"tenant_id": "zürich"},
        {"tenant_id": "t" * 257},
        {"tenant_id": 123},
        {"tenant_id": None},
        {"device_id": ""},
        {"device_id": "\x7f"},
        {"device_id": "d" * 257},
        {"meter_id": ""},
        {"meter_id": "m" * 257},
        {"meter_id": 7},
        {"total_usage": -1},
        {"total_usage": 2**63},
        {"total_usage": 1.5},
        {"total_usage": "1"},
        {"total_usage": True},
        {"total_usage": None},
    ],
)
def test_schema_refuses(change: dict[str, Any]) -> None:
    """The schema refuses ids that cannot be sent safely and usage that is no whole number in range."""
    assert not CHECK.is_valid(GOOD_ROW | change)


@pytest.mark.parametrize("name", REQUIRED)
def test_schema_requires(name: str) -> None:
    """The schema refuses a row that lacks one of the four."""
    assert not CHECK.is_valid({key: value for key, value in GOOD_ROW.items() if key != name})
