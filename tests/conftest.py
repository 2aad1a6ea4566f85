"""Fixtures of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.billing_server import BillingServer
from tests.command import Home

# What they assert fails with the values, as in a test file.
pytest.register_assert_rewrite("tests.replay.scene", "tests.results.written", "tests.sender.calls")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the fault suite; pytest knows options of this file alone, whichever tests are named."""
    parser.addoption("--faults", choices=["short", "full"], default="short", help="extent of the fault suite")


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what leads calls elsewhere: proxies, certificates, .netrc and our own settings."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("UPLOADER_"):
            monkeypatch.delenv(name)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def billing_server() -> Iterator[BillingServer]:
    """Start a fresh billing server; set its ``respond`` before the first request to have it misbehave."""
    with BillingServer() as server:
        yield server


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Make the certificate authority of the test run."""
    return trustme.CA()


@pytest.fixture(scope="session")
def authority_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the certificate of ``authority`` as a PEM file."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def home(tmp_path: Path, billing_server: BillingServer) -> Home:
    """Make an empty home folder for the ``uploader`` command, which is pointed at the billing server."""
    return Home(folder=tmp_path, base_url=billing_server.base_url)
