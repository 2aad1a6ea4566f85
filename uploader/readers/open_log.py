"""What an open usage log has whatever its format: what its results are made from, bytes that stay the same, a count."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Protocol, TypeVar

from uploader.model.model import Row
from uploader.readers.content import Content

_Log = TypeVar("_Log", bound="OpenLog")

BATCH_ROWS = 1000
"""Rows that are handed on together, at the most."""


class Log(Protocol):
    """What results are named and written after: a usage log, or the part of a results or failed file that was one."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def kind(self) -> Literal["csv", "parquet"]:
        """The format of its results, and so the file's own; of a workbook CSV."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The column names, as they stand."""

    @property
    def header_text(self) -> str:
        """The header as a CSV record, as it stood, without byte order mark and line end."""

    @property
    def delimiter(self) -> str:
        """The character between cells; a comma for Parquet."""

    @property
    def line_end(self) -> str:
        """LF or CRLF, as the header ends; LF for Parquet."""

    @property
    def has_bom(self) -> bool:
        """Whether the file begins with a byte order mark."""

    @property
    def size_bytes(self) -> int:
        """Of the file as it was opened, compressed if it is."""

    def record_text(self, row: Row) -> str:
        """Give the row as a CSV record in the log's own dialect, without line end."""


class OpenLog:
    """The file of a usage log, open; a pass that has come to its end sets ``_row_count``."""

    def __init__(self, content: Content) -> None:
        self.path: Final = content.path
        self._content = content
        self._row_count: int | None = None

    @property
    def content_sha256(self) -> str:
        """Hex digest of the decompressed content; ``RuntimeError`` before the first complete pass."""
        return self._content.sha256

    @property
    def size_bytes(self) -> int:
        """Of the file as it was opened, compressed if it is."""
        return self._content.size_bytes

    @property
    def row_count(self) -> int:
        """Rows, malformed ones included; ``RuntimeError`` before the first complete pass."""
        if self._row_count is None:
            raise RuntimeError(f"{self.path}: the number of rows is known after the first complete pass")
        return self._row_count

    @contextlib.contextmanager
    def _closed_on_failure(self) -> Iterator[None]:
        """Close the file should its header not be taken."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def as_text(self, row: Row) -> Row:
        """Give the row itself: its cells are text, but for Parquet's."""
        return row

    def close(self) -> None:
        """Close the file."""
        self._content.close()

    def __enter__(self: _Log) -> _Log:  # noqa: PYI019 -- typing.Self is Python 3.11's
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
