"""Members that died together: more likely a cut cable than that many crashes.

They are dialed in turn, one every look (half a second), for ten minutes: a SYN costs 60 bytes, and the
first one after the cable is mended makes one swarm of two again. After that they are dialed as rarely as any
other dead member. One crash, or a few in a large swarm, is none of this module's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gossip.protocol.events import Effect, Emit
from gossip.protocol.membership import Membership
from gossip.protocol.messages import State

TOGETHER_S = 10.0  # deaths this close belong together
GROUP_MIN = 2  # but whoever is left alone looks for the one it lost
GROUP_SHARE = 0.25  # of those who were alive before
PATIENCE_S = 600.0


@dataclass(slots=True)
class _Lost:
    until: float
    dialed_at: float


class Severed:
    """Who may be on the other side of a cut, and whose turn it is to be dialed."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._lost: dict[bytes, _Lost] = {}
        self._began_at = 0.0

    def on_look(self, now: float) -> list[Effect]:
        """Take stock. Says when a cut is suspected, and when everybody lost in it is back or given up."""
        members = self._membership.members
        effects: list[Effect] = []
        for peer, lost in list(self._lost.items()):
            if peer not in members or members[peer].state != State.DEAD or now >= lost.until:
                del self._lost[peer]
                if not self._lost:
                    effects.append(Emit("partition_over", {"after_s": round(now - self._began_at, 2)}))
        recent = [m.key for m in members.values() if m.state == State.DEAD and now - m.since <= TOGETHER_S]
        fresh = [peer for peer in recent if peer not in self._lost]
        alive = len(self._membership.alive()) + 1
        enough = max(GROUP_MIN if alive > 1 else 1, GROUP_SHARE * (len(recent) + alive))
        if fresh and len(recent) >= enough:
            self._began_at = self._began_at if self._lost else now
            self._lost |= {peer: _Lost(now + PATIENCE_S, now) for peer in fresh}
            effects.append(Emit("partition_suspected", {"lost": len(self._lost), "alive": alive}))
        return effects

    def addresses(self) -> list[tuple[bytes, str]]:
        """(peer, addresses) of the lost."""
        return [(peer, self._membership.members[peer].address) for peer in self._lost]

    def next_of(self, able: Sequence[tuple[bytes, str]], now: float) -> Sequence[tuple[bytes, str]]:
        """The one of these that has waited longest for a dial, if there is one."""
        if not able:
            return []
        chosen = min(able, key=lambda one: self._lost[one[0]].dialed_at)
        self._lost[chosen[0]].dialed_at = now
        return [chosen]
