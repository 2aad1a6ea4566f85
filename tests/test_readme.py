"""The README tells the truth: its commands run, and print what it says they print."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from uploader.cli import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
_BIN = Path(sys.executable).parent


def _without_what_varies(text: str) -> str:
    text = re.sub(r"[0-9.]+ s, [0-9,]+ rows/s", "N s, N rows/s", text)
    return re.sub(r"/\S*/uploader-sandbox-\w+/", "/FOLDER/", text)


def test_main_command_prints_what_the_readme_shows() -> None:
    """The README's first command uploads the sample to the sandbox and prints the text below it."""
    command, shown = re.findall(r"```(?:sh|text)\n(.*?)```", README, re.DOTALL)[:2]
    arguments = shlex.split(command.split(" && ")[-1])
    assert arguments[0] == ".venv/bin/uploader"
    done = subprocess.run(
        [_BIN / "uploader", *arguments[1:]], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert _without_what_varies(done.stdout) == _without_what_varies(shown)


def test_ci_runs_the_readme_test_command() -> None:
    """The second command of the README is the one line that CI finds in it by the word pytest."""
    command = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)[1]
    assert "\n" not in command
    assert next(line for line in README.splitlines() if "pytest" in line) == command
    assert "grep -m1 'pytest' README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("command", sorted({*re.findall(r"\buploader (\w+)", README)} & {*cli.commands}))
def test_commands_of_the_readme_exist(command: str) -> None:
    """Every uploader command that the README shows has a help page with an example of it."""
    done = subprocess.run(
        [_BIN / "uploader", command, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert f"uploader {command} " in done.stdout.partition("Example")[2]


def test_readme_length() -> None:
    """The README stays between 80 and 200 lines."""
    assert 80 <= len(README.splitlines()) <= 200
