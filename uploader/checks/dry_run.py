"""An upload that stops short of posting: every guard, check and look-up, and what would become of each row.

The look-ups go through the upload's own posting, with a book of customers that never tells a customer's id. A row whose
customer was found is settled there and then, and without an id no post can be made.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from uploader.checks.dry_events import dry_events
from uploader.ledger.glance import Glance
from uploader.ledger.ledger import Sending
from uploader.ledger.ledger_folder import try_ledger_folder
from uploader.ledger.overlap import RowSketches
from uploader.ledger.run_file import remembered
from uploader.ledger.seen import COMPARED_WITH_NONE, SeenRows
from uploader.model.api import Verdict
from uploader.model.errors import UploaderError
from uploader.model.identity import EventIds, RunIdentity
from uploader.model.model import REPLAY_BY_REASON, Outcome, Reason, RowState
from uploader.model.plan import Plan
from uploader.posting.customers import Customers
from uploader.posting.desk import Desk, Watcher, not_begun, open_desk
from uploader.posting.file_report import FileReport, Start, complaint_about
from uploader.posting.progress import Progress
from uploader.readers.readers import UsageLog, open_usage_log
from uploader.results.books import Books, Entry
from uploader.results.reservation import Reservation, room_needed_bytes
from uploader.results.results import NOT_SENT
from uploader.schema.schema import RowCheck
from uploader.uploads.admission import chosen_run, demand_fit_to_go_on, names_for, read_through
from uploader.uploads.due_rows import due_rows
from uploader.uploads.naming import Naming
from uploader.uploads.overlap_guard import demand_little_overlap
from uploader.uploads.upload_run import each_once

_WOULD_BE_POSTED = Outcome(None, "would be posted")
_ACCEPTED = Outcome(None)
_REASONS = tuple(Reason)
_NOT_REACHED, _TO_POST, _ACCEPTED_ELSEWHERE = 255, 254, 253
_EXAMPLES_A_REASON = 3
_NOTHING = Entry(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DryReport(FileReport):
    """What an upload of one file would do.

    entry_by_reason: as an upload's, as if every post were accepted.
    to_post:         rows and units that would be posted.
    tenants:         that those rows are of.
    accepted_before: rows and units that an earlier upload had accepted, under whatever file's name.
    examples:        the first failing rows of each reason, in words.
    """

    to_post: Entry = _NOTHING
    tenants: int = 0
    accepted_before: Entry = _NOTHING
    examples: dict[Reason, list[str]] = field(default_factory=dict)


def dry_run(paths: Sequence[Path], *, plan: Plan, watcher: Watcher) -> list[DryReport]:
    """Do all that an upload of these files would, but post; results and ledger stay as they are.

    Raises:
        RefusedError: the command as a whole could not begin.
    """
    logs = each_once(paths, plan, say=watcher.say)
    with open_desk(plan, watcher) as desk:
        dry_desk = replace(desk, customers=_IdsKeptBack())
        with tempfile.TemporaryDirectory(prefix="uploader-dry-run-") as scratch:
            earlier = _EarlierFiles(None if plan.event_id is None else Path(scratch))
            return [_try_or_say_why_not(path, dry_desk, earlier) for path in logs]


def told(report: DryReport) -> str:
    """Put a report into words."""
    if report.error is not None:
        complaint = complaint_about(report.path, report.error).replace("not done: ", "would not be taken: ", 1)
        return f"{report.path}: {complaint}"
    post, rows = report.to_post, report.rows
    lines = [
        f"{report.path}: {post.rows:,} of {rows:,} rows would be posted, {_units(post)} of {report.tenants:,} tenants",
        f"  dry run: nothing was posted; {report.look_ups:,} look-ups in {report.seconds:,.1f} s",
    ]
    if report.accepted_before.rows:
        lines.append(f"  accepted before: {_in_words(report.accepted_before)}")
    for reason, entry in report.entry_by_reason.items():
        if reason is not None:
            lines.append(f"  {_fate(reason)}: {_in_words(entry)}")
            lines += [f"    {example}" for example in report.examples.get(reason, ())]
    if report.stop:
        lines.append(f"  would stop early: {report.stop}")
    return "\n".join(lines)


def _fate(reason: Reason) -> str:
    if reason is Reason.IN_DOUBT:
        return "in doubt since an earlier upload (confirm)"
    return f"would fail, {reason.value} ({REPLAY_BY_REASON[reason].value})"


def _in_words(entry: Entry) -> str:
    return f"{entry.rows:,} rows, {_units(entry)}"


def _units(entry: Entry) -> str:
    return f"{entry.units:,} units"


class _IdsKeptBack(Customers):
    """Asks for each tenant once; a customer that is found ends its rows, as one that is not found does."""

    def settle(self, tenant_id: str, verdict: Verdict) -> None:
        """Keep a look-up's last answer."""
        found = bool(verdict.customer_id)
        super().settle(tenant_id, replace(verdict, customer_id="", outcome=_WOULD_BE_POSTED) if found else verdict)


