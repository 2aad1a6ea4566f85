"""``python -m tests.benchmark.setup``: installs what the benchmark compares with, where it is missing.

From Debian: nginx-light, wrk and curl. From PyPI, each in a virtual environment of its own under build/: the published
client, the vendors' clients, and the profiler.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import click

from tests.benchmark.table import UnmeasuredError

BUILD = Path(__file__).parents[2] / "build" / "benchmark"
"""Ignored by git, and on the disk of the checkout: a ledger in memory would be a benchmark of nothing."""

VERSION_BY_LIBRARY = {
    "meter-lib": "0.0.3",
    "openmeter": "1.0.0b236",
    "orb-billing": "4.90.0",
    "metronome-sdk": "4.12.0",
    "stripe": "16.1.0",
}
VENDORS = [library for library in VERSION_BY_LIBRARY if library != "meter-lib"]
PROFILER = "py-spy"
_PACKAGE_BY_PROGRAM = {"nginx": "nginx-light", "wrk": "wrk", "curl": "curl"}
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/usr/local/sbin"


def program_of(library: str, program: str) -> Path:
    """Give the path of a program in a library's environment.

    Raises:
        UnmeasuredError: it was not set up.
    """
    path = BUILD / "venvs" / library / "bin" / program
    if not path.exists():
        raise UnmeasuredError(f"{library} is not set up: python -m tests.benchmark.setup")
    return path


def _install_library(library: str, version: str) -> None:
    folder = BUILD / "venvs" / library
    click.echo(f"{library} {version}")
    venv.create(folder, with_pip=True, clear=True)
    subprocess.run(
        [folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", f"{library}=={version}"],
        check=True,
    )


def _install_programs() -> None:
    missing = [package for program, package in _PACKAGE_BY_PROGRAM.items() if not shutil.which(program, path=_PATH)]
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--quiet", *missing]
    if shutil.which("apt-get") is None:
        sys.exit(f"install these with your system's packages, then run this again: {', '.join(missing)}")
    click.echo(" ".join(command))
    subprocess.run(["apt-get", "update", "--quiet"], check=True)
    subprocess.run(command, check=True)


def main() -> None:
    """Install it all."""
    _install_programs()
    for library, version in {**VERSION_BY_LIBRARY, PROFILER: "0.4.3"}.items():
        _install_library(library, version)


if __name__ == "__main__":
    main()
