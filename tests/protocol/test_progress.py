"""The swarm's clock: a sum in which everybody raises only its own entry."""

from __future__ import annotations

import random

import pytest

from gossip.protocol.membership import SUSPICION_S, Membership
from gossip.protocol.messages import State, Status, Update
from gossip.protocol.progress import EXTRAPOLATE_MAX_S, LOOKS, Progress

A, B = b"a" * 32, b"b" * 32


@pytest.fixture
def membership() -> Membership:
    return Membership(b"m" * 32, "m:1", random.Random(1))


def hear(membership: Membership, key: bytes, sequence: int, samples: int, rate: float, now: float) -> None:
    status = Status(sequence, samples=samples, samples_per_s=rate)
    membership.on_updates(key, (Update(key, "x:1", 0, State.ALIVE, status),), now)


def test_the_clock_is_the_sum_over_all(membership: Membership) -> None:
    """Ours as we know it, the others' as they last said."""
    progress = Progress(membership, 1_000)
    hear(membership, A, 1, 100, 0.0, 0.0)
    hear(membership, B, 1, 200, 0.0, 0.0)
    assert progress.update(50, 0.0) == 0.35 and progress.samples == 350


def test_reports_are_carried_on_at_their_rate(membership: Membership) -> None:
    """News of a member may be many seconds old in a larger swarm; whoever lives is believed to step."""
    progress = Progress(membership, 10_000)
    hear(membership, A, 1, 100, 10.0, 0.0)
    progress.update(0, 5.0)
    assert progress.samples == 150
    progress.update(0, 1_000.0)
    assert progress.samples == 100 + 10 * EXTRAPOLATE_MAX_S


def test_the_dead_count_for_what_they_did(membership: Membership) -> None:
    """Their samples were trained on; from their death on no more are."""
    progress = Progress(membership, 10_000)
    hear(membership, A, 1, 100, 10.0, 0.0)
    membership.on_link_broken(A, 0.0, "reset")
    membership.on_tick(SUSPICION_S, [])
    progress.update(0, 20.0)
    assert progress.samples == 100


def test_the_clock_never_goes_back(membership: Membership) -> None:
    """A learning rate that rises again because a guess was too high helps nobody."""
    progress = Progress(membership, 10_000)
    hear(membership, A, 1, 100, 100.0, 0.0)
    progress.update(0, 2.0)
    hear(membership, A, 2, 110, 1.0, 2.0)
    progress.update(0, 2.0)
    assert progress.samples == 300


def test_the_run_is_over_once(membership: Membership) -> None:
    """And a share stays a share."""
    progress = Progress(membership, 100)
    assert not progress.is_over
    assert progress.update(250, 0.0) == 1.0 and progress.is_over


def test_looks_are_spread_over_the_run(membership: Membership) -> None:
    """Forty points make the picture, however long or short the run."""
    progress = Progress(membership, 10_000)
    looks = 0
    for samples in range(0, 10_001, 10):
        progress.update(samples, 0.0)
        looks += progress.look_is_due()
    assert looks == LOOKS
