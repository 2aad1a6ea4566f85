"""The same command once more, and files that other people have touched meanwhile."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import Received, contract
from tests.billing_server import BillingServer
from tests.command import Home, cells, ended, read_rows, usage_rows, write_csv
from tests.held_back import HeldBack


def reasons(home: Home, name: str = "usage.results.csv") -> list[str]:
    """Read the reasons of a run's rows, in their order; empty for an accepted one."""
    return cells(read_rows(home.folder / name), "upload_reason")


def files_in(folder: Path) -> set[str]:
    """Name what stands in a folder, the ledger aside."""
    return {path.name for path in folder.iterdir()} - {"ledger"}


# --- what is posted again ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 12])
def test_a_finished_upload_posts_nothing_again(home: Home, billing_server: BillingServer, count: int) -> None:
    """Not one call to the backend; it says that all was accepted, and writes the very same results once more."""
    rows = usage_rows(count)
    write_csv(home.folder / "usage.csv", rows)
    assert home.run("upload", "usage.csv").exit_code == 0
    results = (home.folder / "usage.results.csv").read_bytes()
    calls = len(billing_server.received)
    run = home.run("upload", "usage.csv")
    assert run.exit_code == 0, run.said
    assert len(billing_server.received) == calls
    assert f"{count} of {count} rows were accepted" in run.stderr
    assert "0 are left" in run.stderr
    assert f"{count} of {count} rows accepted" in run.stdout
    assert files_in(home.folder) == {"usage.csv", "usage.results.csv"}
    assert (home.folder / "usage.results.csv").read_bytes() == results


def test_only_rows_that_were_certainly_not_recorded_are_posted_again(home: Home, billing_server: BillingServer) -> None:
    """The same command posts rejected, unavailable and unknown rows again, accepted and doubtful ones never."""
    first = {"dev-1": reply(422), "dev-2": Answer(then=Then.RST), "dev-3": reply(408)}

    def respond(received: Received) -> Answer:
        if received.method == "GET" and received.tenant_id == "late":
            return reply(404)
        return first.get(received.headers.get("x-device-id", ""), contract(received))

    billing_server.respond = respond
    rows = [*usage_rows(6, tenants=["acme"]), *usage_rows(1, tenants=["late"])]
    write_csv(home.folder / "usage.csv", [*rows, ("acme", "dev-9", "api.calls", "x")])
    assert home.run_here("upload", "usage.csv", "--retries", "0").exit_code == 1
    assert reasons(home) == ["", "rejected", "in_doubt", "unavailable", "", "", "customer_not_found", "invalid"]
    before = read_rows(home.folder / "usage.results.csv")
    posts = len(billing_server.posts)
    billing_server.respond = contract
    run = home.run_here("upload", "usage.csv", "--retries", "0")
    assert run.exit_code == 1, run.said
    assert "3 of 8 rows were accepted and 1 left in doubt" in run.stderr
    after = read_rows(home.folder / "usage.results.csv")
    assert reasons(home) == ["", "", "in_doubt", "", "", "", "", "invalid"]
    assert [after[at] for at in (0, 2, 4, 5)] == [before[at] for at in (0, 2, 4, 5)]
    assert cells(after, "upload_event_id") == cells(before, "upload_event_id")
    assert cells(after, "upload_attempts") == ["1", "2", "1", "2", "1", "1", "1", "0"]
    posted = [post.billed_row for post in billing_server.posts[posts:]]
    assert sorted(posted) == sorted([rows[1], rows[3], rows[6]])
    assert billing_server.billed() == Counter(rows)
    assert reasons(home, "usage.failed.csv") == ["in_doubt", "invalid"]
    assert files_in(home.folder) == {"usage.csv", "usage.results.csv", "usage.failed.csv"}


def test_the_failed_file_of_an_earlier_command_goes_when_no_row_fails_any_more(
    home: Home, billing_server: BillingServer
) -> None:
    """A failed file that stayed would be replayed by someone."""
    posts = [reply(422)]
    billing_server.respond = lambda got: posts.pop() if posts and got.method == "POST" else contract(got)
    write_csv(home.folder / "usage.csv", usage_rows(3))
    assert home.run_here("upload", "usage.csv").exit_code == 1
    assert (home.folder / "usage.failed.csv").exists()
    assert home.run_here("upload", "usage.csv").exit_code == 0
    assert files_in(home.folder) == {"usage.csv", "usage.results.csv"}


