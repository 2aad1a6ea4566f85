"""The names of a run's results and failed files, held from before its first POST until the files are written.

A name is reserved by a file ``NAME.part``; what it stands for is written beside it, fsynced, given its name, and the
folder fsynced. Nothing is ever overwritten but this run's own unedited files.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from uploader.ledger.durable import fsync_folder
from uploader.model.errors import RefusedError, SettingsError
from uploader.readers.open_log import Log

_BYTES_A_ROW = 400
_INPUT_NAME = re.compile(r"(.+?)\.(csv|tsv|parquet|pq)(\.gz|\.bz2|\.zst)?", re.IGNORECASE)
_OTHER_SUFFIX = {".parquet": ".pq"}
_OWN_NAME = re.compile(r"(.+?)(?:\.replay\d+)?\.(?:results|failed)")
_REMEDY_BY_ERRNO = {
    errno.EACCES: "let this user look into it and write to it, or give another folder with --results-dir",
    errno.ENAMETOOLONG: "give a shorter name with --results, or another folder with --results-dir",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}
_NOTHING: Mapping[str, list[int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Names:
    """The two files of a run."""

    results: Path
    failed: Path


def choose_names(log: Log, *, results: Path | None, results_dir: Path | None) -> Iterator[Names]:
    """Give the names that an upload may take, the best first.

    Raises:
        SettingsError: ``results`` has a suffix that does not say what the file will hold.
    """
    stem, suffix = _stem(log.path), _suffix(log)
    if results is not None and results.suffix.lower() not in (suffix, _OTHER_SUFFIX.get(suffix)):
        raise SettingsError(
            f"--results {results}: the results are written in the format of {log.path}, and that name says another",
            remedy=f"end the name in {suffix}",
        )
    folder = results_dir or log.path.parent
    for which in ("", *(f".{number}" for number in range(2, 10_000))):
        if results is None:
            yield Names(folder / f"{stem}{which}.results{suffix}", folder / f"{stem}{which}.failed.csv")
        else:
            numbered = results.with_name(f"{results.stem}{which}{results.suffix}")
            yield Names(numbered, results.with_name(f"{results.stem}{which}.failed.csv"))


def choose_replay_names(log: Log, *, results_dir: Path | None) -> Iterator[Names]:
    """Give the names that a replay of a results or failed file may take, the best first.

    Every replay gets a number of its own: the files of an earlier one hold rows that this one may not.
    """
    stem = _stem(log.path)
    own = _OWN_NAME.fullmatch(stem)
    stem = f"{(results_dir or log.path.parent) / (own[1] if own else stem)}.replay"
    for number in range(1, 10_000):
        names = Names(Path(f"{stem}{number}.results{_suffix(log)}"), Path(f"{stem}{number}.failed.csv"))
        if not os.path.lexists(names.results) and not os.path.lexists(names.failed):
            yield names


def files_beside(results: Path) -> Iterator[Path]:
    """Give the files that may be those of an upload with such results, or of replays after it, but for workbooks."""
    stem = results.stem.removesuffix(".results")
    for path in sorted(results.parent.glob(f"{glob.escape(stem)}*")):
        if _INPUT_NAME.fullmatch(path.name) and path.is_file():
            yield path


def _stem(path: Path) -> str:
    match = _INPUT_NAME.fullmatch(path.name)
    return match[1] if match else path.stem


def _suffix(log: Log) -> str:
    if log.kind == "parquet":
        return ".parquet"
    return ".tsv" if log.delimiter == "\t" else ".csv"


class Reservation:
    """Holds the names of a run's files from before its first POST until they are written."""

    def __init__(
        self,
        choices: Iterable[Names],
        *,
        run_id: str,
        own_files: Mapping[str, list[int]],
        room_bytes: int,
        announced_files: Mapping[str, list[int]] = _NOTHING,
        announce: Callable[[dict[str, list[int]]], None] = lambda _: None,
    ) -> None:
        """Take the first pair of names that is free, or is this run's own and was not edited.

        own_files:       size and modification time (ns) of the files that this run wrote before, by path.
        announced_files: likewise, those that it was about to place when it was last heard of.
        announce:        is given those, before they are placed.

        Raises:
            RefusedError: the folder cannot be written to, has too little room, or every name is taken.
        """
        self._run_id = run_id
        self._announce = announce
        placed = {path: stamp for path, stamp in announced_files.items() if _stamp(Path(path)) == stamp}
        self._own_files = {**own_files, **placed}
        for names in choices:
            if self._is_free(names.results) and self._is_free(names.failed) and self._reserve(names, room_bytes):
                self.names = names
                return
        raise RefusedError(
            "every name for the results file is taken", remedy="give another with --results or --results-dir"
        )

    def release(self) -> None:
        """Give the names up, written or not."""
        for path in (self.names.results, self.names.failed):
            self._let_go(path)

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[BinaryIO]:
        """Open the file that is to become ``path``; it is durable at the end. OSError as it comes."""
        with self._draft(path).open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())

    def place(self, *, some_failed: bool) -> None:
        """Give the written files their names, durably; without a failed row there is no failed file, nor our old one.

        Raises:
            OSError: somebody made a file of that name meanwhile, or the folder cannot be written to.
        """
        coming = [self.names.results, self.names.failed] if some_failed else [self.names.results]
        drafts = {_key(path): _stamp(self._draft(path)) for path in coming}
        self._announce({key: stamp for key, stamp in drafts.items() if stamp is not None})
        self._place(self.names.results)
        if some_failed:
            self._place(self.names.failed)
        elif self.is_own(self.names.failed):
            self.names.failed.unlink()
        fsync_folder(self.names.results.parent)
        self.release()

    def own_files(self) -> dict[str, list[int]]:
        """Give, by path, what tells the files that this run wrote from edited ones: size and modification time (ns)."""
        return self._own_files

    def _place(self, path: Path) -> None:
        draft = self._draft(path)
        stamp = _stamp(draft)
        if self.is_own(path):
            draft.replace(path)
        else:
            os.link(draft, path)  # unlike a rename it never replaces a file
        if stamp is not None:
            self._own_files[_key(path)] = stamp

    def _is_free(self, path: Path) -> bool:
        return not os.path.lexists(path) or self.is_own(path)

    def is_own(self, path: Path) -> bool:
        """Tell whether a file is there as this run wrote it."""
        stamp = _stamp(path)
        return stamp is not None and self._own_files.get(_key(path)) == stamp

    def _reserve(self, names: Names, room_bytes: int) -> bool:
        folder = names.results.parent
        with results_folder(folder), contextlib.ExitStack() as undo:
            _make_folder(folder)
            room = shutil.disk_usage(folder).free
            if room < room_bytes:
                raise RefusedError(
                    f"{folder}: {room:,} bytes are free, and the results may need {room_bytes:,}",
                    remedy="make room, or give another folder with --results-dir",
                )
            if not self._take(names.results):
                return False
            undo.callback(self._let_go, names.results)
            if not self._take(names.failed):
                return False
            undo.pop_all()
        return True

    def _take(self, path: Path) -> bool:
        """Make the ``.part`` file, at once with its content, unless somebody else's is there."""
        part, draft = _part(path), self._draft(path)
        mark = _mark(self._run_id)
        draft.unlink(missing_ok=True)
        with draft.open("xb") as file:
            file.write(mark)
        try:
            os.link(draft, part)
        except FileExistsError:
            # Left by a crash of this very run: the ledger's lock says that no other process works on it.
            return _begins(part, mark)
        finally:
            draft.unlink()
        return True

    def _let_go(self, path: Path) -> None:
        for left in (self._draft(path), _part(path)):
            with contextlib.suppress(OSError):
                left.unlink()

    def _draft(self, path: Path) -> Path:
        return path.with_name(f"{path.name}.{self._run_id}.part")


