"""``python -m tests.benchmark``: measures, prints Markdown tables, and writes them as JSON; see docs/benchmark.md."""

from __future__ import annotations

import compileall
import json
import shutil
import signal
import sys
import tempfile
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import click

from tests.benchmark.bench import Bench
from tests.benchmark.machine import commit, describe
from tests.benchmark.parts import growth, latency, memory, pacing, profile, start, throughput, validation
from tests.benchmark.scale import DEFAULT, FULL, QUICK, Scale
from tests.benchmark.setup import BUILD
from tests.benchmark.table import Row, Section, UnmeasuredError, markdown, write_into


class _Part(Protocol):
    """A module of ``parts``."""

    NAME: str
    TITLE: str

    def measure(self, bench: Bench) -> Section:
        """Measure it."""


_PARTS: dict[str, _Part] = {
    part.NAME: part for part in (throughput, latency, memory, growth, validation, start, pacing, profile)
}
_PACKAGE = Path(__file__).parents[2] / "uploader"
_DOCS = Path(__file__).parents[2] / "docs" / "benchmark.md"
_SCALE_BY_FORM = {scale.form: scale for scale in (QUICK, DEFAULT, FULL)}


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(_PARTS)), help="Measure this part; may be repeated.")
@click.option("--quick", "form", flag_value="quick", help="Small sizes, one round: does it all run?")
@click.option("--full", "form", flag_value="full", help="Also the sizes that take long, up to 10,000,000 rows.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all figures there, as JSON.")
@click.option("--docs", is_flag=True, help=f"Put the tables into {_DOCS.parent.name}/{_DOCS.name}.")
def main(only: tuple[str, ...], form: str | None, json_path: Path | None, *, docs: bool) -> None:
    """Measure the uploader beside what others make of the same server. Nothing but this machine is called."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that servers are ended and folders removed
    scale = _SCALE_BY_FORM[form or DEFAULT.form]
    compileall.compile_dir(_PACKAGE, quiet=1)  # as an installer does: with PYTHONDONTWRITEBYTECODE no run would
    BUILD.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="work-", dir=BUILD))
    report = _Report(scale.form, json_path=json_path, is_for_docs=docs)
    try:
        report.take_machine(describe(folder))
        for name in only or _PARTS:
            report.take(_measured(name, scale, folder))
    finally:
        shutil.rmtree(folder)


class _Report:
    """What is known so far; printed and written part by part, so that an interrupted run is not lost."""

    def __init__(self, form: str, *, json_path: Path | None, is_for_docs: bool) -> None:
        self._told: dict[str, Any] = {"form": form, "sections": []}
        self._stamp = f"The {form} form, {datetime.now(timezone.utc):%Y-%m-%d}, commit {commit()}."
        self._json_path = json_path
        self._is_for_docs = is_for_docs

    def take_machine(self, machine: dict[str, str]) -> None:
        self._told["machine"] = machine
        text = "\n".join(f"- {what}: {value}" for what, value in machine.items())
        self._show("machine", "The machine", f"{self._stamp}\n\n{text}")

    def take(self, section: Section) -> None:
        self._told["sections"].append(asdict(section))
        self._show(section.name, section.title, f"{self._stamp}\n\n{markdown(section)}")

    def _show(self, name: str, title: str, text: str) -> None:
        click.echo(f"\n## {title}\n\n{text}")
        if self._json_path:
            self._json_path.write_text(json.dumps(self._told, indent=1, ensure_ascii=False) + "\n", "utf-8")
        if self._is_for_docs:
            write_into(_DOCS, {name: text})


def _measured(name: str, scale: Scale, folder: Path) -> Section:
    part = _PARTS[name]
    own = folder / name
    own.mkdir()
    bench = Bench(scale=scale, folder=own, say=partial(_say, name))
    try:
        return part.measure(bench)
    except UnmeasuredError as error:
        return Section(name=name, title=part.TITLE, rows=[Row(what=part.TITLE, value="not measured", note=str(error))])
    finally:
        shutil.rmtree(own)


def _say(name: str, what: str) -> None:
    click.echo(f"{datetime.now(timezone.utc):%H:%M:%S} {name}: {what}", err=True)


if __name__ == "__main__":
    main()
