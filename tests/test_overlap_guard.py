"""Whether rows may be posted that look like those of other runs: copies, exports that grew."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.billing_answers import Answer, reply
from tests.billing_contract import BilledRow, Received, contract
from tests.billing_server import BillingServer
from tests.command import EVENT_COLUMNS, Home, ended, read_rows, upload_and_correct, usage_rows, write_csv
from tests.faults.scene import rewrite
from tests.held_back import HeldBack, kill_an_upload


@pytest.mark.parametrize(("known", "new", "exit_code"), [(60, 40, 2), (40, 60, 0), (3, 97, 0)])
def test_a_log_of_mostly_posted_rows_is_refused(
    home: Home, billing_server: BillingServer, known: int, new: int, exit_code: int
) -> None:
    """More than half accepted before: nothing is posted. Fewer: it is taken, with a warning where they are not few."""
    rows = usage_rows(200)
    home.run_here("upload", write_csv(home.folder / "night.csv", rows[:known]))
    path = write_csv(home.folder / "export.csv", [*rows[:known], *rows[100 : 100 + new]])
    ended = home.run_here("upload", path)
    assert ended.exit_code == exit_code
    assert ("% of its rows were posted before" in ended.said) == (known > 5)
    assert ("--allow-overlap" in ended.said) == (exit_code == 2)
    assert len(billing_server.posts) == (known if exit_code == 2 else known + known + new)


def test_columns_in_another_order_are_the_same_rows(home: Home, billing_server: BillingServer) -> None:
    """The overlap is found although the export has its columns in another order."""
    rows = usage_rows(20)
    home.run_here("upload", write_csv(home.folder / "night.csv", rows))
    turned = write_csv(
        home.folder / "export.csv",
        [(row[3], row[2], row[1], row[0]) for row in rows],
        columns=("total_usage", "meter_id", "device_id", "tenant_id"),
    )
    assert home.run_here("upload", turned).exit_code == 2
    assert len(billing_server.posts) == 20


@pytest.mark.parametrize("change", ["spelled otherwise", "deleted"])
def test_rows_that_a_replay_corrected_are_known_again_whatever_became_of_their_other_cells(
    home: Home, billing_server: BillingServer, change: str
) -> None:
    """A spreadsheet spells times in its own way; the corrected export has them as the log had."""
    columns, rows = (*EVENT_COLUMNS, "at"), usage_rows(20)
    times = [f"2026-11-{number + 1:02} 00:00:00" for number in range(20)]
    path = home.folder / "usage.csv"
    write_csv(path, [(*row[:3], f"{row[3]} units", at) for row, at in zip(rows, times, strict=True)], columns=columns)
    assert home.run_here("upload", path).exit_code == 1
    failed = read_rows(home.folder / "usage.failed.csv")
    for number, row in enumerate(failed):
        row["total_usage"] = row["total_usage"].removesuffix(" units")
        row["at"] = f"{number + 1}.11.2026 00:00"
        if change == "deleted":
            del row["at"]
    rewrite(home.folder / "usage.failed.csv", failed)
    assert home.run_here("replay", "usage.failed.csv").exit_code == 0
    write_csv(path, [(*row, at) for row, at in zip(rows, times, strict=True)], columns=columns)
    assert home.run_here("upload", path).exit_code == 2
    assert billing_server.billed() == Counter(rows)


def test_rows_that_failed_only_after_a_stop_are_known_again_too(home: Home, billing_server: BillingServer) -> None:
    """The first command did not reach them, the second found no customer; a person corrects that."""
    columns, rows = (*EVENT_COLUMNS, "at"), usage_rows(20, tenants=["acme"])
    days = [f"2026-11-{at + 1:02}" for at in range(20)]
    path = home.folder / "usage.csv"
    write_csv(path, [("acmee", *row[1:], day) for row, day in zip(rows, days, strict=True)], columns=columns)
    billing_server.respond = lambda _: reply(401)
    assert home.run_here("upload", path).exit_code == 3
    billing_server.respond = lambda _: reply(404)
    assert home.run_here("upload", path).exit_code == 1
    billing_server.respond = contract
    failed = read_rows(home.folder / "usage.failed.csv")
    rewrite(
        home.folder / "usage.failed.csv",
        [{**row, "tenant_id": "acme", "at": f"{at + 1}.11.26"} for at, row in enumerate(failed)],
    )
    assert home.run_here("replay", "usage.failed.csv").exit_code == 0
    write_csv(path, [(*row, day) for row, day in zip(rows, days, strict=True)], columns=columns)
    assert home.run_here("upload", path).exit_code == 2
    assert billing_server.billed() == Counter(rows)


def test_rows_that_a_stop_left_are_known_again_too(home: Home, billing_server: BillingServer) -> None:
    """A replay sends them as a spreadsheet spelled their other cells, while one row of the run still fails."""
    columns, rows = (*EVENT_COLUMNS, "at"), usage_rows(40, tenants=["acme"])
    days = [f"2026-11-{at % 30 + 1:02}" for at in range(40)]
    whole = [(*row, day) for row, day in zip(rows, days, strict=True)]
    path = write_csv(home.folder / "usage.csv", [*whole, ("nobody", "d", "api.calls", 7, days[0])], columns=columns)
    billing_server.respond = lambda received: (
        reply(401) if received.method == "POST" and received.billed_row in rows[5:] else knows_acme_alone(received)
    )
    assert home.run_here("upload", path, "--concurrency", "1").exit_code == 3
    billing_server.respond = knows_acme_alone
    failed = read_rows(home.folder / "usage.failed.csv")
    rewrite(home.folder / "usage.failed.csv", [{**row, "at": row["at"][2:]} for row in failed])
    assert home.run_here("replay", "usage.failed.csv").exit_code == 1
    write_csv(home.folder / "rest.csv", whole[6:], columns=columns)
    assert home.run_here("upload", "rest.csv").exit_code == 2
    assert billing_server.billed() == Counter(rows)


def knows_acme_alone(received: Received) -> Answer:
    """Know no other tenant's customer."""
    return reply(404) if received.method == "GET" and received.tenant_id != "acme" else contract(received)


