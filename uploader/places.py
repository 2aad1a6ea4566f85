"""Where things are by default. The only file that knows `platformdirs`."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_state_path


def default_ledger_folder() -> Path:
    """Name the folder of the ledger when none is given."""
    return user_state_path("uploader") / "ledger"
