"""Files that outlive a power loss: a new name lasts only once its folder is flushed too (fsync(2))."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from uploader.model.errors import LedgerFault


def fsync_folder(folder: Path) -> None:
    """Flush a folder, so that the names in it last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, content: bytes, *, is_private: bool = True) -> None:
    """Replace a small file of our own, so that at any moment it is either the old or the new.

    is_private: for this user alone (0600), whatever the umask.

    Raises:
        LedgerFault: it cannot be written.
    """
    # Of this thread alone: in a folder of the user's own a plainer name may be taken, or be a link to somewhere else.
    draft = path.with_name(f".uploader.{os.getpid()}.{threading.get_ident()}.draft")
    with disk_faults(path):
        draft.unlink(missing_ok=True)  # left by a process of this number that was killed
        try:
            with draft.open("xb") as file:
                if is_private:
                    os.fchmod(file.fileno(), 0o600)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)


@contextlib.contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn the operating system's errors about a file of ours into the run's own."""
    try:
        yield
    except OSError as error:
        raise LedgerFault(
            f"{path}: {error.strerror or error}",
            remedy="make room, or mend the disk, then run the same command again; what was recorded is safe",
        ) from error
