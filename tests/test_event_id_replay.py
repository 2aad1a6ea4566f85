"""Replays of uploads whose events are named by the log itself (--event-id)."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import BilledRow, Received, Respond, contract
from tests.billing_server import BillingServer
from tests.command import EVENT_COLUMNS, Home, cells, read_rows, usage_rows, write_csv

ROWS = usage_rows(5)
Edits = Mapping[int, Mapping[str, str]]


def failing(*devices: str, answer: Answer) -> Respond:
    """Answer rightly, but for the posts of some devices."""

    def respond(received: Received) -> Answer:
        return answer if received.headers.get("x-device-id") in devices else contract(received)

    return respond


def uploaded(home: Home, rows: list[tuple[str, BilledRow]], *, name: str = "usage.csv", exit_code: int = 1) -> Path:
    """Upload a log by its own ids, and give its failed file."""
    path = write_csv(home.folder / name, [(own_id, *row) for own_id, row in rows], columns=("id", *EVENT_COLUMNS))
    run = home.run_here("upload", name, "--event-id", "id", "--retries", "0")
    assert run.exit_code == exit_code, run.said
    return path.with_suffix(".failed.csv")


def edit(path: Path, edits: Edits) -> None:
    """Change cells of rows, the first being 0, as a person would."""
    rows = read_rows(path)
    for at, cell_by_column in edits.items():
        rows[at].update(cell_by_column)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def replayed(home: Home, name: str, *, number: int = 1, exit_code: int = 0) -> list[dict[str, str]]:
    """Replay a file and read its results."""
    run = home.run_here("replay", name, "--retries", "0")
    assert run.exit_code == exit_code, run.said
    stem = name.partition(".")[0]
    return read_rows(home.folder / f"{stem}.replay{number}.results.csv")


def test_a_row_that_was_put_right_is_posted_and_keeps_its_event(home: Home, billing_server: BillingServer) -> None:
    """It has the event id that it had; another file with the old values is a conflict, with the new ones accepted."""
    billing_server.respond = failing("dev-1", answer=reply(422))
    failed = uploaded(home, list(zip("abc", ROWS, strict=False)))
    before = read_rows(failed)
    billing_server.respond = contract
    edit(failed, {0: {"total_usage": "7"}})
    after = replayed(home, "usage.failed.csv")
    fixed = ROWS[1]._replace(total_usage=7)
    assert billing_server.billed() == Counter([ROWS[0], fixed, ROWS[2]])
    assert cells(after, "upload_event_id") == cells(before, "upload_event_id")
    uploaded(home, [("b", ROWS[1]), ("x", ROWS[3])], name="old.csv")
    assert cells(read_rows(home.folder / "old.results.csv"), "upload_reason") == ["conflict", ""]
    uploaded(home, [("b", fixed), ("y", ROWS[4])], name="new.csv", exit_code=0)
    assert billing_server.billed() == Counter([ROWS[0], fixed, *ROWS[2:]])


def test_a_conflict_that_is_given_an_id_of_its_own_is_posted(home: Home, billing_server: BillingServer) -> None:
    """The new id makes its event id; the old file, replayed once more, does not post it again."""
    other = ROWS[0]._replace(total_usage=9)
    failed = uploaded(home, [("a", ROWS[0]), ("a", other), ("b", ROWS[1])])
    edit(failed, {0: {"id": "c"}})
    old = failed.read_bytes()
    [row] = replayed(home, "usage.failed.csv")
    assert row["upload_status"] == "accepted"
    assert row["upload_event_id"] in billing_server.billed_by("x-request-id")
    failed.write_bytes(old)
    [row] = replayed(home, "usage.failed.csv", number=2)
    assert row["upload_status"] == "accepted"
    assert billing_server.billed() == Counter([ROWS[0], other, ROWS[1]])


def test_a_duplicate_that_is_replayed_as_it_is_stays_one(home: Home, billing_server: BillingServer) -> None:
    """Replaying is no way round the claims."""
    uploaded(home, [("a", ROWS[0]), ("a", ROWS[0])])
    [row] = replayed(home, "usage.failed.csv", exit_code=1)
    assert row["upload_reason"] == "duplicate"
    assert billing_server.billed() == Counter([ROWS[0]])


def test_an_event_settled_in_the_file_that_has_it_is_settled_here(home: Home, billing_server: BillingServer) -> None:
    """Once it is marked as recorded there, this file's row is accepted without a post."""
    billing_server.respond = failing("dev-0", answer=Answer(then=Then.RST))
    doubtful = uploaded(home, [("a", ROWS[0]), ("b", ROWS[1])], name="one.csv")
    billing_server.respond = contract
    uploaded(home, [("a", ROWS[0]), ("c", ROWS[2])], name="two.csv")
    edit(doubtful, {0: {"upload_replay": "recorded"}})
    replayed(home, "one.failed.csv")
    [row] = replayed(home, "two.failed.csv")
    assert row["upload_status"] == "accepted"
    assert billing_server.billed() == Counter(ROWS[:3])


