"""The command line: help, settings from options and variables, the key, what is shown, and what is imported for it."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import click
import pytest
import trustme

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import BilledRow, contract
from tests.billing_server import BillingServer
from tests.command import COMMAND, EVENT_COLUMNS, Home, cells, read_rows, usage_rows, write_csv
from tests.held_back import HeldBack
from uploader.cli import cli

COMMANDS = ["upload", "replay", "export", "validate", "report", "runs", "config", "doctor", "sandbox"]
HEAVY = {
    "pyarrow",
    "pandas",
    "numpy",
    "requests",
    "rich",
    "jsonschema_rs",
    "sqlite3",
    "platformdirs",
    "jinja2",
    "pygal",
    "openpyxl",
    "xlsxwriter",
}
CAN_BILL_AGAIN = {"--include-in-doubt", "--accept-changes", "--again", "--allow-overlap", "--without-ledger"}
KEY = "k3y-that-nobody-may-see"


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_of_every_command_shows_an_example(home: Home, command: str) -> None:
    """An example is a line that can be typed as it stands."""
    run = home.run_here(*command.split(), "--help")
    assert run.exit_code == 0
    assert re.search(rf"^  Examples?:\n    uploader {command or 'upload'}\b", run.stdout, re.MULTILINE), run.stdout


def test_no_command_is_left_out_of_these_tests() -> None:
    """The commands are those of the design, as far as they are built."""
    assert isinstance(cli, click.Group)
    assert sorted(cli.commands) == sorted(COMMANDS)


def test_the_version_is_the_packages(home: Home) -> None:
    """It is the one that pip shows."""
    run = home.run_here("--version")
    assert (run.exit_code, run.stdout.strip()) == (0, f"uploader, version {version('meter-uploader')}")


@pytest.mark.parametrize("arguments", ["--help", "upload --help", "--version"])
def test_help_imports_nothing_heavy(home: Home, arguments: str) -> None:
    """Neither Arrow nor pandas nor any other of the run's libraries is imported to show help."""
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", COMMAND, *arguments.split()],
        env=home.environment(),
        cwd=home.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in imported.stderr.splitlines()}
    assert {"click", "uploader"} <= names
    assert not names & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [["upload"], ["nonsense"], ["upload", "usage.csv", "--nonsense"], ["upload", "usage.csv", "--timeout", "soon"]],
    ids=" ".join,
)
def test_a_command_line_that_makes_no_sense_is_exit_code_2(
    home: Home, billing_server: BillingServer, arguments: list[str]
) -> None:
    """Usage errors are refusals: nothing was posted."""
    write_csv(home.folder / "usage.csv", usage_rows(1))
    run = home.run_here(*arguments)
    assert run.exit_code == 2
    assert "Usage: uploader" in run.stderr
    assert not billing_server.received


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["upload", "replay", "validate"])
def test_every_setting_can_come_from_the_environment_but_what_can_bill_again(command: str) -> None:
    """--base-url is UPLOADER_BASE_URL, and so on; a variable that is forgotten must never post a row twice."""
    assert isinstance(cli, click.Group)
    options = [option for option in cli.commands[command].params if isinstance(option, click.Option)]
    variable_by_option = {option.opts[0]: option.envvar for option in options}
    assert variable_by_option == {
        name: None
        if name in CAN_BILL_AGAIN | {"--sandbox", "--dry-run"}
        else "UPLOADER_" + name.removeprefix("--").replace("-", "_").upper()
        for name in variable_by_option
    }


