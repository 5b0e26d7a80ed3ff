"""A node that was here before starts again with a state of its own: does it go on from it, or take the swarm's?

Knows how far the run was when the state was saved, and waits a moment for a first word of how far it is now. Where
hardly anything has happened, or nobody answers, the own state is as good as any: nothing is transferred. Where the
swarm is far ahead, the state comes from donors as a newcomer's does; identity and counts stay.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gossip.protocol.membership import Membership, is_trained
from gossip.protocol.progress import Progress

FIRST_WORD_S = 2.0  # for the first word of a member
FAR_AHEAD = 0.02  # of the run
ALONE_AFTER_S = 10.0  # without a link this long, whoever was to give us the state is gone: ours has to do


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What a node knows of its former life, from its checkpoint; all zero before the first one was written."""

    steps: int = 0
    samples: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)  # Node.notes() as they were


class Choice(enum.Enum):
    OWN = "its own"
    SWARM = "the swarm's"


class Resuming:
    """Undecided from `begin` until `choose` has answered."""

    def __init__(self, membership: Membership, progress: Progress) -> None:
        self._membership = membership
        self._progress = progress
        self._waits_for: dict[bytes, list[str]] = {}  # with the addresses that have not been refused yet
        self._saved_at = 0.0  # the run's progress when the state was saved
        self._until = math.inf
        self._lonely_since = math.inf
        self.is_undecided = False

    def next_deadline(self) -> float:
        return self._until

    def begin(self, doors: Iterable[tuple[bytes, str]], now: float) -> None:
        """The members we knew are being dialed, each at one of its addresses after the other; their word counts."""
        self._waits_for = {peer: addresses.split(",") for peer, addresses in doors}
        self._saved_at = self._progress.fraction
        self._until, self.is_undecided = now + FIRST_WORD_S, True

    def on_refused(self, peer: bytes, address: str) -> None:
        """Nobody is there; at its other addresses there may be."""
        left = [other for other in self._waits_for.pop(peer, []) if other != address]
        if left:
            self._waits_for[peer] = left

    def choose(self, heard: bool, now: float) -> Choice | None:
        """The choice, once. heard: a member has just told us whom it knows."""
        if not self.is_undecided or not (heard or now >= self._until or not self._waits_for):
            return None
        self.is_undecided, self._until = False, math.inf
        self._progress.advance(now, at_once=True)
        ahead = self._progress.fraction - self._saved_at
        can_give = any(map(is_trained, self._membership.members.values()))
        return Choice.SWARM if can_give and ahead > FAR_AHEAD else Choice.OWN

    def is_left_alone(self, has_links: bool, now: float) -> bool:
        """Of a node that waits for the swarm's state: has nobody been there for long?"""
        self._lonely_since = math.inf if has_links else min(self._lonely_since, now)
        return now - self._lonely_since > ALONE_AFTER_S
