"""TAB completes commands, options and file names, as docs/shell-completion.md says."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
from collections.abc import Callable

import pytest

from tests.command import COMMAND, Home, usage_rows, write_csv

PROMPT = b"READY> "
BASH = shutil.which("bash")


def _words(home: Home, shell: str, line: str) -> dict[str, str]:
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1), "_UPLOADER_COMPLETE": f"{shell}_complete"}
    if shell == "fish":
        words["COMP_CWORD"] = line.rsplit(maxsplit=1)[-1]
    return home.environment(words)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "found"),
    [("uploader up", "upload"), ("uploader upload --max", "--max-failed"), ("uploader upload us", "file")],
    ids=["command", "option", "file"],
)
def test_every_shell_is_told_what_fits(home: Home, shell: str, line: str, found: str) -> None:
    """A command, an option, or that a file name belongs there, in the form that the shell's script reads."""
    done = subprocess.run(
        [COMMAND], env=_words(home, shell, line), capture_output=True, text=True, timeout=60, check=False
    )
    assert found in re.split(r"[,\s]", done.stdout), done


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_every_shell_is_one(home: Home, shell: str) -> None:
    """It names the command; a shell that is here also finds nothing wrong with it."""
    environment = home.environment({"_UPLOADER_COMPLETE": f"{shell}_source"})
    done = subprocess.run([COMMAND], env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert "_UPLOADER_COMPLETE=" + f"{shell}_complete" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, timeout=60, check=True)


def _reader(terminal: int) -> Callable[[bytes], bytes]:
    def read_until(end: bytes) -> bytes:
        read = b""
        while end not in read:
            read += os.read(terminal, 10_000)
        return read

    return read_until


@pytest.mark.skipif(BASH is None, reason="no bash here")
def test_tab_completes_in_a_bash(home: Home) -> None:
    """`uploader val<TAB> usa<TAB>` at a real prompt checks usage.csv."""
    write_csv(home.folder / "usage.csv", usage_rows(3))
    ours, theirs = pty.openpty()
    environment = home.environment({"PATH": f"{COMMAND.parent}:{os.environ['PATH']}", "TERM": "dumb"})
    with subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        cwd=home.folder,
        env=environment | {"PS1": PROMPT.decode()},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as bash:
        os.close(theirs)
        try:
            read_until = _reader(ours)
            read_until(PROMPT)
            os.write(ours, b'eval "$(_UPLOADER_COMPLETE=bash_source uploader)"\n')
            read_until(PROMPT)
            os.write(ours, b"uploader val\tusa\t\n")
            shown = read_until(b"units")
        finally:
            bash.kill()
            os.close(ours)
    assert b"usage.csv: 3 of 3 rows would be posted" in shown
