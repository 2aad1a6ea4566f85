"""A disk that is full, as far as this process can tell."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator

_KEPT_BYTES = 4096


@contextlib.contextmanager
def no_file_may_grow() -> Iterator[None]:
    """Let no file of this process grow beyond 4 KiB: writing there fails with EFBIG (setrlimit(2), RLIMIT_FSIZE).

    Python ignores SIGXFSZ, which would otherwise end the process.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_KEPT_BYTES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WITH_FILES_OF_64_KIB = (
    sys.executable,
    "-c",
    "import os, resource as r, sys; r.setrlimit(r.RLIMIT_FSIZE, (65536, 65536)); os.execv(sys.argv[1], sys.argv[1:])",
)
"""Put before a command, so that none of its files can grow beyond 64 KiB: a ledger is then full after some commits."""
