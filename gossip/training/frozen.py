"""What of a vector is not learnt, as exchanges see it: whole blocks that are never offered, and numbers beside others.

A block may hold the end of a frozen layer and the beginning of one that is learnt. It is exchanged, and its frozen
numbers are put back: nobody's mixing moves them, whatever a peer sends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gossip.kernels.exchange import BLOCK


class Frozen:
    """Of one vector of n_blocks * BLOCK numbers. blocks: bool[n_blocks], of those in which nothing is learnt."""

    def __init__(self, segments: NDArray[np.void], dim: int) -> None:
        """segments: as gossip.kernels.optimizer has them; what of the first dim numbers is in none is frozen."""
        moves = np.zeros(-(-dim // BLOCK) * BLOCK, np.bool_)
        for row in segments:
            moves[row["start"] : row["end"]] = True
        self.blocks = np.asarray(~moves.reshape(-1, BLOCK).any(axis=1))
        still = np.flatnonzero(~moves[:dim])
        self._beside = still[~self.blocks[still // BLOCK]]
        edges = np.flatnonzero(np.diff(moves[:dim], prepend=True, append=True))
        self._spans = [slice(int(start), int(end)) for start, end in edges.reshape(-1, 2)]

    @property
    def any(self) -> bool:
        """Is anything frozen at all?"""
        return bool(self._spans)

    @property
    def exchanged(self) -> int:
        """Numbers in blocks that exchanges choose from."""
        return int(np.count_nonzero(~self.blocks)) * BLOCK

    @contextlib.contextmanager
    def held(self, *vectors: NDArray[np.float32]) -> Iterator[None]:
        """Whatever is done to the vectors meanwhile, what is frozen beside others is as before."""
        kept = [vector[self._beside] for vector in vectors]
        yield
        for vector, numbers in zip(vectors, kept, strict=True):
            vector[self._beside] = numbers

    def copy(self, source: NDArray[np.float32], *vectors: NDArray[np.float32]) -> None:
        """All that is frozen becomes what it is in `source`, float32[>= dim]."""
        for vector in vectors:
            for span in self._spans:
                vector[span] = source[span]
