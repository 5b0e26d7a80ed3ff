"""The threads that compute a step's gradient together, parked while there is none.

The caller's thread is the first of them. A helper spins for a moment after each step, which is when the next one
comes, and sleeps after that. Nothing is allocated and nothing locked on the way of a step.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from gossip.kernels import step, team
from gossip.kernels.denormals import flush_denormals


class _Shared:
    """What helpers hold on to: not the Team itself, so that one nobody uses any more ends."""

    def __init__(self, table: np.ndarray, works: Sequence[step.Workspace]) -> None:
        self.table, self.works, self.flags = table, works, works[0].flags
        self.wakers = [threading.Semaphore(0) for _ in works]
        self.job: tuple | None = None  # x, gradient, others, samples, smoothing, size; None: go home

    def help(self, me: int) -> None:
        flush_denormals()
        seen = 0
        while True:
            if not team.started(self.flags, seen) and team.park(self.flags, me, seen):
                self.wakers[me].acquire()
            if not team.has_started(self.flags, seen):
                continue
            seen += 1
            if self.job is None:
                return
            *job, size = self.job
            if me < size:
                step.loss_and_grad_together(self.table, *job, self.works[me]._replace(size=size))


class Team:
    """Used by one thread at a time."""

    def __init__(self, table: np.ndarray, works: Sequence[step.Workspace]) -> None:
        """works: one workspace per thread, with one board and one set of flags."""
        self._shared = _Shared(table, works)
        self._others = np.zeros((0, 0), np.float32)
        self._is_ready = False
        self.limit = len(works)  # threads in use at most; may change between steps

    def loss_and_grad(
        self, x: np.ndarray, gradient: np.ndarray, samples: step.Samples, smoothing: float, size: int
    ) -> float:
        """As step.loss_and_grad, by `size` threads: no more than the batch has groups of 16 samples."""
        shared = self._shared
        if not self._is_ready:
            self._begin(x, gradient, samples, smoothing)
        shared.job = (x, gradient, self._others, samples, smoothing, size)
        self._start()
        return step.loss_and_grad_together(shared.table, *shared.job[:-1], shared.works[0]._replace(size=size))

    def _begin(self, x: np.ndarray, gradient: np.ndarray, samples: step.Samples, smoothing: float) -> None:
        shared, size = self._shared, len(self._shared.works)
        self._others = np.zeros((size - 1, x.size), np.float32)
        alone = shared.works[0]._replace(size=1)
        step.loss_and_grad_together(shared.table, x, gradient, self._others, samples, smoothing, alone)  # compiles
        for me in range(1, size):
            threading.Thread(target=shared.help, args=(me,), name=f"trainer-{me}", daemon=True).start()
        self._is_ready = True

    def _start(self) -> None:
        shared = self._shared
        team.start(shared.flags)
        for me in range(1, len(shared.works)):
            if team.wake(shared.flags, me):
                shared.wakers[me].release()

    def __del__(self) -> None:
        if self._is_ready:
            self._shared.job = None
            self._start()
