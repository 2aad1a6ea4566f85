"""The manual tells the truth: its commands run and print what it shows, its examples and links are good."""

from __future__ import annotations

import ast
import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest
import yaml

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import Received, contract
from tests.billing_server import BillingServer
from tests.command import COMMAND, Home, usage_rows, write_csv
from tests.docs_pages import PAGES, ROOT, Step, shape, steps

EXAMPLES = ROOT / "docs" / "examples"
BACKEND_OF_THE_PAGES = "https://metering.example.com/api/v1"
KEY_OF_THE_PAGES = "/run/secrets/metering-key"
HOME_OF_THE_PAGES = "/home/billing"
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


# --- what a page may take as given ------------------------------------------------------------------------------------


def _sample_day(name: str) -> Callable[[Home, BillingServer], None]:
    def copy(home: Home, _: BillingServer) -> None:
        shutil.copyfile(ROOT / "sample_data" / "usage.csv", home.folder / name)

    return copy


def _own_day(name: str, *, first: int) -> Callable[[Home, BillingServer], None]:
    def write(home: Home, _: BillingServer) -> None:
        write_csv(home.folder / name, usage_rows(first + 50)[first:])

    return write


def _a_bad_day(home: Home, server: BillingServer) -> None:
    """Write six rows: three are fine, one has a thousands separator, one has no customer, one answer is lost."""
    rows = [*usage_rows(3), ("acme", "dev-3", "api.calls", '"1,200"'), ("newcomer", "dev-4", "api.calls", 7)]
    write_csv(home.folder / "usage.csv", [*rows, ("globex", "dev-5", "api.calls", 44)])

    def respond(got: Received) -> Answer:
        if got.method == "GET" and got.path.endswith("/newcomer"):
            return reply(200, [])
        return Answer(then=Then.RST) if got.headers.get("x-device-id") == "dev-5" else contract(got)

    server.respond = respond


def _edited(home: Home, _: BillingServer) -> None:
    """Do in the failed file what the page tells a person to do in a spreadsheet."""
    path = home.folder / "usage.failed.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["upload_reason"] == "invalid":
            row["total_usage"] = "1200"
        if row["upload_reason"] == "in_doubt":
            row["upload_replay"] = "recorded"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _edited_workbook(home: Home, _: BillingServer) -> None:
    """Do in the workbook what the page tells a person to do."""
    path = home.folder / "usage.failed.xlsx"
    book = openpyxl.load_workbook(path)
    header, *rows = book["Rows"].iter_rows()
    at = {cell.value: place for place, cell in enumerate(header)}
    for row in rows:
        if row[at["upload_reason"]].value == "invalid":
            row[at["total_usage"]].value = "1200"
        if row[at["upload_reason"]].value == "in_doubt":
            row[at["upload_replay"]].value = "recorded"
    book.save(path)


def _set_up_backend(_: Home, server: BillingServer) -> None:
    server.respond = contract


def _key_file(home: Home) -> str:
    return str(home.folder / "metering-key")


def _key(home: Home, _: BillingServer) -> None:
    Path(_key_file(home)).write_text("a-key\n")


def _nightly_upload(home: Home, _: BillingServer) -> None:
    (home.folder / "bin").mkdir()
    shutil.copy(EXAMPLES / "nightly-upload", home.folder / "bin")


GIVEN: dict[str, Callable[[Home, BillingServer], None]] = {
    "nothing": lambda _home, _server: None,
    "usage.csv": _sample_day("usage.csv"),
    "usage-2026-11-20.csv": _sample_day("usage-2026-11-20.csv"),
    "usage-2026-11-21.csv": _sample_day("usage-2026-11-21.csv"),
    "usage-2025-10-01.csv": _own_day("usage-2025-10-01.csv", first=0),
    "usage-2025-10-02.csv": _own_day("usage-2025-10-02.csv", first=50),
    "usage-2025-10-03.csv": _own_day("usage-2025-10-03.csv", first=100),
    "a bad day": _a_bad_day,
    "the edits": _edited,
    "the edits in the workbook": _edited_workbook,
    "the backend set up": _set_up_backend,
    "the key": _key,
    "nightly-upload": _nightly_upload,
}


# --- the pages --------------------------------------------------------------------------------------------------------


