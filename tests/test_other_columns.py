"""Whether a log may be posted that comes again under other columns: none of its rows is like one that was posted."""

from __future__ import annotations

import shutil
from collections import Counter

import pandas as pd
import pyarrow.parquet as pq
import pytest

from tests.billing_answers import Answer, reply
from tests.billing_contract import BilledRow, contract
from tests.billing_server import BillingServer
from tests.command import EVENT_COLUMNS, Home, ended, upload_and_correct, usage_rows, write_csv
from tests.held_back import HeldBack, kill_an_upload

COLUMNS_BY_CHANGE = {
    "one more": (("region", "at"), ["eu", "7Z"]),
    "one less": ((), []),
    "another name": (("recorded_at",), ["7Z"]),
}


@pytest.mark.parametrize(("columns", "cells"), COLUMNS_BY_CHANGE.values(), ids=COLUMNS_BY_CHANGE.keys())
def test_a_log_that_comes_again_under_other_columns_is_refused(
    home: Home, billing_server: BillingServer, columns: tuple[str, ...], cells: list[str]
) -> None:
    """No row of it is like one that was posted, and yet it is the same usage; a dry run says so too."""
    rows = usage_rows(20)
    path = write_csv(home.folder / "usage.csv", [(*row, "7Z") for row in rows], columns=(*EVENT_COLUMNS, "at"))
    assert home.run_here("upload", path).exit_code == 0
    write_csv(path, [(*row, *cells) for row in usage_rows(50)], columns=(*EVENT_COLUMNS, *columns))
    for options in (("--dry-run",), ()):
        refused = home.run_here("upload", path, *options)
        assert refused.exit_code == 2, refused.said
        assert "some 20 of its events (tenant, device, meter and usage) are those of another log" in refused.said
    assert len(billing_server.posts) == 20
    assert home.run_here("upload", path, "--allow-overlap").exit_code == 0


@pytest.mark.parametrize("between", ["nothing in it", "nothing good in it", "nothing posted"])
def test_a_log_that_posted_nothing_does_not_hide_the_one_before(
    home: Home, billing_server: BillingServer, between: str
) -> None:
    """As when an export is broken for once: what counts is the last log in the place of which something was posted."""
    path = write_csv(home.folder / "usage.csv", usage_rows(20))
    assert home.run_here("upload", path).exit_code == 0
    if between == "nothing in it":
        write_csv(path, [])
    elif between == "nothing good in it":
        write_csv(path, [(*row[:3], "none", "eu") for row in usage_rows(20)], columns=(*EVENT_COLUMNS, "region"))
    else:
        billing_server.respond = lambda _: reply(401)
        write_csv(path, usage_rows(60)[40:])
    home.run_here("upload", path)
    billing_server.respond = contract
    write_csv(path, [(*row, "eu") for row in usage_rows(20)], columns=(*EVENT_COLUMNS, "region"))
    assert home.run_here("upload", path).exit_code == 2
    assert billing_server.billed() == Counter(usage_rows(20))


def test_an_older_log_that_is_put_back_hides_no_newer_one(home: Home, billing_server: BillingServer) -> None:
    """Running its upload again posts nothing, so that the newer one is still the last that did."""
    first = write_csv(home.folder / "first.csv", usage_rows(20))
    second = write_csv(home.folder / "second.csv", usage_rows(40)[20:])
    for log in (first, second, first):
        assert home.run_here("upload", shutil.copy2(log, home.folder / "usage.csv")).exit_code == 0
    columns = (*EVENT_COLUMNS, "region")
    path = write_csv(home.folder / "usage.csv", [(*row, "eu") for row in usage_rows(40)[20:]], columns=columns)
    assert home.run_here("upload", path).exit_code == 2
    assert billing_server.billed() == Counter(usage_rows(40))


