"""How many calls at once and how many rows a second, as the command is told or finds out, before a real server."""

from __future__ import annotations

import itertools
import os
import signal

import pytest

from tests.billing_answers import reply
from tests.billing_contract import contract
from tests.billing_server import BillingServer
from tests.command import Home, cells, ended, read_rows, usage_rows, write_csv
from tests.held_back import HeldBack
from uploader.ledger.known_ceilings import keep_ceiling, known_ceiling
from uploader.pacing.lesson import KnownCeiling

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


def ceiling_kept(home: Home) -> KnownCeiling | None:
    """Give what the ledger has of the backend's limit."""
    return known_ceiling(home.ledger, base_url=home.base_url)


def test_a_limit_that_left_a_row_in_doubt_is_kept(home: Home, billing_server: BillingServer) -> None:
    """When a call of many is answered 503, and posts are accepted after it, the next command will know."""
    billing_server.respond = held_back = HeldBack(answered=3000)
    write_csv(home.folder / "usage.csv", usage_rows(4000, tenants=["acme"]))
    with home.started("upload", "usage.csv") as process:
        billing_server.wait_for(posts=3000 + 18)
        others = itertools.count()
        billing_server.respond = lambda received: contract(received) if next(others) else reply(503)
        held_back.release()
        assert ended(process).exit_code == 1
    known = ceiling_kept(home)
    assert known is not None
    assert known.calls >= 16
    assert known.quiet_commands == 0


def test_the_next_command_begins_below_what_is_known(home: Home, billing_server: BillingServer) -> None:
    """However many posts are accepted, fewer are in flight; and it says so, and that there was no doubt."""
    keep_ceiling(home.ledger, KnownCeiling(16.0), base_url=home.base_url)
    billing_server.respond = held_back = HeldBack(answered=400)
    write_csv(home.folder / "usage.csv", usage_rows(500, tenants=["acme"]))
    with home.started("upload", "usage.csv") as process:
        billing_server.wait_for(posts=400 + 15)
        process.send_signal(signal.SIGINT)
        held_back.release()
        done = ended(process)
    assert done.exit_code == 130
    assert "fewer than 16 calls at once for the first minutes" in done.said
    assert len(billing_server.posts) == 400 + 15
    assert ceiling_kept(home) == (16.0, 1)


def test_a_dry_run_and_one_that_posts_nothing_keep_nothing(home: Home, billing_server: BillingServer) -> None:
    """What an earlier command left stays as it is."""
    write_csv(home.folder / "usage.csv", usage_rows(20))
    assert home.run_here("upload", "usage.csv").exit_code == 0
    assert ceiling_kept(home) is None
    told = KnownCeiling(40.0, 3)
    keep_ceiling(home.ledger, told, base_url=home.base_url)
    for arguments in (["usage.csv"], ["usage.csv", "--dry-run"], ["gone.csv"]):
        home.run_here("upload", *arguments)
        assert ceiling_kept(home) == told


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"7",
        b"[" * 100_000,
        b'{"calls": 40}',
        b'{"calls": 1, "quiet_commands": 0}',
        b'{"calls": NaN, "quiet_commands": 0}',
        b'{"calls": 1e400, "quiet_commands": 0}',
        b'{"calls": 40, "quiet_commands": -1}',
        b'{"calls": 40, "quiet_commands": Infinity}',
        b'{"calls": 4' + b"0" * 400 + b', "quiet_commands": 0}',
        b"\xff",
    ],
    ids=range(12),
)
def test_a_ceiling_that_makes_no_sense_is_left_aside(home: Home, billing_server: BillingServer, content: bytes) -> None:
    """A damaged file of it stops nothing, and holds nothing back."""
    keep_ceiling(home.ledger, KnownCeiling(40.0), base_url=home.base_url)
    assert ceiling_kept(home) == (40.0, 0)
    (kept,) = home.ledger.glob("limits/*.json")
    kept.write_bytes(content)
    assert ceiling_kept(home) is None
    write_csv(home.folder / "usage.csv", usage_rows(3))
    assert home.run_here("upload", "usage.csv").exit_code == 0


def test_a_ceiling_that_cannot_be_kept_stops_nothing(home: Home, billing_server: BillingServer) -> None:
    """Nor does a pipe in its place, for which a command would wait."""
    keep_ceiling(home.ledger, KnownCeiling(40.0), base_url=home.base_url)
    (kept,) = home.ledger.glob("limits/*.json")
    kept.unlink()
    os.mkfifo(kept)
    assert ceiling_kept(home) is None
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.touch()
    keep_ceiling(home.ledger, KnownCeiling(40.0), base_url=home.base_url)
    keep_ceiling(home.ledger, None, base_url=home.base_url)
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
