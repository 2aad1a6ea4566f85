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
    """Upload a small and a large log of each kind, one with a tenant a row, then one with a single tenant."""
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

    tenants = scale.memory_tenants
    with nginx_stub(bench.folder) as stub:
        for kind in ("csv", "parquet"):
            few = peak(stub, f"{kind}, {small:,} rows", rows=small, tenants=scale.tenants, kind=kind)
            many = peak(stub, f"{kind}, {large:,} rows", rows=large, tenants=scale.tenants, kind=kind)
            what = f"{kind}, {tenants:,} tenants, a row each"
            all_differ = peak(stub, what, rows=tenants, tenants=tenants, kind=kind)
            each_bytes = (all_differ - many) * _MB / tenants
            note = f"{each_bytes:,.0f} bytes for each tenant beyond the peak of {large:,} rows"
            rows += [
                Row(what=f"{kind}, {small:,} rows", value=f"{few:,.0f} MB"),
                at_most(f"{kind}, {large:,} rows", many, _MOST_MB, digits=0, unit=" MB"),
                at_most(f"{kind}, {large:,} rows / {small:,} rows", many / few, 1.10),
                at_most(what, all_differ, _MOST_MB, digits=0, unit=" MB", note=note),
            ]
        one = peak(stub, f"csv, one tenant, {large:,} rows", rows=large, tenants=1)
    rows.append(at_most(f"csv, one tenant, {large:,} rows", one, _MOST_MB, digits=0, unit=" MB"))
    return Section(name=NAME, title=TITLE, rows=rows, samples=samples)
