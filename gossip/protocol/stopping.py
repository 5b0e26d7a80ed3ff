"""When a run is over: the first criterion of the spec that holds.

Samples and time are the clock's word, and everybody reads nearly the same clock. Accuracy is nobody's common
knowledge: each node judges its own held-out looks and says whether it wants to end, and the run ends where more
than half of the living trained members, itself included, do. Who settles wants the end too, and so did whoever left
after settling: a node whose clock is a little behind does not train on alone.

What is said of others may be invented, so the votes are counted twice: among all members we know of, and among those
who told us themselves. Both must say so. In a large swarm the second count is of our links only; as their neighbours
settle it follows the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gossip.protocol.member import TRAINED, Member, is_trained
from gossip.protocol.membership import Membership
from gossip.protocol.messages import Phase, State

WORD_S = 60.0  # a vote is so long what its owner said; a link brings a new word every 16 s at least
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

    def verdict(self, votes_itself: bool, now: float) -> str:
        """Why the swarm ends its run; "" while it does not. votes_itself: false for a newcomer without a state."""
        members = list(self._membership.members.values())
        own = [bool(self._wish)] if votes_itself else []
        told = [vote for member in members if (vote := _vote(member)) is not None]
        said = [vote for member in members if (vote := _own_vote(member, now)) is not None]
        if not (_most(own + told) and _most(own + said)):
            return ""
        return self._wish or "most of the swarm has ended it"

    def notes(self) -> dict[str, Any]:
        return {"best": self._best, "looks_since": self._looks_since}

    def restore(self, notes: Mapping[str, Any]) -> None:
        self._best, self._looks_since = float(notes["best"]), int(notes["looks_since"])


def _vote(member: Member) -> bool | None:
    """As far as anybody told us; None: it has none."""
    if is_trained(member):
        return member.status.wants_end or member.status.phase == Phase.SETTLING
    has_ended = member.state == State.LEFT and member.status.phase == Phase.DONE and member.status.wants_end
    return True if has_ended else None


def _own_vote(member: Member, now: float) -> bool | None:
    """As it said itself, lately. That others say that it has left silences nobody; that it is dead is our own look."""
    word = member.word
    if word is None or now - member.word_at > WORD_S or member.state == State.DEAD:
        return None
    if word.phase in TRAINED:
        return word.wants_end or word.phase == Phase.SETTLING
    # Nor does who came only to leave: one link could bring any number of them, one after the other.
    return True if word.phase == Phase.DONE and word.wants_end and member.has_trained else None


def _most(votes: list[bool]) -> bool:
    return 2 * sum(votes) > len(votes)
