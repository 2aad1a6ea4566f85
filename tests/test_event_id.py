"""Uploads whose events are named by the log itself (--event-id): each is posted once, whatever files it stands in."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import BilledRow, Received, contract
from tests.billing_server import BillingServer
from tests.command import EVENT_COLUMNS, Ended, Home, cells, ended, read_rows, usage_rows, write_csv
from tests.held_back import HeldBack

ROWS = usage_rows(8)


def write_log(home: Home, name: str, rows: Iterable[tuple[str, BilledRow]]) -> Path:
    """Write a usage log with ids of its own in a column ``id``."""
    return write_csv(home.folder / name, [(own_id, *row) for own_id, row in rows], columns=("id", *EVENT_COLUMNS))


def numbered(rows: Iterable[BilledRow], first: int = 0) -> list[tuple[str, BilledRow]]:
    """Name rows e0, e1, ..."""
    return [(f"e{number}", row) for number, row in enumerate(rows, first)]


def upload(home: Home, name: str, *options: str) -> Ended:
    """Upload a log by its own ids."""
    return home.run_here("upload", name, "--event-id", "id", "--retries", "0", *options)


def reasons(home: Home, stem: str) -> list[str]:
    """Read the reasons of a run's rows."""
    return cells(read_rows(home.folder / f"{stem}.results.csv"), "upload_reason")


def details(home: Home, stem: str) -> list[str]:
    """Read the details of a run's rows."""
    return cells(read_rows(home.folder / f"{stem}.results.csv"), "upload_detail")


def but_for(device: str, answer: Answer) -> object:
    """Answer rightly, but for the posts of one device."""

    def respond(received: Received) -> Answer:
        return answer if received.headers.get("x-device-id") == device else contract(received)

    return respond


# --- one file ---------------------------------------------------------------------------------------------------------


def test_an_event_that_stands_in_a_file_twice_is_posted_once(home: Home, billing_server: BillingServer) -> None:
    """The second is a duplicate, and says of which row; with other values it is a conflict."""
    other = ROWS[1]._replace(total_usage=7)
    write_log(home, "usage.csv", [("a", ROWS[0]), ("b", ROWS[1]), ("a", ROWS[0]), ("b", other), ("c", ROWS[0])])
    run = upload(home, "usage.csv")
    assert run.exit_code == 1, run.said
    assert reasons(home, "usage") == ["", "", "duplicate", "conflict", ""]
    assert details(home, "usage")[2] == "row 1 of this file is the same event"
    assert "row 2 of run" in details(home, "usage")[3]
    assert billing_server.billed() == Counter([ROWS[0], ROWS[1], ROWS[0]])
    assert cells(read_rows(home.folder / "usage.failed.csv"), "upload_replay") == ["fix", "fix"]


def test_the_same_command_again_posts_nothing_and_says_the_same(home: Home, billing_server: BillingServer) -> None:
    """Duplicates stay duplicates of the same rows."""
    write_log(home, "usage.csv", [("a", ROWS[0]), ("a", ROWS[0]), ("b", ROWS[1])])
    assert upload(home, "usage.csv").exit_code == 1
    before = reasons(home, "usage")
    assert upload(home, "usage.csv").exit_code == 1
    assert reasons(home, "usage") == before == ["", "duplicate", ""]
    assert len(billing_server.posts) == 2


def test_a_row_without_an_id_of_its_own_is_invalid(home: Home, billing_server: BillingServer) -> None:
    """It is named with its other problems, and does not share an identity with other such rows."""
    bad = ROWS[2]._replace(total_usage=-1)
    write_log(home, "usage.csv", [("a", ROWS[0]), ("", ROWS[1]), ("", bad), ("b", ROWS[3])])
    run = upload(home, "usage.csv")
    assert run.exit_code == 1, run.said
    assert reasons(home, "usage") == ["", "invalid", "invalid", ""]
    assert details(home, "usage")[1] == "id: is empty"
    assert "total_usage" in details(home, "usage")[2]
    assert "id: is empty" in details(home, "usage")[2]
    assert cells(read_rows(home.folder / "usage.results.csv"), "upload_event_id")[1] == ""
    assert billing_server.billed() == Counter([ROWS[0], ROWS[3]])


