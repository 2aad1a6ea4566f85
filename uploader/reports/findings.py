"""What a results file or a check of a log says, in bounded memory: totals, first rows of each kind, what is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from uploader.model.mapping import ColumnMap
from uploader.model.model import EVENT_COLUMNS, Outcome, Reason, Row, Status, Units, UsageEvent, cell_text
from uploader.results.books import Entry
from uploader.results.own_files import demand_own_columns, open_own_file
from uploader.results.results import OWN_COLUMNS
from uploader.schema.schema import RowSchema

_FIRST_ROWS = 5
_FIRST_DOUBTS = 50
_MOST_NAMES = 10_000
_MOST_CHARACTERS = 160
_MOST_INTERVALS = 120
_NOTHING = dict.fromkeys((*OWN_COLUMNS, *EVENT_COLUMNS), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A failed row as it is shown; texts are cut to 160 characters.

    usage:       ``total_usage`` as a number where it can be read, else as it stands.
    http_status: of the last answer; empty without one.
    at:          when the outcome was known (UTC); empty when that is not kept.
    raw:         the text of a row that could not be read.
    """

    row: str
    tenant_id: str
    meter_id: str
    usage: str
    detail: str
    http_status: str
    event_id: str
    device_id: str
    customer_id: str
    at: str
    raw: str


class EventCells:
    """Finds a usage event's cells among those of a row, whatever names the file has for them."""

    def __init__(self, columns: Sequence[str], *, mapping: ColumnMap, path: Path) -> None:
        """Find them among the columns of a file to which a schema was fitted: they are all there.

        Raises:
            InputError: the mapping names a column that is not there.
        """
        place_by_column = mapping.places(columns, path=path)
        self._places = {column: place_by_column[column] for column in EVENT_COLUMNS}
        self._constants = mapping.values

    def of(self, row: Row) -> dict[str, str]:
        """Give them as text, by column; of an unreadable row nothing."""
        if row.fault:
            return {}
        cells = [*row.cells, *self._constants]
        return {column: cell_text(cells[at]) for column, at in self._places.items()}


@dataclass(slots=True)
class Tally:
    """Rows, and the units of those whose units can be read."""

    rows: int = 0
    units: int = 0

    def add(self, units: int) -> None:
        """Enter a row."""
        self.rows += 1
        self.units += units