def test_another_period_is_another_upload(home: Home, billing_server: BillingServer) -> None:
    """Two flat days can be byte-identical: with --period each is billed, under event ids of its own."""
    rows = usage_rows(3)
    write_csv(home.folder / "usage.csv", rows)
    assert home.run_here("upload", "usage.csv", "--period", "2026-11-20").exit_code == 0
    assert home.run_here("upload", "usage.csv", "--period", "2026-11-21").exit_code == 0
    assert home.run_here("upload", "usage.csv", "--period", "2026-11-21").exit_code == 0
    assert billing_server.billed() == Counter(rows * 2)
    assert set(billing_server.billed_by("x-request-id").values()) == {1}
    assert files_in(home.folder) == {"usage.csv", "usage.results.csv", "usage.2.results.csv"}


# --- files of other people --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["usage.results.csv", "usage.failed.csv"])
def test_a_file_that_someone_edited_is_not_overwritten(home: Home, billing_server: BillingServer, name: str) -> None:
    """The next run writes both files under the next free name, and goes on using that."""
    billing_server.respond = lambda got: reply(422) if got.headers.get("x-device-id") == "dev-1" else contract(got)
    write_csv(home.folder / "usage.csv", usage_rows(3))
    assert home.run_here("upload", "usage.csv").exit_code == 1
    edited = home.folder / name
    edited.write_text(edited.read_text() + "a note\n")
    kept = {path: path.read_bytes() for path in home.folder.glob("usage.[rf]*.csv")}
    for _ in range(2):
        run = home.run_here("upload", "usage.csv")
        assert run.exit_code == 1, run.said
        assert "usage.2.results.csv" in run.stdout
        assert "uploader replay usage.2.failed.csv" in run.stdout
    assert {path: path.read_bytes() for path in kept} == kept
    assert reasons(home, "usage.2.results.csv") == ["", "rejected", ""]
    assert len(files_in(home.folder)) == 5


def test_names_that_were_taken_before_are_left_alone(home: Home, billing_server: BillingServer) -> None:
    """Somebody else's usage.failed.csv makes both of ours take the number."""
    write_csv(home.folder / "usage.csv", [*usage_rows(1), ("acme", "d", "m", "x")])
    (home.folder / "usage.failed.csv").write_text("mine")
    assert home.run_here("upload", "usage.csv").exit_code == 1
    assert (home.folder / "usage.failed.csv").read_text() == "mine"
    assert files_in(home.folder) == {"usage.csv", "usage.failed.csv", "usage.2.results.csv", "usage.2.failed.csv"}


def test_the_results_stand_where_they_were_asked_for(home: Home, billing_server: BillingServer) -> None:
    """--results out/x.csv gives out/x.csv and out/x.failed.csv."""
    write_csv(home.folder / "usage.csv", [*usage_rows(1), ("acme", "d", "m", "x")])
    assert home.run_here("upload", "usage.csv", "--results", "out/x.csv").exit_code == 1
    assert files_in(home.folder / "out") == {"x.csv", "x.failed.csv"}
    assert files_in(home.folder) == {"usage.csv", "out"}


Meddle = Callable[[Path], object]


@pytest.mark.parametrize(
    ("meddle", "first_exit_code", "names"),
    [
        (
            lambda folder: (folder / "out" / "usage.results.csv").write_text("mine"),
            3,
            ["usage.2.results.csv", "usage.results.csv"],
        ),
        (lambda folder: (folder / "out" / "usage.results.csv.part").unlink(), 0, ["usage.results.csv"]),
    ],
    ids=["name taken", "reservation gone"],
)
def test_results_that_cannot_be_placed_are_written_by_the_next_run(
    home: Home, billing_server: BillingServer, meddle: Meddle, first_exit_code: int, names: list[str]
) -> None:
    """Rows are recorded, nobody's file is overwritten, and the same command writes the results without a post."""
    backend = HeldBack(answered=0)
    billing_server.respond = backend
    rows = usage_rows(4)
    write_csv(home.folder / "usage.csv", rows)
    command = ("upload", "usage.csv", "--results-dir", "out")
    with home.started(*command) as process:
        billing_server.wait_for(posts=1)
        meddle(home.folder)
        backend.release()
        first = ended(process)
    assert first.exit_code == first_exit_code, first.said
    second = home.run_here(*command)
    assert second.exit_code == 0, second.said
    assert billing_server.billed() == Counter(rows)
    assert sorted(files_in(home.folder / "out")) == names
    if len(names) == 2:
        assert (home.folder / "out" / "usage.results.csv").read_text() == "mine"
    assert reasons(home, f"out/{names[0]}") == [""] * 4


