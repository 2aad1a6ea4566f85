"""Fixtures of the sender's tests."""

from __future__ import annotations

import time

import pytest

from tests.sender.calls import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Have the clock that measures all waiting go as the test says."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    return clock
