"""The memory that kernels work in, as large as a plan says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gossip.kernels import step, team
from gossip.kernels.lanes import LANES
from gossip.models.plan import Sizes


def workspaces(sizes: Sequence[Sizes]) -> tuple[step.Workspace, ...]:
    """One per thread of a team. What is not used takes no memory: the system gives pages as they are touched."""
    threads, numbers = len(sizes), 2 * sizes[0].channels
    flags, board = np.zeros(team.PARKED + team.TEAM_MAX, np.int64), np.zeros((threads, numbers))
    return tuple(
        step.Workspace(
            values=_aligned_zeros(size.groups, size.values),
            live=_aligned_zeros(size.groups, LANES),
            prepared=_aligned_zeros(1, size.prepared)[0],
            scratch=_aligned_zeros(1, size.scratch)[0],
            sums=np.zeros(numbers),
            me=me,
            size=threads,
            flags=flags,
            board=board,
        )
        for me, size in enumerate(sizes)
    )


def _aligned_zeros(rows: int, columns: int) -> np.ndarray:
    """float32[rows, columns] that begins on a cache line, so that no 16-sample vector crosses one."""
    raw = np.zeros(4 * rows * columns + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + 4 * rows * columns].view(np.float32).reshape(rows, columns)
