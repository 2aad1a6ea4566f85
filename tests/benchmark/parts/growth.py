"""Time and ledger as the log grows, and as the ledger folder fills."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.benchmark.backend import Backend, Behaviour, backend
from tests.benchmark.bench import AT_WIDTH, Bench, upload_command
from tests.benchmark.process import measured
from tests.benchmark.stub import Stub, nginx_stub
from tests.benchmark.table import Grid, Row, Section, UnmeasuredError, at_most, median_ratio
from tests.benchmark.usage import COLUMNS, usage_rows
from tests.command import Home
from uploader.ledger.ledger import Ledger
from uploader.ledger.overlap import RowSketch
from uploader.ledger.run_file import known_run, ledger_path, run_ids
from uploader.ledger.seen import SeenRows
from uploader.model.identity import RunIdentity

NAME = "growth"
TITLE = "Cost as it grows"
_SKETCH_ROWS = 20_000
"""Enough to fill a sketch: one of a million rows is no larger."""
_MOST_RATIO = 1.15
_STOPPED_EARLY = 3
_MOST_ROWS_IN_ALL = 3_000_000
"""A size is uploaded in every round, unless that comes to more rows; 10,000,000 are uploaded once."""


@dataclass(slots=True)
class _Grown:
    """What the uploads of one size came to; the bytes are of the whole ledger folder, the most of all uploads."""

    seconds: list[float] = field(default_factory=list)
    ledger_peak_bytes: int = 0
    ledger_end_bytes: int = 0


def measure(bench: Bench) -> Section:
    """Upload ever larger logs; then a night's log into an empty ledger folder and into a full one, in turn."""
    rows, grid, samples = _straight_lines(bench)
    full_rows, full_samples = _full_folder(bench)
    return Section(name=NAME, title=TITLE, rows=[*rows, *full_rows], grids=[grid], samples={**samples, **full_samples})


def _straight_lines(bench: Bench) -> tuple[list[Row], Grid, dict[str, list[float]]]:
    sizes = bench.scale.growth_rows
    grown_by_rows = {rows: _Grown() for rows in sizes}
    with nginx_stub(bench.folder) as stub:
        for number in range(bench.scale.rounds):
            for rows, grown in grown_by_rows.items():  # in turn, as the machine's speed changes between hours
                if number == 0 or (number + 1) * rows <= _MOST_ROWS_IN_ALL:
                    bench.say(f"round {number + 1}: {rows:,} rows")
                    _grow(bench, stub, rows, grown)
    seconds_by_rows = {rows: median(grown.seconds) for rows, grown in grown_by_rows.items()}
    lines = [
        (
            f"{rows:,}",
            f"{seconds_by_rows[rows]:,.1f} s",
            f"{seconds_by_rows[rows] / rows * 1e6:,.1f} µs",
            _kb(grown.ledger_peak_bytes),
            f"{grown.ledger_peak_bytes / rows:,.0f}",
            _kb(grown.ledger_end_bytes),
        )
        for rows, grown in grown_by_rows.items()
    ]
    header = ("rows", "time", "a row", "ledger folder at its largest", "bytes a row", "once finished")
    samples: dict[str, list[float]] = {
        "rows": [float(rows) for rows in sizes],
        "seconds": list(seconds_by_rows.values()),
        "ledger peak": [grown.ledger_peak_bytes for grown in grown_by_rows.values()],
        "ledger end": [grown.ledger_end_bytes for grown in grown_by_rows.values()],
        **{f"seconds of {rows:,} rows": grown.seconds for rows, grown in grown_by_rows.items()},
    }
    slope_rows = [
        at_most(
            f"{what}: the last step's slope / the first's",
            _last_slope_by_first(sizes, samples[key]),
            _MOST_RATIO,
            note="1 is a straight line",
        )
        for what, key in (("time", "seconds"), ("ledger", "ledger peak"))
    ]
    return slope_rows, Grid(header, lines), samples


def _grow(bench: Bench, stub: Stub, rows: int, grown: _Grown) -> None:
    log = bench.log(rows=rows, tenants=bench.scale.tenants)
    with bench.home(stub.base_url) as home:

        def look() -> bool:
            grown.ledger_peak_bytes = max(grown.ledger_peak_bytes, _bytes_in(home.ledger))
            return False

        grown.seconds.append(bench.run(home, *upload_command(log, *AT_WIDTH), look=look).seconds)
        grown.ledger_end_bytes = max(grown.ledger_end_bytes, _bytes_in(home.ledger))


