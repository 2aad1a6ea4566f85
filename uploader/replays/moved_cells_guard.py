"""Whether the edited rows of a replay have the cells of other rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from uploader.ledger.seen import SeenRows
from uploader.model.errors import LedgerRefusal

_ALL = 1.0
_MANY_ROWS = 10
_MANY_SHARE = 0.05
"""So many edited rows do not equal posted rows by chance."""


def demand_cells_in_their_rows(
    seen: SeenRows, edited: Sequence[bytes], moved_by_column: Mapping[str, int], *, path: Path
) -> None:
    """Refuse to replay edited rows of which many have the cells of other rows.

    Sorting only some columns of the file does this. Cells that moved within the file are counted by ``MovedCells``;
    cells of rows that the upload posted are found in its sketch, which after a kill stands for the whole log and tells
    nothing.

    moved_by_column: the cells that stand in other rows of the file than they did.

    Raises:
        LedgerRefusal: nothing was posted.
    """
    if moved_by_column:
        column, cells = next(iter(moved_by_column.items()))
        raise LedgerRefusal(
            f"{path}: in {column}, {cells:,} cells that were edited are those of other rows of the file: cells were "
            "moved to other rows, as when only some of the columns are sorted",
            remedy="take the file as it was written, and sort whole rows; if it is right as it is, use --allow-overlap",
        )
    log, posted = seen.own_log(), seen.own_posted()
    if not log or posted is None:
        return
    # datasketches takes 0.15 s to import, and most replays have nothing to compare with.
    from uploader.ledger.overlap import overlap_with  # noqa: PLC0415 -- see above

    if overlap_with(log[0], {"": posted}).share >= _ALL:
        return
    for sketch in edited:
        overlap = overlap_with(sketch, {"": posted})
        rows = overlap.rows_by_run_id.get("", 0)
        if rows >= _MANY_ROWS and overlap.share > _MANY_SHARE:
            raise LedgerRefusal(
                f"{path}: some {rows:,.0f} of its edited rows have the cells of other rows, which were posted, "
                "as when only some of the columns are sorted",
                remedy="if they were, take the file as it was written, and sort whole rows; if these are events that "
                "were posted, take those rows out of the file; if they are other events that look the same, use "
                "--allow-overlap",
            )
