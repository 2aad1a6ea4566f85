"""Backends that misbehave, each a ``Respond`` of the billing server; what they bill, its log says."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace

from tests.billing_answers import Answer, Then, cut, reply
from tests.billing_contract import Received, Respond, contract

LOST = Answer(then=Then.RST)
"""No answer; the event was recorded."""
NEVER_RECORDED = Answer(then=Then.RST, bills=False)
"""No answer; the event was not recorded, which no client can know."""


def rejecting(device_ids: Collection[str]) -> Respond:
    """Reject the posts of some devices."""

    def respond(received: Received) -> Answer:
        if received.headers.get("x-device-id") in device_ids:
            return reply(400, {"error": "no such meter"})
        return contract(received)

    return respond


def answering(answer_by_device: dict[str, Answer]) -> Respond:
    """Answer the posts of some devices in a way of their own."""

    def respond(received: Received) -> Answer:
        return answer_by_device.get(received.headers.get("x-device-id", "")) or contract(received)

    return respond


def moody(seed: int, *, share: float) -> Respond:
    """Fail a share (0 to 1) of all calls, each in a way that chance chooses; the same seed, the same chance."""
    chance = random.Random(seed)  # noqa: S311 -- no secret

    def respond(received: Received) -> Answer:
        if chance.random() >= share:
            return contract(received)
        if received.method == "GET":
            return chance.choice([reply(500), reply(404), LOST])
        return chance.choice(_bad_answers(contract(received)))

    return respond


def _bad_answers(right: Answer) -> Sequence[Answer]:
    """Make wrong answers out of the right one; of those that leave it open, some were recorded and some were not."""
    unclear = [LOST, reply(500), reply(502, b"<html>"), reply(200, b"[]"), cut(right, after_bytes=40)]
    return [
        reply(400, {"error": "no"}),
        reply(408),
        reply(409),
        *unclear,
        *(replace(answer, bills=False) for answer in unclear),
    ]
