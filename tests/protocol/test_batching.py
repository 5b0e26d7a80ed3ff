"""Batches follow the rates of the swarm, whatever one member says of its own."""

from __future__ import annotations

import random

import pytest

from gossip.protocol import events as ev
from gossip.protocol.batching import FIRST_S, Batching
from gossip.protocol.membership import Membership
from gossip.protocol.messages import Phase, State, Status, Update


def batch_among(rates: list[float]) -> list[int]:
    """What a node of 1,000 samples a second takes, twice asked."""
    membership = Membership(b"m" * 32, "m:1", random.Random(1))
    membership.set_status(samples_per_s=1_000.0)
    for number, rate in enumerate(rates):
        key = bytes([number]) * 32
        status = Status(1, Phase.TRAINING, samples_per_s=rate)
        membership.on_updates(key, (Update(key, "x:1", 0, State.ALIVE, status),), 0.0)
    batching = Batching(membership, 32)
    effects = batching.on_steps(0.0) + batching.on_steps(FIRST_S)
    return [effect.batch for effect in effects if isinstance(effect, ev.SetBatch)]


@pytest.mark.parametrize(
    ("rates", "batches"),
    [([250.0, 250.0, 250.0, 0.0], [128]), ([250.0, 0.0, 0.0], []), ([0.0], []), ([], [])],
    ids=["one is silent", "most are silent", "the only other is silent", "alone"],
)
def test_who_tells_no_rate_keeps_nobody_from_a_batch(rates: list[float], batches: list[int]) -> None:
    """One that trains at 0 samples a second, broken or lying, switched the rule off for everybody."""
    assert batch_among(rates) == batches
