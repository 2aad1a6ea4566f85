"""A log that was changed in its place after a part of it was posted, and other ways to meet posted rows again."""

from __future__ import annotations

import csv
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.billing_answers import Answer, reply
from tests.billing_contract import BilledRow, Received, contract
from tests.billing_server import BillingServer
from tests.command import EVENT_COLUMNS, Home, ended, read_rows, usage_rows, write_csv
from tests.faults.scene import rewrite
from tests.held_back import HeldBack, kill_an_upload
from uploader.replays.moved_cells import MovedCells

ROWS = usage_rows(40)
Respond = Callable[[Received], Answer]


def takes(rows: list[BilledRow], *, otherwise: Answer) -> Respond:
    """Answer rightly to look-ups and those rows, and to all others with one answer."""
    return lambda received: contract(received) if received.method == "GET" or received.billed_row in rows else otherwise


def stop_an_upload(home: Home, server: BillingServer, *, posted: int) -> None:
    """Have an upload of usage.csv stopped by its backend, in good order, after some rows."""
    server.respond = takes(ROWS[:posted], otherwise=reply(503, headers={"Retry-After": "86400"}))
    write_csv(home.folder / "usage.csv", ROWS)
    stopped = home.run_here("upload", "usage.csv", "--concurrency", "1", "--patience", "1")
    assert stopped.exit_code == 3, stopped.said
    assert server.billed() == Counter(ROWS[:posted])
    server.respond = contract


def upload_some(home: Home, server: BillingServer, rows: list[BilledRow]) -> None:
    """Have an upload of usage.csv finish with those rows accepted and all others rejected, as they stay."""
    server.respond = takes(rows, otherwise=reply(422))
    write_csv(home.folder / "usage.csv", ROWS)
    assert home.run_here("upload", "usage.csv").exit_code == 1


# --- in its place -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("posted", [1, 15])
@pytest.mark.parametrize(
    "changed",
    [
        [*ROWS, BilledRow("acme", "late", "api.calls", 1)],
        ROWS[::-1],
        [*ROWS[:-1], ROWS[-1]._replace(total_usage=7)],
    ],
    ids=["grown", "sorted", "corrected"],
)
def test_a_log_that_was_changed_after_its_upload_stopped_is_refused(
    home: Home, billing_server: BillingServer, changed: list[BilledRow], posted: int
) -> None:
    """Though less than half of its rows were posted, those would be billed twice."""
    stop_an_upload(home, billing_server, posted=posted)
    modified_nanoseconds = (home.folder / "usage.csv").stat().st_mtime_ns
    write_csv(home.folder / "usage.csv", changed)
    refused = home.run_here("upload", "usage.csv")
    assert refused.exit_code == 2
    assert "put it back as it was and run the same command again" in refused.said
    assert billing_server.billed() == Counter(ROWS[:posted])
    write_csv(home.folder / "usage.csv", ROWS)
    os.utime(home.folder / "usage.csv", ns=(modified_nanoseconds, modified_nanoseconds))
    assert home.run_here("upload", "usage.csv").exit_code == 0
    assert billing_server.billed() == Counter(ROWS)


def test_a_log_that_was_changed_after_some_of_its_rows_failed_is_refused(
    home: Home, billing_server: BillingServer
) -> None:
    """The run has finished, and its failed file is what to correct."""
    upload_some(home, billing_server, ROWS[:15])
    billing_server.respond = contract
    write_csv(home.folder / "usage.csv", ROWS[::-1])
    refused = home.run_here("upload", "usage.csv")
    assert refused.exit_code == 2
    assert "if these are the same events, correct failed rows in the failed file and replay that" in refused.said
    assert "if it is another period's usage, say which with --period LABEL" in refused.said
    assert billing_server.billed() == Counter(ROWS[:15])


