"""Whether an upload may begin: what the ledger knows of the same content, of most of its rows, and of a lost ledger.

Each guard either lets the upload pass or refuses it with the ways on; none of them guesses. A false alarm costs a
person a minute; a missed one bills customers twice.
"""

from __future__ import annotations

import itertools
import os.path
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from uploader.errors import LedgerRefusal, UploaderError
from uploader.identity import RunIdentity
from uploader.model import Batch
from uploader.notes import Level, Note
from uploader.readers import open_usage_log
from uploader.run_file import RunFacts, ledger_path, remembered
from uploader.seen import COMPARED_WITH_NONE, SeenRows

_MOST_AGAIN = 100
_OR_AGAIN = "; to bill all of it again, use --again"
_PUT_APART = "put the rows that are new into a file of their own; to send failed rows again, replay the failed file"
_MOST_SHARE = 0.5
_SHARE_WORTH_A_WORD = 0.05


@dataclass(frozen=True, slots=True)
class InputFacts:
    """What tells one usage log from a copy: its file name, when it was last modified (ns since 1970), its path."""

    name: str
    modified_nanoseconds: int
    path: Path

    @classmethod
    def of(cls, path: Path) -> InputFacts:
        """Look at a file."""
        return cls(path.name, path.stat().st_mtime_ns, path.absolute())

    def is_copy_of(self, other: Path) -> bool:
        """Tell whether another file, of the same content once, is there still: it was not moved here."""
        try:
            return other.stat().st_mtime_ns == self.modified_nanoseconds and not other.samefile(self.path)
        except OSError:
            return False


def choose_run(
    folder: Path, identity: RunIdentity, facts: InputFacts, *, asks_for_all_again: bool, event_id: str | None
) -> RunIdentity:
    """Choose the run that an upload begins or continues.

    identity: of the content's first run; further ones, that ``--again`` began, count up from it.
    event_id: the column of the log's own ids, with which a copy is as good as the file; None without.

    Raises:
        LedgerRefusal: the same content is known under another name, was modified since or adopted from its results, its
            events were named otherwise, or ``--again`` cannot be had, as a second time.
    """
    latest, knowledge = None, None
    while (found := remembered(folder, identity.run_id)) is not None:
        _demand_not_adopted(facts, identity, found)
        latest, knowledge = identity, found
        identity = replace(identity, again=identity.again + 1)
    _demand_none_adopted(folder, facts, identity)
    if latest is None or knowledge is None:
        return identity
    if asks_for_all_again:
        if not knowledge.get("is_finished"):
            raise LedgerRefusal(
                f"--again: the last run of this content ({latest.run_id}) has not finished",
                remedy="run the command without --again to continue it",
            )
        if latest.again:  # else the same command, run again as it is everywhere else, would bill all of it each time
            raise LedgerRefusal(
                f"--again: this content was billed again already, by run {latest.run_id}",
                remedy="leave --again out to go on with that; to bill all of it once more, give it a label of its own "
                "with --period",
            )
        return identity
    if "input" in knowledge and knowledge.get("event_id") != event_id:
        raise _otherwise_named(facts, latest, knowledge.get("event_id"))
    if event_id is None and knowledge.get("input") not in (None, [facts.name, facts.modified_nanoseconds]):
        raise _same_content(facts, latest, knowledge)
    return latest


def demand_another(path: Path, run: RunIdentity, *, path_by_run_id: Mapping[str, Path]) -> None:
    """Refuse a second file of one content in one command: a copy, or another day's usage.

    path_by_run_id: the files before it.

    Raises:
        LedgerRefusal: one of them is of the same content, and another file.
    """
    before = path_by_run_id.get(run.run_id)
    if before is not None and not _is_same_file(before, path):
        raise LedgerRefusal(
            f"{path}: the same content as {before}",
            remedy="if it is a copy, leave it out; if this is another period's usage, upload each by itself, with "
            "--period LABEL",
        )


def _is_same_file(before: Path, path: Path) -> bool:
    try:
        return before.samefile(path)
    except OSError:  # it was taken away meanwhile
        return False


def note_of_copy(facts: InputFacts, there: str | None, *, event_id: str | None) -> Note | None:
    """Warn of a file that continues a run whose own file is still there, elsewhere: two flat days may be alike.

    there: the path of the run's own file.
    """
    if event_id is not None or there is None or not facts.is_copy_of(Path(there)):
        return None
    text = (
        f"the same content was uploaded as {there}, which is there still: this is taken for the same usage; if it is "
        "another period's, say which with --period LABEL"
    )
    return Note(text, "same_content", level=Level.WARNING, path=facts.path)


