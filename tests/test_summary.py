"""``--summary``: the figures are those of the server and the results, and agree with the published schema."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import Received, contract
from tests.billing_server import BillingServer
from tests.command import EVENT_COLUMNS, Ended, Home, ended, read_rows, usage_rows, write_csv
from tests.held_back import HeldBack
from uploader.model.errors import ImbalanceError
from uploader.model.model import Outcome, Reason, RowState, Units
from uploader.posting.file_report import FileReport
from uploader.reports.summary import exit_code_of, summarize
from uploader.results.books import Books

SCHEMA = jsonschema_rs.Draft202012Validator(
    json.loads((Path(__file__).parents[1] / "schemas" / "summary.schema.json").read_text(encoding="utf-8")),
)


def checked(text: str) -> dict[str, Any]:
    """Read a summary that agrees with its schema, and whose sums add up."""
    summary: dict[str, Any] = json.loads(text)
    problems = [f"{error.instance_path}: {error.message}" for error in SCHEMA.iter_errors(summary)]
    assert problems == []
    for file in summary["files"]:
        if file["totals"] is not None:
            assert_adds_up(file)
    return summary


def assert_adds_up(file: dict[str, Any]) -> None:
    """Hold the sums of one file against each other."""
    totals = file["totals"]
    for unit in ("rows", "units"):
        assert totals["in"][unit] == totals["accepted"][unit] + totals["failed"][unit]
        assert totals["failed"][unit] == sum(entry[unit] for entry in file["failed_by_reason"].values())
        assert totals["in_doubt"][unit] == file["failed_by_reason"].get("in_doubt", {unit: 0})[unit]
    accounts = [*file["by_tenant_and_meter"], *([file["others"]] if file["others"] else [])]
    for key in totals:
        assert totals[key]["units"] == sum(account[key]["units"] for account in accounts)
    assert file["calls"]["posts"] == sum(interval["posts"] for interval in file["over_time"])
    assert file["calls"]["posts"] == (file["latency"]["posts"] or {"calls": 0})["calls"]
    assert file["calls"]["look_ups"] == (file["latency"]["look_ups"] or {"calls": 0})["calls"]


def summary_of(home: Home, name: str = "summary.json") -> dict[str, Any]:
    """Read the summary that a command wrote."""
    return checked((home.folder / name).read_text(encoding="utf-8"))


def run(home: Home, *arguments: str) -> tuple[Ended, dict[str, Any]]:
    """Run a command with ``--summary``, and check that the summary has its exit code."""
    done = home.run_here(*arguments, "--summary", "summary.json")
    summary = summary_of(home)
    assert summary["exit_code"] == done.exit_code
    return done, summary


def entry(rows: int, units: int) -> dict[str, int]:
    """Spell rows and units as the summary does."""
    return {"rows": rows, "units": units}


class Moody:
    """A backend that turns the first post away for a while, leaves one meter's without an answer, rejects another's."""

    def __init__(self) -> None:
        self.has_turned_away = False

    def __call__(self, received: Received) -> Answer:
        """Choose the answer to a request."""
        if received.method == "GET":
            return reply(404) if received.tenant_id == "nobody" else contract(received)
        meter = received.event["meter_id"]
        if not self.has_turned_away:
            self.has_turned_away = True
            return reply(429)
        if meter == "lost":
            return Answer(then=Then.RST)
        return reply(422, {"error": "no such meter"}) if meter == "unheard of" else contract(received)


def test_every_figure_of_an_upload_is_what_happened(home: Home, billing_server: BillingServer) -> None:
    """Rows and units by reason, tenant and meter, calls and retries are the server's; two files, one document."""
    billing_server.respond = Moody()
    write_csv(
        home.folder / "usage.csv",
        [
            ("acme", "d", "api", 5),
            ("acme", "d", "api", 7),
            ("acme", "d", "lost", 11),
            ("globex", "d", "unheard of", 13),
            ("nobody", "d", "api", 17),
            ("globex", "d", "api", -19),
            ("globex", "d", "api", "many"),
            ("ragged",),
        ],
    )
    write_csv(home.folder / "more.csv", usage_rows(3))
    done, summary = run(home, "upload", "usage.csv", "more.csv", "--period", "2026-11")
    assert done.exit_code == 1, done.said
    assert (summary["command"], summary["period"], summary["base_url"]) == ("upload", "2026-11", home.base_url)
    first, second = summary["files"]
    assert first["totals"] == {
        "in": entry(8, 34),
        "accepted": entry(2, 12),
        "failed": entry(6, 22),
        "in_doubt": entry(1, 11),
    }
    assert first["failed_by_reason"] == {
        "invalid": entry(2, -19),
        "malformed": entry(1, 0),
        "customer_not_found": entry(1, 17),
        "rejected": entry(1, 13),
        "in_doubt": entry(1, 11),
    }
    account_by_key = {(line["tenant_id"], line["meter_id"]): line for line in first["by_tenant_and_meter"]}
    assert list(account_by_key) == [
        ("nobody", "api"),
        ("globex", "unheard of"),
        ("acme", "api"),
        ("acme", "lost"),
        ("globex", "api"),
    ]
    assert account_by_key["acme", "api"]["accepted"] == entry(2, 12)
    assert account_by_key["acme", "lost"]["in_doubt"] == account_by_key["acme", "lost"]["failed"] == entry(1, 11)
    assert account_by_key["globex", "api"]["in"] == account_by_key["globex", "api"]["failed"] == entry(1, -19)
    assert first["others"] is None
    calls = [file["calls"] for file in (first, second)]
    assert calls[0] == {"posts": 5, "post_retries": 1, "look_ups": 3, "look_up_retries": 0, "probes": 0}
    assert sum(call["posts"] for call in calls) == len(billing_server.posts)
    assert sum(call["look_ups"] for call in calls) == len(billing_server.look_ups)
    assert sum(interval["accepted"] for interval in first["over_time"]) == 2
    results = read_rows(home.folder / "usage.results.csv")
    assert first["run"] == results[0]["upload_run"]
    assert Path(first["ledger"]) == home.ledger / f"{first['run']}.sqlite"
    assert (first["results"], first["failed_file"]) == ("usage.results.csv", "usage.failed.csv")
    assert (second["results"], second["failed_file"]) == ("more.results.csv", None)
    assert [(file["state"], file["balances"]) for file in (first, second)] == [("finished", True)] * 2
    assert not list(home.folder.glob("*.draft"))