def test_an_event_that_another_file_had_accepted_meanwhile_is_not_posted(
    home: Home, billing_server: BillingServer
) -> None:
    """The failed file is older than the other file's upload; its row becomes accepted."""
    billing_server.respond = failing("dev-0", answer=reply(422))
    uploaded(home, [("a", ROWS[0]), ("b", ROWS[1])], name="one.csv")
    billing_server.respond = contract
    uploaded(home, [("a", ROWS[0]), ("c", ROWS[2])], name="two.csv", exit_code=0)
    [row] = replayed(home, "one.failed.csv")
    assert "accepted before: row 1 of run" in row["upload_detail"]
    assert billing_server.billed() == Counter(ROWS[:3])


@pytest.mark.parametrize("column", ["id", "total_usage"])
def test_resend_posts_an_event_only_as_it_was(home: Home, billing_server: BillingServer, column: str) -> None:
    """An edited id or value is refused; put back, it is posted under the same event id."""
    billing_server.respond = failing("dev-0", answer=Answer(then=Then.RST, bills=False))
    failed = uploaded(home, [("1", ROWS[0]), ("2", ROWS[1])])
    billing_server.respond = contract
    [before] = read_rows(failed)
    edit(failed, {0: {"upload_replay": "resend", column: "77"}})
    [row] = replayed(home, "usage.failed.csv", exit_code=1)
    assert row["upload_reason"] == "in_doubt"
    assert "its cells were edited" in row["upload_detail"]
    edit(failed, {0: {column: before[column]}})
    [row] = replayed(home, "usage.failed.csv", number=2)
    assert billing_server.billed() == Counter(ROWS[:2])
    assert billing_server.posts[-1].headers["x-request-id"] == before["upload_event_id"]


@pytest.mark.parametrize(("own_id", "now"), [("007", "7"), ("1234567890123456", "1.23E+15"), ("3-4", "03-Apr")])
def test_an_id_that_a_spreadsheet_damaged_is_not_taken_for_another(
    home: Home, billing_server: BillingServer, own_id: str, now: str
) -> None:
    """The row fails as changed: under the damaged id the event would be a new one."""
    billing_server.respond = failing("dev-0", answer=reply(422))
    failed = uploaded(home, [(own_id, ROWS[0]), ("b", ROWS[1])])
    billing_server.respond = contract
    edit(failed, {0: {"id": now}})
    [row] = replayed(home, "usage.failed.csv", exit_code=1)
    assert row["upload_reason"] == "changed"
    assert billing_server.billed() == Counter([ROWS[1]])


def test_a_displaced_row_number_is_noticed(home: Home, billing_server: BillingServer) -> None:
    """The number of an accepted row, or of another failed one, makes no failed row accepted."""
    billing_server.respond = failing("dev-0", "dev-1", answer=reply(422))
    failed = uploaded(home, list(zip("abc", ROWS, strict=False)))
    billing_server.respond = contract
    edit(failed, {0: {"upload_row": "3"}, 1: {"upload_row": "1"}})
    rows = replayed(home, "usage.failed.csv", exit_code=1)
    assert cells(rows, "upload_reason") == ["malformed", "malformed"]
    assert billing_server.billed() == Counter([ROWS[2]])


def test_a_whole_results_file_may_be_replayed(home: Home, billing_server: BillingServer) -> None:
    """Accepted rows stay so, also once the ledger keeps them as ranges; failed ones are posted."""
    billing_server.respond = failing("dev-1", answer=reply(422))
    uploaded(home, list(zip("abc", ROWS, strict=False)))
    billing_server.respond = contract
    rows = replayed(home, "usage.results.csv")
    assert cells(rows, "upload_status") == ["accepted"] * 3
    assert billing_server.billed() == Counter(ROWS[:3])


def test_rows_that_could_not_be_read_or_had_no_id_can_be_put_right(home: Home, billing_server: BillingServer) -> None:
    """They had no event id; they are posted under the one that their new id makes, once."""
    path = home.folder / "usage.csv"
    uploaded_rows = [("", *ROWS[0]), ("b", *ROWS[1])]
    write_csv(path, uploaded_rows, columns=("id", *EVENT_COLUMNS))
    path.write_text(path.read_text() + "ragged,row\n")
    assert home.run_here("upload", "usage.csv", "--event-id", "id").exit_code == 1
    failed = home.folder / "usage.failed.csv"
    whole = dict(zip(EVENT_COLUMNS, map(str, ROWS[2]), strict=True))
    edit(failed, {0: {"id": "a"}, 1: {"id": "c", **whole}})
    old = failed.read_bytes()
    rows = replayed(home, "usage.failed.csv")
    assert cells(rows, "upload_status") == ["accepted"] * 2
    failed.write_bytes(old)
    assert cells(replayed(home, "usage.failed.csv", number=2), "upload_status") == ["accepted"] * 2
    assert billing_server.billed() == Counter(ROWS[:3])


