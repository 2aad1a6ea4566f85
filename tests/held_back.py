"""A backend whose answers wait until the test lets them go, so that a test can meddle while posts are in flight."""

from __future__ import annotations

import threading

from tests.billing_answers import Answer
from tests.billing_contract import BilledRow, Received, contract
from tests.billing_server import BillingServer
from tests.command import Home, ended, usage_rows, write_csv


class HeldBack:
    """Answers rightly, but holds back every post after the first ``answered`` ones until ``release`` is called."""

    def __init__(self, *, answered: int) -> None:
        self._left = answered
        self._gate = threading.Event()
        self.held: list[BilledRow] = []

    def __call__(self, received: Received) -> Answer:
        """Choose the answer to a request."""
        answer = contract(received)
        if received.method == "GET":
            return answer
        self._left -= 1
        if self._left >= 0:
            return answer
        self.held.append(received.billed_row)
        return Answer(answer.data, gate=self._gate)

    def release(self) -> None:
        """Let the answers go."""
        self._gate.set()


def kill_an_upload(home: Home, server: BillingServer) -> None:
    """Kill an upload of the six rows of usage.csv while the third is being sent."""
    backend = HeldBack(answered=2)
    server.respond = backend
    write_csv(home.folder / "usage.csv", usage_rows(6))
    with home.started("upload", "usage.csv", "--concurrency", "1") as process:
        server.wait_for(posts=3)
        process.kill()
        ended(process)
    backend.release()
    server.respond = contract
