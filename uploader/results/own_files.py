"""A results or failed file that comes back, perhaps saved by a spreadsheet: told from other files, and opened."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from uploader.model.errors import InputError
from uploader.model.shell import as_argument
from uploader.readers.readers import UsageLog, open_usage_log, open_workbook

_NEEDED_COLUMNS = ("upload_row", "upload_status", "upload_reason", "upload_replay", "upload_event_id", "upload_run")
_DELIMITERS = (",", ";", "\t", "|")
_OTHER_WORKBOOKS = frozenset({".ods", ".xls", ".xlsb", ".xlsm"})
_BETWEEN_COLUMNS = re.compile(rb'upload_row"?([\x01-\x7f])"?upload_status')
_LONGEST_HEADER_BYTES = 1 << 20


def demand_own_columns(log: UsageLog) -> None:
    """Refuse a file that is no results or failed file.

    Raises:
        InputError: our columns are not there.
    """
    missing = [column for column in _NEEDED_COLUMNS if column not in log.columns]
    if not missing:
        return
    remedy = "put its upload_... columns back as they were, each under its own name: they say whose row each is"
    if len(missing) == len(_NEEDED_COLUMNS):
        remedy = (
            f"if it was one, {remedy}, and uploaded as a new log, rows in doubt could be billed twice; "
            f"a log of new usage alone: uploader upload {as_argument(log.path)}"
        )
    raise InputError(
        f"{log.path}: no column named {missing[0]!r}, so it is not a results or failed file", remedy=remedy
    )


def open_own_file(path: Path, *, delimiter: str | None) -> UsageLog:
    """Open a file that a spreadsheet may have saved with another delimiter, as it does in many countries.

    Raises:
        InputError: the file cannot be taken as it is.
    """
    if path.suffix.lower() == ".xlsx":
        return open_workbook(path)
    if path.suffix.lower() in _OTHER_WORKBOOKS:
        raise InputError(f"{path} is a workbook of another kind", remedy="save it as .xlsx, or as CSV UTF-8")
    for choice in (*filter(None, [delimiter]), None, *_delimiters_in(path)):
        with contextlib.suppress(InputError):
            log = open_usage_log(path, delimiter=choice)
            if "upload_row" in log.columns:
                return log
            log.close()
    return open_usage_log(path, delimiter=delimiter)  # which says what is wrong with it, or else ReplayLog does


def _delimiters_in(path: Path) -> tuple[str, ...]:
    """Find the character between two of our columns; else give those that spreadsheets use."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        found = _BETWEEN_COLUMNS.search(file.readline(_LONGEST_HEADER_BYTES))
        if found:
            return (found[1].decode("latin-1"), *_DELIMITERS)
    return _DELIMITERS
