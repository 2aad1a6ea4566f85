"""A backend whose answers wait until the test lets them go, so that a test can meddle while posts are in flight."""

from __future__ import annotations

import threading

from tests.billing_answers import Answer
from tests.billing_contract import BilledRow, Received, contract


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