def _run(step: Step, home: Home, server: BillingServer) -> None:
    for name in step.given:
        GIVEN[name](home, server)
    text = step.text.replace(BACKEND_OF_THE_PAGES, server.base_url).replace(KEY_OF_THE_PAGES, _key_file(home))
    if step.file:
        (home.folder / step.file).write_text(text, encoding="utf-8")
        return
    program = [sys.executable, "-"] if step.language == "python" else ["bash", "-o", "pipefail", "-s"]
    path = f"{COMMAND.parent}:{home.folder / 'bin'}:{home.environment()['PATH']}"
    # Where a page has a settings file, that says where the backend is.
    base_url = "" if (home.folder / "uploader.toml").exists() else server.base_url
    done = subprocess.run(
        program,
        input=text,
        cwd=home.folder,
        env=home.environment({"PATH": path, "UPLOADER_LEDGER": "", "UPLOADER_BASE_URL": base_url}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    where = f"line {step.line}: {done.stdout}{done.stderr}"
    assert done.returncode == step.exit_code, where
    assert "Traceback" not in done.stderr, where
    if step.prints is not None:
        printed = done.stdout.replace(server.base_url, BACKEND_OF_THE_PAGES).replace(_key_file(home), KEY_OF_THE_PAGES)
        assert shape(printed.replace(str(home.folder), HOME_OF_THE_PAGES)) == shape(step.prints), where


@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_a_page_do_what_it_says(home: Home, billing_server: BillingServer, name: str) -> None:
    """Each from top to bottom in a home of its own: exit code, and what is printed where the page shows it."""
    for step in steps((ROOT / name).read_text(encoding="utf-8")):
        if not step.why_not:
            _run(step, home, billing_server)


def test_a_command_that_is_not_run_says_why() -> None:
    """There are few, and the README's first two have tests of their own."""
    left_out = {name: [step.why_not for step in steps((ROOT / name).read_text(encoding="utf-8"))] for name in NAMES}
    assert all(len(why) > 10 for whys in left_out.values() for why in whys if why)


def test_every_page_is_in_the_reading_order() -> None:
    """docs/README.md links to each page beside it."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert [name for name in sorted(pages) if f"]({name})" not in index] == []


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    """Every relative link is to a file that exists."""
    page = ROOT / name
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_operations_explains_every_event_of_a_log() -> None:
    """Every event that a note of the package can have is in the table of docs/operations.md."""
    calls = [
        node
        for path in (ROOT / "uploader").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Note"
    ]
    events = {call.args[1].value for call in calls if len(call.args) > 1 and isinstance(call.args[1], ast.Constant)}
    assert len(events) > 10
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [event for event in map(str, events) if f"`{event}`" not in page] == []


# --- the examples -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_the_systemd_units_are_valid(tmp_path: Path) -> None:
    """systemd-analyze verify has nothing to say of them, once the program is where they have it."""
    script = shutil.copy(EXAMPLES / "nightly-upload", tmp_path)
    for name in ("uploader.service", "uploader.timer"):
        unit = (EXAMPLES / name).read_text(encoding="utf-8").replace("/usr/local/bin/nightly-upload", str(script))
        (tmp_path / name).write_text(unit, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / "uploader.service", tmp_path / "uploader.timer"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line or line.startswith("uploader.")]
    assert (done.returncode, ours) == (0, []), done.stderr


def test_the_cron_job_of_kubernetes_cannot_bill_twice() -> None:
    """Never two at a time, time to end, a volume for the ledger, and no second try at what only a person mends."""
    claim, job = yaml.safe_load_all((EXAMPLES / "cronjob.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "CronJob")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    template = job["spec"]["jobTemplate"]["spec"]
    assert template["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [1, 2, 4]
    pod = template["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] > 60
    (container,) = pod["containers"]
    assert template["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert environment["UPLOADER_LEDGER"].startswith(mounts["ledger"])
    assert "UPLOADER_API_KEY" not in environment
    assert environment["UPLOADER_API_KEY_FILE"].startswith(mounts["key"])
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes.keys() == mounts.keys()
    assert volumes["ledger"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


@pytest.mark.skipif(shutil.which("kubeconform") is None, reason="no kubeconform here")
def test_the_cron_job_follows_the_schemas_of_kubernetes() -> None:
    """As its API server would check it."""
    subprocess.run(["kubeconform", "-strict", EXAMPLES / "cronjob.yaml"], timeout=60, check=True)


@pytest.mark.parametrize("name", ["uploader.cron", "uploader.service", "cronjob.yaml"])
def test_the_examples_set_what_the_command_heeds(home: Home, name: str) -> None:
    """Every UPLOADER_ variable of an example is one that upload --help names, or the key's."""
    named = set(re.findall(r"UPLOADER_[A-Z_]+", (EXAMPLES / name).read_text(encoding="utf-8")))
    known = set(re.findall(r"UPLOADER_[A-Z_]+", home.run_here("upload", "--help").stdout))
    assert named
    assert named <= known | {"UPLOADER_API_KEY_FILE"}


def test_the_cron_line_has_a_user_and_no_bare_percent_sign() -> None:
    """In /etc/cron.d the sixth field is a user; an unescaped % would end the command."""
    lines = (EXAMPLES / "uploader.cron").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line and not line.startswith("#") and "=" not in line.split()[0])
    assert re.match(r"\S+ \S+ \S+ \S+ \S+ +billing +nightly-upload\b", line)
    assert "%" not in line
