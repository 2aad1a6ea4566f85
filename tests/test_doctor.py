"""``uploader doctor``: each thing that would keep an upload from getting through is found before the night."""

from __future__ import annotations

import email.utils
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import contract, forwarding
from tests.billing_server import BillingServer
from tests.command import Ended, Home, usage_rows, write_csv
from tests.dead_ports import refusing_port

ACCOUNT = [{"id": "c-1"}]


def states(run: Ended) -> dict[str, str]:
    """Give what each check came to."""
    return {line.split()[1]: line.split()[0] for line in run.stdout.splitlines()}


def line(run: Ended, check: str) -> str:
    """Give the line of a check."""
    (found,) = (line for line in run.stdout.splitlines() if line.split()[1] == check)
    return found


def test_all_is_well(home: Home, billing_server: BillingServer) -> None:
    """One line a check, exit code 0; one tenant is asked for, nothing is posted, nothing is left behind."""
    now = email.utils.format_datetime(datetime.now(timezone.utc))
    billing_server.respond = lambda _: reply(200, ACCOUNT, {"Date": now})
    write_csv(home.folder / "usage.csv", [("acme", "d", "m", "x"), *usage_rows(2, tenants=["globex"])])
    run = home.run_here("doctor", "usage.csv")
    assert run.exit_code == 0, run.said
    checks = ["settings", "ledger", "room", "schema", "log", "route", "dns", "auth", "look-up", "clock"]
    assert states(run) == dict.fromkeys(checks, "ok")
    assert "row 2 is the first good one" in line(run, "log")
    assert "tenant 'globex' is customer 'c-1'" in line(run, "look-up")
    assert "agrees" in line(run, "clock")
    assert [(got.method, got.tenant_id) for got in billing_server.received] == [("GET", "globex")]
    assert {path.name for path in home.folder.iterdir()} == {"usage.csv"}


@pytest.mark.parametrize(
    ("answer", "check", "state", "words"),
    [
        (reply(401), "auth", "fail", "check UPLOADER_API_KEY"),
        (reply(403), "auth", "fail", "refused: HTTP 403 -- check the key"),
        (reply(302), "look-up", "fail", "redirects (HTTP 302); check --base-url"),
        (reply(302), "auth", "warn", "not known: HTTP 302 does not tell"),
        (reply(404), "look-up", "warn", "knows no customer for this tenant -- check the tenant"),
        (reply(200, []), "look-up", "warn", "knows no customer"),
        (reply(500), "look-up", "fail", "HTTP 500 -- see whether the backend is up"),
        (reply(429), "look-up", "fail", "HTTP 429 -- see whether the backend is up"),
        (reply(200, b"<html>"), "look-up", "fail", "was not JSON -- something else seems to answer there"),
        (Answer(then=Then.RST), "look-up", "fail", "the customer look-up failed"),
        (reply(200, ACCOUNT, {"Date": "Mon, 01 Jan 2024 00:00:00 GMT"}), "clock", "warn", "ahead of the backend"),
        (reply(200, ACCOUNT), "clock", "ok", "no date"),
        (reply(200, ACCOUNT, {"Date": "soon"}), "clock", "ok", "no date"),
    ],
    ids=[
        "401",
        "403",
        "302",
        "302 key",
        "404",
        "empty",
        "500",
        "429",
        "a page",
        "reset",
        "clock",
        "dateless",
        "misdated",
    ],
)
def test_what_the_backend_answers_is_judged(
    home: Home, billing_server: BillingServer, *, answer: Answer, check: str, state: str, words: str
) -> None:
    """As the upload would judge it, with what to do; the exit code is of the worst line."""
    billing_server.respond = lambda _: answer
    run = home.run_here("doctor", "--tenant", "acme")
    assert states(run)[check] == state
    assert words in line(run, check)
    assert run.exit_code == {"ok": 0, "warn": 1, "fail": 2}[max(states(run).values(), key=["ok", "warn", "fail"].index)]
    assert not billing_server.posts


def test_without_a_tenant_the_look_up_is_not_tried(home: Home, billing_server: BillingServer) -> None:
    """That is a warning, for the key was not tried either."""
    run = home.run_here("doctor")
    assert run.exit_code == 1
    assert "give --tenant ID, or a usage log" in line(run, "look-up")
    assert not billing_server.received


def test_a_log_without_a_row_is_no_obstacle_but_worth_a_look(home: Home, billing_server: BillingServer) -> None:
    """An upload takes it, and warns too."""
    billing_server.respond = lambda _: reply(200, ACCOUNT)
    write_csv(home.folder / "usage.csv", [])
    run = home.run_here("doctor", "usage.csv", "--tenant", "acme")
    assert (run.exit_code, states(run)["log"]) == (1, "warn")
    upload = home.run_here("upload", "usage.csv")
    assert upload.exit_code == 0
    assert "WARNING usage.csv: it has no row: is its export whole?" in upload.stderr


def test_a_backend_that_is_not_there_is_found(home: Home) -> None:
    """An unknown name is a matter of DNS, a closed port one of the look-up."""
    run = home.run_here("doctor", "--tenant", "acme", "--base-url", "http://127.0.0.1:1/api")
    assert (run.exit_code, states(run)["dns"], states(run)["look-up"]) == (2, "ok", "fail")
    assert "the customer look-up failed" in line(run, "look-up")
    run = home.run_here("doctor", "--tenant", "acme", "--base-url", "http://nowhere.invalid/api", "--timeout", "2")
    assert (run.exit_code, states(run)["dns"]) == (2, "fail")
    assert "nowhere.invalid" in line(run, "dns")