def test_rows_that_no_run_posted_may_be_left_alone_in_a_log(home: Home, billing_server: BillingServer) -> None:
    """Whoever takes the posted rows out of the log, in its place, is not held up."""
    stop_an_upload(home, billing_server, posted=15)
    write_csv(home.folder / "usage.csv", ROWS[15:])
    run = home.run_here("upload", "usage.csv")
    assert run.exit_code == 0, run.said
    assert billing_server.billed() == Counter(ROWS)


def test_a_log_may_change_of_which_nothing_was_posted(home: Home, billing_server: BillingServer) -> None:
    """An outage that let no row through is no reason to refuse the log as it is now."""
    stop_an_upload(home, billing_server, posted=0)
    write_csv(home.folder / "usage.csv", ROWS[::-1])
    assert home.run_here("upload", "usage.csv").exit_code == 0
    assert billing_server.billed() == Counter(ROWS)


@pytest.mark.parametrize("spelled", ["../{}/usage.csv", "link/usage.csv"])
def test_a_changed_log_is_known_however_its_path_is_spelled(
    home: Home, billing_server: BillingServer, spelled: str
) -> None:
    """As by another folder's name for it."""
    kill_an_upload(home, billing_server)
    (home.folder / "link").symlink_to(home.folder)
    write_csv(home.folder / "usage.csv", usage_rows(60))
    assert home.run_here("upload", spelled.format(home.folder.name)).exit_code == 2
    assert len(billing_server.posts) == 3


def test_a_log_is_not_posted_in_the_place_of_one_that_is_at_work(home: Home, billing_server: BillingServer) -> None:
    """As when the export is replaced by a longer one meanwhile."""
    backend = HeldBack(answered=2)
    billing_server.respond = backend
    write_csv(home.folder / "usage.csv", usage_rows(6))
    with home.started("upload", "usage.csv", "--concurrency", "1") as process:
        billing_server.wait_for(posts=3)
        write_csv(home.folder / "longer", usage_rows(60)).replace(home.folder / "usage.csv")
        refused = home.run_here("upload", "usage.csv")
        assert refused.exit_code == 2
        assert "of the unfinished run r" in refused.said
        backend.release()
        ended(process)
    assert billing_server.billed() == Counter(usage_rows(6))


def test_a_log_of_which_all_was_posted_is_weighed_by_its_share(home: Home, billing_server: BillingServer) -> None:
    """It is no upload that stood still: what a later log shares with it is for the share to say."""
    stop_an_upload(home, billing_server, posted=15)
    assert home.run_here("upload", "usage.csv").exit_code == 0
    write_csv(home.folder / "usage.csv", [*ROWS, *usage_rows(120)[60:]])
    run = home.run_here("upload", "usage.csv")
    assert run.exit_code == 0
    assert "about 40% of its rows were posted before" in run.stderr


def test_a_link_that_leads_to_a_longer_log_now_is_known(home: Home, billing_server: BillingServer) -> None:
    """As of a night's log that is always called by one name."""
    link = home.folder / "current.csv"
    link.symlink_to(write_csv(home.folder / "first.csv", ROWS))
    billing_server.respond = takes(ROWS[:15], otherwise=reply(503, headers={"Retry-After": "86400"}))
    assert home.run_here("upload", "current.csv", "--concurrency", "1", "--patience", "1").exit_code == 3
    billing_server.respond = contract
    link.unlink()
    link.symlink_to(write_csv(home.folder / "second.csv", [*ROWS, *usage_rows(60)[40:]]))
    assert home.run_here("upload", "current.csv").exit_code == 2
    assert billing_server.billed() == Counter(ROWS[:15])


