"""What is told of runs that have ended: their totals, their results, and what the ledger keeps of them."""

from __future__ import annotations

import json
import sqlite3

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import Received, contract
from tests.billing_server import BillingServer
from tests.command import Home, cells, ended, read_rows, usage_rows, write_csv
from tests.faults.scene import rewrite
from tests.held_back import HeldBack


def test_totals_of_a_killed_replay_are_not_those_of_before(home: Home, billing_server: BillingServer) -> None:
    """`uploader runs` says that it does not know; the next command's end has them again. No row is a count, too."""
    rows = usage_rows(4)
    write_csv(home.folder / "usage.csv", rows)
    billing_server.respond = lambda received: contract(received) if received.method == "GET" else reply(422)
    assert home.run_here("upload", "usage.csv").exit_code == 1
    backend = HeldBack(answered=2)
    billing_server.respond = backend
    with home.started("replay", "usage.failed.csv", "--concurrency", "1") as process:
        billing_server.wait_for(posts=7)
        process.kill()
        ended(process)
    backend.release()
    assert "  ?  " in home.run_here("runs").stdout
    [run] = home.ledger.glob("r*.sqlite")
    shown = home.run_here("runs", "show", run.stem).stdout
    assert "not known: the last command was killed" in shown
    assert "rejected" not in shown
    billing_server.respond = contract
    home.run_here("upload", "usage.csv")
    assert "in_doubt: 1 rows" in home.run_here("runs", "show", run.stem).stdout
    write_csv(home.folder / "none.csv", [])
    assert home.run_here("upload", "none.csv").exit_code == 0
    assert home.run_here("runs").stdout.count("?") == 0


def test_a_finished_run_shrinks_to_ranges(home: Home, billing_server: BillingServer) -> None:
    """Of a finished run the ledger keeps accepted rows as ranges of numbers, failed ones with their outcome."""
    path = write_csv(home.folder / "usage.csv", [*usage_rows(5), ("acme", "d", "m", "x"), *usage_rows(9)[5:]])
    assert home.run_here("upload", path).exit_code == 1
    [file] = home.ledger.glob("*.sqlite")
    connection = sqlite3.connect(file)
    assert connection.execute("select * from accepted_range").fetchall() == [(1, 5), (7, 10)]
    assert connection.execute("select row, reason from outcome").fetchall() == [(6, "invalid")]
    connection.close()


def test_results_rebuilt_from_ranges_say_so(home: Home, billing_server: BillingServer) -> None:
    """Results of a finished run that were lost are written again without the answers, and say so."""
    path = write_csv(home.folder / "usage.csv", usage_rows(5))
    home.run_here("upload", path)
    (home.folder / "usage.results.csv").unlink()
    assert home.run_here("upload", path).exit_code == 0
    rows = read_rows(home.folder / "usage.results.csv")
    assert cells(rows, "upload_status") == ["accepted"] * 5
    assert set(cells(rows, "upload_http_status")) == {""}
    assert set(cells(rows, "upload_attempts")) == {""}
    assert all("accepted before" in detail for detail in cells(rows, "upload_detail"))


def test_runs_lists_what_the_ledger_knows(home: Home, billing_server: BillingServer) -> None:
    """Uploader runs gives a line a run, and runs show one in full."""
    assert "knows no run" in home.run_here("runs").stdout
    home.run_here("upload", write_csv(home.folder / "usage.csv", [*usage_rows(5), ("acme", "d", "m", "x")]))
    header, line = home.run_here("runs").stdout.splitlines()
    assert header.split()[:3] == ["run", "begun", "state"]
    run_id = line.split()[0]
    assert "finished" in line
    assert "usage.csv" in line
    assert billing_server.base_url in line
    shown = home.run_here("runs", "show", run_id).stdout
    assert "accepted: 5 rows, 510 units" in shown
    assert "failed, invalid: 1 rows" in shown
    assert home.run_here("runs", "show", "r000000000000000").exit_code == 2


