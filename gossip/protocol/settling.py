"""The end of a run: go on mixing without stepping until we agree, or until patience ends.

With the learning rate at zero and nobody stepping, every exchange only shrinks what is left between
two nodes. Nobody waits for a dead peer: whoever is alive and has not finished yet is waited for
PATIENCE_S at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from gossip.protocol.membership import Membership, is_trained
from gossip.protocol.messages import Phase

EXCHANGE_EVERY_S = 0.05
# Completed exchanges of our own after the last member stopped stepping. Others begin as many with us:
# about 2 x 10 halvings of what is between us, enough for the lattice's step to be what remains.
EXCHANGES = 10
LONELY_S = 1.0  # without anybody to mix with: those who are said to be there still have left
PATIENCE_S = 8.0  # a member that needs longer for its last period is not waited for


class Settling:
    """When to exchange, and when it is enough."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._began_at = math.inf
        self._all_here_since: int | None = None  # own completed exchanges when the last member arrived
        self._next_at = math.inf
        self._lonely_since = math.inf

    @property
    def has_begun(self) -> bool:
        return self._began_at < math.inf

    def next_deadline(self) -> float:
        return self._next_at

    def begin(self, now: float) -> None:
        self._began_at = self._next_at = now

    def exchange_is_due(self, now: float) -> bool:
        if now < self._next_at:
            return False
        self._next_at = now + EXCHANGE_EVERY_S
        return True

    def is_over(self, completed: int, linked: Iterable[bytes], now: float) -> bool:
        """completed: exchanges we began that were mixed, since the node started."""
        if not self.has_begun:
            return False
        others = [member.status.phase for member in self._membership.alive()]
        if all(phase == Phase.DONE for phase in others) or now - self._began_at > PATIENCE_S:
            return True
        # Only those we mix with: news of the others are late, and nothing of theirs reaches us but through these.
        members = self._membership.members
        partners = [members[peer].status.phase for peer in linked if peer in members and is_trained(members[peer])]
        self._lonely_since = math.inf if partners else min(self._lonely_since, now)
        if not partners:
            return now - self._lonely_since >= LONELY_S
        if Phase.TRAINING in partners or Phase.PAUSED in partners:
            return False
        if self._all_here_since is None:
            self._all_here_since = completed
        return completed - self._all_here_since >= EXCHANGES