def test_a_log_whose_header_has_the_usual_names_now_is_known(home: Home, billing_server: BillingServer) -> None:
    """It was uploaded under a mapping, and stopped."""
    billing_server.respond = takes(ROWS[:15], otherwise=reply(503, headers={"Retry-After": "86400"}))
    write_csv(home.folder / "usage.csv", ROWS, columns=("customer", *EVENT_COLUMNS[1:]))
    mapped = ("--column", "tenant_id=customer")
    run = home.run_here("upload", "usage.csv", "--concurrency", "1", "--patience", "1", *mapped)
    assert run.exit_code == 3
    billing_server.respond = contract
    write_csv(home.folder / "usage.csv", [*ROWS, *usage_rows(60)[40:]])
    assert home.run_here("upload", "usage.csv").exit_code == 2
    assert billing_server.billed() == Counter(ROWS[:15])


def test_a_complete_run_that_was_killed_once_more_is_complete(home: Home, billing_server: BillingServer) -> None:
    """Nothing of its log is left to be posted, so that a later log in its place is weighed by its share."""
    write_csv(home.folder / "usage.csv", ROWS)
    assert home.run_here("upload", "usage.csv").exit_code == 0
    assert not list(home.ledger.glob("seen/*/logs/*"))
    with home.started("upload", "usage.csv", "--log-format", "json") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if '"posting_begun"' in line:
                process.kill()
                break
        ended(process)
    write_csv(home.folder / "usage.csv", usage_rows(300))
    assert home.run_here("upload", "usage.csv").exit_code == 0


def test_a_far_longer_log_in_the_place_of_a_short_one_is_weighed_by_its_share(
    home: Home, billing_server: BillingServer
) -> None:
    """One or two rows of a sample say nothing of the short one."""
    short = ROWS[:10]
    billing_server.respond = takes(short[:9], otherwise=reply(422))
    write_csv(home.folder / "usage.csv", short)
    assert home.run_here("upload", "usage.csv").exit_code == 1
    billing_server.respond = contract
    write_csv(home.folder / "usage.csv", [*short, *usage_rows(90_000)[40:]])
    assert "would be posted" in home.run_here("upload", "usage.csv", "--dry-run").said


# --- what replays posted ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("comes_first", ["the other file", "the replay"])
def test_a_column_of_remarks_does_not_hide_what_a_replay_posts(
    home: Home, billing_server: BillingServer, comes_first: str
) -> None:
    """A person may add one to the failed file; its rows are compared as the log had them."""
    upload_some(home, billing_server, ROWS[10:])
    billing_server.respond = contract
    rewrite(
        home.folder / "usage.failed.csv",
        [{"remark": "?", **row} for row in read_rows(home.folder / "usage.failed.csv")],
    )
    write_csv(home.folder / "late.csv", ROWS[:10])
    commands = [("upload", "late.csv"), ("replay", "usage.failed.csv")]
    first, second = commands if comes_first == "the other file" else commands[::-1]
    assert home.run_here(*first).exit_code == 0
    assert home.run_here(*second).exit_code == 2
    assert billing_server.billed() == Counter(ROWS)


def test_a_log_that_a_replay_completed_is_known_whole(home: Home, billing_server: BillingServer) -> None:
    """However a spreadsheet spelled the further columns of the rows that it posted."""
    columns = (*EVENT_COLUMNS, "at")
    rows = [(*row, "2026-11-20T01:02:03Z") for row in ROWS]
    billing_server.respond = takes(ROWS[:10], otherwise=reply(422))
    write_csv(home.folder / "usage.csv", rows, columns=columns)
    assert home.run_here("upload", "usage.csv").exit_code == 1
    billing_server.respond = contract
    failed = read_rows(home.folder / "usage.failed.csv")
    rewrite(home.folder / "usage.failed.csv", [{**row, "at": "20.11.26 01:02"} for row in failed])
    assert home.run_here("replay", "usage.failed.csv").exit_code == 0
    write_csv(home.folder / "again.csv", rows[::-1], columns=columns)
    assert home.run_here("upload", "again.csv").exit_code == 2
    assert billing_server.billed() == Counter(ROWS)