def test_rows_without_an_id_count_against_the_failure_budget(home: Home, billing_server: BillingServer) -> None:
    """They are counted in the first pass, so that nothing is posted."""
    write_log(home, "usage.csv", [("a", ROWS[0]), ("", ROWS[1]), ("", ROWS[2])])
    run = upload(home, "usage.csv", "--max-failed", "1")
    assert run.exit_code == 2, run.said
    assert not billing_server.posts


def test_the_column_must_be_there(home: Home, billing_server: BillingServer) -> None:
    """The message names the file, the column and those that there are."""
    write_csv(home.folder / "usage.csv", ROWS)
    run = upload(home, "usage.csv")
    assert run.exit_code == 2
    assert "usage.csv: not done: no column named 'id'" in run.said
    assert "tenant_id" in run.said
    assert not billing_server.received


def test_it_cannot_be_had_with_again(home: Home, billing_server: BillingServer) -> None:
    """--again bills events under new ids, and these have their own."""
    write_log(home, "usage.csv", numbered(ROWS))
    run = upload(home, "usage.csv", "--again")
    assert run.exit_code == 2
    assert "--event-id" in run.said
    assert not billing_server.received


# --- many files -------------------------------------------------------------------------------------------------------


def test_events_that_were_accepted_before_are_accepted_and_not_posted(
    home: Home, billing_server: BillingServer
) -> None:
    """A longer export of the same usage posts what is new in it alone; its event ids are the ones of before."""
    write_log(home, "day.csv", numbered(ROWS[:6]))
    write_log(home, "week.csv", numbered(ROWS))
    assert upload(home, "day.csv").exit_code == 0
    run = upload(home, "week.csv")
    assert run.exit_code == 0, run.said
    assert billing_server.billed() == Counter(ROWS)
    before, after = (read_rows(home.folder / f"{stem}.results.csv") for stem in ("day", "week"))
    assert cells(after, "upload_event_id")[:6] == cells(before, "upload_event_id")
    assert "accepted before: row 1 of run" in after[0]["upload_detail"]
    assert after[0]["upload_attempts"] == "0"
    assert after[6]["upload_detail"] == ""
    ids = billing_server.billed_by("x-request-id")
    assert Counter(cells(after, "upload_event_id")) == ids


def test_the_same_content_under_another_name_is_continued(home: Home, billing_server: BillingServer) -> None:
    """With ids of their own, two byte-identical files cannot be two days."""
    for name in ("usage.csv", "copy.csv"):
        write_log(home, name, numbered(ROWS))
        run = upload(home, name)
        assert run.exit_code == 0, run.said
    assert billing_server.billed() == Counter(ROWS)


def test_other_values_under_an_id_that_was_accepted_are_a_conflict(home: Home, billing_server: BillingServer) -> None:
    """They are not posted, however the rest of the file goes."""
    write_log(home, "one.csv", numbered(ROWS[:3]))
    write_log(home, "two.csv", [("e0", ROWS[0]._replace(total_usage=5)), *numbered(ROWS[4:], first=4)])
    assert upload(home, "one.csv").exit_code == 0
    run = upload(home, "two.csv")
    assert run.exit_code == 1, run.said
    assert reasons(home, "two") == ["conflict", "", "", "", ""]
    assert billing_server.billed() == Counter([*ROWS[:3], *ROWS[4:]])


def test_an_event_in_doubt_elsewhere_is_settled_there(home: Home, billing_server: BillingServer) -> None:
    """It is not posted from a second file, whose row names the first; with other values it is a conflict."""
    billing_server.respond = but_for("dev-0", Answer(then=Then.RST))  # type: ignore[assignment]
    write_log(home, "one.csv", numbered(ROWS[:3]))
    assert upload(home, "one.csv").exit_code == 1
    billing_server.respond = contract
    write_log(home, "two.csv", [("e0", ROWS[0]), ("x", ROWS[5])])
    write_log(home, "three.csv", [("e0", ROWS[0]._replace(total_usage=5)), ("y", ROWS[6])])
    for name in ("two.csv", "three.csv"):
        assert upload(home, name).exit_code == 1
    assert reasons(home, "two") == ["duplicate", ""]
    assert "in doubt; settle it there" in details(home, "two")[0]
    assert reasons(home, "three") == ["conflict", ""]
    assert billing_server.billed() == Counter([*ROWS[:3], ROWS[5], ROWS[6]])