def test_settings_of_the_environment_are_heeded(home: Home, billing_server: BillingServer) -> None:
    """Schema, delimiter, results folder, ledger, concurrency, retries, safe statuses and header, without one option."""
    posts = [reply(502), Answer(then=Then.RST)]
    billing_server.respond = lambda got: posts.pop(0) if posts and got.method == "POST" else contract(got)
    log = write_csv(home.folder / "usage.csv", [*usage_rows(2, tenants=["acme"]), ("acme", "d", "other", 1)])
    log.write_text(log.read_text().replace(",", ";"))
    (home.folder / "ours.json").write_text('{"properties": {"meter_id": {"enum": ["api.calls"]}}}')
    variables = {
        "UPLOADER_SCHEMA": "ours.json",
        "UPLOADER_DELIMITER": ";",
        "UPLOADER_RESULTS_DIR": "out",
        "UPLOADER_LEDGER": "elsewhere",
        "UPLOADER_PERIOD": "2026-11",
        "UPLOADER_CONCURRENCY": "1",
        "UPLOADER_RETRIES": "1",
        "UPLOADER_TIMEOUT": "5",
        "UPLOADER_PATIENCE": "5",
        "UPLOADER_SAFE_STATUS": "502",
        "UPLOADER_IDEMPOTENCY_HEADER": "Idempotency-Key",
    }
    run = home.run_here("upload", "usage.csv", variables=variables)
    assert run.exit_code == 1, run.said
    text = (home.folder / "out" / "usage.results.csv").read_text()
    assert [line.split(";")[4:7] for line in text.splitlines()[1:]] == [
        ["1", "accepted", ""],
        ["2", "accepted", ""],
        ["3", "failed", "invalid"],
    ]
    assert len(list((home.folder / "elsewhere").glob("*.sqlite"))) == 1
    assert not home.ledger.exists()
    assert len(billing_server.posts) == 4
    assert all("idempotency-key" in post.headers for post in billing_server.posts)


def test_an_option_goes_before_its_variable(home: Home, billing_server: BillingServer) -> None:
    """What is typed now counts, not what was exported once."""
    write_csv(home.folder / "usage.csv", usage_rows(1))
    run = home.run_here(
        "upload",
        "usage.csv",
        "--base-url",
        billing_server.base_url,
        variables={"UPLOADER_BASE_URL": "http://127.0.0.1:1/x"},
    )
    assert run.exit_code == 0, run.said
    assert len(billing_server.posts) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the folder is another")
def test_the_ledger_is_in_the_users_state_folder(home: Home) -> None:
    """Without --ledger it is ~/.local/state/uploader/ledger, readable by its owner alone."""
    write_csv(home.folder / "usage.csv", usage_rows(1))
    assert home.run_here("upload", "usage.csv", variables={"UPLOADER_LEDGER": ""}).exit_code == 0
    folder = home.folder / ".local" / "state" / "uploader" / "ledger"
    assert len(list(folder.glob("*.sqlite"))) == 1
    assert folder.stat().st_mode & 0o077 == 0


# --- the key ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["variable", "file"])
def test_the_key_reaches_the_backend_and_no_one_else(home: Home, billing_server: BillingServer, source: str) -> None:
    """It is sent with every call, and stands in no output, results or ledger, when the backend refuses it neither."""
    (home.folder / "key").write_text(f"{KEY}\n")
    variables = {"UPLOADER_API_KEY": KEY} if source == "variable" else {"UPLOADER_API_KEY_FILE": "key"}
    posts = [reply(401, {"error": "key refused"})]
    billing_server.respond = lambda got: posts.pop() if posts and got.method == "POST" else contract(got)
    rows = usage_rows(4)
    write_csv(home.folder / "usage.csv", rows)
    said = ""
    for exit_code in (3, 0):
        run = home.run_here("upload", "usage.csv", "--concurrency", "1", variables=variables)
        assert run.exit_code == exit_code, run.said
        said += run.said
    assert {request.headers["authorization"] for request in billing_server.received} == {f"Bearer {KEY}"}
    assert {request.headers["x-tenant-id"] for request in billing_server.look_ups} == {row.tenant_id for row in rows}
    assert KEY not in said
    written = [path for path in home.folder.rglob("*") if path.is_file() and path.name != "key"]
    assert len(written) >= 4
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "ключ"], ids=ascii)
def test_a_key_that_cannot_be_a_header_is_refused_unseen(home: Home, billing_server: BillingServer, key: str) -> None:
    """An empty file or a key with a line break stops the command; the key itself is not shown."""
    (home.folder / "key").write_text(key, encoding="utf-8")
    write_csv(home.folder / "usage.csv", usage_rows(1))
    run = home.run_here("upload", "usage.csv", variables={"UPLOADER_API_KEY_FILE": "key"})
    assert run.exit_code == 2
    assert not billing_server.received
    assert "the API key" in run.stderr
    assert not key or key not in run.said


