"""Who may end a run: more than half of those who train."""

from __future__ import annotations

import hashlib
import random

import pytest

from gossip.protocol.membership import Membership
from gossip.protocol.messages import Phase, State, Status, Update
from gossip.protocol.stopping import WORD_S, Stopping


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
    assert stopping.verdict(votes_itself=True, now=0.0) == ""
    stopping.on_look(0.9)
    assert stopping.verdict(votes_itself=True, now=0.0) == "an accuracy of 0.9 is reached"


def test_more_than_half_is_needed(membership: Membership) -> None:
    """Half is not enough, a newcomer has no voice, and who settles wants the end."""
    stopping = Stopping(membership)
    for who in range(1, 4):
        hear(membership, who, wants_end=False)
    hear(membership, 4, wants_end=True, phase=Phase.JOINING)
    hear(membership, 1, wants_end=True)
    hear(membership, 2, wants_end=False, phase=Phase.SETTLING)
    assert stopping.verdict(votes_itself=True, now=0.0) == "", "two of four"
    hear(membership, 3, wants_end=True)
    assert stopping.verdict(votes_itself=True, now=0.0) == "most of the swarm has ended it"


def test_who_left_after_the_end_is_remembered(membership: Membership) -> None:
    """The last one does not train on alone; who was merely stopped ends nothing."""
    stopping = Stopping(membership)
    for who in (1, 2):
        hear(membership, who, wants_end=False, phase=Phase.DONE, state=State.LEFT)
    assert stopping.verdict(votes_itself=True, now=0.0) == ""
    for who in (3, 4):
        hear(membership, who, wants_end=False)
        hear(membership, who, wants_end=True, phase=Phase.DONE, state=State.LEFT)
    assert stopping.verdict(votes_itself=True, now=0.0)


ALL = [bytes([who]) * 32 for who in range(1, 21)]


def invent(membership: Membership, keys: list[bytes], state: State, status: Status) -> None:
    """What one member, the first, says of others."""
    membership.on_updates(ALL[0], [Update(key, "x:1", 0, state, status) for key in keys], 0.0)


LEAVERS = [hashlib.sha256(bytes([who])).digest() for who in range(40)]
LIES = {
    "members that have left": (LEAVERS, State.LEFT, Status(1, Phase.DONE, wants_end=True)),
    "members that settle": (LEAVERS, State.ALIVE, Status(1, Phase.SETTLING, wants_end=True)),
    "the others settle": (ALL[1:], State.ALIVE, Status(10**9, Phase.SETTLING, wants_end=True)),
    "the others have left": (ALL[1:], State.LEFT, Status(10**9, Phase.DONE, wants_end=True)),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("wanting", [2, 12])
def test_what_one_member_says_of_others_ends_nothing(membership: Membership, lie: str, wanting: int) -> None:
    """Forty names in one message ended everybody's run; nor does it take from anybody the voice it has."""
    stopping = Stopping(membership)
    for who in range(1, 21):
        hear(membership, who, wants_end=who <= wanting)
    invent(membership, *LIES[lie])
    assert bool(stopping.verdict(votes_itself=True, now=1.0)) == (wanting > 10)


def test_who_comes_only_to_leave_has_no_voice(membership: Membership) -> None:
    """One link could bring a hundred of them, one after the other."""
    stopping = Stopping(membership)
    hear(membership, 1, wants_end=False)
    for who in range(2, 22):
        hear(membership, who, wants_end=True, phase=Phase.DONE, state=State.LEFT)
    assert stopping.verdict(votes_itself=True, now=0.0) == ""


def test_an_old_word_counts_no_more(membership: Membership) -> None:
    """Links change: what a neighbour of an hour ago wanted must not keep its successors from ending."""
    stopping = Stopping(membership)
    for who in range(1, 12):
        hear(membership, who, wants_end=False)
    invent(membership, ALL[1:11], State.ALIVE, Status(5, Phase.SETTLING, wants_end=True))
    now = WORD_S + 1
    for key in ALL[:5]:
        membership.on_updates(key, (Update(key, "x:1", 0, State.ALIVE, Status(9, Phase.SETTLING)),), now)
    assert stopping.verdict(votes_itself=True, now=WORD_S) == ""
    assert stopping.verdict(votes_itself=True, now=now)


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
