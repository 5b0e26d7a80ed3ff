"""The end of a run: agree, but wait for nobody who will not come."""

from __future__ import annotations

import random

import pytest

from gossip.protocol.membership import Membership
from gossip.protocol.messages import Phase, State, Status, Update
from gossip.protocol.settling import EXCHANGE_EVERY_S, EXCHANGES, LONELY_S, PATIENCE_S, Settling

A, B = b"a" * 32, b"b" * 32


@pytest.fixture
def membership() -> Membership:
    return Membership(b"m" * 32, "m:1", random.Random(1))


def hear(membership: Membership, key: bytes, phase: Phase, sequence: int = 1, state: State = State.ALIVE) -> None:
    membership.on_updates(key, (Update(key, "x:1", 0, state, Status(sequence, phase)),), 0.0)


def settling(membership: Membership) -> Settling:
    machine = Settling(membership)
    machine.begin(0.0)
    return machine


def test_a_lonely_node_is_done_at_once(membership: Membership) -> None:
    """There is nobody to agree with."""
    assert settling(membership).is_over(0, [A, B], 0.0)
    assert not Settling(membership).is_over(0, [A, B], 0.0), "not before it has begun"


def test_enough_exchanges_after_the_last_has_arrived(membership: Membership) -> None:
    """Mixing with one that still steps settles nothing: the count begins when all have stopped."""
    machine = settling(membership)
    hear(membership, A, Phase.TRAINING)
    hear(membership, B, Phase.SETTLING)
    assert not machine.is_over(EXCHANGES, [A, B], 1.0)
    hear(membership, A, Phase.SETTLING, sequence=2)
    assert not machine.is_over(EXCHANGES, [A, B], 2.0)
    assert not machine.is_over(2 * EXCHANGES - 1, [A, B], 3.0)
    assert machine.is_over(2 * EXCHANGES, [A, B], 3.0)


def test_patience_ends(membership: Membership) -> None:
    """One that hangs in its last step, alive or not, costs eight seconds."""
    machine = settling(membership)
    hear(membership, A, Phase.TRAINING)
    assert not machine.is_over(99, [A, B], PATIENCE_S)
    assert machine.is_over(99, [A, B], PATIENCE_S + 0.1)


def test_the_departed_are_not_waited_for(membership: Membership) -> None:
    """Nor is one that is done, nor a newcomer that never got its state."""
    machine = settling(membership)
    hear(membership, A, Phase.DONE)
    assert machine.is_over(0, [A, B], 0.1)
    hear(membership, A, Phase.TRAINING, sequence=2)
    assert not machine.is_over(0, [A, B], 0.1)
    hear(membership, A, Phase.TRAINING, sequence=3, state=State.LEFT)
    assert machine.is_over(0, [A, B], 0.2)
    hear(membership, B, Phase.JOINING)
    assert not machine.is_over(0, [A, B], 0.3)
    assert machine.is_over(0, [A, B], 0.3 + LONELY_S)


def test_who_has_nobody_left_to_mix_with_goes(membership: Membership) -> None:
    """News of goodbyes are late in a larger swarm: some are believed to be there, and no link leads to them."""
    machine = settling(membership)
    hear(membership, A, Phase.SETTLING)
    assert not machine.is_over(0, [A], 0.5) and not machine.is_over(0, [B], 1.0)
    assert not machine.is_over(0, [A], 1.5), "a link was only just replaced"
    assert not machine.is_over(0, [], 2.0)
    assert machine.is_over(0, [], 2.0 + LONELY_S)


def test_exchanges_are_due_at_a_steady_pace(membership: Membership) -> None:
    """Fast, because nothing else is to be done; paced, because peers have to answer."""
    machine = Settling(membership)
    assert not machine.exchange_is_due(1e9)
    machine.begin(5.0)
    assert machine.exchange_is_due(5.0) and not machine.exchange_is_due(5.0)
    assert machine.next_deadline() == 5.0 + EXCHANGE_EVERY_S
