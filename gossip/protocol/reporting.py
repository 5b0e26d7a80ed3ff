"""Once a second: tell the swarm (our status) and the log (the `status` event) how this node is doing."""

from __future__ import annotations

import math

from gossip.protocol.events import Effect, Emit, Evaluated, MeasureTraffic, StepsDone, Traffic
from gossip.protocol.exchange import Exchanges
from gossip.protocol.links import Links
from gossip.protocol.membership import Membership
from gossip.protocol.messages import Phase
from gossip.protocol.progress import Progress

REPORT_EVERY_S = 1.0


class Reports:
    """Reads the other machines; writes nothing but our status."""

    def __init__(self, membership: Membership, links: Links, exchanges: Exchanges, progress: Progress) -> None:
        self._membership = membership
        self._links = links
        self._exchanges = exchanges
        self._progress = progress
        self._next_at = 0.0
        self._looked: Evaluated | None = None  # not yet told: it waits for the bytes it cost

    def next_deadline(self) -> float:
        return self._next_at

    def on_tick(self, now: float) -> list[Effect]:
        if now < self._next_at:
            return []
        self._next_at = now + REPORT_EVERY_S
        return [MeasureTraffic()]

    def on_evaluated(self, event: Evaluated) -> list[Effect]:
        """Accuracy is told over bytes too: count them first."""
        self._looked = event
        return [MeasureTraffic()]

    def on_traffic(self, traffic: Traffic, phase: Phase, done: StepsDone, now: float) -> list[Effect]:
        if self._looked is not None:
            return self._on_looked(self._looked, traffic, done)
        loss = done.loss if math.isfinite(done.loss) else 0.0
        members = len(self._membership.alive()) + 1
        self._progress.tell(now)
        self._membership.set_status(
            phase=phase, step=done.steps, loss=loss, links=len(self._links.up), members=members,
            bytes_sent=traffic.bytes_sent, bytes_received=traffic.bytes_received,
        )  # fmt: skip
        told = self._membership.status
        fields = {
            "phase": phase.name.lower(), "step": done.steps, "samples": done.samples,
            "samples_per_s": round(told.samples_per_s, 1), "loss": round(loss, 5), "accuracy": told.accuracy,
            "progress": round(self._progress.fraction, 5), "swarm_samples": self._progress.samples,
            "run_s": round(self._progress.run_s, 2), "wants_end": told.wants_end,
            "links": len(self._links.up), "members": members,
            "exchanges": self._exchanges.completed, "exchanges_failed": self._exchanges.failed,
            "exchanges_answered": self._exchanges.answered, "bytes_sent": traffic.bytes_sent,
            "bytes_received": traffic.bytes_received, "step_s": round(done.step_s, 6),
            "distance": round(done.distance, 5),
            "step_cpu_s": round(done.step_cpu_s, 6),
            "longest_gap_s": round(done.longest_gap_s, 4), "round_trip_s": round(self._exchanges.round_trip_s, 4),
        }  # fmt: skip
        return [Emit("status", fields)]

    def _on_looked(self, look: Evaluated, traffic: Traffic, done: StepsDone) -> list[Effect]:
        self._looked = None
        self._membership.set_status(accuracy=look.accuracy)
        loss = look.loss if math.isfinite(look.loss) else None
        fields = {
            "accuracy": look.accuracy, "held_out_loss": loss, "looked_at": look.samples, "step": done.steps,
            "samples": done.samples, "swarm_samples": self._progress.samples, "bytes_sent": traffic.bytes_sent,
        }  # fmt: skip
        return [Emit("evaluated", fields)]
