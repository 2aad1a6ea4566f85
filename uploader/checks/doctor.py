"""Whether an upload would get through: what it needs is tried, one thing after the other, and nothing is posted.

Route, schema, sender, look-up and ledger are the upload's own code; only what that has no words for (the certificate's
last day, the backend's clock) is asked for here.
"""

from __future__ import annotations

import contextlib
import enum
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path

from uploader.ledger.ledger_folder import nearest_folder, try_ledger_folder
from uploader.ledger.local_disk import fleeting_file_system
from uploader.model import api
from uploader.model.errors import UploaderError
from uploader.model.model import Reason, UsageEvent
from uploader.model.plan import Plan
from uploader.model.settings import Settings
from uploader.model.shell import as_argument
from uploader.model.wording import shown
from uploader.readers.log_check import fitted_reader
from uploader.readers.readers import open_usage_log
from uploader.schema.schema import RowSchema
from uploader.sender.origin import origin_of
from uploader.sender.proxies import proxy_of
from uploader.sender.resolver import Resolver
from uploader.sender.route import Route, settle_route
from uploader.sender.sender import Connection, Sender
from uploader.sender.tls import context_for, in_words

_FEW_DAYS = 21
_LITTLE_ROOM_BYTES = 500_000_000
"""A ledger takes 90 MB for a million rows, 180 MB with their own event ids; more for failed ones."""
_MOST_CLOCK_SECONDS = 30.0


