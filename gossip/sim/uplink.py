"""One host's upload: its links take turns, a slice at a time, as TCP connections share a line.

A ping to one peer therefore does not wait for megabytes queued for another, only for what was sent
to the same peer before it. Never-ending speed costs no event at all.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from gossip.sim.world import World

SLICE_BYTES = 16_384


@dataclass(slots=True)
class _Message:
    bytes_left: float
    leave: Callable[[], None]  # its last byte is on the way


class Uplink:
    """Queues by link, served in turn."""

    def __init__(self, world: World, bytes_per_s: Callable[[], float]) -> None:
        """bytes_per_s: asked for every slice; math.inf for no limit."""
        self._world = world
        self._bytes_per_s = bytes_per_s
        self._queues: dict[object, deque[_Message]] = {}  # by link, whose turn it is first
        self._is_busy = False

    def backlog_bytes(self) -> float:
        """All that is queued."""
        return sum(message.bytes_left for queue in self._queues.values() for message in queue)

    def backlog_s(self) -> float:
        """How long all that is queued will take."""
        return self.backlog_bytes() / self._bytes_per_s()

    def send(self, link: object, size: int, leave: Callable[[], None]) -> None:
        """Call `leave` when all of it has left, after whatever was sent over the same link before."""
        if math.isinf(self._bytes_per_s()) and not self._queues:
            leave()
            return
        self._queues.setdefault(link, deque()).append(_Message(size, leave))
        if not self._is_busy:
            self._next()

    def clear(self) -> None:
        """The process is gone, and what it had queued with it."""
        self._queues.clear()

    def _next(self) -> None:
        self._is_busy = bool(self._queues)
        if not self._queues:
            return
        link, queue = next(iter(self._queues.items()))
        taken = min(SLICE_BYTES, queue[0].bytes_left)
        self._world.after(taken / self._bytes_per_s(), lambda: self._sent(link, queue, taken))

    def _sent(self, link: object, queue: deque[_Message], taken: float) -> None:
        if self._queues.get(link) is queue:
            del self._queues[link]
            queue[0].bytes_left -= taken
            message = queue.popleft() if queue[0].bytes_left <= 0 else None
            if queue:
                self._queues[link] = queue  # to the end of the line
            if message is not None:
                message.leave()
        self._next()
