"""When a run is over: the first criterion of the spec that holds.

Samples and time are the clock's word, and everybody reads nearly the same clock. Accuracy is nobody's common
knowledge: each node judges its own held-out looks and says whether it wants to end, and the run ends where more
than half of the living trained members, itself included, do. Who settles wants the end too, and so did whoever left
after settling: a node whose clock is a little behind does not train on alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gossip.protocol.membership import Membership, is_trained
from gossip.protocol.messages import Phase, State

PROGRESS_MIN = 0.001  # of accuracy: one held-out sample in a thousand, the size of a look


class Stopping:
    """Our own wish for the end, and the others'."""

    def __init__(self, membership: Membership, target_accuracy: float = 0.0, plateau: int = 0) -> None:
        """target_accuracy: 0 for none. plateau: so many looks in a row without progress; 0 for never."""
        self._membership = membership
        self._target_accuracy = target_accuracy
        self._plateau = plateau
        self._best = 0.0
        self._looks_since = 0  # looks since the best accuracy grew by PROGRESS_MIN
        self._wish = ""

    @property
    def wish(self) -> str:
        """Why we want the run to end; "" while we do not."""
        return self._wish

    def on_look(self, accuracy: float) -> None:
        if accuracy >= self._best + PROGRESS_MIN:
            self._best, self._looks_since = accuracy, 0
        else:
            self._looks_since += 1
        if self._target_accuracy and accuracy >= self._target_accuracy:
            self._wish = f"an accuracy of {self._target_accuracy:g} is reached"
        elif self._plateau and self._looks_since >= self._plateau:
            self._wish = f"{self._plateau} looks without progress"
        else:
            self._wish = ""

    def verdict(self, votes_itself: bool) -> str:
        """Why the swarm ends its run; "" while it does not. votes_itself: false for a newcomer without a state."""
        votes = [bool(self._wish)] if votes_itself else []
        for member in self._membership.members.values():
            status = member.status
            if is_trained(member):
                votes.append(status.wants_end or status.phase == Phase.SETTLING)
            elif member.state == State.LEFT and status.phase == Phase.DONE and status.wants_end:
                votes.append(True)
        if 2 * sum(votes) <= len(votes):
            return ""
        return self._wish or "most of the swarm has ended it"

    def notes(self) -> dict[str, Any]:
        return {"best": self._best, "looks_since": self._looks_since}

    def restore(self, notes: Mapping[str, Any]) -> None:
        self._best, self._looks_since = float(notes["best"]), int(notes["looks_since"])