@pytest.mark.parametrize("nights_later", [0, 1])
@pytest.mark.parametrize("command", ["upload", "replay"])
def test_a_log_that_went_up_under_other_columns_meanwhile_is_not_sent_after_all(
    home: Home, billing_server: BillingServer, command: str, nights_later: int
) -> None:
    """Neither by the same command, with the log put back as it was, nor by a replay of what it left."""
    path = write_csv(home.folder / "usage.csv", usage_rows(20))
    stands = home.folder / "as it was"
    shutil.copy2(path, stands)
    billing_server.respond = lambda _: reply(401)
    assert home.run_here("upload", path).exit_code == 3
    failed = home.folder / "usage.failed.csv"
    shutil.copy2(failed, home.folder / "kept.failed.csv")
    billing_server.respond = contract
    write_csv(path, [(*row, "eu") for row in usage_rows(20)], columns=(*EVENT_COLUMNS, "region"))
    assert home.run_here("upload", path).exit_code == 0
    if nights_later:
        assert home.run_here("upload", write_csv(path, usage_rows(60)[40:])).exit_code == 0
    shutil.copy2(stands, path)
    refused = home.run_here(command, "kept.failed.csv" if command == "replay" else path)
    assert refused.exit_code == 2, refused.said
    assert "some 20 of its events" in refused.said
    assert set(billing_server.billed().values()) == {1}


def test_a_log_that_was_refused_is_refused_the_night_after_too(home: Home, billing_server: BillingServer) -> None:
    """Another log is the last one in its place then."""
    path = home.folder / "usage.csv"
    assert home.run_here("upload", write_csv(path, usage_rows(20))).exit_code == 0
    columns = (*EVENT_COLUMNS, "region")
    again = write_csv(home.folder / "again", [(*row, "eu") for row in usage_rows(20)], columns=columns)
    assert home.run_here("upload", shutil.copy2(again, path)).exit_code == 2
    assert home.run_here("upload", write_csv(path, usage_rows(40)[20:])).exit_code == 0
    assert home.run_here("upload", shutil.copy2(again, path)).exit_code == 2
    assert set(billing_server.billed().values()) == {1}


@pytest.mark.parametrize("between", ["its first night again", "an outage"])
def test_nights_after_their_columns_changed_are_taken(home: Home, billing_server: BillingServer, between: str) -> None:
    """Each has the same events at another time, and was allowed to have them once."""
    path = home.folder / "usage.csv"
    for night, column in enumerate(["at", "at", "time", "time"]):
        write_csv(path, [(*row, f"{night}Z") for row in usage_rows(20)], columns=(*EVENT_COLUMNS, column))
        if night == 0:
            shutil.copy2(path, home.folder / "first")
        is_out = night == 2 and between == "an outage"
        billing_server.respond = (lambda _: reply(401)) if is_out else contract
        run = home.run_here("upload", path, *(["--allow-overlap"] if night == 2 else []))
        assert run.exit_code == (3 if is_out else 0), run.said
        billing_server.respond = contract
        if is_out:
            assert home.run_here("replay", max(home.folder.glob("*.failed.csv"))).exit_code == 0
        elif night == 2:
            assert home.run_here("upload", shutil.copy2(home.folder / "first", path)).exit_code == 0
    assert set(billing_server.billed().values()) == {4}


@pytest.mark.parametrize("command", ["upload", "replay"])
def test_a_run_that_goes_on_elsewhere_is_compared_where_its_log_was(
    home: Home, billing_server: BillingServer, command: str
) -> None:
    """A kept copy of the log, and a link to the day's folder that has moved on, lead away from what replaced it."""
    for name in ("20", "21", "archive"):
        (home.folder / name).mkdir()
    today = home.folder / "today"
    today.symlink_to("20")
    path = write_csv(today / "usage.csv", usage_rows(20))
    shutil.copy2(path, home.folder / "archive" / "usage.csv")
    billing_server.respond = lambda _: reply(401)
    assert home.run_here("upload", path).exit_code == 3
    shutil.copy2(today / "usage.failed.csv", home.folder / "kept.failed.csv")
    billing_server.respond = contract
    write_csv(path, [(*row, "eu") for row in usage_rows(20)], columns=(*EVENT_COLUMNS, "region"))
    assert home.run_here("upload", path).exit_code == 0
    today.unlink()
    today.symlink_to("21")
    refused = home.run_here(command, "archive/usage.csv" if command == "upload" else "kept.failed.csv")
    assert refused.exit_code == 2
    assert set(billing_server.billed().values()) == {1}


