"""One scenario: a usage log, a ledger, the command as a real process, and a billing server whose log is the oracle."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import trustme

from tests.billing_answers import Answer
from tests.billing_contract import BilledRow, Received, Respond, contract
from tests.billing_server import BillingServer
from tests.command import Ended, Home, ended, read_rows, usage_rows, write_csv
from tests.faults import invariants
from tests.faults.tally import Tally

_MOST_REPLAYS = 4
_LONGEST_DRAIN_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class AtPost:
    """What is done when the server has received so many complete posts of a command, before it answers the last one.

    act: is given the process's id.
    """

    posts: int
    act: Callable[[int], None]


def kill_at(posts: int) -> AtPost:
    """Kill the process at a post."""
    return AtPost(posts=posts, act=lambda pid: os.kill(pid, signal.SIGKILL))


class Scene:
    """The actors of one scenario; every command's outcome is held against the server's log as soon as it has ended.

    respond:   how the server answers; may be changed at any time, like the options and variables of the commands.
    expected:  what must have been billed in the end.
    in_doubt:  device ids of all rows that were in doubt at any time.
    broken:    device ids of rows whose usage cannot be read in the log; the operator mends them.
    authority: given, the server speaks TLS with a certificate of it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tally: Tally,
        rows: int = 12,
        broken: Collection[str] = (),
        concurrency: int = 4,
        authority: trustme.CA | None = None,
    ) -> None:
        self.respond: Respond = contract
        self.server = BillingServer(self._answer, authority=authority)
        self.home = Home(folder=folder, base_url=self.server.base_url)
        self.expected = usage_rows(rows)
        self.log = write_csv(folder / "usage.csv", [_as_logged(row, broken) for row in self.expected])
        self.concurrency = concurrency
        self.options: tuple[str | Path, ...] = ()
        self.variables: dict[str, str] = {}
        self.in_doubt: set[str] = set()
        self.kills = 0
        self._tally = tally
        self._at_post: AtPost | None = None
        self._posts = 0
        self._pid = 0

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.server.close()
        twice = invariants.billed_twice(self.server.billed_by("x-device-id"))
        self._tally.scenarios += 1
        self._tally.kills += self.kills
        self._tally.rows += len(self.expected)
        self._tally.in_doubt += len(self.in_doubt)
        self._tally.billed_twice += len(twice)
        if kind is None:
            self.check_nothing_twice()

    def upload(
        self, *options: str | Path, at_post: AtPost | None = None, before: Sequence[str] = (), log: Path | None = None
    ) -> Ended:
        """Upload the scene's usage log, or another one."""
        source = log or self.log
        return self.run("upload", source, *options, source=source, at_post=at_post, before=before)

    def replay(
        self, path: Path, *options: str | Path, at_post: AtPost | None = None, before: Sequence[str] = ()
    ) -> Ended:
        """Replay a results or failed file as it is."""
        return self.run("replay", path, *options, source=path, at_post=at_post, before=before)

    def run(
        self,
        *arguments: str | Path,
        source: Path,
        at_post: AtPost | None = None,
        before: Sequence[str] = (),
    ) -> Ended:
        """Run a command to its end, and hold what it said of the rows of ``source`` against the server's log."""
        posts_before = len(self.server.posts)
        with self.started(*arguments, before=before) as process:
            # The command takes far longer to start than this, so no post can come before it.
            self._at_post, self._posts, self._pid = at_post, 0, process.pid
            done = ended(process)
        self.drain()
        self.kills += done.exit_code == -signal.SIGKILL
        self.check(done, source, posts=len(self.server.posts) - posts_before)
        return done

    def started(
        self, *arguments: str | Path, before: Sequence[str] = ()
    ) -> AbstractContextManager[subprocess.Popen[str]]:
        """Start a command with the scene's options; what is still running at the end is killed."""
        own = ("--concurrency", str(self.concurrency), *self.options)
        return self.home.started(*arguments, *own, variables=self.variables, before=before)

    def drain(self) -> None:
        """Wait until the server has read all that was sent to it by processes that have ended."""
        # Connections are accepted in their order: when this one has been served, all earlier ones have their thread.
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=_LONGEST_DRAIN_SECONDS) as last:
            last.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                while last.recv(4096):
                    pass
        for thread in self.server._threads[1:]:  # noqa: SLF001 -- the server itself has no use for a way to ask
            thread.join(_LONGEST_DRAIN_SECONDS)
            assert not thread.is_alive(), "a connection to the billing server is still open"

    def check(self, done: Ended, source: Path, *, posts: int) -> None:
        """Check the invariants that can be checked after any command, of which the server received so many posts."""
        invariants.check_command(done, posts=posts)
        self.check_nothing_twice()
        results = results_of(done)
        if results is None:
            return
        rows, failed = read_rows(results), failed_of(done)
        self.in_doubt |= {row["device_id"] for row in rows if row["upload_reason"] == "in_doubt"}
        failed_rows = read_rows(failed) if failed else None
        invariants.check_files(read_rows(source), rows, failed_rows, exit_code=done.exit_code)
        invariants.check_bills(rows, self.server.billed_by("x-device-id"))

    def check_nothing_twice(self) -> None:
        """Check that nothing was billed twice."""
        invariants.check_nothing_twice(self.server.billed_by("x-device-id"), self.server.billed_by("x-request-id"))

    def mark(self, path: Path) -> None:
        """Do as a careful operator does: mark rows in doubt by the backend's books, mend broken ones."""
        billed = self.server.billed_by("x-device-id")
        usage_by_device = {row.device_id: str(row.total_usage) for row in self.expected}
        rows = read_rows(path)
        for row in rows:
            if not row["device_id"]:
                continue  # malformed: a row that stood in a replayed file twice, say, and so is of no run
            row["total_usage"] = usage_by_device[row["device_id"]]
            if row["upload_replay"] in ("confirm", "resend", "recorded"):
                row["upload_replay"] = "recorded" if billed[row["device_id"]] else "resend"
        rewrite(path, rows)

    def settle(self) -> None:
        """Bring the scenario to its end with a sound backend: the same upload again, then replays of what failed.

        All rows must then be billed exactly once.
        """
        self.respond = contract
        self._replay_to_the_end(self.upload())

    def settle_by_replay(self, path: Path) -> None:
        """Bring the scenario to its end as ``settle`` does, but by replays alone."""
        self.respond = contract
        self.mark(path)
        self._replay_to_the_end(self.replay(path))

    def _replay_to_the_end(self, done: Ended) -> None:
        for _ in range(_MOST_REPLAYS):
            assert done.exit_code in (0, 1), done.said
            failed = failed_of(done)
            if failed is None:
                break
            self.mark(failed)
            done = self.replay(failed)
        assert done.exit_code == 0, done.said
        self.check_settled()

    def check_settled(self) -> None:
        """Check that all rows were billed exactly once."""
        self._tally.lost += (Counter(self.expected) - self.server.billed()).total()
        invariants.check_settled(self.server.billed(), self.expected)

    def _answer(self, received: Received) -> Answer:
        if received.method == "POST" and self._at_post is not None:
            self._posts += 1
            if self._posts == self._at_post.posts:
                self._at_post.act(self._pid)
        return self.respond(received)


NewScene = Callable[..., Scene]
"""The fixture ``new_scene``: makes a scene in a folder of its own; what it is given goes to ``Scene``."""


def results_of(done: Ended) -> Path | None:
    """Find the results file that a command names."""
    return _named(done, "results")


def failed_of(done: Ended) -> Path | None:
    """Find the failed file that a command names."""
    return _named(done, "failed")


def the_error(done: Ended) -> str:
    """Give the one line that says what went wrong, and what to do."""
    # What ends one file is in the summary, and in the log on standard error as well; what ends the command there alone.
    found = [[line for line in said.splitlines() if " -- " in line] for said in (done.stdout, done.stderr)]
    (line,) = found[0] or found[1]
    return line


def rewrite(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Save rows as a spreadsheet would."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _as_logged(row: BilledRow, broken: Collection[str]) -> tuple[object, ...]:
    return (*row[:3], f"{row.total_usage} units") if row.device_id in broken else row


def _named(done: Ended, what: str) -> Path | None:
    found = re.search(rf"^  {what}: +(\S.*)$", done.stdout, re.MULTILINE)
    return Path(found[1]) if found else None
