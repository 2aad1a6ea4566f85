"""Whether an upload may begin: the same content, a schema, room, a lost ledger, a failure budget; what runs tell."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import Received, contract
from tests.billing_server import BillingServer
from tests.command import Home, cells, ended, read_rows, usage_rows, write_csv
from tests.faults.scene import rewrite
from tests.held_back import HeldBack, kill_an_upload
from uploader.errors import LedgerRefusal
from uploader.guards import demand_room
from uploader.lock import turn
from uploader.settings import FailureBudget

LATER_NANOSECONDS = 1_900_000_000_000_000_000


def _renamed(path: Path) -> Path:
    return path.rename(path.with_name("other.csv"))


def _modified_since(path: Path) -> Path:
    os.utime(path, ns=(LATER_NANOSECONDS, LATER_NANOSECONDS))
    return path


@pytest.mark.parametrize("disguise", [_renamed, _modified_since])
def test_the_same_content_in_another_guise_is_refused(
    home: Home, billing_server: BillingServer, disguise: Callable[[Path], Path]
) -> None:
    """The same content under another name, or modified since, posts nothing; the ways on are named."""
    path = write_csv(home.folder / "usage.csv", usage_rows(6))
    assert home.run_here("upload", path).exit_code == 0
    ended = home.run_here("upload", disguise(path))
    assert ended.exit_code == 2
    assert "'usage.csv'" in ended.said
    assert ("this one was modified since" in ended.said) == (disguise is _modified_since)
    assert "--period" in ended.said
    assert "--again" in ended.said
    assert len(billing_server.posts) == 6


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_headers_alone_are_no_copies_of_each_other(
    home: Home, billing_server: BillingServer, options: tuple[str, ...]
) -> None:
    """Two days without usage are as good as one, whether in one command or night after night."""
    days = [write_csv(home.folder / f"{day}.csv", []) for day in ("saturday", "sunday")]
    for day in days:
        os.utime(day, ns=(LATER_NANOSECONDS, LATER_NANOSECONDS))
    for paths in (days, days[:1], days[1:]):
        run = home.run_here("upload", *paths, *options)
        assert run.exit_code == 0, run.said
        assert run.said.count("is its export whole?") == len(paths)
        assert "same content" not in run.said
    assert not billing_server.received


def test_a_moved_file_continues_its_run(home: Home, billing_server: BillingServer) -> None:
    """A file that only moved to another folder is the same upload: nothing is posted again."""
    path = write_csv(home.folder / "usage.csv", usage_rows(6))
    assert home.run_here("upload", path).exit_code == 0
    folder = home.folder / "elsewhere"
    folder.mkdir()
    ended = home.run_here("upload", path.rename(folder / "usage.csv"))
    assert ended.exit_code == 0
    assert len(billing_server.posts) == 6


def test_again_does_not_bill_a_third_time_by_the_same_command(home: Home, billing_server: BillingServer) -> None:
    """Which is run again after any stop: it is refused, and without --again it continues."""
    write_csv(home.folder / "a.csv", usage_rows(4))
    write_csv(home.folder / "b.csv", usage_rows(8)[4:])
    both = ("upload", "a.csv", "b.csv", "--period", "x")
    assert home.run_here(*both).exit_code == 0
    billing_server.respond = lambda received: (
        reply(401) if received.method == "POST" and len(billing_server.posts) > 13 else contract(received)
    )
    stopped = home.run_here(*both, "--again", "--concurrency", "1")
    assert stopped.exit_code == 3
    assert "run the same command without --again: it continues" in stopped.stdout
    billing_server.respond = contract
    again = home.run_here(*both, "--again")
    assert again.exit_code == 2
    assert "a.csv: not done: --again: this content was billed again already, by run r" in again.stdout
    assert "b.csv: not done: --again: the last run of this content" in again.stdout
    assert home.run_here(*both).exit_code == 0
    assert set(billing_server.billed().values()) == {2}


def test_a_file_that_was_taken_away_is_another_than_its_copy(home: Home, billing_server: BillingServer) -> None:
    """Within one command, too, where the first one's content comes again."""
    for name in ("a.csv", "b.csv"):
        os.utime(write_csv(home.folder / name, usage_rows(3)), ns=(LATER_NANOSECONDS,) * 2)

    def take_away(received: Received) -> Answer:
        (home.folder / "a.csv").unlink(missing_ok=True)
        return contract(received)

    billing_server.respond = take_away
    run = home.run_here("upload", "a.csv", "b.csv", "--event-id", "device_id")
    assert run.exit_code == 3
    assert "b.csv: not done: the same content as a.csv" in run.stdout
    assert len(billing_server.posts) == 3