def test_a_second_command_on_the_same_log_is_refused_and_names_the_first(
    home: Home, billing_server: BillingServer
) -> None:
    """While one process works on a run another posts nothing of it: exit code 2, with the holder's process id."""
    backend = HeldBack(answered=0)
    billing_server.respond = backend
    rows = usage_rows(6)
    write_csv(home.folder / "usage.csv", rows)
    with home.started("upload", "usage.csv", "--concurrency", "2") as process:
        billing_server.wait_for(posts=2)
        second = home.run("upload", "usage.csv", "--concurrency", "2")
        assert second.exit_code == 2, second.said
        assert f"process {process.pid} " in second.stdout
        assert "wait until it has ended" in second.stdout
        assert len(billing_server.posts) == 2
        backend.release()
        assert ended(process).exit_code == 0
    assert billing_server.billed() == Counter(rows)


CLOSED_PIPE = "closed pipe"


@pytest.mark.parametrize("stream", [CLOSED_PIPE, ">&- 2>&-", ">/dev/full 2>/dev/full"])
def test_a_command_whose_words_no_one_reads_still_posts_and_tells_by_its_exit_code(
    home: Home, billing_server: BillingServer, stream: str
) -> None:
    """With stdout and stderr a broken pipe (``| head`` has ended), closed or full, the run is as any other."""
    posts = [reply(422)]
    billing_server.respond = lambda got: posts.pop() if posts and got.method == "POST" else contract(got)
    rows = usage_rows(5)
    write_csv(home.folder / "usage.csv", rows)
    assert home.run_here("upload", "usage.csv").exit_code == 1
    reading, writing = os.pipe()
    os.close(reading)
    redirected = "" if stream == CLOSED_PIPE else stream
    process = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirected}', "sh", *home.command("upload", "usage.csv")],
        cwd=home.folder,
        env=home.environment(),
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=writing,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert process.returncode == 0
    assert billing_server.billed() == Counter(rows)
    assert reasons(home) == [""] * 5


@pytest.mark.parametrize("command", [("runs",), ("config",), ("export", "usage.results.csv")])
def test_a_command_that_only_looks_ends_well_without_a_reader(
    home: Home, billing_server: BillingServer, command: tuple[str, ...]
) -> None:
    """As in ``uploader runs | head -1``: nothing is wrong with the command."""
    write_csv(home.folder / "usage.csv", usage_rows(3))
    assert home.run_here("upload", "usage.csv").exit_code == 0
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        home.command(*command),
        cwd=home.folder,
        env=home.environment(),
        stdin=subprocess.DEVNULL,
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (0, b"")


def test_a_closed_terminal_does_not_end_a_run_that_ignores_the_hang_up(
    home: Home, billing_server: BillingServer
) -> None:
    """The progress bar has no terminal to draw on any more; rows and results are as ever."""
    backend = HeldBack(answered=2)
    billing_server.respond = backend
    rows = usage_rows(6)
    write_csv(home.folder / "usage.csv", rows)
    ours, theirs = os.openpty()
    with subprocess.Popen(
        home.command("upload", "usage.csv", "--concurrency", "1"),
        cwd=home.folder,
        env=home.environment({"TERM": "xterm"}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        billing_server.wait_for(posts=3)
        drawn = os.read(ours, 100_000)
        os.close(ours)
        backend.release()
        assert process.wait(timeout=60) == 0
    assert b"usage.csv" in drawn
    assert billing_server.billed() == Counter(rows)
    assert reasons(home) == [""] * 6
