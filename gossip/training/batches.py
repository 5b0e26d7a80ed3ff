"""The samples of every step, side by side: picked by the sampler, copied into one place that each step overwrites.

Copying is where images are augmented. It costs a step of the cifar preset 1 % (32 samples, .1 ms).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gossip.data.augmentation import Augmentation
from gossip.data.sampler import Sampler
from gossip.data.store import Dataset
from gossip.kernels.augment import augment


class Batches:
    """One shard of the training samples, in an order of its own."""

    def __init__(
        self, dataset: Dataset, shard: NDArray[np.int64], batch_max: int, order_seed: int,
        augmentation: Augmentation,
    ) -> None:  # fmt: skip
        """shard: int64[m], indices of training samples. batch_max: the most samples of a step."""
        self.sampler = Sampler(shard, batch_max, order_seed)
        self._dataset = dataset
        self._augmentation = augmentation
        self._seed = np.uint64(order_seed)
        channels = dataset.train_images.shape[-1]
        self._border = np.rint(255 * np.array(dataset.mean or [0.0] * channels)).astype(np.uint8)
        self._images = np.empty((batch_max, *dataset.train_images.shape[1:]), np.uint8)
        self._labels = np.empty(batch_max, np.uint8)

    def next(self, batch: int, step: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(images, labels) of the next `batch` samples; valid until the next call.

        step: how many were before it, since what is drawn at random follows from that.
        """
        picked = self.sampler.next_batch(batch)
        images, labels, source = self._images[:batch], self._labels[:batch], self._dataset.train_images
        # A sampler's indices are in range; with mode="raise" numpy would write to a copy first.
        np.take(self._dataset.train_labels, picked, 0, labels, "clip")
        if self._augmentation.is_none:
            np.take(source, picked, 0, images, "clip")
        else:
            how = self._augmentation
            augment(source, picked, how.is_flipped, how.margin, self._border, self._seed, np.uint64(step), images)
        return images, labels