def test_what_a_schema_refused_is_not_posted_for_want_of_it(home: Home, billing_server: BillingServer) -> None:
    """A job's variable names a schema that whoever runs the command by hand does not know of; another may be given."""
    (home.folder / "ours.json").write_text(json.dumps({"properties": {"total_usage": {"maximum": 105}}}))
    write_csv(home.folder / "usage.csv", usage_rows(8))
    job = home.run_here("upload", "usage.csv", variables={"UPLOADER_SCHEMA": "ours.json"})
    assert job.exit_code == 1
    posts = len(billing_server.posts)
    assert 0 < posts < 8
    for command in (["upload", "usage.csv"], ["upload", "usage.csv", "--dry-run"], ["replay", "usage.failed.csv"]):
        by_hand = home.run_here(*command)
        assert by_hand.exit_code == 2, by_hand.said
        assert f"give --schema {home.folder / 'ours.json'}" in by_hand.said
    assert len(billing_server.posts) == posts
    again = home.run_here("upload", "usage.csv", "--again")
    assert again.exit_code == 2
    assert "give --schema" in again.said
    (home.folder / "wider.json").write_text(json.dumps({"properties": {"total_usage": {"maximum": 200}}}))
    assert home.run_here("replay", "usage.failed.csv", "--schema", "wider.json").exit_code == 0
    assert billing_server.billed() == Counter(usage_rows(8))


def test_what_the_schema_of_a_replay_refused_is_not_posted_for_want_of_it(
    home: Home, billing_server: BillingServer
) -> None:
    """The upload had none; the next replay is to have the one that judged its rows last."""
    billing_server.respond = lambda _: reply(401)
    write_csv(home.folder / "usage.csv", usage_rows(8))
    assert home.run_here("upload", "usage.csv").exit_code == 3
    billing_server.respond = contract
    (home.folder / "ours.json").write_text(json.dumps({"properties": {"total_usage": {"maximum": 105}}}))
    assert home.run_here("replay", "usage.failed.csv", "--schema", "ours.json").exit_code == 1
    posts = len(billing_server.posts)
    refused = home.run_here("replay", "usage.replay1.failed.csv")
    assert refused.exit_code == 2
    assert "give --schema" in refused.said
    assert len(billing_server.posts) == posts


def test_a_ledger_without_room_for_the_rows_is_refused(home: Home) -> None:
    """What they take at the least must be free before anything is posted."""
    demand_room(home.folder, rows=1000)
    with pytest.raises(LedgerRefusal, match=r"bytes are free, and the ledger needs 75,000,000,004,200,000 for"):
        demand_room(home.folder, rows=10**15)


def test_a_file_that_is_named_twice_is_taken_once(home: Home, billing_server: BillingServer) -> None:
    """Globs may overlap, and folders have links: neither rows nor sums count twice."""
    for name in ("a.csv", "b.csv"):
        write_csv(home.folder / name, usage_rows(3, tenants=[name]))
    (home.folder / "folder").symlink_to(".")
    for options in (["--dry-run"], []):
        run = home.run_here("upload", "b.csv", "a.csv", "./b.csv", "folder/a.csv", *options)
        assert run.exit_code == 0, run.said
        assert [line[:5] for line in run.stdout.splitlines() if ".csv: " in line] == ["b.csv", "a.csv"]
    assert "all 2 files: 6 of 6 rows accepted" in run.stdout
    assert len(billing_server.posts) == 6
    assert "folder/a.csv: is a.csv, which is named before, and is taken once" in run.stderr


def test_a_second_name_of_a_file_is_refused(home: Home, billing_server: BillingServer) -> None:
    """It may be a link that is still yesterday's: nothing is said to be done of what it was to name."""
    write_csv(home.folder / "yesterday.csv", usage_rows(3))
    (home.folder / "today.csv").symlink_to("yesterday.csv")
    os.link(home.folder / "yesterday.csv", home.folder / "hard.csv")
    for name in ("today.csv", "hard.csv"):
        both = home.run_here("upload", "yesterday.csv", name)
        assert both.exit_code == 3
        assert f"{name}: not done: the same content was uploaded as 'yesterday.csv'" in both.stdout
    assert len(billing_server.posts) == 3