@pytest.mark.parametrize("mapped", [False, True], ids=["", "mapped"])
@pytest.mark.parametrize("accepted", [12, 20, 30])
@pytest.mark.parametrize("failed", [reply(422), reply(503, headers={"Retry-After": "86400"})], ids=["fix", "yes"])
def test_cells_that_were_sorted_apart_from_ours_are_not_posted(
    home: Home, billing_server: BillingServer, failed: Answer, accepted: int, *, mapped: bool
) -> None:
    """A failed row has an accepted row's cells then, which would be billed twice, and its own never."""
    billing_server.respond = takes(ROWS[:accepted], otherwise=failed)
    columns = ("customer", *EVENT_COLUMNS[1:]) if mapped else EVENT_COLUMNS
    mapping = ("--column", "tenant_id=customer") if mapped else ()
    write_csv(home.folder / "usage.csv", ROWS, columns=columns)
    run = home.run_here("upload", "usage.csv", "--patience", "1", "--concurrency", "1", *mapping)
    assert run.exit_code in (1, 3)
    billing_server.respond = contract
    results = read_rows(home.folder / "usage.results.csv")
    rewrite(
        home.folder / "usage.results.csv",
        [
            {**row, **{column: other[column] for column in columns}}
            for row, other in zip(results, results[::-1], strict=True)
        ],
    )
    refused = home.run_here("replay", "usage.results.csv")
    assert refused.exit_code == 2
    assert "as when only some of the columns are sorted" in refused.said
    assert billing_server.billed() == Counter(ROWS[:accepted])


@pytest.mark.parametrize("column", EVENT_COLUMNS)
def test_a_column_of_failed_rows_that_was_sorted_alone_is_not_posted(
    home: Home, billing_server: BillingServer, column: str
) -> None:
    """Each row has another's cell then, and all sums are right; cells that a person corrected are posted."""
    rows = [BilledRow(f"t{number}", f"d{number}", f"m{number}", number) for number in range(40)]
    billing_server.respond = takes(rows[:1], otherwise=reply(422))
    write_csv(home.folder / "usage.csv", [*rows, ("acme", "late", "api", "none")])
    assert home.run_here("upload", "usage.csv", "--concurrency", "1").exit_code == 1
    billing_server.respond = contract
    failed = read_rows(home.folder / "usage.failed.csv")
    failed[-1]["total_usage"] = "7"
    cells = sorted((row[column] for row in failed), reverse=True)
    rewrite(home.folder / "one.csv", [{**row, column: cell} for row, cell in zip(failed, cells, strict=True)])
    run = home.run_here("replay", "one.csv")
    assert run.exit_code == 2
    assert f"one.csv: not done: in {column}, " in run.said
    assert "as when only some of the columns are sorted" in run.said
    assert len(billing_server.billed()) == 1
    rewrite(home.folder / "right.csv", [{**row, "meter_id": f"{row['meter_id']}.v2"} for row in failed])
    assert home.run_here("replay", "right.csv").exit_code == 0
    assert len(billing_server.billed()) == len(rows) + 1


def test_events_of_a_good_night_that_were_sorted_apart_from_ours_are_not_posted(
    home: Home, billing_server: BillingServer
) -> None:
    """Few of its rows failed, and each of them has an accepted row's cells then."""
    rows = [BilledRow(f"t{number % 3}", f"d{number}", "api", (7919 * number) % 99_991) for number in range(2000)]
    billing_server.respond = takes([row for row in rows if row.total_usage % 131], otherwise=reply(422))
    write_csv(home.folder / "usage.csv", rows)
    assert home.run_here("upload", "usage.csv").exit_code == 1
    billing_server.respond = contract
    results = read_rows(home.folder / "usage.results.csv")
    events = sorted([row[column] for column in EVENT_COLUMNS] for row in results)
    moved = [
        {**row, **dict(zip(EVENT_COLUMNS, cells, strict=True))} for row, cells in zip(results, events, strict=True)
    ]
    rewrite(home.folder / "usage.results.csv", moved)
    refused = home.run_here("replay", "usage.results.csv")
    assert refused.exit_code == 2
    assert "as when only some of the columns are sorted" in refused.said
    assert set(billing_server.billed().values()) == {1}


