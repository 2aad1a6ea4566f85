"""Runs that end early: a set-up that is wrong, a backend that is gone, signals, kill -9, a changed log, a full disk.

Each is followed by the same command, which must bring every row to the backend once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.billing_answers import Answer, reply
from tests.billing_contract import BilledRow, Received, contract, scripted
from tests.billing_server import BillingServer
from tests.command import EVENT_COLUMNS, Home, cells, ended, read_rows, usage_rows, write_csv
from tests.dead_ports import refusing_port
from tests.full_disk import WITH_FILES_OF_64_KIB
from tests.held_back import HeldBack

ONE_AT_A_TIME = ("upload", "usage.csv", "--concurrency", "1")
FIVE_AT_A_TIME = ("upload", "usage.csv", "--concurrency", "5", "--retries", "0")
RIGHT = reply(201, {"id": "evt_1"})
MANY_TENANTS = [f"t{number}" for number in range(40)]


@pytest.fixture(autouse=True)
def no_signal_set_aside() -> Iterator[None]:
    """Have the commands heed every signal, though the tests run in the background, where a shell ignores SIGINT."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    ignored = [number for number, handler in before.items() if handler == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


def reasons(home: Home, name: str = "usage.results.csv") -> list[str]:
    """Read the reasons of a run's rows, in their order; empty for an accepted one."""
    return cells(read_rows(home.folder / name), "upload_reason")


def leftovers(home: Home) -> list[str]:
    """Name the reservations that a run has left behind."""
    return sorted(path.name for path in home.folder.rglob("*.part"))


# --- a wrong set-up ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 407, 301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_an_answer_that_shows_a_wrong_set_up_stops_the_run_at_once(
    home: Home, billing_server: BillingServer, method: str, status: int
) -> None:
    """One such answer to a post or a look-up, and nothing more is asked of the backend, a redirect's target neither."""
    refused = reply(status, {"error": "no"}, {"Location": f"{billing_server.base_url}/events"})
    billing_server.respond = lambda received: refused if received.method == method else contract(received)
    write_csv(home.folder / "usage.csv", usage_rows(4, tenants=["acme"]))
    run = home.run_here(*ONE_AT_A_TIME)
    assert run.exit_code == 3, run.said
    assert [request.method for request in billing_server.received] == (["GET", "POST"] if method == "POST" else ["GET"])
    first = "not_sent" if method == "GET" else "rejected" if status in (401, 407) else "in_doubt"
    assert reasons(home) == [first, "not_sent", "not_sent", "not_sent"]
    assert reasons(home, "usage.failed.csv") == reasons(home)
    assert f"HTTP {status}" in run.stdout
    assert "run the same command again" in run.stdout


@pytest.mark.parametrize(("method", "status"), [("POST", 401), ("GET", 401), ("GET", 302)])
def test_the_same_command_continues_once_the_set_up_is_right(
    home: Home, billing_server: BillingServer, method: str, status: int
) -> None:
    """Rows that were refused or had no turn are posted, once, and the failed file of the stopped run is gone."""
    billing_server.respond = lambda received: reply(status) if received.method == method else contract(received)
    rows = usage_rows(8)
    write_csv(home.folder / "usage.csv", rows)
    assert home.run(*ONE_AT_A_TIME).exit_code == 3
    billing_server.respond = contract
    run = home.run(*ONE_AT_A_TIME)
    assert run.exit_code == 0, run.said
    assert billing_server.billed() == Counter(rows)
    assert reasons(home) == [""] * 8
    assert not (home.folder / "usage.failed.csv").exists()


def test_a_redirected_row_stays_in_doubt_and_is_not_posted_by_the_next_run(
    home: Home, billing_server: BillingServer
) -> None:
    """A 302 may follow a recorded event: the same command continues with the other rows alone."""
    posts = [reply(302)]
    billing_server.respond = lambda got: posts.pop() if posts and got.method == "POST" else contract(got)
    rows = usage_rows(4, tenants=["acme"])
    write_csv(home.folder / "usage.csv", rows)
    assert home.run_here(*ONE_AT_A_TIME).exit_code == 3
    run = home.run_here(*ONE_AT_A_TIME)
    assert run.exit_code == 1, run.said
    assert reasons(home) == ["in_doubt", "", "", ""]
    assert billing_server.billed() == Counter(rows)
    assert len(billing_server.posts) == 4