def test_an_event_that_was_certainly_not_recorded_may_be_posted_from_another_file(
    home: Home, billing_server: BillingServer
) -> None:
    """The first run, continued, has it as accepted then; it is billed once."""
    billing_server.respond = but_for("dev-0", reply(422))  # type: ignore[assignment]
    write_log(home, "one.csv", numbered(ROWS[:3]))
    assert upload(home, "one.csv").exit_code == 1
    billing_server.respond = contract
    write_log(home, "two.csv", [("e0", ROWS[0]), ("x", ROWS[5]), ("e0", ROWS[0])])
    assert upload(home, "two.csv").exit_code == 1
    assert reasons(home, "two") == ["", "", "duplicate"]
    assert upload(home, "one.csv").exit_code == 0
    assert billing_server.billed() == Counter([*ROWS[:3], ROWS[5]])
    assert "accepted before: row 1 of run" in details(home, "one")[0]


def test_an_event_of_an_upload_at_work_is_left_for_later(home: Home, billing_server: BillingServer) -> None:
    """Whatever that makes of it, a second upload does not post it; run again, it says how the first one went."""
    backend = HeldBack(answered=0)
    billing_server.respond = backend
    write_log(home, "one.csv", numbered(ROWS[:3]))
    write_log(home, "two.csv", [("e0", ROWS[0]), ("x", ROWS[5])])
    with home.started("upload", "one.csv", "--event-id", "id") as first:
        billing_server.wait_for(posts=3)
        billing_server.respond = contract
        run = upload(home, "two.csv")
        assert run.exit_code == 1, run.said
        assert reasons(home, "two") == ["unavailable", ""]
        assert f"process {first.pid}" in details(home, "two")[0]
        backend.release()
        assert ended(first).exit_code == 0
    assert upload(home, "two.csv").exit_code == 0
    assert billing_server.billed() == Counter([*ROWS[:3], ROWS[5]])


def test_events_in_flight_when_an_upload_was_killed_are_not_posted_from_another_file(
    home: Home, billing_server: BillingServer
) -> None:
    """Nobody knows whether they were recorded; those that had not been begun are posted."""
    billing_server.respond = HeldBack(answered=0)
    write_log(home, "one.csv", numbered(ROWS))
    with home.started("upload", "one.csv", "--event-id", "id", "--concurrency", "2") as first:
        billing_server.wait_for(posts=2)
        first.kill()
        ended(first)
    billing_server.respond = contract
    write_log(home, "two.csv", numbered(ROWS))
    os.utime(home.folder / "two.csv", (1, 1))
    write_log(home, "three.csv", [*numbered(ROWS), ("x", ROWS[0])])
    run = upload(home, "three.csv")
    assert run.exit_code == 1, run.said
    assert Counter(reasons(home, "three")) == {"duplicate": 2, "": 7}
    assert billing_server.billed() == Counter([*ROWS, ROWS[0]])
    assert upload(home, "two.csv").exit_code == 1
    assert Counter(reasons(home, "two")) == {"in_doubt": 2, "": 6}
    assert billing_server.billed() == Counter([*ROWS, ROWS[0]])


def test_a_lost_ledger_of_a_run_does_not_free_its_events(home: Home, billing_server: BillingServer) -> None:
    """A row whose event was accepted stays accepted; of one of which nothing more is known a person must ask."""
    billing_server.respond = but_for("dev-1", Answer(then=Then.RST))  # type: ignore[assignment]
    write_log(home, "one.csv", numbered(ROWS[:3]))
    assert upload(home, "one.csv").exit_code == 1
    billing_server.respond = contract
    for path in home.ledger.glob("r*.sqlite"):
        path.unlink()
    write_log(home, "two.csv", [*numbered(ROWS[:3]), ("x", ROWS[5])])
    run = upload(home, "two.csv")
    assert run.exit_code == 1, run.said
    assert reasons(home, "two") == ["", "duplicate", "", ""]
    assert "ledger is gone" in details(home, "two")[1]
    assert billing_server.billed() == Counter([*ROWS[:3], ROWS[5]])


