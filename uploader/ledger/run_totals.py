"""What a run came to, rows and units by reason, from its ledger's own tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

from uploader.ledger.database import Database
from uploader.ledger.run_facts import keep_facts
from uploader.ledger.run_file import in_a_range
from uploader.model.model import Reason

_ACCEPTED = "accepted"
_ROWS_AT_A_TIME = 5_000
_ACCEPTED_AS_EDITED = f"""
select original.cells from posted left join original using (row)
where exists (select 1 from outcome where row = posted.row and reason is null)
  or {in_a_range("posted.row")}
"""  # noqa: S608 -- words of ours alone
_ROWS_WITH_CELLS = f"""
with some as (
  select row from original where row > :after union select row from posted where row > :after order by row limit :most
),
kept as (
  select row, {in_a_range("row")} as in_range
  from some
)
select kept.row,
  case
    when in_range or (outcome.row is not null and reason is null) then 'accepted' else ifnull(reason, 'not_sent')
  end,
  original.cells, posted.cells,
  posted.cells is null and (in_range or kept.row in (select row from counted))
from kept left join outcome using (row) left join original using (row) left join posted using (row)
order by kept.row
"""  # noqa: S608 -- words of ours alone


def run_totals(database: Database, *, rows: int, units_uploaded: int) -> dict[str, list[int]]:
    """Give rows and units by reason, ``accepted`` for the accepted ones; a row without any outcome was not sent.

    rows:           of the whole run.
    units_uploaded: of the accepted rows that are in a range, were counted, or whose cells are not kept; those that a
        replay posted with other cells are not among them.
    """
    row_counts = _row_counts(database)
    row_counts[Reason.NOT_SENT.value] += rows - sum(row_counts.values())
    units = Counter({_ACCEPTED: units_uploaded})
    for reason, usage in _usages(database):
        units[reason] += usage
    reasons = (_ACCEPTED, *(reason.value for reason in Reason))
    return {reason: [row_counts[reason], units[reason]] for reason in reasons if row_counts[reason]}


def keep_units_uploaded(database: Database, *, units_of_log: int) -> int:
    """Keep the units of all accepted rows, and which of them need not be counted by their cells any more.

    Those that a replay edited are always counted by what the replay posted; gives their number.

    units_of_log: of all accepted rows, as the log states them.
    """
    edited = database.rows(_ACCEPTED_AS_EDITED)
    units = units_of_log - sum(_usage_in(cells) for (cells,) in edited)
    with database.transaction() as connection:
        connection.execute(
            "insert or ignore into counted select row from outcome where reason is null "
            "and row in (select row from original) and row not in (select row from posted)"
        )
        keep_facts(connection, {"units_uploaded": units})
    return len(edited)


def _row_counts(database: Database) -> Counter[str]:
    found = database.rows("select reason, count(*) from outcome group by reason")
    counts = Counter({reason or _ACCEPTED: rows for reason, rows in found})
    [(in_ranges,)] = database.rows("select ifnull(sum(last - first + 1), 0) from accepted_range")
    counts[_ACCEPTED] += in_ranges
    return counts


def _usage_in(cells: str | None) -> int:
    usage = json.loads(cells).get("total_usage") if cells else None
    return usage if isinstance(usage, int) else 0


def _usages(database: Database) -> Iterator[tuple[str, int]]:
    """Give reason and units of the rows whose cells are kept: of an accepted row those that were posted."""
    last_row = 0
    while found := database.rows(_ROWS_WITH_CELLS, {"after": last_row, "most": _ROWS_AT_A_TIME}):
        for _, reason, original, posted, is_counted in found:
            if not is_counted:
                yield reason, _usage_in(posted or original if reason == _ACCEPTED else original)
        last_row = found[-1][0]