def test_a_stop_does_not_fill_the_ledger_for_good(home: Home, billing_server: BillingServer) -> None:
    """The cells of rows that were not sent are given up once they are accepted."""
    rows = [(*row, "x" * 1000) for row in usage_rows(1000)]
    path = write_csv(home.folder / "usage.csv", rows, columns=(*EVENT_COLUMNS, "note"))
    billing_server.respond = lambda _: reply(401)
    assert home.run_here("upload", path).exit_code == 3
    billing_server.respond = contract
    assert home.run_here("upload", path).exit_code == 0
    (ledger,) = home.ledger.glob("*.sqlite")
    assert ledger.stat().st_size < path.stat().st_size / 2


def test_a_run_goes_on_only_with_rows_that_no_other_posted_meanwhile(home: Home, billing_server: BillingServer) -> None:
    """What stopped before it posted, and then went up in another file, is not posted by the same command again."""
    rows = usage_rows(20)
    write_csv(home.folder / "night.csv", rows)
    billing_server.respond = lambda _: reply(401)
    assert home.run_here("upload", "night.csv").exit_code == 3
    billing_server.respond = contract
    assert home.run_here("upload", write_csv(home.folder / "whole.csv", usage_rows(24))).exit_code == 0
    for options in ((), ("--dry-run",)):
        again = home.run_here("upload", "night.csv", *options)
        assert again.exit_code == 2, again.said
        assert "about 100% of the rows that it has still to post were posted before" in again.said
    assert set(billing_server.billed().values()) == {1}
    assert home.run_here("upload", "night.csv", "--allow-overlap").exit_code == 0
    assert len(billing_server.billed()) == 24
    assert sum(billing_server.billed().values()) == 44


def test_a_replay_does_not_send_what_went_up_in_another_file(home: Home, billing_server: BillingServer) -> None:
    """The failed file of a stopped upload, replayed after the whole export was uploaded instead."""
    write_csv(home.folder / "night.csv", usage_rows(20))
    billing_server.respond = lambda _: reply(401)
    assert home.run_here("upload", "night.csv").exit_code == 3
    billing_server.respond = contract
    assert home.run_here("upload", write_csv(home.folder / "whole.csv", usage_rows(24))).exit_code == 0
    refused = home.run_here("replay", "night.failed.csv")
    assert refused.exit_code == 2
    assert "about 100% of the rows that it has to send were posted before" in refused.said
    assert "take those rows out of the file" in refused.said
    assert len(billing_server.billed()) == 24
    assert home.run_here("replay", "night.failed.csv", "--allow-overlap").exit_code == 0
    assert sum(billing_server.billed().values()) == 44