def test_the_column_must_still_be_there(home: Home, billing_server: BillingServer) -> None:
    """Without its ids nothing says which events the rows are."""
    billing_server.respond = failing("dev-0", answer=reply(422))
    failed = uploaded(home, [("a", ROWS[0]), ("b", ROWS[1])])
    text = failed.read_text().replace("id,tenant_id", "other,tenant_id", 1)
    failed.write_text(text)
    run = home.run_here("replay", "usage.failed.csv")
    assert run.exit_code == 2, run.said
    assert "no column named 'id'" in run.said


def test_without_the_ledger_no_duplicate_is_posted(home: Home, billing_server: BillingServer) -> None:
    """Which row has the event of a duplicate or a conflict was known to the lost ledger alone."""
    other = ROWS[1]._replace(total_usage=9)
    uploaded(home, [("a", ROWS[0]), ("a", ROWS[0]), ("b", ROWS[1]), ("b", other)])
    shutil.rmtree(home.ledger)
    run = home.run_here("replay", "usage.failed.csv", "--without-ledger")
    assert run.exit_code == 1, run.said
    rows = read_rows(home.folder / "usage.replay1.failed.csv")
    assert cells(rows, "upload_reason") == ["duplicate", "conflict"]
    assert billing_server.billed() == Counter(ROWS[:2])


def test_an_id_that_a_replay_gave_up_is_free_again(home: Home, billing_server: BillingServer) -> None:
    """Nothing was ever accepted under it, so another file's row that really is this event is posted."""
    billing_server.respond = failing("dev-0", answer=reply(422))
    failed = uploaded(home, [("a", ROWS[0]), ("b", ROWS[1])], name="one.csv")
    billing_server.respond = contract
    edit(failed, {0: {"id": "z"}})
    [row] = replayed(home, "one.failed.csv")
    assert home.run_here("upload", "one.csv", "--event-id", "id").exit_code == 0
    assert read_rows(home.folder / "one.2.results.csv")[0]["upload_event_id"] == row["upload_event_id"]
    write_csv(home.folder / "two.csv", [("a", *ROWS[2]), ("z", *ROWS[0])], columns=("id", *EVENT_COLUMNS))
    dry = home.run_here("upload", "two.csv", "--event-id", "id", "--dry-run")
    assert "1 of 2 rows would be posted" in dry.said
    run = home.run_here("upload", "two.csv", "--event-id", "id")
    assert run.exit_code == 0, run.said
    details = cells(read_rows(home.folder / "two.results.csv"), "upload_detail")
    assert ["accepted before" in detail for detail in details] == [False, True]
    assert billing_server.billed() == Counter(ROWS[:3])


def test_rows_that_a_replay_gave_an_id_do_not_keep_the_upload_from_ending(
    home: Home, billing_server: BillingServer
) -> None:
    """The upload's own cells still have none; run again, it ends well, and another file may not post those events."""
    path = home.folder / "usage.csv"
    write_csv(path, [("", *ROWS[0]), ("b", *ROWS[1])], columns=("id", *EVENT_COLUMNS))
    path.write_text(path.read_text() + "ragged,row\n")
    assert home.run_here("upload", "usage.csv", "--event-id", "id").exit_code == 1
    whole = dict(zip(EVENT_COLUMNS, map(str, ROWS[2]), strict=True))
    edit(home.folder / "usage.failed.csv", {0: {"id": "a"}, 1: {"id": "c", **whole}})
    replayed(home, "usage.failed.csv")
    again = home.run_here("upload", "usage.csv", "--event-id", "id")
    assert again.exit_code == 0, again.said
    uploaded(home, list(zip("ac", (ROWS[0], ROWS[2]), strict=True)), name="other.csv", exit_code=0)
    assert billing_server.billed() == Counter(ROWS[:3])


