"""Commands as a person would type them."""

from __future__ import annotations

import shlex
from pathlib import Path


def as_argument(path: Path) -> str:
    """Spell a path for a command line; one that begins with a dash would be taken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
