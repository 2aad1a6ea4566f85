"""A replay without the upload's ledger: the run is adopted into this ledger, by the word of one of its own files.

Nobody can tell whether the file is the last word on its rows. So it is refused where something beside it says that it
is not, and a row that it does not have is never posted.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from uploader.ledger.adopted import AdoptedRow
from uploader.ledger.ledger import Ledger
from uploader.ledger.marker import mark_of
from uploader.ledger.overlap import RowSketches
from uploader.ledger.run_facts import accepted_in
from uploader.ledger.run_file import is_known
from uploader.ledger.seen import SeenRows
from uploader.model.errors import InputError, LedgerRefusal
from uploader.model.identity import RUN_ID, RunIdentity
from uploader.model.model import Outcome, Reason, Replay, RowState, Status, now_milliseconds
from uploader.model.notes import Level, Note
from uploader.model.plan import Plan
from uploader.replays.replay_log import ReplayEntry, ReplayLog
from uploader.results.books import Books
from uploader.results.own_files import open_own_file
from uploader.results.reservation import name_reserved_by
from uploader.schema.schema import RowCheck

_MOST_ROWS = 1_000_000_000
"""A row number beyond it is a slip: a replay keeps some bytes for each row up to the last."""
_UNCLEAR = "may have been recorded: upload_status, upload_reason and upload_replay do not agree on what became of it"
_OF_RESULTS = (".csv", ".tsv", ".parquet", ".pq", ".xlsx", ".gz", ".bz2", ".zst")
_HTTP_STATUS = re.compile("[1-5][0-9]{2}")
_REASONS = frozenset(reason.value for reason in Reason)


def adopt(log: ReplayLog, check: RowCheck, *, run_id: str, plan: Plan, say: Callable[[Note], None]) -> None:
    """Have the ledger know a run from a results or failed file of it, as posted to the plan's base URL.

    Raises:
        LedgerRefusal: the ledger knows the run, or the file is not the last word on its rows.
        InputError: a row does not say which it is.
    """
    folder = plan.ledger_folder
    _demand_unknown(log.path, run_id, folder)
    identity = RunIdentity(
        base_url=plan.settings.base_url,
        period=plan.period,
        content_sha256="",
        adopted_run_id=run_id,
        mapping=plan.mapping,
    )
    taken = _Taken(RowSketches(log.columns, mapping=plan.mapping, path=log.path))
    with Ledger(folder, identity) as ledger:
        with ledger.adopting() as adoption:
            for rows in _rows(log, check, taken):
                adoption.take(rows)
            _demand_last_word(log, run_id, ledger)
            totals = taken.books.totals()
            adoption.remember(
                {
                    "adopted": str(log.path.absolute()),
                    "path": str(log.path),
                    "rows": taken.books.rows_out,
                    "last_row": taken.last_row,
                    "compared_first": {},
                    "totals": totals,
                    "units_uploaded": accepted_in(totals)[1],
                    "started_milliseconds": now_milliseconds(),
                }
            )
        SeenRows(folder, identity, event_id=None).keep(taken.posted.to_bytes())
        history = ledger.history()
    text = (
        f"{taken.books.rows_out:,} rows of run {run_id} were adopted as they stand in it, "
        f"{history.accepted:,} accepted and {history.in_doubt:,} in doubt, posted to {identity.base_url}; from now on "
        "the original upload must not be continued, nor its files replayed, anywhere else: rows would be billed twice"
    )
    counts = {"rows": taken.books.rows_out, "accepted": history.accepted, "in_doubt": history.in_doubt}
    say(Note(text, "run_adopted", level=Level.WARNING, path=log.path, run_id=run_id, counts=counts))


@dataclass(slots=True)
class _Taken:
    """What was taken of a file: a sketch of the rows that may have been recorded, the books, the highest row."""

    posted: RowSketches
    books: Books = field(default_factory=Books)
    last_row: int = 0


def _demand_unknown(path: Path, run_id: str, folder: Path) -> None:
    if not RUN_ID.fullmatch(run_id):
        raise InputError(f"{path}: upload_run {run_id!r} is not the id of a run", remedy="put it back as it was")
    if is_known(folder, run_id):
        raise LedgerRefusal(
            f"run {run_id} is known to the ledger in {folder}, which is to be believed before any file",
            remedy="replay without --without-ledger",
        )
    left = mark_of(path.parent, run_id) or name_reserved_by(path.parent, run_id)
    if left is not None:
        raise LedgerRefusal(
            f"{left}: a command of run {run_id} has not finished, and may have posted rows since {path} was written",
            remedy="continue it with its own ledger; if that is lost, ask the backend's owners which of the rows they "
            "recorded, take those out of the file, and remove the mark and the .part files",
        )


def _rows(log: ReplayLog, check: RowCheck, taken: _Taken) -> Iterator[list[AdoptedRow]]:
    for claims in log.claims():
        rows = []
        for entry, own in claims:
            state = _claimed_state(entry, own)
            _demand_clear_row(log.path, entry)
            is_recorded = state.outcome.reason is None
            cells = None if is_recorded or entry.row.fault else check.stated(entry.row)
            rows.append(AdoptedRow(state=state, event_id=entry.event_id, cells=cells))
            taken.books.give_out(check.units(entry.row), state)
            taken.last_row = max(taken.last_row, entry.number)
            if state.outcome.may_be_recorded and not entry.row.fault:
                taken.posted.add_all([entry.row.cells])
        yield rows


def _demand_clear_row(path: Path, entry: ReplayEntry) -> None:
    if entry.number == 0:
        raise InputError(
            f"{path}: row {entry.row.number} of the file does not say whose row it is: {entry.row.fault}",
            remedy="put upload_row and upload_run back as they were, or take the row out of the file",
        )
    if not _is_uuid(entry.event_id) or entry.number > _MOST_ROWS:
        raise InputError(
            f"{path}: row {entry.row.number} of the file: upload_row {entry.number} or upload_event_id "
            f"{entry.event_id!r} is not one of ours",
            remedy="put both back as they were, or take the row out of the file",
        )


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _claimed_state(entry: ReplayEntry, own: Mapping[str, str]) -> RowState:
    """Take the file's word for what became of a row; where it contradicts itself, nobody knows."""
    status, reason = own.get("upload_status", "").lower(), own.get("upload_reason", "").lower()
    http_status = own.get("upload_http_status", "")
    outcome = Outcome(
        Reason.IN_DOUBT,
        own.get("upload_detail", ""),
        int(http_status) if _HTTP_STATUS.fullmatch(http_status) else None,
        own.get("upload_response", ""),
    )
    if status == Status.ACCEPTED.value and not reason:
        outcome = replace(outcome, reason=None)
    elif status != Status.FAILED.value or reason not in _allowed_reasons(entry.word):
        outcome = replace(outcome, detail=_UNCLEAR)
    else:
        outcome = replace(outcome, reason=Reason(reason))
    at_milliseconds = _milliseconds(own.get("upload_at", ""))
    return RowState(entry.number, outcome, entry.attempts, at_milliseconds, own.get("upload_customer_id", ""))