def _file_in_place_of_the_ledger(home: Home) -> list[str]:
    home.ledger.write_text("")
    return []


def _broken_schema(home: Home) -> list[str]:
    (home.folder / "s.json").write_text("{")
    return ["--schema", "s.json"]


def _log_without_a_good_row(home: Home) -> list[str]:
    write_csv(home.folder / "usage.csv", [("acme", "d", "m", "x")])
    return ["usage.csv"]


def _log_of_other_columns(home: Home) -> list[str]:
    write_csv(home.folder / "usage.csv", [], columns=["x"])
    return ["usage.csv"]


def _plain_key(_: Home) -> list[str]:
    return ["--base-url", "http://metering.example.com"]


@pytest.mark.parametrize(
    ("spoil", "check", "words"),
    [
        (_file_in_place_of_the_ledger, "ledger", "cannot be used"),
        (_broken_schema, "schema", "not JSON"),
        (_log_without_a_good_row, "log", "no good row -- see why: uploader validate usage.csv"),
        (_log_of_other_columns, "log", "no column named 'tenant_id'"),
        (_plain_key, "settings", "would cross the network in plain text"),
    ],
)
def test_what_is_wrong_here_is_found(home: Home, spoil: Callable[[Home], list[str]], check: str, words: str) -> None:
    """Ledger, schema, log and settings; the checks after it go on where they can."""
    run = home.run_here("doctor", *spoil(home), variables={"UPLOADER_API_KEY": "secret"})
    assert run.exit_code == 2
    assert states(run)[check] == "fail"
    assert words in line(run, check)
    assert "secret" not in run.said


class ShortLived(trustme.CA):
    """An authority whose certificates last for three more days, or ended yesterday."""

    days = 3

    def issue_cert(self, *identities: str, **facts: Any) -> trustme.LeafCert:
        """Issue one."""
        end = datetime.now(timezone.utc) + timedelta(days=self.days, hours=1)
        return super().issue_cert(*identities, **{**facts, "not_after": end})


class Expired(ShortLived):
    """Its certificates ended yesterday."""

    days = -1


@pytest.mark.parametrize(
    ("kind", "names", "is_trusted", "state", "words"),
    [
        (trustme.CA, ("127.0.0.1",), True, "ok", "valid for 127.0.0.1"),
        (ShortLived, ("127.0.0.1",), True, "warn", "for another 3 days -- have it renewed"),
        (Expired, ("127.0.0.1",), True, "fail", "expired"),
        (trustme.CA, ("other.example.com",), True, "fail", "127.0.0.1"),
        (trustme.CA, ("127.0.0.1",), False, "fail", "REQUESTS_CA_BUNDLE"),
    ],
    ids=["good", "ends-soon", "ended", "other-name", "untrusted"],
)
def test_the_certificate_is_looked_at(
    tmp_path: Path, kind: type[trustme.CA], names: tuple[str, ...], *, is_trusted: bool, state: str, words: str
) -> None:
    """Its name, its authority and its last day; the look-up agrees on whether it can be used."""
    authority = kind()
    bundle = tmp_path / "ca.pem"
    (authority if is_trusted else trustme.CA()).cert_pem.write_to_path(str(bundle))
    with BillingServer(authority=authority, names=names) as server:
        home = Home(folder=tmp_path, base_url=server.base_url)
        run = home.run_here("doctor", "--tenant", "acme", variables={"REQUESTS_CA_BUNDLE": str(bundle)})
    assert states(run)["tls"] == state, run.said
    assert words in line(run, "tls")
    assert states(run)["look-up"] == ("fail" if state == "fail" else "ok")
    assert run.exit_code == {"ok": 0, "warn": 1, "fail": 2}[state]


def test_a_proxy_that_is_not_there_is_what_to_look_at(home: Home) -> None:
    """The backend may be well; another way to it is named."""
    with refusing_port() as port:
        run = home.run_here("doctor", "--tenant", "acme", variables={"http_proxy": f"http://127.0.0.1:{port}"})
    assert "see whether proxy and backend are up, or name the backend's host in no_proxy" in line(run, "look-up")


def test_the_proxy_is_the_one_that_an_upload_would_take(home: Home, billing_server: BillingServer) -> None:
    """It is named without its password; the look-up goes through it."""
    with BillingServer(forwarding) as proxy:
        variables = {"http_proxy": f"http://user:s3cret@127.0.0.1:{proxy.port}"}
        run = home.run_here("doctor", "--tenant", "acme", variables=variables)
        assert run.exit_code == 0, run.said
        assert f"through the proxy http://127.0.0.1:{proxy.port}" in line(run, "route")
        assert "s3cret" not in run.said
        assert len(proxy.received) == len(billing_server.received) > 0


def test_a_key_that_is_taken_is_told(home: Home, billing_server: BillingServer) -> None:
    """It is sent with the look-up, and not shown."""
    billing_server.respond = contract
    run = home.run_here("doctor", "--tenant", "acme", variables={"UPLOADER_API_KEY": "s3cret"})
    assert "the key is taken" in line(run, "auth")
    assert "s3cret" not in run.said
    assert {got.headers["authorization"] for got in billing_server.received} == {"Bearer s3cret"}
