"""Upload usage logs to a metering backend: every row posted once, every row accounted for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uploader.client import MeterClient, post_meter_usage

__all__ = ["MeterClient", "post_meter_usage"]


def __getattr__(name: str) -> Any:
    """Import the client when it is first asked for: ``uploader --help`` must not wait for `requests` (PEP 562)."""
    if name in __all__:
        from uploader import client  # noqa: PLC0415 -- see above

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
