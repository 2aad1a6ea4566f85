"""What an unattended run writes to its log: one line a change of state, as text or JSON, and never a row's data."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sqlite3
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import contract
from tests.billing_server import BillingServer
from tests.command import Ended, Home, ended, usage_rows, write_csv
from tests.held_back import HeldBack

JSON = ("--log-format", "json")
ROUTINE = ["file_begun", "file_read", "posting_begun", "results_written", "file_ended", "command_ended"]


def log_of(run: Ended) -> list[dict[str, Any]]:
    """Read a JSON log; every line of standard error must be an object of it, and its time in UTC."""
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    assert all(
        datetime.fromisoformat(line["time"].replace("Z", "+00:00")).utcoffset() == timedelta(0) for line in lines
    )
    assert all({"level", "event", "message"} <= line.keys() for line in lines)
    return lines


def events(run: Ended) -> list[str]:
    """List the events of a JSON log."""
    return [line["event"] for line in log_of(run)]


def test_each_change_of_state_is_a_json_object(home: Home) -> None:
    """File, run, counts and exit code stand under names of their own; standard output is left empty."""
    write_csv(home.folder / "usage.csv", [*usage_rows(4), ("acme", "d", "m", "x")])
    run = home.run_here("upload", "usage.csv", *JSON)
    assert (run.exit_code, run.stdout) == (1, "")
    assert events(run) == ROUTINE
    _, read, begun, written, file_ended, end = log_of(run)
    assert read["counts"] == {"rows": 5}
    assert re.fullmatch("r[0-9a-f]+", begun["run"])
    assert (written["results"], written["failed_file"]) == ("usage.results.csv", "usage.failed.csv")
    assert file_ended["file"] == "usage.csv"
    assert file_ended["run"] == begun["run"]
    assert file_ended["level"] == "WARNING"
    assert file_ended["counts"] == {
        "rows": 5,
        "accepted": 4,
        "failed": 1,
        "failed_invalid": 1,
        "units": 406,
        "units_accepted": 406,
        "posts": 4,
        "look_ups": 3,
    }
    assert (end["level"], end["exit_code"]) == ("WARNING", 1)
    assert end["next"][-1].startswith("uploader replay usage.failed.csv")


def test_text_lines_begin_with_time_and_level(home: Home) -> None:
    """Without a terminal it is the default, whatever the environment says of colours; the summary is on stdout."""
    write_csv(home.folder / "usage.csv", usage_rows(3))
    run = home.run("upload", "usage.csv", variables={"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"})
    assert run.exit_code == 0, run.said
    assert "\x1b" not in run.said
    assert run.stdout.startswith("usage.csv: 3 of 3 rows accepted")
    lines = run.stderr.splitlines()
    assert len(lines) == len(ROUTINE)
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO ", line) for line in lines), lines
    assert "usage.csv: 3 rows read" in lines[1]


def test_the_form_can_come_from_the_environment(home: Home) -> None:
    """UPLOADER_LOG_FORMAT is what a container sets; a replay heeds it too."""
    write_csv(home.folder / "usage.csv", [*usage_rows(2), ("acme", "d", "m", "x")])
    variables = {"UPLOADER_LOG_FORMAT": "json"}
    assert events(home.run_here("upload", "usage.csv", variables=variables)) == ROUTINE
    replay = home.run_here("replay", "usage.failed.csv", variables=variables)
    assert events(replay) == ROUTINE
    assert log_of(replay)[-1]["exit_code"] == 1


def test_a_continued_run_says_so(home: Home) -> None:
    """With what was known of its rows when it began again."""
    write_csv(home.folder / "usage.csv", usage_rows(3))
    first = home.run_here("upload", "usage.csv", *JSON)
    again = home.run_here("upload", "usage.csv", *JSON)
    continued = next(line for line in log_of(again) if line["event"] == "run_continued")
    assert continued["counts"] == {"rows": 3, "accepted": 3, "in_doubt": 0, "left": 0}
    assert continued["run"] == log_of(first)[-2]["run"]


def test_a_trip_its_probe_and_going_on_are_told(home: Home, billing_server: BillingServer) -> None:
    """Five lost answers pause posting, a look-up probes, one accepted post opens it again."""
    lost = [Answer(then=Then.RST) for _ in range(5)]
    billing_server.respond = lambda got: lost.pop() if lost and got.method == "POST" else contract(got)
    write_csv(home.folder / "usage.csv", usage_rows(12))
    run = home.run_here("upload", "usage.csv", "--concurrency", "1", *JSON)
    told = events(run)
    assert told[3:-3] == ["tripped", "probing", "probed", "resumed"], told
    tripped = log_of(run)[3]
    assert tripped["level"] == "WARNING"
    assert tripped["file"] == "usage.csv"
    assert 0 < tripped["seconds"] <= 1


def test_a_backend_that_asks_to_wait_is_one_pause(home: Home, billing_server: BillingServer) -> None:
    """However many calls were in flight, one line says that posting pauses and one that it goes on."""
    waits = [reply(429, headers={"Retry-After": "1"}) for _ in range(3)]
    billing_server.respond = lambda got: waits.pop() if waits and got.method == "POST" else contract(got)
    write_csv(home.folder / "usage.csv", usage_rows(12))
    run = home.run_here("upload", "usage.csv", "--concurrency", "3", *JSON)
    assert run.exit_code == 0
    told = events(run)
    assert told[3] == "paused"
    assert "resumed" in told
    assert set(told) == {*ROUTINE, "paused", "resumed"}


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_stop_is_told_when_it_happens_and_why(home: Home, billing_server: BillingServer, form: str) -> None:
    """A backend that refuses the key ends the run: a warning at once, and the file's and the command's last words."""
    billing_server.respond = lambda got: reply(401) if got.method == "POST" else contract(got)
    write_csv(home.folder / "usage.csv", usage_rows(3))
    run = home.run_here("upload", "usage.csv", "--log-format", form)
    assert run.exit_code == 3
    if form == "text":
        assert "WARNING usage.csv: no further call starts: the backend asks for a valid key (HTTP 401)" in run.stderr
        assert "ERROR ended with exit code 3" in run.stderr
        return
    stopping, _, file_ended, end = log_of(run)[3:]
    assert (stopping["event"], stopping["level"]) == ("stopping", "WARNING")
    assert "HTTP 401" in stopping["why"]
    assert file_ended["why"] == stopping["why"]
    assert (end["level"], end["exit_code"]) == ("ERROR", 3)


def test_a_failure_budget_that_is_spent_is_told(home: Home, billing_server: BillingServer) -> None:
    """Invalid and rejected rows count together; the log has the stop before the results."""
    first = reply(422)
    billing_server.respond = lambda got: first if got.headers.get("x-device-id") == "dev-0" else contract(got)
    bad = [("acme", "d", "m", "x")] * 2
    write_csv(home.folder / "usage.csv", [*usage_rows(8, tenants=["acme"]), *bad])
    run = home.run_here("upload", "usage.csv", "--max-failed", "2", "--concurrency", "1", *JSON)
    told = events(run)
    assert told.index("stopping") < told.index("results_written")


def test_a_signal_is_told_while_calls_are_in_flight(home: Home, billing_server: BillingServer) -> None:
    """Whoever stops the run sees that it was heard, before the answers come."""
    backend = HeldBack(answered=1)
    billing_server.respond = backend
    write_csv(home.folder / "usage.csv", usage_rows(6, tenants=["acme"]))
    with home.started("upload", "usage.csv", "--concurrency", "2", *JSON) as process:
        billing_server.wait_for(posts=3)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        before = ""
        while "stopping" not in before:
            line = process.stderr.readline()
            assert line, before
            before += line
        backend.release()
        after = ended(process)
    run = Ended(after.exit_code, after.stdout, before + after.stderr)
    assert log_of(run)[-1]["exit_code"] == run.exit_code == 143
    assert events(run).count("stopping") == 1


def test_a_file_that_cannot_be_taken_is_an_error_line(home: Home) -> None:
    """The others go on; its line names it once."""
    write_csv(home.folder / "good.csv", usage_rows(2))
    run = home.run_here("upload", "gone.csv", "good.csv", *JSON)
    assert run.exit_code == 3
    failed = next(line for line in log_of(run) if line["level"] == "ERROR")
    assert (failed["event"], failed["file"]) == ("file_ended", "gone.csv")
    assert "cannot be opened" in failed["message"]
    assert "gone.csv" not in failed["message"]


@pytest.mark.parametrize("arguments", [["--timeout", "-1"], ["--max-failed", "many"]], ids=["settings", "budget"])
def test_a_wrong_setting_is_an_error_line(home: Home, arguments: list[str]) -> None:
    """It is found before any file is opened, and said in the form that was asked for all the same."""
    write_csv(home.folder / "usage.csv", usage_rows(2))
    run = home.run_here("upload", "usage.csv", *JSON, *arguments)
    (line,) = log_of(run)
    assert (line["level"], line["event"], line["exit_code"]) == ("ERROR", "command_ended", 2)
    assert arguments[0] in line["message"]


def test_a_fault_of_ours_is_one_line_with_its_traceback(home: Home) -> None:
    """A log that is read by a program has no line that is not an object, not even then."""
    write_csv(home.folder / "usage.csv", usage_rows(2))
    assert home.run_here("upload", "usage.csv").exit_code == 0
    (ledger,) = home.ledger.glob("*.sqlite")
    with contextlib.closing(sqlite3.connect(ledger)) as connection, connection:
        connection.execute("insert into outcome values (1, 'no such reason', '', 201, '', 1, 1, 'c')")
    run = home.run_here("upload", "usage.csv", *JSON)
    end = log_of(run)[-1]
    assert (run.exit_code, end["level"], end["exit_code"]) == (4, "ERROR", 4)
    assert "please report it" in end["message"]
    assert "Traceback" in end["traceback"]


def test_no_row_is_shown(home: Home, billing_server: BillingServer) -> None:
    """Whatever way a row fails, its cells and the backend's answer about it stay out of the log."""
    marked = "only-in-a-row"
    answers = {"dev-1": reply(422, {"error": marked}), "dev-2": Answer(then=Then.RST), "dev-3": reply(500, {marked: 1})}
    billing_server.respond = lambda got: answers.get(got.headers.get("x-device-id", ""), contract(got))
    rows = usage_rows(6, tenants=[f"t-{marked}"])
    write_csv(home.folder / "usage.csv", [*rows, (marked, marked, marked, marked), (marked, marked)])
    for form in ("text", "json"):
        run = home.run_here("upload", "usage.csv", "--log-format", form)
        assert run.exit_code == 1
        assert marked not in run.said
