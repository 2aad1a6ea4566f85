"""Whether rows may be posted that look like those of other runs: a copy of a log may have another content.

A false alarm costs a person a minute; a missed one bills customers twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from uploader.ledger.seen import COMPARED_WITH_NONE, SeenRows
from uploader.model.errors import LedgerRefusal
from uploader.model.notes import Level, Note

_PUT_APART = (
    "if it is another period's usage, say which with --period LABEL; if these are the same events, put the rows that "
    "are new into a file of their own, and replay the failed file to send failed rows again"
)
_REPLAY_OR_APART = (
    "if it is another period's usage, say which with --period LABEL; if these are the same events, correct failed rows "
    "in the failed file and replay that, and put the rows that are new into a file of their own"
)
_OR_ALLOW = "; if they are other events that look the same, use --allow-overlap"
_MOST_SHARE = 0.5
_SHARE_WORTH_A_WORD = 0.05


def demand_not_grown(seen: SeenRows, sketch: bytes, *, path: Path) -> None:
    """Refuse a log that has most rows of another, which was in its place and of which some were posted, but not all.

    Whatever share of its own rows they are: a log that grew, or was corrected, while its upload stood still.

    Raises:
        LedgerRefusal: it is one.
    """
    for run, log, posted in seen.logs_in_place_of(path):
        # datasketches takes 0.15 s to import, and a fresh ledger has nothing to compare with.
        from uploader.ledger.overlap import rows_of_log_again  # noqa: PLC0415 -- see above

        again = rows_of_log_again(sketch, run_id=run, log=log, posted=posted, most_share=_MOST_SHARE)
        if again:
            raise _grown(path, run, again, is_unfinished=seen.is_unfinished(run))


def demand_other_events(seen: SeenRows, events: Callable[[], bytes], *, path: Path, columns: Sequence[str]) -> None:
    """Refuse a new log if most of its events are those of an earlier log at the same path with other columns.

    Compared are the last logs there, and all earlier ones unless most of its events are the last ones' too.

    events: sketches them; not called when there was no such log.

    Raises:
        LedgerRefusal: nothing was posted.
    """
    for run, earlier in seen.events.last_at(path, columns=columns):
        if count := _events_again(events(), run, earlier):
            _refuse_if_posted(seen, path, run, count, way_on=_REPLAY_OR_APART)
    for run, earlier in seen.events.replaced_at(path, columns=columns):
        if (count := _most_of(events(), run, earlier)) and not _are_of_the_last(seen, events(), path=path):
            _refuse_if_posted(seen, path, run, count, way_on=_REPLAY_OR_APART)


def demand_other_events_since(
    seen: SeenRows, compared: Mapping[str, int], events: Callable[[], bytes], *, path: Path, place: Path, way_on: str
) -> None:
    """Refuse to send rows that went up since in their log's place, under other columns.

    compared: what ``SeenRows.checksums`` gave when they were compared with others.
    place:    where their log is.
    way_on:   what to do with them.

    Raises:
        LedgerRefusal: nothing was posted.
    """
    for run, later in seen.events.all_at(place):
        if seen.has_posted_since(run, compared) and (count := _events_again(events(), run, later)):
            _refuse_if_posted(seen, path, run, count, way_on=way_on)


def take_place_if_posted(seen: SeenRows, *, path: Path, rows: int, posted: int, compared: Iterable[str]) -> None:
    """Have a log be the last one in its place, if most of it was posted: it may have been a wrong one.

    compared: the runs that there were when its own began.

    Raises:
        LedgerFault: that cannot be kept.
    """
    if posted > _MOST_SHARE * rows:
        seen.events.replace(path, of=compared)


def _are_of_the_last(seen: SeenRows, events: bytes, *, path: Path) -> bool:
    """Tell whether most of some events are those of the last log in a place, too, as where all nights are alike."""
    last = seen.events.last_at(path, columns=None)
    return any(_most_of(events, run, kept) and seen.may_have_posted(run) for run, kept in last)


def _most_of(events: bytes, run: str, earlier: bytes) -> float:
    """Estimate how many of some events an earlier log has, if it has most of them; else 0."""
    from uploader.ledger.overlap import overlap_with  # noqa: PLC0415 -- see demand_not_grown

    overlap = overlap_with(events, {run: earlier})
    return overlap.rows_by_run_id.get(run, 0) if overlap.share > _MOST_SHARE else 0


def _events_again(events: bytes, run: str, earlier: bytes) -> float:
    """Estimate how many events of an earlier log there are again, if these are most of either; else 0."""
    from uploader.ledger.overlap import rows_of_log_again  # noqa: PLC0415 -- see demand_not_grown

    again = rows_of_log_again(events, run_id=run, log=earlier, posted=[earlier], most_share=_MOST_SHARE)
    return _most_of(events, run, earlier) or again


def demand_little_overlap(
    seen: SeenRows,
    sketch: bytes,
    *,
    path: Path,
    which: str = "its rows",
    way_on: str = _PUT_APART,
    but_for: Mapping[str, int] = COMPARED_WITH_NONE,
) -> Note | None:
    """Refuse a log most of whose rows earlier runs to the same destination and period accepted or left in doubt.

    Gives a note of a share that is smaller but not small, or that cannot be told.

    which:   of its rows are meant, and ``way_on`` what to do with those that were posted.
    but_for: earlier runs that they were compared with before, see ``SeenRows.kept_by_run``.

    Raises:
        LedgerRefusal: more than half of the rows stand in earlier runs.
    """
    earlier = seen.kept_by_run(but_for=but_for)
    if not earlier:
        return None
    from uploader.ledger.overlap import overlap_with  # noqa: PLC0415 -- see demand_not_grown

    overlap = overlap_with(sketch, earlier)
    if overlap.share <= _SHARE_WORTH_A_WORD:
        return _too_few(path, overlap.too_large) if overlap.too_large else None
    largest = sorted(overlap.rows_by_run_id.items(), key=lambda item: -item[1])[:3]
    unfinished = [run for run, _ in largest if seen.is_unfinished(run)]
    runs = ", ".join(f"some {count:,.0f} in {_named(run, unfinished)}" for run, count in largest)
    words = f"about {overlap.share:.0%} of {which} were posted before ({runs})"
    if overlap.share > _MOST_SHARE:
        first = f"first continue {unfinished[0]}, whose rows all count as posted until then; " if unfinished else ""
        raise LedgerRefusal(
            f"{path}: {words}",
            remedy=f"{first}{way_on}{_OR_ALLOW}",
        )
    text = f"{words}, and are posted as other events that look the same"
    return Note(text, "overlap", level=Level.WARNING, path=path)


def demand_little_overlap_since(
    seen: SeenRows,
    compared: Mapping[str, int],
    sketches: Callable[[], Sequence[bytes]],
    *,
    path: Path,
    which: str,
    way_on: str,
) -> list[Note]:
    """Refuse to send rows most of which other runs posted since these were compared with them; else give notes.

    compared: what ``SeenRows.checksums`` gave then.
    sketches: sketches them; not called when no other run posted anything since.

    Raises:
        LedgerRefusal: nothing was posted.
    """
    if not seen.kept_by_run(but_for=compared):
        return []
    return distinct(
        demand_little_overlap(seen, sketch, path=path, which=which, way_on=way_on, but_for=compared)
        for sketch in sketches()
    )


def distinct(notes: Iterable[Note | None]) -> list[Note]:
    """Give the notes that there are; each text once, since rows may be sketched in two ways."""
    return list({note.text: note for note in notes if note is not None}.values())


def _grown(path: Path, run: str, again: float, *, is_unfinished: bool) -> LedgerRefusal:
    first = "put it back as it was and run the same command again; " if is_unfinished else ""
    return LedgerRefusal(
        f"{path}: it has some {again:,.0f} rows of the log of {_named(run, [run] if is_unfinished else [])}, most of "
        "those, of which some were posted and not all: it was changed since, or other columns are named for it",
        remedy=f"{first}{_REPLAY_OR_APART}{_OR_ALLOW}",
    )


def _refuse_if_posted(seen: SeenRows, path: Path, run: str, events: float, *, way_on: str) -> None:
    if not seen.may_have_posted(run):
        return
    is_unfinished = seen.is_unfinished(run)
    named = _named(run, [run] if is_unfinished else [])
    first = "put that back as it was and run the same command again; " if is_unfinished else ""
    raise LedgerRefusal(
        f"{path}: some {events:,.0f} of its events (tenant, device, meter and usage) are those of another log, which "
        f"was in the same place under other columns, and of which {named} posted some or all",
        remedy=f"{first}{way_on}{_OR_ALLOW}",
    )


def _named(run: str, unfinished: Sequence[str]) -> str:
    return f"the unfinished run {run}" if run in unfinished else f"run {run}"


def _too_few(path: Path, run_ids: Sequence[str]) -> Note:
    which = ", ".join(run_ids[:3])
    text = f"too few rows to tell whether they stand in so large a run as {which}, too; they are posted"
    return Note(text, "overlap_unknown", path=path)