def test_a_certificate_that_is_not_trusted_stops_the_run(
    tmp_path: Path, authority: trustme.CA, authority_file: Path
) -> None:
    """Nothing is sent; with the right REQUESTS_CA_BUNDLE the same command posts every row once."""
    rows = usage_rows(5)
    write_csv(tmp_path / "usage.csv", rows)
    with BillingServer(authority=authority) as server:
        home = Home(folder=tmp_path, base_url=server.base_url)
        run = home.run_here("upload", "usage.csv")
        assert run.exit_code == 3, run.said
        assert "REQUESTS_CA_BUNDLE" in run.stdout
        assert not server.received
        assert reasons(home) == ["not_sent"] * 5
        run = home.run_here("upload", "usage.csv", variables={"REQUESTS_CA_BUNDLE": str(authority_file)})
        assert run.exit_code == 0, run.said
        assert server.billed() == Counter(rows)


def test_twenty_first_answers_that_are_all_the_same_refusal_stop_the_run(
    home: Home, billing_server: BillingServer
) -> None:
    """It is not the rows: after 20 answers of 422 the other rows keep their turn for a run that is set up rightly."""
    billing_server.respond = lambda received: reply(422) if received.method == "POST" else contract(received)
    rows = usage_rows(25)
    write_csv(home.folder / "usage.csv", rows)
    run = home.run_here(*ONE_AT_A_TIME)
    assert run.exit_code == 3, run.said
    assert "first 20 rows with HTTP 422" in run.stdout
    assert Counter(reasons(home)) == {"rejected": 20, "not_sent": 5}
    assert len(billing_server.posts) == 20
    billing_server.respond = contract
    assert home.run_here(*ONE_AT_A_TIME).exit_code == 0
    assert billing_server.billed() == Counter(rows)


def test_five_first_tenants_that_are_all_unknown_stop_the_run(home: Home, billing_server: BillingServer) -> None:
    """A backend that knows no one is the wrong one: no post, and no sixth look-up."""
    billing_server.respond = lambda received: reply(200, []) if received.method == "GET" else contract(received)
    rows = usage_rows(14, tenants=[f"tenant-{number}" for number in range(7)])
    write_csv(home.folder / "usage.csv", rows)
    run = home.run_here(*ONE_AT_A_TIME)
    assert run.exit_code == 3, run.said
    assert "check the base URL" in run.stdout
    assert Counter(reasons(home)) == {"customer_not_found": 10, "not_sent": 4}
    assert len(billing_server.look_ups) < 10  # five, and those that were in flight
    assert not billing_server.posts
    billing_server.respond = contract
    assert home.run_here(*ONE_AT_A_TIME).exit_code == 0
    assert billing_server.billed() == Counter(rows)


def test_rejected_rows_at_the_top_do_not_keep_a_run_from_its_end(home: Home, billing_server: BillingServer) -> None:
    """They go out first each time; once it has rows accepted, they say nothing of the set-up."""
    rejected = usage_rows(25, tenants=["acme"])
    rows = [BilledRow("acme", f"good-{number}", "api.calls", number) for number in range(30)]
    billing_server.respond = lambda received: (
        reply(422) if received.method == "POST" and received.billed_row in rejected else contract(received)
    )
    write_csv(home.folder / "usage.csv", [*rows[:1], *rejected, *rows[1:]])
    with home.started(*ONE_AT_A_TIME, "--max-rate", "50") as process:
        billing_server.wait_for(posts=27)
        process.terminate()
        assert ended(process).exit_code == 143
    for _ in range(2):
        assert home.run_here(*ONE_AT_A_TIME).exit_code == 1
        assert billing_server.billed() == Counter(rows)
    assert home.run_here("replay", "usage.failed.csv", "--concurrency", "1").exit_code == 1


