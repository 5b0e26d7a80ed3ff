"""Whom to exchange with next: a random peer among the open links that can take part."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from gossip.protocol.membership import Membership, is_trained
from gossip.protocol.messages import State


class Partners:
    """Uniform and independent choices: what random gossip's mixing time is proven for (Boyd et al. 2006)."""

    def __init__(self, membership: Membership, rng: random.Random) -> None:
        self._membership = membership
        self._rng = rng

    def choose(
        self, linked: Iterable[bytes], busy: Iterable[bytes] = (), weight: Callable[[bytes], float] = lambda peer: 1.0
    ) -> bytes | None:
        """A linked member that holds a state and is not suspected; rather one with no exchange open.

        weight: above 0; how often a peer is to be chosen, compared with others.
        """
        able = []
        for peer in linked:
            member = self._membership.members.get(peer)
            if member is not None and member.state == State.ALIVE and is_trained(member):
                able.append(peer)
        taken = list(busy)
        free = [peer for peer in able if peer not in taken]
        among = free or able
        return self._rng.choices(among, [weight(peer) for peer in among])[0] if among else None