class State(enum.Enum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, in a line; of a warning or failure also what to do."""

    state: State
    check: str
    words: str


def examine(plan: Plan, *, tenant_id: str | None, path: Path | None) -> Iterator[Finding]:
    """Try what an upload needs.

    tenant_id: whose customer is looked up; None for that of the usage log's first good row.
    path:      a usage log; None for none.
    """
    settings = plan.settings
    yield from _examine_ledger(plan.ledger_folder)
    schema = None
    try:
        schema = RowSchema.load(plan.schema_path)
        yield Finding(State.OK, "schema", schema.name)
    except UploaderError as error:
        yield Finding(State.FAIL, "schema", str(error))
    if path is not None and schema is not None:
        finding, found = _examine_log(path, schema, plan)
        yield finding
        tenant_id = tenant_id or found
    try:
        route = settle_route(settings.base_url, carries_key=settings.api_key is not None)
    except UploaderError as error:
        yield Finding(State.FAIL, "route", str(error))
        return
    yield Finding(State.OK, "route", _route_in_words(settings, route))
    yield from _examine_network(settings, route)
    yield from _examine_backend(settings, route, tenant_id)


def _examine_ledger(folder: Path) -> Iterator[Finding]:
    try:
        try_ledger_folder(folder)
    except UploaderError as error:
        yield Finding(State.FAIL, "ledger", str(error))
        return
    place = nearest_folder(folder)
    if kind := fleeting_file_system(place):
        words = f"{folder} is on {kind}, which may be empty after a restart -- name a folder on a disk: what was billed"
        yield Finding(State.WARN, "ledger", f"{words} would be billed again")
    else:
        yield Finding(State.OK, "ledger", f"{folder} is on a local disk, and keeps what is committed")
    room = shutil.disk_usage(place).free
    words = f"{room:,} bytes are free for the ledger"
    if room < _LITTLE_ROOM_BYTES:
        need = "a million rows take some 100,000,000, with --event-id twice that"
        yield Finding(State.WARN, "room", f"{words}; {need} -- make room")
    else:
        yield Finding(State.OK, "room", words)


def _examine_log(path: Path, schema: RowSchema, plan: Plan) -> tuple[Finding, str | None]:
    try:
        with open_usage_log(path, delimiter=plan.delimiter) as log:
            base_url = plan.settings.base_url
            reader = fitted_reader(log, schema, plan.mapping, event_id=plan.event_id, base_url=base_url)
            for batch in log.batches():
                for row in batch.rows:
                    event = reader.event(row)
                    if isinstance(event, UsageEvent):
                        words = f"{path}: its columns fit the schema; row {row.number} is the first good one"
                        return Finding(State.OK, "log", words), event.tenant_id
            if log.row_count == 0:
                return Finding(State.WARN, "log", f"{path}: has no row -- look whether its export is whole"), None
    except UploaderError as error:
        return Finding(State.FAIL, "log", str(error)), None
    remedy = f"see why: uploader validate {as_argument(path)}"
    return Finding(State.FAIL, "log", f"{path}: has no good row -- {remedy}"), None


def _route_in_words(settings: Settings, route: Route) -> str:
    proxy = proxy_of(route.proxy)
    if proxy is None:
        return f"to {settings.base_url}, without a proxy"
    return f"to {settings.base_url}, through the proxy {proxy.origin.scheme}://{proxy.origin.netloc}"


def _examine_network(settings: Settings, route: Route) -> Iterator[Finding]:
    proxy = proxy_of(route.proxy)
    _, host, port = origin_of(settings.base_url) if proxy is None else proxy.origin
    with contextlib.closing(Resolver()) as resolver:
        question = resolver.answer(host, port, timeout_seconds=settings.timeout_seconds)
    if question.error:
        remedy = "check --base-url, the proxy settings and this machine's name server"
        yield Finding(State.FAIL, "dns", f"{host}: {question.error} -- {remedy}")
        return
    addresses = dict.fromkeys(str(address.sockaddr[0]) for address in question.addresses)
    yield Finding(State.OK, "dns", f"{host} is {', '.join(addresses)}")
    if settings.base_url.startswith("https:") and not route.proxy:
        yield _examine_certificate(host, port, route, settings)


def _examine_certificate(host: str, port: int, route: Route, settings: Settings) -> Finding:
    try:
        context = context_for(route.ca_bundle)
    except OSError as error:
        remedy = "set REQUESTS_CA_BUNDLE to a file or folder of certificates (PEM), or unset it and CURL_CA_BUNDLE"
        return Finding(State.FAIL, "tls", f"{route.ca_bundle}: {in_words(error)} -- {remedy}")
    try:
        with (
            socket.create_connection((host, port), timeout=settings.timeout_seconds) as plain,
            context.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            certificate = wrapped.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        remedy = "have it mended, check --base-url, or name its authority with REQUESTS_CA_BUNDLE"
        return Finding(State.FAIL, "tls", f"{host}: {in_words(error)} -- {remedy}")
    except OSError as error:
        return Finding(State.FAIL, "tls", f"{host}: {in_words(error)} -- check --base-url")
    days = (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / 86_400
    words = f"the certificate is valid for {host}, for another {days:,.0f} days"
    if days < _FEW_DAYS:
        return Finding(State.WARN, "tls", f"{words} -- have it renewed before uploads stop")
    return Finding(State.OK, "tls", words)


def _examine_backend(settings: Settings, route: Route, tenant_id: str | None) -> Iterator[Finding]:
    sender: Sender[str] = Sender(
        Connection(
            most_in_flight=1,
            timeout_seconds=settings.timeout_seconds,
            proxy=route.proxy,
            ca_bundle=route.ca_bundle,
        )
    )
    with contextlib.closing(sender):
        if tenant_id is None:
            yield Finding(State.WARN, "look-up", "not tried -- give --tenant ID, or a usage log")
            return
        if problem := api.tenant_problem(tenant_id):
            yield Finding(State.FAIL, "look-up", f"--tenant {problem} -- give a tenant id as in a usage log")
            return
        exchange = _exchange(sender, api.look_up_request(settings, tenant_id))
    yield from _judge(settings, tenant_id, exchange, has_proxy=bool(route.proxy))
    if exchange.http_status:
        yield _examine_clock(exchange.date)


def _exchange(sender: Sender[str], request: api.Request) -> api.Exchange:
    sender.start("look-up", request)
    while not (ended := sender.wait(timeout_seconds=1.0)):
        pass
    return ended[0][1]


def _judge(settings: Settings, tenant_id: str, exchange: api.Exchange, *, has_proxy: bool) -> Iterator[Finding]:
    verdict = api.judge_look_up(settings, exchange)
    if exchange.http_status == 401:
        yield Finding(State.FAIL, "auth", verdict.stop)
        return
    if exchange.http_status == 403:
        yield Finding(State.FAIL, "auth", f"{verdict.outcome.detail} -- check the key, and what it may do")
        return
    if 200 <= exchange.http_status <= 299:
        key = "the key is taken" if settings.api_key else "no key is set, and none is asked for"
        yield Finding(State.OK, "auth", key)
    elif exchange.http_status:
        yield Finding(State.WARN, "auth", f"not known: HTTP {exchange.http_status} does not tell -- see look-up")
    yield _judge_customer(tenant_id, exchange, verdict, has_proxy=has_proxy)


def _judge_customer(tenant_id: str, exchange: api.Exchange, verdict: api.Verdict, *, has_proxy: bool) -> Finding:
    tenant = shown(tenant_id)
    if verdict.customer_id:
        milliseconds = exchange.elapsed_seconds * 1000
        return Finding(
            State.OK,
            "look-up",
            f"tenant {tenant} is customer {shown(verdict.customer_id)} ({milliseconds:,.0f} ms)",
        )
    if verdict.outcome.reason is Reason.CUSTOMER_NOT_FOUND:
        remedy = "check the tenant, and whether --base-url has the whole path (/api/v1)"
        return Finding(State.WARN, "look-up", f"tenant {tenant}: {verdict.outcome.detail} -- {remedy}")
    if exchange.failure is api.Failure.NONE and (not verdict.retry or 200 <= exchange.http_status <= 299):
        remedy = "something else seems to answer there: check --base-url"
    elif has_proxy and not exchange.http_status:
        remedy = "see whether proxy and backend are up, or name the backend's host in no_proxy"
    else:
        remedy = "see whether the backend is up"
    return Finding(State.FAIL, "look-up", verdict.stop or f"{verdict.outcome.detail} -- {remedy}")


def _examine_clock(date: str | None) -> Finding:
    moment = None
    with contextlib.suppress(TypeError, ValueError):
        moment = parsedate_to_datetime(date or "")
    if moment is None:
        return Finding(State.OK, "clock", "not compared: the backend's answers have no date")
    ahead_seconds = time.time() - moment.timestamp()
    if abs(ahead_seconds) > _MOST_CLOCK_SECONDS:
        side = "ahead of" if ahead_seconds > 0 else "behind"
        words = f"this machine is {abs(ahead_seconds):,.0f} s {side} the backend"
        return Finding(State.WARN, "clock", f"{words} -- set it (NTP); times in the results would mislead")
    return Finding(State.OK, "clock", "agrees with the backend's")


def worst(findings: list[Finding]) -> int:
    """Give the exit code: 0 when all is well, 1 with warnings alone, 2 when an upload would not get through."""
    states = [finding.state for finding in findings]
    return 2 if State.FAIL in states else 1 if State.WARN in states else 0
