"""The nginx that every contender posts to: it answers at once and keeps nothing."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.benchmark.table import UnmeasuredError

_NGINX_PLACES = "/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"
_LONGEST_START_SECONDS = 10.0
_EVENT = json.dumps({"id": "evt_0001", "status": "recorded"})
_ACCOUNT = json.dumps([{"id": "cust_0001"}])

# Vendors' clients: OpenMeter's takes nothing but 204 for an answer.
_CONFIGURATION = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 2048; }}
http {{
  access_log off; keepalive_requests 100000000; keepalive_timeout 300s; default_type application/json;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location = /api/v1/events {{ return 201 '{event}'; }}
    location /api/v1/customer-accounts/ {{ return 200 '{account}'; }}
    location /openmeter/ {{ return 204; }}
    location / {{ return 200 '{event}'; }}
    location = /stub-status {{ stub_status; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Stub:
    """A running nginx; ``root_url`` has no path."""

    root_url: str

    @property
    def base_url(self) -> str:
        """Where it answers as the metering backend."""
        return f"{self.root_url}/api/v1"

    def requests(self) -> int:
        """Count the requests so far, this one included."""
        with urllib.request.urlopen(f"{self.root_url}/stub-status") as answer:
            counts = re.search(r"\n\s*\d+ \d+ (\d+)", answer.read().decode())
        assert counts is not None, "the third line of stub_status has the count of requests"
        return int(counts[1])

    @contextlib.contextmanager
    def expecting(self, requests: int, *, of: str) -> Iterator[None]:
        """See to it that exactly so many requests are made within.

        Raises:
            UnmeasuredError: it were others, and so the figures are of something else.
        """
        before = self.requests()
        yield
        made = self.requests() - before - 1
        if made != requests:
            raise UnmeasuredError(f"{of} made {made:,} requests, not {requests:,}")


@contextlib.contextmanager
def nginx_stub(folder: Path) -> Iterator[Stub]:
    """Run nginx until the end of the block.

    Raises:
        UnmeasuredError: there is none, or it does not start.
    """
    program = shutil.which("nginx") or shutil.which("nginx", path=_NGINX_PLACES)
    if program is None:
        raise UnmeasuredError("there is no nginx: python -m tests.benchmark.setup")
    own = folder / "nginx"
    own.mkdir(exist_ok=True)
    port = free_port()
    configuration = own / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(folder=own, port=port, event=_EVENT, account=_ACCOUNT), "utf-8")
    with subprocess.Popen([program, "-e", own / "error.log", "-c", configuration], cwd=own) as process:
        try:
            _wait_for(port, process, log=own / "error.log")
            yield Stub(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _wait_for(port: int, process: subprocess.Popen[bytes], *, log: Path) -> None:
    give_up_seconds = time.monotonic() + _LONGEST_START_SECONDS
    while process.poll() is None and time.monotonic() < give_up_seconds:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise UnmeasuredError(f"nginx does not start: {log.read_text('utf-8').strip()}")
