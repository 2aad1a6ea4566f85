"""Settings check and normalise themselves: a wrong one stops the command before anything is read."""

from __future__ import annotations

from typing import Any

import pytest

from uploader.model.errors import SettingsError
from uploader.model.settings import DEFAULT_BASE_URL, Settings, normalised_base_url


@pytest.mark.parametrize(
    ("typed", "normalised"),
    [
        (DEFAULT_BASE_URL, DEFAULT_BASE_URL),
        ("HTTP://Backend.Example:80/api/v1/", "http://backend.example/api/v1"),
        ("https://backend.example:443", "https://backend.example"),
        ("https://backend.example:80/", "https://backend.example:80"),
        ("http://backend.example//api//v1//", "http://backend.example//api//v1"),
        ("http://backend.example/API/%7Ev%31/%2f", "http://backend.example/API/~v1/%2F"),
        ("http://127.0.0.1:08000/x", "http://127.0.0.1:8000/x"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]"),
        ("http://[FE80::0001]/x", "http://[fe80::1]/x"),
        ("http://[::FFFF:7f00:1]/x", "http://[::ffff:127.0.0.1]/x"),
        ("http://Backend.Example.:8000/x", "http://backend.example.:8000/x"),
    ],
)
def test_a_base_url_has_one_spelling(typed: str, normalised: str) -> None:
    """However a base URL is typed, the same backend is the same text, so that a run is found again."""
    assert Settings(base_url=typed).base_url == normalised
    assert normalised_base_url(normalised) == normalised


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "backend.example/api",
        "//backend.example",
        "ftp://backend.example",
        "file:///etc/passwd",
        "http://",
        "http:///api",
        "http://backend.example:port",
        "http://backend.example:99999",
        "http://[::1",
        "http://backend.example/?a=b",
        "http://backend.example/#a",
        "http://backend.example/a b",
        "http://backend.example/\r\nX-Evil: 1",
        "http://bäckend.example",
        "http://user@backend.example",
        "http://backend..example/api",
        f"http://{'x' * 64}.example/api",
        "http://127.1/api",
        "http://0x7f000001/api",
        "http://backend.example/x/../api",
        "http://backend.example/%2e/api",
    ],
)
def test_what_is_no_base_url_is_refused(typed: str) -> None:
    """A base URL that no call could be built on is refused, in one line and with an example."""
    with pytest.raises(SettingsError) as refusal:
        Settings(base_url=typed)
    assert DEFAULT_BASE_URL in refusal.value.remedy
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    "typed",
    [
        "https://user:hunter2@backend.example/api",
        "https://user:hunter2@backend.example:99999/",
        "https://user:hunter2@backend.example:x/",
        "ftp://user:hunter2@backend.example",
        "https://user:hunter2\u00e4@backend.example",
        "https://user:hunter2@[::1",
        "https://user:p/hunter2@backend.example",
        "https://user:hunter2@backend.example/../x",
    ],
)
def test_a_password_in_a_base_url_is_not_repeated(typed: str) -> None:
    """A refusal may end in a log."""
    with pytest.raises(SettingsError) as refusal:
        Settings(base_url=typed)
    assert "hunter2" not in f"{refusal.value} {refusal.value.remedy}"


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("timeout_seconds", 0.001, 3600),
        ("retries", 0, 100),
        ("concurrency", 1, 500),
        ("patience_seconds", 0, 2_592_000),
    ],
)
def test_numbers_have_limits(name: str, least: float, most: float) -> None:
    """The limits themselves are allowed; beyond them, and what is no number, are refused by the option's name."""
    for value in (least, most):
        allowed: dict[str, Any] = {name: value}
        assert getattr(Settings(**allowed), name) == value
    option = "--" + name.removesuffix("_seconds")
    for value in (least - 1, most + 1, float("nan"), float("inf")):
        refused: dict[str, Any] = {name: value}
        with pytest.raises(SettingsError, match=option) as refusal:
            Settings(**refused)
        assert option in refusal.value.remedy


def test_safe_statuses_are_5xx() -> None:
    """Only a 5xx leaves it open whether a row was recorded; no other status can be declared safe."""
    assert Settings(safe_statuses=frozenset({500, 599})).safe_statuses == {500, 599}
    for status in (200, 302, 408, 499, 600):
        with pytest.raises(SettingsError, match=f"--safe-status {status}"):
            Settings(safe_statuses=frozenset({500, status}))


@pytest.mark.parametrize("name", ["Idempotency-Key", "x-request-id", "X_Dedupe.1"])
def test_an_idempotency_header_is_any_free_header(name: str) -> None:
    """The backend's documented name is taken as it is."""
    assert Settings(idempotency_header=name).idempotency_header == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Idempotency Key",
        "Idempotency-Key:",
        "a\r\nX-Evil",
        "Schlüssel",
        "Authorization",
        "X-Tenant-ID",
        "x-device-id",
        "Content-Type",
        "content-length",
        "Transfer-Encoding",
        "Connection",
        "Host",
        "Expect",
        "User-Agent",
        "Accept",
        "Proxy-Authorization",
    ],
)
def test_an_idempotency_header_that_would_spoil_the_call_is_refused(name: str) -> None:
    """What is no header name, and a header that the call itself needs, are refused."""
    with pytest.raises(SettingsError, match="--idempotency-header"):
        Settings(idempotency_header=name)


@pytest.mark.parametrize(
    "base_url",
    [
        "https://backend.example",
        "http://localhost:8000",
        "http://127.0.0.1:8000",
        "http://127.8.9.10",
        "http://[::1]:8000",
        DEFAULT_BASE_URL,
        "http://metering.metering.svc:8000",
    ],
)
def test_a_key_goes_over_tls_or_stays_inside(base_url: str) -> None:
    """Plain http is allowed to this machine and to the cluster's own names."""
    assert Settings(base_url=base_url, api_key="secret").api_key == "secret"


@pytest.mark.parametrize(
    "base_url",
    [
        "http://backend.example",
        "http://10.0.0.1",
        "http://127.0.0.1.example.com",
        "http://svc.cluster.local.example.com",
        "http://notsvc",
        "http://localhost.example.com",
        "http://[2001:db8::1]",
    ],
)
def test_a_key_never_crosses_a_network_in_plain_text(base_url: str) -> None:
    """Anywhere else the key is refused with http, and is not repeated in the refusal."""
    with pytest.raises(SettingsError, match="plain text") as refusal:
        Settings(base_url=base_url, api_key="secret")
    assert "secret" not in str(refusal.value)
    assert Settings(base_url=base_url).api_key is None


@pytest.mark.parametrize("key", ["", " ", "secret ", "sec\r\nX-Evil: 1", "sécret", "secret\n"])
def test_a_key_that_no_header_can_carry_is_refused(key: str) -> None:
    """An empty key and one with spaces or line breaks are refused, unrepeated."""
    with pytest.raises(SettingsError, match="API key") as refusal:
        Settings(api_key=key)
    assert "cret" not in str(refusal.value)


def test_settings_do_not_show_the_key() -> None:
    """A log line of all settings holds no key."""
    assert "secret" not in repr(Settings(api_key="secret"))
