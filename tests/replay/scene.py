"""A scene to replay in: a usage log, its ledger and a backend, whose bill is the oracle.

After every command no event id was billed twice, every row that any results file has as accepted was billed (or a
person said so), and none was that the newest has as worth a try.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.billing_answers import Answer, Then, reply
from tests.billing_contract import Received, contract
from tests.billing_server import BillingServer
from uploader.model.errors import UploaderError
from uploader.model.notes import Level, Note
from uploader.model.plan import Plan
from uploader.model.settings import Settings
from uploader.posting.desk import Watcher
from uploader.posting.file_report import FileReport
from uploader.replays.judge import Permissions
from uploader.replays.replay_run import replay
from uploader.uploads.upload_run import upload

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 -- where an fsync costs nothing; a kill loses nothing there either
QUICK_FOLDER = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
HEADER = "tenant_id,device_id,meter_id,total_usage"
LOST = Answer(then=Then.FIN)
"""Billed, and the answer is lost."""
NEVER = Answer(then=Then.FIN, bills=False)
"""Not billed, and nobody is told."""
NOT_NOW = reply(408)
"""Certainly not billed."""
NO = reply(422, {"error": "no such meter"})
BEFORE = "accepted before this replay, which did not compare its cells"
WATCHER = Watcher(begin=lambda *_: None, watch=lambda _: None, say=lambda _: None, should_stop=lambda: False)
NO_PERMISSION = Permissions()
EVERY_PERMISSION = Permissions(include_in_doubt=True, accept_changes=True)
Rows = list[dict[str, str]]
Edit = Callable[[Rows], None]


class Scene:
    """A usage log, its ledger, and a backend that answers each device's posts from a list, rightly when it is used up.

    stop_after_posts: the run is told to stop once the server has received so many in all.
    warnings:         what runs warned of, but for their last words.
    """

    def __init__(self, folder: Path, server: BillingServer) -> None:
        self.folder = folder
        self.server = server
        self.server.respond = self._respond
        self.answers: dict[str, list[Answer]] = {}
        self.plan = Plan(
            settings=Settings(base_url=server.base_url, retries=0, concurrency=4), ledger_folder=folder / "ledger"
        )
        self.stop_after_posts: int | None = None
        self.warnings: list[str] = []
        self._results: list[Path] = []

    def _respond(self, received: Received) -> Answer:
        if received.method == "POST":
            queue = self.answers.get(received.headers["x-device-id"])
            if queue:
                return queue.pop(0)
        return contract(received)

    def log(self, *records: str, name: str = "usage.csv", header: str = HEADER) -> Path:
        """Write a usage log."""
        path = self.folder / name
        path.write_text("".join(f"{record}\n" for record in (header, *records)))
        return path

    def upload(self, path: Path) -> FileReport:
        """Upload a usage log."""
        (report,) = upload([path], plan=self.plan, watcher=self._watcher())
        return self._noted(report)

    def replay(self, path: Path, permissions: Permissions = NO_PERMISSION, *, plan: Plan | None = None) -> FileReport:
        """Replay one of our files; it must be taken."""
        return self._noted(replay(path, plan=plan or self.plan, watcher=self._watcher(), permissions=permissions))

    def refusal(self, path: Path, *, plan: Plan | None = None) -> UploaderError:
        """Replay one of our files, which must be refused with nothing posted and nothing written."""
        before, posts = sorted(self.folder.iterdir()), len(self.server.posts)
        report = replay(path, plan=plan or self.plan, watcher=self._watcher(), permissions=NO_PERMISSION)
        assert report.error is not None
        assert len(self.server.posts) == posts
        assert sorted(self.folder.iterdir()) == before
        return report.error

    def _watcher(self) -> Watcher:
        return Watcher(begin=lambda *_: None, watch=lambda _: None, say=self._hear, should_stop=self._should_stop)

    def _hear(self, note: Note) -> None:
        if note.level is Level.WARNING and note.event != "file_ended":
            self.warnings.append(note.text)

    def _should_stop(self) -> bool:
        return self.stop_after_posts is not None and len(self.server.posts) >= self.stop_after_posts

    def _noted(self, report: FileReport) -> FileReport:
        if report.error is not None:
            raise report.error
        assert report.names is not None
        self._results.append(report.names.results)
        self.check()
        return report

    def posted(self) -> list[tuple[str, str, str, int]]:
        """List what was posted so far."""
        return [tuple(received.billed_row) for received in self.server.posts]  # type: ignore[misc] # a NamedTuple

    def posts_of(self, device_id: str) -> int:
        """Count the posts of a device."""
        return sum(received.headers["x-device-id"] == device_id for received in self.server.posts)

    def mark(self, rows: Rows) -> None:
        """Mark the rows in doubt as somebody does who can look into the backend's books."""
        billed = self.server.billed_by("x-request-id")
        for row in rows:
            if row["upload_replay"] == "confirm":
                row["upload_replay"] = "recorded" if billed[row["upload_event_id"]] else "resend"

    def settle(self, log: Path) -> FileReport:
        """Do, with a sound backend, what an operator does to the end; every row must then be accepted."""
        self.stop_after_posts = None
        self.answers = {}
        report = self.upload(log)
        if report.failed_rows:
            write_in = {"tenant_id": "acme", "device_id": "d5", "meter_id": "api", "total_usage": "5"}
            marked = edited(failed_file(report), self.mark)
            malformed = [{**row, **write_in} if row["upload_reason"] == "malformed" else row for row in read(marked)]
            assert self.replay(save(marked, malformed)).failed_rows == 0
            report = self.upload(log)
        assert report.failed_rows == 0
        return report

    def check(self) -> None:
        """Hold every results file against the bill."""
        billed = self.server.billed_by("x-request-id")
        assert [event_id for event_id, count in billed.items() if count > 1] == []
        for path in self._results:
            if not path.exists():
                continue
            for row in read(path):
                if row["upload_status"] == "accepted":
                    assert billed[row["upload_event_id"]] or row["upload_detail"] == "recorded, by a person's word", row
                elif row["upload_replay"] in ("yes", "fix") and path == self._results[-1]:
                    assert not billed[row["upload_event_id"]], f"billed, and said to be safe to send again: {row}"


