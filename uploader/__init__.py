"""Upload usage logs to a metering backend: every row posted once, every row accounted for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uploader.client import MeterClient, post_meter_usage
    from uploader.commands import replay, upload
    from uploader.errors import RefusedError, UploaderError
    from uploader.frames import read_results
    from uploader.summary import FileSummary, Summary

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
    "FileSummary": "summary",
    "MeterClient": "client",
    "RefusedError": "errors",
    "Summary": "summary",
    "UploaderError": "errors",
    "post_meter_usage": "client",
    "read_results": "frames",
    "replay": "commands",
    "upload": "commands",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: ``uploader --help`` must not wait for `requests` and the rest (PEP 562)."""
    if name in _MODULE_BY_NAME:
        return getattr(import_module(f"uploader.{_MODULE_BY_NAME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
