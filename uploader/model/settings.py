"""The settings of a command; each checks itself, so that a wrong one stops the command before anything is read."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from urllib.parse import urlsplit

from uploader.model.errors import SettingsError

DEFAULT_BASE_URL = "http://metering.metering.svc.cluster.local:8000/api/v1"
DEFAULT_TIMEOUT_SECONDS = 10.0
DEFAULT_RETRIES = 2
DEFAULT_PATIENCE_SECONDS = 600.0
MOST_IN_FLIGHT = 500
"""Each call in flight is a question to a person, should the process be killed, and one of often 1,024 descriptors."""

PRINTABLE_ASCII = re.compile(r"[\x21-\x7e]+")
"""What a header value may hold: a line break in one would begin another header."""

_OLD_ADDRESS = re.compile(r"(?:0[xX][0-9a-fA-F]*|[0-9]+)(?:\.(?:0[xX][0-9a-fA-F]*|[0-9]+)){0,3}")  # inet_aton(3)
_HOST_NAME = re.compile(r"(?=.{1,253}$)[^.]{1,63}(?:\.[^.]{1,63})*\.?")  # RFC 1035 section 2.3.4
_ESCAPE = re.compile(r"%([0-9a-fA-F]{2})")
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")  # RFC 3986 section 2.3
_BUDGET = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(%?)")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2, token
_OWN_HEADERS = {
    "accept",
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-device-id",
    "x-tenant-id",
}
DEFAULT_PORT_BY_SCHEME = {"http": 80, "https": 443}
_CLUSTER_SUFFIXES = (".svc", ".svc.cluster.local")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to reach the backend, and how hard to try.

    base_url:           normalised: scheme and host in lower case, no default port, no slash at the end.
    api_key:            sent as ``Authorization: Bearer``; None for a backend without a portal.
    timeout_seconds:    for each whole exchange, connecting included.
    retries:            further attempts for a row or look-up that was certainly not recorded.
    concurrency:        calls in flight at the most, look-ups and posts together; None to find out what it can be.
    max_rate:           posts started a second at the most; None for no cap.
    patience_seconds:   how long a run may wait in all for a backend that asks for patience.
    safe_statuses:      5xx statuses that, by the operator's word, mean "not recorded".
    idempotency_header: the header by which the backend drops a repeated event; None when it has none.
    """

    base_url: str = DEFAULT_BASE_URL
    api_key: str | None = field(default=None, repr=False)
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    retries: int = DEFAULT_RETRIES
    concurrency: int | None = None
    max_rate: float | None = None
    patience_seconds: float = DEFAULT_PATIENCE_SECONDS
    safe_statuses: frozenset[int] = frozenset()
    idempotency_header: str | None = None

    def __post_init__(self) -> None:
        """Normalise the base URL and refuse what cannot work.

        Raises:
            SettingsError: a value is out of its range, or the key would cross a network in plain text.
        """
        object.__setattr__(self, "base_url", normalised_base_url(self.base_url))
        _demand_range("--timeout", self.timeout_seconds, least=0.001, most=3600)
        _demand_range("--retries", self.retries, least=0, most=100)
        if self.concurrency is not None:
            _demand_range("--concurrency", self.concurrency, least=1, most=MOST_IN_FLIGHT)
        if self.max_rate is not None:
            _demand_range("--max-rate", self.max_rate, least=0.01, most=1_000_000)
        _demand_range("--patience", self.patience_seconds, least=0, most=30 * 86400)
        _check_safe_statuses(self.safe_statuses)
        _check_idempotency_header(self.idempotency_header)
        _check_api_key(self.api_key, base_url=self.base_url)

    @property
    def most_in_flight(self) -> int:
        """Calls that may ever be in flight at once."""
        return MOST_IN_FLIGHT if self.concurrency is None else self.concurrency


def normalised_base_url(text: str) -> str:
    """Give the one spelling of a base URL, so that a run is found again however it was typed.

    Case, escapes, the default port and addresses are normalised (RFC 3986 section 6.2); what is seldom meant, such as a
    path with dots, is refused.

    Raises:
        SettingsError: not an http(s) URL with a host, or one with a user name, a query or a fragment.
    """
    remedy = f"give it as in {DEFAULT_BASE_URL}"
    named = f"base URL {text!r}" if "@" not in text else "the base URL"  # else there may be a password in it
    if not PRINTABLE_ASCII.fullmatch(text):
        raise SettingsError(f"{named}: empty, or with spaces or characters outside ASCII", remedy=remedy)
    try:
        parts = urlsplit(text)
        port, host = parts.port, _normalised_host(parts.hostname or "")
    except ValueError as error:
        raise SettingsError(f"{named}: {error if '@' not in text else 'not a URL'}", remedy=remedy) from None
    scheme = parts.scheme.lower()
    if scheme not in DEFAULT_PORT_BY_SCHEME or not host:
        raise SettingsError(f"{named}: not an http or https URL with a host", remedy=remedy)
    if parts.username is not None or parts.query or parts.fragment:
        raise SettingsError(f"base URL at {host}: a user name, a query or a fragment has no place in it", remedy=remedy)
    path = _ESCAPE.sub(_normalised_escape, parts.path.rstrip("/"))
    if {".", ".."} & {*path.split("/")}:
        raise SettingsError(f"{named}: its path has . or .. in it", remedy=remedy)
    shown_host = f"[{host}]" if ":" in host else host
    shown_port = "" if port in (None, DEFAULT_PORT_BY_SCHEME[scheme]) else f":{port}"
    return f"{scheme}://{shown_host}{shown_port}{path}"


