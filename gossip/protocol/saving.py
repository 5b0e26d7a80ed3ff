"""When a node writes a checkpoint, and what is said when that goes wrong.

One is written at a time, every so often, from the first step on. What a kill costs is the age of the state on the
disk, and until the next one is written whole the old one is all there is: so a save begins early by as long as the
last one took. A disk that is slower than that makes it rarer, and one that takes nothing stops nothing: training goes
on, the last good checkpoint stays, and each kind of failure is said once until a save succeeds again. What happens
when a node leaves is not decided here: then there is no later.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gossip.protocol.events import CheckpointFailed, CheckpointSaved, Effect, Emit, SaveCheckpoint

LEAD_SHARE_MAX = 0.25  # of the interval: a slow disk is not to be busy all the time
URGENT_AGAIN_S = 1.0  # what cannot wait is tried again this soon where a save is under way


class Saving:
    """Asks for checkpoints, one at a time."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._due_at = math.inf  # nothing to save before training has begun
        # A save begins this much earlier, to be done in time; the first one as if the disk were slow.
        self._lead_s = LEAD_SHARE_MAX * every_s
        self._late_s = 0.0  # the one under way was asked for this much later than it was due
        self._is_under_way = False
        self._is_urgent = False
        self._said: dict[str, None] = {}  # kinds of failure since the last success

    @property
    def under_way(self) -> int:
        """Saves under way."""
        return int(self._is_under_way)

    def next_deadline(self) -> float:
        return self._due_at

    def begin(self, now: float) -> None:
        """The node trains: from now on there is something to lose."""
        self._due_at = min(self._due_at, now + self._every_s - self._lead_s)

    def suspend(self) -> None:
        """What we hold is no state any more until `begin` is called again."""
        self._due_at = math.inf

    def soon(self, now: float) -> None:
        """Something is new that must survive a crash of everybody: save at the next tick, if there is a state yet."""
        if self._due_at < math.inf:
            self._due_at, self._is_urgent = min(self._due_at, now), True

    def on_tick(self, now: float, notes: Callable[[], dict[str, Any]]) -> list[Effect]:
        """notes: what the node itself wants to read again after a restart."""
        if now < self._due_at:
            return []
        due_at, self._due_at = self._due_at, now + self._every_s
        if self._is_under_way:
            if self._is_urgent:
                self._due_at = now + min(URGENT_AGAIN_S, self._every_s)
            return [Emit("checkpoint_skipped", {"why": "the one before is still being written"})]
        self._is_under_way, self._is_urgent = True, False
        self._due_at, self._late_s = now + self._every_s - self._lead_s, now - due_at
        return [SaveCheckpoint(notes())]

    def on_saved(self, event: CheckpointSaved) -> list[Effect]:
        self._is_under_way = False
        self._said.clear()
        self._lead_s = min(event.copy_s + event.seconds, LEAD_SHARE_MAX * self._every_s)
        fields = {"step": event.step, "bytes": event.bytes, "late_s": round(self._late_s, 4),
                  "copy_s": round(event.copy_s, 6), "seconds": round(event.seconds, 4)}  # fmt: skip
        return [Emit("checkpoint_saved", fields)]

    def on_failed(self, event: CheckpointFailed) -> list[Effect]:
        self._is_under_way = False
        if event.kind in self._said:
            return []
        self._said[event.kind] = None
        return [Emit("checkpoint_failed", {"kind": event.kind, "why": event.why})]