def test_another_night_under_the_name_of_a_stopped_one_is_taken(home: Home, billing_server: BillingServer) -> None:
    """Though all that the stopped run posted, some idle meters, stands in it too."""
    idle = [("acme", f"idle-{number}", "api", 0) for number in range(5)]
    write_csv(home.folder / "usage.csv", [*idle, *usage_rows(95)])
    billing_server.respond = lambda received: (
        reply(401) if received.method == "POST" and len(billing_server.posts) > 5 else contract(received)
    )
    assert home.run_here("upload", "usage.csv", "--concurrency", "1").exit_code == 3
    billing_server.respond = contract
    write_csv(home.folder / "usage.csv", [*idle, *usage_rows(295)[200:]])
    assert home.run_here("upload", "usage.csv").exit_code == 0


def test_a_replay_and_an_upload_are_compared_each_by_itself(home: Home, billing_server: BillingServer) -> None:
    """That some rows of a run were compared with another's says nothing of its other rows."""
    rows = usage_rows(40)
    write_csv(home.folder / "a.csv", [*rows[:20], *[(*row[:3], "x") for row in rows[20:]]])
    billing_server.respond = lambda received: (
        reply(401) if received.method == "POST" and len(billing_server.posts) > 5 else contract(received)
    )
    assert home.run_here("upload", "a.csv", "--concurrency", "1").exit_code == 3
    billing_server.respond = contract
    failed = read_rows(home.folder / "a.failed.csv")
    later = [*rows[6:20], *usage_rows(44)[40:]]
    assert home.run_here("upload", write_csv(home.folder / "b.csv", later)).exit_code == 0
    (one,) = (row for row in failed if row["device_id"] == "dev-39")
    rewrite(home.folder / "one.csv", [{**one, "total_usage": "7"}])
    assert home.run_here("replay", "one.csv").exit_code == 0
    assert home.run_here("upload", "a.csv").exit_code == 2
    corrected = write_csv(home.folder / "c.csv", [*rows[20:30], *usage_rows(46)[44:]])
    assert home.run_here("upload", corrected).exit_code == 0
    two = [{**row, "total_usage": rows[int(row["device_id"][4:])].total_usage} for row in failed]
    rewrite(home.folder / "two.csv", [row for row in two if row["upload_reason"] == "invalid"][:10])
    assert home.run_here("replay", "two.csv").exit_code == 2
    assert set(billing_server.billed().values()) == {1}


def test_an_upload_run_again_says_nothing_of_rows_that_a_person_corrects(
    home: Home, billing_server: BillingServer
) -> None:
    """It never compared them as they are corrected; what went up in that form since is not replayed."""
    rows = usage_rows(25)
    write_csv(home.folder / "a.csv", [*rows[:20], *[(*row[:3], f"{row[3]} units") for row in rows[20:]]])
    assert home.run_here("upload", "a.csv").exit_code == 1
    assert home.run_here("upload", write_csv(home.folder / "b.csv", rows[20:])).exit_code == 0
    assert home.run_here("upload", "a.csv").exit_code == 1
    failed = home.folder / "a.failed.csv"
    failed.write_text(failed.read_text().replace(" units,", ","))
    assert home.run_here("replay", "a.failed.csv").exit_code == 2
    assert billing_server.billed() == Counter(rows)


def test_a_file_that_is_uploaded_again_without_a_post_holds_up_no_other(
    home: Home, billing_server: BillingServer
) -> None:
    """What others posted is told by its content: neither a second run nor a copy of the ledger makes it new."""
    rows = usage_rows(40)
    write_csv(home.folder / "d1.csv", rows[20:])
    write_csv(home.folder / "d2.csv", [*usage_rows(70)[40:], *rows[28:]])
    assert home.run_here("upload", "d1.csv").exit_code == 0
    billing_server.respond = lambda received: (
        reply(401) if received.method == "POST" and len(billing_server.posts) > 50 else contract(received)
    )
    assert home.run_here("upload", "d2.csv", "--concurrency", "1").exit_code == 3
    billing_server.respond = contract
    assert home.run_here("upload", "d1.csv").exit_code == 0
    for path in home.ledger.rglob("*.theta"):
        os.utime(path, ns=(2 * 10**18,) * 2)
    assert home.run_here("upload", "d2.csv").exit_code == 0


def test_a_replay_under_way_is_known_to_uploads(home: Home, billing_server: BillingServer) -> None:
    """Its rows count as posted before the first of them is, and after it was killed."""
    rows = usage_rows(12)
    upload_and_correct(home, rows)
    write_csv(home.folder / "fixed.csv", rows)
    backend = HeldBack(answered=2)
    billing_server.respond = backend
    with home.started("replay", "usage.failed.csv", "--concurrency", "1") as process:
        billing_server.wait_for(posts=3)
        assert home.run_here("upload", "fixed.csv").exit_code == 2
        process.kill()
        ended(process)
    backend.release()
    assert home.run_here("upload", "fixed.csv").exit_code == 2
    assert len(billing_server.posts) == 3


