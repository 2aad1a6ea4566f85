"""``--report`` and ``uploader report``: the page says what happened, and needs no network, no script and no trust."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import Received, contract
from tests.billing_server import BillingServer
from tests.command import Home, cells, read_rows, usage_rows, write_csv
from uploader.model.model import Reason
from uploader.reports.charts import lines, stacked_bars
from uploader.reports.findings import Largest, Moments
from uploader.reports.report import MEANING_BY_REASON, REMEDY_BY_REASON
from uploader.results.results import OWN_COLUMNS

HOSTILE = '<script>window.hacked=1</script><img src=x onerror="window.hacked=1">"\'&amp;{{7*7}}'
CHROMIUM = shutil.which("chromium")
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium on PATH")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start Debian's Chromium; it looks nothing up by itself."""
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"],
        )
        yield browser
        browser.close()


def opened(browser: Browser, path: Path, *, scheme: str = "light") -> tuple[Page, list[str]]:
    """Open a page, with a list of all that it asked for or complained of, but itself."""
    page = browser.new_page(
        color_scheme="dark" if scheme == "dark" else "light", viewport={"width": 1000, "height": 900}
    )
    noted: list[str] = []
    page.on("console", lambda message: noted.append(message.text))
    page.on("pageerror", lambda error: noted.append(str(error)))
    page.on("request", lambda request: noted.append(request.url))
    page.goto(path.as_uri())
    return page, noted[1:] if noted[:1] == [path.as_uri()] else noted


def lossy(received: Received) -> Answer:
    """Leave a meter named lost without an answer, know no tenant named nobody, and refuse devices with a joke."""
    if received.method == "GET":
        return reply(200, []) if received.tenant_id == "nobody" else contract(received)
    if received.event["meter_id"] == "lost":
        return Answer(then=Then.RST)
    return reply(422, {"error": HOSTILE}) if received.headers["x-device-id"] == "d<b>" else contract(received)


@pytest.fixture
def mixed(home: Home, billing_server: BillingServer) -> Home:
    """Upload a log with hostile cells and one of each outcome, with summary and report."""
    billing_server.respond = lossy
    quoted = '"' + HOSTILE.replace('"', '""') + '"'
    write_csv(
        home.folder / "usage.csv",
        [
            *[(f"t{number}", "d", quoted, 1000) for number in range(6)],
            ("t1", "d<b>", quoted, 30),
            ("t1", "d", "lost", 50),
            ("nobody", "d", "=cmd|' /C calc'!A0", 70),
            ("t2", "d", quoted, quoted),
            (quoted, "d", "api", 11),
            (HOSTILE.replace('"', "").replace(",", ""),),
        ],
    )
    done = home.run_here("upload", "usage.csv", "--report", "report.html", "--summary", "summary.json")
    assert done.exit_code == 1, done.said
    return home


@in_a_browser
@pytest.mark.parametrize("name", ["report.html", "usage.results.html"])
def test_a_page_renders_without_network_script_or_complaint(mixed: Home, browser: Browser, name: str) -> None:
    """A real browser shows it, asks for nothing more, and hostile cells are text in it, those of the server too."""
    assert mixed.run_here("report", "usage.results.csv").exit_code == 0
    page, noted = opened(browser, mixed.folder / name)
    assert noted == []
    assert page.evaluate("window.hacked") is None
    assert page.locator("script, img, object, iframe").count() == 0
    text = page.locator("main").inner_text()
    assert "6 of 12 rows were accepted, with 6,000 units; 6 failed, 1 of them in doubt" in text
    assert text.count("<script>window.hacked=1</script>") >= 4
    assert "{{7*7}}" in text
    assert "=cmd|' /C calc'!A0" in text
    chart = page.locator("figure svg").first.bounding_box()
    assert chart is not None
    assert chart["width"] > 700
    assert page.evaluate("document.documentElement.scrollWidth") <= 1000
    page.close()


@in_a_browser
def test_a_page_is_dark_where_the_reader_is(mixed: Home, browser: Browser) -> None:
    """Paper and ink change places, charts included; on paper it is always black on white."""
    light, _ = opened(browser, mixed.folder / "report.html")
    dark, _ = opened(browser, mixed.folder / "report.html", scheme="dark")

    def colors(page: Page) -> list[str]:
        return [
            page.evaluate("getComputedStyle(document.body).backgroundColor"),
            page.evaluate("getComputedStyle(document.body).color"),
            page.locator("figure svg text").first.evaluate("text => getComputedStyle(text).fill"),
        ]

    assert colors(light)[0] == "rgb(255, 255, 255)"
    assert all(one != other for one, other in zip(colors(light), colors(dark), strict=True))
    dark.emulate_media(media="print")
    assert colors(dark)[:2] == ["rgb(255, 255, 255)", "rgb(0, 0, 0)"]
    assert len(dark.pdf()) > 10_000
    light.close()
    dark.close()


