"""How much is measured: the sizes of the quick, the default and the full form."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Sizes of one form of the benchmark.

    rounds:           how often each figure is taken; medians are shown.
    rows, tenants:    of the usage log of the comparison.
    loop_rows:        of the loops that post one row at a time.
    wrk_seconds:      of each run of wrk.
    latency_rows:     posted behind latency.
    memory_rows:      the two sizes whose peaks are compared.
    memory_tenants:   as many rows with as many tenants.
    many_tenants:     of a usage log with ``rows`` rows.
    growth_rows:      sizes that make a straight line.
    finished_runs:    in the ledger folder that is not empty.
    night_rows:       of the upload into that folder.
    validate_rows:    checked without posting.
    starts:           how often starting is timed.
    pacing_rounds:    runs of each setting on each server.
    pacing_share:     of the rows and the time that those runs are given.
    """

    form: str
    rounds: int
    rows: int
    tenants: int
    loop_rows: int
    wrk_seconds: int
    latency_rows: int
    memory_rows: tuple[int, int]
    memory_tenants: int
    many_tenants: int
    growth_rows: tuple[int, ...]
    finished_runs: int
    night_rows: int
    validate_rows: int
    starts: int
    pacing_rounds: int
    pacing_share: float


DEFAULT = Scale(
    form="default",
    rounds=5,
    rows=100_000,
    tenants=200,
    loop_rows=1_000,
    wrk_seconds=3,
    latency_rows=60_000,
    memory_rows=(50_000, 500_000),
    memory_tenants=1_000_000,
    many_tenants=20_000,
    growth_rows=(10_000, 100_000, 1_000_000),
    finished_runs=365,
    night_rows=10_000,
    validate_rows=1_000_000,
    starts=21,
    pacing_rounds=3,
    pacing_share=1.0,
)

FULL = replace(
    DEFAULT,
    form="full",
    memory_rows=(500_000, 5_000_000),
    growth_rows=(10_000, 100_000, 1_000_000, 10_000_000),
    validate_rows=5_000_000,
)

QUICK = Scale(
    form="quick",
    rounds=1,
    rows=5_000,
    tenants=200,
    loop_rows=100,
    wrk_seconds=1,
    latency_rows=10_000,
    memory_rows=(2_000, 20_000),
    memory_tenants=5_000,
    many_tenants=1_000,
    growth_rows=(1_000, 5_000, 20_000),
    finished_runs=20,
    night_rows=1_000,
    validate_rows=10_000,
    starts=3,
    pacing_rounds=1,
    pacing_share=0.2,
)