def test_a_report_that_cannot_be_written_takes_no_summary_along(home: Home, billing_server: BillingServer) -> None:
    """The summary is written all the same, and states the exit code that the command then has."""
    page = home.folder / "usage.html"

    def takes_the_name(received: Received) -> Answer:
        page.write_text("something else")
        return contract(received)

    billing_server.respond = takes_the_name
    write_csv(home.folder / "usage.csv", usage_rows(2))
    done, summary = run(home, "upload", "usage.csv", "--report", page.name)
    assert (done.exit_code, summary["exit_code"]) == (3, 3)
    assert page.read_text() == "something else"


def test_a_file_of_the_users_is_no_draft(home: Home) -> None:
    """Whatever stands beside a summary under a name like its own stays as it is."""
    write_csv(home.folder / "usage.csv", usage_rows(2))
    beside = home.folder / "summary.json.draft"
    beside.write_text("mine")
    assert run(home, "upload", "usage.csv")[0].exit_code == 0
    assert beside.read_text() == "mine"


def test_a_continued_upload_and_a_replay_have_their_own_calls_and_the_whole_files_rows(
    home: Home, billing_server: BillingServer
) -> None:
    """What earlier commands had accepted counts as accepted; a summary of an earlier command is replaced."""
    billing_server.respond = lambda received: (
        reply(503, b"", {"Retry-After": "0"}) if b"105" in received.body else contract(received)
    )
    write_csv(home.folder / "usage.csv", usage_rows(10))
    done, summary = run(home, "upload", "usage.csv", "--retries", "0")
    assert done.exit_code == 1, done.said
    assert summary["files"][0]["failed_by_reason"] == {"unavailable": entry(1, 105)}
    billing_server.respond = contract
    done, summary = run(home, "replay", "usage.failed.csv")
    assert (done.exit_code, summary["command"]) == (0, "replay")
    [file] = summary["files"]
    assert file["input"]["path"] == "usage.failed.csv"
    assert file["results"] == "usage.replay1.results.csv"
    assert file["totals"]["in"] == file["totals"]["accepted"] == entry(1, 105)
    assert file["calls"]["posts"] == 1
    done, summary = run(home, "upload", "usage.csv")
    [file] = summary["files"]
    assert file["totals"]["accepted"] == entry(10, 1045)
    assert file["calls"]["posts"] == 0
    assert (file["over_time"], file["latency"]["posts"]) == ([], None)