def test_unknown_tenants_at_the_top_stop_no_night_at_a_backend_that_was_good_before(
    home: Home, billing_server: BillingServer
) -> None:
    """An earlier run had rows accepted there: it is the tenants that are not set up yet. Elsewhere it is a stop."""
    billing_server.respond = lambda received: (
        reply(404) if received.method == "GET" and received.tenant_id.startswith("new-") else contract(received)
    )
    known = usage_rows(6)
    write_csv(home.folder / "monday.csv", known[:3])
    write_csv(home.folder / "tuesday.csv", [*usage_rows(6, tenants=[f"new-{at}" for at in range(6)]), *known[3:]])
    assert home.run_here("upload", "monday.csv").exit_code == 0
    night = home.run_here("upload", "tuesday.csv", "--concurrency", "1")
    assert night.exit_code == 1, night.said
    assert billing_server.billed() == Counter(known)
    elsewhere = home.run_here("upload", "tuesday.csv", "--base-url", f"{home.base_url}/elsewhere")
    assert elsewhere.exit_code == 3, elsewhere.said
    assert "check the base URL" in elsewhere.stdout


def test_a_budget_that_the_last_row_exceeds_stops_nothing(home: Home, billing_server: BillingServer) -> None:
    """Every row had its turn: the run has finished, and the same command says the same."""
    rows = usage_rows(8)
    billing_server.respond = takes_devices({row.device_id for row in rows[:6]})
    write_csv(home.folder / "usage.csv", rows)
    for _ in range(2):
        run = home.run_here(*ONE_AT_A_TIME, "--max-failed", "1")
        assert run.exit_code == 1, run.said
    assert billing_server.billed() == Counter(rows[:6])


def takes_devices(device_ids: set[str]) -> Callable[[Received], Answer]:
    """Answer rightly, but reject the posts of all other devices."""
    return lambda received: (
        contract(received) if received.method == "GET" or received.billed_row.device_id in device_ids else reply(422)
    )


def test_a_port_that_refuses_ends_the_run_when_patience_is_over(tmp_path: Path) -> None:
    """The run does not try for ever; every row is in the results, and may be sent again freely."""
    write_csv(tmp_path / "usage.csv", usage_rows(30, tenants=[f"tenant-{number}" for number in range(10)]))
    with refusing_port() as port:
        home = Home(folder=tmp_path, base_url=f"http://127.0.0.1:{port}/api/v1")
        run = home.run_here("upload", "usage.csv", "--patience", "2")
    assert run.exit_code == 3, run.said
    assert "--patience" in run.stdout
    results = read_rows(tmp_path / "usage.results.csv")
    assert len(results) == 30
    assert set(cells(results, "upload_reason")) <= {"not_sent", "lookup_failed"}
    assert "not_sent" in cells(results, "upload_reason")
    assert set(cells(results, "upload_replay")) == {"yes"}


# --- the end of the process -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answered", [0, 1, 10])
def test_kill_9_costs_a_question_for_each_row_in_flight_and_bills_nothing_twice(
    home: Home, billing_server: BillingServer, answered: int
) -> None:
    """The next run has the rows that were in flight in doubt, and posts those without a turn; all are billed once."""
    backend = HeldBack(answered=answered)
    billing_server.respond = backend
    rows = usage_rows(24)
    write_csv(home.folder / "usage.csv", rows)
    command = ("upload", "usage.csv", "--concurrency", "4")
    with home.started(*command) as process:
        billing_server.wait_for(posts=answered + 4)
        os.kill(process.pid, signal.SIGKILL)
        assert ended(process).exit_code == -signal.SIGKILL
    billing_server.respond = contract
    run = home.run(*command)
    backend.release()
    assert run.exit_code == 1, run.said
    results = read_rows(home.folder / "usage.results.csv")
    assert len(results) == 24
    in_doubt = [row for row in results if row["upload_reason"]]
    assert {row["upload_reason"] for row in in_doubt} == {"in_doubt"}
    assert sorted(cells(in_doubt, "device_id")) == sorted(row.device_id for row in backend.held)
    assert len(in_doubt) == 4
    assert cells(in_doubt, "upload_attempts") == ["1"] * 4
    assert billing_server.billed() == Counter(rows)
    assert read_rows(home.folder / "usage.failed.csv") == in_doubt
    assert f"{answered} of 24 rows were accepted and 4 left in doubt" in run.stderr
    assert f"{20 - answered} are left" in run.stderr
    assert not leftovers(home)


