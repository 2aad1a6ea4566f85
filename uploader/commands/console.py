"""What a person sees: progress while it runs, a summary at the end. The only file that knows `rich`.

Progress and sentences go to a terminal's standard error (log_lines.py has what a log keeps), the summary to standard
output. `rich` takes 0.1 s to import, and most runs have no terminal: it is imported for one that has.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from uploader.model.model import REPLAY_BY_REASON, Reason, Replay
from uploader.model.notes import Note
from uploader.model.shell import as_argument
from uploader.posting.file_report import FileReport, complaint_about
from uploader.posting.progress import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

_TOLD_OTHERWISE = frozenset(
    {"file_begun", "file_read", "posting_begun", "results_written", "file_ended", "command_ended"}
)
"""Events that a person sees from the bar and the summary."""


class Display:
    """Shows a command's progress to a person at a terminal."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 -- heavy, see the top

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Bar | None = None
        self._task: TaskID
        self._begun_seconds = 0.0
        self._settled_before = 0

    def begin(self, path: Path, progress: Progress) -> None:
        """Turn to the next file."""
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn  # noqa: PLC0415 -- heavy, see the top
        from rich.progress import Progress as Bar  # noqa: PLC0415 -- likewise
        from rich.table import Column  # noqa: PLC0415 -- likewise

        self.end()
        self._begun_seconds = time.monotonic()
        self._settled_before = progress.settled
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),  # a file's name is not to be read as rich's tags
            BarColumn(bar_width=None),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TimeRemainingColumn(compact=True, table_column=Column(min_width=5, no_wrap=True)),
            TextColumn("{task.fields[counts]}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(path.name, total=progress.rows, counts="")
        self._bar.start()

    def watch(self, progress: Progress) -> None:
        """Show the counts as they are now; cheap enough to be called all the time."""
        if self._bar is None:
            return
        rate = (progress.settled - self._settled_before) / max(time.monotonic() - self._begun_seconds, 0.001)
        tallies = (
            f"{progress.accepted:,} accepted, {progress.failed:,} failed, {progress.in_doubt:,} in doubt, "
            f"{rate:,.0f} rows/s"
        )
        self._bar.update(self._task, completed=progress.settled, counts=tallies)

    def say(self, note: Note) -> None:
        """Print what neither the bar nor the summary tells."""
        if note.event not in _TOLD_OTHERWISE:
            with contextlib.suppress(OSError):  # no one reads any more, and the rows are worth going on
                self._console.print(note.sentence, markup=False)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            with contextlib.suppress(OSError):  # the terminal was closed
                self._bar.stop()
            self._bar = None


def summary(reports: Sequence[FileReport], *, replay_options: str | None) -> str:
    """Sum up a command: of each file the counts, the units, where the results are, and what to run next; then of all.

    replay_options: what a replay must be given too, such as ``--ledger``; None when there can be no replay.
    """
    texts = [_file_summary(report, replay_options=replay_options) for report in reports]
    return "\n".join([*texts, _summary_of_all(reports)] if len(reports) > 1 else texts)


def _summary_of_all(reports: Sequence[FileReport]) -> str:
    entries = [(reason, entry) for report in reports for reason, entry in report.entry_by_reason.items()]
    rows, units = sum(entry.rows for _, entry in entries), sum(entry.units for _, entry in entries)
    accepted = [entry for reason, entry in entries if reason is None]
    accepted_rows, accepted_units = sum(entry.rows for entry in accepted), sum(entry.units for entry in accepted)
    not_done = sum(report.error is not None for report in reports)
    return (
        f"all {len(reports):,} files: {accepted_rows:,} of {rows:,} rows accepted ({accepted_units:,} of {units:,} "
        f"units), {rows - accepted_rows:,} failed" + (f"; {not_done:,} not done, see above" if not_done else "")
    )


def _file_summary(report: FileReport, *, replay_options: str | None) -> str:
    if report.error is not None:
        return f"{report.path}: {complaint_about(report.path, report.error)}"
    accepted = report.rows - report.failed_rows
    rate = f", {report.posts / report.seconds:,.0f} rows/s" if report.posts and report.seconds else ""
    calls = f"{report.posts:,} posts and {report.look_ups:,} look-ups in {report.seconds:,.1f} s{rate}"
    lines = [f"{report.path}: {accepted:,} of {report.rows:,} rows accepted, {report.failed_rows:,} failed ({calls})"]
    lines += _table(report)
    if report.rows_posted_otherwise:
        lines.append(
            f"  of the accepted, {report.rows_posted_otherwise:,} were posted with other values than these: "
            f"uploader runs show {report.run_id}"
        )
    if report.stop:
        lines.append(f"  stopped early: {report.stop}")
    if report.names is not None:
        lines.append(f"  results: {report.names.results}")
        if report.failed_rows:
            lines.append(f"  failed:  {report.names.failed}")
    lines += [f"  next:    {step}" for step in next_steps(report, replay_options=replay_options)]
    return "\n".join(lines)


def _table(report: FileReport) -> list[str]:
    cells = [(_name(reason), f"{entry.rows:,}", f"{entry.units:,}") for reason, entry in report.entry_by_reason.items()]
    widths = [max((len(line[at]) for line in cells), default=0) for at in range(3)]
    return [
        f"  {name:<{widths[0]}}  {rows:>{widths[1]}} rows  {units:>{widths[2]}} units" for name, rows, units in cells
    ]


def _name(reason: Reason | None) -> str:
    return "accepted" if reason is None else f"failed, {reason.value} ({REPLAY_BY_REASON[reason].value})"


def next_steps(report: FileReport, *, replay_options: str | None) -> list[str]:
    """Say what to run: the same command again, or a replay once a person has done their part."""
    if report.names is None or replay_options is None:
        return []
    if 0 < report.failed_rows == report.rows_of_no_run:
        if not report.rows_elsewhere:
            return ["nothing: no row of the run is left to send; what failed is none of its rows, see upload_detail"]
        return ["put upload_row and upload_event_id back as they were, or take the file that this one was made of"]
    replays = {REPLAY_BY_REASON[reason] for reason in report.entry_by_reason if reason is not None}
    failed = as_argument(report.names.failed)
    replay = f"uploader replay {failed}{replay_options}"
    steps = []
    was_refused = report.stop and not report.is_over_budget and Reason.REJECTED in report.entry_by_reason
    if was_refused and Replay.YES not in replays:
        steps.append(f"once that is mended, run {_same_command(report)}: it sends the rows that were rejected again")
    if Replay.CONFIRM in replays:
        steps.append(
            "ask the backend's owners about the rows in doubt; write resend or recorded into their upload_replay"
        )
    if Replay.FIX in replays:
        steps.append(f"correct the rows marked fix (safest: uploader export {failed}), or set the backend up for them")
    if report.stop and Replay.YES in replays:
        first = (
            "correct and replay failed rows, or allow for more with --max-failed; then "
            if report.is_over_budget
            else ""
        )
        steps.append(f"{first}run {_same_command(report)}: it continues with the rows that were not sent")
    if replays and not (report.stop and replays == {Replay.YES}):
        steps.append(replay)
    return steps


def _same_command(report: FileReport) -> str:
    return "the same command without --again" if report.was_billed_again else "the same command again"