def test_a_key_travels_over_tls(tmp_path: Path, authority: trustme.CA, authority_file: Path) -> None:
    """Over https a key may go to any host."""
    write_csv(tmp_path / "usage.csv", usage_rows(2))
    with BillingServer(authority=authority) as server:
        home = Home(folder=tmp_path, base_url=server.base_url)
        variables = {"UPLOADER_API_KEY": KEY, "REQUESTS_CA_BUNDLE": str(authority_file)}
        run = home.run_here("upload", "usage.csv", variables=variables)
        assert run.exit_code == 0, run.said
        assert {request.headers["authorization"] for request in server.received} == {f"Bearer {KEY}"}


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_the_summary_counts_rows_and_units_and_says_what_to_run_next(home: Home, billing_server: BillingServer) -> None:
    """By reason, accepted first; the replay that it names finds the same ledger and backend."""
    answers = {"dev-1": reply(422), "dev-2": Answer(then=Then.RST)}
    billing_server.respond = lambda got: answers.get(got.headers.get("x-device-id", ""), contract(got))
    write_csv(home.folder / "usage.csv", [*usage_rows(4), ("acme", "d", "api.calls", "x")])
    run = home.run_here("upload", "usage.csv", "--retries", "0")
    lines = [re.sub(" +", " ", line.strip()) for line in run.stdout.splitlines()]
    assert lines[0].startswith("usage.csv: 2 of 5 rows accepted, 3 failed (4 posts and 3 look-ups in ")
    assert lines[1:] == [
        "accepted 2 rows 203 units",
        "failed, invalid (fix) 1 rows 0 units",
        "failed, rejected (fix) 1 rows 101 units",
        "failed, in_doubt (confirm) 1 rows 102 units",
        "results: usage.results.csv",
        "failed: usage.failed.csv",
        "next: ask the backend's owners about the rows in doubt; write resend or recorded into their upload_replay",
        "next: correct the rows marked fix (safest: uploader export usage.failed.csv), or set the backend up for them",
        f"next: uploader replay usage.failed.csv --base-url {billing_server.base_url} --ledger {home.ledger}",
    ]


@pytest.mark.parametrize(("delimiter", "named"), [(";", " --delimiter ';'"), ("\t", "")], ids=["semicolon", "tab"])
def test_the_replay_that_the_summary_names_reads_the_failed_file(
    home: Home, billing_server: BillingServer, delimiter: str, named: str
) -> None:
    """The failed file of a log with semicolons has them too; that of one with tabs has commas."""
    columns = "tenant_id device_id meter_id total_usage".replace(" ", delimiter)
    (home.folder / "usage.csv").write_text(f"{columns}\n{delimiter.join(['acme', 'd', 'm', 'x'])}\n")
    run = home.run_here("upload", "usage.csv", "--delimiter", delimiter)
    command = run.stdout.splitlines()[-1].partition("next:    uploader ")[2]
    assert command.endswith(named)
    assert ("--delimiter" in command) == bool(named)
    replay = home.run_here(*shlex.split(command))
    assert replay.exit_code == 1, replay.said
    assert "0 of 1 rows accepted" in replay.stdout