class _EarlierFiles:
    """The files of this command that would have been uploaded by now; a ledger would know them.

    scratch: a folder for the claims that they would have made; None where events have no ids of their own.
    """

    def __init__(self, scratch: Path | None) -> None:
        self.scratch = scratch
        self.path_by_run_id: dict[str, Path] = {}
        self._sketch_by_run_id: dict[str, bytes] = {}

    def admit(self, path: Path, identity: RunIdentity, rows: RowSketches, plan: Plan) -> None:
        """Refuse a file that the ledger would refuse after those before it, and add it to them.

        Raises:
            LedgerRefusal: mostly the same rows.
        """
        if self._sketch_by_run_id and plan.event_id is None and not plan.again and not plan.allow_overlap:
            seen = _SeenOrHere(plan.ledger_folder, identity, here=self._sketch_by_run_id)
            for sketch in rows.each():
                demand_little_overlap(seen, sketch, path=path)
        self.path_by_run_id[identity.run_id] = path
        self._sketch_by_run_id[identity.run_id] = rows.to_bytes()


class _SeenOrHere(SeenRows):
    def __init__(self, ledger_folder: Path, identity: RunIdentity, *, here: dict[str, bytes]) -> None:
        super().__init__(ledger_folder, identity, event_id=None)
        self._here = here

    def kept_by_run(self, *, but_for: Mapping[str, int] = COMPARED_WITH_NONE) -> dict[str, bytes]:
        return {**super().kept_by_run(but_for=but_for), **self._here}


class _DryLedger:
    """Stands where the ledger would, and keeps a byte a row, and the first examples, in memory."""

    def __init__(self, *, rows: int) -> None:
        self._code_by_row = bytearray([_NOT_REACHED]) * (rows + 1)
        self.examples: dict[Reason, list[str]] = {}

    def commit(self, *, settled: Sequence[RowState], sending: Sequence[Sending]) -> None:
        """Note outcomes; there is nothing to be sent."""
        assert not sending, "a dry run posts nothing"  # noqa: S101 -- an invariant
        for state in settled:
            reason = state.outcome.reason
            if reason is None:
                self._code_by_row[state.row] = _TO_POST if state.outcome is _WOULD_BE_POSTED else _ACCEPTED_ELSEWHERE
            else:
                self._code_by_row[state.row] = _REASONS.index(reason)
                examples = self.examples.setdefault(reason, [])
                if len(examples) < _EXAMPLES_A_REASON:
                    examples.append(f"row {state.row}: {state.outcome.detail}")

    def state(self, row: int) -> RowState:
        """Give what would become of a row; one that was not reached would not be sent."""
        code = self._code_by_row[row]
        outcomes = {_NOT_REACHED: NOT_SENT, _TO_POST: _WOULD_BE_POSTED, _ACCEPTED_ELSEWHERE: _ACCEPTED}
        return RowState(row, outcomes.get(code) or Outcome(_REASONS[code]))


def _try_or_say_why_not(path: Path, desk: Desk, earlier: _EarlierFiles) -> DryReport:
    if why := desk.why_stopped():
        return DryReport(path=path, error=not_begun(path, why))
    try:
        return _try_file(path, desk, earlier)
    except UploaderError as error:
        return DryReport(path=path, error=error)