def test_whole_events_that_were_moved_onto_posted_ones_are_not_posted(
    home: Home, billing_server: BillingServer
) -> None:
    """A replay had half of them accepted; in its results the events are sorted apart from our columns."""
    rows = [BilledRow(f"t{number % 3}", f"d{number}", "api", (7919 * number) % 9973) for number in range(40)]
    billing_server.respond = takes(rows[:1], otherwise=reply(422))
    write_csv(home.folder / "usage.csv", rows)
    assert home.run_here("upload", "usage.csv", "--concurrency", "1").exit_code in (1, 3)
    billing_server.respond = takes(rows[::2], otherwise=reply(422))
    assert home.run_here("replay", "usage.failed.csv").exit_code == 1
    billing_server.respond = contract
    results = home.folder / "usage.replay1.results.csv"
    replayed = read_rows(results)
    events = sorted((row["total_usage"], *(row[column] for column in EVENT_COLUMNS)) for row in replayed)
    moved = [
        {**row, **dict(zip(EVENT_COLUMNS, cells, strict=True))}
        for row, (_, *cells) in zip(replayed, events, strict=True)
    ]
    rewrite(results, moved)
    assert home.run_here("replay", results).exit_code == 2
    assert set(billing_server.billed().values()) == {1}


@pytest.mark.parametrize("correction", ["corrected before", "cut off behind"])
def test_a_sorted_column_is_noticed_beside_other_edits(
    home: Home, billing_server: BillingServer, correction: str
) -> None:
    """A person had corrected some cells of it, or deletes the last rows."""
    rows = [BilledRow(f"t{number % 3}", f"d{number}", "api", (7919 * number) % 9973) for number in range(40)]
    billing_server.respond = takes(rows[:1], otherwise=reply(422))
    write_csv(home.folder / "usage.csv", rows)
    assert home.run_here("upload", "usage.csv", "--concurrency", "1").exit_code in (1, 3)
    billing_server.respond = contract
    failed = read_rows(home.folder / "usage.failed.csv")
    if correction == "corrected before":
        for row in failed[:5]:
            row["total_usage"] += "000"
    usages = sorted(int(row["total_usage"]) for row in failed)
    failed = [{**row, "total_usage": str(usage)} for row, usage in zip(failed, usages, strict=True)]
    rewrite(home.folder / "some.csv", failed if correction == "corrected before" else failed[:30])
    assert home.run_here("replay", "some.csv").exit_code == 2
    assert len(billing_server.billed()) == 1


@pytest.mark.parametrize("count", [60, 60_000], ids=["", "of which some values are counted"])
def test_usage_that_was_sorted_alone_is_noticed_though_some_of_it_is_alike(count: int) -> None:
    """A third of it is 0; beside that a person corrected two."""
    rows = [_event(number, usage=0 if number % 3 == 0 else (7919 * number) % 999_983) for number in range(count)]
    usages = [*sorted(row["total_usage"] for row in rows[2:]), 5, 6]
    moved, corrected = MovedCells(), MovedCells()
    for row, usage in zip(rows, usages, strict=True):
        moved.add(row, {**row, "total_usage": usage}, is_recorded=False)
        corrected.add(row, {**row, "total_usage": (row["total_usage"] * 13 + 5) % 1000}, is_recorded=False)
    assert moved.cells_by_column()["total_usage"] >= 0.6 * count
    assert corrected.cells_by_column() == {}


def _event(number: int, *, usage: int) -> dict[str, Any]:
    return {"tenant_id": "acme", "device_id": f"d{number}", "meter_id": "api", "total_usage": usage}


