"""Runs one command and writes what it cost as JSON: ``launcher.py REPORT COMMAND...``.

A process of its own, and a small one: the peak memory of a command counts from the fork on, so that one started by
a large process would be charged with that one's memory (``setmax_mm_hiwater_rss`` in Linux' fs/exec.c).
"""

import json
import os
import signal
import sys
import time

_BYTES_PER_UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    """Run the command; an interrupt of the process group is the command's alone."""
    report, *command = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    started_seconds = time.monotonic()
    process = os.posix_spawnp(command[0], command, os.environ, setsigdef=[signal.SIGINT])
    _, status, usage = os.wait4(process, 0)
    cost = {
        "started_seconds": started_seconds,
        "seconds": time.monotonic() - started_seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * _BYTES_PER_UNIT,
        "exit_code": os.waitstatus_to_exitcode(status),
    }
    with open(report, "w", encoding="utf-8") as file:  # noqa: PTH123 -- pathlib is a cost to what is measured
        json.dump(cost, file)


if __name__ == "__main__":
    main()
