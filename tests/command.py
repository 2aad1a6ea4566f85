"""The ``uploader`` command as a real process in a home folder of its own, and readers of the files it leaves."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.billing_contract import BilledRow
from uploader.cli import main

COMMAND = Path(sysconfig.get_path("scripts")) / "uploader"
EVENT_COLUMNS = ("tenant_id", "device_id", "meter_id", "total_usage")
LONGEST_RUN_SECONDS = 60
_FOREIGN_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC", "XDG_CONFIG_HOME", "XDG_STATE_HOME")


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that has ended: its exit code (below 0: the signal that killed it) and what it said."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        """Everything that it said."""
        return self.stdout + self.stderr


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A home folder, ``folder``: the command sees no proxy, certificate, setting or ledger but its own.

    base_url: of the backend that the command is pointed at.
    """

    folder: Path
    base_url: str

    @property
    def ledger(self) -> Path:
        """The ledger's folder; it is there once a run has begun."""
        return self.folder / "ledger"

    def environment(self, variables: Mapping[str, str] | None = None) -> dict[str, str]:
        """Give the variables of a process in this home, with further ones."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.lower().endswith("_proxy")
            and not name.startswith("UPLOADER_")
            and name not in _FOREIGN_VARIABLES
        }
        own = {"HOME": str(self.folder), "UPLOADER_BASE_URL": self.base_url, "UPLOADER_LEDGER": str(self.ledger)}
        return {**kept, **own, **(variables or {})}

    def command(self, *arguments: str | Path) -> list[str | Path]:
        """Give the command line."""
        return [COMMAND, *arguments]

    def run(self, *arguments: str | Path, variables: Mapping[str, str] | None = None) -> Ended:
        """Run the command to its end."""
        with self.started(*arguments, variables=variables) as process:
            return ended(process)

    def run_here(self, *arguments: str | Path, variables: Mapping[str, str] | None = None) -> Ended:
        """Run the command in this process: quicker, and enough where it does not matter what a process is."""
        stdout, stderr = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["uploader", *map(str, arguments)])
            wanted = self.environment(variables)
            for name in os.environ.keys() - wanted.keys():
                patch.delenv(name)
            for name, value in wanted.items():
                patch.setenv(name, value)
            with (
                contextlib.redirect_stdout(stdout),
                contextlib.redirect_stderr(stderr),
                pytest.raises(SystemExit) as end,
            ):
                main()
        return Ended(int(end.value.code or 0), stdout.getvalue(), stderr.getvalue())

    @contextlib.contextmanager
    def started(
        self, *arguments: str | Path, variables: Mapping[str, str] | None = None, before: Iterable[str] = ()
    ) -> Iterator[subprocess.Popen[str]]:
        """Start the command; what is still running at the end is killed.

        before: a program that runs the command, with its arguments, such as ``prlimit --fsize=...``.
        """
        with subprocess.Popen(
            [*before, *self.command(*arguments)],
            cwd=self.folder,
            env=self.environment(variables),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
        ) as process:
            try:
                yield process
            finally:
                process.kill()


def ended(process: subprocess.Popen[str]) -> Ended:
    """Wait for a process to end."""
    stdout, stderr = process.communicate(timeout=LONGEST_RUN_SECONDS)
    return Ended(process.returncode, stdout, stderr)


def usage_rows(count: int, *, tenants: Iterable[str] = ("acme", "globex", "initech")) -> list[BilledRow]:
    """Make rows that all differ, the tenants taking turns."""
    names = list(tenants)
    return [
        BilledRow(names[number % len(names)], f"dev-{number}", "api.calls", 100 + number) for number in range(count)
    ]


def write_csv(path: Path, rows: Iterable[Iterable[object]], *, columns: Iterable[str] = EVENT_COLUMNS) -> Path:
    """Write a usage log; cells stand as they are, so quoting is the caller's."""
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a results or failed file: from CSV every cell as text, from Parquet as it is."""
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def cells(rows: Iterable[Mapping[str, Any]], column: str) -> list[Any]:
    """Take one column out of read rows."""
    return [row[column] for row in rows]


def upload_and_correct(home: Home, rows: list[BilledRow]) -> None:
    """Upload rows none of which can be read as they stand, and correct all of them in the failed file."""
    write_csv(home.folder / "usage.csv", [(*row[:3], f"{row[3]} units") for row in rows])
    assert home.run_here("upload", "usage.csv").exit_code == 1
    failed = home.folder / "usage.failed.csv"
    failed.write_text(failed.read_text().replace(" units,", ","))
