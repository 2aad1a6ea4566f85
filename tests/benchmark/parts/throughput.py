"""Rows a second against one nginx stub, beside what others make of it, and with many tenants."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from tests.benchmark.bench import AT_WIDTH, WIDTH, Bench
from tests.benchmark.contenders import curl_rate, loop_rate, write_curl_config, wrk_rate
from tests.benchmark.setup import VENDORS
from tests.benchmark.stub import Stub, nginx_stub
from tests.benchmark.table import Row, Section, UnmeasuredError, at_least, median_ratio, per_second, unmeasured

NAME = "throughput"
TITLE = "Rows a second, from the file to the durable results file"
_OURS = "uploader, 64 in flight"
_OURS_AS_IT_COMES = "uploader, no option set"
_OURS_MANY_TENANTS = "uploader, many tenants"
_METER_LIB = "meter-lib"
_WRK = "wrk"
_CURL = "curl"


def measure(bench: Bench) -> Section:
    """Run all contenders in turn, round by round."""
    with nginx_stub(bench.folder) as stub:
        rates, why_not = _rounds(bench, _contenders(bench, stub))
    calls = {
        _OURS: bench.scale.rows + bench.scale.tenants,
        _OURS_MANY_TENANTS: bench.scale.rows + bench.scale.many_tenants,
    }
    calls_per_second = {
        name: [rate * count / bench.scale.rows for rate in rates[name]] for name, count in calls.items()
    }
    rows = [
        *(_rate_row(bench, name, rates, why_not) for name in rates | why_not if name != _OURS_MANY_TENANTS),
        *_ratio_rows(rates),
        *_many_tenants_rows(bench, calls_per_second, why_not),
    ]
    return Section(name=NAME, title=TITLE, rows=rows, samples=dict(rates))


def _contenders(bench: Bench, stub: Stub) -> dict[str, Callable[[], float]]:
    scale = bench.scale
    log = bench.log(rows=scale.rows, tenants=scale.tenants)
    many_tenants_log = bench.log(rows=scale.rows, tenants=scale.many_tenants)
    config = write_curl_config(bench.folder / "curl.config", log, stub.base_url)

    def upload(path: Path, tenants: int, *options: str) -> float:
        with (
            stub.expecting(scale.rows + tenants, of="the uploader"),
            bench.upload(path, stub.base_url, *options) as done,
        ):
            return scale.rows / done.cost.seconds

    def curl() -> float:
        with stub.expecting(scale.rows, of="curl"):
            return curl_rate(config, rows=scale.rows, parallel=WIDTH)

    def loop(library: str) -> float:
        calls_a_row = 2 if library == _METER_LIB else 1
        with stub.expecting(calls_a_row * scale.loop_rows, of=f"the loop of {library}"):
            return loop_rate(library, stub.root_url, log, rows=scale.loop_rows, folder=bench.folder)

    return {
        _OURS: partial(upload, log, scale.tenants, *AT_WIDTH),
        _WRK: partial(wrk_rate, bench.folder, stub.root_url, connections=WIDTH, seconds=scale.wrk_seconds),
        _OURS_AS_IT_COMES: partial(upload, log, scale.tenants),
        _OURS_MANY_TENANTS: partial(upload, many_tenants_log, scale.many_tenants, *AT_WIDTH),
        _CURL: curl,
        **{library: partial(loop, library) for library in (_METER_LIB, *VENDORS)},
    }


def _rounds(
    bench: Bench, contenders: dict[str, Callable[[], float]]
) -> tuple[dict[str, list[float]], dict[str, UnmeasuredError]]:
    rates: dict[str, list[float]] = defaultdict(list)
    why_not: dict[str, UnmeasuredError] = {}
    for number in range(bench.scale.rounds):
        for name, contender in contenders.items():
            if name in why_not:
                continue
            bench.say(f"round {number + 1}: {name}")
            try:
                rates[name].append(contender())
            except UnmeasuredError as error:
                why_not[name] = error
                rates.pop(name, None)
    return rates, why_not


def _rate_row(bench: Bench, name: str, rates: dict[str, list[float]], why_not: dict[str, UnmeasuredError]) -> Row:
    scale = bench.scale
    ours = f"CSV, {scale.rows:,} rows, {scale.tenants:,} tenants"
    loop = f"a loop over {scale.loop_rows:,} rows, its imports not counted"
    note_by_name = {
        _OURS: ours,
        _OURS_AS_IT_COMES: ours,
        _WRK: f"`wrk -t1 -c{WIDTH}` posts one event for {scale.wrk_seconds} s, and keeps nothing",
        _CURL: f"`curl -Z --parallel-max {WIDTH}`, its file prepared, {scale.rows:,} rows",
    }
    if name in why_not:
        return unmeasured(name, why_not[name])
    return Row(what=name, value=per_second(rates[name]), note=note_by_name.get(name, loop))


def _ratio_rows(rates: dict[str, list[float]]) -> list[Row]:
    vendors = [rates[name] for name in VENDORS if name in rates]
    best_vendor = [max(of_a_round) for of_a_round in zip(*vendors, strict=True)]
    targets = [
        (_OURS, _WRK, rates.get(_WRK), 0.20),
        (_OURS_AS_IT_COMES, _WRK, rates.get(_WRK), 0.20),
        (_OURS, "the meter-lib loop", rates.get(_METER_LIB), 50.0),
        (_OURS, "each round's best vendor loop", best_vendor, 15.0),
        (_OURS, _CURL, rates.get(_CURL), 1.0),
    ]
    return [
        at_least(f"{ours} / {name}", median_ratio(rates[ours], theirs), least, note="median of the rounds' ratios")
        for ours, name, theirs, least in targets
        if theirs and ours in rates
    ]


def _many_tenants_rows(
    bench: Bench, calls_per_second: dict[str, list[float]], why_not: dict[str, UnmeasuredError]
) -> list[Row]:
    scale = bench.scale
    what = f"{scale.rows:,} rows of {scale.many_tenants:,} tenants"
    if failed := why_not.get(_OURS_MANY_TENANTS) or why_not.get(_OURS):
        return [unmeasured(what, failed)]
    many, few = calls_per_second[_OURS_MANY_TENANTS], calls_per_second[_OURS]
    return [
        Row(
            what=what,
            value=per_second(many, what="calls"),
            note=f"look-ups and posts; with {scale.tenants:,} tenants {median(few):,.0f}",
        ),
        at_least(f"calls/s of {scale.many_tenants:,} tenants / of {scale.tenants:,}", median_ratio(many, few), 0.6),
    ]
