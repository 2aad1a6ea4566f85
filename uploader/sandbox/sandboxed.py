"""A trial: an upload to a backend that is started for it, with a throw-away ledger (``upload --sandbox``)."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from uploader.sandbox.sandbox import SandboxProcess
from uploader.sandbox.sandbox_backend import SandboxSettings


@contextlib.contextmanager
def sandboxed(options: dict[str, Any]) -> Iterator[Callable[[], str]]:
    """Point a run at a backend of its own, with a throw-away ledger and results in a fresh folder.

    What variables and the settings file say of these is set aside: their folder is for results that were billed.
    """
    with SandboxProcess(SandboxSettings()) as backend, tempfile.TemporaryDirectory(prefix="uploader-ledger-") as ledger:
        options["base_url"] = backend.base_url
        options["ledger"] = Path(ledger)
        options["results"] = None
        options["results_dir"] = fresh = Path(tempfile.mkdtemp(prefix="uploader-sandbox-"))

        def what_it_recorded() -> str:
            recorded = backend.recorded()
            repeats = sum(count - 1 for count in recorded.repeated_request_ids.values())
            return (
                f"The sandbox recorded {recorded.events:,} events with {recorded.units:,} units, "
                f"{repeats:,} of them twice, and {recorded.look_ups:,} look-ups."
            )

        try:
            yield what_it_recorded
        finally:
            with contextlib.suppress(OSError):  # it holds the results
                fresh.rmdir()
