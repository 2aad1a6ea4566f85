"""--dry-run: all of an upload but its posts; nothing is written, and what it says is what the upload then does."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import Received, contract, scripted
from tests.billing_server import BillingServer
from tests.command import EVENT_COLUMNS, Home, usage_rows, write_csv
from tests.held_back import kill_an_upload


def files_in(home: Home) -> set[str]:
    """Name every file and folder of a home."""
    return {str(path.relative_to(home.folder)) for path in home.folder.rglob("*")}


def ledger_says(home: Home) -> list[str]:
    """Dump a copy of the one run's ledger, but for who had it open: to look into the file itself would change it."""
    (path,) = home.ledger.glob("*.sqlite")
    with tempfile.TemporaryDirectory() as folder:
        for file in home.ledger.glob(f"{path.name}*"):
            shutil.copy(file, folder)
        with contextlib.closing(sqlite3.connect(Path(folder, path.name))) as connection:
            return [line for line in connection.iterdump() if "in_use" not in line]


def unknown_tenant(received: Received) -> Answer:
    """Know no customer for the tenant ``nobody``."""
    is_unknown = received.method == "GET" and received.tenant_id == "nobody"
    return reply(404) if is_unknown else contract(received)


def test_it_says_what_would_be_posted_and_writes_nothing(home: Home, billing_server: BillingServer) -> None:
    """Rows, units and tenants, failures by reason with examples; each tenant is looked up once, nothing is posted."""
    billing_server.respond = unknown_tenant
    rows = [*usage_rows(5), ("nobody", "d", "api.calls", 7), ("acme", "d", "api.calls", "x"), ("acme", "d")]
    write_csv(home.folder / "usage.csv", rows)
    run = home.run_here("upload", "usage.csv", "--dry-run", "--results-dir", "out/deep")
    assert run.exit_code == 1, run.said
    lines = run.stdout.splitlines()
    assert lines[0] == "usage.csv: 5 of 8 rows would be posted, 510 units of 3 tenants"
    assert lines[1].startswith("  dry run: nothing was posted; 4 look-ups in ")
    assert lines[2:] == [
        "  would fail, invalid (fix): 1 rows, 0 units",
        "    row 7: total_usage: 'x' is not an integer",
        "  would fail, malformed (fix): 1 rows, 0 units",
        "    row 8: line 9: 2 cells where the header has 4",
        "  would fail, customer_not_found (fix): 1 rows, 7 units",
        "    row 6: the backend knows no customer for this tenant",
    ]
    assert sorted(got.tenant_id for got in billing_server.received) == ["acme", "globex", "initech", "nobody"]
    assert not billing_server.posts
    assert files_in(home) == {"usage.csv"}