def totals_shown(home: Home) -> list[str]:
    """Give the lines of `runs show` that count the only run's rows."""
    run_id = home.run_here("runs").stdout.splitlines()[1].split()[0]
    shown = home.run_here("runs", "show", run_id).stdout
    return [line for line in shown.splitlines() if " units" in line]


def test_the_totals_of_a_run_are_those_after_its_replays(home: Home, billing_server: BillingServer) -> None:
    """Rows and units move from their reason to accepted as they were posted, whatever the file held."""
    answers = {"dev-1": [reply(408), reply(408)], "dev-2": [Answer(then=Then.FIN)], "dev-3": [reply(422)]}

    def respond(got: Received) -> Answer:
        queue = answers.get(got.headers.get("x-device-id", ""))
        return queue.pop(0) if queue else contract(got)

    billing_server.respond = respond
    write_csv(home.folder / "usage.csv", [*usage_rows(5), ("acme", "dev-5", "m", "x"), ("acme", "dev-6", "m")])
    assert home.run_here("upload", "usage.csv", "--retries", "0").exit_code == 1
    assert home.run_here("replay", "usage.failed.csv", "--retries", "0").exit_code == 1
    assert totals_shown(home) == [
        "accepted: 3 rows, 307 units",
        "failed, invalid: 1 rows, 0 units",
        "failed, malformed: 1 rows, 0 units",
        "failed, unavailable: 1 rows, 101 units",
        "failed, in_doubt: 1 rows, 102 units",
    ]
    rows = read_rows(home.folder / "usage.replay1.failed.csv")
    rows[0]["total_usage"] = "1000"
    rows[1]["upload_replay"] = "recorded"
    rows[2]["total_usage"] = "20000"
    rows[3].update(tenant_id="acme", device_id="dev-6", meter_id="m", total_usage="300000")
    rewrite(home.folder / "usage.replay1.failed.csv", rows)
    assert home.run_here("replay", "usage.replay1.failed.csv").exit_code == 0
    everything = ["accepted: 7 rows, 321,409 units"]
    assert totals_shown(home) == everything
    assert sum(row.total_usage for row in billing_server.billed().elements()) == 321_409
    assert home.run_here("replay", "usage.results.csv").exit_code == 0
    assert totals_shown(home) == everything
    for _ in range(2):
        again = home.run_here("upload", "usage.csv", "--summary", "summary.json")
        assert again.exit_code == 0, again.said
        assert "3 rows were accepted as a replay had edited them" in again.said
        assert "of the accepted, 3 were posted with other values than these: uploader runs show r" in again.stdout
        assert json.loads((home.folder / "summary.json").read_text())["files"][0]["rows_posted_otherwise"] == 3
        assert totals_shown(home) == everything
    assert home.run_here("replay", "usage.results.csv").exit_code == 0
    assert totals_shown(home) == everything


def test_the_totals_of_a_stopped_upload_are_true_after_a_replay(home: Home, billing_server: BillingServer) -> None:
    """Rows that never had their turn count as not sent, with their units; later commands count each row once."""
    answers = [reply(422), reply(422), reply(422)]
    billing_server.respond = lambda got: answers.pop() if answers and got.method == "POST" else contract(got)
    path = write_csv(home.folder / "usage.csv", usage_rows(5))
    command = ("upload", path, "--concurrency", "1", "--max-failed", "0")
    assert home.run_here(*command).exit_code == 3
    assert totals_shown(home) == ["failed, rejected: 1 rows, 100 units", "failed, not_sent: 4 rows, 410 units"]
    rewrite(home.folder / "part.csv", read_rows(home.folder / "usage.failed.csv")[:3])
    assert home.run_here("replay", "part.csv", "--concurrency", "1").exit_code == 1
    assert totals_shown(home) == [
        "accepted: 1 rows, 102 units",
        "failed, rejected: 2 rows, 201 units",
        "failed, not_sent: 2 rows, 207 units",
    ]
    assert home.run_here("upload", path).exit_code == 0
    assert totals_shown(home) == ["accepted: 5 rows, 510 units"]
    assert home.run_here("replay", "part.csv").exit_code == 0
    assert totals_shown(home) == ["accepted: 5 rows, 510 units"]
