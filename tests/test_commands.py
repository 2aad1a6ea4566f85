"""Upload, replay and results from Python: the same as on the command line, returned and never printed."""

from __future__ import annotations

import inspect
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import Received, contract
from tests.billing_server import BillingServer
from tests.command import Home, usage_rows, write_csv
from uploader import FileSummary, Summary, read_results, replay, upload
from uploader.cli import cli
from uploader.model.errors import InputError, SchemaError, SettingsError
from uploader.model.model import Reason
from uploader.results.books import Account, Entry

ROOT = Path(__file__).parents[1]
_OF_THE_COMMAND_LINE = ("config", "destination", "dry_run")


def lossy(received: Received) -> Answer:
    """Leave posts for a meter named lost without an answer, and refuse those for one named odd."""
    if received.method == "POST" and received.event["meter_id"] == "lost":
        return Answer(then=Then.RST)
    odd = received.method == "POST" and received.event["meter_id"] == "odd"
    return reply(422) if odd else contract(received)


@pytest.mark.usefixtures("plain_environment")
def test_an_upload_and_a_replay_return_what_came_of_them_and_print_nothing(
    home: Home, billing_server: BillingServer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Totals, files and exit code are in the summary; what would have been said is logged."""
    caplog.set_level(logging.INFO)
    billing_server.respond = lossy
    log = write_csv(home.folder / "usage.csv", [("00123", "d", "api", 5), ("t", "d", "odd", 7), ("t", "d", "lost", 9)])
    summary = upload(log, base_url=home.base_url, ledger=home.ledger, period="p")
    assert isinstance(summary, Summary)
    assert (summary.exit_code, summary.command, summary.period) == (1, "upload", "p")
    [file] = summary.files
    assert isinstance(file, FileSummary)
    assert file.total == Account(Entry(3, 21), Entry(1, 5), Entry(2, 16), Entry(1, 9))
    assert file.failed_by_reason == {Reason.REJECTED: Entry(1, 7), Reason.IN_DOUBT: Entry(1, 9)}
    assert file.by_tenant_and_meter["00123", "api"].accepted == Entry(1, 5)
    assert file.post_latency is not None
    assert json.loads(summary.to_json()) == summary.to_dict()
    assert file.failed is not None
    billing_server.respond = contract
    again = replay(str(file.failed), base_url=home.base_url, ledger=str(home.ledger), include_in_doubt=True)
    assert (again.exit_code, again.command, len(again.files)) == (0, "replay", 1)
    assert again.files[0].run == file.run
    assert capfd.readouterr() == ("", "")
    assert any("usage.csv" in record.getMessage() for record in caplog.records)


@pytest.mark.usefixtures("plain_environment")
def test_several_files_and_one_that_is_not_there(home: Home) -> None:
    """What could not be taken is in the summary, beside what could."""
    log = write_csv(home.folder / "usage.csv", usage_rows(2))
    summary = upload([home.folder / "gone.csv", log], base_url=home.base_url, ledger=home.ledger)
    gone, file = summary.files
    assert (summary.exit_code, gone.state, gone.total, file.state) == (3, "not_done", None, "finished")
    assert "gone.csv" in gone.error


@pytest.mark.usefixtures("plain_environment")
def test_what_forbids_the_whole_is_raised(home: Home, billing_server: BillingServer) -> None:
    """A wrong option or schema is an exception, before anything is asked of the backend."""
    log = write_csv(home.folder / "usage.csv", usage_rows(2))
    with pytest.raises(SettingsError, match="results-dir"):
        upload([log, home.folder / "other.csv"], base_url=home.base_url, ledger=home.ledger, results="r.csv")
    with pytest.raises(SettingsError):
        upload(log, base_url="ftp://x", ledger=home.ledger)
    with pytest.raises(SettingsError):
        upload(log, base_url=home.base_url, ledger=home.ledger, max_failed="some")
    with pytest.raises(SettingsError, match="no usage log"):
        upload([], base_url=home.base_url, ledger=home.ledger)
    wrong: Any
    for wrong in (
        {"timeout": "5"},
        {"safe_status": "500,502"},
        {"safe_status": 500},
        {"retries": None},
        {"concurrency": "some"},
        {"period": None},
    ):
        with pytest.raises(SettingsError):
            upload(log, base_url=home.base_url, ledger=home.ledger, **wrong)
    with pytest.raises(SchemaError):
        replay(log, base_url=home.base_url, ledger=home.ledger, schema="nowhere.json")
    assert billing_server.received == []


@pytest.mark.usefixtures("plain_environment")
def test_should_stop_ends_an_upload_in_good_order(home: Home, billing_server: BillingServer) -> None:
    """Once it says so no further row is posted, none is in doubt, and the same call continues."""
    log = write_csv(home.folder / "usage.csv", usage_rows(20, tenants=["acme"]))
    summary = upload(
        log,
        base_url=home.base_url,
        ledger=home.ledger,
        concurrency=1,
        should_stop=lambda: len(billing_server.posts) >= 5,
    )
    [file] = summary.files
    assert (summary.exit_code, file.state) == (3, "stopped")
    assert set(file.failed_by_reason) == {Reason.NOT_SENT}
    assert upload(log, base_url=home.base_url, ledger=home.ledger).exit_code == 0
    assert set(billing_server.billed().values()) == {1}


@pytest.mark.parametrize(("name", "function"), [("upload", upload), ("replay", replay)], ids=["upload", "replay"])
def test_options_are_those_of_the_command_line(name: str, function: object) -> None:
    """Every option of the command has its keyword, with the same default, but for those that write for a reader."""
    assert callable(function)
    parameters = inspect.signature(function).parameters
    command = cli.commands[name]
    defaults = {
        option.name: option.default
        for option in command.params
        if isinstance(option, click.Option)
        and option.name not in ("summary", "report", "sandbox", "safe_status", "log_format", *_OF_THE_COMMAND_LINE)
    }
    assert set(defaults) <= set(parameters)
    for option, default in defaults.items():
        parameter = parameters[str(option)]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert (parameter.default or None) == (default or None) or repr(default).startswith("Sentinel"), option


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
def test_results_are_a_table_whose_cells_are_as_in_the_file(
    home: Home, billing_server: BillingServer, form: str
) -> None:
    """Text stays text (00123, NA, 1e5); numbers and moments of ours are such; nothing is lost or added."""
    billing_server.respond = lossy
    columns = ["tenant_id", "device_id", "meter_id", "total_usage", "note"]
    rows = [("00123", "d", "api", 5, "NA"), ("t", "d", "odd", 7, "1e5"), ("t", "d", "api", -1, "")]
    log = home.folder / f"usage.{form}"
    if form == "parquet":
        pq.write_table(pa.table(dict(zip(columns, zip(*rows, strict=True), strict=True))), log)
    else:
        write_csv(log, rows, columns=columns)
        log.write_text(log.read_text(encoding="utf-8").replace(",", "\t" if form == "tsv" else ","), encoding="utf-8")
    assert home.run_here("upload", log.name).exit_code == 1
    table = read_results(home.folder / f"usage.results.{form}")
    assert list(table.columns[:5]) == columns
    assert list(table["tenant_id"]) == ["00123", "t", "t"]
    assert list(table["note"]) == ["NA", "1e5", ""]
    assert list(table["total_usage"].astype(str)) == ["5", "7", "-1"]
    assert list(table["upload_row"]) == [1, 2, 3]
    assert str(table["upload_http_status"].dtype) == str(table["upload_attempts"].dtype) == "Int64"
    assert list(table["upload_http_status"].fillna(0)) == [201, 422, 0]
    assert list(table["upload_reason"]) == ["", "rejected", "invalid"]
    assert isinstance(table["upload_at"].dtype, pd.DatetimeTZDtype)
    assert not table["upload_at"].isna().any()
    with pytest.raises(InputError):
        read_results(log)
    if form == "csv":
        assert home.run_here("export", "usage.results.csv", "-o", "usage.xlsx").exit_code == 0
        pd.testing.assert_frame_equal(read_results(home.folder / "usage.xlsx"), table, check_dtype=False)


def test_results_of_a_table_with_an_index_have_it_as_a_column(home: Home, billing_server: BillingServer) -> None:
    """What pandas noted about the log is not applied to them."""
    table = pd.DataFrame(usage_rows(3)).set_index("tenant_id")
    table.to_parquet(home.folder / "usage.parquet")
    assert home.run_here("upload", "usage.parquet").exit_code == 0
    assert set(read_results(home.folder / "usage.results.parquet")["tenant_id"]) == {"acme", "globex", "initech"}


def test_compressed_results_are_read(home: Home, billing_server: BillingServer) -> None:
    """As somebody may have put them away."""
    write_csv(home.folder / "usage.csv", usage_rows(3))
    assert home.run_here("upload", "usage.csv").exit_code == 0
    plain = home.folder / "usage.results.csv"
    (home.folder / "old.csv.zst").write_bytes(pa.compress(plain.read_bytes(), codec="zstd", asbytes=True))
    pd.testing.assert_frame_equal(read_results(home.folder / "old.csv.zst"), read_results(plain), check_dtype=False)


def test_pandas_waits_until_it_is_asked_for() -> None:
    """Importing what the package offers imports no pandas."""
    program = (
        "import sys, uploader\nfor name in uploader.__all__: getattr(uploader, name)\nsys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_the_example_shows_failures_by_reason(home: Home) -> None:
    """It runs as its own words say, on the sample with errors."""
    log = home.folder / "usage_with_errors.csv"
    log.write_bytes((ROOT / "sample_data" / log.name).read_bytes())
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "failures_by_reason.py", log, home.base_url],
        capture_output=True,
        text=True,
        env={**home.environment(), "XDG_STATE_HOME": str(home.folder)},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "rows accepted, exit code 1" in done.stdout
    assert "malformed     fix" in " ".join(done.stdout.split("\n"))
    assert "invalid" in done.stdout


def test_nothing_is_printed_unless_a_program_asks_for_it(home: Home) -> None:
    """Failed rows are a warning in the log, which without a handler goes nowhere."""
    log = write_csv(home.folder / "usage.csv", [("acme", "d", "m", "none")])
    program = f"import uploader; uploader.upload({str(log)!r}, base_url={home.base_url!r}, ledger={str(home.ledger)!r})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=home.folder,
        env=home.environment(None),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (home.folder / "usage.failed.csv").exists()