def test_kill_9_again_and_again_loses_and_doubles_nothing(home: Home, billing_server: BillingServer) -> None:
    """Three kills and a last run: each row is billed once, and is accepted or in doubt."""
    rows = usage_rows(40)
    write_csv(home.folder / "usage.csv", rows)
    command = ("upload", "usage.csv", "--concurrency", "3")
    backends = []
    for _ in range(3):
        backends.append(HeldBack(answered=5))
        billing_server.respond = backends[-1]
        with home.started(*command) as process:
            billing_server.wait_for(posts=8 * len(backends))
            os.kill(process.pid, signal.SIGKILL)
            ended(process)
    billing_server.respond = contract
    assert home.run_here(*command).exit_code == 1
    for backend in backends:
        backend.release()
    assert billing_server.billed() == Counter(rows)
    results = read_rows(home.folder / "usage.results.csv")
    assert Counter(cells(results, "upload_reason")) == {"": 31, "in_doubt": 9}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_waits_for_what_is_in_flight_and_writes_the_results(
    home: Home, billing_server: BillingServer, number: signal.Signals
) -> None:
    """Answers that come after the signal count; the exit code names the signal; the same command continues."""
    backend = HeldBack(answered=4)
    billing_server.respond = backend
    rows = usage_rows(12)
    write_csv(home.folder / "usage.csv", rows)
    command = ("upload", "usage.csv", "--concurrency", "3")
    with home.started(*command) as process:
        billing_server.wait_for(posts=7)
        os.kill(process.pid, number)
        backend.release()
        run = ended(process)
    assert run.exit_code == 128 + number, run.said
    assert "interrupted" in run.stdout
    assert len(billing_server.posts) == 7
    results = read_rows(home.folder / "usage.results.csv")
    accepted = [row for row in results if row["upload_status"] == "accepted"]
    assert Counter(cells(accepted, "device_id")) == Counter(row.device_id for row in billing_server.billed())
    assert Counter(cells(results, "upload_reason")) == {"": 7, "not_sent": 5}
    assert not leftovers(home)
    assert home.run_here(*command).exit_code == 0
    assert billing_server.billed() == Counter(rows)


def test_a_backend_that_is_not_there_is_named_where_posting_pauses_and_stops(home: Home) -> None:
    """What the calls came to stands in the log and in the summary, so that nobody has to look for it in the rows."""
    write_csv(home.folder / "usage.csv", usage_rows(40, tenants=MANY_TENANTS))
    with refusing_port() as port:
        base_url = f"http://127.0.0.1:{port}"
        run = home.run_here(*FIVE_AT_A_TIME, "--base-url", base_url, "--patience", "0.5")
    assert run.exit_code == 3, run.said
    [why] = [line for line in run.stdout.splitlines() if "stopped early" in line]
    assert "the customer look-up failed: " in why
    assert str(port) in why


def test_a_key_that_may_look_nobody_up_stops_the_run(home: Home, billing_server: BillingServer) -> None:
    """It would look up the next tenants as little, so that nothing is gained by patience."""
    billing_server.respond = lambda _: reply(403)
    write_csv(home.folder / "usage.csv", usage_rows(40, tenants=MANY_TENANTS))
    run = home.run_here(*FIVE_AT_A_TIME)
    assert run.exit_code == 3, run.said
    assert "refuses to look any of the first 5 tenants up (HTTP 403)" in run.stdout
    assert len(billing_server.look_ups) < 10  # five, and those that were in flight


@pytest.mark.parametrize("answer", [404, 403])
@pytest.mark.parametrize("command", ["upload", "replay"])
def test_tenants_that_are_still_unknown_do_not_hide_those_that_are_known_now(
    home: Home, billing_server: BillingServer, command: str, answer: int
) -> None:
    """Where rows of the run were accepted, base URL and key are right: the next tenants are asked for."""
    unknown = {f"t{number}" for number in range(5, 20)}
    billing_server.respond = lambda got: reply(answer) if got.tenant_id in unknown else contract(got)
    rows = usage_rows(20, tenants=MANY_TENANTS)
    write_csv(home.folder / "usage.csv", rows)
    assert home.run_here(*ONE_AT_A_TIME).exit_code == 1
    unknown -= {f"t{number}" for number in range(15, 20)}
    run = home.run_here(command, "usage.failed.csv" if command == "replay" else "usage.csv", "--concurrency", "1")
    assert run.exit_code == 1, run.said
    assert billing_server.billed() == Counter([*rows[:5], *rows[15:]])


