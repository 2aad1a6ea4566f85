"""What failed rows had in their cells, what replays posted in the place of that, and which own ids rows gave up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeAlias

from uploader.ledger.database import Database, question_marks
from uploader.ledger.run_file import in_a_range

CellsByRow: TypeAlias = dict[int, dict[str, Any]]
"""Cells as they are read, by column, of some rows by number."""

_POSTED_AND_NOT_RECORDED = f"""
select row, cells from posted
where not exists (select 1 from outcome where row = posted.row and (reason is null or reason = 'in_doubt'))
  and not {in_a_range("posted.row")}
"""  # noqa: S608 -- words of ours alone


_AS_TEXT = "upload_as_text"
"""Beside a row's cells, and no column's name: those of ours begin like that, and a log with one is refused. Ledgers of
version 3 have all of the log's cells there, too."""

_FORGET_ACCEPTED = f"""
delete from log_row where exists (select 1 from outcome where row = log_row.row and reason is null)
  or {in_a_range("log_row.row")}
"""  # noqa: S608 -- words of ours alone


class Edits:
    """A part of one run's file; its methods raise LedgerFault as those of the ledger do."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._read_last: tuple[list[int], CellsByRow] = ([], {})

    def keep_originals(self, cells_by_row: CellsByRow, *, as_text_by_row: CellsByRow) -> None:
        """Keep failed rows' cells as they were, so that a replay can tell what was edited; the first ones stay.

        as_text_by_row: those cells that read otherwise once a file has them as text: what that text is read as.
        """
        cells_by_row |= {row: {**cells_by_row[row], _AS_TEXT: as_text} for row, as_text in as_text_by_row.items()}
        self._keep("insert or ignore into original values (?, ?)", cells_by_row)

    def originals(self, rows: Sequence[int]) -> CellsByRow:
        """Give back what ``keep_originals`` kept of some rows."""
        return {
            row: {column: cell for column, cell in cells.items() if not column.startswith("upload_")}
            for row, cells in self._original(rows).items()
        }

    def as_text(self, rows: Sequence[int]) -> CellsByRow:
        """Give back which cells of some rows are read as something else once they are written as text, and as what."""
        return {row: cells[_AS_TEXT] for row, cells in self._original(rows).items() if _AS_TEXT in cells}

    def keep_log_cells(self, cells_by_row: Mapping[int, Sequence[str]]) -> None:
        """Keep all cells that the log has in failed rows, as text, in the order of its columns."""
        self._keep("insert or ignore into log_row values (?, ?)", cells_by_row)

    def log_cells(self, rows: Sequence[int]) -> dict[int, list[str]]:
        """Give back what ``keep_log_cells`` kept of some rows."""
        return self._kept("log_row", rows)

    def forget_log_cells(self) -> None:
        """Forget all that ``keep_log_cells`` kept."""
        with self._database.transaction() as connection:
            connection.execute("delete from log_row")

    def forget_log_cells_of_accepted(self) -> None:
        """Forget those of rows that are accepted by now: what was posted of them is in a sketch."""
        with self._database.transaction() as connection:
            connection.execute(_FORGET_ACCEPTED)

    def keep_posted(self, cells_by_row: CellsByRow) -> None:
        """Keep what is about to be posted for some rows, where that is not what was posted before or the original."""
        self._keep("insert or replace into posted values (?, ?)", cells_by_row)

    def posted(self, rows: Sequence[int]) -> CellsByRow:
        """Give back what ``keep_posted`` kept last of some rows."""
        return self._kept("posted", rows)

    def forget_what_was_not_recorded(self, *, event_id: str | None) -> None:
        """Forget what a replay posted of rows that an upload posts again as its log has them, but for their own ids.

        event_id: the column of the log's own ids; None without.
        """
        cells_by_row = {row: json.loads(cells) for row, cells in self._database.rows(_POSTED_AND_NOT_RECORDED)}
        given_up = [(row, str(cells.get(event_id) or "")) for row, cells in cells_by_row.items()]
        with self._database.transaction() as connection:
            connection.executemany("insert or ignore into former_id values (?, ?)", filter(itemgetter(1), given_up))
            connection.executemany("delete from posted where row = ?", [(row,) for row in cells_by_row])

    def own_ids(self, rows: Sequence[int], *, event_id: str) -> dict[int, str]:
        """Give the log's own ids, of the column ``event_id``, that some rows had last, where their cells are kept."""
        return own_ids_in({**self.originals(rows), **self.posted(rows)}, event_id=event_id)

    def former_own_ids(self, rows: Sequence[int]) -> dict[int, list[str]]:
        """Give the log's own ids that a replay gave some rows, before an upload posted them again."""
        query = f"select row, own_id from former_id where row in ({question_marks(rows)})"  # noqa: S608 -- question marks alone
        own_ids_by_row: dict[int, list[str]] = {}
        for row, own_id in self._database.rows(query, rows):
            own_ids_by_row.setdefault(row, []).append(own_id)
        return own_ids_by_row

    def _original(self, rows: Sequence[int]) -> CellsByRow:
        """Read what is kept of some rows; once where several ask for parts of the same in turn."""
        if self._read_last[0] != list(rows):
            self._read_last = (list(rows), self._kept("original", rows))
        return self._read_last[1]

    def _keep(self, statement: str, cells_by_row: Mapping[int, Any]) -> None:
        self._read_last = ([], {})
        with self._database.transaction() as connection:
            connection.executemany(statement, [(row, json.dumps(cells)) for row, cells in cells_by_row.items()])

    def _kept(self, table: str, rows: Sequence[int]) -> dict[int, Any]:
        query = f"select row, cells from {table} where row in ({question_marks(rows)})"  # noqa: S608 -- names and question marks
        return {row: json.loads(cells) for row, cells in self._database.rows(query, rows)}


def own_ids_in(cells_by_row: Mapping[int, Mapping[str, Any]], *, event_id: str) -> dict[int, str]:
    """Give the log's own ids, of the column ``event_id``, that kept cells state; rows without one are left out."""
    return {row: str(cells[event_id]) for row, cells in cells_by_row.items() if cells.get(event_id) not in (None, "")}
