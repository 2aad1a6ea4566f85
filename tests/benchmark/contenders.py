"""Others that post events: wrk, curl, and the loops of client libraries."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.benchmark.process import Cost, measured
from tests.benchmark.setup import program_of
from tests.benchmark.table import UnmeasuredError

_LOOPS = Path(__file__).with_name("loops.py")
_BODY = {"meter_id": "api.calls", "total_usage": 417, "customer_id": "cust_0001"}
_EVENT_HEADERS = {"Content-Type": "application/json", "x-tenant-id": "tenant-0000007", "x-device-id": "device-0417"}
_WRK_SCRIPT = """
wrk.method = "POST"
wrk.path = "/api/v1/events"
wrk.body = {body}
{headers}
"""
_WRK_RATE = re.compile(r"^Requests/sec:\s+([0-9.]+)", re.MULTILINE)


def wrk_rate(folder: Path, root_url: str, *, connections: int, seconds: int) -> float:
    """Give the events a second that wrk posts on one thread: one and the same event, and nothing is kept of it.

    Raises:
        UnmeasuredError: there is no wrk, or an event was not accepted.
    """
    script = folder / "wrk.lua"
    headers = "\n".join(f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in _wrk_headers())
    script.write_text(_WRK_SCRIPT.format(body=json.dumps(json.dumps(_BODY)), headers=headers), "utf-8")
    command = [_program("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), root_url]
    cost = measured(command, folder=folder, environment=plain_environment())
    cost.demand_success("wrk")
    rate = _WRK_RATE.search(cost.stdout)
    if rate is None or "Non-2xx" in cost.stdout or "Socket errors" in cost.stdout:
        raise UnmeasuredError(f"wrk: {cost.stdout.strip()}")
    return float(rate[1])


def curl_rate(config: Path, *, rows: int, parallel: int) -> float:
    """Give the rows a second that ``curl --parallel`` makes of a prepared file.

    Raises:
        UnmeasuredError: there is no curl, or it fails.
    """
    command = [_program("curl"), "-q", "--parallel", "--parallel-max", str(parallel), "--config", str(config)]
    cost = measured(command, folder=config.parent, environment=plain_environment())
    cost.demand_success("curl")
    return rows / cost.seconds


def write_curl_config(path: Path, log: Path, base_url: str) -> Path:
    """Write curl's file, one POST a row; that this takes time is not held against it."""
    with log.open(encoding="utf-8", newline="") as rows, path.open("w", encoding="utf-8") as config:
        config.write("\nnext\n".join(_curl_call(row, base_url) for row in csv.DictReader(rows)))
    return path


def loop_rate(library: str, root_url: str, log: Path, *, rows: int, folder: Path) -> float:
    """Give the rows a second of a loop over one client library, its imports not counted.

    Raises:
        UnmeasuredError: the library was not set up, or a row was not posted.
    """
    python = program_of(library, "python")
    cost: Cost = measured(
        [python, _LOOPS, library, root_url, log, str(rows)], folder=folder, environment=plain_environment()
    )
    cost.demand_success(f"the loop of {library}")
    seconds: float = json.loads(cost.stdout.splitlines()[-1])["seconds"]
    return rows / seconds


def plain_environment() -> Mapping[str, str]:
    """Give the environment without what leads calls elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}


def _wrk_headers() -> list[tuple[str, str]]:
    own = {"User-Agent": "meter-uploader/0", "Accept": "*/*", "x-request-id": "6f1c9d1e-52f1-5d0b-9c39-3a0f7f1c1f5e"}
    return list({**_EVENT_HEADERS, **own}.items())


def _curl_call(row: dict[str, str], base_url: str) -> str:
    body = {"meter_id": row["meter_id"], "total_usage": int(row["total_usage"]), "customer_id": "cust_0001"}
    headers = {**_EVENT_HEADERS, "x-tenant-id": row["tenant_id"], "x-device-id": row["device_id"]}
    lines = [
        f"url = {json.dumps(f'{base_url}/events')}",
        *(f"header = {json.dumps(f'{name}: {value}')}" for name, value in headers.items()),
        f"data = {json.dumps(json.dumps(body))}",
        'output = "/dev/null"',
        "silent",
        "fail",
    ]
    return "\n".join(lines)


def _program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise UnmeasuredError(f"there is no {name}: python -m tests.benchmark.setup")
    return path