def test_tenants_that_may_not_be_looked_up_hold_up_no_others(home: Home, billing_server: BillingServer) -> None:
    """Where one may, HTTP 403 is an answer, and not a backend in trouble: there is nothing to be waited for."""
    allowed = {"t0", "t39"}
    billing_server.respond = lambda got: contract(got) if got.tenant_id in allowed else reply(403)
    rows = usage_rows(40, tenants=MANY_TENANTS)
    write_csv(home.folder / "usage.csv", rows)
    run = home.run_here(*ONE_AT_A_TIME, "--patience", "0.5")
    assert run.exit_code == 1, run.said
    assert billing_server.billed() == Counter([rows[0], rows[39]])
    assert reasons(home) == ["", *["lookup_failed"] * 38, ""]
    assert "posting pauses" not in run.stderr


def test_a_stop_that_leaves_no_row_behind_asks_for_no_further_run(home: Home, billing_server: BillingServer) -> None:
    """All that is left are questions to a person: the same command would post nothing."""
    billing_server.respond = scripted(posts=[RIGHT, *[reply(500)] * 5])
    write_csv(home.folder / "usage.csv", usage_rows(6, tenants=["acme"]))
    run = home.run_here(*ONE_AT_A_TIME, "--patience", "0.5")
    assert (run.exit_code, reasons(home)) == (3, ["", *["in_doubt"] * 5])
    assert "ask the backend's owners" in run.stdout
    assert "run the same command again" not in run.stdout


def test_a_stop_in_which_all_rows_were_refused_asks_for_the_same_command(
    home: Home, billing_server: BillingServer
) -> None:
    """The key is at fault, and not the rows, though all of them were in flight when that came out."""
    billing_server.respond = lambda got: reply(401) if got.method == "POST" else contract(got)
    write_csv(home.folder / "usage.csv", usage_rows(4, tenants=["acme"]))
    run = home.run_here("upload", "usage.csv", "--concurrency", "4")
    assert (run.exit_code, reasons(home)) == (3, ["rejected"] * 4)
    assert "next:    once that is mended, run the same command again" in run.stdout
    billing_server.respond = contract
    assert home.run_here("upload", "usage.csv").exit_code == 0


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_signal_before_a_file_is_begun_is_heeded(
    home: Home, billing_server: BillingServer, options: tuple[str, ...]
) -> None:
    """While the settings are still read nothing is posted after it, and the exit code names it all the same."""
    write_csv(home.folder / "usage.csv", usage_rows(3))
    key = home.folder / "key"
    os.mkfifo(key)
    variables = {"UPLOADER_API_KEY_FILE": str(key)}
    with home.started("upload", "usage.csv", *options, variables=variables) as process:
        with key.open("w") as writing:  # opened once the command reads
            os.kill(process.pid, signal.SIGINT)
            writing.write("secret")
        run = ended(process)
    assert run.exit_code == 128 + signal.SIGINT, run.said
    assert "Aborted" not in run.said
    assert "usage.csv: " in run.stdout
    assert billing_server.received == []


def test_signals_that_come_together_are_one(home: Home, billing_server: BillingServer) -> None:
    """What tells the command and its whole group, as timeout(1) does, is no impatience: answers are waited for."""
    backend = HeldBack(answered=0)
    billing_server.respond = backend
    rows = usage_rows(6)
    write_csv(home.folder / "usage.csv", rows)
    with home.started("upload", "usage.csv", "--concurrency", "2") as process:
        billing_server.wait_for(posts=2)
        os.kill(process.pid, signal.SIGTERM)
        os.kill(process.pid, signal.SIGINT)
        backend.release()
        assert ended(process).exit_code in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    assert Counter(reasons(home)) == {"": 2, "not_sent": 4}


