"""The swarm's clock: samples seen by everybody, and from it the learning rate's position and the end.

The clock is a grow-only counter: every member raises its own entry and nobody else's, entries
travel with membership, and the sum over all members, the dead and the gone included, is the
number of samples the swarm has trained on. No server, no agreement: late entries only make the
sum late. Between two reports an entry is carried on at the rate its owner reported.
"""

from __future__ import annotations

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
        for member in self._membership.members.values():
            total += member.status.samples
            if member.is_alive:
                age_s = min(EXTRAPOLATE_MAX_S, max(0.0, now - member.heard_at))
                total += age_s * member.status.samples_per_s
        self._samples = max(self._samples, total)
        return self.fraction

    def look_is_due(self) -> bool:
        """True once per LOOKS-th of the run: time to look at held-out accuracy."""
        due = int(self.fraction * LOOKS)
        if due <= self._looks:
            return False
        self._looks = due
        return True
