"""Virtual time: one heap of events, ordered by time, then by the seed, then by arrival.

The seeded tie-break keeps anybody from leaning on the accident of which of two simultaneous events
was scheduled first.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable


class World:
    """The clock every simulated node reads, and the events that move it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self._now = 0.0
        self._sequence = 0
        self._heap: list[tuple[float, float, int, Callable[[], None]]] = []

    def now(self) -> float:
        """Virtual seconds since the start."""
        return self._now

    def after(self, delay_s: float, event: Callable[[], None]) -> None:
        """Let `event` happen `delay_s` seconds from now."""
        self._sequence += 1
        heapq.heappush(self._heap, (self._now + max(0.0, delay_s), self.rng.random(), self._sequence, event))

    def run(self, until_s: float, stop: Callable[[], bool] = lambda: False) -> bool:
        """Play events until `stop()` holds (True) or virtual time reaches `until_s` (False)."""
        while not stop():
            if not self._heap or self._heap[0][0] > until_s:
                self._now = until_s
                return stop()
            self._now, _, _, event = heapq.heappop(self._heap)
            event()
        return True