def read(path: Path) -> Rows:
    """Read one of our files, every cell as text."""
    if path.suffix == ".parquet":
        return [
            {name: "" if cell is None else str(cell) for name, cell in row.items()}
            for row in pq.read_table(path).to_pylist()
        ]
    text = path.read_bytes().decode("utf-8-sig")
    found = re.search('upload_row"?([^"])"?upload_status', text)
    assert found
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=found[1]))


def save(path: Path, rows: Rows, **dialect: Any) -> Path:
    """Save rows under a name, as CSV."""
    bom = dialect.pop("bom", "")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), **{"lineterminator": "\n", **dialect})
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes((bom + text.getvalue()).encode())
    return path


def setting(**cells_of_all: str) -> Edit:
    """Set some cells in all rows."""

    def edit(rows: Rows) -> None:
        for row in rows:
            row.update(cells_of_all)

    return edit


def edited(path: Path, *edits: Edit) -> Path:
    """Save one of our files under another name, as a person edited it."""
    rows = read(path)
    for edit in edits:
        edit(rows)
    return save(path.with_name(f"edited {path.stem}.csv"), rows)


def of(rows: Rows, device_id: str) -> dict[str, str]:
    """Find a device's only row."""
    (row,) = (row for row in rows if row["device_id"] == device_id)
    return row


def cells(path: Path, column: str) -> list[str]:
    """Read one column."""
    return [row[column] for row in read(path)]


def failed_file(report: FileReport) -> Path:
    """Give the failed file of a run."""
    assert report.names is not None
    return report.names.failed


def results_file(report: FileReport) -> Path:
    """Give the results file of a run."""
    assert report.names is not None
    return report.names.results


any_permissions = pytest.mark.parametrize("permissions", [NO_PERMISSION, EVERY_PERMISSION], ids=["none", "all"])
whichever = pytest.mark.parametrize("whichever", [results_file, failed_file])
FILE = Callable[[FileReport], Path]
