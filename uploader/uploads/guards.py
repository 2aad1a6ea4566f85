"""Whether an upload may begin: what the ledger knows of the same content, and what lies beside it of a lost ledger.

Each guard either lets the upload pass or refuses it with the ways on; none of them guesses. A false alarm costs a
person a minute; a missed one bills customers twice.
"""

from __future__ import annotations

import itertools
import os.path
import shlex
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from uploader.ledger.run_facts import RunFacts, has_begun
from uploader.ledger.run_file import ledger_path, remembered
from uploader.model.errors import InputError, LedgerRefusal, UploaderError
from uploader.model.identity import RunIdentity
from uploader.model.model import Batch
from uploader.model.notes import Level, Note
from uploader.results.own_files import open_own_file

_RUNS_OF_A_CONTENT = 2
"""The first, and the one that ``--again`` may begin."""
_LEAST_BYTES_A_ROW = 75
"""What an accepted row takes of the ledger's disk while a run is under way."""
_WAL_BYTES_A_ROW = 2_100
"""What a row takes of SQLite's write-ahead log, which comes to no more than ``_MOST_WAL_BYTES``."""
_MOST_WAL_BYTES = 4_200_000
_OR_AGAIN = "; to bill all of it again, use --again"


@dataclass(frozen=True, slots=True)
class InputFile:
    """What tells one usage log from a copy: its file name, when it was last modified (ns since 1970), its path."""

    name: str
    modified_nanoseconds: int
    path: Path

    @classmethod
    def of(cls, path: Path) -> InputFile:
        """Look at a file.

        Raises:
            InputError: it is not there any more.
        """
        try:
            return cls(path.name, path.stat().st_mtime_ns, path.absolute())
        except OSError as error:
            raise InputError(
                f"{path}: {error.strerror}", remedy="it was there a moment ago: put it back, and run the command again"
            ) from error

    def is_copy_of(self, other: Path) -> bool:
        """Tell whether a run's own file is still there, as old as this one: this is a copy, not that file moved."""
        try:
            return other.stat().st_mtime_ns == self.modified_nanoseconds and not other.samefile(self.path)
        except OSError:
            return False


def choose_run(
    folder: Path, identity: RunIdentity, file: InputFile, *, asks_for_all_again: bool, event_id: str | None
) -> RunIdentity:
    """Choose the run that an upload begins or continues.

    identity: of the content's first run; the one that ``--again`` began counts up from it.
    event_id: the column of the log's own ids, with which a copy is as good as the file; None without.

    Raises:
        LedgerRefusal: the same content is known under another name, was modified since or adopted from its results, its
            events were named otherwise, or ``--again`` cannot be had, as a second time.
    """
    begun: list[tuple[RunIdentity, RunFacts]] = []
    while has_begun(facts := remembered(folder, identity.run_id)):
        _demand_not_adopted(file, identity, facts)
        begun.append((identity, facts))
        identity = replace(identity, again=identity.again + 1)
    _demand_none_adopted(folder, file, identity)
    if not begun:
        return identity
    latest, facts = begun[-1]
    if asks_for_all_again:
        if not facts.get("is_finished"):
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
    if facts.get("event_id") != event_id:
        raise _otherwise_named(file, latest, facts.get("event_id"))
    is_another_file = facts["input"] != [file.name, file.modified_nanoseconds]
    if event_id is None and is_another_file and facts["rows"]:  # a header alone is nothing to be billed
        raise _same_content(file, latest, facts)
    return latest


def demand_schema(path: Path, run: RunFacts, *, schema_path: Path | None) -> None:
    """Refuse to check by the schema that ships, for want of another, what was checked by one of the user's own.

    Rows that it refused would be posted, though nobody has corrected them.

    Raises:
        LedgerRefusal: no schema is given, and the run had one.
    """
    if schema_path is None and run.get("schema"):
        raise LedgerRefusal(
            f"{path}: its rows were checked by {run['schema']}, and no schema is given now",
            remedy=f"nothing was posted; give --schema {shlex.quote(run['schema'])}, or the one that holds from now on",
        )


def demand_room(folder: Path, *, rows: int) -> None:
    """Refuse to begin where the ledger cannot hold what becomes of the rows: each try would leave some in doubt.

    Raises:
        LedgerRefusal: less is free than they take at the least.
    """
    room_bytes = shutil.disk_usage(folder).free
    needed_bytes = rows * _LEAST_BYTES_A_ROW + min(rows * _WAL_BYTES_A_ROW, _MOST_WAL_BYTES)
    if room_bytes < needed_bytes:
        raise LedgerRefusal(
            f"{folder}: {room_bytes:,} bytes are free, and the ledger needs {needed_bytes:,} for {rows:,} rows",
            remedy="nothing was posted; make room, or move the ledger to a larger disk and name it with --ledger",
        )


def demand_another(path: Path, run: RunIdentity, *, rows: int, path_by_run_id: Mapping[str, Path]) -> None:
    """Refuse a second file of one content in one command: a copy, or another day's usage.

    rows:           of the file; one without any is nothing to be billed.
    path_by_run_id: the files before it.

    Raises:
        LedgerRefusal: one of them is of the same content, and another file.
    """
    before = path_by_run_id.get(run.run_id)
    if before is not None and rows:
        raise LedgerRefusal(
            f"{path}: the same content as {before}",
            remedy="if it is a copy, leave it out; if this is another period's usage, upload each by itself, with "
            "--period LABEL",
        )


