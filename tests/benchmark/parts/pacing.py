"""``--concurrency auto`` beside fixed settings, on servers that can take little, much, or now this and now that."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from statistics import median

from tests.benchmark.backend import Behaviour, backend
from tests.benchmark.bench import Bench, upload_command
from tests.benchmark.process import Cost, measured
from tests.benchmark.table import Grid, Row, Section, UnmeasuredError, at_least, unmeasured
from tests.command import Home

NAME = "pacing"
TITLE = "Pacing: `--concurrency auto` beside fixed settings"
_AUTO = "auto"
_FIXED = ("8", "32", "64", "128", "256")
_LEAST_SHARE = 0.9
_TIMEOUT_SECONDS = "1"
_LONGEST_SECONDS = 8.0
_TENANTS = 200
_FINISHED = (0, 1)
_STOPPED_EARLY = 3
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class _Server:
    """A server, in words and in figures; ``rows`` take the best setting some six seconds."""

    words: str
    rows: int
    behaviour: Behaviour


_SERVERS = {
    "fast": _Server("answers at once", 60_000, Behaviour()),
    "far": _Server("50 ms of latency, takes any number", 30_000, Behaviour(latency_seconds=0.05)),
    "limited": _Server(
        "16 at once, 5 ms each; others wait in line", 20_000, Behaviour(workers=16, service_seconds=0.005)
    ),
    "shedding": _Server(
        "20 ms of latency; 503 to all above 48 in flight", 15_000, Behaviour(latency_seconds=0.02, most_in_flight=48)
    ),
    "changing": _Server(
        "32 at once, 10 ms each; from 2 s to 4 s only 2, then 32 again; others wait in line",
        10_000,
        Behaviour(workers=32, service_seconds=0.01, workers_at_seconds=[(2.0, 2), (4.0, 32)]),
    ),
}


@dataclass(frozen=True, slots=True)
class _Run:
    """What one run came to; ``is_stopped`` when the uploader gave up."""

    rows_per_second: float
    in_doubt: int
    is_stopped: bool


def measure(bench: Bench) -> Section:
    """Run every setting on every server, in turn, round by round."""
    runs: dict[tuple[str, str], list[_Run]] = {}
    why_no_auto = None
    for number in range(bench.scale.pacing_rounds):
        for name, server in _SERVERS.items():
            for setting in (_AUTO, *_FIXED):
                if setting == _AUTO and why_no_auto:
                    continue
                bench.say(f"round {number + 1}: {name} server, {setting}")
                try:
                    runs.setdefault((name, setting), []).append(_run(bench, server, setting))
                except UnmeasuredError as error:
                    why_no_auto = error
    rows = [_verdict(name, runs, why_no_auto) for name in _SERVERS]
    rows += [_doubt_verdict(name, runs) for name in _SERVERS if (name, _AUTO) in runs]
    header = ("server", *(f"`{setting}`" for setting in (_AUTO, *_FIXED)))
    lines = [
        (f"{name}: {server.words}", *(_cell(runs.get((name, setting), [])) for setting in (_AUTO, *_FIXED)))
        for name, server in _SERVERS.items()
    ]
    samples = {f"{name} {setting}": [run.rows_per_second for run in done] for (name, setting), done in runs.items()}
    samples |= {
        f"{name} {setting} in doubt": [float(run.in_doubt) for run in done] for (name, setting), done in runs.items()
    }
    return Section(name=NAME, title=TITLE, rows=rows, grids=[Grid(header, lines)], samples=samples)


def _run(bench: Bench, server: _Server, setting: str) -> _Run:
    share = bench.scale.pacing_share
    log = bench.log(rows=int(server.rows * share), tenants=_TENANTS)
    with backend(server.behaviour) as running, bench.home(running.base_url) as home:
        command = upload_command(log, "--concurrency", setting, "--timeout", _TIMEOUT_SECONDS)
        cost = measured(
            home.command(*command),
            folder=home.folder,
            environment=home.environment(),
            interrupt_after_seconds=_LONGEST_SECONDS * share + 1,
        )
        if cost.exit_code not in (*_FINISHED, _STOPPED_EARLY, _INTERRUPTED):
            cost.demand_success(f"uploader upload --concurrency {setting}")
        return _Run(running.seen().recorded_per_second, _rows_in_doubt(home, cost), cost.exit_code == _STOPPED_EARLY)


def _rows_in_doubt(home: Home, cost: Cost) -> int:
    failed = [*home.folder.glob("results/*.failed.csv")]
    if not failed:
        return 0
    if len(failed) > 1:
        raise UnmeasuredError(f"more than one failed file: {cost.stdout}")
    with failed[0].open(encoding="utf-8", newline="") as file:
        return sum(row["upload_reason"] == "in_doubt" for row in csv.DictReader(file))


def _best_fixed(name: str, runs: dict[tuple[str, str], list[_Run]]) -> str:
    """Find the quickest setting, among those with which no run gave up if there are such."""
    to_the_end = [setting for setting in _FIXED if not any(run.is_stopped for run in runs[name, setting])]
    return max(to_the_end or _FIXED, key=lambda setting: _rate(runs[name, setting]))


def _rate(runs: list[_Run]) -> float:
    return median(run.rows_per_second for run in runs)


def _in_doubt(runs: list[_Run]) -> float:
    return median(run.in_doubt for run in runs)


def _verdict(name: str, runs: dict[tuple[str, str], list[_Run]], why_no_auto: UnmeasuredError | None) -> Row:
    best = _best_fixed(name, runs)
    what = f"{name}: rows/s of `auto` / of the best fixed setting"
    if why_no_auto:
        return unmeasured(what, why_no_auto, target=f"at least {_LEAST_SHARE}")
    return at_least(what, _rate(runs[name, _AUTO]) / _rate(runs[name, best]), _LEAST_SHARE, note=f"the best is {best}")


def _doubt_verdict(name: str, runs: dict[tuple[str, str], list[_Run]]) -> Row:
    best = _best_fixed(name, runs)
    ours, theirs = _in_doubt(runs[name, _AUTO]), _in_doubt(runs[name, best])
    return Row(
        what=f"{name}: rows in doubt with `auto`",
        value=f"{ours:,.0f}",
        target=f"fewer than with {best}: {theirs:,.0f}" if theirs else "none",
        is_met=ours < theirs or ours == theirs == 0,
    )


def _cell(runs: list[_Run]) -> str:
    if not runs:
        return "not measured"
    stopped = sum(run.is_stopped for run in runs)
    gave_up = f", gave up {stopped} of {len(runs)}" if stopped else ""
    return f"{_rate(runs):,.0f} rows/s, {_in_doubt(runs):,.0f} in doubt{gave_up}"