@pytest.mark.parametrize("names", [2, 3, 10])
def test_a_few_names_that_were_sorted_alone_are_noticed_in_a_long_file(names: int) -> None:
    """Each of them counts, however many rows there are."""
    meters = [f"meter-{number % names}" for number in range(60_000)]
    moved = MovedCells()
    for number, (meter, other) in enumerate(zip(meters, sorted(meters), strict=True)):
        row = _event(number, usage=1)
        moved.add({**row, "meter_id": meter}, {**row, "meter_id": other}, is_recorded=False)
    assert moved.cells_by_column()["meter_id"] >= len(meters) / 3


def test_names_that_make_rows_like_posted_ones_are_asked_about(home: Home, billing_server: BillingServer) -> None:
    """Hours of one device look alike without their time, and so does what went up under another name before."""
    rows = [BilledRow(f"t{at % 20}", "d", "api", at % 4) for at in range(240)]
    wrong = [row._replace(meter_id="ap") for row in rows[:20]]
    billing_server.respond = takes(rows, otherwise=reply(422))
    write_csv(home.folder / "usage.csv", [*rows[20:], *wrong])
    assert home.run_here("upload", "usage.csv").exit_code == 1
    failed = read_rows(home.folder / "usage.failed.csv")
    rewrite(home.folder / "usage.failed.csv", [{**row, "meter_id": "api"} for row in failed])
    refused = home.run_here("replay", "usage.failed.csv")
    assert refused.exit_code == 2
    assert "if these are events that were posted, take those rows out of the file; if they are other" in refused.said
    assert home.run_here("replay", "usage.failed.csv", "--allow-overlap").exit_code == 0
    assert billing_server.billed() == Counter(rows)


@pytest.mark.parametrize("column", ["tenant_id", "meter_id"])
def test_names_that_were_swapped_are_posted(home: Home, billing_server: BillingServer, column: str) -> None:
    """Each of two names became the other in all rows: it is what a person corrects, and no sorting."""
    swapped = {"one": "other", "other": "one"}
    names = ["one"] * 12 + ["other"] * 12
    rows = [
        BilledRow(name if column == "tenant_id" else "acme", f"d{at}", name if column == "meter_id" else "api", at)
        for at, name in enumerate(names)
    ]
    good = BilledRow("acme", "good", "api", 1)
    write_csv(home.folder / "usage.csv", [good, *rows])
    billing_server.respond = takes([good], otherwise=reply(422))
    assert home.run_here("upload", "usage.csv", "--concurrency", "1").exit_code in (1, 3)
    billing_server.respond = contract
    failed = read_rows(home.folder / "usage.failed.csv")
    rewrite(home.folder / "usage.failed.csv", [{**row, column: swapped[row[column]]} for row in failed])
    run = home.run_here("replay", "usage.failed.csv")
    assert run.exit_code == 0, run.said


def test_a_failed_file_is_replayed_though_its_rows_are_like_accepted_ones(
    home: Home, billing_server: BillingServer
) -> None:
    """Two identical rows are two events, whether they were so or have become so; as it is, a file is never refused."""
    twins = [*ROWS, *ROWS[:12], ROWS[12]._replace(tenant_id="acmee")]
    posted = itertools.count()
    billing_server.respond = lambda received: (
        contract(received) if received.method == "GET" or next(posted) < 40 else reply(422)
    )
    write_csv(home.folder / "usage.csv", twins)
    assert home.run_here("upload", "usage.csv", "--concurrency", "1").exit_code == 1
    billing_server.respond = contract
    failed = read_rows(home.folder / "usage.failed.csv")
    failed[-1]["tenant_id"] = ROWS[12].tenant_id
    rewrite(home.folder / "usage.failed.csv", failed)
    run = home.run_here("replay", "usage.failed.csv")
    assert run.exit_code == 0, run.said
    assert billing_server.billed() == Counter([*ROWS, *ROWS[:13]])


