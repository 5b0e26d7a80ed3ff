"""A member's side of a newcomer's way in: fragments for a few at a time, and names of others for the rest.

A donor trains on meanwhile. Whoever it cannot serve is told who else holds a state, those first whom
it has named least: who just got its state was never named, so a storm of newcomers spreads like a tree.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import count

from gossip.protocol.events import Effect, Emit, ReadFragment, Send, SendPayload
from gossip.protocol.membership import Membership, is_trained
from gossip.protocol.messages import Header, PayloadKind, Refusal, Update

JOINERS_MAX = 4  # whom a donor serves at once
# Fragments in work, and for one joiner no more than it has any reason to ask for at once (joining.WINDOW). A body
# has 133,600 bytes at most: what a donor holds for joiners is bounded by 1.6 MB.
FOR_ONE_MAX = 3
SERVING_MAX = JOINERS_MAX * FOR_ONE_MAX
SLOT_IDLE_S = 5.0  # a joiner that asked for nothing for so long has made room; one that trains has at once
NAMES_MAX = 4  # of others, in one refusal


class Donor:
    """Whom we serve, and whom we named to whom we do not."""

    def __init__(self, fragments: int, incarnation: int, membership: Membership, rng: random.Random) -> None:
        self._fragments = fragments
        self._incarnation = incarnation
        self._membership = membership
        self._rng = rng
        self._serving: list[tuple[bytes, int]] = []
        self._asked_at: dict[bytes, float] = {}  # by joiner: one entry is one slot
        self._named_at: dict[bytes, int] = {}  # when each member was last named, in refusals
        self._refusals = count(1)

    @property
    def serving(self) -> int:
        """Fragments in work for joiners."""
        return len(self._serving)

    @property
    def joiners(self) -> list[bytes]:
        """Whom we serve."""
        return list(self._asked_at)

    def on_request(self, peer: bytes, index: int, able: bool, now: float, in_debt: bool = False) -> list[Effect]:
        """able: do we hold a state ourselves? in_debt: what we may send is spent; somebody else may have more."""
        if not able or index >= self._fragments:
            return [self._refuse(peer, index, "NO_SUCH_FRAGMENT" if able else "NOT_READY")]
        self._free_slots(now)
        has_slot = peer in self._asked_at or len(self._asked_at) < JOINERS_MAX
        if in_debt or not has_slot or self._in_work()[peer] >= FOR_ONE_MAX or len(self._serving) >= SERVING_MAX:
            note = Emit("joiner_refused", {"peer": peer.hex()[:8], "index": index, "serving": len(self._asked_at)})
            return [note, self._refuse(peer, index, "BUSY")]
        self._asked_at[peer] = now
        self._serving.append((peer, index))
        return [ReadFragment(peer, index)]

    def on_ready(self, peer: bytes, index: int, body: bytes | None, step: int) -> list[Effect]:
        self._serving.remove((peer, index))
        if body is None:
            return [self._refuse(peer, index, "NOT_FINITE")]
        header = Header(PayloadKind.FRAGMENT, self._incarnation, index, step)
        return [
            SendPayload(peer, header, body),
            Emit("fragment_given", {"peer": peer.hex()[:8], "index": index}),
        ]

    def on_link_down(self, peer: bytes) -> None:
        self._asked_at.pop(peer, None)

    def point_elsewhere(self, peer: bytes) -> list[Effect]:
        """To a newcomer that came while our links are full: it may be the next to lose its own."""
        return [self._refuse(peer, 0, "BUSY")]

    # -- How it is decided ---------------------------------------------------------------------------

    def _refuse(self, peer: bytes, index: int, code: str) -> Send:
        return Send(peer, Refusal(PayloadKind.FRAGMENT, index, code, self._names_for(peer)))

    def _names_for(self, peer: bytes) -> tuple[Update, ...]:
        """Others that hold a state and can be dialed, least recently named first; shuffled, or the first would herd."""
        known = [m for m in self._membership.members.values() if is_trained(m) and m.address and m.key != peer]
        self._rng.shuffle(known)
        chosen = sorted(known, key=lambda member: self._named_at.get(member.key, 0))[:NAMES_MAX]
        refusal = next(self._refusals)
        self._named_at.update((member.key, refusal) for member in chosen)
        return tuple(member.update() for member in chosen)

    def _in_work(self) -> Counter[bytes]:
        return Counter(peer for peer, _ in self._serving)

    def _free_slots(self, now: float) -> None:
        members, in_work = self._membership.members, self._in_work()
        for peer, asked_at in list(self._asked_at.items()):
            has_state = peer in members and is_trained(members[peer])
            if not in_work[peer] and (has_state or now - asked_at > SLOT_IDLE_S):
                del self._asked_at[peer]
