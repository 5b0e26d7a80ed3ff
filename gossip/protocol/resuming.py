"""A node that was here before starts again with a state of its own: does it go on from it, or take the swarm's?

Knows where the run stood when the state was saved, and waits a moment for the word of somebody who trains. Where hardly
anything has happened, or nobody says so, the own state is as good as any: nothing is transferred. Where the swarm is
far ahead, the state comes from donors as a newcomer's does; identity and counts stay.

Who goes on from its own state looks again until it has itself gone as far: a swarm that turns up late is far ahead all
the same. Of nodes that come back together somebody always trains: each yields only to one that read a later clock than
it did itself before it heard of it, so they cannot yield in a circle.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gossip.protocol.progress import Progress

FIRST_WORD_S = 2.0  # for the word of a member that trains
FAR_AHEAD = 0.02  # of the run
ALONE_AFTER_S = 10.0  # without a link this long, whoever was to give us the state is gone: ours has to do


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """What a node knows of its former life, from its checkpoint; all zero before the first one was written."""

    steps: int = 0
    samples: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)  # Node.notes() as they were


class Source(enum.Enum):
    """Where our state comes from."""

    OWN = "the first node's, or the one on our disk"
    UNDECIDED = "there is one on our disk, and no word yet of how far the swarm is"
    SWARM = "members give it"


class Resuming:
    """`choose` until it has answered; then, with a state of our own, `is_overtaken` at every word of others."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._waits_for: dict[bytes, list[str]] = {}  # with the addresses that have not been refused yet
        # The clock at that moment: samples and seconds, since the owner may change the run's length while we are away.
        self._saved_at = (0.0, 0.0)
        self._until = math.inf
        self._lonely_since = math.inf
        self.is_open = False  # might the swarm's state still be taken?

    def next_deadline(self) -> float:
        return self._until

    def begin(self, doors: Iterable[tuple[bytes, str]], now: float) -> None:
        """The members we knew are being dialed, each at one of its addresses after the other; their word counts."""
        self._waits_for = {peer: addresses.split(",") for peer, addresses in doors}
        self._saved_at = self._progress.reading
        self._until = now + FIRST_WORD_S if self._waits_for else math.inf
        self.is_open = True

    def on_refused(self, peer: bytes, address: str) -> None:
        """Nobody is there; at its other addresses there may be."""
        left = [other for other in self._waits_for.pop(peer, []) if other != address]
        if left:
            self._waits_for[peer] = left

    def on_members(self, peer: bytes) -> None:
        """It has said what it knows."""
        self._waits_for.pop(peer, None)

    def choose(self, now: float) -> Source:
        """Once somebody trains, or nobody is left to wait for, it is decided."""
        told = self._progress.told()
        if told is None and self._waits_for and now < self._until:
            return Source.UNDECIDED
        self._until = math.inf
        return Source.SWARM if told is not None and self._is_far(told, self._saved_at) else Source.OWN

    def is_overtaken(self, reading: tuple[float, float]) -> bool:
        """Is the swarm far ahead after all? reading: our clock as it was before the last word, which may move it."""
        self.is_open = self.is_open and not self._is_far(reading, self._saved_at)
        told = self._progress.told() if self.is_open else None
        return told is not None and self._is_far(told, reading)

    def is_left_alone(self, has_links: bool, now: float) -> bool:
        """Of a node that waits for the swarm's state: has nobody been there for long?"""
        self._lonely_since = math.inf if has_links else min(self._lonely_since, now)
        return now - self._lonely_since > ALONE_AFTER_S

    def close(self) -> None:
        """What the swarm gives is not to be had, or not to be trusted: it is not asked for again."""
        self.is_open = False

    def _is_far(self, ahead: tuple[float, float], behind: tuple[float, float]) -> bool:
        return self._progress.share(ahead) - self._progress.share(behind) > FAR_AHEAD
