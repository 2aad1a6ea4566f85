"""Fixtures of all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.billing_server import BillingServer


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
