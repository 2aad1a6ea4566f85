"""Processes that are measured: how long they took, their CPU time, their peak memory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmark.table import UnmeasuredError

_LAUNCHER = Path(__file__).with_name("launcher.py")
_SECONDS_BETWEEN_LOOKS = 0.005
_LONGEST_SECONDS = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one process came to.

    started_seconds: on the clock of ``time.monotonic``, which all processes of a machine share.
    cpu_seconds:     user and system together, its own children included.
    peak_bytes:      the most that was resident.
    """

    started_seconds: float
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    exit_code: int
    stdout: str
    stderr: str

    def demand_success(self, what: str) -> None:
        """Refuse to take the figures of a command that failed.

        Raises:
            UnmeasuredError: it did.
        """
        if self.exit_code != 0:
            last = (self.stderr or self.stdout).strip().splitlines()[-1:]
            raise UnmeasuredError(f"{what} ended with exit code {self.exit_code}: {' '.join(last)}")


def measured(
    command: Sequence[str | Path],
    *,
    folder: Path,
    environment: Mapping[str, str],
    look: Callable[[], bool] | None = None,
) -> Cost:
    """Run a command to its end.

    look: called some two hundred times a second while it runs; once it says True the command is sent one SIGINT, and
        waited for.
    """
    with tempfile.NamedTemporaryFile(dir=folder, prefix="cost-", suffix=".json") as report:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", _LAUNCHER, report.name, *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            stdout, stderr = _wait(process, look)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the group is ours: it began with start_new_session
            process.wait()
        cost = json.loads(Path(report.name).read_bytes())
    return Cost(**cost, stdout=stdout, stderr=stderr)


def _wait(process: subprocess.Popen[str], look: Callable[[], bool] | None) -> tuple[str, str]:
    give_up_seconds = time.monotonic() + _LONGEST_SECONDS
    while look and time.monotonic() < give_up_seconds:
        if look():
            os.killpg(process.pid, signal.SIGINT)
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=_SECONDS_BETWEEN_LOOKS)
    return process.communicate(timeout=_LONGEST_SECONDS)
