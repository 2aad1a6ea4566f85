"""One client library in a plain loop: ``loops.py LIBRARY ROOT_URL USAGE_LOG ROWS``, run by a Python that has it.

Prints, as JSON, the seconds of the loop alone: that importing a library takes longer than another is not held
against it.
"""

from __future__ import annotations

import csv
import datetime as dt
import importlib
import itertools
import json
import socket
import sys
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

Post = Callable[[int, dict[str, str]], Any]
_ANY_KEY = "sk_test_key"
_METER_LIB_HOST = "metering.metering.svc.cluster.local"


def _meter_lib(root_url: str) -> Post:
    there = urlsplit(root_url)
    genuine = socket.getaddrinfo

    def leading_there(host: Any, port: Any, *rest: Any, **named: Any) -> Any:
        if host == _METER_LIB_HOST:
            host, port = there.hostname, there.port
        return genuine(host, port, *rest, **named)

    socket.getaddrinfo = leading_there
    post = importlib.import_module("meter_lib").post_meter_usage
    return lambda _, row: _demand(
        post(row["tenant_id"], row["device_id"], row["meter_id"], int(row["total_usage"])) is not None
    )


def _openmeter(root_url: str) -> Post:
    client = importlib.import_module("openmeter").Client(endpoint=f"{root_url}/openmeter", token=_ANY_KEY)
    return lambda number, row: client.events.ingest_event(
        {
            "specversion": "1.0",
            "id": str(number),
            "source": row["device_id"],
            "type": row["meter_id"],
            "subject": row["tenant_id"],
            "data": {"total_usage": row["total_usage"]},
        }
    )


def _orb(root_url: str) -> Post:
    client = importlib.import_module("orb").Orb(api_key=_ANY_KEY, base_url=root_url)
    return lambda number, row: client.events.ingest(
        events=[
            {
                "event_name": row["meter_id"],
                "idempotency_key": str(number),
                "timestamp": dt.datetime.now(dt.timezone.utc),
                "properties": {"total_usage": int(row["total_usage"]), "device_id": row["device_id"]},
                "external_customer_id": row["tenant_id"],
            }
        ]
    )


def _metronome(root_url: str) -> Post:
    client = importlib.import_module("metronome").Metronome(bearer_token=_ANY_KEY, base_url=root_url)
    return lambda number, row: client.v1.usage.ingest(
        usage=[
            {
                "customer_id": row["tenant_id"],
                "event_type": row["meter_id"],
                "timestamp": row["recorded_at"],
                "transaction_id": str(number),
                "properties": {"total_usage": row["total_usage"], "device_id": row["device_id"]},
            }
        ]
    )


def _stripe(root_url: str) -> Post:
    client = importlib.import_module("stripe").StripeClient(_ANY_KEY, base_addresses={"api": root_url})
    return lambda number, row: client.v1.billing.meter_events.create(
        params={
            "event_name": row["meter_id"],
            "identifier": str(number),
            "payload": {"value": row["total_usage"], "stripe_customer_id": row["tenant_id"]},
        }
    )


_MAKERS = {
    "meter-lib": _meter_lib,
    "openmeter": _openmeter,
    "orb-billing": _orb,
    "metronome-sdk": _metronome,
    "stripe": _stripe,
}


def _demand(is_posted: bool) -> None:  # noqa: FBT001 -- its only argument
    if not is_posted:
        sys.exit("a row was not posted")


def main() -> None:
    """Post the rows one after the other."""
    library, root_url, usage_log, rows = sys.argv[1:]
    post = _MAKERS[library](root_url)
    started_seconds = time.perf_counter()
    with open(usage_log, encoding="utf-8", newline="") as file:  # noqa: PTH123 -- short, and the same
        for number, row in enumerate(itertools.islice(csv.DictReader(file), int(rows))):
            post(number, row)
    sys.stdout.write(json.dumps({"seconds": time.perf_counter() - started_seconds}) + "\n")


if __name__ == "__main__":
    main()
