"""An upload end to end: the real command, real files, and a billing server whose log says what was billed.

Stops and crashes are in test_upload_stops.py, the same command once more in test_upload_again.py.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.billing_answers import Answer, Then, cut, drip, reply, unframed
from tests.billing_contract import BilledRow, Received, contract
from tests.billing_server import BillingServer
from tests.command import EVENT_COLUMNS, Ended, Home, cells, read_rows, usage_rows, write_csv
from uploader.ledger.run_file import known_run
from uploader.model.identity import EventIds

OWN_COLUMNS = [
    *("upload_row", "upload_status", "upload_reason", "upload_detail", "upload_replay", "upload_http_status"),
    *("upload_attempts", "upload_event_id", "upload_run", "upload_customer_id", "upload_response", "upload_at"),
    "upload_raw",
]


def files_in(folder: Path) -> set[str]:
    """Name what stands in a folder, the ledger aside."""
    return {path.name for path in folder.iterdir()} - {"ledger"}


# --- all goes well ----------------------------------------------------------------------------------------------------

RECORDS = [
    b'00123,dev-1,api.calls,5,NA,"a, ""quoted"" note"',
    b"00123,dev-1,api.calls,5,null,",
    b'umbrella/eu,d%20?#,"gr\xc3\xb6\xc3\x9fe, ""x""",+7,1e5, spaces ',
    b'acme,d,api.calls,8.0,"two\r\nlines",\xe2\x82\xac',
    b"~a'b,d,api.calls,0,=1+1,-",
]
RECORDS_BILLED = [
    BilledRow("00123", "dev-1", "api.calls", 5),
    BilledRow("00123", "dev-1", "api.calls", 5),
    BilledRow("umbrella/eu", "d%20?#", 'größe, "x"', 7),
    BilledRow("acme", "d", "api.calls", 8),
    BilledRow("~a'b", "d", "api.calls", 0),
]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["", "BOM"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_the_results_of_a_csv_file_are_its_own_bytes_with_ours_behind(
    home: Home, billing_server: BillingServer, start: bytes, line_end: bytes
) -> None:
    """Each record stands as it was, quotes and all; ours follow in their order; identical rows are two events."""
    header = b'tenant_id,device_id,"meter_id",total_usage,note,more'
    log = home.folder / "usage.csv"
    log.write_bytes(start + line_end.join([header, *RECORDS]) + line_end)
    run = home.run_here("upload", "usage.csv")
    assert run.exit_code == 0, run.said
    assert files_in(home.folder) == {"usage.csv", "usage.results.csv"}
    rest = (home.folder / "usage.results.csv").read_bytes()
    beginnings = [start + header + b"," + ",".join(OWN_COLUMNS).encode() + line_end]
    beginnings += [b"%b,%d,accepted,,,,201,1," % (record, number) for number, record in enumerate(RECORDS, 1)]
    for beginning in beginnings:
        assert rest.startswith(beginning)
        rest = rest[len(beginning) :]
        rest = rest if beginning is beginnings[0] else rest[rest.index(line_end) + len(line_end) :]
    assert rest == b""
    assert billing_server.billed() == Counter(RECORDS_BILLED)


def test_every_row_is_posted_once_after_one_look_up_a_tenant(home: Home, billing_server: BillingServer) -> None:
    """The backend's log has each row once, each tenant once, and what our columns say of them."""
    rows = usage_rows(60)
    write_csv(home.folder / "usage.csv", rows)
    began = datetime.now(timezone.utc)
    run = home.run("upload", "usage.csv")
    assert run.exit_code == 0, run.said
    assert billing_server.billed() == Counter(rows)
    assert sorted(request.tenant_id for request in billing_server.look_ups) == ["acme", "globex", "initech"]
    assert not billing_server.fragments
    results = read_rows(home.folder / "usage.results.csv")
    assert cells(results, "upload_row") == [str(number) for number in range(1, 61)]
    assert [tuple(row[column] for column in EVENT_COLUMNS) for row in results] == [tuple(map(str, row)) for row in rows]
    assert cells(results, "upload_customer_id") == [f"cus_{row.tenant_id}" for row in rows]
    assert Counter(cells(results, "upload_event_id")) == billing_server.billed_by("x-request-id")
    answer_by_id = {
        post.headers["x-request-id"]: f'{{"id": "evt_{post.number}", "status": "recorded"}}'
        for post in billing_server.posts
    }
    assert [answer_by_id[row["upload_event_id"]] for row in results] == cells(results, "upload_response")
    for row in results:
        moment = datetime.fromisoformat(row["upload_at"].replace("Z", "+00:00"))
        assert began.timestamp() - 1 <= moment.timestamp() <= datetime.now(timezone.utc).timestamp()
    assert "60 of 60 rows accepted" in run.stdout
    assert f"{sum(row.total_usage for row in rows):,} units" in run.stdout
    assert "usage.results.csv" in run.stdout


def test_event_ids_and_run_are_those_of_destination_and_content(home: Home, billing_server: BillingServer) -> None:
    """upload_event_id is the UUIDv5 of the run and the row number, whatever the file is called."""
    write_csv(home.folder / "any name.csv", usage_rows(3))
    assert home.run_here("upload", "any name.csv").exit_code == 0
    results = read_rows(home.folder / "any name.results.csv")
    (ledger_file,) = home.ledger.glob("*.sqlite")
    identity = known_run(home.ledger, ledger_file.stem)
    assert identity.base_url == billing_server.base_url
    assert set(cells(results, "upload_run")) == {ledger_file.stem} == {identity.run_id}
    assert cells(results, "upload_event_id") == [
        str(uuid.uuid5(EventIds(identity).namespace, number)) for number in "123"
    ]


def test_what_goes_over_the_wire_is_the_contract_to_the_byte(home: Home, billing_server: BillingServer) -> None:
    """Tenants are percent-encoded in the path alone; the body is what json.dumps makes of the three fields."""
    lines = [("00123", "d1", "größe", "5"), ("umbrella/eu", "d%2F", "x", "0"), ("a%b?c#d&e", "d3", "x", "1.0")]
    write_csv(home.folder / "usage.csv", lines)
    assert home.run_here("upload", "usage.csv", "--concurrency", "1").exit_code == 0
    prefix = "/api/v1/customer-accounts/tenant/"
    assert {request.path for request in billing_server.look_ups} == {
        f"{prefix}00123",
        f"{prefix}umbrella%2Feu",
        f"{prefix}a%25b%3Fc%23d%26e",
    }
    posts = {post.headers["x-tenant-id"]: post for post in billing_server.posts}
    for tenant, device, meter, usage in lines:
        event = {"meter_id": meter, "total_usage": int(float(usage)), "customer_id": f"cus_{tenant}"}
        assert posts[tenant].body == json.dumps(event).encode()
        assert posts[tenant].path == "/api/v1/events"
        assert posts[tenant].headers["x-device-id"] == device
        assert posts[tenant].headers["content-type"] == "application/json"
    assert not {"expect", "authorization", "accept-encoding"} & set().union(*(post.headers for post in posts.values()))


def test_the_results_of_a_parquet_file_are_parquet_with_its_columns_unchanged(
    home: Home, billing_server: BillingServer
) -> None:
    """The input's columns come back with their own types and metadata; ours stand behind, numbers as numbers."""
    table = pa.table(
        {
            "tenant_id": pa.array(["acme", "00123", "acme"]).dictionary_encode(),
            "device_id": pa.array([7, 8, 9], pa.int32()),
            "meter_id": pa.array(["m", "m", "n"], pa.large_string()),
            "total_usage": pa.array([5, 6, 7], pa.uint64()),
            "at": pa.array([0, None, 2], pa.timestamp("us", "UTC")),
        }
    ).replace_schema_metadata({"made by": "a test"})
    pq.write_table(table, home.folder / "usage.parquet")
    run = home.run_here("upload", "usage.parquet")
    assert run.exit_code == 0, run.said
    assert files_in(home.folder) == {"usage.parquet", "usage.results.parquet"}
    results = pq.read_table(home.folder / "usage.results.parquet")
    assert results.column_names == [*table.column_names, *OWN_COLUMNS]
    assert results.select(table.column_names).equals(table)
    assert results.schema.metadata[b"made by"] == b"a test"
    rows = read_rows(home.folder / "usage.results.parquet")
    assert cells(rows, "upload_row") == [1, 2, 3]
    assert cells(rows, "upload_status") == ["accepted"] * 3
    assert cells(rows, "upload_http_status") == [201] * 3
    assert cells(rows, "upload_reason") == [None] * 3
    assert billing_server.billed() == Counter(
        [BilledRow("acme", "7", "m", 5), BilledRow("00123", "8", "m", 6), BilledRow("acme", "9", "n", 7)]
    )


def test_a_log_without_rows_is_done(home: Home, billing_server: BillingServer) -> None:
    """A header alone is a day without usage: results with our header, and exit code 0."""
    write_csv(home.folder / "usage.csv", [])
    run = home.run_here("upload", "usage.csv")
    assert run.exit_code == 0, run.said
    assert (home.folder / "usage.results.csv").read_text() == ",".join([*EVENT_COLUMNS, *OWN_COLUMNS]) + "\n"
    assert not billing_server.received


# --- each way in which a row can fail ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row, what the backend answers to it, and what the results must say.

    line: the row's record; without one it is a good row of its own tenant and device.
    """

    reason: str
    replay: str
    post: Answer | None = None
    look_up: Answer | None = None
    line: str = ""
    status: str = ""
    detail: str = ""


RECORDED = reply(201, {"id": "evt"})
CASE_BY_NAME = {
    "no number": Case(line="acme,d,api.calls,many", reason="invalid", replay="fix", detail="'many' is not an integer"),
    "negative": Case(line="acme,d,api.calls,-1", reason="invalid", replay="fix", detail="less than 0"),
    "no tenant": Case(line=",d,api.calls,1", reason="invalid", replay="fix", detail="tenant_id: is empty"),
    "ragged": Case(line="acme,d,api.calls", reason="malformed", replay="fix", detail="line 8"),
    "bad quoting": Case(line='acme,"d"x,api.calls,1', reason="malformed", replay="fix", detail="closing quote"),
    "404": Case(look_up=reply(404), reason="customer_not_found", replay="fix", status="404"),
    "empty list": Case(look_up=reply(200, []), reason="customer_not_found", replay="fix", status="200"),
    "no id": Case(look_up=reply(200, {"name": "x"}), reason="customer_not_found", replay="fix", status="200"),
    "look-up 500": Case(look_up=reply(500), reason="lookup_failed", replay="yes", status="500"),
    "look-up cut": Case(look_up=Answer(then=Then.RST), reason="lookup_failed", replay="yes"),
    **{
        f"post {status}": Case(post=reply(status), reason="unavailable", replay="yes", status=str(status))
        for status in (408, 421, 425)
    },
    "Retry-After": Case(
        post=reply(503, headers={"Retry-After": "0"}), reason="unavailable", replay="yes", status="503"
    ),
    **{
        f"post {status}": Case(post=reply(status, {"error": "no"}), reason="rejected", replay="fix", status=str(status))
        for status in (400, 403, 404, 409, 413, 418, 422)
    },
    **{
        f"post {status}": Case(post=reply(status), reason="in_doubt", replay="confirm", status=str(status))
        for status in (304, 500, 502, 503, 504, 507)
    },
    "closed": Case(post=Answer(then=Then.FIN), reason="in_doubt", replay="confirm", detail="may have been recorded"),
    "reset": Case(post=Answer(then=Then.RST), reason="in_doubt", replay="confirm", detail="may have been recorded"),
    "silent": Case(post=Answer(then=Then.HANG), reason="in_doubt", replay="confirm", detail="may have been recorded"),
    "dripped": Case(
        post=drip(RECORDED, pause_seconds=0.1), reason="in_doubt", replay="confirm", detail="may have been recorded"
    ),
    "cut in its body": Case(
        post=cut(RECORDED, after_bytes=len(RECORDED.data) - 3),
        reason="in_doubt",
        replay="confirm",
        status="201",
        detail="probably recorded",
    ),
    **{
        f"201 {name}": Case(post=answer, reason="in_doubt", replay="confirm", status="201", detail="probably recorded")
        for name, answer in (
            ("empty", reply(201)),
            ("list", reply(201, [{"id": 1}])),
            ("no JSON", reply(201, b"<html>")),
            ("unframed", unframed(201, {"id": 1})),
        )
    },
}
"""The outcome table of the design, as far as one backend can bring it about in one run."""


@dataclass(frozen=True, slots=True)
class FailingRun:
    """A run in which each row of the table stands once, a good one between any two."""

    folder: Path
    server: BillingServer
    ended: Ended
    lines: Sequence[str]

    def failed_rows(self) -> list[dict[str, Any]]:
        """Read the failed file."""
        return read_rows(self.folder / "usage.failed.csv")


@pytest.fixture(scope="module")
def failing_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FailingRun]:
    """Upload the table; --retries 0, since retries are test_posting.py's."""
    tenants = {name: name.replace(" ", "_") for name in CASE_BY_NAME}
    case_by_tenant = {tenants[name]: case for name, case in CASE_BY_NAME.items()}

    def respond(received: Received) -> Answer:
        case = case_by_tenant.get(received.tenant_id)
        answer = case and (case.look_up if received.method == "GET" else case.post)
        return answer or contract(received)

    lines: list[str] = []
    for name, case in CASE_BY_NAME.items():
        lines += [case.line or f"{tenants[name]},d,api.calls,1", f"acme,good-{len(lines)},api.calls,2"]
    folder = tmp_path_factory.mktemp("failing")
    write_csv(folder / "usage.csv", [[line] for line in lines])
    with BillingServer(respond) as server:
        home = Home(folder=folder, base_url=server.base_url)
        options = ("--concurrency", "1", "--retries", "0", "--timeout", "2")
        yield FailingRun(folder, server, home.run("upload", "usage.csv", *options), lines)


@pytest.mark.parametrize("name", CASE_BY_NAME)
def test_a_row_fails_as_the_outcome_table_says(failing_run: FailingRun, name: str) -> None:
    """Reason, replay and HTTP status of each row of the table, and that it was posted at most once."""
    case = CASE_BY_NAME[name]
    number = 2 * list(CASE_BY_NAME).index(name) + 1
    row = read_rows(failing_run.folder / "usage.results.csv")[number - 1]
    assert row["upload_row"] == str(number)
    said = (row["upload_status"], row["upload_reason"], row["upload_replay"], row["upload_http_status"])
    assert said == ("failed", case.reason, case.replay, case.status)
    assert case.detail in row["upload_detail"]
    assert row["upload_detail"]
    assert row["upload_raw"] == (case.line if case.reason == "malformed" else "")
    assert row["upload_attempts"] == ("1" if case.post else "0")
    posts = [post for post in failing_run.server.posts if post.headers["x-request-id"] == row["upload_event_id"]]
    assert len(posts) == (1 if case.post else 0)


def test_rows_between_failing_ones_are_billed_once(failing_run: FailingRun) -> None:
    """Every good row is accepted, and in the backend's log once."""
    results = read_rows(failing_run.folder / "usage.results.csv")
    assert cells(results[1::2], "upload_status") == ["accepted"] * len(CASE_BY_NAME)
    billed = failing_run.server.billed_by("x-request-id")
    assert [billed[row["upload_event_id"]] for row in results[1::2]] == [1] * len(CASE_BY_NAME)


def test_the_failed_file_holds_the_failed_rows_alone(failing_run: FailingRun) -> None:
    """Those rows of the results, in their order, cell for cell."""
    results = read_rows(failing_run.folder / "usage.results.csv")
    assert len(results) == len(failing_run.lines)
    assert failing_run.failed_rows() == results[0::2]


def test_rows_that_failed_are_exit_code_1_and_counted_by_reason(failing_run: FailingRun) -> None:
    """The summary counts what the failed file holds, and says what to run next."""
    run = failing_run.ended
    assert run.exit_code == 1, run.said
    for reason, count in Counter(case.reason for case in CASE_BY_NAME.values()).items():
        assert f"failed, {reason} (" in run.stdout
        (line,) = (line for line in run.stdout.splitlines() if f"failed, {reason} (" in line)
        assert f" {count} rows" in line
    assert "uploader replay usage.failed.csv" in run.stdout


# --- options that change what an answer means -------------------------------------------------------------------------


def test_a_safe_status_is_retried_and_billed_once(home: Home, billing_server: BillingServer) -> None:
    """--safe-status 502: the row that got one is sent again; a 500 stays in doubt."""
    first = {"dev-0": reply(502), "dev-1": reply(500)}
    billing_server.respond = lambda got: first.pop(got.headers.get("x-device-id", ""), None) or contract(got)
    write_csv(home.folder / "usage.csv", usage_rows(3))
    run = home.run_here("upload", "usage.csv", "--safe-status", "502,504")
    assert run.exit_code == 1, run.said
    results = read_rows(home.folder / "usage.results.csv")
    assert [(row["upload_reason"], row["upload_attempts"]) for row in results] == [
        ("", "2"),
        ("in_doubt", "1"),
        ("", "1"),
    ]


def test_a_dedupe_header_carries_the_event_id_and_lets_a_doubt_be_cleared(
    home: Home, billing_server: BillingServer
) -> None:
    """--idempotency-header: the second attempt has the id of the first, and no x-request-id is sent."""
    first = {"dev-0": Answer(then=Then.RST)}
    billing_server.respond = lambda got: first.pop(got.headers.get("x-device-id", ""), None) or contract(got)
    write_csv(home.folder / "usage.csv", usage_rows(2))
    run = home.run_here("upload", "usage.csv", "--idempotency-header", "Idempotency-Key")
    assert run.exit_code == 0, run.said
    results = read_rows(home.folder / "usage.results.csv")
    assert cells(results, "upload_attempts") == ["2", "1"]
    ids = cells(results, "upload_event_id")
    assert Counter(post.headers["idempotency-key"] for post in billing_server.posts) == {ids[0]: 2, ids[1]: 1}
    assert not any("x-request-id" in post.headers for post in billing_server.posts)


@pytest.mark.parametrize("variables", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_a_file_name_may_be_no_utf_8(home: Home, variables: dict[str, str]) -> None:
    """Names are bytes (path_resolution(7)): the run is posted, told of, reported and listed like any other."""
    name = os.fsdecode(b"nov\xe9mbre.csv")
    write_csv(home.folder / name, usage_rows(40))
    arguments = ("upload", name, "--summary", "summary.json", "--report", "page.html")
    run = home.run(*arguments, variables=variables)
    assert run.exit_code == 0, run.said
    assert "40 of 40 rows accepted" in run.stdout
    assert cells(read_rows(home.folder / os.fsdecode(b"nov\xe9mbre.results.csv")), "upload_status") == ["accepted"] * 40
    assert home.run("runs", variables=variables).exit_code == 0
    [ledger] = home.ledger.glob("r*.sqlite")
    assert home.run("runs", "show", ledger.stem, variables=variables).exit_code == 0


# --- several files ----------------------------------------------------------------------------------------------------


def test_several_files_are_posted_in_order_each_with_its_own_results(home: Home, billing_server: BillingServer) -> None:
    """No row of the second before the last of the first; each tenant is looked up once for all of them."""
    rows = usage_rows(24)
    write_csv(home.folder / "day2.csv", rows[:8])
    pq.write_table(
        pa.table(dict(zip(EVENT_COLUMNS, zip(*rows[8:16], strict=True), strict=True))), home.folder / "day1.parquet"
    )
    write_csv(home.folder / "day3.csv", [*rows[16:], ("acme", "d", "api.calls", "x")])
    run = home.run("upload", "day2.csv", "day1.parquet", "day3.csv", "--results-dir", "out/new")
    assert run.exit_code == 1, run.said
    posted = [post.billed_row for post in billing_server.posts]
    assert [set(posted[start : start + 8]) for start in (0, 8, 16)] == [
        set(rows[start : start + 8]) for start in (0, 8, 16)
    ]
    assert len(posted) == 24
    assert len(billing_server.look_ups) == 3
    assert files_in(home.folder / "out" / "new") == {
        "day2.results.csv",
        "day1.results.parquet",
        "day3.results.csv",
        "day3.failed.csv",
    }
    assert run.stdout.index("day2.csv:") < run.stdout.index("day1.parquet:") < run.stdout.index("day3.csv:")


def test_several_files_are_summed_up_in_the_end(home: Home) -> None:
    """The last line counts rows and units of all files, and the files that could not be taken; one file needs none."""
    write_csv(home.folder / "day1.csv", [("acme", "d", "m", 5), ("acme", "", "m", 3)])
    write_csv(home.folder / "day2.csv", [("acme", "e", "m", 7)])
    run = home.run_here("upload", "day1.csv", "day2.csv", "day3.csv")
    assert run.stdout.splitlines()[-1] == (
        "all 3 files: 2 of 3 rows accepted (12 of 15 units), 1 failed; 1 not done, see above"
    )
    assert "all" not in home.run_here("upload", "day2.csv").stdout


def test_files_of_one_name_get_results_of_their_own(home: Home, billing_server: BillingServer) -> None:
    """In one --results-dir the second usage.csv takes the next free name, and neither is overwritten."""
    rows = usage_rows(4)
    for folder, part in (("a", rows[:2]), ("b", rows[2:])):
        (home.folder / folder).mkdir()
        write_csv(home.folder / folder / "usage.csv", part)
    run = home.run_here("upload", "a/usage.csv", "b/usage.csv", "--results-dir", "out")
    assert run.exit_code == 0, run.said
    assert cells(read_rows(home.folder / "out" / "usage.results.csv"), "device_id") == ["dev-0", "dev-1"]
    assert cells(read_rows(home.folder / "out" / "usage.2.results.csv"), "device_id") == ["dev-2", "dev-3"]
    assert billing_server.billed() == Counter(rows)


def test_a_file_that_cannot_be_taken_does_not_stop_the_rest(home: Home, billing_server: BillingServer) -> None:
    """The others are posted; the exit code is 3, and the summary says why not of the one."""
    rows = usage_rows(4)
    write_csv(home.folder / "good1.csv", rows[:2])
    write_csv(home.folder / "bad.csv", rows, columns=("tenant_id", "device", "meter_id", "total_usage"))
    write_csv(home.folder / "good2.csv", rows[2:])
    run = home.run_here("upload", "good1.csv", "bad.csv", "good2.csv")
    assert run.exit_code == 3, run.said
    assert billing_server.billed() == Counter(rows)
    assert files_in(home.folder) == {"good1.csv", "good1.results.csv", "bad.csv", "good2.csv", "good2.results.csv"}
    assert "no column named 'device_id'" in run.stdout


def test_files_of_which_none_can_be_taken_are_exit_code_2(home: Home, billing_server: BillingServer) -> None:
    """Nothing was posted by the whole command, and each file is named with its reason."""
    write_csv(home.folder / "bad1.csv", [], columns=["x"])
    (home.folder / "bad2.csv").write_text("")
    run = home.run_here("upload", "bad1.csv", "bad2.csv", "nothing.csv")
    assert run.exit_code == 2, run.said
    assert not billing_server.received
    assert [name in run.stdout for name in ("bad1.csv", "bad2.csv", "nothing.csv")] == [True] * 3


# --- refused before anything is posted --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A command that must post nothing: what is prepared, what is given, and what the message must hold."""

    words: tuple[str, ...]
    arguments: tuple[str, ...] = ("usage.csv",)
    variables: tuple[tuple[str, str], ...] = ()
    prepare: Callable[[Path], object] = lambda _: None


def text_file(name: str, text: str) -> Callable[[Path], object]:
    """Give what makes a file in a folder."""
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


REFUSAL_BY_NAME = {
    "missing column": Refusal(
        prepare=text_file("usage.csv", "tenant_id,device,meter_id,total_usage\na,b,c,1\n"),
        words=("usage.csv", "'device_id'", "name the columns"),
    ),
    "doubled column": Refusal(
        prepare=text_file("usage.csv", "tenant_id,device_id,meter_id,total_usage,tenant_id\na,b,c,1,a\n"),
        words=("usage.csv", "'tenant_id'", "name of its own"),
    ),
    "our own results": Refusal(
        prepare=text_file("x.failed.csv", "tenant_id,device_id,meter_id,total_usage,upload_row\na,b,c,1,1\n"),
        arguments=("x.failed.csv",),
        words=("x.failed.csv", "'upload_row'", "uploader replay x.failed.csv"),
    ),
    "quote left open": Refusal(
        prepare=text_file("usage.csv", 'tenant_id,device_id,meter_id,total_usage\na,b,c,1\na,"b,c,1\n'),
        words=("usage.csv", "line 3", "close the quote"),
    ),
    "empty file": Refusal(prepare=text_file("usage.csv", ""), words=("usage.csv", "no header")),
    "no such file": Refusal(arguments=("nothing.csv",), words=("nothing.csv", "check the path")),
    "no usage log": Refusal(
        prepare=text_file("usage.txt", "x"), arguments=("usage.txt",), words=("usage.txt", ".csv or .tsv")
    ),
    "broken schema": Refusal(
        prepare=text_file("ours.json", "{"),
        arguments=("usage.csv", "--schema", "ours.json"),
        words=("ours.json", "not JSON"),
    ),
    "no such schema": Refusal(arguments=("usage.csv", "--schema", "no.json"), words=("no.json", "--schema")),
    "ledger is a file": Refusal(
        prepare=text_file("taken", ""),
        arguments=("usage.csv", "--ledger", "taken"),
        words=("ledger taken", "--ledger", "nothing was posted"),
    ),
    "results folder is a file": Refusal(
        prepare=text_file("taken", ""),
        arguments=("usage.csv", "--results-dir", "taken"),
        words=("taken", "--results-dir"),
    ),
    "results of another format": Refusal(
        arguments=("usage.csv", "--results", "out.parquet"), words=("out.parquet", "end the name in .csv")
    ),
    "results for two files": Refusal(
        prepare=text_file("more.csv", "tenant_id,device_id,meter_id,total_usage\na,b,c,1\n"),
        arguments=("usage.csv", "more.csv", "--results", "out.csv"),
        words=("--results names one file", "--results-dir"),
    ),
    "key in plain text": Refusal(
        arguments=("usage.csv", "--base-url", "http://metering.example.com/api/v1"),
        variables=(("UPLOADER_API_KEY", "k3y"),),
        words=("http://metering.example.com/api/v1", "plain text", "use https"),
    ),
    "key file missing": Refusal(
        variables=(("UPLOADER_API_KEY_FILE", "no.key"),), words=("no.key", "UPLOADER_API_KEY_FILE")
    ),
    "safe 404": Refusal(
        arguments=("usage.csv", "--safe-status", "404"), words=("--safe-status 404", "5xx", "--safe-status 500,502")
    ),
    "safe nonsense": Refusal(arguments=("usage.csv", "--safe-status", "5oo"), words=("--safe-status '5oo'",)),
    "no concurrency": Refusal(arguments=("usage.csv", "--concurrency", "0"), words=("--concurrency 0", "1 to 500")),
    "no time": Refusal(arguments=("usage.csv", "--timeout", "0"), words=("--timeout 0",)),
    "no URL": Refusal(arguments=("usage.csv", "--base-url", "ftp://x"), words=("'ftp://x'", "give it as in http")),
    "password in the URL": Refusal(
        arguments=("usage.csv", "--base-url", "http://me:s3cret@localhost"), words=("at localhost", "user name")
    ),
    "header of ours": Refusal(
        arguments=("usage.csv", "--idempotency-header", "Content-Type"), words=("'Content-Type'", "Idempotency-Key")
    ),
}


@pytest.mark.parametrize("name", REFUSAL_BY_NAME)
def test_a_command_that_cannot_begin_posts_nothing_and_says_why_in_one_line(
    home: Home, billing_server: BillingServer, name: str
) -> None:
    """Exit code 2, not one call to the backend, no file left behind, and one line with the culprit and the remedy."""
    refusal = REFUSAL_BY_NAME[name]
    write_csv(home.folder / "usage.csv", usage_rows(2))
    refusal.prepare(home.folder)
    before = files_in(home.folder)
    run = home.run_here("upload", *refusal.arguments, variables=dict(refusal.variables))
    assert run.exit_code == 2, run.said
    assert not billing_server.received
    assert files_in(home.folder) == before
    (line,) = (run.stdout or run.stderr).splitlines()
    assert all(word in line for word in refusal.words), line
    assert line.count("usage.csv: ") <= 1
    assert " -- " in line
    assert "s3cret" not in line
