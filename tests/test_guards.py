"""Whether an upload may begin: the same content, a schema, room, a lost ledger, others at work."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.billing_answers import Answer, reply
from tests.billing_contract import Received, contract
from tests.billing_server import BillingServer
from tests.command import Home, ended, usage_rows, write_csv
from tests.held_back import kill_an_upload
from uploader.ledger.lock import turn
from uploader.model.errors import LedgerRefusal
from uploader.uploads.guards import demand_room

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
