"""The check alone: ``uploader validate``."""

from __future__ import annotations

from statistics import median

from tests.benchmark.bench import Bench
from tests.benchmark.table import Row, Section, at_least, per_second

NAME = "validate"
TITLE = "Validation alone"
_KINDS = ("parquet", "csv")


def measure(bench: Bench) -> Section:
    """Check one log of each kind, in turn, round by round."""
    scale = bench.scale
    rates: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    with bench.home() as home:
        for number in range(scale.rounds):
            for kind in _KINDS:
                bench.say(f"round {number + 1}: {kind}")
                log = bench.log(rows=scale.validate_rows, tenants=scale.tenants, kind=kind)
                rates[kind].append(scale.validate_rows / bench.run(home, "validate", log).seconds)
    rows = [
        at_least(
            "`uploader validate`, Parquet",
            median(rates["parquet"]),
            500_000,
            digits=0,
            unit=" rows/s",
            note=f"{scale.validate_rows:,} rows, whole process; {per_second(rates['parquet'])}",
        ),
        Row(what="`uploader validate`, CSV", value=per_second(rates["csv"]), note="the same rows"),
    ]
    return Section(name=NAME, title=TITLE, rows=rows, samples=rates)
