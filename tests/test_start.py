"""What an upload does before its first POST: it imports no more than it needs, and takes a log in a batch at a time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import requests.utils

from tests.billing_server import BillingServer
from tests.command import COMMAND, EVENT_COLUMNS, Home, usage_rows, write_csv
from uploader.ledger.overlap import RowSketches
from uploader.model.mapping import AS_IT_STANDS, ColumnMap
from uploader.model.model import Row
from uploader.readers.readers import open_usage_log
from uploader.results.books import Books
from uploader.schema.schema import RowSchema
from uploader.sender.route import Route, settle_route

NOT_NEEDED = {"requests", "urllib3", "charset_normalizer", "rich", "pandas", "pyarrow", "openpyxl", "jinja2", "pygal"}
_OWN_THREADS = Path("/proc/self/task")
_WITH_AT_THE_END = "import atexit, os; atexit.register(lambda: {}); from uploader.cli import main; main()"
ODD_CELLS = [
    "7",
    "+7",
    "07",
    "7.0",
    "-7",
    "7" * 100,
    "7" * 101,
    "7" * 5000,
    "",
    "7x",
    "\u0667",
    "\u00b2",
    7,
    7.0,
    True,
    None,
]


def test_an_upload_imports_nothing_that_it_does_not_need(home: Home, billing_server: BillingServer) -> None:
    """Over plain HTTP past no proxy, with no terminal, `requests` and `rich` are left alone as pandas is."""
    ended = _uploaded_three_rows(home, "-X", "importtime", str(COMMAND))
    imported = set(re.findall(r"\| +(\w+)$", ended.stderr, re.MULTILINE))
    assert "selectors" in imported
    assert imported & NOT_NEEDED == set()
    assert len(billing_server.posts) == 3


@pytest.mark.skipif(not _OWN_THREADS.exists(), reason="the kernel lists no threads there")
def test_an_upload_starts_no_thread(home: Home, billing_server: BillingServer) -> None:
    """No library that comes with it starts a thread a core: on a large machine they would cost more than the upload."""
    count = f"print('threads:', len(os.listdir('{_OWN_THREADS}')))"
    ended = _uploaded_three_rows(home, "-c", _WITH_AT_THE_END.format(count))
    assert "threads: 1\n" in ended.stdout
    assert len(billing_server.posts) == 3


@pytest.mark.parametrize(
    ("variables", "base_url", "is_asked"),
    [
        ({}, "http://backend.example", False),
        ({"REQUESTS_CA_BUNDLE": "/missing.pem"}, "http://backend.example", False),
        ({"No_Proxy": "other"}, "http://backend.example", True),
        ({"all_proxy": ""}, "http://backend.example", True),
        ({}, "https://backend.example", True),
    ],
    ids=["plain", "plain with certificates", "no_proxy", "empty proxy", "tls"],
)
def test_requests_is_asked_wherever_there_may_be_something_to_settle(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    base_url: str,
    is_asked: bool,  # noqa: FBT001 -- a parameter
) -> None:
    """Only plain HTTP without any variable that has to do with proxies goes without its rules, and so without TLS."""
    for name in [name for name in os.environ if name.lower().endswith(("_proxy", "_ca_bundle"))]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ca_bundle = requests.utils.DEFAULT_CA_BUNDLE_PATH if is_asked else ""
    assert settle_route(base_url, carries_key=False) == Route(proxy="", ca_bundle=ca_bundle)


@pytest.mark.parametrize("type_of_usage", ["integer", "number", "string", ["integer", "null"]], ids=str)
@pytest.mark.parametrize("constants", [[], ["tenant_id=acme"]], ids=["cells", "constant"])
def test_units_of_many_rows_are_those_of_each(type_of_usage: str | list[str], constants: list[str]) -> None:
    """Whatever the cells hold, read in a batch they come to the same books as read one by one."""
    schema = RowSchema(f'{{"properties": {{"total_usage": {{"type": {_json(type_of_usage)}}}}}}}', name="ours")
    columns = EVENT_COLUMNS[1:] if constants else EVENT_COLUMNS
    check = schema.for_columns(columns, path=Path("x"), mapping=ColumnMap.parse([], constants))
    batches = [
        [Row(1, [tenant, "d", "m", cell][-len(columns) :], "") for cell in ODD_CELLS] + [Row(2, (), "x", "bad")]
        for tenant in ("t", 7, True, None, "7", "True", "")
    ]
    one_by_one, together = Books(), Books()
    for rows in [*batches, []]:
        for row in rows:
            one_by_one.take_in(check.units(row))
        together.take_in_all(rows=len(rows), stated=check.units_stated(rows))
    assert together == one_by_one
    assert together.rows_in == 7 * (len(ODD_CELLS) + 1)


@pytest.mark.parametrize(
    "mapping", [AS_IT_STANDS, ColumnMap.parse(["device_id=at"], ["shop=x"])], ids=["as it stands", "mapped"]
)
def test_a_sketch_of_many_rows_is_that_of_each(mapping: ColumnMap) -> None:
    """Rows taken in a batch at a time make the same bytes, text or not."""
    rows: list[list[Any]] = [[str(number), "x", "y", "z", "7"] for number in range(20_000)]
    rows[11_500:11_600] = [[number, None, 1.5, "z", 7] for number in range(100)]
    columns = ["at", "tenant_id", "meter_id", "device_id", "total_usage"]
    one_by_one, together = (RowSketches(columns, mapping=mapping, path=Path("x")) for _ in range(2))
    for row in rows:
        one_by_one.add_all([row])
    for start in range(0, len(rows), 1000):
        together.add_all(rows[start : start + 1000])
    assert together.each() == one_by_one.each()
    assert together.events() == one_by_one.events()
    assert together.to_bytes() == one_by_one.to_bytes()


def test_a_blank_line_is_no_row_of_a_log_with_one_column(tmp_path: Path) -> None:
    """Where a record has but one cell, a blank line is none all the same."""
    path = tmp_path / "usage.csv"
    path.write_text("a\n1\n\n2\n")
    with open_usage_log(path, delimiter=None) as log:
        assert [row.cells for batch in log.batches() for row in batch.rows] == [["1"], ["2"]]


def _json(value: str | list[str]) -> str:
    return repr(value).replace("'", '"')


def _uploaded_three_rows(home: Home, *python_arguments: str) -> subprocess.CompletedProcess[str]:
    write_csv(home.folder / "usage.csv", usage_rows(3))
    return subprocess.run(
        [sys.executable, *python_arguments, "upload", "usage.csv"],
        cwd=home.folder,
        env=home.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