def _try_file(path: Path, desk: Desk, earlier: _EarlierFiles) -> DryReport:
    start = Start()
    with open_usage_log(path, delimiter=desk.plan.delimiter) as log:
        reader = desk.fitted_reader(log)
        first_pass = read_through(log, reader, desk.plan, say=desk.watcher.say)
        books = first_pass.books
        identity, seen = chosen_run(
            log, first_pass, desk.plan, path_by_run_id=earlier.path_by_run_id, say=desk.watcher.say
        )
        earlier.admit(path, identity, first_pass.sketches, desk.plan)
        try_ledger_folder(desk.plan.ledger_folder)
        known = Glance.at(desk.plan.ledger_folder, identity)
        facts = remembered(desk.plan.ledger_folder, identity.run_id)
        for note in demand_fit_to_go_on(log, reader, first_pass.file, desk.plan, seen, known=known, facts=facts):
            desk.watcher.say(replace(note, run_id=identity.run_id))
        _try_names(log, identity, desk.plan)
        progress = Progress(rows=log.row_count)
        ledger = _DryLedger(rows=log.row_count)
        with dry_events(desk.plan.ledger_folder, known, scratch=earlier.scratch) as events:
            naming = Naming(reader, EventIds(identity))
            posting = desk.silent_posting(ledger, progress, known.history(), tell=_tell_of_pacing(path, desk))
            posting.post_all(due_rows(log, naming, events, known, progress))
        to_post, accepted_before, tenants = _summed_up(log, reader.check, known, books, ledger)
        # Rows settle as soon as their tenant is known here; an upload would have some left to post.
        stop = desk.why_stopped(progress) or (progress.stop if to_post.rows else "")
        if imbalance := books.imbalance(accepted=None, may_leave_unsent=bool(stop)):
            raise imbalance
    return DryReport(
        path=path,
        run_id=identity.run_id,
        entry_by_reason=books.entry_by_reason(),
        look_ups=progress.look_ups,
        begun_at=start.at,
        seconds=start.elapsed_seconds,
        stop=stop,
        to_post=to_post,
        tenants=tenants,
        accepted_before=accepted_before,
        examples=ledger.examples,
    )


def _try_names(log: UsageLog, identity: RunIdentity, plan: Plan) -> None:
    """Reserve the names of the results, and let go of them and of every folder that was made for them.

    Raises:
        RefusedError: the folder cannot be written to, or has too little room.
    """
    folder = next(names_for(log, plan)).results.parent
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        Reservation(
            names_for(log, plan),
            run_id=identity.run_id,
            own_files=remembered(plan.ledger_folder, identity.run_id).get("files", {}),
            room_bytes=room_needed_bytes(log, rows=log.row_count),
        ).release()
    finally:
        with contextlib.suppress(OSError):  # not made after all, or somebody put something there
            for place in made:
                place.rmdir()


def _tell_of_pacing(path: Path, desk: Desk) -> Callable[[Progress], None]:
    # The counts are not shown: they would speak of rows as accepted.
    return lambda progress: desk.pacing_notes.look(path, stop=desk.why_stopped(progress))


def _summed_up(
    log: UsageLog, check: RowCheck, known: Glance, books: Books, ledger: _DryLedger
) -> tuple[Entry, Entry, int]:
    """Enter every row in the books; give what would be posted, what was accepted before, and the number of tenants."""
    rows_to_post = units_to_post = rows_before = units_before = 0
    tenants = set()
    for batch in log.batches():
        before = known.known([row.number for row in batch.rows])
        for row in batch.rows:
            units = check.units(row)
            stated = 0 if units is None else units.total_usage
            state = before.get(row.number) or ledger.state(row.number)
            books.give_out(units, state)
            if state.outcome.reason is not None:
                continue
            if state.outcome is _WOULD_BE_POSTED:
                rows_to_post += 1
                units_to_post += stated
                tenants.add(units.tenant_id if units else "")
            else:
                rows_before += 1
                units_before += stated
    return Entry(rows_to_post, units_to_post), Entry(rows_before, units_before), len(tenants)
