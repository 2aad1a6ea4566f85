"""The fixture of the tests of a replay."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.billing_server import BillingServer
from tests.replay.scene import QUICK_FOLDER, Scene


@pytest.fixture
def scene(plain_environment: None, billing_server: BillingServer) -> Iterator[Scene]:
    """Set a scene, and hold all that was said in it against the bill in the end."""
    with tempfile.TemporaryDirectory(dir=QUICK_FOLDER) as folder:
        made = Scene(Path(folder), billing_server)
        yield made
        made.check()