def test_a_refused_command_leaves_no_run_behind(home: Home, billing_server: BillingServer) -> None:
    """`uploader runs` lists those that were begun."""
    write_csv(home.folder / "usage.csv", usage_rows(3))
    (home.folder / "out").write_text("no folder")
    assert home.run_here("upload", "usage.csv", "--results-dir", "out").exit_code == 2
    listed = home.run_here("runs")
    assert listed.exit_code == 0
    assert "unfinished" not in listed.stdout


def test_a_name_that_begins_with_a_dash_is_no_option_in_what_to_run_next(
    home: Home, billing_server: BillingServer
) -> None:
    """It can be copied as it stands."""
    write_csv(home.folder / "-usage.csv", [*usage_rows(2), ("acme", "d", "m", "none")])
    run = home.run_here("upload", "--", "-usage.csv")
    assert "uploader replay ./-usage.failed.csv" in run.stdout
    assert home.run_here("replay", "./-usage.failed.csv").exit_code == 1


def test_a_copy_in_another_folder_is_told(home: Home, billing_server: BillingServer) -> None:
    """Two flat days may have one name, one content and one time: refused in one command, warned of in two."""
    for day in ("20", "21"):
        (home.folder / day).mkdir()
        os.utime(write_csv(home.folder / day / "usage.csv", usage_rows(6)), ns=(LATER_NANOSECONDS,) * 2)
    (home.folder / "link").symlink_to("20")
    both = home.run_here("upload", "20/usage.csv", "link/usage.csv", "21/usage.csv")
    assert both.exit_code == 3
    assert "21/usage.csv: not done: the same content as 20/usage.csv" in both.stdout
    second = home.run_here("upload", "21/usage.csv")
    assert second.exit_code == 0
    words = f"the same content was uploaded as {home.folder / '20' / 'usage.csv'}, which is there still"
    assert f"WARNING {home.folder / '21' / 'usage.csv'}: {words}" in second.stderr
    assert home.run_here("upload", "21/usage.csv", "--period", "21").exit_code == 0
    assert set(billing_server.billed().values()) == {2}


def test_the_ways_on_from_an_unfinished_copy_do_not_name_again(home: Home, billing_server: BillingServer) -> None:
    """--again is refused while the last run is unfinished."""
    kill_an_upload(home, billing_server)
    refused = home.run_here("upload", _modified_since(home.folder / "usage.csv"))
    assert refused.exit_code == 2
    assert "touch -d" in refused.said
    assert "--again" not in refused.said


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


def test_again_bills_all_of_it_once_more_under_new_ids(home: Home, billing_server: BillingServer) -> None:
    """--again posts every row of a finished content once more, with other event ids; the run after it continues it."""
    path = write_csv(home.folder / "usage.csv", usage_rows(4))
    home.run_here("upload", path)
    assert home.run_here("upload", path, "--again").exit_code == 0
    ids = [post.headers["x-request-id"] for post in billing_server.posts]
    assert len(set(ids)) == 8
    assert (home.folder / "usage.2.results.csv").exists()
    assert home.run_here("upload", path).exit_code == 0
    assert len(billing_server.posts) == 8


def test_an_empty_period_is_refused(home: Home, billing_server: BillingServer) -> None:
    """It is a variable of the shell that was not set: without a label the same usage could be another run's."""
    path = write_csv(home.folder / "usage.csv", usage_rows(4))
    ended = home.run_here("upload", path, "--period", "")
    assert ended.exit_code == 2
    assert "--period ''" in ended.said
    assert billing_server.received == []


def test_again_is_refused_while_the_last_run_is_unfinished(home: Home, billing_server: BillingServer) -> None:
    """--again of a run that stopped early posts nothing; without it the run continues and each row is billed once."""
    path = write_csv(home.folder / "usage.csv", usage_rows(4))
    billing_server.respond = lambda _request: reply(401)
    assert home.run_here("upload", path).exit_code == 3
    before = len(billing_server.received)
    ended = home.run_here("upload", path, "--again")
    assert ended.exit_code == 2
    assert "without --again" in ended.said
    assert len(billing_server.received) == before


def test_a_lost_ledger_is_no_fresh_start(home: Home, billing_server: BillingServer) -> None:
    """Results of a run that the ledger does not know keep the same upload from beginning afresh."""
    path = write_csv(home.folder / "usage.csv", usage_rows(4))
    home.run_here("upload", path)
    shutil.rmtree(home.ledger)
    ended = home.run_here("upload", path)
    assert ended.exit_code == 2
    assert "usage.results.csv" in ended.said
    assert "--ledger" in ended.said
    assert len(billing_server.posts) == 4