@pytest.mark.parametrize("posted", [15, 38])
def test_the_failed_file_of_before_a_kill_is_replayed(home: Home, billing_server: BillingServer, posted: int) -> None:
    """All rows of a run that was killed count as posted; its own are not held against it, nor are edited ones."""
    stop_an_upload(home, billing_server, posted=posted)
    posts = len(billing_server.posts)
    backend = HeldBack(answered=0)
    billing_server.respond = backend
    with home.started("upload", "usage.csv", "--concurrency", "1") as process:
        billing_server.wait_for(posts=posts + 1)
        process.kill()
        ended(process)
    backend.release()
    billing_server.respond = contract
    rows = read_rows(home.folder / "usage.failed.csv")
    others = [rows[0], *rows[:0:-1]]
    rewrite(
        home.folder / "usage.failed.csv",
        [
            {**row, **{column: other[column] for column in EVENT_COLUMNS}}
            for row, other in zip(rows, others, strict=True)
        ],
    )
    assert home.run_here("replay", "usage.failed.csv").exit_code == 1
    assert billing_server.billed() == Counter(ROWS)


# --- commands that were refused, ledgers that were lost ---------------------------------------------------------------


def test_a_refused_again_is_not_carried_out_by_the_next_command(home: Home, billing_server: BillingServer) -> None:
    """Nothing was posted by it, and nothing of it stays."""
    upload_some(home, billing_server, ROWS[:10])
    billing_server.respond = contract
    (home.folder / "taken").write_text("")
    assert home.run_here("upload", "usage.csv", "--again", "--results-dir", "taken").exit_code == 2
    assert home.run_here("upload", "usage.csv").exit_code == 0
    assert billing_server.billed() == Counter(ROWS)
    assert home.run_here("upload", "usage.csv", "--again").exit_code == 0
    assert billing_server.billed() == Counter([*ROWS, *ROWS])


def with_semicolons(home: Home) -> None:
    """Save the results as spreadsheets do in many countries."""
    rows = read_rows(home.folder / "usage.results.csv")
    with (home.folder / "usage.results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    (home.folder / "usage.failed.csv").unlink()


def without_results(home: Home) -> None:
    """Keep the failed file alone, as those do who prune results."""
    (home.folder / "usage.results.csv").unlink()


def with_an_empty_first_row(home: Home) -> None:
    """Empty the first row of the failed file, as a spreadsheet does, and keep that file alone."""
    without_results(home)
    first, *others = read_rows(home.folder / "usage.failed.csv")
    rewrite(home.folder / "usage.failed.csv", [dict.fromkeys(first, ""), *others])


def with_those_of_a_replay_alone(home: Home) -> None:
    """Replay, and keep the results of that."""
    assert home.run_here("replay", "usage.failed.csv").exit_code == 1
    for name in ("usage.results.csv", "usage.failed.csv", "usage.replay1.failed.csv"):
        (home.folder / name).unlink()


@pytest.mark.parametrize(
    "left", [with_semicolons, without_results, with_an_empty_first_row, with_those_of_a_replay_alone]
)
def test_any_file_that_names_a_lost_run_of_the_log_refuses_it(
    home: Home, billing_server: BillingServer, left: Callable[[Home], None]
) -> None:
    """Its rows may be billed already."""
    upload_some(home, billing_server, ROWS[:10])
    left(home)
    shutil.rmtree(home.ledger)
    refused = home.run_here("upload", "usage.csv")
    assert refused.exit_code == 2
    assert "which the ledger in" in refused.said
    assert billing_server.billed() == Counter(ROWS[:10])


def test_a_failed_file_of_another_log_that_nobody_knows_any_more_is_no_obstacle(
    home: Home, billing_server: BillingServer
) -> None:
    """The ledger of a log of the same name may be long pruned; its failed file waits for a person."""
    upload_some(home, billing_server, ROWS[:10])
    without_results(home)
    shutil.rmtree(home.ledger)
    billing_server.respond = contract
    write_csv(home.folder / "usage.csv", usage_rows(60)[40:])
    assert home.run_here("upload", "usage.csv").exit_code == 0
