"""``--concurrency auto`` beside fixed settings, on servers that can take little, much, or now this and now that."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass, field
from statistics import median

from tests.benchmark.backend import Backend, Behaviour, backend
from tests.benchmark.bench import Bench, upload_command
from tests.benchmark.process import Cost, measured
from tests.benchmark.table import Grid, Row, Section, UnmeasuredError, at_least, unmeasured
from tests.command import Home
from uploader.ledger.known_ceilings import keep_ceiling, known_ceiling
from uploader.model.settings import normalised_base_url
from uploader.pacing.lesson import KnownCeiling

NAME = "pacing"
TITLE = "Pacing: `--concurrency auto` beside fixed settings"
_AUTO = "auto"
_NEXT_NIGHT = "auto, the night after"
_FIXED = ("8", "32", "64", "128", "256")
_LEAST_SHARE = 0.9
_TIMEOUT_SECONDS = "1"
_LONGEST_SECONDS = 8.0
_HOPELESS_SHARE = 0.5
_TENANTS = 200
_FINISHED = (0, 1)
_STOPPED_EARLY = 3
_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class _Server:
    """A server, in words and in figures; ``rows`` take the best setting eight seconds at the most."""

    words: str
    rows: int
    behaviour: Behaviour


_SERVERS = {
    "fast": _Server("answers at once", 60_000, Behaviour()),
    "far": _Server("50 ms of latency, takes any number", 40_000, Behaviour(latency_seconds=0.05)),
    "limited": _Server(
        "16 at once, 5 ms each; others wait in line", 25_000, Behaviour(workers=16, service_seconds=0.005)
    ),
    "shedding": _Server(
        "20 ms of latency; 503 to all above 48 in flight", 18_000, Behaviour(latency_seconds=0.02, most_in_flight=48)
    ),
    "changing": _Server(
        "32 at once, 10 ms each; from 2 s to 4 s only 2, then 32 again; others wait in line",
        16_000,
        Behaviour(workers=32, service_seconds=0.01, workers_at_seconds=[(2.0, 2), (4.0, 32)]),
    ),
}


@dataclass(frozen=True, slots=True)
class _Run:
    """What one run came to; ``is_stopped`` when the uploader gave up, ``known`` what it left for the next."""

    rows_per_second: float
    in_doubt: int
    is_stopped: bool
    known: KnownCeiling | None


@dataclass(slots=True)
class _Trial:
    """All runs of one setting on one server; ``why_not`` when one could not be measured."""

    runs: list[_Run] = field(default_factory=list)
    why_not: UnmeasuredError | None = None

    @property
    def rows_per_second(self) -> float:
        """Median of the runs."""
        return median(run.rows_per_second for run in self.runs)

    @property
    def in_doubt(self) -> float:
        """Median of the runs' rows in doubt."""
        return median(run.in_doubt for run in self.runs)

    @property
    def times_stopped(self) -> int:
        """How many runs the uploader gave up."""
        return sum(run.is_stopped for run in self.runs)

    @property
    def told(self) -> str:
        """The trial as a table's cell."""
        if self.why_not:
            return f"not measured: {self.why_not}"
        gave_up = f", gave up {self.times_stopped} of {len(self.runs)}" if self.times_stopped else ""
        return f"{self.rows_per_second:,.0f} rows/s, {self.in_doubt:,.0f} in doubt{gave_up}"


def measure(bench: Bench) -> Section:
    """Run every setting on every server, in turn, round by round; the hopeless ones once."""
    trials = {(name, setting): _Trial() for name in _SERVERS for setting in (_AUTO, *_FIXED)}
    next_nights = {name: _Trial() for name in _SERVERS}
    for number in range(bench.scale.pacing_rounds):
        for (name, setting), trial in trials.items():
            if setting != _AUTO and _is_hopeless(name, setting, trials):
                continue
            bench.say(f"round {number + 1}: {name} server, {setting}")
            try:
                run = _run(bench, _SERVERS[name], setting)
                trial.runs.append(run)
                if run.known is not None:
                    bench.say(f"round {number + 1}: {name} server, {_NEXT_NIGHT}")
                    next_nights[name].runs.append(_run(bench, _SERVERS[name], setting, known=run.known))
            except UnmeasuredError as error:
                trial.why_not = error
    rows = [row for name in _SERVERS for row in _verdicts(name, trials)]
    for name, trial in next_nights.items():
        if trial.runs:
            rows += _verdicts(name, trials | {(name, _AUTO): trial}, when=", the night after")
            trials[name, _NEXT_NIGHT] = trial
    header = ("server", *(f"`{setting}`" for setting in (_AUTO, *_FIXED)))
    lines = [
        (f"{name}: {server.words}", *(trials[name, setting].told for setting in (_AUTO, *_FIXED)))
        for name, server in _SERVERS.items()
    ]
    samples = {
        f"{name} {setting} {what}": [float(getattr(run, what)) for run in trial.runs]
        for (name, setting), trial in trials.items()
        for what in ("rows_per_second", "in_doubt")
    }
    return Section(name=NAME, title=TITLE, rows=rows, grids=[Grid(header, lines)], samples=samples)


