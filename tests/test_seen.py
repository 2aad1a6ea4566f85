"""The sketches of what runs posted, while other runs end and move theirs."""

from __future__ import annotations

from pathlib import Path

from uploader.ledger.lock import holder
from uploader.ledger.seen import SeenRows
from uploader.model.identity import RunIdentity


def seen_by(folder: Path, content: str) -> SeenRows:
    """Give what the run of a content sees."""
    identity = RunIdentity(base_url="http://127.0.0.1/api/v1", period="", content_sha256=content)
    return SeenRows(folder, identity, event_id=None)


def test_a_sketch_that_is_moved_while_others_are_read_is_passed_over(tmp_path: Path) -> None:
    """Its run has ended just then; it is found among the earlier ones, which are read later."""
    log = tmp_path / "usage.csv"
    for content in ("a", "b"):
        seen_by(tmp_path / "ledger", content).events.keep(content.encode(), path=log, columns=[content])
    reader = seen_by(tmp_path / "ledger", "c")
    others = reader.events.last_at(log, columns=None)
    first, _ = next(others)
    runs = [run for run, _ in reader.events.last_at(log, columns=None)]
    seen_by(tmp_path / "ledger", "d").events.replace(log, of=runs)
    assert [*others] == []
    assert {run for run, _ in reader.events.replaced_at(log, columns=["c"])} == set(runs)
    assert first in runs


def test_the_sketches_of_a_place_are_changed_by_one_run_at_a_time(tmp_path: Path) -> None:
    """Else one would be written back to where another has just moved it from."""
    seen = seen_by(tmp_path / "ledger", "a")
    seen.events.keep(b"a", path=tmp_path / "usage.csv", columns=["a"])
    held: list[str] = []

    def changed(events: bytes) -> bytes:
        (lock,) = (tmp_path / "ledger" / "seen").glob("*/events.lock")
        held.append(holder(lock))
        return events + b"b"

    seen.events.change(changed)
    assert held == ["another process"]
    assert seen.events.own() == [b"ab"]