def test_many_tenants_are_summed_up_beyond_the_thousand_largest(home: Home) -> None:
    """The document stays small, and the line of the others makes its sums whole; nothing here need be posted."""
    write_csv(home.folder / "usage.csv", [(f"t{number}", "d", "", number) for number in range(1500)])
    _, summary = run(home, "upload", "usage.csv")
    [file] = summary["files"]
    assert [line["tenant_id"] for line in file["by_tenant_and_meter"]] == [f"t{n}" for n in range(1499, 499, -1)]
    rest = sum(range(500))
    assert file["others"] == {
        "tenants_and_meters": 500,
        "in": entry(500, rest),
        "accepted": entry(0, 0),
        "failed": entry(500, rest),
        "in_doubt": entry(0, 0),
    }


def test_a_stop_says_why(home: Home, billing_server: BillingServer) -> None:
    """A run that the backend refuses leaves a summary of what was and was not done."""
    billing_server.respond = lambda received: reply(401) if received.method == "POST" else contract(received)
    write_csv(home.folder / "usage.csv", usage_rows(4))
    done, summary = run(home, "upload", "usage.csv", "--concurrency", "1")
    assert done.exit_code == 3
    [file] = summary["files"]
    assert (file["state"], file["balances"]) == ("stopped", True)
    assert "401" in file["stop"]
    assert file["failed_by_reason"]["not_sent"] == entry(3, 306)


def test_an_interrupt_says_so(home: Home, billing_server: BillingServer) -> None:
    """A command that is told to end leaves its summary, with the exit code of the signal."""
    billing_server.respond = held = HeldBack(answered=2)
    write_csv(home.folder / "usage.csv", usage_rows(6, tenants=["acme"]))
    command = ("upload", "usage.csv", "--concurrency", "1", "--summary", "summary.json")
    with home.started(*command) as process:
        billing_server.wait_for(posts=3)
        os.kill(process.pid, signal.SIGTERM)
        held.release()
        assert ended(process).exit_code == 128 + signal.SIGTERM
    summary = summary_of(home)
    assert summary["exit_code"] == 128 + signal.SIGTERM
    [file] = summary["files"]
    assert file["totals"]["accepted"] == entry(3, 303)
    assert (file["state"], file["stop"]) == ("stopped", "the command was interrupted")


def test_what_could_not_be_taken_is_named(home: Home, billing_server: BillingServer) -> None:
    """A file that is not there, and a command that cannot begin, leave a summary that says so, not yesterday's."""
    write_csv(home.folder / "usage.csv", usage_rows(2))
    done, summary = run(home, "upload", "gone.csv", "usage.csv")
    assert done.exit_code == 3
    gone, file = summary["files"]
    assert (gone["state"], gone["run"], gone["totals"], gone["balances"]) == ("not_done", None, None, None)
    assert "gone.csv" in gone["error"]
    assert file["totals"]["accepted"]["rows"] == 2
    done, summary = run(home, "upload", "usage.csv", "--schema", "nowhere.json")
    assert done.exit_code == 2
    assert "nowhere.json" in summary["error"]
    assert summary["files"] == []


def test_settings_that_cannot_be_had_leave_no_older_summary(home: Home) -> None:
    """A key file that is not there, say: the summary of the night before would tell that all is well."""
    write_csv(home.folder / "usage.csv", usage_rows(2))
    assert home.run_here("upload", "usage.csv", "--summary", "day.json").exit_code == 0
    variables = {"UPLOADER_API_KEY_FILE": "/no/such/key"}
    assert home.run_here("upload", "usage.csv", "--summary", "day.json", variables=variables).exit_code == 2
    told = json.loads((home.folder / "day.json").read_text())
    assert (told["exit_code"], told["files"]) == (2, [])
    assert "/no/such/key" in told["error"]
    variables = {"UPLOADER_BASE_URL": "http://me:secret@host.example/"}
    assert home.run_here("upload", "usage.csv", "--summary", "day.json", variables=variables).exit_code == 2
    assert "secret" not in (home.folder / "day.json").read_text()


def test_a_run_that_broke_off_tells_its_calls(home: Home, billing_server: BillingServer) -> None:
    """A log that changed under the run leaves no results, but posts were made, and the summary says so, and when."""
    billing_server.respond = held = HeldBack(answered=1)
    log = write_csv(home.folder / "usage.csv", usage_rows(2, tenants=["acme"]))
    with home.started("upload", "usage.csv", "--concurrency", "1", "--summary", "summary.json") as process:
        billing_server.wait_for(posts=2)
        before, at_posts = hashlib.sha256(log.read_bytes()).hexdigest(), datetime.now(timezone.utc)
        log.write_text(log.read_text(encoding="utf-8").replace("101", "901"), encoding="utf-8")
        held.release()
        assert ended(process).exit_code == 3
    [file] = summary_of(home)["files"]
    assert (file["state"], file["totals"], file["results"]) == ("not_done", None, None)
    assert file["calls"]["posts"] == 2
    assert file["input"]["sha256"] == before
    assert datetime.fromisoformat(file["begun_at"].replace("Z", "+00:00")) < at_posts
    assert file["seconds"] > 0
    assert Path(file["ledger"]) == home.ledger / f"{file['run']}.sqlite"


