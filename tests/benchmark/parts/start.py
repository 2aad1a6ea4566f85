"""How soon the command answers, and how soon the first row is posted."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from tests.benchmark.backend import Behaviour, backend
from tests.benchmark.bench import AT_WIDTH, Bench, upload_command
from tests.benchmark.process import measured
from tests.benchmark.table import Row, Section, at_most, median_ratio

NAME = "start"
TITLE = "Starting"
_MOST_SECONDS = 1.5
_IMPORTED = re.compile(r"import time:\s+\d+ \|\s+\d+ \|\s+(\S+)")
_HEAVY = ("pandas", "pyarrow")


def measure(bench: Bench) -> Section:
    """Time the help page, the first POST, and when pandas and pyarrow are imported."""
    scale = bench.scale
    helps, clicks = _help_seconds(bench)
    log = bench.log(rows=scale.rows, tenants=scale.tenants)
    first_posts = []
    for number in range(scale.rounds):
        bench.say(f"round {number + 1}: first POST")
        with backend(Behaviour()) as server, bench.upload(log, server.base_url, *AT_WIDTH) as done:
            first_posts.append(server.seen().first_post_seconds - done.cost.started_seconds)
    rows = [
        at_most(
            '`uploader --help` / `python -c "import click"`',
            median_ratio(helps, clicks),
            2.0,
            note=f"{median(helps) * 1000:,.0f} ms and {median(clicks) * 1000:,.0f} ms, medians of {len(helps)}",
        ),
        at_most(
            f"the first POST of {scale.rows:,} CSV rows after",
            median(first_posts),
            _MOST_SECONDS,
            unit=" s",
            note="from the start of the process, the first pass included",
        ),
        *_import_rows(bench, log),
    ]
    return Section(
        name=NAME, title=TITLE, rows=rows, samples={"help": helps, "import click": clicks, "first POST": first_posts}
    )


def _help_seconds(bench: Bench) -> tuple[list[float], list[float]]:
    helps: list[float] = []
    clicks: list[float] = []
    bench.say("help")
    with bench.home() as home:
        for _ in range(bench.scale.starts):
            helps.append(bench.run(home, "--help").seconds)
            import_click = [sys.executable, "-c", "import click"]
            clicks.append(measured(import_click, folder=home.folder, environment=home.environment()).seconds)
    return helps, clicks


def _import_rows(bench: Bench, log: Path) -> list[Row]:
    """See what is imported before the first POST, as each module's line of ``-X importtime`` comes in."""
    bench.say("imports")
    at_seconds_by_module: dict[str, float] = {}
    with backend(Behaviour()) as server, bench.home(server.base_url) as home:
        command = [sys.executable, "-X", "importtime", *home.command(*upload_command(log, *AT_WIDTH))]
        with subprocess.Popen(
            command,
            cwd=home.folder,
            env=home.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if found := _IMPORTED.match(line):
                    at_seconds_by_module.setdefault(found[1], time.monotonic())
        first_post_seconds = server.seen().first_post_seconds
    rows = []
    for module in _HEAVY:
        at_seconds = at_seconds_by_module.get(module)
        when = "never" if at_seconds is None else "before" if at_seconds < first_post_seconds else "after"
        rows.append(
            Row(
                what=f"{module} imported before the first POST",
                value="yes" if when == "before" else "no",
                target="no",
                is_met=when != "before",
                note=f"`-X importtime`: {when}",
            )
        )
    return rows
