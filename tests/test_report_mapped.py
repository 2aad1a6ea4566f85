"""Pages about logs whose columns go by other names, or are not there: the upload's options make them readable."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.billing_answers import Answer, reply
from tests.billing_contract import Received, contract
from tests.billing_server import BillingServer
from tests.command import Home, write_csv

COLUMNS = ("TenantID", "Meter Name", "total_usage", "note")
ROWS = [("acme", "api.calls", 5, "a"), ("globex", "refused", 7, "b"), ("acme", "api.calls", "-9", "c")]
OPTIONS = [
    *("--column", "tenant_id=TenantID", "--column", "meter_id=Meter Name"),
    *("--constant", "device_id=import"),
]
COUNTS = "1 of 3 rows were accepted, with 5 units; 2 failed."


def refusing(received: Received) -> Answer:
    """Refuse a meter named refused."""
    return reply(422) if received.method == "POST" and received.event["meter_id"] == "refused" else contract(received)


def shown(page: Path) -> list[tuple[str, ...]]:
    """Give tenant, meter and usage of the failed rows that a page shows."""
    cells = [re.findall("<td[^>]*>(.*?)</td>", line) for line in page.read_text(encoding="utf-8").splitlines()]
    return [tuple(line[1:4]) for line in cells if len(line) > 4]


@pytest.fixture
def refused(home: Home, billing_server: BillingServer) -> Home:
    """Upload a mapped log of which two rows fail, with its page."""
    billing_server.respond = refusing
    write_csv(home.folder / "usage.csv", ROWS, columns=COLUMNS)
    run = home.run_here("upload", "usage.csv", *OPTIONS, "--report", "page.html")
    assert run.exit_code == 1, run.said
    return home


def test_an_upload_and_its_replay_write_their_pages(refused: Home) -> None:
    """With tenant, meter and units; the replay is given no mapping, for the ledger has it."""
    page = refused.folder / "page.html"
    assert COUNTS in page.read_text(encoding="utf-8")
    assert sorted(shown(page)) == [("acme", "api.calls", "-9"), ("globex", "refused", "7")]
    run = refused.run_here("replay", "usage.failed.csv", "--report", "again.html")
    assert run.exit_code == 1, run.said
    again = refused.folder / "again.html"
    assert "0 of 2 rows were accepted, with 0 units; 2 failed." in again.read_text(encoding="utf-8")
    assert sorted(shown(again)) == sorted(shown(page))


def test_a_check_writes_its_page(home: Home) -> None:
    """The row that would fail is shown with its tenant."""
    write_csv(home.folder / "usage.csv", ROWS, columns=COLUMNS)
    run = home.run_here("validate", "usage.csv", *OPTIONS, "--report", "page.html")
    assert run.exit_code == 1, run.said
    assert shown(home.folder / "page.html") == [("acme", "api.calls", "-9")]


@pytest.mark.parametrize("source", ["options", "file"])
def test_a_page_is_made_of_a_results_file(refused: Home, source: str) -> None:
    """By options or the settings file the same as the upload's own; without them the remedy is named."""
    run = refused.run_here("report", "usage.results.csv", "-o", "alone.html")
    assert run.exit_code == 2
    assert "--column tenant_id=COLUMN" in run.stderr
    if source == "file":
        (refused.folder / "uploader.toml").write_text(
            '[column]\ntenant_id = "TenantID"\nmeter_id = "Meter Name"\n[constant]\ndevice_id = "import"\n'
        )
    run = refused.run_here("report", "usage.results.csv", "-o", "alone.html", *(OPTIONS if source == "options" else []))
    assert run.exit_code == 0, run.said
    alone = refused.folder / "alone.html"
    assert COUNTS in alone.read_text(encoding="utf-8")
    assert sorted(shown(alone)) == sorted(shown(refused.folder / "page.html"))


def test_an_unreadable_row_states_no_units_although_they_are_a_constant(home: Home) -> None:
    """The page has the units of the run's own summary."""
    (home.folder / "usage.csv").write_text("tenant_id,device_id,meter_id\nacme,d,m\nacme,d\n")
    run = home.run_here("upload", "usage.csv", "--constant", "total_usage=3", "--report", "page.html")
    assert run.exit_code == 1, run.said
    page = (home.folder / "page.html").read_text(encoding="utf-8")
    assert "<h3>malformed: 1 row, 0 units" in page


def test_a_page_of_a_parquet_log_with_columns_of_its_own_schema(home: Home) -> None:
    """A name that only the user's schema has does not stand in the way of the page."""
    (home.folder / "ours.json").write_text('{"required": ["region"]}')
    table = pa.table({"t": ["acme"], "device_id": ["d"], "meter_id": ["m"], "total_usage": [4], "Region": ["eu"]})
    pq.write_table(table, home.folder / "usage.parquet")
    mapping = ["--column", "tenant_id=t", "--column", "region=Region"]
    run = home.run_here("upload", "usage.parquet", *mapping, "--schema", "ours.json", "--report", "page.html")
    assert run.exit_code == 0, run.said
    assert home.run_here("report", "usage.results.parquet", *mapping, "-o", "alone.html").exit_code == 0
    for name in ("page.html", "alone.html"):
        assert "All 1 rows were accepted, with 4 units." in (home.folder / name).read_text(encoding="utf-8")
