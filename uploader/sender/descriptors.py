"""How many calls may be in flight with the files that this process may have open: each has a connection of its own."""

from __future__ import annotations

import contextlib
import math
import resource

from uploader.model.errors import SettingsError

_WANTED = 2048
_MOST_SOCKETS = 4
_FOR_FILES = 40
"""Log, ledger, claims, results, streams, libraries: some 25 at the most."""


def raise_limit() -> None:
    """Raise this process's own limit, which is 256 on macOS, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def most_connections(wanted: int, *, is_fixed: bool) -> int:
    """Give how many of some connections may be open at once.

    is_fixed: fewer will not do.

    Raises:
        SettingsError: there is no room for them.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = wanted if soft == resource.RLIM_INFINITY else soft - _FOR_FILES
    if room < (wanted if is_fixed else 1):
        raise SettingsError(
            f"{wanted} calls in flight need {wanted + _FOR_FILES} open files, and this process may have {soft}",
            remedy="raise the limit (ulimit -n), or give a smaller --concurrency",
        )
    return min(wanted, room)


def most_sockets(*, calls: int) -> int:
    """Give how many sockets each of some calls may take while it connects, trying addresses beside each other."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = math.inf if soft == resource.RLIM_INFINITY else (soft - _FOR_FILES) // calls
    return int(min(_MOST_SOCKETS, max(1, room)))
