"""The dead are remembered, but not for ever and not all of them."""

from __future__ import annotations

import random

import pytest

from gossip.protocol.forgetting import GONE_KEPT, KEPT_S, forgettable
from gossip.protocol.member import Member
from gossip.protocol.membership import MEMBERS_KNOWN_MAX, Membership
from gossip.protocol.messages import State, Status, Update
from gossip.protocol.progress import Progress

ME = b"m" * 32


def gone(number: int, since: float = 0.0, state: State = State.DEAD) -> Member:
    return Member(number.to_bytes(32, "big"), "x:1", 0, state, Status(), 0.0, since=since)


def test_the_newest_thousand_are_kept() -> None:
    """And the living, however old; and whoever is gone for less than an hour."""
    members = [gone(n, since=float(n)) for n in range(GONE_KEPT + 10)]
    members.append(gone(9_999, since=-1.0, state=State.ALIVE))
    assert forgettable(members, KEPT_S) == []
    assert sorted(forgettable(members, KEPT_S + 5.0)) == [member.key for member in members[:5]]
    assert len(forgettable(members, 10 * KEPT_S)) == 10


@pytest.mark.slow
def test_a_swarm_that_churns_for_months_has_room() -> None:
    """A full table once refused every newcomer: the longest gone make way, and the swarm's clock stands."""
    membership = Membership(ME, "m:1", random.Random(1))
    progress = Progress(membership, 10**9)
    progress.begin(0, 0.0)
    for number in range(MEMBERS_KNOWN_MAX + 500):
        peer = number.to_bytes(32, "big")
        update = Update(peer, "x:1", 0, State.ALIVE, Status(sequence=1, samples=10))
        effects = membership.on_updates(peer, [update], float(number))
        assert [effect.name for effect in effects] == ["member_alive"]  # type: ignore[union-attr]
        progress.on_steps(10 * number, float(number))
        membership._change(membership.members[peer], State.LEFT, float(number), "said so itself")
    assert len(membership.members) <= MEMBERS_KNOWN_MAX
    before = progress.samples
    membership.on_tick(10 * KEPT_S, [])
    assert len(membership.members) == GONE_KEPT
    progress.advance(float(number), at_once=True)
    assert progress.samples >= before


def test_others_do_not_bring_back_whom_we_forgot() -> None:
    """They forget at other times than we do: retold, the dead would go round for ever. The living are learnt."""
    membership = Membership(ME, "m:1", random.Random(1))
    for number in range(GONE_KEPT):
        member = gone(number)
        membership.members[member.key] = member
    late = [Update(b"l" * 32, "", 0, State.DEAD, Status()), Update(b"n" * 32, "", 0, State.ALIVE, Status())]
    membership.on_updates(b"?" * 32, late, 1.0)
    assert b"l" * 32 not in membership.members and b"n" * 32 in membership.members


def test_news_are_mostly_of_the_living() -> None:
    """A thousand dead would otherwise crowd the few who live out of every message."""
    membership = Membership(ME, "m:1", random.Random(1))
    for number in range(1_000):
        membership.members[gone(number).key] = gone(number, state=State.ALIVE if number < 6 else State.DEAD)
    told = [update.state for _ in range(100) for update in membership._updates_for(b"?" * 32)[1:]]
    assert told.count(State.ALIVE) > 100