def _allowed_reasons(word: str) -> frozenset[str]:
    return _REASONS if word != Replay.CONFIRM.value else frozenset({Reason.IN_DOUBT.value})


def _milliseconds(moment: str) -> int:
    """Read ``upload_at``; 0 where a spreadsheet has made something else of it."""
    try:
        found = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    except ValueError:
        return 0
    return round(found.timestamp() * 1000) if found.tzinfo else 0


def _demand_last_word(log: ReplayLog, run_id: str, ledger: Ledger) -> None:
    """Refuse a file when results beside it are surer of one of its rows: what is known of a row only ever grows."""
    for path in sorted(log.path.parent.iterdir()):
        if path.name == log.path.name or not path.name.lower().endswith(_OF_RESULTS) or not path.is_file():
            continue
        for claims in _claims_of_run(path, run_id):
            adopted = ledger.known([entry.number for entry, _ in claims])
            for entry, own in claims:
                here, there = adopted.get(entry.number), _claimed_state(entry, own)
                if here is not None and _certainty(there) > _certainty(here):
                    raise LedgerRefusal(
                        f"{log.path} is not the last word on row {entry.number} of run {run_id}: it has it as "
                        f"{_named(here)}, and {path} as {_named(there)}",
                        remedy="replay the newest failed file",
                    )


def _claims_of_run(path: Path, run_id: str) -> Iterator[list[tuple[ReplayEntry, dict[str, str]]]]:
    try:
        source = open_own_file(path, delimiter=None)
    except InputError:
        return
    with source:
        try:
            log = ReplayLog(source)
        except InputError:
            return
        for claims in log.claims():
            if not any(entry.run_id == run_id for entry, _ in claims):
                return
            yield claims


def _certainty(state: RowState) -> tuple[int, int]:
    if state.outcome.reason is None:
        return 2, 0
    return (1, state.attempts) if state.outcome.reason is Reason.IN_DOUBT else (0, 0)


def _named(state: RowState) -> str:
    if state.outcome.reason is Reason.IN_DOUBT:
        return f"in doubt after {state.attempts} attempts"
    return "accepted" if state.outcome.reason is None else state.outcome.reason.value
