"""The lock of a run, what it says of its holder, and the folder that it is in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from uploader.ledger.local_disk import network_file_system
from uploader.ledger.lock import Lock, holder
from uploader.model.errors import LedgerRefusal

_HOLD = "import sys, pathlib, time; from uploader.ledger.lock import Lock; lock = Lock(pathlib.Path(sys.argv[1])); "
_AND_SAY = "lock.say('on usage.csv: 5 of 9 rows'); print('held', flush=True); time.sleep(60)"


def test_a_lock_says_who_holds_it_until_its_process_is_killed(tmp_path: Path) -> None:
    """Others are refused with the holder's own words; after ``kill -9`` the lock is free and nobody is named."""
    path = tmp_path / "run.lock"
    with subprocess.Popen([sys.executable, "-c", _HOLD + _AND_SAY, path], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            words = f"process {process.pid} on usage.csv: 5 of 9 rows"
            assert holder(path) == words
            with pytest.raises(LedgerRefusal, match=words):
                Lock(path)
        finally:
            os.kill(process.pid, signal.SIGKILL)
    assert path.read_text().startswith(words)
    assert holder(path) == ""
    Lock(path).release()
    assert path.read_text() == ""


@pytest.mark.parametrize("text", ["", "nonsense", "process {} on usage.csv: 5 of 9 rows"])
def test_a_file_that_is_not_locked_names_nobody(tmp_path: Path, text: str) -> None:
    """Whatever a killed process left in it, and though another process, as in a container, has its number now."""
    path = tmp_path / "run.lock"
    assert holder(path) == ""
    path.write_text(text.format(os.getpid()))
    assert holder(path) == ""


def test_long_words_are_cut_and_still_one_line(tmp_path: Path) -> None:
    """However long a path is, the file holds one line of at most 4 KiB."""
    path = tmp_path / "run.lock"
    lock = Lock(path)
    lock.say("on " + "x" * 10_000)
    assert len(path.read_bytes()) == 4096
    assert holder(path).startswith(f"process {os.getpid()} on xxx")
    lock.say("short")
    assert path.read_text() == f"process {os.getpid()} short\n"
    lock.release()


def test_a_local_folder_is_on_no_network_file_system(tmp_path: Path) -> None:
    """Neither the tests' own folder nor the root is taken for one, also through a link."""
    (tmp_path / "link").symlink_to("/")
    assert {network_file_system(path) for path in (tmp_path, Path("/"), tmp_path / "link")} == {""}
