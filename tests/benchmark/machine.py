"""What the benchmark ran on."""

from __future__ import annotations

import io
import os
import platform
import re
import shutil
import sqlite3
import ssl
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

from tests.benchmark.setup import VERSION_BY_LIBRARY

_FLUSHES = 50


def describe(folder: Path) -> dict[str, str]:
    """Describe the machine, the programs and the disk that a folder is on."""
    return {
        "CPU": f"{_processor()}, {os.cpu_count()} cores",
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:,.1f} GB",
        "kernel": f"{platform.system()} {platform.release()}",
        "a 4 KiB write and its flush": f"{_flush_milliseconds(folder):.2f} ms",
        "Python": sys.version,
        "OpenSSL": ssl.OPENSSL_VERSION,
        "SQLite": sqlite3.sqlite_version,
        "pyarrow, pandas": f"{version('pyarrow')}, {version('pandas')}",
        "nginx": _first_line("nginx", "-v"),
        "wrk": _first_line("wrk", "-v"),
        "curl": _first_line("curl", "--version"),
        "clients": ", ".join(f"{library} {number}" for library, number in VERSION_BY_LIBRARY.items()),
        "meter-uploader": f"{version('meter-uploader')}, commit {commit()}",
    }


def commit() -> str:
    """Name the commit of this checkout, or say that it was changed."""
    return _first_line("git", "describe", "--always", "--dirty")


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    found = re.search(r"^model name.*: (.*)$", known.read_text("utf-8"), re.MULTILINE) if known.exists() else None
    return found[1] if found else platform.processor()


def _first_line(program: str, *arguments: str) -> str:
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        return "none"
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return (done.stdout + done.stderr).strip().partition("\n")[0]


def _flush_milliseconds(folder: Path) -> float:
    path = folder / "flush"
    with path.open("wb", buffering=0) as file:
        times = [_flush_seconds(file) for _ in range(_FLUSHES)]
    path.unlink()
    return median(times) * 1000


def _flush_seconds(file: io.FileIO) -> float:
    started_seconds = time.perf_counter()
    file.write(bytes(4096))
    os.fsync(file.fileno())
    return time.perf_counter() - started_seconds
