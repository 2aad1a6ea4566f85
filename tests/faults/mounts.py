"""Disks of one test: a tmpfs that can be filled, an ext4 in a file whose power can be cut. All of it needs root."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

_EXT4_IOC_SHUTDOWN = 0x8004587D
_NOLOGFLUSH = 2
"""EXT4_GOING_FLAGS_NOLOGFLUSH of fs/ext4/ext4.h: nothing more is written, not even the journal."""
_DISK_BYTES = 64 << 20
_LONGEST_COMMAND_SECONDS = 60


def why_no_tmpfs() -> str:
    """Say why no tmpfs can be mounted here; empty when one can."""
    with tempfile.TemporaryDirectory() as folder:
        return _why_not(lambda: tmpfs(Path(folder), size_bytes=1 << 20))


def why_no_disk() -> str:
    """Say why no ext4 in a file can be mounted and cut here; empty when one can."""
    with tempfile.TemporaryDirectory() as folder:
        return _why_not(lambda: _disk_that_was_cut(Path(folder)))


@contextlib.contextmanager
def tmpfs(folder: Path, *, size_bytes: int) -> Iterator[Path]:
    """Mount a tmpfs of a size on a new folder; it is gone at the end."""
    folder.mkdir(exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder)
    try:
        yield folder
    finally:
        _unmount(folder)


def set_read_only(folder: Path, mode: str) -> None:
    """Make a mounted file system read-only (``ro``), or writable again (``rw``)."""
    _run("mount", "-o", f"remount,{mode}", folder)


def fill(folder: Path) -> None:
    """Fill a file system to its last byte, by a file named ``filler``."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass


@dataclass(frozen=True, slots=True)
class Disk:
    """An ext4 file system in a file, mounted on ``folder`` from the loop device ``device``."""

    folder: Path
    device: str

    def cut(self) -> None:
        """Cut the power: what was not flushed is lost, and whoever goes on writing gets EIO."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NOLOGFLUSH))
        finally:
            os.close(descriptor)

    def start_again(self) -> None:
        """Mount the disk again as a machine does that starts again: the journal is replayed."""
        _unmount(self.folder)
        _run("mount", self.device, self.folder)


@contextlib.contextmanager
def ext4_disk(folder: Path) -> Iterator[Disk]:
    """Make a disk and mount it on a new folder; at the end it is unmounted, detached and gone, whatever happened."""
    image = folder.with_name(f"{folder.name}.image")
    with contextlib.ExitStack() as undo:
        image.touch()
        undo.callback(image.unlink)
        os.truncate(image, _DISK_BYTES)
        _run("mkfs.ext4", "-q", image)
        device = _run("losetup", "--find", "--show", image)
        undo.callback(_run, "losetup", "--detach", device)
        folder.mkdir(exist_ok=True)
        _run("mount", device, folder)
        undo.callback(_unmount, folder)
        yield Disk(folder, device)


@contextlib.contextmanager
def _disk_that_was_cut(folder: Path) -> Iterator[None]:
    with ext4_disk(folder / "disk") as disk:
        disk.cut()
        disk.start_again()
        yield


def _why_not(mounted: Callable[[], AbstractContextManager[object]]) -> str:
    if os.geteuid() != 0:
        return "mounting needs root"
    try:
        with mounted():
            return ""
    except OSError as error:
        return str(error)


def _unmount(folder: Path) -> None:
    try:
        _run("umount", folder)
    except OSError:
        # Something still holds a file there: take it out of sight now, and let go of it when that ends.
        _run("umount", "--lazy", folder)


def _run(*command: str | Path) -> str:
    """Run a system command and give what it says; OSError when it fails or is not there."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_LONGEST_COMMAND_SECONDS, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.strip() or done.returncode}")
    return done.stdout.strip()