def test_a_row_that_changed_its_id_and_was_refused_keeps_both(home: Home, billing_server: BillingServer) -> None:
    """After an upload went over it under its old id, the replay's own failed file is still known by the new one."""
    billing_server.respond = failing("dev-0", answer=reply(422))
    failed = uploaded(home, [("a", ROWS[0]), ("b", ROWS[1])])
    edit(failed, {0: {"id": "z"}})
    replayed(home, "usage.failed.csv", exit_code=1)
    assert home.run_here("upload", "usage.csv", "--event-id", "id").exit_code == 1
    billing_server.respond = contract
    [row] = replayed(home, "usage.replay1.failed.csv", number=2)
    assert (row["id"], row["upload_status"]) == ("z", "accepted")
    assert billing_server.billed() == Counter(ROWS[:2])


def test_a_row_in_doubt_under_another_id_names_that_one(home: Home, billing_server: BillingServer) -> None:
    """The upload's failed file has the log's id in its cell, and the event id and the values that were posted."""
    billing_server.respond = failing("dev-0", answer=reply(422))
    failed = uploaded(home, [("a", ROWS[0]), ("b", ROWS[1])])
    edit(failed, {0: {"id": "z", "total_usage": "9"}})
    billing_server.respond = failing("dev-0", answer=Answer(then=Then.RST))
    [lost] = replayed(home, "usage.failed.csv", exit_code=1)
    assert home.run_here("upload", "usage.csv", "--event-id", "id").exit_code == 1
    newest = home.folder / "usage.2.failed.csv"
    [row] = read_rows(newest)
    assert row["upload_event_id"] == lost["upload_event_id"] == billing_server.posts[-1].headers["x-request-id"]
    assert "posted last by a replay, with id 'z', total_usage 9" in row["upload_detail"]
    edit(newest, {0: {"upload_replay": "recorded"}})
    assert home.run_here("replay", newest.name).exit_code == 0
    assert len(billing_server.posts) == 3


@pytest.mark.parametrize("usage", [100, 9])
def test_an_id_that_a_row_gave_up_is_free_for_another_of_its_file(
    home: Home, billing_server: BillingServer, usage: int
) -> None:
    """What was its duplicate or conflict is posted, once; a third row that wants the id is that one's duplicate."""
    billing_server.respond = failing("dev-0", answer=reply(422))
    other = ROWS[1]._replace(total_usage=usage)
    failed = uploaded(home, [("a", ROWS[0]), ("a", other), ("a", other)])
    edit(failed, {0: {"id": "z"}})
    billing_server.respond = contract
    rows = replayed(home, failed.name, exit_code=1)
    assert cells(rows, "upload_reason") == ["", "", "duplicate"]
    assert cells(replayed(home, "usage.replay1.failed.csv", number=2, exit_code=1), "upload_reason") == ["duplicate"]
    assert billing_server.billed() == Counter([ROWS[0], other])


def test_the_usage_may_be_the_id(home: Home, billing_server: BillingServer) -> None:
    """Whatever column names the events, a failed row of it is posted from another file, and the first is told so."""
    billing_server.respond = failing("dev-0", answer=reply(422))
    command = ("--event-id", "total_usage")
    write_csv(home.folder / "one.csv", [ROWS[0], ROWS[1]])
    assert home.run_here("upload", "one.csv", *command).exit_code == 1
    billing_server.respond = contract
    write_csv(home.folder / "two.csv", [ROWS[0], ROWS[2]])
    assert home.run_here("upload", "two.csv", *command).exit_code == 0
    assert home.run_here("upload", "one.csv", *command).exit_code == 0
    assert billing_server.billed() == Counter(ROWS[:3])


def test_rows_whose_event_others_have_stay_so_in_a_stopped_replay(home: Home, billing_server: BillingServer) -> None:
    """That would have been asked in their turn; with the ledger lost, nothing else keeps them from being sent."""
    billing_server.respond = failing("dev-1", answer=Answer(then=Then.FIN))
    uploaded(home, [("a", ROWS[0]), ("b", ROWS[1])], name="first.csv")
    billing_server.respond = contract
    rows = usage_rows(2500, tenants=["acme"])[2:]
    bad = [(str(at), row._replace(tenant_id="")) for at, row in enumerate(rows)]
    failed = uploaded(home, [*bad, ("a", ROWS[0]._replace(total_usage=7)), ("b", ROWS[1])], name="more.csv")
    edit(failed, {at: {"tenant_id": "acme"} for at in range(len(rows))})
    billing_server.respond = lambda received: contract(received) if received.method == "GET" else reply(401)
    stopped = replayed(home, "more.failed.csv", exit_code=3)
    assert cells(stopped, "upload_reason")[-3:] == ["not_sent", "conflict", "duplicate"]
    billing_server.respond = contract
    shutil.rmtree(home.ledger)
    home.run_here("replay", "more.replay1.failed.csv", "--without-ledger")
    assert set(billing_server.billed().values()) == {1}
    assert billing_server.billed().keys() <= {*ROWS[:2], *rows}
