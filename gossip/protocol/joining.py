"""Ticket -> hello -> members -> state -> training: a newcomer's way in, and a donor's side of it.

The state comes as fragments: any fragment from any donor, two donors at a time, a lost donor's
rest from another. Donors train on meanwhile, so the result is a patchwork on purpose (measured:
mostly better than one donor's snapshot).
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from gossip.protocol.events import Effect, Emit, LoadFragment, ReadFragment, Send, SendPayload
from gossip.protocol.membership import Membership, is_trained
from gossip.protocol.messages import FragmentRequest, Header, MembersRequest, PayloadKind, Refusal
from gossip.protocol.progress import Progress

DONORS = 2
WINDOW = 3  # fragments asked of one donor at once: covers a round trip, bounds what it queues
FRAGMENT_PATIENCE_S = 5.0
DONOR_REST_S = 3.0  # how long a donor that refused or went silent is left alone
ASK_MEMBERS_EVERY_S = 1.0
SERVING_MAX = 8  # fragments in work for joiners at once; beyond that a donor is BUSY


@dataclass(slots=True)
class _Asked:
    donor: bytes
    deadline: float


class Joiner:
    """Collects the fragments of the swarm's state; `is_done` once all are loaded."""

    def __init__(self, fragments: int, membership: Membership, rng: random.Random) -> None:
        self._membership = membership
        self._rng = rng
        self._missing: deque[int] = deque(range(fragments))
        self._asked: dict[int, _Asked] = {}
        self._loading: dict[int, bytes] = {}
        self._resting: dict[bytes, float] = {}
        self._left = fragments
        self._ask_members_at = -math.inf
        self.donors: dict[bytes, int] = {}  # donor -> fragments it gave

    @property
    def is_done(self) -> bool:
        return self._left == 0

    def is_too_late(self, progress: Progress, is_stopped: bool = False) -> bool:
        """The run is over, or stopped by its owner, and whoever held its state has left."""
        if self.is_done:
            return False
        return (progress.is_over or is_stopped) and not any(map(is_trained, self._membership.members.values()))

    def next_deadline(self) -> float:
        if self.is_done:
            return math.inf
        return min((self._ask_members_at + ASK_MEMBERS_EVERY_S, *(asked.deadline for asked in self._asked.values())))

    def on_tick(self, now: float, linked: Iterable[bytes]) -> list[Effect]:
        if self.is_done:
            return []
        linked = list(linked)
        effects: list[Effect] = []
        for index, asked in list(self._asked.items()):
            if asked.deadline <= now:
                effects += self._lost(index, now, "no answer in time")
        if now >= self._ask_members_at + ASK_MEMBERS_EVERY_S:
            self._ask_members_at = now
            effects += [Send(peer, MembersRequest()) for peer in linked[:DONORS]]
        return effects + self._ask(now, linked)

    def on_members(self, now: float, linked: Iterable[bytes]) -> list[Effect]:
        return self._ask(now, linked)

    def on_fragment(self, peer: bytes, header: Header, body: bytes) -> list[Effect]:
        asked = self._asked.get(header.number)
        if asked is None or asked.donor != peer:
            return [Emit("fragment_dropped", {"peer": peer.hex()[:8], "index": header.number})]
        del self._asked[header.number]
        self._loading[header.number] = peer
        return [LoadFragment(peer, header, body)]

    def on_loaded(self, index: int, now: float, linked: Iterable[bytes]) -> list[Effect]:
        donor = self._loading.pop(index)
        self.donors[donor] = self.donors.get(donor, 0) + 1
        self._left -= 1
        return self._ask(now, linked)

    def on_refusal(self, peer: bytes, index: int, code: str, now: float, linked: Iterable[bytes]) -> list[Effect]:
        asked = self._asked.get(index)
        if asked is None or asked.donor != peer:
            return []
        return [*self._lost(index, now, code), *self._ask(now, linked)]

    def on_unreadable(self, index: int, code: str, now: float) -> list[Effect]:
        peer = self._loading.pop(index)
        self._asked[index] = _Asked(peer, now)
        return self._lost(index, now, code)

    def on_link_down(self, peer: bytes, now: float, linked: Iterable[bytes]) -> list[Effect]:
        effects: list[Effect] = []
        for index, asked in list(self._asked.items()):
            if asked.donor == peer:
                effects += self._lost(index, now, "link lost")
        return effects + self._ask(now, linked)

    def _ask(self, now: float, linked: Iterable[bytes]) -> list[Effect]:
        """Fill the windows of up to DONORS trained members."""
        able = [
            peer for peer in linked
            if peer in self._membership.members and is_trained(self._membership.members[peer])
            and self._resting.get(peer, -math.inf) <= now
        ]  # fmt: skip
        in_use = {asked.donor for asked in self._asked.values()}
        others = [peer for peer in able if peer not in in_use]
        self._rng.shuffle(others)
        donors = ([peer for peer in able if peer in in_use] + others)[:DONORS]
        effects: list[Effect] = []
        for turn in range(WINDOW * len(donors)):
            donor = donors[turn % len(donors)]
            open_here = sum(asked.donor == donor for asked in self._asked.values())
            if self._missing and open_here < WINDOW:
                index = self._missing.popleft()
                self._asked[index] = _Asked(donor, now + FRAGMENT_PATIENCE_S)
                effects.append(Send(donor, FragmentRequest(index)))
        return effects

    def _lost(self, index: int, now: float, why: str) -> list[Effect]:
        donor = self._asked.pop(index).donor
        self._missing.append(index)
        self._resting[donor] = now + DONOR_REST_S
        return [Emit("fragment_lost", {"peer": donor.hex()[:8], "index": index, "why": why})]


class Donor:
    """Gives fragments to joiners while it trains on, a few at a time."""

    def __init__(self, fragments: int, incarnation: int) -> None:
        self._fragments = fragments
        self._incarnation = incarnation
        self._serving: list[tuple[bytes, int]] = []

    @property
    def serving(self) -> int:
        """Fragments in work for joiners."""
        return len(self._serving)

    def on_request(self, peer: bytes, index: int, able: bool, in_debt: bool = False) -> list[Effect]:
        """in_debt: what we may send is spent; somebody else may have more."""
        if not able or in_debt or index >= self._fragments or len(self._serving) >= SERVING_MAX:
            code = "NOT_READY" if not able else "BUSY" if index < self._fragments else "NO_SUCH_FRAGMENT"
            return [Send(peer, Refusal(PayloadKind.FRAGMENT, index, code))]
        self._serving.append((peer, index))
        return [ReadFragment(peer, index)]

    def on_ready(self, peer: bytes, index: int, body: bytes | None, step: int) -> list[Effect]:
        self._serving.remove((peer, index))
        if body is None:
            return [Send(peer, Refusal(PayloadKind.FRAGMENT, index, "NOT_FINITE"))]
        header = Header(PayloadKind.FRAGMENT, self._incarnation, index, step)
        return [
            SendPayload(peer, header, body),
            Emit("fragment_given", {"peer": peer.hex()[:8], "index": index}),
        ]