def test_a_page_says_what_to_do_and_what_to_ask(mixed: Home) -> None:
    """Each reason has its rows, remedy and command; rows in doubt their event ids and times; tenants their units."""
    page = (mixed.folder / "report.html").read_text(encoding="utf-8")
    results = read_rows(mixed.folder / "usage.results.csv")
    reasons = {row["upload_reason"] for row in results} - {""}
    assert reasons == {"in_doubt", "rejected", "customer_not_found", "invalid", "malformed"}
    for reason in reasons:
        assert f"<h3>{reason}: " in page
        assert REMEDY_BY_REASON[Reason(reason)].replace("'", "&#39;") in page
    assert page.count(f"uploader replay usage.failed.csv --base-url {mixed.base_url} --ledger {mixed.ledger}") == 5
    [doubt] = [row for row in results if row["upload_reason"] == "in_doubt"]
    asked = page.partition("What to ask")[2].partition("<h2>")[0]
    for column in ("upload_event_id", "upload_at", "upload_customer_id"):
        assert doubt[column] in asked
    at_stake = re.findall(r"<tr><td>(\w+)</td><td class=\"n\">(\d+)</td><td class=\"n\">([\d,]+)</td></tr>", page)
    assert at_stake == [("t1", "2", "80"), ("nobody", "1", "70"), ("t2", "1", "0")]
    assert "<script" not in page
    assert not re.search(r"https?://(?!127\.0\.0\.1|www\.w3\.org/2000/svg)", page)


@pytest.mark.parametrize("form", ["results", "failed", "parquet", "semicolons"])
def test_a_page_is_made_of_any_of_our_files(home: Home, billing_server: BillingServer, form: str) -> None:
    """Results as CSV and Parquet, the failed file, and what a spreadsheet made of it."""
    billing_server.respond = lossy
    rows = [("t1", "d", "api", 5), ("t1", "d", "lost", 7)]
    name = "usage.parquet" if form == "parquet" else "usage.csv"
    if form == "parquet":
        columns = zip(*rows, strict=True)
        table = pa.table(dict(zip(("tenant_id", "device_id", "meter_id", "total_usage"), columns, strict=True)))
        pq.write_table(table, home.folder / name)
    else:
        write_csv(home.folder / name, rows)
    assert home.run_here("upload", name).exit_code == 1
    given = {"parquet": "usage.results.parquet", "results": "usage.results.csv"}.get(form, "usage.failed.csv")
    if form == "semicolons":
        path = home.folder / given
        path.write_text(path.read_text(encoding="utf-8").replace(",", ";"), encoding="utf-8")
    done = home.run_here("report", given, "-o", "page.html")
    assert (done.exit_code, done.stdout) == (0, "page.html\n"), done.said
    page = (home.folder / "page.html").read_text(encoding="utf-8")
    count = "1 of 2" if form in ("results", "parquet") else "0 of 1"
    assert f"{count} rows were accepted" in page
    assert "1 of them in doubt" in page
    assert "uploader replay usage.failed.csv</pre>" in page
    assert "<figure><svg" in page


def test_a_page_of_many_rows_is_as_small_as_one_of_few(home: Home) -> None:
    """24,000 failed rows of 12,000 tenants, each with a detail of its own: the page shows the first and the largest."""
    own = dict.fromkeys(OWN_COLUMNS, "")
    lines_of_file = [",".join(["tenant_id", "device_id", "meter_id", "total_usage", *own])]
    for number in range(24_000):
        own.update(
            upload_row=str(number + 1),
            upload_status="failed",
            upload_reason="in_doubt" if number % 2 else "rejected",
            upload_detail=f"no {number} {'x' * 300}",
            upload_run="r0123456789abcde",
            upload_at=f"2026-11-{1 + number % 28:02}T{number % 24:02}:00:00.000Z",
        )
        lines_of_file.append(",".join([f"t{number // 2}", "d", "api", str(number), *own.values()]))
    (home.folder / "big.results.csv").write_text("\n".join(lines_of_file) + "\n", encoding="utf-8")
    done = home.run_here("report", "big.results.csv")
    assert done.exit_code == 0, done.said
    page = (home.folder / "big.results.html").read_text(encoding="utf-8")
    assert len(page) < 200_000
    assert "0 of 24,000 rows were accepted" in page
    assert "The first 50 of 12,000" in page
    assert "figures may be a little low" in page
    assert re.findall(r"<tr><td>(t\d+)</td>", page)[0] == "t11999"