def _last_slope_by_first(sizes: tuple[int, ...], values: list[float]) -> float:
    points = list(zip(sizes, values, strict=True))
    slopes = [(y2 - y1) / (x2 - x1) for (x1, y1), (x2, y2) in itertools.pairwise(points)]
    return slopes[-1] / slopes[0]


def _full_folder(bench: Bench) -> tuple[list[Row], dict[str, list[float]]]:
    scale = bench.scale
    run_rows = min(1_000_000, scale.growth_rows[-1])
    samples: dict[str, list[float]] = {
        f"{verb} {name}": [] for verb in ("begin", "go on") for name in ("empty", "full")
    }
    nights = itertools.count(1)
    full = bench.folder / "finished-runs"
    with backend(Behaviour()) as server:
        bench.say(f"{scale.finished_runs} finished runs")
        with bench.upload(bench.log(rows=run_rows, tenants=scale.tenants), server.base_url, *AT_WIDTH) as done:
            _fill(full, done.home.ledger, server.base_url, runs=scale.finished_runs)
        for number in range(scale.rounds):
            for name, ledger in (("empty", None), ("full", full)):
                bench.say(f"round {number + 1}: a night into the {name} folder, and one that is continued")
                with _home_with(bench, server, ledger) as home:
                    samples[f"begin {name}"].append(bench.run(home, *_night(bench, next(nights))).seconds)
                with _home_with(bench, server, ledger) as home:
                    samples[f"go on {name}"].append(_seconds_to_go_on(bench, home, server, _night(bench, next(nights))))
    shutil.rmtree(full)
    what = f"{scale.finished_runs} finished runs of {run_rows:,} rows"
    rows = [
        at_most(
            f"{verb} {scale.night_rows:,} rows: among {what} / in an empty folder",
            median_ratio(samples[f"{key} full"], samples[f"{key} empty"]),
            1.10,
            note=f"{median(samples[f'{key} full']):,.2f} s and {median(samples[f'{key} empty']):,.2f} s, whole process",
        )
        for verb, key in (("uploading", "begin"), ("continuing, half-way,", "go on"))
    ]
    return rows, samples


@contextlib.contextmanager
def _home_with(bench: Bench, server: Backend, ledger: Path | None) -> Iterator[Home]:
    with bench.home(server.base_url) as home:
        if ledger:
            shutil.copytree(ledger, home.ledger)
        os.sync()  # else the run's first flush pays for the copies
        yield home


def _night(bench: Bench, night: int) -> list[str | Path]:
    log = bench.log(rows=bench.scale.night_rows, tenants=bench.scale.tenants, night=night)
    return upload_command(log, *AT_WIDTH)


def _fill(folder: Path, template: Path, base_url: str, *, runs: int) -> None:
    """Make finished runs as the program leaves them: a real one's ledger file under each identity, and its sketch."""
    [real_run] = run_ids(template)
    real = known_run(template, real_run)
    folder.mkdir()
    for night in range(runs):
        content_sha256 = hashlib.sha256(f"night {night}".encode()).hexdigest()
        identity = RunIdentity(base_url=base_url, period="", content_sha256=content_sha256)
        shutil.copyfile(ledger_path(template, real_run), ledger_path(folder, real_run))
        with Ledger(folder, real) as ledger:  # opened as what it is, and only then named as another
            ledger.remember({"identity": identity.canonical, "input": [f"night-{night}.csv", night]})
        ledger.path.rename(ledger_path(folder, identity.run_id))
        sketch = RowSketch(COLUMNS)
        for row in usage_rows(_SKETCH_ROWS, tenants=200, night=1_000 + night):
            sketch.add([str(cell) for cell in row])
        seen = SeenRows(folder, identity, event_id=None)
        seen.keep(sketch.to_bytes())
        seen.events.keep(sketch.to_bytes(), path=folder / f"night-{night}.csv", columns=COLUMNS)


def _seconds_to_go_on(bench: Bench, home: Home, server: Backend, command: list[str | Path]) -> float:
    """Have the backend refuse from the middle on, so that the run stops; mend it; time the same command again."""
    server.refuse_after(bench.scale.night_rows // 2)
    stopped = measured(home.command(*command), folder=home.folder, environment=home.environment())
    if stopped.exit_code != _STOPPED_EARLY:
        raise UnmeasuredError(f"a refused upload ended with exit code {stopped.exit_code}: {stopped.stderr}")
    server.mend()
    return bench.run(home, *command).seconds


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # SQLite's own files come and go
            total += path.stat().st_size
    return total


def _kb(size: float) -> str:
    return f"{size / 1000:,.0f} kB"