def test_a_run_that_was_allowed_goes_on_beside_the_log_it_was_compared_with(
    home: Home, billing_server: BillingServer
) -> None:
    """--allow-overlap once is enough, whatever is left of the run then."""
    path = write_csv(home.folder / "usage.csv", usage_rows(20))
    assert home.run_here("upload", path).exit_code == 0
    write_csv(path, [(*row, "eu") for row in usage_rows(20)], columns=(*EVENT_COLUMNS, "region"))
    billing_server.respond = lambda _: reply(401)
    assert home.run_here("upload", path, "--allow-overlap").exit_code == 3
    billing_server.respond = contract
    assert home.run_here("upload", path).exit_code == 0
    assert set(billing_server.billed().values()) == {2}


def test_a_wrong_log_hides_none_that_was_posted(home: Home, billing_server: BillingServer) -> None:
    """Few of its rows were posted, and all of the one before it."""
    rows = usage_rows(20)
    path = write_csv(home.folder / "usage.csv", rows)
    assert home.run_here("upload", path).exit_code == 0
    billing_server.respond = lambda received: (
        reply(422) if received.method == "POST" and received.billed_row.device_id != "dev-40" else contract(received)
    )
    assert home.run_here("upload", write_csv(path, usage_rows(60)[40:])).exit_code == 1
    billing_server.respond = contract
    write_csv(path, [(*row, "eu") for row in rows], columns=(*EVENT_COLUMNS, "region"))
    assert home.run_here("upload", path).exit_code == 2
    assert set(billing_server.billed().values()) == {1}


def test_a_wrong_log_hides_no_short_one_that_was_posted(home: Home, billing_server: BillingServer) -> None:
    """All of its events come again in a much longer log: looked for like that is the last log in the place alone."""
    path = write_csv(home.folder / "usage.csv", usage_rows(5))
    assert home.run_here("upload", path).exit_code == 0
    billing_server.respond = lambda received: (
        reply(422) if received.method == "POST" and received.billed_row.device_id != "dev-40" else contract(received)
    )
    assert home.run_here("upload", write_csv(path, usage_rows(60)[40:])).exit_code == 1
    billing_server.respond = contract
    write_csv(path, [(*row, "eu") for row in usage_rows(38)], columns=(*EVENT_COLUMNS, "region"))
    assert home.run_here("upload", path).exit_code == 2
    assert set(billing_server.billed().values()) == {1}


def test_a_last_log_that_posted_nothing_excuses_no_other(home: Home, billing_server: BillingServer) -> None:
    """It has the same events; but it is the log before it that posted them."""
    path = home.folder / "usage.csv"
    assert home.run_here("upload", write_csv(path, usage_rows(20))).exit_code == 0
    assert home.run_here("upload", write_csv(path, usage_rows(40)[20:])).exit_code == 0
    write_csv(path, [(*row, "eu") for row in usage_rows(20)], columns=(*EVENT_COLUMNS, "region"))
    billing_server.respond = lambda _: reply(401)
    assert home.run_here("upload", path, "--allow-overlap").exit_code == 3
    billing_server.respond = contract
    write_csv(path, [(*row, "eu") for row in usage_rows(20)], columns=(*EVENT_COLUMNS, "zone"))
    assert home.run_here("upload", path).exit_code == 2
    assert set(billing_server.billed().values()) == {1}


def test_a_run_that_ends_after_a_newer_one_does_not_hide_that(home: Home, billing_server: BillingServer) -> None:
    """A slow upload of a log that another was put in the place of meanwhile."""
    path = write_csv(home.folder / "usage.csv", usage_rows(20))
    backend = HeldBack(answered=2)
    billing_server.respond = backend
    with home.started("upload", "usage.csv", "--concurrency", "1") as process:
        billing_server.wait_for(posts=3)
        billing_server.respond = contract
        write_csv(home.folder / "newer", usage_rows(60)[40:]).replace(path)
        assert home.run_here("upload", path).exit_code == 0
        backend.release()
        ended(process)
    write_csv(path, [(*row, "eu") for row in usage_rows(60)[40:]], columns=(*EVENT_COLUMNS, "region"))
    assert home.run_here("upload", path).exit_code == 2
    assert set(billing_server.billed().values()) == {1}


