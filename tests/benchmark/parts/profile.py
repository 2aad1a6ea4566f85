"""Where the microseconds of a row go."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import median

from tests.benchmark.bench import AT_WIDTH, Bench, upload_command
from tests.benchmark.setup import PROFILER, program_of
from tests.benchmark.stub import Stub, nginx_stub
from tests.benchmark.table import Grid, Row, Section, UnmeasuredError, unmeasured

NAME = "profile"
TITLE = "Where the microseconds of a row go"
_SAMPLES_PER_SECOND = 250
_FRAME = re.compile(r"(?:\S*\.)?(?P<function>[^\s.]+) \((?P<path>.+?)(?::\d+)?\)$")
_EXCHANGE = "the exchange itself (most of it in the kernel)"
_STARTING = "the interpreter, imports, the rest"
STAGE_BY_FILE = {
    "sender": _EXCHANGE,
    "link": _EXCHANGE,
    "origin": _EXCHANGE,
    "answer_head": _EXCHANGE,
    "answer_body": _EXCHANGE,
    "dialling": _EXCHANGE,
    "connecting": _EXCHANGE,
    "steps": _EXCHANGE,
    "resolver": _EXCHANGE,
    "database": "the ledger's commits (SQLite, the disk)",
    "edits": "rows into the ledger's statements",
    "ledger": "rows into the ledger's statements",
    "identity": "event ids",
    "api": "requests written, answers judged",
    "content": "reading the log",
    "csv_log": "reading the log",
    "csv_scan": "reading the log",
    "parquet_log": "reading the log",
    "readers": "reading the log",
    "schema": "the schema",
    "cell_readers": "the schema",
    "known_cells": "the schema",
    "books": "sums by tenant and meter",
    "amounts": "sums by tenant and meter",
    "overlap": "the sample of the rows (overlap guard)",
    "results": "the results file",
    "durable": "the results file",
}
_LOOP = "the loop: which row next"
PASS_BY_FUNCTION = {
    ("admission", "read_through"): "first pass",
    ("posting", "post_all"): "posting",
    ("writing", "write_out"): "results",
}
_PASSES = (*PASS_BY_FUNCTION.values(), "besides")


def measure(bench: Bench) -> Section:
    """Take the CPU time of plain runs, and its shares from samples of one more run."""
    scale = bench.scale
    log = bench.log(rows=scale.rows, tenants=scale.tenants)
    with nginx_stub(bench.folder) as stub:
        walls, cpus = [], []
        for number in range(scale.rounds):
            bench.say(f"round {number + 1}: a plain run")
            with bench.upload(log, stub.base_url, *AT_WIDTH) as done:
                walls.append(done.cost.seconds / scale.rows * 1e6)
                cpus.append(done.cost.cpu_seconds / scale.rows * 1e6)
        samples = {"wall": walls, "cpu": cpus}
        cpu = median(cpus)
        rows = [
            Row(what="a row, whole process", value=f"{median(walls):,.1f} µs"),
            Row(what="of it CPU time, user and system", value=f"{cpu:,.1f} µs", note="`wait4`, medians of plain runs"),
            Row(what="of it waiting", value=f"{median(walls) - cpu:,.1f} µs", note="for the server, and for the disk"),
        ]
        bench.say("a run that is sampled")
        try:
            shares = _shares(_sampled_stacks(bench, stub, log))
        except UnmeasuredError as error:
            rows.append(unmeasured("its stages", error))
            return Section(name=NAME, title=TITLE, rows=rows, samples=samples)
    return Section(name=NAME, title=TITLE, rows=rows, grids=[_grid(shares, cpu)], samples=samples)


def _sampled_stacks(bench: Bench, stub: Stub, log: Path) -> list[str]:
    """Sample the stack from outside, only while it is on the CPU: the run itself executes no line more."""
    profiler = program_of(PROFILER, PROFILER)
    with bench.home(stub.base_url) as home:
        stacks = home.folder / "stacks"
        record: list[str | Path] = [
            profiler,
            "record",
            "--format",
            "raw",
            "--full-filenames",
            "--rate",
            str(_SAMPLES_PER_SECOND),
        ]
        done = subprocess.run(
            [*record, "--output", stacks, "--", *home.command(*upload_command(log, *AT_WIDTH))],
            cwd=home.folder,
            env=home.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if not stacks.exists():
            raise UnmeasuredError(f"{PROFILER} cannot look at another process here: {done.stderr.strip()[-200:]}")
        return stacks.read_text("utf-8").splitlines()


def _shares(stacks: Iterable[str]) -> Counter[tuple[str, str]]:
    """Count samples by stage and pass: the innermost file of ours says the stage, a function above it the pass."""
    counts: Counter[tuple[str, str]] = Counter()
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        frames = [match for match in map(_FRAME.match, stack.split(";")) if match]
        functions = [(Path(frame["path"]).stem, frame["function"]) for frame in frames]
        passes = [PASS_BY_FUNCTION[function] for function in functions if function in PASS_BY_FUNCTION]
        counts[_stage(frames), passes[0] if passes else "besides"] += int(count)
    return counts


def _stage(frames: list[re.Match[str]]) -> str:
    if any("importlib" in frame["path"] for frame in frames):
        return _STARTING
    paths = [Path(frame["path"]) for frame in frames]
    ours = [path.stem for path in paths if "uploader" in (path.parent.name, path.parent.parent.name)]
    if not ours or ours[-1] == "cli":
        return _STARTING
    return STAGE_BY_FILE.get(ours[-1], _LOOP)


def _grid(shares: Counter[tuple[str, str]], cpu_microseconds: float) -> Grid:
    all_samples = sum(shares.values())
    by_stage: Counter[str] = Counter()
    for (stage, _), count in shares.items():
        by_stage[stage] += count

    def shown(count: int) -> str:
        return f"{count / all_samples * cpu_microseconds:,.1f}" if count else ""

    lines = [
        (
            stage,
            shown(count),
            f"{count / all_samples:.0%}",
            *(shown(shares[stage, of_pass]) for of_pass in _PASSES),
        )
        for stage, count in by_stage.most_common()
    ]
    return Grid(("stage", "CPU µs a row", "share", *_PASSES), lines)
