"""How many samples a step takes: so many that all nodes do about as many steps a second.

A node that gets through samples ten times as fast as the others takes larger batches rather than more steps: its
model strays less between two exchanges, and nobody's samples count for more than another's (the trainer scales the
learning rate with the batch).
"""

from __future__ import annotations

import math
import statistics

from gossip.protocol.events import Effect, Emit, SetBatch
from gossip.protocol.membership import Membership
from gossip.protocol.messages import Phase

BATCH_MIN, BATCH_MAX = 8, 256
LANES = 16  # the kernels take samples in groups of so many: in between a batch costs as much as the next multiple
CHANGE = 1.5  # a batch is kept until the rule asks for this much more or less; rates of busy machines swing
FIRST_S = 2.0  # until everybody's rate has been heard of once or twice
REASSESS_S = 10.0


class Batching:
    """One node's batch, by its rate of samples among the rates the others report."""

    def __init__(self, membership: Membership, batch: int) -> None:
        """batch: what a node of median speed takes, and what everybody begins with."""
        self.batch = batch
        self._typical = batch
        self._membership = membership
        self._reassess_at = math.inf

    def on_steps(self, now: float) -> list[Effect]:
        """Look again from time to time."""
        if self._reassess_at == math.inf:
            self._reassess_at = now + FIRST_S
        if now < self._reassess_at:
            return []
        self._reassess_at = now + REASSESS_S
        own = self._membership.status.samples_per_s
        training = [member for member in self._membership.alive() if member.status.phase == Phase.TRAINING]
        told = [member.status.samples_per_s for member in training if member.status.samples_per_s > 0]
        rates = [own, *told]
        if own <= 0 or 2 * len(told) <= len(training):  # who tells nothing is waited for until most have told
            self._reassess_at = now + FIRST_S
            return []
        median = statistics.median(rates)
        wanted = self._typical * own / median
        if max(wanted, self.batch) <= CHANGE * min(wanted, self.batch):
            return []
        batch = _rounded(wanted)
        if batch == self.batch:
            return []
        before, self.batch = self.batch, batch
        why = f"{own:,.0f} samples a second here, {median:,.0f} in the middle of the swarm: as many steps for everybody"
        return [SetBatch(batch), Emit("batch", {"batch": batch, "before": before, "why": why})]


def _rounded(batch: float) -> int:
    """A multiple of LANES from there on, 8 below."""
    if batch < 0.75 * LANES:
        return BATCH_MIN
    return min(BATCH_MAX, max(LANES, LANES * round(batch / LANES)))