class Largest:
    """Tallies by name, in bounded memory: of very many names the small ones are dropped as they come.

    is_partial: whether any was dropped; the figures of what is left may then lack rows that came before.
    """

    def __init__(self) -> None:
        self.tally_by_name: dict[str, Tally] = {}
        self.is_partial = False

    def add(self, name: str, units: int) -> None:
        """Enter a row under a name."""
        tally = self.tally_by_name.get(name)
        if tally is None:
            if len(self.tally_by_name) >= _MOST_NAMES:
                self.tally_by_name = dict(self.top(_MOST_NAMES // 2))
                self.is_partial = True
            tally = self.tally_by_name[name] = Tally()
        tally.add(units)

    def top(self, number: int) -> list[tuple[str, Tally]]:
        """Give the largest, by units and then by rows."""
        return sorted(self.tally_by_name.items(), key=lambda item: (-item[1].units, -item[1].rows))[:number]


class Moments:
    """Rows by when they were settled, in at most 120 intervals of one width, whatever the order they come in."""

    def __init__(self) -> None:
        self.width_seconds = 1
        self._rows_by_at: Counter[int] = Counter()
        self._accepted_by_at: Counter[int] = Counter()
        self._texts: dict[str, int] = {}

    def add(self, text: str, *, is_accepted: bool) -> None:
        """Enter a row's ``upload_at``; nothing when that is not kept."""
        second = self._second(text)
        if second is None:
            return
        at = second // self.width_seconds
        is_new = at not in self._rows_by_at
        self._rows_by_at[at] += 1
        self._accepted_by_at[at] += is_accepted
        if is_new:
            while max(self._rows_by_at) - min(self._rows_by_at) >= _MOST_INTERVALS:
                self._halve()

    def intervals(self) -> list[tuple[datetime, int, int]]:
        """Give the beginning (UTC), rows and accepted rows of each interval from the first to the last."""
        if not self._rows_by_at:
            return []
        return [
            (
                datetime.fromtimestamp(at * self.width_seconds, timezone.utc),
                self._rows_by_at[at],
                self._accepted_by_at[at],
            )
            for at in range(min(self._rows_by_at), max(self._rows_by_at) + 1)
        ]

    def _second(self, text: str) -> int | None:
        """Read a moment to the second; consecutive rows often share one."""
        key = text[:19]
        if key in self._texts:
            return self._texts[key]
        try:
            second = int(datetime.fromisoformat(f"{key}+00:00").timestamp())
        except (ValueError, OverflowError):
            return None
        if len(self._texts) > _MOST_NAMES:
            self._texts.clear()
        self._texts[key] = second
        return second

    def _halve(self) -> None:
        self.width_seconds *= 2
        for counts in (self._rows_by_at, self._accepted_by_at):
            halved = Counter[int]()
            for at, count in counts.items():
                halved[at // 2] += count
            counts.clear()
            counts.update(halved)


@dataclass(slots=True)
class ReasonGroup:
    """The rows that failed for one reason: how many, the first of them, and what their details say."""

    tally: Tally = field(default_factory=Tally)
    first: list[Found] = field(default_factory=list)
    details: Largest = field(default_factory=Largest)


@dataclass(slots=True)
class Findings:
    """What a file holds.

    doubts:   the first rows in doubt.
    at_stake: units that failed or are in doubt, by tenant.
    runs:     the first few that the rows name.
    """

    accepted: Tally = field(default_factory=Tally)
    failed: Tally = field(default_factory=Tally)
    group_by_reason: dict[Reason, ReasonGroup] = field(default_factory=dict)
    doubts: list[Found] = field(default_factory=list)
    at_stake: Largest = field(default_factory=Largest)
    moments: Moments = field(default_factory=Moments)
    runs: dict[str, None] = field(default_factory=dict)

    @property
    def in_doubt(self) -> Tally:
        """Rows that may or may not have been recorded."""
        group = self.group_by_reason.get(Reason.IN_DOUBT)
        return Tally() if group is None else group.tally

    def take_accepted(self, units: Units | None, *, at: str) -> None:
        """Enter an accepted row: the units that it states, and its ``upload_at``."""
        self.accepted.add(0 if units is None else units.total_usage)
        self.moments.add(at, is_accepted=True)

    def take_failed(self, own: Mapping[str, str], units: Units | None) -> None:
        """Enter a failed row: its cells by column, ours and those of the event, and the units that it states."""
        usage = 0 if units is None else units.total_usage
        self.failed.add(usage)
        self.moments.add(own["upload_at"], is_accepted=False)
        reason = _reason(own["upload_reason"])
        group = self.group_by_reason.setdefault(reason, ReasonGroup())
        group.tally.add(usage)
        group.details.add(own["upload_detail"][:_MOST_CHARACTERS], 0)
        if own["tenant_id"]:
            self.at_stake.add(own["tenant_id"][:_MOST_CHARACTERS], usage)
        is_shown_doubt = reason is Reason.IN_DOUBT and len(self.doubts) < _FIRST_DOUBTS
        if len(group.first) < _FIRST_ROWS or is_shown_doubt:
            found = _found(own, units)
            group.first.extend([found] if len(group.first) < _FIRST_ROWS else [])
            self.doubts.extend([found] if is_shown_doubt else [])


class CheckFindings(Findings):
    """What a check of a usage log found, before anything is posted: "accepted" are the rows that would be posted."""

    def take_good(self, *, rows: int, units: int) -> None:
        """Enter good rows of the log, and what they state in all."""
        self.accepted.rows += rows
        self.accepted.units += units

    def take_verdict(
        self, row: Row, event_cells: EventCells, verdict: UsageEvent | Outcome, units: Units | None
    ) -> None:
        """Enter a row of the log, with its verdict."""
        if isinstance(verdict, UsageEvent):
            self.accepted.add(0 if units is None else units.total_usage)
            return
        cells = dict(_NOTHING)
        cells.update(
            event_cells.of(row),
            upload_row=str(row.number),
            upload_reason="" if verdict.reason is None else verdict.reason.value,
            upload_detail=verdict.detail,
            upload_raw=row.text if row.fault else "",
        )
        self.take_failed(cells, units)

    def entry_by_reason(self) -> dict[Reason | None, Entry]:
        """Give rows and units by reason, as if every post were accepted (None)."""
        entries: dict[Reason | None, Entry] = {None: Entry(self.accepted.rows, self.accepted.units)}
        entries.update({why: Entry(one.tally.rows, one.tally.units) for why, one in self.group_by_reason.items()})
        return entries


def read_findings(path: Path, *, mapping: ColumnMap) -> Findings:
    """Read a results or failed file to its end.

    mapping: how the upload saw the columns.

    Raises:
        InputError: it cannot be read, is no such file, or lacks a column.
    """
    findings = Findings()
    with open_own_file(path, delimiter=None) as log:
        demand_own_columns(log)
        mapping = mapping.only(EVENT_COLUMNS)  # further columns are those of a schema of the user's own
        check = RowSchema.load(None).for_columns(log.columns, path=path, mapping=mapping)
        event_cells = EventCells(log.columns, mapping=mapping, path=path)
        places = {column: at for at, column in enumerate(log.columns) if column in OWN_COLUMNS}
        input_places = [at for at, column in enumerate(log.columns) if column not in OWN_COLUMNS]
        accepted = Status.ACCEPTED.value
        status_at, at_at, run_at = places["upload_status"], places.get("upload_at"), places["upload_run"]
        for batch in log.batches():
            for row in batch.rows:
                if row.cells and len(findings.runs) < _FIRST_ROWS:
                    findings.runs[cell_text(row.cells[run_at])] = None
                if row.cells and row.cells[status_at] == accepted:
                    findings.take_accepted(check.units(row), at="" if at_at is None else cell_text(row.cells[at_at]))
                    continue
                cells = _cells(row, places)
                if cells["upload_raw"] and not any(cell_text(row.cells[at]) for at in input_places if row.cells):
                    findings.take_failed(cells, None)  # unreadable when uploaded: no constant stood for its cells
                else:
                    findings.take_failed({**cells, **event_cells.of(row)}, check.units(row))
    return findings


def _cells(row: Row, places: Mapping[str, int]) -> Mapping[str, str]:
    cells = _NOTHING.copy()
    if row.fault:
        cells.update(upload_reason=Reason.MALFORMED.value, upload_detail=row.fault, upload_raw=row.text)
        return cells
    for column, at in places.items():
        cells[column] = cell_text(row.cells[at])
    return cells


def _reason(text: str) -> Reason:
    try:
        return Reason(text.strip().lower())
    except ValueError:
        return Reason.MALFORMED


def _found(cells: Mapping[str, str], units: Units | None) -> Found:
    texts = {
        name: text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…" for name, text in cells.items()
    }
    return Found(
        row=texts["upload_row"],
        tenant_id=texts["tenant_id"],
        meter_id=texts["meter_id"],
        usage=texts["total_usage"] if units is None else f"{units.total_usage:,}",
        detail=texts["upload_detail"],
        http_status=texts["upload_http_status"],
        event_id=texts["upload_event_id"],
        device_id=texts["device_id"],
        customer_id=texts["upload_customer_id"],
        at=texts["upload_at"],
        raw=texts["upload_raw"],
    )
