"""Faults injected into system calls by strace (its manual page, section "Tampering")."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


def why_not_traced() -> str:
    """Say why no process can be traced here; empty when one can."""
    if shutil.which("strace") is None:
        return "there is no strace"
    tried = subprocess.run(["strace", "-qq", "-e", "trace=none", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() if tried.returncode else ""


@dataclass(frozen=True, slots=True)
class Strace:
    """Spells the command lines that run a program under strace; each is put before the program's own."""

    def killing(self, call: str, *, when: str, path: Path | None = None) -> tuple[str, ...]:
        """Kill the program as it is about to make the system call for the ``when``-th time."""
        return self._injecting(call, f"signal=KILL:when={when}", path)

    def failing(self, call: str, *, error: str, when: str, path: Path | None = None) -> tuple[str, ...]:
        """Have the system call fail; ``when`` is ``3`` for the third time alone, ``3+`` from the third on."""
        return self._injecting(call, f"error={error}:when={when}", path)

    def _injecting(self, call: str, fault: str, path: Path | None) -> tuple[str, ...]:
        only = ("-P", str(path)) if path else ()
        filters = ("-e", f"trace={call}", "-e", f"inject={call}:{fault}")
        return ("strace", "-f", "-qq", "-o", "/dev/null", *only, *filters)
