"""Upload usage logs to a metering backend: every row posted once, every row accounted for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uploader.commands.for_programs import replay, upload
    from uploader.model.errors import RefusedError, UploaderError
    from uploader.reports.frames import read_results
    from uploader.reports.summary import FileSummary, Summary
    from uploader.sender.client import MeterClient, post_meter_usage

__all__ = [
    "FileSummary",
    "MeterClient",
    "RefusedError",
    "Summary",
    "UploaderError",
    "post_meter_usage",
    "read_results",
    "replay",
    "upload",
]

_MODULE_BY_NAME = {
    "FileSummary": "reports.summary",
    "MeterClient": "sender.client",
    "RefusedError": "model.errors",
    "Summary": "reports.summary",
    "UploaderError": "model.errors",
    "post_meter_usage": "sender.client",
    "read_results": "reports.frames",
    "replay": "commands.for_programs",
    "upload": "commands.for_programs",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: ``uploader --help`` must not wait for `requests` and the rest (PEP 562)."""
    if name in _MODULE_BY_NAME:
        return getattr(import_module(f"uploader.{_MODULE_BY_NAME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
