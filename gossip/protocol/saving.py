"""When a node writes a checkpoint, and what is said when that goes wrong.

One is written at a time, every so often, from the first step on. A disk that is slower than that makes it rarer, and
one that takes nothing stops nothing: training goes on, the last good checkpoint stays, and each kind of failure is
said once until a save succeeds again. What happens when a node leaves is not decided here: then there is no later.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from gossip.protocol.events import CheckpointFailed, CheckpointSaved, Effect, Emit, SaveCheckpoint

URGENT_AGAIN_S = 1.0  # what cannot wait is tried again this soon where a save is under way


class Saving:
    """Asks for checkpoints, one at a time."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._due_at = math.inf  # nothing to save before training has begun
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
        self._due_at = min(self._due_at, now + self._every_s)

    def soon(self, now: float) -> None:
        """Something is new that must survive a crash of everybody: save at the next tick, if there is a state yet."""
        if self._due_at < math.inf:
            self._due_at, self._is_urgent = min(self._due_at, now), True

    def on_tick(self, now: float, notes: Callable[[], dict[str, Any]]) -> list[Effect]:
        """notes: what the node itself wants to read again after a restart."""
        if now < self._due_at:
            return []
        self._due_at = now + self._every_s
        if self._is_under_way:
            if self._is_urgent:
                self._due_at = now + min(URGENT_AGAIN_S, self._every_s)
            return [Emit("checkpoint_skipped", {"why": "the one before is still being written"})]
        self._is_under_way, self._is_urgent = True, False
        return [SaveCheckpoint(notes())]

    def on_saved(self, event: CheckpointSaved) -> list[Effect]:
        self._is_under_way = False
        self._said.clear()
        fields = {"step": event.step, "bytes": event.bytes, "copy_s": round(event.copy_s, 6),
                  "seconds": round(event.seconds, 4)}  # fmt: skip
        return [Emit("checkpoint_saved", fields)]

    def on_failed(self, event: CheckpointFailed) -> list[Effect]:
        self._is_under_way = False
        if event.kind in self._said:
            return []
        self._said[event.kind] = None
        return [Emit("checkpoint_failed", {"kind": event.kind, "why": event.why})]
