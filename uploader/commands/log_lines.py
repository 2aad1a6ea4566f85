"""What a log keeps of a command that nobody watches: one line a note on standard error, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from uploader.model.notes import LOGGING_LEVEL_BY_LEVEL, Note
from uploader.posting.progress import Progress

_SECONDS_BETWEEN_COUNTS = 60.0


class LogLines:
    """Writes a command's notes as log lines, and the counts once a minute.

    The lines pass through `logging` as those of the logger ``uploader``, so that what libraries warn of has their form.
    """

    def __init__(self, form: str) -> None:
        self._handler = _StandardError()
        self._handler.setFormatter(_JsonLine() if form == "json" else _TextLine())
        self._log = logging.getLogger("uploader")
        self._log.setLevel(logging.INFO)
        logging.getLogger().addHandler(self._handler)
        self._path: Path | None = None
        self._next_counts_seconds = 0.0

    def begin(self, path: Path, _progress: Progress) -> None:
        """Turn to the next file."""
        self._path = path
        self._next_counts_seconds = time.monotonic() + _SECONDS_BETWEEN_COUNTS

    def watch(self, progress: Progress) -> None:
        """Write the counts as they are now, once a minute; cheap enough to be called all the time."""
        now_seconds = time.monotonic()
        if now_seconds >= self._next_counts_seconds:
            self._next_counts_seconds = now_seconds + _SECONDS_BETWEEN_COUNTS
            text = f"{progress.settled:,} of {progress.rows:,} rows settled"
            self.say(Note(text, "progress", path=self._path, counts=_by_name(progress)))

    def say(self, note: Note) -> None:
        """Write a note."""
        self._log.log(LOGGING_LEVEL_BY_LEVEL[note.level], note.sentence, extra={"note": note})

    def end(self) -> None:
        """Write no more."""
        logging.getLogger().removeHandler(self._handler)


def _by_name(progress: Progress) -> dict[str, int]:
    return {
        "rows": progress.rows,
        "settled": progress.settled,
        "accepted": progress.accepted,
        "failed": progress.failed,
        "in_doubt": progress.in_doubt,
        "look_ups": progress.look_ups,
        "posts": progress.posts,
        "retries": progress.retries,
    }


class _StandardError(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        # It is None when the caller closed it; and when no one reads any more, the rows are worth going on.
        if sys.stderr is not None:
            try:
                sys.stderr.write(line + "\n")
                sys.stderr.flush()
            except OSError:
                pass


class _TextLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = "\\n".join(record.getMessage().splitlines())
        return f"{_moment(record, timespec='seconds')} {record.levelname} {text}"


class _JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        note = getattr(record, "note", None) or Note(record.getMessage(), record.name)
        line: dict[str, Any] = {
            "time": _moment(record, timespec="milliseconds"),
            "level": record.levelname,
            "event": note.event,
            "message": note.text,
        }
        if note.path is not None:
            line["file"] = str(note.path)
        if note.run_id:
            line["run"] = note.run_id
        if note.counts:
            line["counts"] = dict(note.counts)
        return json.dumps(line | dict(note.facts))


def _moment(record: logging.LogRecord, *, timespec: str) -> str:
    moment = datetime.fromtimestamp(record.created, timezone.utc)
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")