def _normalised_escape(escape: re.Match[str]) -> str:
    character = chr(int(escape[1], 16))
    return character if _UNRESERVED.fullmatch(character) else escape[0].upper()


def _normalised_host(host: str) -> str:
    """Give the one spelling of a host.

    Raises:
        ValueError: it is neither an address nor a name.
    """
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return f"::ffff:{mapped}" if mapped else str(address)  # Python 3.13 spells these otherwise than 3.10
    if _OLD_ADDRESS.fullmatch(host):
        raise ValueError(f"{host} is no address; one has four numbers, such as 127.0.0.1")
    if host and not _HOST_NAME.fullmatch(host):
        raise ValueError(f"{host} is no host name: a part of it is empty or too long")
    return host.lower()


def parse_concurrency(text: str) -> int | None:
    """Read ``auto`` (None) or a number.

    Raises:
        SettingsError: it is neither.
    """
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise SettingsError(
            f"--concurrency {text!r}: neither auto nor a whole number",
            remedy=f"write auto, or a number from 1 to {MOST_IN_FLIGHT}",
        ) from None


def _demand_range(option: str, value: float, *, least: float, most: float) -> None:
    if not isinstance(value, int | float):  # as a program may give
        raise SettingsError(f"{option} {value!r}: not a number", remedy=f"give a number for {option}")
    if not least <= value <= most:  # also refuses NaN
        raise SettingsError(
            f"{option} {value}: outside {least:g} to {most:g}", remedy=f"choose a value within it for {option}"
        )


def _check_safe_statuses(statuses: frozenset[int]) -> None:
    wrong = [status for status in statuses if not isinstance(status, int) or not 500 <= status <= 599]
    if wrong:
        named = ",".join(sorted(map(str, wrong)))
        raise SettingsError(
            f"--safe-status {named}: only a 5xx status leaves it open whether a row was recorded",
            remedy="name 5xx statuses alone, as in --safe-status 500,502",
        )


def _check_idempotency_header(name: str | None) -> None:
    if name is not None and (not _HEADER_NAME.fullmatch(name) or name.lower() in _OWN_HEADERS):
        raise SettingsError(
            f"--idempotency-header {name!r}: not a header name, or one that the upload itself needs",
            remedy="give the name that the backend documents, as in --idempotency-header Idempotency-Key",
        )


def _check_api_key(key: str | None, *, base_url: str) -> None:
    if key is None:
        return
    if not PRINTABLE_ASCII.fullmatch(key):
        raise SettingsError(
            "the API key is empty, or holds spaces, line breaks or characters outside ASCII",
            remedy="put the key alone into UPLOADER_API_KEY, or into the file that UPLOADER_API_KEY_FILE names",
        )
    parts = urlsplit(base_url)
    if parts.scheme == "http" and not stays_inside(parts.hostname or ""):
        raise SettingsError(
            f"the API key would cross the network in plain text to {base_url}",
            remedy="use https, or unset UPLOADER_API_KEY and UPLOADER_API_KEY_FILE",
        )


def key_of_environment() -> str | None:
    """Read the key from UPLOADER_API_KEY_FILE or UPLOADER_API_KEY: a command line every user of the machine can see.

    Raises:
        SettingsError: the file cannot be read.
    """
    path = os.environ.get("UPLOADER_API_KEY_FILE")
    if not path:
        return os.environ.get("UPLOADER_API_KEY") or None
    return key_in(Path(path), place="UPLOADER_API_KEY_FILE")


def key_in(path: Path, *, place: str) -> str:
    """Read the key from its file; ``place`` is where the file is named.

    Raises:
        SettingsError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{place} {path}: {error}", remedy="name a readable file with the key alone in it"
        ) from error


def stays_inside(host: str) -> bool:
    """Tell whether plain http to this host stays on the machine or inside the cluster."""
    if host == "localhost" or host.endswith(_CLUSTER_SUFFIXES):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class FailureBudget:
    """How many rows of a file may fail: so many, or such a share of all."""

    rows: int | None = None
    share: Fraction = Fraction(0)

    @classmethod
    def parse(cls, text: str) -> FailureBudget:
        """Read ``N`` or ``P%``.

        Raises:
            SettingsError: it is neither.
        """
        match = _BUDGET.fullmatch(text.strip())
        if match is None or (match[2] and Fraction(match[1]) > 100) or (not match[2] and "." in match[1]):
            raise SettingsError(
                f"--max-failed {text!r}: neither a number of rows nor a share",
                remedy="write it as in --max-failed 100 or 0.5%",
            )
        return cls(share=Fraction(match[1]) / 100) if match[2] else cls(rows=int(match[1]))

    def most_failed(self, *, rows: int) -> int:
        """Give the number of rows that may fail, of so many."""
        return self.rows if self.rows is not None else int(rows * self.share)