def test_a_log_of_json_has_its_words_too(home: Home) -> None:
    """With --log-format json standard output stays empty, and the last line says what would be posted."""
    write_csv(home.folder / "usage.csv", usage_rows(2))
    run = home.run_here("upload", "usage.csv", "--dry-run", "--log-format", "json")
    assert (run.exit_code, run.stdout) == (0, "")
    last = json.loads(run.stderr.splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("command_ended", 0)
    assert last["dry_run"][0].startswith("usage.csv: 2 of 2 rows would be posted")


def test_a_dry_run_without_a_flaw_is_exit_code_0_and_the_upload_then_begins_afresh(
    home: Home, billing_server: BillingServer
) -> None:
    """No guard takes the dry run for an earlier upload."""
    rows = usage_rows(300)  # more than are settled in one go
    write_csv(home.folder / "usage.csv", rows)
    assert home.run_here("upload", "usage.csv", "--dry-run").exit_code == 0
    assert home.run_here("upload", "usage.csv").exit_code == 0
    assert billing_server.billed() == Counter(rows)


def test_of_a_run_that_exists_it_says_what_is_left(home: Home, billing_server: BillingServer) -> None:
    """Accepted rows and rows in doubt are not for posting; the ledger and the results stay as they are."""
    first = {"dev-1": reply(422), "dev-2": Answer(then=Then.RST)}
    billing_server.respond = lambda got: first.get(got.headers.get("x-device-id", ""), contract(got))
    write_csv(home.folder / "usage.csv", usage_rows(6))
    assert home.run_here("upload", "usage.csv").exit_code == 1
    before, files, posts = ledger_says(home), files_in(home), len(billing_server.posts)
    run = home.run_here("upload", "usage.csv", "--dry-run")
    assert run.exit_code == 1, run.said
    assert "usage.csv: 1 of 6 rows would be posted, 101 units of 1 tenants" in run.stdout
    assert "  accepted before: 4 rows, 412 units" in run.stdout
    assert "  in doubt since an earlier upload (confirm): 1 rows, 102 units" in run.stdout
    assert (ledger_says(home), files_in(home)) == (before, files)
    assert len(billing_server.posts) == posts


def test_a_budget_that_rows_in_doubt_exceed_lets_nothing_be_posted(home: Home, billing_server: BillingServer) -> None:
    """As the upload itself, which would stop before its first post."""
    rows = usage_rows(6)
    billing_server.respond = scripted(posts=[reply(500)] * 2)
    write_csv(home.folder / "usage.csv", rows)
    command = ("upload", "usage.csv", "--concurrency", "1", "--max-failed", "1")
    assert home.run_here(*command).exit_code == 3
    run = home.run_here(*command, "--dry-run")
    assert run.exit_code == 3, run.said
    assert "usage.csv: 0 of 6 rows would be posted" in run.stdout
    assert "would stop early: more than 1 rows failed" in run.stdout
    assert len(billing_server.posts) == 2


def test_a_budget_that_unknown_tenants_exceed_stops_it_as_the_upload(home: Home, billing_server: BillingServer) -> None:
    """Though every row settles as soon as its tenant is looked up, the last ones with the first."""
    billing_server.respond = unknown_tenant
    rows = [*usage_rows(3, tenants=["nobody"]), *usage_rows(40, tenants=["acme"])]
    write_csv(home.folder / "usage.csv", rows)
    command = ("upload", "usage.csv", "--max-failed", "2")
    run = home.run_here(*command, "--dry-run")
    assert run.exit_code == 3, run.said
    assert "would stop early: more than 2 rows failed" in run.stdout
    assert home.run_here(*command).exit_code == 3
    write_csv(home.folder / "usage.csv", rows[:3])
    for options in (("--dry-run",), ()):
        assert home.run_here(*command, *options).exit_code == 1, "no row is left to be posted"


def test_a_copy_of_a_file_that_is_there_still_is_told(home: Home, billing_server: BillingServer) -> None:
    """The upload's own warning: two flat days may be alike."""
    path = write_csv(home.folder / "usage.csv", usage_rows(3))
    assert home.run_here("upload", path).exit_code == 0
    (home.folder / "elsewhere").mkdir()
    shutil.copy2(path, home.folder / "elsewhere" / "usage.csv")
    for options in (("--dry-run",), ()):
        assert "which is there still" in home.run_here("upload", "elsewhere/usage.csv", *options).said
    assert len(billing_server.posts) == 3


def test_a_crashed_runs_row_counts_as_in_doubt_and_stays_as_the_crash_left_it(
    home: Home, billing_server: BillingServer
) -> None:
    """What the crash left as "sending" is not settled by a look; the upload itself does that."""
    kill_an_upload(home, billing_server)
    before, files = ledger_says(home), files_in(home)
    assert any(line.startswith('INSERT INTO "sending"') for line in before)
    run = home.run_here("upload", "usage.csv", "--dry-run")
    assert run.exit_code == 1, run.said
    assert "3 of 6 rows would be posted" in run.stdout
    assert "accepted before: 2 rows" in run.stdout
    assert "in doubt since an earlier upload (confirm): 1 rows" in run.stdout
    assert ledger_says(home) == before
    assert {name for name in files_in(home) if "ledger" not in name} == {
        name for name in files if "ledger" not in name and not name.endswith(".part")
    }
    assert len(billing_server.posts) == 3
    assert "3 are left" in home.run_here("upload", "usage.csv").stderr


@pytest.mark.parametrize(
    ("answer", "words"),
    [(reply(401), "asks for a valid key"), (reply(302), "redirects"), (reply(404), "none of the first 5 tenants")],
    ids=["key", "redirect", "unknown"],
)
def test_a_wrong_set_up_stops_it_as_it_would_the_upload(
    home: Home, billing_server: BillingServer, answer: Answer, words: str
) -> None:
    """Exit code 3 with the upload's words."""
    billing_server.respond = lambda _: answer
    write_csv(home.folder / "usage.csv", usage_rows(12, tenants="abcdef"))
    dry = home.run_here("upload", "usage.csv", "--dry-run")
    assert dry.exit_code == 3, dry.said
    assert words in dry.stdout.partition("would stop early: ")[2]
    wet = home.run_here("upload", "usage.csv")
    assert wet.exit_code == 3
    assert words in wet.stdout


def test_every_guard_refuses_the_dry_run_as_it_would_the_upload(home: Home, billing_server: BillingServer) -> None:
    """The same content under another name, mostly known rows, the failure budget: exit code 2, no look-up."""
    write_csv(home.folder / "usage.csv", usage_rows(6))
    assert home.run_here("upload", "usage.csv").exit_code == 0
    write_csv(home.folder / "copy.csv", usage_rows(6))
    write_csv(home.folder / "more.csv", usage_rows(7))
    write_csv(home.folder / "bad.csv", [("a", "b", "c", "x")] * 2)
    calls = len(billing_server.received)
    for arguments in (["copy.csv"], ["more.csv"], ["bad.csv", "--max-failed", "1"]):
        dry = home.run_here("upload", *arguments, "--dry-run")
        wet = home.run_here("upload", *arguments)
        assert (dry.exit_code, wet.exit_code) == (2, 2)
        assert dry.stdout.replace("would not be taken", "not done") == wet.stdout
    assert len(billing_server.received) == calls


def test_files_of_one_command_are_held_against_each_other(home: Home, billing_server: BillingServer) -> None:
    """A copy of an earlier file of the command, and one with mostly its rows, are refused as the upload would."""
    write_csv(home.folder / "a.csv", usage_rows(6))
    write_csv(home.folder / "b.csv", usage_rows(6))
    write_csv(home.folder / "c.csv", usage_rows(7))
    dry = home.run_here("upload", "a.csv", "b.csv", "c.csv", "--dry-run")
    assert dry.exit_code == 3, dry.said
    assert "a.csv: 6 of 6 rows would be posted" in dry.stdout
    assert "b.csv: would not be taken: the same content as a.csv" in dry.stdout
    assert "c.csv: would not be taken: about" in dry.stdout
    wet = home.run_here("upload", "a.csv", "b.csv", "c.csv")
    assert wet.exit_code == 3
    assert len(billing_server.posts) == 6


def test_a_ledger_folder_that_cannot_be_used_is_found_out(home: Home, billing_server: BillingServer) -> None:
    """A file in the ledger's place refuses the dry run before any look-up."""
    write_csv(home.folder / "usage.csv", usage_rows(1))
    home.ledger.write_text("not a folder")
    run = home.run_here("upload", "usage.csv", "--dry-run")
    assert run.exit_code == 2, run.said
    assert "cannot be used" in run.stdout
    assert not billing_server.received


def test_validate_and_the_upload_agree(home: Home) -> None:
    """The number of rows that would be posted, the exit code, the delimiter and the failure budget."""
    rows = [*((*row, "id") for row in usage_rows(3)), ("acme", "d", "api.calls", "x", "")]
    rows[1] = (*rows[1][:4], "")
    path: Path = write_csv(home.folder / "usage.csv", rows, columns=(*EVENT_COLUMNS, "own"))
    path.write_text(path.read_text().replace(",", ";"))
    for options, exit_code in (
        (["--delimiter", ";"], 1),
        (["--delimiter", ";", "--max-failed", "1"], 1),
        (["--delimiter", ";", "--max-failed", "0"], 2),
        (["--delimiter", ";", "--event-id", "own", "--max-failed", "1"], 2),
        ([], 2),
        (["--delimiter", ";;"], 2),
    ):
        check = home.run_here("validate", path, *options)
        dry = home.run_here("upload", path, "--dry-run", *options)
        wet = home.run_here("upload", path, *options, "--period", "-".join(options))
        assert [run.exit_code for run in (check, dry, wet)] == [exit_code] * 3, options


def test_events_with_ids_of_their_own_are_told_as_the_upload_would_and_not_claimed(
    home: Home, billing_server: BillingServer
) -> None:
    """Accepted elsewhere, repeated, in conflict, left by a failed row: the dry run sees it all, and claims nothing."""
    columns = ("id", "tenant_id", "device_id", "meter_id", "total_usage")
    billing_server.respond = lambda got: reply(422) if got.headers.get("x-device-id") == "bad" else contract(got)
    old = [("e1", "acme", "d", "m", 1), ("e2", "acme", "d", "m", 2), ("e3", "acme", "bad", "m", 3)]
    write_csv(home.folder / "old.csv", old, columns=columns)
    assert home.run_here("upload", "old.csv", "--event-id", "id").exit_code == 1
    billing_server.respond = contract
    new = [
        *[("e1", "acme", "d", "m", 1), ("e2", "acme", "d", "m", 9), ("e3", "acme", "bad", "m", 3)],
        *[("e4", "acme", "d", "m", 4), ("e4", "acme", "d", "m", 4)],
    ]
    write_csv(home.folder / "new.csv", new, columns=columns)
    newer = [("e4", "acme", "d", "m", 4), ("e5", "acme", "d", "m", 5)]
    write_csv(home.folder / "newer.csv", newer, columns=columns)
    for _ in range(2):
        run = home.run_here("upload", "new.csv", "newer.csv", "--event-id", "id", "--dry-run")
        assert run.exit_code == 1, run.said
        assert [line for line in run.stdout.splitlines() if "row " not in line and "dry run" not in line] == [
            "new.csv: 2 of 5 rows would be posted, 7 units of 1 tenants",
            "  accepted before: 1 rows, 1 units",
            "  would fail, duplicate (fix): 1 rows, 4 units",
            "  would fail, conflict (fix): 1 rows, 9 units",
            "newer.csv: 1 of 2 rows would be posted, 5 units of 1 tenants",
            "  accepted before: 1 rows, 4 units",
        ]
    posts = len(billing_server.posts)
    run = home.run_here("upload", "new.csv", "newer.csv", "--event-id", "id")
    assert run.exit_code == 1, run.said
    assert len(billing_server.posts) == posts + 3
    assert re.findall(r"failed, (\w+) .*?(\d+) rows", run.stdout) == [("duplicate", "1"), ("conflict", "1")]


def test_names_that_an_upload_would_refuse_are_refused(home: Home) -> None:
    """A summary or report that could not be written ends a dry run as it would end the upload."""
    write_csv(home.folder / "usage.csv", usage_rows(2))
    for option in ("--summary", "--report"):
        dry = home.run_here("upload", "usage.csv", "--dry-run", option, "nowhere/x")
        assert dry.exit_code == 2
        assert "is no folder to write to" in dry.said
        assert home.run_here("upload", "usage.csv", "--dry-run", option, "x").exit_code == 0
    assert not (home.folder / "x").exists()


def test_a_dry_run_tells_what_it_waits_for(home: Home, billing_server: BillingServer) -> None:
    """As an upload: whoever watches knows that the backend is in trouble, and not this program."""
    asked = []

    def wait_first(received: Received) -> Answer:
        asked.append(received)
        return reply(429, {}, {"Retry-After": "1"}) if len(asked) == 1 else contract(received)

    billing_server.respond = wait_first
    write_csv(home.folder / "usage.csv", usage_rows(2))
    dry = home.run_here("upload", "usage.csv", "--dry-run")
    assert dry.exit_code == 0, dry.said
    assert "posting pauses for" in dry.stderr
