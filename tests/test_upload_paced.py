"""How many calls at once and how many rows a second, as the command is told or finds out, before a real server."""

from __future__ import annotations

import itertools
import signal

import pytest

from tests.billing_answers import reply
from tests.billing_contract import contract
from tests.billing_server import BillingServer
from tests.command import Home, cells, ended, read_rows, usage_rows, write_csv
from tests.held_back import HeldBack
from uploader.ledger.found_limits import found_limit, keep_limit
from uploader.pacing.ceiling import Refused

FIRST_LIMIT = 4


@pytest.mark.parametrize("variables", [{}, {"UPLOADER_CONCURRENCY": "auto"}], ids=["default", "auto"])
def test_no_more_than_four_calls_start_before_the_first_answer(
    home: Home, billing_server: BillingServer, variables: dict[str, str]
) -> None:
    """The first rows are the canary: while none is answered, four are all that the backend sees."""
    billing_server.respond = held_back = HeldBack(answered=0)
    write_csv(home.folder / "usage.csv", usage_rows(60, tenants=["acme"]))
    with home.started("upload", "usage.csv", variables=variables) as process:
        billing_server.wait_for(posts=FIRST_LIMIT)
        process.send_signal(signal.SIGINT)
        held_back.release()
        assert ended(process).exit_code == 130
    assert len(billing_server.posts) == FIRST_LIMIT


def test_the_limit_rises_with_the_answers(home: Home, billing_server: BillingServer) -> None:
    """Once two hundred rows were answered, more than four calls are in flight at once."""
    billing_server.respond = held_back = HeldBack(answered=200)
    rows = usage_rows(300)
    write_csv(home.folder / "usage.csv", rows)
    with home.started("upload", "usage.csv") as process:
        billing_server.wait_for(posts=200 + 2 * FIRST_LIMIT)
        held_back.release()
        assert ended(process).exit_code == 0
    assert billing_server.billed() == dict.fromkeys(rows, 1)


def test_the_next_command_begins_below_where_the_backend_refused(home: Home, billing_server: BillingServer) -> None:
    """When the third post was asked to wait, no more than three are in flight in another file's upload thereafter."""
    posts = itertools.count(1)
    asked_to_wait = reply(429, {"detail": "slow down"})
    billing_server.respond = lambda received: (
        asked_to_wait if received.method == "POST" and next(posts) == 3 else contract(received)
    )
    write_csv(home.folder / "monday.csv", usage_rows(8))
    assert home.run_here("upload", "monday.csv").exit_code == 0
    before = len(billing_server.posts)
    billing_server.respond = held_back = HeldBack(answered=100)
    write_csv(home.folder / "tuesday.csv", usage_rows(300, tenants=["acme"]))
    with home.started("upload", "tuesday.csv") as process:
        billing_server.wait_for(posts=before + 101)
        process.send_signal(signal.SIGINT)
        held_back.release()
        assert ended(process).exit_code == 130
    assert len(billing_server.posts) <= before + 100 + 3


def test_a_dry_run_keeps_nothing_of_the_backend(home: Home, billing_server: BillingServer) -> None:
    """As it writes nothing else."""
    look_ups = itertools.count(1)
    asked_to_wait = reply(429, {"detail": "slow down"})
    billing_server.respond = lambda received: asked_to_wait if next(look_ups) == 2 else contract(received)
    write_csv(home.folder / "usage.csv", usage_rows(20))
    done = home.run_here("upload", "usage.csv", "--dry-run")
    assert done.exit_code == 0, done.said
    assert not [*home.ledger.rglob("*.json")]


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"[0, 2]", b"[NaN, 2]", b"[8, -1]", b"[8, Infinity]", b"\xff"])
def test_what_was_found_is_left_aside_when_it_makes_no_sense(
    home: Home, billing_server: BillingServer, content: bytes
) -> None:
    """A damaged file of it stops nothing, and holds nothing back; nor does one that cannot be written."""
    keep_limit(home.ledger, Refused(8.0, 2.0), base_url=billing_server.base_url)
    assert found_limit(home.ledger, base_url=billing_server.base_url) == (8.0, 2.0)
    (kept,) = home.ledger.glob("limits/*.json")
    kept.write_bytes(content)
    assert found_limit(home.ledger, base_url=billing_server.base_url) is None
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.touch()
    keep_limit(home.ledger, Refused(8.0, 2.0), base_url=billing_server.base_url)
    write_csv(home.folder / "usage.csv", usage_rows(3))
    assert home.run_here("upload", "usage.csv").exit_code == 0


def test_a_capped_rate_holds_posts_back_but_no_look_up(home: Home, billing_server: BillingServer) -> None:
    """At a row in a hundred seconds one row is posted, whatever the concurrency, and every tenant is looked up."""
    billing_server.respond = held_back = HeldBack(answered=0)
    write_csv(home.folder / "usage.csv", usage_rows(30, tenants=["acme", "globex", "initech"]))
    with home.started("upload", "usage.csv", "--max-rate", "0.01", "--concurrency", "8") as process:
        billing_server.wait_for(posts=1, look_ups=3)
        process.send_signal(signal.SIGINT)
        held_back.release()
        assert ended(process).exit_code == 130
    assert len(billing_server.posts) == 1
    reasons = cells(read_rows(home.folder / "usage.results.csv"), "upload_reason")
    assert sorted(reasons) == [""] + 29 * ["not_sent"]


@pytest.mark.parametrize("options", [("--max-rate", "500"), ("--max-rate", "500", "--concurrency", "2")], ids=len)
def test_a_capped_run_posts_every_row_once(home: Home, billing_server: BillingServer, options: tuple[str, ...]) -> None:
    """A cap changes when rows are posted, not which."""
    rows = usage_rows(120)
    write_csv(home.folder / "usage.csv", rows)
    done = home.run_here("upload", "usage.csv", *options)
    assert done.exit_code == 0, done.said
    assert billing_server.billed() == dict.fromkeys(rows, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--concurrency", "many"), "--concurrency 'many': neither auto nor a whole number"),
        (("--max-rate", "0"), "--max-rate 0.0: outside 0.01 to 1e+06"),
        (("--max-rate", "nan"), "--max-rate nan: outside"),
    ],
    ids=["concurrency", "no rate", "nan"],
)
def test_what_makes_no_sense_is_refused(
    home: Home, billing_server: BillingServer, options: tuple[str, str], words: str
) -> None:
    """A wrong limit or rate stops the command before anything is posted."""
    write_csv(home.folder / "usage.csv", usage_rows(3))
    done = home.run_here("upload", "usage.csv", *options)
    assert done.exit_code == 2
    assert words in done.said
    assert not billing_server.received