def _is_hopeless(name: str, setting: str, trials: dict[tuple[str, str], _Trial]) -> bool:
    """Tell whether a fixed setting made so little of a server that further rounds would only take time."""
    rates = {fixed: trials[name, fixed].rows_per_second for fixed in _FIXED if trials[name, fixed].runs}
    return setting in rates and rates[setting] < _HOPELESS_SHARE * max(rates.values())


def _run(bench: Bench, server: _Server, setting: str, *, known: KnownCeiling | None = None) -> _Run:
    """Post to a fresh copy of a server; ``known`` is what the ledger has of it from a night before."""
    share = bench.scale.pacing_share
    rows = int(server.rows * share)
    log = bench.log(rows=rows, tenants=_TENANTS)
    with backend(server.behaviour) as running, bench.home(running.base_url) as home:
        base_url = normalised_base_url(running.base_url)
        keep_ceiling(home.ledger, known, base_url=base_url)
        command = upload_command(log, "--concurrency", setting, "--timeout", _TIMEOUT_SECONDS)
        cost = measured(
            home.command(*command),
            folder=home.folder,
            environment=home.environment(),
            look=_TimeIsOver(running, rows=rows, after_seconds=_LONGEST_SECONDS * share).look,
        )
        if cost.exit_code not in (*_FINISHED, _STOPPED_EARLY, _INTERRUPTED):
            cost.demand_success(f"uploader upload --concurrency {setting}")
        return _Run(
            rows_per_second=running.seen().recorded_per_second,
            in_doubt=_rows_in_doubt(home, cost),
            is_stopped=cost.exit_code == _STOPPED_EARLY,
            known=known_ceiling(home.ledger, base_url=base_url),
        )


class _TimeIsOver:
    """Tells when a run has posted for long enough."""

    def __init__(self, running: Backend, *, rows: int, after_seconds: float) -> None:
        self._running = running
        self._rows = rows
        self._after_seconds = after_seconds
        self._first_post_seconds = 0.0

    def look(self) -> bool:
        if not self._first_post_seconds:
            self._first_post_seconds = self._running.seen().first_post_seconds
            return False
        if time.monotonic() < self._first_post_seconds + self._after_seconds:
            return False
        # One that has posted all is ending by itself, and may no longer know what to do with an interrupt.
        return self._running.seen().recorded < self._rows


def _rows_in_doubt(home: Home, cost: Cost) -> int:
    failed = [*home.folder.glob("results/*.failed.csv")]
    if not failed:
        return 0
    if len(failed) > 1:
        raise UnmeasuredError(f"more than one failed file: {cost.stdout}")
    with failed[0].open(encoding="utf-8", newline="") as file:
        return sum(row["upload_reason"] == "in_doubt" for row in csv.DictReader(file))


def _verdicts(name: str, trials: dict[tuple[str, str], _Trial], *, when: str = "") -> list[Row]:
    """Compare ``auto`` with the quickest fixed setting, among those with which no run gave up if there are such."""
    what = f"{name}{when}: rows/s of `auto` / of the best fixed setting"
    auto = trials[name, _AUTO]
    if auto.why_not:
        return [unmeasured(what, auto.why_not, target=f"at least {_LEAST_SHARE}")]
    fixed = {setting: trials[name, setting] for setting in _FIXED if not trials[name, setting].why_not}
    to_the_end = {setting: trial for setting, trial in fixed.items() if not trial.times_stopped}
    best = max(to_the_end or fixed, key=lambda setting: fixed[setting].rows_per_second)
    ours, theirs = auto.in_doubt, fixed[best].in_doubt
    return [
        at_least(what, auto.rows_per_second / fixed[best].rows_per_second, _LEAST_SHARE, note=f"the best is {best}"),
        Row(
            what=f"{name}{when}: rows in doubt with `auto`",
            value=f"{ours:,.0f}",
            target=f"fewer than with {best}: {theirs:,.0f}" if theirs else f"none, as with {best}",
            is_met=ours < theirs or ours == theirs == 0,
        ),
    ]
