"""Do the others see as many members as we do? "I see 3, that one sees 6" is a swarm that has silently split.

A peer whose count differs from ours for a while is asked whom it knows; whoever it holds for alive and we
for dead is dialed. Counts differ for moments all the time, while news travel.
"""

from __future__ import annotations

from collections.abc import Iterable

from gossip.protocol.events import Effect, Emit, Send
from gossip.protocol.membership import Membership
from gossip.protocol.messages import MembersRequest, State, Update

LOOK_EVERY_S = 1.0
DIFFER_MIN = 1  # members; beyond that and DIFFER_SHARE of the larger count two views differ
DIFFER_SHARE = 0.1
PATIENCE_S = 10.0
AGAIN_S = 60.0  # a peer is asked so often at most


class Views:
    """Compares the counts our linked peers tell of with our own."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._differs_since: dict[bytes, float] = {}
        self._asked_at: dict[bytes, float] = {}
        self._next_at = 0.0

    def on_tick(self, now: float, linked: Iterable[bytes]) -> list[Effect]:
        if now < self._next_at:
            return []
        self._next_at = now + LOOK_EVERY_S
        mine = len(self._membership.alive()) + 1
        theirs = {peer: self._count_of(peer) for peer in linked}
        differing = [peer for peer, count in theirs.items() if count and _differ(mine, count)]
        self._differs_since = {peer: self._differs_since.get(peer, now) for peer in differing}
        self._asked_at = {peer: at for peer, at in self._asked_at.items() if now < at + AGAIN_S}
        effects: list[Effect] = []
        for peer, since in self._differs_since.items():
            if now - since >= PATIENCE_S and peer not in self._asked_at:
                self._asked_at[peer] = now
                fields = {"peer": peer.hex()[:8], "mine": mine, "theirs": theirs[peer]}
                effects += [Emit("views_differ", fields), Send(peer, MembersRequest())]
        return effects

    def on_members(self, peer: bytes, updates: Iterable[Update]) -> list[bytes]:
        """Those `peer` holds for alive and we do not: worth a dial, if it was for this that we asked."""
        if peer not in self._asked_at:
            return []
        alive = (update.key for update in updates if update.state == State.ALIVE)
        return [key for key in alive if key != self._membership.key and not self._membership.is_alive(key)]

    def _count_of(self, peer: bytes) -> int:
        """How many `peer` sees; 0 where it has not said, or is no living member."""
        member = self._membership.members.get(peer)
        return member.status.members if member is not None and member.state == State.ALIVE else 0


def _differ(mine: int, theirs: int) -> bool:
    return abs(mine - theirs) > max(DIFFER_MIN, DIFFER_SHARE * max(mine, theirs))
