"""The failure budget (``--max-failed``): how many rows of a file may fail before its upload ends."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import Received, contract
from tests.billing_server import BillingServer
from tests.command import Home, cells, read_rows, usage_rows, write_csv
from tests.faults.scene import rewrite
from uploader.model.settings import FailureBudget


@pytest.mark.parametrize(("budget", "exit_code"), [("1", 2), ("2", 1), ("10%", 2), ("20%", 1)])
def test_the_failure_budget_counts_from_the_first_pass(
    home: Home, billing_server: BillingServer, budget: str, exit_code: int
) -> None:
    """A file with more invalid rows than --max-failed allows posts nothing."""
    path = write_csv(home.folder / "usage.csv", [*usage_rows(8), ("acme", "d", "m", "x"), ("acme", "d", "m", "y")])
    assert home.run_here("upload", path, "--max-failed", budget).exit_code == exit_code
    assert len(billing_server.posts) == (0 if exit_code == 2 else 8)


def test_a_finished_run_stays_finished_whatever_its_rows_in_doubt(home: Home, billing_server: BillingServer) -> None:
    """Nothing is left to be posted, so that no budget ends it early."""
    rows = usage_rows(5)
    lost = Answer(then=Then.FIN)
    billing_server.respond = lambda got: lost if got.method == "POST" and got.billed_row in rows[:3] else contract(got)
    path = write_csv(home.folder / "usage.csv", rows)
    assert home.run_here("upload", path).exit_code == 1
    again = home.run_here("upload", path, "--max-failed", "2")
    assert again.exit_code == 1, again.said
    assert "unfinished" not in home.run_here("runs").stdout
    assert len(billing_server.posts) == 5


def test_rows_that_were_corrected_do_not_count_against_the_budget(home: Home, billing_server: BillingServer) -> None:
    """The nightly job is run again after a person allowed for more, and replayed what they corrected."""
    write_csv(home.folder / "usage.csv", [*usage_rows(8), ("acme", "d", "m", "x"), ("acme", "d", "m", "y")])
    assert home.run_here("upload", "usage.csv", "--max-failed", "2").exit_code == 1
    failed = read_rows(home.folder / "usage.failed.csv")
    rewrite(home.folder / "usage.failed.csv", [{**row, "total_usage": "7"} for row in failed])
    for options in ((), ("--dry-run",)):
        assert home.run_here("upload", "usage.csv", "--max-failed", "1", *options).exit_code == 2
    assert home.run_here("replay", "usage.failed.csv").exit_code == 0
    for options in (("--dry-run",), ()):
        assert home.run_here("upload", "usage.csv", "--max-failed", "1", *options).exit_code == 0
    assert len(billing_server.posts) == 10


def test_the_failure_budget_ends_a_run(home: Home, billing_server: BillingServer) -> None:
    """When more rows are rejected than --max-failed allows, the rest is not sent, and the exit code is 3."""
    contract = billing_server.respond
    billing_server.respond = lambda request: reply(422) if request.method == "POST" else contract(request)
    path = write_csv(home.folder / "usage.csv", usage_rows(30))
    ended = home.run_here("upload", path, "--max-failed", "3", "--concurrency", "1")
    assert ended.exit_code == 3
    assert "--max-failed" in ended.said
    reasons = cells(read_rows(home.folder / "usage.results.csv"), "upload_reason")
    assert Counter(reasons) == {"rejected": 4, "not_sent": 26}
    assert len(billing_server.posts) == 4


def test_rows_in_doubt_count_against_the_budget_before_anything_is_posted(
    home: Home, billing_server: BillingServer
) -> None:
    """They stay failed however often the command is run: it would post some further rows each time."""
    rows = usage_rows(40)
    lost = Answer(then=Then.FIN)
    billing_server.respond = lambda got: lost if got.method == "POST" and got.billed_row in rows[:3] else contract(got)
    path = write_csv(home.folder / "usage.csv", rows)
    command = ("upload", path, "--max-failed", "2", "--concurrency", "8")
    assert home.run_here(*command).exit_code == 3
    posts = len(billing_server.posts)
    again = home.run_here(*command)
    assert again.exit_code == 3
    assert "more than 2 rows failed (--max-failed)" in again.stdout
    assert len(billing_server.posts) == posts < 40


@pytest.mark.parametrize(("budget", "rows", "most"), [("29%", 100, 29), ("0.7%", 1000, 7), ("0.7%", 999, 6)])
def test_a_share_of_the_rows_is_exact(budget: str, rows: int, most: int) -> None:
    """A share allows for as many whole rows as are in it."""
    assert FailureBudget.parse(budget).most_failed(rows=rows) == most


def test_a_file_that_is_over_its_budget_does_not_stop_the_others(home: Home, billing_server: BillingServer) -> None:
    """The failure budget is each file's own: the file after one that went over it is posted; the exit code is 3."""
    contract = billing_server.respond
    billing_server.respond = lambda got: reply(422) if b"refused" in got.body else contract(got)
    write_csv(home.folder / "a.csv", [("acme", "d", "refused", 1)] * 5)
    write_csv(home.folder / "b.csv", usage_rows(3))
    ended = home.run_here("upload", "a.csv", "b.csv", "--max-failed", "1", "--concurrency", "1")
    assert ended.exit_code == 3, ended.said
    assert Counter(cells(read_rows(home.folder / "a.results.csv"), "upload_reason")) == {"rejected": 2, "not_sent": 3}
    assert cells(read_rows(home.folder / "b.results.csv"), "upload_status") == ["accepted"] * 3
    assert ended.said.count("no further call starts: more than 1 rows failed") == 1


def test_tenants_of_a_file_that_was_stopped_are_asked_for_again_by_the_next_one(
    home: Home, billing_server: BillingServer
) -> None:
    """An answer that nobody waits for any more is asked for anew; tenants of the stopped file's alone are not."""
    answers = [reply(503, headers={"Retry-After": "1"})]

    def respond(got: Received) -> Answer:
        if got.method == "POST" and got.body.count(b"refused"):
            return reply(422)
        return answers.pop() if got.tenant_id == "flaky" and answers else contract(got)

    billing_server.respond = respond
    others = [(f"other{number}", "d", "m", 1) for number in range(300)]
    write_csv(home.folder / "a.csv", [("flaky", "d", "m", 2), ("acme", "d", "refused", 1), *others])
    write_csv(home.folder / "b.csv", [("flaky", "d1", "m", 10), ("acme", "d1", "m", 20)])
    ended = home.run("upload", "a.csv", "b.csv", "--max-failed", "0", "--concurrency", "2")
    assert ended.exit_code == 3, ended.said
    assert cells(read_rows(home.folder / "b.results.csv"), "upload_status") == ["accepted"] * 2
    assert len(billing_server.look_ups) < 200


@pytest.mark.parametrize("budget", ["x", "-1", "1.5", "101%", ""])
def test_a_budget_that_is_none_is_refused(home: Home, billing_server: BillingServer, budget: str) -> None:
    """--max-failed takes a number of rows or a share."""
    path = write_csv(home.folder / "usage.csv", usage_rows(2))
    ended = home.run_here("upload", path, f"--max-failed={budget}")
    assert ended.exit_code == 2
    assert not billing_server.received
