"""The report of a file whose run came to its end, of an upload and of a replay alike."""

from __future__ import annotations

import time
from datetime import datetime

from uploader.books import Books
from uploader.errors import UploaderError
from uploader.file_report import FileReport
from uploader.ledger import Ledger
from uploader.mapping import ColumnMap
from uploader.progress import Progress
from uploader.readers import UsageLog
from uploader.reservation import Reservation


def report_of_run(
    log: UsageLog,
    ledger: Ledger,
    reservation: Reservation,
    books: Books,
    progress: Progress,
    *,
    begun_at: datetime,
    started_seconds: float,
    mapping: ColumnMap,
    stop: str,
    imbalance: UploaderError | None,
) -> FileReport:
    """Report a file whose results are durable.

    started_seconds: the reading of ``time.monotonic`` at ``begun_at``.
    """
    return FileReport(
        path=log.path,
        run_id=ledger.identity.run_id,
        names=reservation.names,
        entry_by_reason=books.entry_by_reason(),
        posts=progress.posts,
        look_ups=progress.look_ups,
        content_sha256=log.content_sha256,
        ledger=ledger.path,
        accounts=books.accounts(),
        timings=progress.timings,
        begun_at=begun_at,
        seconds=time.monotonic() - started_seconds,
        mapping=mapping,
        stop=stop,
        is_over_budget=bool(progress.stop),
        was_billed_again=ledger.identity.again > 0,
        error=imbalance,
    )
