"""Who may end a run: more than half of those who train."""

from __future__ import annotations

import random

import pytest

from gossip.protocol.membership import Membership
from gossip.protocol.messages import Phase, State, Status, Update
from gossip.protocol.stopping import Stopping


@pytest.fixture
def membership() -> Membership:
    return Membership(b"m" * 32, "m:1", random.Random(1))


def hear(
    membership: Membership, who: int, wants_end: bool, phase: Phase = Phase.TRAINING, state: State = State.ALIVE
) -> None:
    key = bytes([who]) * 32
    sequence = membership.members[key].status.sequence + 1 if key in membership.members else 1
    membership.on_updates(key, (Update(key, "x:1", 0, state, Status(sequence, phase, wants_end=wants_end)),), 0.0)


def test_a_node_alone_ends_when_its_own_criterion_holds(membership: Membership) -> None:
    """And says which one it was."""
    stopping = Stopping(membership, target_accuracy=0.9)
    stopping.on_look(0.89)
    assert stopping.verdict(votes_itself=True) == ""
    stopping.on_look(0.9)
    assert stopping.verdict(votes_itself=True) == "an accuracy of 0.9 is reached"


def test_more_than_half_is_needed(membership: Membership) -> None:
    """Half is not enough, a newcomer has no voice, and who settles wants the end."""
    stopping = Stopping(membership)
    for who in range(1, 4):
        hear(membership, who, wants_end=False)
    hear(membership, 4, wants_end=True, phase=Phase.JOINING)
    hear(membership, 1, wants_end=True)
    hear(membership, 2, wants_end=False, phase=Phase.SETTLING)
    assert stopping.verdict(votes_itself=True) == "", "two of four"
    hear(membership, 3, wants_end=True)
    assert stopping.verdict(votes_itself=True) == "most of the swarm has ended it"


def test_who_left_after_the_end_is_remembered(membership: Membership) -> None:
    """The last one does not train on alone; who was merely stopped ends nothing."""
    stopping = Stopping(membership)
    for who in (1, 2):
        hear(membership, who, wants_end=False, phase=Phase.DONE, state=State.LEFT)
    assert stopping.verdict(votes_itself=True) == ""
    for who in (3, 4):
        hear(membership, who, wants_end=True, phase=Phase.DONE, state=State.LEFT)
    assert stopping.verdict(votes_itself=True)


def test_a_plateau_is_so_many_looks_without_progress(membership: Membership) -> None:
    """A thousandth is progress, less is noise; a dip that is made good is none; a later life remembers."""
    stopping = Stopping(membership, plateau=3)
    for accuracy in (0.5, 0.5005, 0.4, 0.501, 0.5, 0.5015):
        stopping.on_look(accuracy)
        assert not stopping.wish
    later = Stopping(membership, plateau=3)
    later.restore(stopping.notes())
    later.on_look(0.5015)
    assert later.wish == "3 looks without progress"