@contextlib.contextmanager
def results_folder(folder: Path) -> Iterator[None]:
    """Look at what lies where results are to be written.

    Raises:
        RefusedError: this user may not.
    """
    try:
        yield
    except OSError as error:
        raise RefusedError(
            f"results cannot be written to {folder}: {error.strerror}",
            remedy=_REMEDY_BY_ERRNO.get(error.errno or 0, "give another folder with --results-dir"),
        ) from error


def name_reserved_by(folder: Path, run_id: str) -> Path | None:
    """Find the name in a folder that a command of a run has reserved, or left so when it was killed; None for none."""
    mark = _mark(run_id)
    return next(
        (part for part in sorted(folder.glob("*.part")) if os.access(part, os.R_OK) and _begins(part, mark)), None
    )


def room_needed_bytes(log: Log, *, rows: int) -> int:
    """Estimate the bytes of the results and the failed file at their largest."""
    return 2 * log.size_bytes + rows * _BYTES_A_ROW


def _mark(run_id: str) -> bytes:
    return f"reserved for run {run_id}\n".encode()


def _begins(part: Path, mark: bytes) -> bool:
    if _stamp(part) is None:
        return False
    with part.open("rb") as file:  # a draft of results may be of any size
        return file.read(len(mark) + 1) == mark


def _part(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _key(path: Path) -> str:
    return str(path.parent.resolve() / path.name)


def _stamp(path: Path) -> list[int] | None:
    """Give size and modification time (ns) of a plain file; None for anything else, a link to one too."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns] if stat.S_ISREG(found.st_mode) else None


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that a power loss does not take them away again."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)