def test_a_later_signal_ends_the_command_at_once(home: Home, billing_server: BillingServer) -> None:
    """What was in flight is not waited for, and is in doubt for the next run; nothing is billed twice."""
    backend = HeldBack(answered=0)
    billing_server.respond = backend
    rows = usage_rows(6)
    write_csv(home.folder / "usage.csv", rows)
    command = ("upload", "usage.csv", "--concurrency", "2")
    with home.started(*command) as process:
        billing_server.wait_for(posts=2)
        while process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
        assert ended(process).exit_code == 128 + signal.SIGTERM
    billing_server.respond = contract
    assert home.run_here(*command).exit_code == 1
    backend.release()
    assert Counter(reasons(home)) == {"": 4, "in_doubt": 2}
    assert billing_server.billed() == Counter(rows)


def test_a_check_that_is_interrupted_ends_with_the_signals_code(home: Home) -> None:
    """Not with 1, by which a job would think that the check found bad rows."""
    write_csv(home.folder / "usage.csv", [("acme", "d", "m", "none")] * 50_000)
    with home.started("validate", "usage.csv") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        run = ended(process)
    assert run.exit_code == 128 + signal.SIGINT
    assert not run.stderr


def test_a_signal_that_the_caller_has_set_aside_stays_so(home: Home, billing_server: BillingServer) -> None:
    """Under nohup a hang-up does not end the run."""
    backend = HeldBack(answered=0)
    billing_server.respond = backend
    rows = usage_rows(6)
    write_csv(home.folder / "usage.csv", rows)
    nohup = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    with home.started("upload", "usage.csv", "--concurrency", "2", before=nohup) as process:
        billing_server.wait_for(posts=2)
        os.kill(process.pid, signal.SIGHUP)
        backend.release()
        assert ended(process).exit_code == 0
    assert billing_server.billed() == Counter(rows)


def test_after_a_signal_no_further_file_is_begun(home: Home, billing_server: BillingServer) -> None:
    """The second file is untouched, and said to be; the same command posts it."""
    backend = HeldBack(answered=0)
    billing_server.respond = backend
    rows = usage_rows(6)
    write_csv(home.folder / "day1.csv", rows[:3])
    write_csv(home.folder / "day2.csv", rows[3:])
    command = ("upload", "day1.csv", "day2.csv", "--concurrency", "1")
    with home.started(*command) as process:
        billing_server.wait_for(posts=1)
        os.kill(process.pid, signal.SIGTERM)
        backend.release()
        run = ended(process)
    assert run.exit_code == 143, run.said
    assert "day2.csv: not begun" in run.stdout
    assert not (home.folder / "day2.results.csv").exists()
    assert len(billing_server.posts) == 1
    assert home.run_here(*command).exit_code == 0
    assert billing_server.billed() == Counter(rows)


# --- the log changes under the run ------------------------------------------------------------------------------------


def replace_last_cell(path: Path, *, by: str) -> None:
    """Change the log's last cell in place, to another of the same length."""
    with path.open("r+b") as file:
        file.seek(-len(by) - 1, os.SEEK_END)
        file.write(by.encode())


def test_a_log_changed_in_place_stops_the_run_before_a_changed_row_is_posted(
    home: Home, billing_server: BillingServer
) -> None:
    """Rows of the changed part are not posted, answers in flight count, and once put back the run continues."""
    rows = usage_rows(60, tenants=["acme"])
    wide = [(row[0], row[1], row[2], "x" * 30_000, row[3]) for row in rows]
    columns = [*EVENT_COLUMNS[:3], "note", EVENT_COLUMNS[3]]
    # After the first file the tenant is known, so of the second little is read ahead.
    before = usage_rows(1, tenants=["acme"])
    write_csv(home.folder / "before.csv", before)
    log = write_csv(home.folder / "usage.csv", wide, columns=columns)
    modified_nanoseconds = log.stat().st_mtime_ns
    backend = HeldBack(answered=4)
    billing_server.respond = backend
    command = ("upload", "before.csv", "usage.csv", "--concurrency", "1")
    with home.started(*command) as process:
        billing_server.wait_for(posts=5)
        replace_last_cell(log, by="959")
        backend.release()
        run = ended(process)
    assert run.exit_code == 3, run.said
    assert "usage.csv: not done: it changed within" in run.stdout
    assert "put the file back" in run.stdout
    posted = len(billing_server.posts) - 1
    assert 4 <= posted < 60
    assert billing_server.billed() == Counter(before) + Counter(rows[:posted])
    assert not (home.folder / "usage.results.csv").exists()
    replace_last_cell(log, by=str(rows[-1].total_usage))
    os.utime(log, ns=(modified_nanoseconds, modified_nanoseconds))
    run = home.run_here(*command)
    assert run.exit_code == 0, run.said
    assert f"{posted} of 60 rows were accepted" in run.stderr
    assert billing_server.billed() == Counter(before) + Counter(rows)


