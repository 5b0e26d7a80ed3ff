"""The samples of every step, side by side: picked by the sampler, copied into one place that each step overwrites."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gossip.data.sampler import Sampler
from gossip.data.store import Dataset


class Batches:
    """One shard of the training samples, in an order of its own."""

    def __init__(self, dataset: Dataset, shard: NDArray[np.int64], batch_max: int, order_seed: int) -> None:
        """shard: int64[m], indices of training samples. batch_max: the most samples of a step."""
        self.sampler = Sampler(shard, batch_max, order_seed)
        self._dataset = dataset
        self._images = np.empty((batch_max, *dataset.train_images.shape[1:]), np.uint8)
        self._labels = np.empty(batch_max, np.uint8)

    def next(self, batch: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(images, labels) of the next `batch` samples; valid until the next call."""
        picked = self.sampler.next_batch(batch)
        images, labels = self._images[:batch], self._labels[:batch]
        # A sampler's indices are in range; with mode="raise" numpy would write to a copy first.
        np.take(self._dataset.train_images, picked, 0, images, "clip")
        np.take(self._dataset.train_labels, picked, 0, labels, "clip")
        return images, labels