def test_a_lost_ledger_is_no_fresh_start_with_semicolons(home: Home, billing_server: BillingServer) -> None:
    """Results are recognised by the delimiter of their usage log."""
    path = write_csv(home.folder / "usage.csv", usage_rows(4))
    path.write_text(path.read_text(encoding="utf-8").replace(",", ";"), encoding="utf-8")
    assert home.run_here("upload", path, "--delimiter", ";").exit_code == 0
    shutil.rmtree(home.ledger)
    assert home.run_here("upload", path, "--delimiter", ";").exit_code == 2
    assert len(billing_server.posts) == 4


def test_the_mark_of_an_unfinished_run_survives_the_ledger(home: Home, billing_server: BillingServer) -> None:
    """While rows are posted the mark of the run lies beside the results; without its ledger nothing is posted."""
    path = write_csv(home.folder / "usage.csv", usage_rows(4))
    mark = home.folder / "usage.csv.uploading"
    seen: list[bool] = []
    contract = billing_server.respond

    def look(request: Received) -> Answer:
        seen.append(mark.exists())
        return contract(request)

    billing_server.respond = look
    assert home.run_here("upload", path).exit_code == 0
    assert all(seen)
    assert not mark.exists()
    mark.write_text(
        json.dumps({"run": "r0123456789abcde", "host": "night-1", "ledger": "/var/lib/x"}), encoding="utf-8"
    )
    (home.folder / "usage.results.csv").unlink()
    ended = home.run_here("upload", path)
    assert ended.exit_code == 2
    assert "night-1" in ended.said
    assert "/var/lib/x" in ended.said
    assert len(billing_server.posts) == 4


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


def test_a_lost_ledger_is_noticed_though_another_process_has_the_number_of_the_killed_one(
    home: Home, billing_server: BillingServer
) -> None:
    """In a container each process is number 1: what a killed one left in its lock file says nothing of the ledger."""
    kill_an_upload(home, billing_server)
    for path in home.ledger.glob("r*.sqlite*"):
        path.unlink()
    [lock] = home.ledger.glob("r*.lock")
    lock.write_text(f"process {os.getpid()} on usage.csv: 2 of 6 rows\n", encoding="utf-8")
    again = home.run_here("upload", "usage.csv")
    assert again.exit_code == 2, again.said
    assert "does not know" in again.said
    assert len(billing_server.posts) == 3


@pytest.mark.parametrize("sizes", [(20, 20, 20, 20), (20, 19, 18, 17)], ids=["the same content", "most of the rows"])
def test_of_uploads_that_begin_at_once_each_heeds_those_before_it(
    home: Home, billing_server: BillingServer, sizes: tuple[int, ...]
) -> None:
    """Uploads begin one at a time, so that none passes the guards before the others are known."""
    for name, rows in zip("abcd", sizes, strict=True):
        write_csv(home.folder / f"{name}.csv", usage_rows(rows))
    write_csv(home.folder / "before.csv", usage_rows(60)[30:])  # with which all are compared: that takes a while
    assert home.run_here("upload", "before.csv").exit_code == 0
    with contextlib.ExitStack() as all_of_them:
        with turn(home.ledger / "beginning.lock", waits=lambda: None, should_stop=lambda: False):
            processes = [all_of_them.enter_context(home.started("upload", f"{name}.csv")) for name in "abcd"]
            for process in processes:
                assert process.stderr is not None
                assert "being read" in process.stderr.readline()
                assert "rows read" in process.stderr.readline()
        assert sorted(ended(process).exit_code for process in processes) == [0, 2, 2, 2]
    assert set(billing_server.billed().values()) == {1}


def test_a_signal_ends_the_wait_for_others_that_begin(home: Home, billing_server: BillingServer) -> None:
    """It says that it waits; then nothing was begun, and nothing is left beside the file."""
    write_csv(home.folder / "usage.csv", usage_rows(2))
    home.ledger.mkdir()
    with (
        turn(home.ledger / "beginning.lock", waits=lambda: None, should_stop=lambda: False),
        home.started("upload", "usage.csv") as process,
    ):
        assert process.stderr is not None
        assert "being read" in process.stderr.readline()
        assert "rows read" in process.stderr.readline()
        assert "usage.csv: waits while another upload begins" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        last = ended(process)
    assert (last.exit_code, billing_server.received) == (143, [])
    assert "not begun" in last.said
    assert {path.name for path in home.folder.iterdir()} == {"usage.csv", "ledger"}
