"""The swarm's clock: samples seen by everybody, and from it the learning rate's position and the end.

The clock is a grow-only counter: every member raises its own entry and nobody else's, entries
travel with membership, and the sum over all members, the dead and the gone included, is the
number of samples the swarm has trained on. No server, no agreement: late entries only make the
sum late. Between two reports an entry is carried on at the rate its owner reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gossip.protocol.membership import Membership

# News of a member is 6 s old on average among 64 nodes: whoever is believed to be alive is believed to step.
# A death is known within seconds, so little is counted that was never trained on.
EXTRAPOLATE_MAX_S = 30.0
LOOKS = 40  # held-out looks per run: the points of the picture


class Progress:
    """Where the swarm stands, as seen from here. Never goes back."""

    def __init__(self, membership: Membership, samples_total: int) -> None:
        self._membership = membership
        self.samples_total = samples_total  # the owner may change it
        self._samples = 0.0
        self._looks = 0
        self._in_former_life: dict[bytes, int] = {}  # members' samples, as we knew them

    @property
    def samples(self) -> int:
        """The swarm's samples so far."""
        return int(self._samples)

    @property
    def fraction(self) -> float:
        """0 at the start, 1 when the run is over."""
        return min(1.0, self._samples / self.samples_total)

    @property
    def is_over(self) -> bool:
        return self._samples >= self.samples_total

    def update(self, own_samples: int, now: float) -> float:
        """Recount, and return the fraction."""
        total = float(own_samples)
        members = self._membership.members
        total += sum(samples for key, samples in self._in_former_life.items() if key not in members)
        for key, member in members.items():
            total += max(member.status.samples, self._in_former_life.get(key, 0))
            if member.is_alive:
                age_s = min(EXTRAPOLATE_MAX_S, max(0.0, now - member.heard_at))
                total += age_s * member.status.samples_per_s
        self._samples = max(self._samples, total)
        return self.fraction

    def notes(self) -> dict[str, Any]:
        """What `restore` needs after a restart: the clock, and every member's entry in it."""
        counts = self._in_former_life | {m.key: m.status.samples for m in self._membership.members.values()}
        return {"samples": self._samples, "members": {key.hex(): count for key, count in counts.items()}}

    def restore(self, notes: Mapping[str, Any]) -> None:
        """Never go back behind what we knew, also where nobody is left to tell us."""
        self._samples = notes["samples"]
        self._in_former_life = {bytes.fromhex(key): count for key, count in notes["members"].items()}
        self._looks = int(self.fraction * LOOKS)

    def look_is_due(self) -> bool:
        """True once per LOOKS-th of the run: time to look at held-out accuracy."""
        due = int(self.fraction * LOOKS)
        if due <= self._looks:
            return False
        self._looks = due
        return True