def test_a_run_goes_on_with_rows_that_it_was_allowed_to_post(home: Home, billing_server: BillingServer) -> None:
    """What it was compared with when it began does not hold it up, whatever share of its last rows that has."""
    rows = usage_rows(40)
    assert home.run_here("upload", write_csv(home.folder / "before.csv", rows[24:])).exit_code == 0
    write_csv(home.folder / "usage.csv", rows)
    billing_server.respond = lambda received: (
        contract(received) if received.method == "GET" or received.billed_row in rows[:24] else reply(408)
    )
    assert home.run_here("upload", "usage.csv", "--retries", "0").exit_code in (1, 3)
    billing_server.respond = contract
    assert home.run_here("upload", "usage.csv").exit_code == 0


def test_a_file_that_grew_while_its_run_was_unfinished_is_refused(home: Home, billing_server: BillingServer) -> None:
    """However much it grew: its first part was posted, or may still be."""
    kill_an_upload(home, billing_server)
    write_csv(home.folder / "usage.csv", usage_rows(60))
    posts = len(billing_server.posts)
    grown = home.run_here("upload", "usage.csv")
    assert grown.exit_code == 2
    assert "it has some 6 rows of the log of the unfinished run r" in grown.said
    assert "put it back as it was" in grown.said
    assert len(billing_server.posts) == posts
    assert home.run_here("upload", "usage.csv", "--allow-overlap").exit_code == 0


def test_an_unfinished_run_that_has_the_rows_is_to_go_on_first(home: Home, billing_server: BillingServer) -> None:
    """All its rows count as posted, and the way on is not to take the guard away."""
    kill_an_upload(home, billing_server)
    longer = write_csv(home.folder / "longer.csv", usage_rows(8))
    refused = home.run_here("upload", longer)
    assert refused.exit_code == 2
    assert "in the unfinished run r" in refused.said
    assert "-- first continue r" in refused.said


def test_rows_that_a_replay_corrected_count_as_posted_ever(home: Home, billing_server: BillingServer) -> None:
    """Also once the upload was run again, whose log has them as they were."""
    rows = usage_rows(12)
    upload_and_correct(home, rows)
    assert home.run_here("replay", "usage.failed.csv").exit_code == 0
    assert home.run_here("upload", "usage.csv").exit_code == 0
    assert home.run_here("upload", write_csv(home.folder / "fixed.csv", rows)).exit_code == 2
    assert billing_server.billed() == Counter(rows)


@pytest.mark.parametrize("options", [("--allow-overlap",), ("--period", "2026-12")])
def test_overlap_that_is_meant_is_taken(home: Home, billing_server: BillingServer, options: tuple[str, ...]) -> None:
    """--allow-overlap, and another period, take rows that look as if they were posted before."""
    rows = usage_rows(20)
    home.run_here("upload", write_csv(home.folder / "night.csv", rows))
    path = write_csv(home.folder / "export.csv", rows[:15])
    assert home.run_here("upload", path, *options).exit_code == 0
    assert len(billing_server.posts) == 35


def test_rows_that_were_not_recorded_do_not_count_as_posted(home: Home, billing_server: BillingServer) -> None:
    """A corrected copy of a file whose rows were all rejected is taken."""
    rows = usage_rows(8)
    contract = billing_server.respond
    billing_server.respond = lambda request: reply(422) if request.method == "POST" else contract(request)
    assert home.run_here("upload", write_csv(home.folder / "night.csv", rows)).exit_code == 1
    billing_server.respond = contract
    corrected = [*rows[:7], BilledRow("acme", "dev-x", "api.calls", 1)]
    assert home.run_here("upload", write_csv(home.folder / "corrected.csv", corrected)).exit_code == 0


def test_rows_that_a_replay_had_accepted_count_as_posted(home: Home, billing_server: BillingServer) -> None:
    """A re-export of rows that failed at first and were accepted in a replay posts nothing."""
    rows = usage_rows(8)
    contract = billing_server.respond
    billing_server.respond = lambda request: reply(422) if request.method == "POST" else contract(request)
    assert home.run_here("upload", write_csv(home.folder / "night.csv", rows)).exit_code == 1
    billing_server.respond = contract
    assert home.run_here("replay", "night.failed.csv").exit_code == 0
    posts = len(billing_server.posts)
    export = write_csv(home.folder / "export.csv", [*rows, BilledRow("acme", "dev-x", "api.calls", 1)])
    assert home.run_here("upload", export).exit_code == 2
    assert len(billing_server.posts) == posts