def demand_little_overlap(
    seen: SeenRows,
    rows: bytes,
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
    # datasketches takes 0.15 s to import, and a fresh ledger has nothing to compare with.
    earlier = seen.kept_by_run(but_for=but_for)
    if not earlier:
        return None
    from uploader.overlap import overlap_with  # noqa: PLC0415 -- see above

    overlap = overlap_with(rows, earlier)
    for run, count in overlap.rows_by_run_id.items():
        facts = seen.unfinished(run) or RunFacts()
        if facts.get("input_path") == str(path.absolute()) and count > _MOST_SHARE * facts["rows"]:
            raise _grown(path, run, count)
    if overlap.share <= _SHARE_WORTH_A_WORD:
        return _too_few(path, overlap.too_large) if overlap.too_large else None
    largest = sorted(overlap.rows_by_run_id.items(), key=lambda item: -item[1])[:3]
    unfinished = [run for run, _ in largest if seen.unfinished(run) is not None]
    runs = ", ".join(f"some {count:,.0f} in {_named(run, unfinished)}" for run, count in largest)
    words = f"about {overlap.share:.0%} of {which} were posted before ({runs})"
    if overlap.share > _MOST_SHARE:
        first = f"first continue {unfinished[0]}, whose rows all count as posted until then; " if unfinished else ""
        raise LedgerRefusal(
            f"{path}: {words}",
            remedy=f"{first}{way_on}; if these are other events that look the same, use --allow-overlap",
        )
    text = f"{words}, and are posted as other events that look the same"
    return Note(text, "overlap", level=Level.WARNING, path=path)


def demand_little_overlap_since(
    seen: SeenRows,
    compared: Mapping[str, int],
    rows: Callable[[], Sequence[bytes]],
    *,
    path: Path,
    which: str,
    way_on: str,
) -> list[Note]:
    """Refuse to send rows most of which other runs posted since these were compared with them; else give notes.

    compared: what ``SeenRows.checksums`` gave then.
    rows:     sketches them; not called when no other run posted anything since.

    Raises:
        LedgerRefusal: nothing was posted.
    """
    if not seen.kept_by_run(but_for=compared):
        return []
    return each_once(
        demand_little_overlap(seen, sketch, path=path, which=which, way_on=way_on, but_for=compared)
        for sketch in rows()
    )


def each_once(notes: Iterable[Note | None]) -> list[Note]:
    """Give the notes that there are; the same rows may have been sketched in two ways."""
    return list({note.text: note for note in notes if note is not None}.values())


def _grown(path: Path, run: str, count: float) -> LedgerRefusal:
    return LedgerRefusal(
        f"{path}: it has some {count:,.0f} rows of run {run}, most of those with which that began, and which has not "
        "finished: the file seems to have grown since",
        remedy="put it back as it was, run the same command again, and put the rows that are new into a file of their "
        "own; if these are other events that look the same, use --allow-overlap",
    )


def _named(run: str, unfinished: Sequence[str]) -> str:
    return f"the unfinished run {run}" if run in unfinished else f"run {run}"


def _too_few(path: Path, run_ids: Sequence[str]) -> Note:
    which = ", ".join(run_ids[:3])
    text = f"too few rows to tell whether they stand in so large a run as {which}, too; they are posted"
    return Note(text, "overlap_unknown", path=path)


def demand_known_results(
    choices: Iterable[Path], *, delimiter: str, knows: Callable[[str], bool], ledger_folder: Path
) -> None:
    """Refuse to begin where results lie of a run that this ledger does not know: it may have been lost.

    choices:   the names that the results may take, the best first; those after the first free one are not looked at.
    delimiter: of the usage log, and so of its results.

    Raises:
        LedgerRefusal: there are such results.
    """
    for path in itertools.takewhile(os.path.lexists, choices):
        run_id = _run_of_results(path, delimiter)
        if run_id and not knows(run_id):
            raise LedgerRefusal(
                f"{path} holds the results of run {run_id}, which the ledger in {ledger_folder} does not know",
                remedy="give --ledger the folder that the upload used; if that is lost, send its failed rows alone: "
                "uploader replay FAILED --without-ledger; with its results moved away every row is billed once more",
            )


def _run_of_results(path: Path, delimiter: str) -> str:
    """Give the run that a results file names in its first row; empty for any other file."""
    try:
        with open_usage_log(path, delimiter=delimiter) as log:
            if "upload_run" not in log.columns:
                return ""
            rows = next(log.batches(), Batch([])).rows
            return str(rows[0].cells[log.columns.index("upload_run")]) if rows and not rows[0].fault else ""
    except UploaderError:
        return ""


def _otherwise_named(facts: InputFacts, latest: RunIdentity, event_id: str | None) -> LedgerRefusal:
    with_it = "without --event-id" if event_id is None else f"with --event-id {event_id}"
    return LedgerRefusal(
        f"{facts.name}: the same content was uploaded {with_it} ({latest.run_id}): its events have other ids",
        remedy=f"nothing was posted; run the command {with_it}",
    )


def _demand_not_adopted(facts: InputFacts, identity: RunIdentity, knowledge: RunFacts) -> None:
    if "adopted" in knowledge:
        raise LedgerRefusal(
            f"{facts.name}: its run {identity.run_id} was adopted by this ledger from {knowledge['adopted']}, and what "
            "that file does not say of the run's rows is not known here",
            remedy="nothing was posted; replay the newest failed file of the run instead",
        )


def _demand_none_adopted(folder: Path, facts: InputFacts, identity: RunIdentity) -> None:
    """Look for an adopted run among those that ``--again`` would have begun, though the ones before it are not known.

    Raises:
        LedgerRefusal: there is one.
    """
    for again in range(identity.again, _MOST_AGAIN):
        later = replace(identity, again=again)
        if ledger_path(folder, later.run_id).exists():
            _demand_not_adopted(facts, later, remembered(folder, later.run_id) or RunFacts())


def _same_content(facts: InputFacts, latest: RunIdentity, knowledge: RunFacts) -> LedgerRefusal:
    name, modified_nanoseconds = knowledge["input"]
    then = datetime.fromtimestamp(modified_nanoseconds // 10**9, timezone.utc).isoformat()
    exactly = f"@{modified_nanoseconds // 10**9}.{modified_nanoseconds % 10**9:09}"
    state = "finished" if knowledge.get("is_finished") else "unfinished"
    period = f" for period {latest.period!r}" if latest.period else ""
    finish = (
        ""
        if knowledge.get("is_finished")
        else f"to continue that run, call the file {name} again and touch -d {exactly} it; "
    )
    return LedgerRefusal(
        f"{facts.name}: the same content was uploaded{period} as {name!r}, modified {then}; {state} {latest.run_id}",
        remedy=f"nothing was posted; {finish}if this is another period's usage, say which with --period LABEL"
        f"{_OR_AGAIN if knowledge.get('is_finished') else ''}",
    )
