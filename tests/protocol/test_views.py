"""I see three, that one sees six."""

from __future__ import annotations

import random

from gossip.protocol import events as ev
from gossip.protocol import messages as msg
from gossip.protocol.membership import Membership
from gossip.protocol.messages import State, Status, Update
from gossip.protocol.views import AGAIN_S, PATIENCE_S, Views

ME, A, B, C = (letter * 32 for letter in (b"m", b"a", b"b", b"c"))


def table(sees: int, others: int = 0) -> Membership:
    """A is alive and sees so many; we know `others` besides."""
    membership = Membership(ME, "m:1", random.Random(1))
    membership.on_updates(A, [Update(A, "a:1", 0, State.ALIVE, Status(sequence=1, members=sees))], 0.0)
    more = [Update(bytes([n]) * 32, "x:1", 0, State.ALIVE, Status()) for n in range(others)]
    membership.on_updates(A, more, 0.0)
    return membership


def watch(views: Views, seconds: float, start: float = 0.0) -> list[ev.Effect]:
    return [effect for look in range(int(seconds)) for effect in views.on_tick(start + look, [A])]


def test_a_lasting_difference_is_told_and_asked_about() -> None:
    """The swarm may have split in two without anybody noticing: that is how others lose whole runs."""
    views = Views(table(sees=6))
    assert watch(views, PATIENCE_S) == []
    note, request = views.on_tick(PATIENCE_S, [A])
    assert note == ev.Emit("views_differ", {"peer": A.hex()[:8], "mine": 2, "theirs": 6})
    assert request == ev.Send(A, msg.MembersRequest())
    assert watch(views, AGAIN_S - 1, start=PATIENCE_S + 1) == []
    assert len(watch(views, 2, start=PATIENCE_S + AGAIN_S)) == 2


def test_news_under_way_are_no_split() -> None:
    """One more or less, a tenth of many, or a peer that does not say: nothing to tell."""
    for membership in (table(sees=3), table(sees=0), table(sees=110, others=97)):
        assert watch(Views(membership), 60) == []
    views = Views(membership := table(sees=6))
    watch(views, 8)
    membership.set_status(members=2)
    membership.on_updates(A, [Update(A, "a:1", 0, State.ALIVE, Status(sequence=2, members=2))], 8.0)
    assert watch(views, 60, start=8) == []


def test_whom_the_other_holds_for_alive_is_dialed() -> None:
    """We hold B for dead and have never heard of C; of what was not asked for nothing is made."""
    membership = table(sees=6)
    membership.on_updates(A, [Update(B, "b:1", 0, State.LEFT, Status())], 0.0)
    told = [Update(key, "x:1", 0, State.ALIVE, Status()) for key in (ME, A, B, C)]
    views = Views(membership)
    assert views.on_members(A, told) == []
    watch(views, PATIENCE_S + 2)
    assert views.on_members(A, told) == [B, C]
