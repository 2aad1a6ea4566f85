"""What a folder is kept on: on a network file system locks and flushes are not to be trusted, and memory forgets."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

_OCTAL = re.compile(r"\\([0-7]{3})")
"""How the kernel writes blanks, line breaks and backslashes."""
_NETWORK_TYPES = frozenset(
    {
        "9p",
        "afpfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "fuse.ceph",
        "fuse.gcsfuse",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
        "smbfs",
        "webdav",
    }
)


_FLEETING_TYPES = frozenset({"overlay", "ramfs", "rootfs", "tmpfs"})


def network_file_system(folder: Path) -> str:
    """Name the network file system that an existing folder is on; empty when it is on a local one."""
    kind = _file_system(folder)
    return kind if kind in _NETWORK_TYPES else ""


def fleeting_file_system(folder: Path) -> str:
    """Name the file system that an existing folder is on, if a restart or a container's end may empty it."""
    kind = _file_system(folder)
    return kind if kind in _FLEETING_TYPES else ""


def _file_system(folder: Path) -> str:
    mounted = _mounts_of_linux() if sys.platform == "linux" else _mounts_of_macos()
    place = os.path.realpath(folder)
    around = [(point, kind) for point, kind in mounted if place == point or place.startswith(point.rstrip("/") + "/")]
    # max() gives the first of several on one point, and of those the last mounted is the one that is seen.
    return max(reversed(around), key=lambda mount: len(mount[0]), default=("", ""))[1]


def _mounts_of_linux() -> list[tuple[str, str]]:
    """Read mount points and types; proc_pid_mountinfo(5): the fifth field, and the first after the lone hyphen."""
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]:
        before, _, after = line.partition(" - ")
        point = _OCTAL.sub(lambda code: chr(int(code[1], 8)), before.split(" ")[4])
        mounts.append((point, after.split(" ")[0]))
    return mounts


def _mounts_of_macos() -> list[tuple[str, str]]:
    """Read ``mount``'s lines: ``SOURCE on POINT (TYPE, ...)``."""
    listed = subprocess.run(["/sbin/mount"], capture_output=True, text=True, check=True)
    lines = [line.partition(" on ")[2].rpartition(" (") for line in listed.stdout.splitlines()]
    return [(point, options.split(",")[0].rstrip(")")) for point, _, options in lines]
