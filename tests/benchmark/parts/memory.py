"""The peak of the resident memory, by the size of the usage log."""

from __future__ import annotations

from tests.benchmark.bench import AT_WIDTH, Bench
from tests.benchmark.stub import Stub, nginx_stub
from tests.benchmark.table import Row, Section, at_most

NAME = "memory"
TITLE = "Peak memory"
_MOST_MB = 300
_MB = 1_000_000


def measure(bench: Bench) -> Section:
    """Upload a small and a large log of each kind, then one with a tenant a row, and one with a single tenant."""
    scale = bench.scale
    small, large = scale.memory_rows
    rows: list[Row] = []
    samples: dict[str, list[float]] = {}

    def peak(stub: Stub, what: str, *, rows: int, tenants: int, kind: str = "csv") -> float:
        bench.say(what)
        log = bench.log(rows=rows, tenants=tenants, kind=kind)
        with bench.upload(log, stub.base_url, *AT_WIDTH) as done:
            samples[what] = [done.cost.peak_bytes]
            return done.cost.peak_bytes / _MB

    with nginx_stub(bench.folder) as stub:
        usual_peak = 0.0
        for kind in ("csv", "parquet"):
            few = peak(stub, f"{kind}, {small:,} rows", rows=small, tenants=scale.tenants, kind=kind)
            many = peak(stub, f"{kind}, {large:,} rows", rows=large, tenants=scale.tenants, kind=kind)
            usual_peak = usual_peak or many
            rows += [
                Row(what=f"{kind}, {small:,} rows", value=f"{few:,.0f} MB"),
                at_most(f"{kind}, {large:,} rows", many, _MOST_MB, digits=0, unit=" MB"),
                at_most(f"{kind}, {large:,} rows / {small:,} rows", many / few, 1.10),
            ]
        one = peak(stub, f"one tenant, {large:,} rows", rows=large, tenants=1)
        tenants = scale.memory_tenants
        all_differ = peak(stub, f"{tenants:,} tenants, a row each", rows=tenants, tenants=tenants)
    rows += [
        at_most(f"csv, one tenant, {large:,} rows", one, _MOST_MB, digits=0, unit=" MB"),
        at_most(
            f"csv, {tenants:,} tenants, a row each",
            all_differ,
            _MOST_MB,
            digits=0,
            unit=" MB",
            note=f"{(all_differ - usual_peak) * _MB / tenants:,.0f} bytes for each tenant beyond the usual log's peak",
        ),
    ]
    return Section(name=NAME, title=TITLE, rows=rows, samples=samples)
