"""What an open usage log has whatever its format: bytes that are the same in every pass, and a count of its rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Final, TypeVar

from uploader.content import Content

_Log = TypeVar("_Log", bound="OpenLog")

BATCH_ROWS = 1000
"""Rows that are handed on together, at the most."""


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
