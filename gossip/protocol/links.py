"""The 8-16 open links, rotated slowly; probes and exchanges use them.

Fresh connections are dear (a CURVE handshake moves about 1 kB), so a node keeps a few open and
changes one now and then: over time that still mixes like random peers. Knows peers and addresses,
not sockets: dialing is an effect, and a link exists when LinkUp says so.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from gossip.protocol.events import Dial, Effect, Emit, HangUp
from gossip.protocol.membership import Membership

LINKS_WANTED = 8
LINKS_MAX = 16
ROTATE_EVERY_S = 30.0
# Of two nodes that can reach each other the one with the lower key dials; the other waits this long
# before it dials too. Without that rule every pair of a small swarm opens two connections.
GRACE_S = 2.0
RETRY_FIRST_S = 0.5
RETRY_MAX_S = 30.0


@dataclass(slots=True)
class _Retry:
    not_before: float
    wait_s: float


class Links:
    """Which peers we are connected to, and whom to dial next."""

    def __init__(self, membership: Membership, rng: random.Random) -> None:
        self._membership = membership
        self._rng = rng
        self.up: dict[bytes, float] = {}  # peer -> since when
        self.closing: dict[bytes, None] = {}  # hung up, LinkDown not yet seen
        self._dialing: dict[bytes, str] = {}
        self._retry: dict[bytes, _Retry] = {}
        self._rotate_at = ROTATE_EVERY_S
        self._next_look_at = 0.0

    def next_deadline(self) -> float:
        return self._next_look_at

    def dial_seed(self, peer: bytes, address: str) -> list[Effect]:
        """A ticket's seed: not a member yet, worth a link."""
        if peer in self.up or peer in self._dialing:
            return []
        self._dialing[peer] = address
        return [Dial(peer, address)]

    def on_link_up(self, peer: bytes, dialed: bool, now: float) -> list[Effect]:
        self._dialing.pop(peer, None)
        self._retry.pop(peer, None)
        if peer in self.up:
            return []
        self.up[peer] = now
        effects: list[Effect] = [Emit("link_up", {"peer": peer.hex()[:8], "dialed": dialed})]
        if len(self.up) - len(self.closing) > LINKS_MAX:
            effects += self._drop_oldest(keep=peer)
        return effects

    def on_link_down(self, peer: bytes, now: float, reason: str) -> list[Effect]:
        self._dialing.pop(peer, None)
        self.closing.pop(peer, None)
        if self.up.pop(peer, None) is None:
            return []
        self._back_off(peer, now)
        return [Emit("link_down", {"peer": peer.hex()[:8], "reason": reason})]

    def on_link_refused(self, peer: bytes, address: str, code: str, reason: str, now: float) -> list[Effect]:
        if self._dialing.pop(peer, None) is not None:
            self._back_off(peer, now)
        fields = {"peer": peer.hex()[:8], "address": address, "code": code, "reason": reason}
        return [Emit("link_refused", fields)]

    def on_tick(self, now: float) -> list[Effect]:
        if now < self._next_look_at:
            return []
        self._next_look_at = now + RETRY_FIRST_S
        effects: list[Effect] = []
        open_or_coming = len(self.up) + len(self._dialing)
        candidates = self._candidates(now)
        self._rng.shuffle(candidates)
        for peer, address in candidates[: max(0, LINKS_WANTED - open_or_coming)]:
            self._dialing[peer] = address
            effects.append(Dial(peer, address))
        if now >= self._rotate_at:
            self._rotate_at = now + ROTATE_EVERY_S
            effects += self._rotate(candidates)
        return effects

    def hang_up_all(self) -> list[Effect]:
        return [HangUp(peer) for peer in self.up]

    # -- How it is decided ---------------------------------------------------------------------------

    def _candidates(self, now: float) -> list[tuple[bytes, str]]:
        found = []
        for member in self._membership.alive():
            if not member.address or member.key in self.up or member.key in self._dialing:
                continue
            retry = self._retry.setdefault(member.key, self._first_retry(member.key, now))
            if now >= retry.not_before:
                found.append((member.key, member.address))
        return found

    def _first_retry(self, peer: bytes, now: float) -> _Retry:
        they_dial = bool(self._membership.address) and peer < self._membership.key
        return _Retry(now + (GRACE_S if they_dial else 0.0), RETRY_FIRST_S)

    def _back_off(self, peer: bytes, now: float) -> None:
        """Exponential, with jitter so that a healed network is not stormed by everybody at once."""
        retry = self._retry.get(peer)
        wait_s = RETRY_FIRST_S if retry is None else retry.wait_s
        self._retry[peer] = _Retry(now + wait_s * self._rng.uniform(0.5, 1.5), min(RETRY_MAX_S, 2 * wait_s))

    def _rotate(self, candidates: list[tuple[bytes, str]]) -> list[Effect]:
        """One new link for an old one, where there are more members than links."""
        fresh = [(peer, address) for peer, address in candidates if peer not in self._dialing]
        if not fresh or len(self.up) < LINKS_WANTED:
            return []
        peer, address = fresh[0]
        self._dialing[peer] = address
        return [*self._drop_oldest(keep=peer), Dial(peer, address)]

    def _drop_oldest(self, keep: bytes) -> list[Effect]:
        able = (peer for peer in self.up if peer != keep and peer not in self.closing)
        oldest = min(able, key=lambda peer: (self.up[peer], peer))
        self.closing[oldest] = None
        return [HangUp(oldest)]
