"""The order in which one node sees its samples: every sample once per epoch, in an order of its own.

The order is a function of (seed, epoch), so two numbers are enough to carry on after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gossip.errors import DataError


class Sampler:
    """Endless batches over one shard. A batch may end one epoch and begin the next, or span several.

    epoch: how many times the whole shard has been dealt out; position: how far into the present one.
    """

    def __init__(self, indices: NDArray[np.int64], batch: int, seed: int) -> None:
        """indices: int64[m], m >= 1, not copied. batch: the most samples of a batch, more than m if need be."""
        if not len(indices):
            raise DataError("a shard without samples cannot be trained on; expected fewer shards")
        self.epoch = 0
        self.position = 0
        self._indices = indices
        self._seed = seed
        self._batch = np.empty(batch, dtype=np.int64)
        self._order = self._order_of_epoch()

    def next_batch(self, batch: int | None = None) -> NDArray[np.int64]:
        """The next batch, int64[batch]: valid until the next call, which overwrites it.

        batch: how many samples, at most what was set aside for; None for as many.
        """
        picked = self._batch if batch is None else self._batch[:batch]
        filled = 0
        while filled < len(picked):
            if self.position == len(self._indices):
                self.epoch, self.position = self.epoch + 1, 0
                self._order = self._order_of_epoch()
            taken = min(len(picked) - filled, len(self._indices) - self.position)
            picked[filled : filled + taken] = self._order[self.position : self.position + taken]
            self.position += taken
            filled += taken
        return picked

    def state(self) -> dict[str, int]:
        """What `restore` needs to carry on with the very next sample."""
        return {"epoch": self.epoch, "position": self.position}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go to where `state` was taken from a sampler of the same shard and seed.

        Raises DataError, and changes nothing, when the state cannot belong to this shard.
        """
        epoch, position = state.get("epoch", -1), state.get("position", -1)
        if not (0 <= epoch < 2**32 and 0 <= position <= len(self._indices)):
            raise DataError(f"data position {dict(state)} is outside a shard of {len(self._indices)} samples")
        self.epoch, self.position = epoch, position
        self._order = self._order_of_epoch()

    def _order_of_epoch(self) -> NDArray[np.int64]:
        # RandomState's stream is frozen (NEP 19): a run resumed under another numpy keeps its order.
        shuffled: NDArray[np.int64] = np.random.RandomState([self._seed, self.epoch]).permutation(self._indices)
        return shuffled