def test_what_a_replay_posted_since_is_not_posted_under_other_columns(
    home: Home, billing_server: BillingServer
) -> None:
    """Of a run that had posted nothing when the log's own began."""
    path = write_csv(home.folder / "usage.csv", usage_rows(20))
    billing_server.respond = lambda _: reply(401)
    assert home.run_here("upload", path).exit_code == 3
    shutil.copy2(home.folder / "usage.failed.csv", home.folder / "kept.failed.csv")
    write_csv(path, [(*row, "eu") for row in usage_rows(20)], columns=(*EVENT_COLUMNS, "region"))
    assert home.run_here("upload", path).exit_code == 3
    billing_server.respond = lambda received: (
        reply(422) if received.method == "POST" and received.billed_row.device_id == "dev-3" else contract(received)
    )
    assert home.run_here("replay", "kept.failed.csv").exit_code == 1
    billing_server.respond = contract
    assert home.run_here("upload", path).exit_code == 2
    assert set(billing_server.billed().values()) == {1}


@pytest.mark.parametrize("between", [[], ["upload", "usage.csv"]], ids=["at once", "after its upload ran again"])
def test_rows_that_a_replay_corrected_count_under_other_columns_too(
    home: Home, billing_server: BillingServer, between: list[str]
) -> None:
    """The log itself never had the events that were posted."""
    rows = usage_rows(12)
    upload_and_correct(home, rows)
    assert home.run_here("replay", "usage.failed.csv").exit_code == 0
    if between:
        assert home.run_here(*between).exit_code == 0
    columns = (*EVENT_COLUMNS, "region")
    path = write_csv(home.folder / "usage.csv", [(*row, "eu") for row in rows], columns=columns)
    assert home.run_here("upload", path).exit_code == 2
    assert billing_server.billed() == Counter(rows)


@pytest.mark.parametrize("seed", range(6))
def test_a_short_log_in_a_much_longer_one_of_other_columns_is_counted(
    home: Home, billing_server: BillingServer, seed: int
) -> None:
    """However few of the longer one's rows it is: its events would be billed twice."""
    first = [BilledRow(f"t{seed}", f"d{seed}", "m", 7)]
    path = write_csv(home.folder / "usage.csv", first)
    assert home.run_here("upload", path).exit_code == 0
    write_csv(path, [(*row, "eu") for row in [*first, *usage_rows(1500)]], columns=(*EVENT_COLUMNS, "region"))
    refused = home.run_here("upload", path, "--dry-run")
    assert refused.exit_code == 2, refused.said
    assert "some 1 of its events" in refused.said
    assert len(billing_server.posts) == 1


def test_the_index_of_pandas_is_no_other_column(home: Home, billing_server: BillingServer) -> None:
    """A frame that was filtered brings it along for a night: the rows are compared as those of any night."""
    for night in range(3):
        frame = pd.DataFrame([(*row, night) for row in usage_rows(20)], columns=[*EVENT_COLUMNS, "day"])
        (frame if night != 1 else frame.sort_values("device_id")).to_parquet(home.folder / "usage.parquet")
        assert home.run_here("upload", "usage.parquet").exit_code == 0
    assert set(billing_server.billed().values()) == {3}


def test_an_index_of_pandas_that_says_something_counts(home: Home, billing_server: BillingServer) -> None:
    """The hours of a day, say, of usage that is the same each day; and a copy that has them is no other usage."""
    day = pd.DataFrame(usage_rows(20), columns=list(EVENT_COLUMNS))
    for night in (20, 21):
        day.set_index(pd.date_range(f"2026-11-{night}", periods=20, freq="h")).to_parquet(
            home.folder / f"{night}.parquet"
        )
        assert home.run_here("upload", f"{night}.parquet").exit_code == 0
    day.assign(total_usage=day["total_usage"] + 7).to_parquet(home.folder / "usage.parquet")
    assert home.run_here("upload", "usage.parquet").exit_code == 0
    later = day.assign(total_usage=day["total_usage"] + 7).set_index(pd.date_range("2026-11-22", periods=20, freq="h"))
    later.to_parquet(home.folder / "usage.parquet")
    assert home.run_here("upload", "usage.parquet").exit_code == 2
    assert len(billing_server.posts) == 60


