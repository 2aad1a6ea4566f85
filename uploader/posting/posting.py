"""The posting of a file: rows that are due -> customer known -> marked as sending -> posted -> recorded.

One thread, and one loop that is the whole order of things: nothing is posted that was not committed as "sending"
before, and a slot takes its next row only in the commit that records its last outcome.
"""

from __future__ import annotations

import heapq
import itertools
import operator
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from uploader.ledger.ledger import Sending
from uploader.model import api
from uploader.model.errors import UploaderError
from uploader.model.model import Outcome, Reason, RowState, now_milliseconds
from uploader.model.settings import Settings
from uploader.pacing.pacing import Pacing
from uploader.posting.calls import Call, Due, LookUp
from uploader.posting.customers import Customers
from uploader.posting.progress import Progress
from uploader.sender.sender import Sender

_MOST_ROWS_HELD = 10_000
"""Rows read ahead, most of them waiting for their tenant's look-up; some 5 MB."""
_MOST_ROWS_A_TURN = 1_000
"""So that the first tenants are asked for, and answers are read, while the rows after them are still being read."""
_row_of = operator.attrgetter("row")
_LONGEST_WAIT_SECONDS = 0.2
"""So that a signal is noticed soon."""


class Recorder(Protocol):
    """What posting needs of a ledger."""

    def commit(self, *, settled: Sequence[RowState], sending: Sequence[Sending]) -> None:
        """Record outcomes, and the rows that are about to be posted, durably."""


