"""Two processes on one key push each other out, again and again: their peers see it, they themselves do not.

A node that restarts replaces its old link once; two that run at the same time do so whenever either dials.
"""

from __future__ import annotations

from collections import deque

from gossip.protocol.events import Effect, Emit

REPLACED_MAX = 3  # within WITHIN_S: more than restarts and bad networks do
WITHIN_S = 60.0
TELL_AGAIN_S = 600.0
REMEMBERED_MAX = 64
ADVICE = "two processes use one key file; give each its own --key"


class Twins:
    """Counts how often a link of each peer was replaced by a newer one of the same key."""

    def __init__(self) -> None:
        self._replaced: deque[tuple[bytes, float]] = deque(maxlen=REMEMBERED_MAX)
        self._told: dict[bytes, float] = {}

    def on_replaced(self, peer: bytes, now: float) -> list[Effect]:
        self._replaced.append((peer, now))
        count = sum(key == peer and now - at <= WITHIN_S for key, at in self._replaced)
        self._told = {key: at for key, at in self._told.items() if now - at < TELL_AGAIN_S}
        if count < REPLACED_MAX or peer in self._told:
            return []
        self._told[peer] = now
        return [Emit("same_key_elsewhere", {"peer": peer.hex()[:8], "times": count, "advice": ADVICE})]