def test_a_small_log_changed_in_place_is_posted_as_it_was_and_gets_no_wrong_results(
    home: Home, billing_server: BillingServer
) -> None:
    """What was read before the change is what is billed; results of other cells than those are not written."""
    backend = HeldBack(answered=0)
    billing_server.respond = backend
    rows = usage_rows(5)
    log = write_csv(home.folder / "usage.csv", rows)
    modified_nanoseconds = log.stat().st_mtime_ns
    with home.started("upload", "usage.csv") as process:
        billing_server.wait_for(posts=1)
        replace_last_cell(log, by="999")
        backend.release()
        run = ended(process)
    assert run.exit_code == 3, run.said
    assert billing_server.billed() == Counter(rows)
    assert {path.name for path in home.folder.iterdir()} == {"usage.csv", "usage.csv.uploading", "ledger"}
    replace_last_cell(log, by=str(rows[-1].total_usage))
    os.utime(log, ns=(modified_nanoseconds, modified_nanoseconds))
    run = home.run_here("upload", "usage.csv")
    assert run.exit_code == 0, run.said
    assert reasons(home) == [""] * 5
    assert len(billing_server.posts) == 5


def test_a_log_replaced_by_another_file_is_posted_as_it_was(home: Home, billing_server: BillingServer) -> None:
    """A new file under the old name is another upload: this one goes on with the file that it opened."""
    backend = HeldBack(answered=0)
    billing_server.respond = backend
    rows = usage_rows(5)
    write_csv(home.folder / "usage.csv", rows)
    with home.started("upload", "usage.csv") as process:
        billing_server.wait_for(posts=1)
        write_csv(home.folder / "new.csv", usage_rows(9, tenants=["other"])).replace(home.folder / "usage.csv")
        backend.release()
        run = ended(process)
    assert run.exit_code == 0, run.said
    assert billing_server.billed() == Counter(rows)
    assert cells(read_rows(home.folder / "usage.results.csv"), "device_id") == [row.device_id for row in rows]


# --- nowhere to write -------------------------------------------------------------------------------------------------


def test_a_full_disk_ends_the_whole_command_and_the_next_one_bills_nothing_twice(
    home: Home, billing_server: BillingServer
) -> None:
    """With no room for the ledger nothing more is posted, of no file; at most the rows in flight are in doubt."""
    rows = usage_rows(200)
    write_csv(home.folder / "day1.csv", rows[:160])
    write_csv(home.folder / "day2.csv", rows[160:])
    command = ("upload", "day1.csv", "day2.csv", "--concurrency", "2")
    with home.started(*command, before=WITH_FILES_OF_64_KIB) as process:
        run = ended(process)
    assert run.exit_code == 3, run.said
    assert "make room" in run.stdout
    assert "day2.csv: not begun" in run.stdout
    assert 0 < len(billing_server.posts) < 160
    assert billing_server.billed() <= Counter(rows[:160])
    run = home.run_here(*command)
    assert (home.folder / "day1.results.csv").exists(), run.said
    in_doubt = [row for row in read_rows(home.folder / "day1.results.csv") if row["upload_reason"]]
    assert run.exit_code == (1 if in_doubt else 0), run.said
    assert {row["upload_reason"] for row in in_doubt} <= {"in_doubt"}
    assert len(in_doubt) <= 2
    assert reasons(home, "day2.results.csv") == [""] * 40
    billed = billing_server.billed()
    assert max(billed.values()) == 1
    not_billed = {row.device_id for row in rows} - {row.device_id for row in billed}
    assert not_billed <= set(cells(in_doubt, "device_id"))