# --- set-ups that would bill twice ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [((), ("--event-id", "id")), (("--event-id", "id"), ())])
def test_the_same_content_keeps_its_kind_of_ids(
    home: Home, billing_server: BillingServer, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    """An upload by row numbers is not continued by own ids, nor the other way round."""
    write_log(home, "usage.csv", numbered(ROWS))
    assert home.run_here("upload", "usage.csv", *first).exit_code == 0
    run = home.run_here("upload", "usage.csv", *second)
    assert run.exit_code == 2, run.said
    assert "other ids" in run.said
    assert billing_server.billed() == Counter(ROWS)


@pytest.mark.parametrize(("first", "second"), [((), ("--event-id", "id")), (("--event-id", "id"), ())])
def test_rows_that_were_uploaded_by_another_kind_of_ids_are_noticed(
    home: Home, billing_server: BillingServer, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    """Own ids keep files apart from files with own ids alone; of the others the overlap guard is in the way."""
    write_log(home, "usage.csv", numbered(ROWS[:7]))
    write_log(home, "longer.csv", numbered(ROWS))
    assert home.run_here("upload", "usage.csv", *first).exit_code == 0
    run = home.run_here("upload", "longer.csv", *second)
    assert run.exit_code == 2, run.said
    assert "were posted before" in run.said
    assert billing_server.billed() == Counter(ROWS[:7])


def test_rows_that_others_had_accepted_are_told(home: Home, billing_server: BillingServer) -> None:
    """Ids that begin anew each day are those of other events; where some rows are known again it is no warning."""
    write_log(home, "monday.csv", numbered(ROWS[:4]))
    write_log(home, "tuesday.csv", numbered(ROWS[:4]))
    write_log(home, "grown.csv", numbered(ROWS))
    assert "accepted before" not in upload(home, "monday.csv", "--period", "monday").said
    told = upload(home, "tuesday.csv", "--period", "tuesday")
    assert told.exit_code == 0
    assert "WARNING tuesday.csv: 4 of 4 rows are events that other rows had accepted before" in told.said
    assert "if they are new usage, their id is that of other events" in told.said
    assert "INFO grown.csv: 4 of 8 rows are events" in upload(home, "grown.csv").said
    assert "accepted before" not in upload(home, "grown.csv").said
    assert billing_server.billed() == Counter(ROWS)


def test_lost_claims_are_noticed(home: Home, billing_server: BillingServer) -> None:
    """Without the file of claims nothing would keep events from being posted twice."""
    write_log(home, "usage.csv", numbered(ROWS[:7]))
    assert upload(home, "usage.csv").exit_code == 0
    (home.ledger / "claims.sqlite").unlink()
    write_log(home, "longer.csv", numbered(ROWS))
    run = upload(home, "longer.csv")
    assert run.exit_code == 2, run.said
    assert "claims.sqlite is gone" in run.said
    assert billing_server.billed() == Counter(ROWS[:7])


def test_what_a_refused_replay_did_not_post_may_go_up_elsewhere(home: Home, billing_server: BillingServer) -> None:
    """Its rows count as posted only once nothing refuses it any more."""
    billing_server.respond = lambda received: contract(received) if received.method == "GET" else reply(422)
    write_log(home, "usage.csv", numbered(ROWS))
    assert upload(home, "usage.csv").exit_code == 1
    (home.ledger / "claims.sqlite").unlink()
    billing_server.respond = contract
    assert home.run_here("replay", "usage.failed.csv").exit_code == 2
    write_log(home, "by-itself.csv", reversed(numbered(ROWS)))
    run = home.run_here("upload", "by-itself.csv")
    assert run.exit_code == 0, run.said
    assert billing_server.billed() == Counter(ROWS)


def test_a_replay_and_a_dry_run_notice_lost_claims(home: Home, billing_server: BillingServer) -> None:
    """A replay whose rows have ids of their own needs the claims as an upload does, and makes no new file of them."""
    write_log(home, "usage.csv", numbered(ROWS[:3]))
    assert upload(home, "usage.csv").exit_code == 0
    write_log(home, "more.csv", [("e0", ROWS[0]._replace(total_usage=7)), ("new", ROWS[4])])
    assert upload(home, "more.csv").exit_code == 1
    billed = billing_server.billed()
    (home.ledger / "claims.sqlite").unlink()
    write_log(home, "last.csv", numbered(ROWS[:5]))
    for command in (("replay", "more.failed.csv"), ("upload", "last.csv", "--event-id", "id", "--dry-run")):
        run = home.run_here(*command)
        assert run.exit_code == 2, run.said
        assert "claims.sqlite is gone" in run.said
    assert upload(home, "last.csv").exit_code == 2
    assert billing_server.billed() == billed
    assert home.run_here("runs").said.count("unfinished") == 0
    assert "last.csv" not in home.run_here("runs").said
