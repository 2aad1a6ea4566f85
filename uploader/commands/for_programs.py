"""Upload and replay for programs: they return what came of it, and print nothing.

The options of the upload itself are named as on the command line, and mean the same; what is written for a reader
(``--summary``, ``--report``, the log) and what tries or sets up (``--dry-run``, ``--sandbox``, ``--config``) is the
command line's alone. ``safe_status`` is some numbers here. No variable ``UPLOADER_...`` is read but, where no ledger
is named, ``UPLOADER_LEDGER``. A file that could not be taken is in the summary with its error, beside the others; what
forbids the command as a whole is raised. Changes of the run's state are logged (``logging``, below ``uploader``). For
one thread at a time; no signal handler is set: an exception such as KeyboardInterrupt is like a crash, which leaves the
rows in flight in doubt, so have ``should_stop`` return True instead.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from uploader.model.configuration import default_ledger_folder
from uploader.model.errors import SettingsError
from uploader.model.mapping import ColumnMap
from uploader.model.notes import LOGGING_LEVEL_BY_LEVEL
from uploader.model.plan import Plan
from uploader.model.settings import (
    DEFAULT_BASE_URL,
    DEFAULT_PATIENCE_SECONDS,
    DEFAULT_RETRIES,
    DEFAULT_TIMEOUT_SECONDS,
    FailureBudget,
    Settings,
    parse_concurrency,
)
from uploader.posting.desk import Watcher
from uploader.posting.file_report import FileReport
from uploader.replays.judge import Permissions
from uploader.replays.replay_run import replay as _replay
from uploader.reports.summary import Summary, exit_code_of, summarize
from uploader.uploads.upload_run import upload as _upload

log = logging.getLogger(__name__)
logging.getLogger("uploader").addHandler(logging.NullHandler())  # else warnings were printed where nobody listens


def _never() -> bool:
    return False


def upload(
    files: Path | str | Sequence[Path | str],
    *,
    base_url: str = DEFAULT_BASE_URL,
    api_key: str | None = None,
    schema: Path | str | None = None,
    delimiter: str | None = None,
    column: Mapping[str, str] | None = None,
    constant: Mapping[str, str] | None = None,
    results: Path | str | None = None,
    results_dir: Path | str | None = None,
    ledger: Path | str | None = None,
    period: str = "",
    event_id: str | None = None,
    concurrency: int | str = "auto",
    max_rate: float | None = None,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    retries: int = DEFAULT_RETRIES,
    patience: float = DEFAULT_PATIENCE_SECONDS,
    safe_status: Iterable[int] = (),
    idempotency_header: str | None = None,
    max_failed: int | str | None = None,
    again: bool = False,
    allow_overlap: bool = False,
    should_stop: Callable[[], bool] = _never,
) -> Summary:
    """Post each row of one or more usage logs once, as ``uploader upload`` does.

    column:      the log's own name of a column, by the schema's.
    constant:    the text that stands in each row of a column that the log does not have, by the schema's name.
    concurrency: calls in flight at the most; ``auto`` finds out what the backend takes.
    max_rate:    posts started a second at the most; None for no cap.
    timeout:     seconds for each whole exchange.
    patience:    seconds of waiting in all for a backend in trouble.
    event_id:    the column of the log's own event ids; None to go by content and row number.
    safe_status: 5xx answers that, by your word, mean "not recorded".
    max_failed:  the failure budget of each file: rows, or a share such as ``"1%"``.
    should_stop: asked all the time; once it returns True no call is started, and those in flight are waited for.

    Raises:
        RefusedError: nothing was posted: an option, the schema, or the way to the backend is wrong.
    """
    paths = [Path(file) for file in ([files] if isinstance(files, (str, os.PathLike)) else files)]
    plan = Plan(
        settings=Settings(
            base_url=base_url,
            api_key=api_key,
            timeout_seconds=timeout,
            retries=retries,
            concurrency=parse_concurrency(str(concurrency)),
            max_rate=max_rate,
            patience_seconds=patience,
            safe_statuses=_statuses(safe_status),
            idempotency_header=idempotency_header,
        ),
        ledger_folder=default_ledger_folder() if ledger is None else Path(ledger),
        schema_path=_path(schema),
        delimiter=delimiter,
        mapping=_mapping(column, constant),
        results=_path(results),
        results_dir=_path(results_dir),
        period=period,
        event_id=event_id,
        max_failed=None if max_failed is None else FailureBudget.parse(str(max_failed)),
        again=again,
        allow_overlap=allow_overlap,
    )
    begun_at = datetime.now(timezone.utc)
    reports = _upload(paths, plan=plan, watcher=_watcher(should_stop))
    return _summary("upload", reports, plan, begun_at)


def replay(
    file: Path | str,
    *,
    base_url: str = DEFAULT_BASE_URL,
    api_key: str | None = None,
    schema: Path | str | None = None,
    delimiter: str | None = None,
    column: Mapping[str, str] | None = None,
    constant: Mapping[str, str] | None = None,
    results_dir: Path | str | None = None,
    ledger: Path | str | None = None,
    concurrency: int | str = "auto",
    max_rate: float | None = None,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    retries: int = DEFAULT_RETRIES,
    patience: float = DEFAULT_PATIENCE_SECONDS,
    safe_status: Iterable[int] = (),
    idempotency_header: str | None = None,
    include_in_doubt: bool = False,
    accept_changes: bool = False,
    allow_overlap: bool = False,
    without_ledger: bool = False,
    period: str = "",
    should_stop: Callable[[], bool] = _never,
) -> Summary:
    """Post the failed rows of a results or failed file again, as ``uploader replay`` does.

    include_in_doubt: post the rows in doubt once more: each may then be billed twice.
    accept_changes:   take cells that a spreadsheet seems to have changed as they are now, ids and usage.
    without_ledger:   adopt the file's run: the ledger of its upload is lost.
    period:           with ``without_ledger``: the label that the upload had.

    The other options are those of ``upload``.

    Raises:
        RefusedError: nothing was posted: an option, the schema, or the way to the backend is wrong.
    """
    plan = Plan(
        settings=Settings(
            base_url=base_url,
            api_key=api_key,
            timeout_seconds=timeout,
            retries=retries,
            concurrency=parse_concurrency(str(concurrency)),
            max_rate=max_rate,
            patience_seconds=patience,
            safe_statuses=_statuses(safe_status),
            idempotency_header=idempotency_header,
        ),
        ledger_folder=default_ledger_folder() if ledger is None else Path(ledger),
        schema_path=_path(schema),
        delimiter=delimiter,
        mapping=_mapping(column, constant),
        results_dir=_path(results_dir),
        period=period if without_ledger else "",
        allow_overlap=allow_overlap,
    )
    begun_at = datetime.now(timezone.utc)
    permissions = Permissions(
        include_in_doubt=include_in_doubt, accept_changes=accept_changes, without_ledger=without_ledger
    )
    report = _replay(Path(file), plan=plan, watcher=_watcher(should_stop), permissions=permissions)
    return _summary("replay", [report], plan, begun_at)


def _statuses(safe_status: object) -> frozenset[int]:
    if isinstance(safe_status, str) or not isinstance(safe_status, Iterable):
        raise SettingsError(f"safe_status {safe_status!r}: not some numbers", remedy="give them as in [500, 502]")
    return frozenset(safe_status)


def _mapping(column: Mapping[str, str] | None, constant: Mapping[str, str] | None) -> ColumnMap:
    pairs = [[f"{name}={value}" for name, value in (given or {}).items()] for given in (column, constant)]
    return ColumnMap.parse(*pairs)


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


def _watcher(should_stop: Callable[[], bool]) -> Watcher:
    return Watcher(
        begin=lambda _path, _progress: None,
        watch=lambda _progress: None,
        say=lambda note: log.log(LOGGING_LEVEL_BY_LEVEL[note.level], "%s", note.sentence),
        should_stop=should_stop,
    )


def _summary(command: str, reports: Sequence[FileReport], plan: Plan, begun_at: datetime) -> Summary:
    return summarize(
        reports,
        command=command,
        base_url=plan.settings.base_url,
        period=plan.period,
        begun_at=begun_at,
        exit_code=exit_code_of(reports),
    )