@pytest.mark.parametrize("name", ["usage.csv", "nowhere/summary.json", "folder", "link.json"])
def test_a_name_that_is_not_free_is_refused_before_anything_is_posted(
    home: Home, billing_server: BillingServer, name: str
) -> None:
    """The input itself, a folder that is not there, a folder, a link: exit 2, nothing posted, nothing changed."""
    log = write_csv(home.folder / "usage.csv", usage_rows(2))
    before = log.read_bytes()
    (home.folder / "folder").mkdir()
    (home.folder / "link.json").symlink_to(log)
    done = home.run_here("upload", "usage.csv", "--summary", name)
    assert done.exit_code == 2
    assert name in done.stderr
    assert (log.read_bytes(), billing_server.received) == (before, [])


@pytest.mark.parametrize("does", ["name taken", "folder gone"])
def test_a_summary_that_cannot_be_written_is_an_error_and_the_results_stay(
    home: Home, billing_server: BillingServer, does: str
) -> None:
    """All rows are accepted, and the exit code is still not 0; the same command then writes it, posting nothing."""
    billing_server.respond = held = HeldBack(answered=0)
    write_csv(home.folder / "usage.csv", usage_rows(1))
    folder = home.folder / "reports"
    folder.mkdir()
    command = ("upload", "usage.csv", "--summary", "reports/summary.json")
    with home.started(*command) as process:
        billing_server.wait_for(posts=1)
        if does == "name taken":
            (folder / "summary.json").write_text("mine", encoding="utf-8")
        else:
            folder.rmdir()
        held.release()
        done = ended(process)
    assert done.exit_code == 3, done.said
    assert "reports/summary.json" in done.stderr
    assert [row["upload_status"] for row in read_rows(home.folder / "usage.results.csv")] == ["accepted"]
    folder.mkdir(exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)
    assert home.run_here(*command).exit_code == 0
    assert summary_of(home, "reports/summary.json")["files"][0]["totals"]["accepted"]["rows"] == 1
    assert len(billing_server.posts) == 1


def test_totals_that_do_not_balance_are_told_as_such() -> None:
    """The figures stand as they are, beside the word that they do not balance, and the command ends with 4."""
    books = Books()
    books.take_in(Units("acme", "api", 5))
    books.take_in(Units("acme", "api", 7))
    books.give_out(Units("acme", "api", 5), RowState(1, Outcome(Reason.REJECTED)))
    imbalance = books.imbalance(accepted=0, may_leave_unsent=False)
    assert isinstance(imbalance, ImbalanceError)
    good = FileReport(path=Path("good.csv"), accounts=Books().accounts())
    bad = replace(
        good,
        path=Path("bad.csv"),
        accounts=books.accounts(),
        entry_by_reason=books.entry_by_reason(),
        error=imbalance,
    )
    assert exit_code_of([good, bad]) == 4
    summary = summarize(
        [good, bad],
        command="upload",
        base_url="http://127.0.0.1:9",
        period="",
        begun_at=good.begun_at,
        exit_code=exit_code_of([good, bad]),
    )
    files = json.loads(summary.to_json())["files"]
    assert SCHEMA.is_valid(summary.to_dict())
    assert [file["balances"] for file in files] == [True, False]
    assert "do not balance" in files[1]["error"]
    assert files[1]["totals"]["in"] == entry(2, 12)
    assert files[1]["totals"]["failed"] == entry(1, 5)


def test_the_schema_is_strict(home: Home) -> None:
    """A further field, or one that is missing, is not a summary."""
    write_csv(home.folder / "usage.csv", [EVENT_COLUMNS[:4]])
    _, summary = run(home, "upload", "usage.csv")
    assert not SCHEMA.is_valid({**summary, "more": 1})
    assert not SCHEMA.is_valid({name: value for name, value in summary.items() if name != "exit_code"})
    file = summary["files"][0]
    assert not SCHEMA.is_valid({**summary, "files": [{**file, "totals": {**file["totals"], "more": 1}}]})