def test_a_command_that_did_nothing_has_a_page_that_says_so(home: Home, billing_server: BillingServer) -> None:
    """A file that is not there, all accepted, and a command that cannot begin: each is the page's first sentence."""
    write_csv(home.folder / "usage.csv", usage_rows(3))
    assert home.run_here("upload", "gone.csv", "usage.csv", "--report", "page.html").exit_code == 3
    page = (home.folder / "page.html").read_text(encoding="utf-8")
    assert re.search(r"Not done: .*gone\.csv", page)
    assert "All 3 rows were accepted, with 303 units." in page
    assert "What to do" not in page
    assert home.run_here("upload", "usage.csv", "--report", "page.html", "--schema", "no.json").exit_code == 2
    assert re.search(r"Not begun: .*no\.json", (home.folder / "page.html").read_text(encoding="utf-8"))
    assert len(billing_server.posts) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("upload", "usage.csv", "--report", "usage.csv"),
        ("report", "usage.csv", "-o", "page.html"),
        ("report", "usage.results.csv", "-o", "usage.csv"),
        ("report", "usage.results.csv", "-o", "nowhere/page.html"),
        ("report", "gone.csv"),
    ],
    ids=["over the input", "of a usage log", "over something else", "in no folder", "of nothing"],
)
def test_what_cannot_be_made_is_refused(home: Home, arguments: tuple[str, ...]) -> None:
    """Exit code 2 and one line that names the file; no file is lost for it."""
    log = write_csv(home.folder / "usage.csv", usage_rows(2))
    before = log.read_bytes()
    assert home.run_here("upload", "usage.csv").exit_code == 0
    done = home.run_here(*arguments)
    assert done.exit_code == 2, done.said
    assert len(done.stderr.splitlines()) == 1
    assert log.read_bytes() == before
    assert not (home.folder / "page.html").exists()


def test_a_check_has_a_page_too(home: Home, billing_server: BillingServer) -> None:
    """It says what would happen, in the words of what has not happened yet; a file that cannot be taken is named."""
    write_csv(
        home.folder / "usage.csv", [("t", "d", "api", 5), ("t", "d", HOSTILE.replace(",", "").replace('"', ""), -7)]
    )
    done = home.run_here("validate", "usage.csv", "gone.csv", "--report", "page.html")
    assert done.exit_code == 3
    page = (home.folder / "page.html").read_text(encoding="utf-8")
    assert "1 of 2 rows would be posted, with 5 units; 1 would fail." in page
    assert re.search(r"Cannot be taken: .*gone\.csv", page)
    assert page.count("uploader upload usage.csv</pre>") == 1
    assert "<td>total_usage: -7 is less than 0</td>" in page
    assert "&lt;script&gt;" in page
    for word in ("<script", "replay", "in doubt", "accepted"):
        assert word not in page.partition("<main>")[2]
    assert billing_server.received == []
    assert home.run_here("validate", "usage.csv", "--report", "usage.csv").exit_code == 2


def test_every_reason_has_its_meaning_and_remedy() -> None:
    """A new reason is explained on the page."""
    assert set(MEANING_BY_REASON) == set(REMEDY_BY_REASON) == set(Reason)


def test_charts_hold_no_script_and_no_address() -> None:
    """What the library would add for a browser with a network is gone."""
    drawn = stacked_bars({"a": [1.0], "b": [2.0]}, colors=["var(--good)", "red"], labels=["0 s"])
    drawn += lines({"a": [1.0, None, 3.0]}, colors=["red"], labels=["0 s", "1 s", "2 s"])
    assert "script" not in drawn
    assert set(re.findall(r"\w+://[^\"]*", drawn)) == {"http://www.w3.org/2000/svg"}
    assert "var(--good)" in drawn


def test_the_largest_are_kept_whatever_their_number() -> None:
    """Of very many names the large ones keep their sums, and it is said that small ones were dropped."""
    largest = Largest()
    for number in range(35_000):
        largest.add(f"small {number}", 1)
        largest.add("large", 5)
    assert largest.is_partial
    assert len(largest.tally_by_name) <= 10_000
    [(name, tally)] = largest.top(1)
    assert (name, tally.rows, tally.units) == ("large", 35_000, 175_000)


def test_moments_are_bounded_and_lose_nothing() -> None:
    """Rows of any order and spread fall into at most 120 intervals; what is no moment is left out."""
    moments = Moments()
    texts = [f"2026-11-{1 + number * 7 % 28:02}T{number % 24:02}:{number % 60:02}:07.123Z" for number in range(5_000)]
    for text in [*texts, "", "yesterday", "2026-13-45T00:00:00Z"]:
        moments.add(text, is_accepted=text.endswith("7.123Z"))
    intervals = moments.intervals()
    assert len(intervals) <= 120
    assert sum(rows for _, rows, _ in intervals) == sum(accepted for _, _, accepted in intervals) == 5_000
    assert f"{intervals[0][0]:%Y-%m-%d}" <= min(texts)[:10]


def test_a_sandbox_run_names_no_replay(home: Home) -> None:
    """The throw-away ledger is gone when the page is read: no command on it would work."""
    write_csv(home.folder / "usage.csv", [("unknown-1", "d", "api", 5)])
    done = home.run("upload", "usage.csv", "--sandbox", "--report", "page.html")
    assert done.exit_code == 1, done.said
    page = (home.folder / "page.html").read_text(encoding="utf-8")
    assert "customer_not_found" in page
    assert "uploader replay" not in page


def test_results_of_an_upload_are_what_its_page_counts(mixed: Home) -> None:
    """The rows shown for a reason are the first of that reason in the results."""
    page = (mixed.folder / "report.html").read_text(encoding="utf-8")
    first = cells(
        [row for row in read_rows(mixed.folder / "usage.results.csv") if row["upload_reason"] == "invalid"],
        "upload_row",
    )
    group = page.partition("<h3>invalid")[2].partition("</table>")[0]
    assert re.findall(r'<tr><td class="n">(\d+)</td>', group) == first[:5]