def note_of_copy(file: InputFile, there: str | None, *, event_id: str | None) -> Note | None:
    """Warn of a file that continues a run whose own file is still there, elsewhere: two flat days may be alike.

    there: the path of the run's own file.
    """
    if event_id is not None or there is None or not file.is_copy_of(Path(there)):
        return None
    text = (
        f"the same content was uploaded as {there}, which is there still: this is taken for the same usage; if it is "
        "another period's, say which with --period LABEL"
    )
    return Note(text, "same_content", level=Level.WARNING, path=file.path)


def demand_known_results(
    choices: Iterable[Path],
    beside: Iterable[Path],
    first: RunIdentity,
    *,
    delimiter: str,
    knows: Callable[[str], bool],
    ledger_folder: Path,
) -> None:
    """Refuse to begin where results lie of a run that this ledger does not know: it may have been lost.

    choices:   the names that the results may take, the best first; those after the first free one are not looked at.
    beside:    files that may be results, failed files and replays of the same content, the first run of which is
               ``first``; what they say of other runs, which may be long forgotten, does not matter.
    delimiter: of the usage log, and so of its results.

    Raises:
        LedgerRefusal: there are such results.
    """
    of_this_content = {replace(first, again=again).run_id for again in range(_RUNS_OF_A_CONTENT)}
    named = ((path, _run_named_in(path, delimiter)) for path in itertools.takewhile(os.path.lexists, choices))
    named_beside = ((path, _run_named_in(path, delimiter)) for path in beside)
    for path, run_id in itertools.chain(named, filter(lambda found: found[1] in of_this_content, named_beside)):
        if run_id and not knows(run_id):
            raise LedgerRefusal(
                f"{path} holds results of run {run_id}, which the ledger in {ledger_folder} does not know",
                remedy="give --ledger the folder that the upload used; if that is lost, send its failed rows alone: "
                "uploader replay FAILED --without-ledger; with its results moved away every row is billed once more",
            )


def _run_named_in(path: Path, delimiter: str) -> str:
    """Give the run that a results or failed file names first; empty for any other file."""
    try:
        with open_own_file(path, delimiter=delimiter) as log:
            if "upload_run" not in log.columns:
                return ""
            at = log.columns.index("upload_run")
            named = (str(row.cells[at]) for row in next(log.batches(), Batch([])).rows if not row.fault)
            return next(filter(None, named), "")
    except UploaderError:
        return ""


def _otherwise_named(file: InputFile, latest: RunIdentity, event_id: str | None) -> LedgerRefusal:
    with_it = "without --event-id" if event_id is None else f"with --event-id {event_id}"
    return LedgerRefusal(
        f"{file.name}: the same content was uploaded {with_it} ({latest.run_id}): its events have other ids",
        remedy=f"nothing was posted; run the command {with_it}",
    )


def _demand_not_adopted(file: InputFile, identity: RunIdentity, facts: RunFacts) -> None:
    if "adopted" in facts:
        raise LedgerRefusal(
            f"{file.name}: its run {identity.run_id} was adopted by this ledger from {facts['adopted']}, and what "
            "that file does not say of the run's rows is not known here",
            remedy="nothing was posted; replay the newest failed file of the run instead",
        )


def _demand_none_adopted(folder: Path, file: InputFile, identity: RunIdentity) -> None:
    """Look for an adopted run among those that ``--again`` would have begun, though the ones before it are not known.

    Raises:
        LedgerRefusal: there is one.
    """
    for again in range(identity.again, _RUNS_OF_A_CONTENT):
        later = replace(identity, again=again)
        if ledger_path(folder, later.run_id).exists():
            _demand_not_adopted(file, later, remembered(folder, later.run_id))


def _same_content(file: InputFile, latest: RunIdentity, facts: RunFacts) -> LedgerRefusal:
    name, modified_nanoseconds = facts["input"]
    then, now = (
        datetime.fromtimestamp(nanoseconds // 10**9, timezone.utc).isoformat()
        for nanoseconds in (modified_nanoseconds, file.modified_nanoseconds)
    )
    is_it = name == file.name
    exactly = f"@{modified_nanoseconds // 10**9}.{modified_nanoseconds % 10**9:09}"
    state = "finished" if facts.get("is_finished") else "unfinished"
    period = f" for period {latest.period!r}" if latest.period else ""
    other_label = "another --period LABEL" if latest.period else "--period LABEL"
    finish = (
        ""
        if facts.get("is_finished")
        else f"to continue that run, {'' if is_it else f'call the file {name} again and '}touch -d {exactly} it; "
    )
    return LedgerRefusal(
        f"{file.name}: the same content was uploaded{period} as {name!r}, modified {then}"
        f"{f', and this one was modified since, {now}' if is_it else ''}; {state} {latest.run_id}",
        remedy=f"nothing was posted; {finish}if this is another period's usage, say which with {other_label}"
        f"{_OR_AGAIN if facts.get('is_finished') else ''}",
    )