@pytest.mark.parametrize("before_number", ["", "dev-"], ids=["numbers", "names"])
def test_an_index_of_pandas_that_a_column_is_counts(
    home: Home, billing_server: BillingServer, before_number: str
) -> None:
    """Where --column names it, the rows of two nights differ by it alone."""
    for night in (1000, 2000):
        devices = [f"{before_number}{night + number}" for number in range(200)]
        usage = {"tenant_id": "acme", "meter_id": "api", "total_usage": [number % 10 for number in range(200)]}
        pd.DataFrame(usage, index=pd.Index(devices)).to_parquet(home.folder / f"{night}.parquet")
        run = home.run_here("upload", f"{night}.parquet", "--column", "device_id=__index_level_0__")
        assert run.exit_code == 0, run.said
    assert len(billing_server.billed()) == 400


def test_events_of_their_own_ids_may_come_again_under_other_columns(home: Home, billing_server: BillingServer) -> None:
    """Each is known by its id: those that were posted are not posted again, and the others are."""
    path = write_csv(home.folder / "usage.csv", usage_rows(20))
    assert home.run_here("upload", path, "--event-id", "device_id").exit_code == 0
    write_csv(path, [(*row, "eu") for row in usage_rows(25)], columns=(*EVENT_COLUMNS, "region"))
    assert home.run_here("upload", path, "--event-id", "device_id").exit_code == 0
    assert billing_server.billed() == Counter(usage_rows(25))


def test_the_next_log_of_the_new_columns_is_taken(home: Home, billing_server: BillingServer) -> None:
    """Every night may have the same events at another time: rows under the same columns are compared as rows."""
    for night, columns in enumerate(("at", "time", "time")):
        rows = [(*row, f"{night}Z") for row in usage_rows(20)]
        path = write_csv(home.folder / "usage.csv", rows, columns=(*EVENT_COLUMNS, columns))
        options = ["--allow-overlap"] if night == 1 else []
        assert home.run_here("upload", path, *options).exit_code == 0
    assert set(billing_server.billed().values()) == {3}


@pytest.mark.parametrize("refusal", [reply(422), reply(429)], ids=["rejected", "stopped"])
def test_a_log_of_which_nothing_was_posted_may_come_again_under_other_columns(
    home: Home, billing_server: BillingServer, refusal: Answer
) -> None:
    """As one does that was exported anew because all of it was refused."""
    path = write_csv(home.folder / "usage.csv", usage_rows(8))
    billing_server.respond = lambda received: refusal if received.method == "POST" else contract(received)
    assert home.run_here("upload", path, "--retries", "0", "--patience", "0").exit_code in (1, 3)
    billing_server.respond = contract
    write_csv(path, [(*row, "eu") for row in usage_rows(8)], columns=(*EVENT_COLUMNS, "region"))
    assert home.run_here("upload", path).exit_code == 0
    assert billing_server.billed() == Counter(usage_rows(8))


def test_a_killed_upload_of_a_log_counts_under_other_columns_too(home: Home, billing_server: BillingServer) -> None:
    """Whether any of it was posted is not known, and the way on is to finish it."""
    kill_an_upload(home, billing_server)
    write_csv(home.folder / "usage.csv", [(*row, "eu") for row in usage_rows(6)], columns=(*EVENT_COLUMNS, "region"))
    refused = home.run_here("upload", "usage.csv")
    assert refused.exit_code == 2
    assert "put that back as it was and run the same command again" in refused.said


def test_a_sorted_copy_of_a_table_of_pandas_is_the_same_log(home: Home, billing_server: BillingServer) -> None:
    """Sorting or joining frames writes an index along, which numbers rows as they once stood: it is no usage."""
    days = [pd.DataFrame(usage_rows(40)[half], columns=list(EVENT_COLUMNS)) for half in (slice(20), slice(20, 40))]
    for number, day in enumerate(days):
        day.to_parquet(home.folder / f"day-{number}.parquet")
    assert home.run_here("upload", "day-0.parquet", "day-1.parquet").exit_code == 0
    month = pd.concat(days).sort_values("total_usage", ascending=False)
    month.to_parquet(home.folder / "month.parquet")
    assert "__index_level_0__" in pq.read_schema(home.folder / "month.parquet").names
    assert home.run_here("upload", "month.parquet").exit_code == 2
    assert len(billing_server.posts) == 40
