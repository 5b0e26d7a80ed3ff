"""Where the run stands: the learning rate's position, when to look at held-out accuracy, and why it is over.

A run is bounded by samples, by time, or by both; its fraction is the larger of the two shares. Learning rate and
looks follow the fraction, so a run of ninety seconds has its forty looks and its whole cosine as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gossip.protocol.clock import SwarmClock
from gossip.protocol.membership import Membership
from gossip.protocol.stopping import Stopping

LOOKS = 40  # held-out looks per run: the points of the picture


class Progress:
    """Reads the swarm's clock for everybody else, and tells it to the swarm. Never goes back."""

    def __init__(
        self,
        membership: Membership,
        samples_total: int,
        time_s: float = math.inf,
        target_accuracy: float = 0.0,
        plateau: int = 0,
    ) -> None:
        self._membership = membership
        self.samples_total = samples_total  # the owner may change it
        self._time_s = time_s
        self._clock = SwarmClock(membership)
        self._stopping = Stopping(membership, target_accuracy, plateau)
        self._looks = 0
        self._end = ""
        self._has_stopped = False

    @property
    def samples(self) -> int:
        """The swarm's samples so far."""
        return int(self._clock.samples)

    @property
    def run_s(self) -> float:
        """How long the run has gone on, pauses left out."""
        return self._clock.run_s

    @property
    def fraction(self) -> float:
        """0 at the start, 1 when the run is over."""
        return self.share(self.reading)

    @property
    def reading(self) -> tuple[float, float]:
        """The swarm's samples, and how long the run has gone on."""
        return self._clock.samples, self._clock.run_s

    def told(self) -> tuple[float, float] | None:
        """The same as those read it that hold a state; None without any."""
        return self._clock.told()

    def share(self, reading: tuple[float, float]) -> float:
        """How much of the run that is, by the length it has now; 1 when it is over."""
        samples, run_s = reading
        return min(1.0, max(samples / self.samples_total, run_s / self._time_s))

    @property
    def end(self) -> str:
        """Why the run is over, in a few words; "" while it goes on."""
        return self._end

    @property
    def is_over(self) -> bool:
        return bool(self._end)

    @property
    def wants_end(self) -> bool:
        """Does a criterion hold for this node, whatever the others say?"""
        return bool(self._end or (self._stopping.wish and not self._has_stopped))

    # -- Inputs ----------------------------------------------------------------------------------------

    def begin(self, own_samples: int, now: float) -> None:
        """We hold a state and begin to step: at the swarm's place in the run."""
        self._clock.begin(own_samples, now)
        self._end = ""  # what was believed while we only listened is judged anew
        self._looks = max(self._looks, self._looks_due())
        self._judge(now)

    def on_steps(self, own_samples: int, now: float) -> None:
        """What our trainer has done since the run began."""
        self._clock.on_steps(own_samples, now)
        self.advance(now)

    def on_look(self, accuracy: float, now: float) -> None:
        """A look at held-out samples: the criteria of accuracy are judged on it."""
        self._stopping.on_look(accuracy)
        self._judge(now)

    def advance(self, now: float, at_once: bool = False) -> None:
        """Time has passed: recount and tell, a few times a second at most."""
        if self._clock.advance(now, at_once):
            self._judge(now)

    def stop(self, now: float) -> None:
        """We step no more: the run is over, or we leave it."""
        self._clock.stop()
        self._has_stopped = True
        self.tell(now)

    def pause(self, now: float) -> None:
        """Neither our own samples nor the run's time go on until `resume`."""
        self._clock.pause(now)
        self.tell(now)

    def resume(self, now: float) -> None:
        self._clock.resume(now)
        self.tell(now)

    def tell(self, now: float) -> None:
        """Let our status say where we stand."""
        self._membership.set_status(wants_end=self.wants_end, **self._clock.telling(now))

    def look_is_due(self) -> bool:
        """True once per LOOKS-th of the run: time to look at held-out accuracy."""
        due = self._looks_due()
        if due <= self._looks:
            return False
        self._looks = due
        return True

    # -- Checkpoints -----------------------------------------------------------------------------------

    def notes(self) -> dict[str, Any]:
        """All that a later life must know; plain numbers, for JSON."""
        return self._clock.notes() | {"stopping": self._stopping.notes(), "looks": self._looks}

    def restore(self, notes: Mapping[str, Any]) -> None:
        """Before `begin`. Raises KeyError, TypeError or ValueError where `notes` are not ours."""
        self._clock.restore(notes)
        self._stopping.restore(notes["stopping"])
        self._looks = int(notes["looks"])

    # -- How it is done --------------------------------------------------------------------------------

    def _looks_due(self) -> int:
        return int(self.fraction * LOOKS)

    def _judge(self, now: float) -> None:
        # A newcomer only listens: what it believes of the end before it has a state is no verdict.
        if self._clock.is_finding_its_place:
            self._end = ""
        elif not self._end or not self._clock.has_begun:
            if self._clock.samples >= self.samples_total:
                self._end = f"{self.samples_total:,} samples are trained on"
            elif self._clock.run_s >= self._time_s:
                self._end = f"its {self._time_s:g} s have passed"
            else:
                self._end = self._stopping.verdict(votes_itself=self._clock.has_begun, now=now)
        self.tell(now)