def test_a_terminal_shows_the_progress(home: Home, billing_server: BillingServer) -> None:
    """A bar with the file's name and the counts; the summary stays on standard output alone."""
    backend = HeldBack(answered=3)
    billing_server.respond = backend
    write_csv(home.folder / "usage.csv", usage_rows(6))
    ours, theirs = os.openpty()
    drawn = b""
    with subprocess.Popen(
        home.command("upload", "usage.csv", "--concurrency", "1"),
        cwd=home.folder,
        env=home.environment({"TERM": "xterm", "COLUMNS": "150"}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as process:
        os.close(theirs)
        billing_server.wait_for(posts=4)
        while b"3 accepted" not in drawn:
            drawn += os.read(ours, 10_000)
        backend.release()
        stdout, _ = process.communicate(timeout=60)
        os.close(ours)
    assert process.returncode == 0
    assert b"usage.csv" in drawn
    assert b"rows/s" in drawn
    assert "6 of 6 rows accepted" in stdout


def test_what_a_server_says_cannot_play_tricks_on_the_terminal(home: Home, billing_server: BillingServer) -> None:
    """Control characters of an answer reach neither the output nor our columns, and no formula starts in them."""
    evil = "=cmd()\x1b]0;owned\x07\r\nx"
    billing_server.respond = lambda got: reply(200, [{"id": "=1+1"}]) if got.method == "GET" else reply(201, {evil: 1})
    write_csv(home.folder / "usage.csv", usage_rows(1))
    run = home.run_here("upload", "usage.csv")
    assert run.exit_code == 0, run.said
    (row,) = read_rows(home.folder / "usage.results.csv")
    assert row["upload_customer_id"] == "'=1+1"
    assert "\x1b" not in run.said + "".join(row.values())


# --- the other commands -----------------------------------------------------------------------------------------------


def test_validate_gives_an_uploads_verdicts_and_posts_nothing(home: Home, billing_server: BillingServer) -> None:
    """Each failing row with its number and all its problems; exit code 1; no ledger and no results."""
    write_csv(home.folder / "usage.csv", [*usage_rows(2), ("acme", "", "m", "x"), ("acme", "d", "m")])
    write_csv(home.folder / "good.csv", usage_rows(3))
    run = home.run_here("validate", "good.csv", "usage.csv")
    assert run.exit_code == 1, run.said
    assert run.stdout.splitlines() == [
        "good.csv: 3 of 3 rows would be posted, 303 units",
        "usage.csv: row 3: invalid: device_id: is empty; total_usage: 'x' is not an integer",
        "usage.csv: row 4: malformed: line 5: 3 cells where the header has 4",
        "usage.csv: 2 of 4 rows would be posted, 201 units",
    ]
    assert not billing_server.received
    assert {path.name for path in home.folder.iterdir()} == {"usage.csv", "good.csv"}


def test_validate_takes_a_users_schema(home: Home) -> None:
    """As an upload with the same --schema would."""
    write_csv(home.folder / "usage.csv", usage_rows(1))
    (home.folder / "ours.json").write_text('{"properties": {"total_usage": {"maximum": 99}}}')
    run = home.run_here("validate", "usage.csv", "--schema", "ours.json")
    assert run.exit_code == 1
    assert "row 1: invalid: total_usage: 100 is more than 99" in run.stdout


@pytest.mark.parametrize("order", [("good.csv", "bad.csv"), ("bad.csv", "good.csv")])
def test_validate_goes_on_after_a_file_that_it_cannot_take(home: Home, order: tuple[str, str]) -> None:
    """Exit code 3, as an upload of both has it, whichever comes first, and the good one's verdict all the same."""
    write_csv(home.folder / "good.csv", [*usage_rows(1), ("acme", "d", "m", "x")])
    write_csv(home.folder / "bad.csv", [], columns=["x"])
    run = home.run_here("validate", *order)
    assert run.exit_code == 3
    assert "good.csv: 1 of 2 rows would be posted" in run.stdout
    assert run.stderr.startswith("bad.csv: not done: no column named 'tenant_id'")


def test_a_sandbox_upload_needs_no_backend_and_leaves_no_ledger(home: Home, billing_server: BillingServer) -> None:
    """--sandbox posts to a backend of its own, and says what that recorded and where the results are."""
    rows = usage_rows(30)
    write_csv(home.folder / "usage.csv", rows)
    run = home.run("upload", "usage.csv", "--sandbox", variables={"TMPDIR": str(home.folder)})
    assert run.exit_code == 0, run.said
    units = sum(row.total_usage for row in rows)
    assert f"recorded 30 events with {units:,} units, 0 of them twice, and 3 look-ups" in run.stdout
    (results,) = home.folder.rglob("usage.results.csv")
    assert str(results) in run.stdout
    assert cells(read_rows(results), "upload_status") == ["accepted"] * 30
    assert not billing_server.received
    assert not list(home.folder.rglob("*.sqlite"))


def test_a_sandbox_upload_writes_nothing_where_results_of_uploads_are(home: Home) -> None:
    """A folder of the settings file or a variable is set aside; one of the command line is refused."""
    write_csv(home.folder / "usage.csv", usage_rows(3))
    (home.folder / "uploader.toml").write_text('results_dir = "out"\nsummary = "day.json"\nreport = "day.html"\n')
    variables = {"TMPDIR": str(home.folder), "UPLOADER_RESULTS": "mine.csv"}
    run = home.run("upload", "usage.csv", "--sandbox", variables=variables)
    assert run.exit_code == 0, run.said
    assert not (home.folder / "out").exists()
    assert not [name for name in ("mine.csv", "day.json", "day.html") if (home.folder / name).exists()]
    for option in ("--results-dir", "--results", "--ledger", "--base-url"):
        refused = home.run_here("upload", "usage.csv", "--sandbox", option, "out.csv")
        assert refused.exit_code == 2
        assert f"and {option} names another" in refused.said


def test_a_tab_can_be_typed(home: Home, billing_server: BillingServer) -> None:
    """As the message about a log with tabs says; as an escape, too."""
    rows = usage_rows(2)
    lines = ["\t".join(EVENT_COLUMNS), *("\t".join(map(str, row)) for row in rows)]
    (home.folder / "usage.csv").write_text("".join(f"{line}\n" for line in lines))
    assert "--delimiter tab" in home.run_here("upload", "usage.csv").said
    for spelled in ("tab", r"\t"):
        assert home.run_here("upload", "usage.csv", "--delimiter", spelled).exit_code == 0
    assert billing_server.billed() == Counter(rows)


def test_a_report_needs_no_delimiter(home: Home, billing_server: BillingServer) -> None:
    """Whatever parts the cells of a log, its results are understood; so is its failed file by an export."""
    billing_server.respond = lambda received: contract(received) if received.method == "GET" else reply(422)
    rows = ["#".join(EVENT_COLUMNS), "acme#d#api#7"]
    (home.folder / "usage.csv").write_text("".join(f"{row}\n" for row in rows))
    run = home.run_here("upload", "usage.csv", "--delimiter", "#", "--report", "page.html")
    assert run.exit_code == 1, run.said
    assert home.run_here("report", "usage.results.csv", "-o", "again.html").exit_code == 0
    assert home.run_here("export", "usage.failed.csv").exit_code == 0
    assert home.run_here("replay", "usage.failed.csv").exit_code == 1


def test_a_schema_of_ones_own_decides_what_is_posted(home: Home, billing_server: BillingServer) -> None:
    """Meter ids as an enum and an extra required column: rows that break it are not posted."""
    (home.folder / "ours.json").write_text(
        '{"required": ["region"], "properties": {"meter_id": {"enum": ["api.calls"]}, "region": {"minLength": 2}}}'
    )
    lines = [("acme", "d1", "api.calls", 1, "eu"), ("acme", "d2", "other", 2, "eu"), ("acme", "d3", "api.calls", 3, "")]
    write_csv(home.folder / "usage.csv", lines, columns=("tenant_id", "device_id", "meter_id", "total_usage", "region"))
    run = home.run_here("upload", "usage.csv", "--schema", "ours.json")
    assert run.exit_code == 1, run.said
    assert billing_server.billed() == Counter([BilledRow("acme", "d1", "api.calls", 1)])
    assert "--schema ours.json" in run.stdout


def edit_ledger(home: Home, statement: str) -> None:
    """Change the one run's ledger behind the program's back."""
    (path,) = home.ledger.glob("*.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)


def test_totals_that_do_not_balance_are_exit_code_4(home: Home, billing_server: BillingServer) -> None:
    """A ledger that has more rows as accepted than the log has: someone must look before anything is billed from it."""
    write_csv(home.folder / "usage.csv", usage_rows(2))
    assert home.run_here("upload", "usage.csv").exit_code == 0
    edit_ledger(home, "insert into outcome values (999, null, '', 201, '', 1, 1, 'c')")
    run = home.run_here("upload", "usage.csv")
    assert run.exit_code == 4, run.said
    assert "3 rows were accepted and 2 are written as accepted" in run.stdout
    assert "bill nothing" in run.stdout
    assert len(billing_server.posts) == 2


def test_a_fault_that_no_one_foresaw_is_exit_code_4_with_a_traceback(home: Home, billing_server: BillingServer) -> None:
    """It is never taken for failed rows or a refusal, and nothing more is posted."""
    write_csv(home.folder / "usage.csv", usage_rows(2))
    assert home.run_here("upload", "usage.csv").exit_code == 0
    edit_ledger(home, "insert into outcome values (1, 'no such reason', '', 201, '', 1, 1, 'c')")
    run = home.run_here("upload", "usage.csv")
    assert run.exit_code == 4, run.said
    assert "Traceback" in run.stderr
    assert "please report it; the ledger is safe" in run.stderr.splitlines()[-1]
    assert len(billing_server.posts) == 2