@dataclass(slots=True, kw_only=True)
class Posting:
    """Posts the rows of one file. What it is handed lives for the whole command, but for the ledger and the progress.

    should_stop: asked in every round; True after a signal. Calls in flight are then waited for, none is started.
    tell:        called in every round.
    most_failed: the failure budget, in rows; one more ends the posting of this file. None for none.
    """

    settings: Settings
    ledger: Recorder
    customers: Customers
    sender: Sender[Call]
    pacing: Pacing
    progress: Progress
    should_stop: Callable[[], bool]
    tell: Callable[[Progress], None]
    most_failed: int | None = None
    _ready: deque[Due] = field(default_factory=deque)
    _waiting_by_tenant: dict[str, list[Due]] = field(default_factory=dict)
    _later: list[tuple[float, int, Call]] = field(default_factory=list)
    _serial: Iterator[int] = field(default_factory=itertools.count)
    _look_ups_again: deque[LookUp] = field(default_factory=deque)
    _settled: list[RowState] = field(default_factory=list)
    _rows_held: int = 0
    _fault: UploaderError | None = None
    _is_all_read: bool = False
    _is_probing: bool = False
    _is_ready_in_order: bool = True
    _gives_odd_slot_to_look_ups: bool = True

    def post_all(self, rows: Iterator[Due | RowState]) -> None:
        """Post every row that is due, and record every state that is handed in settled.

        Returns when all is recorded, or when the run must stop (``pacing.stop``, ``progress.stop``, a signal) and
        nothing is in flight any more; rows that were not reached have no new state then.

        Raises:
            UploaderError: as the rows or the ledger raised it.
        """
        while True:
            if not self._is_stopping():
                self._take_in(rows)
            self._commit_and_start(self._choose_calls())
            self.tell(self.progress)
            if self._is_over():
                break
            self._wait_for_answers()
        # The rows that asked are gone: the next file must ask for its tenants anew.
        self.customers.forget_questions()
        if self._fault is not None:
            raise self._fault

    def _is_stopping(self) -> bool:
        return bool(self.pacing.stop or self.progress.stop) or self._fault is not None or self.should_stop()

    def _is_over(self) -> bool:
        if self.sender.in_flight or self._settled:
            return False
        return self._is_stopping() or (self._is_all_read and not self._rows_held)

    def _take_in(self, rows: Iterator[Due | RowState]) -> None:
        enough_ready = self._enough_ready()
        left = _MOST_ROWS_A_TURN
        # Rows that need no post, such as all of an unknown tenant's, must not be gathered in memory.
        while left and not self._is_full() and max(len(self._ready), len(self._settled)) < enough_ready:
            taken = self._read(rows, most=min(left, enough_ready - len(self._ready), _MOST_ROWS_HELD - self._rows_held))
            left -= len(taken)
            for row in taken:
                if isinstance(row, RowState):
                    self._settle_row(row)
                else:
                    self._rows_held += 1
                    self._route(row)

    def _enough_ready(self) -> int:
        return 2 * self.pacing.limit

    def _is_full(self) -> bool:
        return self._is_all_read or self._rows_held >= _MOST_ROWS_HELD

    def _read(self, rows: Iterator[Due | RowState], *, most: int) -> list[Due | RowState]:
        taken: list[Due | RowState] = []
        try:
            taken.extend(itertools.islice(rows, most))
        except UploaderError as error:  # say, the log changed under us; calls in flight are still worth their answers
            self._fault = error
        self._is_all_read = len(taken) < most
        return taken

    def _route(self, due: Due) -> None:
        tenant_id = due.event.tenant_id
        customer = self.customers.customer_id(tenant_id)
        if customer is None:
            self._waiting_by_tenant.setdefault(tenant_id, []).append(due)
        elif isinstance(customer, Outcome):
            self._give_up(due, customer)
        else:
            self._ready.append(due)

    def _choose_calls(self) -> list[Call]:
        now_seconds = time.monotonic()
        in_flight = self.sender.in_flight
        self.pacing.note_turn(now_seconds=now_seconds, in_flight=in_flight, waited_seconds=self.sender.waited_seconds)
        if self._is_stopping():
            return []
        if self.pacing.wants_probe(now_seconds=now_seconds) and not self._is_probing and self.customers.first_tenant:
            self._is_probing = True
            return [LookUp(self.customers.first_tenant, is_probe=True)]
        self._wake(now_seconds)
        free = self.pacing.calls_allowed(now_seconds=now_seconds, in_flight=in_flight)
        look_ups = self._choose_look_ups(self._share_of_look_ups(free))
        rows = self.pacing.rows_allowed(min(free - len(look_ups), len(self._ready)), now_seconds=now_seconds)
        if not self._is_ready_in_order:
            # The first rows of the file go first: neighbours share the pages of the ledger that a commit writes.
            self._ready = deque(sorted(self._ready, key=_row_of))
            self._is_ready_in_order = True
        posts = [self._ready.popleft() for _ in range(rows)]
        self.pacing.note_rows_started(rows, now_seconds=now_seconds)
        return [*look_ups, *posts]

    def _wake(self, now_seconds: float) -> None:
        while self._later and self._later[0][0] <= now_seconds:
            _, _, call = heapq.heappop(self._later)
            if isinstance(call, Due):
                self._ready.appendleft(call)
            else:
                self._look_ups_again.append(call)

    def _share_of_look_ups(self, free: int) -> int:
        """Let look-ups and posts share the free slots, so that neither starves the other."""
        if not self._ready:
            return free
        if free % 2:
            self._gives_odd_slot_to_look_ups = not self._gives_odd_slot_to_look_ups
        return (free + self._gives_odd_slot_to_look_ups) // 2

    def _choose_look_ups(self, most: int) -> list[LookUp]:
        chosen: list[LookUp] = []
        while len(chosen) < most and self._look_ups_again:
            chosen.append(self._look_ups_again.popleft())
        while len(chosen) < most and self.customers.has_some_to_ask:
            chosen.append(LookUp(self.customers.next_to_ask()))
        return chosen

    def _commit_and_start(self, calls: list[Call]) -> None:
        starting: list[tuple[Call, api.Request]] = []
        sending: list[Sending] = []
        at_milliseconds = now_milliseconds()
        for call in calls:
            if isinstance(call, LookUp):
                starting.append((call, api.look_up_request(self.settings, call.tenant_id)))
                continue
            customer_id = self.customers.found_id(call.event.tenant_id)  # else the row would not be ready
            sending.append(Sending(call.row, call.attempts + 1, at_milliseconds, customer_id))
            request = api.post_request(self.settings, call.event, customer_id=customer_id, event_id=call.event_id)
            starting.append((call, request))
        if self._settled or sending:
            self.ledger.commit(settled=self._settled, sending=sending)
            self._settled.clear()
        for call, request in starting:
            self.sender.start(call, request)
        self.progress.posts += len(sending)
        self.progress.look_ups += len(calls) - len(sending)

    def _wait_for_answers(self) -> None:
        now_seconds = time.monotonic()
        wait_seconds = _LONGEST_WAIT_SECONDS
        if self._later and not self._is_stopping():
            wait_seconds = min(wait_seconds, max(0.0, self._later[0][0] - now_seconds))
        pause_seconds = self.pacing.wait_seconds(now_seconds=now_seconds)
        if not pause_seconds and self._ready:
            pause_seconds = self.pacing.row_wait_seconds(now_seconds=now_seconds)
        if pause_seconds:
            wait_seconds = min(wait_seconds, pause_seconds)
        if not self.sender.in_flight:
            # Without a pause, all that was ready has been started; rows that need no call may still be unread.
            if pause_seconds or self._is_full():
                time.sleep(wait_seconds)
            return
        if not self._is_stopping() and not self._is_full() and len(self._ready) < self._enough_ready():
            wait_seconds = 0.0  # there are rows to be read meanwhile
        ended = self.sender.wait(timeout_seconds=wait_seconds)
        now_seconds, at_milliseconds = time.monotonic(), now_milliseconds()
        timings = self.progress.timings
        timings.tick(now_seconds=now_seconds)
        for call, exchange in ended:
            took, is_retry = exchange.elapsed_seconds, call.tries > 0
            if isinstance(call, LookUp):
                timings.note_look_up(took, is_retry=is_retry, is_probe=call.is_probe)
                self._note_look_up(call, api.judge_look_up(self.settings, exchange), took, now_seconds=now_seconds)
            else:
                verdict = api.judge_post(self.settings, exchange)
                timings.note_post(took, is_accepted=verdict.outcome.reason is None, is_retry=is_retry)
                self.pacing.note_post(verdict, now_seconds=now_seconds, elapsed_seconds=took)
                self._note_post(call, verdict, now_seconds=now_seconds, at_milliseconds=at_milliseconds)

    def _note_look_up(self, call: LookUp, verdict: api.Verdict, elapsed_seconds: float, *, now_seconds: float) -> None:
        if call.is_probe:
            self._is_probing = False
            self.pacing.note_probe(verdict, now_seconds=now_seconds)
            return
        self.pacing.note_look_up(verdict, now_seconds=now_seconds, elapsed_seconds=elapsed_seconds)
        tries = call.tries + 1
        delay_seconds = self.pacing.retry_delay_seconds(verdict, tries=tries)
        if delay_seconds is not None:
            self._call_later(replace(call, tries=tries), now_seconds + delay_seconds)
        elif not verdict.stop:
            self.customers.settle(call.tenant_id, verdict)
            for due in self._waiting_by_tenant.pop(call.tenant_id, ()):
                self._route(due)
            self._is_ready_in_order = False

    def _note_post(self, due: Due, verdict: api.Verdict, *, now_seconds: float, at_milliseconds: int) -> None:
        outcome = _with_history(verdict.outcome, due)
        customer_id = self.customers.found_id(due.event.tenant_id)
        state = RowState(due.row, outcome, due.attempts + 1, at_milliseconds, customer_id)
        delay_seconds = self.pacing.retry_delay_seconds(verdict, tries=due.tries + 1)
        if delay_seconds is None:
            self._rows_held -= 1
            self._settle_row(state)
            return
        self._settled.append(state)
        doubt = outcome.detail if outcome.reason is Reason.IN_DOUBT else ""
        again = replace(due, attempts=due.attempts + 1, tries=due.tries + 1, doubt=doubt)
        self._call_later(again, now_seconds + delay_seconds)

    def _call_later(self, call: Call, due_seconds: float) -> None:
        self.progress.retries += 1
        heapq.heappush(self._later, (due_seconds, next(self._serial), call))

    def _give_up(self, due: Due, outcome: Outcome) -> None:
        self._rows_held -= 1
        self._settle_row(RowState(due.row, _with_history(outcome, due), due.attempts, now_milliseconds()))

    def _settle_row(self, state: RowState) -> None:
        self._settled.append(state)
        self.progress.settle(state)
        if self.most_failed is not None and self.progress.failed > self.most_failed:
            self.progress.stop = over_budget(self.most_failed)


def over_budget(most_failed: int) -> str:
    """Say why posting ends when more rows failed than the failure budget allows."""
    return f"more than {most_failed:,} rows failed (--max-failed); correct those first, or allow for more"


def _with_history(outcome: Outcome, due: Due) -> Outcome:
    """Give what a row came to, with what was known of it before: the note of an accepted one, and any doubt."""
    if outcome.reason is None:
        return replace(outcome, detail=due.note) if due.note else outcome
    return outcome.after_doubt(due.doubt)
