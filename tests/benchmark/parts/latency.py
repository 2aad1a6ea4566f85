"""Behind a backend that takes 50 ms for each answer, and hardly more: see how much of it wrk gets."""

from __future__ import annotations

from statistics import median

from tests.benchmark.backend import Seen
from tests.benchmark.bench import Bench
from tests.benchmark.contenders import wrk_rate
from tests.benchmark.distant import distant_backend
from tests.benchmark.table import Row, Section, UnmeasuredError, at_least, median_ratio, per_second, unmeasured

NAME = "latency"
TITLE = "Behind 50 ms of latency"
_LATENCY_SECONDS = 0.05
_IN_FLIGHT = 256
_IDEAL = _IN_FLIGHT / _LATENCY_SECONDS
_CEILING_IN_FLIGHT = 1024
_OPTIONS = ("--concurrency", str(_IN_FLIGHT))


def measure(bench: Bench) -> Section:
    """Upload with 256 calls in flight, wrk with as many before each."""
    scale = bench.scale
    wrk: list[float] = []
    posting: list[float] = []
    whole: list[float] = []
    rows: list[Row] = []
    why_no_wrk = None
    for number in range(scale.rounds):
        bench.say(f"round {number + 1}: wrk, uploader")
        try:
            wrk.append(_wrk_rate(bench))
        except UnmeasuredError as error:
            why_no_wrk = error
        seconds, seen = _upload(bench, tenants=scale.tenants)
        posting.append(seen.posts_per_second)
        whole.append(scale.latency_rows / seconds)
    bench.say("many tenants")
    _, many = _upload(bench, tenants=scale.many_tenants)
    what_wrk = f"wrk, {_IN_FLIGHT} in flight, from the first POST to the last: share of it"
    rows = [
        Row(what=f"{_IN_FLIGHT} in flight / 50 ms", value=f"{_IDEAL:,.0f} rows/s"),
        unmeasured(what_wrk, why_no_wrk) if why_no_wrk else _share(what_wrk, wrk),
        at_least(
            "uploader, from the first POST to the last: share of it",
            median(posting) / _IDEAL,
            0.95,
            digits=3,
            note=f"{per_second(posting)} of {scale.latency_rows:,} rows; {_beside(posting, wrk)}",
        ),
        *_ceiling_rows(bench),
        _share(f"uploader, whole process, {scale.latency_rows:,} rows: share of it", whole),
        Row(
            what=f"{scale.many_tenants:,} tenants: the longest time without a POST",
            value=f"{many.longest_post_gap_seconds * 1000:,.0f} ms",
            note=f"while {many.look_ups:,} look-ups were made; {many.posts_per_second:,.0f} posts/s",
        ),
    ]
    return Section(name=NAME, title=TITLE, rows=rows, samples={"wrk": wrk, "posting": posting, "whole": whole})


def _wrk_rate(bench: Bench, *, in_flight: int = _IN_FLIGHT) -> float:
    """Give wrk's POSTs a second, from the first to the last, by the server's count as the uploader's are."""
    with distant_backend(_LATENCY_SECONDS) as server:
        wrk_rate(bench.folder, server.root_url, connections=in_flight, seconds=2 * bench.scale.wrk_seconds)
        return server.seen().posts_per_second


def _beside(posting: list[float], wrk: list[float]) -> str:
    if len(wrk) < len(posting):
        return "no wrk to compare with"
    return f"wrk {median(wrk) / _IDEAL:,.3f} in the same rounds, {median_ratio(posting, wrk):,.3f} of which this is"


def _ceiling_rows(bench: Bench) -> list[Row]:
    """Ask for more than is needed of the server, to see that it is not what is measured."""
    bench.say(f"wrk, {_CEILING_IN_FLIGHT} in flight")
    what = f"wrk, {_CEILING_IN_FLIGHT:,} in flight: the most that the server gives"
    try:
        return [Row(what=what, value=per_second([_wrk_rate(bench, in_flight=_CEILING_IN_FLIGHT)]))]
    except UnmeasuredError as error:
        return [unmeasured(what, error)]


def _upload(bench: Bench, *, tenants: int) -> tuple[float, Seen]:
    log = bench.log(rows=bench.scale.latency_rows, tenants=tenants)
    with (
        distant_backend(_LATENCY_SECONDS) as server,
        bench.upload(log, server.base_url, *_OPTIONS) as done,
    ):
        return done.cost.seconds, server.seen()


def _share(what: str, rates: list[float]) -> Row:
    return Row(what=what, value=f"{median(rates) / _IDEAL:,.3f}", note=per_second(rates))
