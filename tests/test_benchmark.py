"""The benchmark runs and says what it should; how fast anything is, is not tested."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmark.backend import Behaviour, backend
from tests.benchmark.bench import AT_WIDTH, Bench
from tests.benchmark.distant import distant_backend
from tests.benchmark.parts import profile, start
from tests.benchmark.scale import QUICK
from tests.benchmark.table import UnmeasuredError, markdown, write_into

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "benchmark.md"


def bench(folder: Path) -> Bench:
    """Make the smallest benchmark."""
    return Bench(scale=replace(QUICK, rows=20, tenants=2, starts=1), folder=folder, say=lambda _: None)


def test_the_command_prints_and_writes_the_rows_of_a_part(tmp_path: Path) -> None:
    """The quick form of one part that needs no other program gives whole rows, in Markdown and in JSON."""
    told = tmp_path / "told.json"
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "tests.benchmark",
        "--quick",
        "--only",
        "validate",
        "--json",
        told,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads(told.read_bytes())
    assert written["form"] == "quick"
    assert {"CPU", "memory", "kernel", "Python", "OpenSSL"} <= written["machine"].keys()
    [section] = written["sections"]
    assert len(section["samples"]["csv"]) == QUICK.rounds
    for row in section["rows"]:
        assert row["value"].split()[0].replace(",", "").isdigit()
        assert f"| {row['what']} | {row['value']} |" in done.stdout


def test_the_first_post_is_timed_from_the_start_of_the_process(tmp_path: Path) -> None:
    """Starting is measured on the clock that the uploader's launcher and the backend share."""
    section = start.measure(bench(tmp_path))
    [first_post_seconds] = section.samples["first POST"]
    assert 0 < first_post_seconds < 100
    assert "pandas imported before the first POST | no | no | yes" in markdown(section)


def test_peak_memory_is_the_commands_own(tmp_path: Path) -> None:
    """A large benchmark process does not count: a small command's peak stays small."""
    ballast = bytearray(b"x") * 300_000_000
    with bench(tmp_path).home() as home:
        cost = bench(tmp_path).run(home, "--help")
    assert len(ballast) > cost.peak_bytes > 1_000_000


def test_a_backend_that_refuses_is_mended(tmp_path: Path) -> None:
    """An upload that is refused half-way stops, and the same command ends it once the backend is mended."""
    small = bench(tmp_path)
    log = small.log(rows=20, tenants=2)
    with backend(Behaviour()) as server:
        server.refuse_after(10)
        with pytest.raises(UnmeasuredError, match="exit code 3"), small.upload(log, server.base_url, *AT_WIDTH):
            pass
        assert server.seen().recorded == 10
        server.mend()
        with small.upload(log, server.base_url, *AT_WIDTH):
            assert server.seen().recorded == 30


def test_a_backend_sheds_what_is_above_its_limit() -> None:
    """A backend that takes one call at a time answers 503 to a second one."""
    with backend(Behaviour(latency_seconds=5, most_in_flight=1)) as server:
        url = f"{server.base_url}/customer-accounts/tenant/acme"
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(url, timeout=0.1)
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(url)


def test_a_distant_backend_answers_each_call_and_none_too_soon(tmp_path: Path) -> None:
    """Calls that come in pieces or together are told apart, and answered after the latency; all are counted."""
    call = b"POST /api/v1/events HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
    small = bench(tmp_path)
    with distant_backend(0.1) as server:
        port = int(server.root_url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as answers:
            for pieces in ([call], [call[:30], call[30:-1], call[-1:]], [call + call]):
                began_seconds = time.monotonic()
                for piece in pieces:
                    connection.sendall(piece)
                for _ in range(b"".join(pieces).count(b"POST")):
                    head = [answers.readline() for _ in range(4)]
                    assert head[0] == b"HTTP/1.1 201 Created\r\n"
                    assert answers.read(int(head[2].split()[1])).startswith(b'{"id"')
                assert time.monotonic() - began_seconds >= 0.1
        assert server.seen().posts == server.seen().recorded == 4
        with small.upload(small.log(rows=30, tenants=2), server.base_url, *AT_WIDTH):
            assert (server.seen().recorded, server.seen().look_ups) == (34, 2)


def test_tables_are_put_between_their_marks(tmp_path: Path) -> None:
    """A part's tables replace what stood between its marks, and nothing else; the docs have marks for every part."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a:begin -->\nold\n<!-- a:end -->\nafter\n", encoding="utf-8")
    write_into(page, {"a": r"new \1"})
    assert page.read_text(encoding="utf-8") == "before\n<!-- a:begin -->\nnew \\1\n<!-- a:end -->\nafter\n"
    with pytest.raises(UnmeasuredError, match="lacks the marks"):
        write_into(page, {"b": "new"})


def test_the_profile_names_files_and_functions_that_are_there() -> None:
    """A part of the package that goes by another name would silently be counted as something else."""
    files = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "uploader").rglob("*.py")}
    assert profile.STAGE_BY_FILE.keys() <= files.keys()
    missing = [(file, name) for file, name in profile.PASS_BY_FUNCTION if f"def {name}(" not in files[file]]
    assert missing == []


def test_docs_have_a_place_for_every_part() -> None:
    """What ``--docs`` writes has its marks in docs/benchmark.md."""
    text = DOCS.read_text(encoding="utf-8")
    parts = ["throughput", "latency", "memory", "growth", "validate", "start", "pacing", "profile", "machine"]
    assert [name for name in parts if f"<!-- {name}:begin -->" not in text] == []
