"""What every part of the benchmark works with: sizes, a folder, usage logs, and the uploader as a process."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmark.process import Cost, measured
from tests.benchmark.scale import Scale
from tests.benchmark.usage import write_log
from tests.command import Home

WIDTH = 64
"""Calls in flight of every contender that can have several."""
AT_WIDTH = ("--concurrency", str(WIDTH))


@dataclass(frozen=True, slots=True)
class Upload:
    """One run of ``uploader upload``, and the home that it left; gone with the block that it was made in."""

    cost: Cost
    home: Home


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run of the benchmark.

    folder: on a real disk; all that is made lies in it.
    say:    tells whoever waits what is being done.
    """

    scale: Scale
    folder: Path
    say: Callable[[str], None]
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def log(self, *, rows: int, tenants: int, kind: str = "csv", night: int = 0) -> Path:
        """Give a usage log, made when it is first asked for; ``kind`` is csv or parquet."""
        path = self.folder / f"usage-{rows}-{tenants}-{night}.{kind}"
        return write_log(path, rows=rows, tenants=tenants, night=night)

    @contextlib.contextmanager
    def home(self, base_url: str = "http://127.0.0.1:9") -> Iterator[Home]:
        """Make an empty home for the uploader, and remove it."""
        folder = self.folder / f"home-{next(self._numbers)}"
        folder.mkdir()
        try:
            yield Home(folder=folder, base_url=base_url)
        finally:
            shutil.rmtree(folder)

    def run(self, home: Home, *arguments: str | Path, look: Callable[[], bool] | None = None) -> Cost:
        """Run the uploader to its end.

        Raises:
            UnmeasuredError: it failed.
        """
        cost = measured(home.command(*arguments), folder=home.folder, environment=home.environment(), look=look)
        cost.demand_success(f"uploader {arguments[0]}")
        return cost

    @contextlib.contextmanager
    def upload(self, log: Path, base_url: str, *options: str) -> Iterator[Upload]:
        """Upload a log into an empty ledger.

        Raises:
            UnmeasuredError: it failed.
        """
        with self.home(base_url) as home:
            yield Upload(self.run(home, *upload_command(log, *options)), home)


def upload_command(log: Path, *options: str) -> list[str | Path]:
    """Give the arguments of an upload whose results go into the home."""
    return ["upload", log, "--results-dir", "results", *options]
