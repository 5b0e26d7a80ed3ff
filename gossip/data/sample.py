"""A part of the training data in which every class keeps its share: what a first try is trained on.

Knows labels and a seed. Does not know pixels or shards. The checks need no numpy, so that a wrong spec is
refused before anything heavy is imported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gossip.errors import SpecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAMPLE_EXPECTED = 'a share above 0 %, at most 100 %, such as "10%", or a number of samples, such as 2000'
_SAMPLING = 0x73616D70  # sets this use of a seed apart from the others


@dataclass(frozen=True, slots=True)
class Sample:
    """How much of the data. Made by `parse_sample`; by default all of it."""

    share: float = 1.0  # above 0, at most 1
    count: int = 0  # wins over the share where it is not 0

    @property
    def is_all(self) -> bool:
        return self.count == 0 and self.share == 1.0

    def size(self, available: int, class_count: int) -> int:
        """How many of `available` samples. Raises SpecError for more than there are, or fewer than classes."""
        size = self.count or round(self.share * available)
        if size > available:
            raise SpecError(f"expected at most {available:,}: the data set has no more training samples")
        if size < class_count and not self.is_all:
            raise SpecError(
                f"{size} of {available:,} samples: expected at least {class_count}, one of every class; "
                "give a larger share, or a number"
            )
        return size

    def check(self, available: int, class_count: int, shards: int) -> None:
        """Raises SpecError for what `size` refuses, and for shards that would be left without a sample."""
        if (size := self.size(available, class_count)) < shards:
            raise SpecError(f"{size:,} samples leave some of {shards:,} shards empty; expected fewer shards, or more")

    def take(self, labels: NDArray[np.uint8], class_count: int, seed: int) -> NDArray[np.int64]:
        """The sorted indices of the samples in the part: int64[size].

        labels: uint8[n], each below class_count. Every class keeps its share, rounded, and at least one sample
        where it has any. A larger part of the same seed holds nearly all of a smaller one.
        Raises SpecError as `size` does.
        """
        import numpy as np

        if self.is_all:
            return np.arange(len(labels), dtype=np.int64)
        sizes = np.bincount(labels, minlength=class_count)
        # RandomState, as for shards: its stream is the same in every version of numpy.
        rng = np.random.RandomState([seed, _SAMPLING])
        piles = [rng.permutation(np.flatnonzero(labels == c)) for c in range(class_count)]
        counts = _apportion(sizes, self.size(len(labels), class_count))
        return np.sort(np.concatenate([pile[:count] for pile, count in zip(piles, counts, strict=True)]))


def parse_sample(value: str | int) -> Sample:
    """A Sample from "10%", 2000 or "2000"; all of the data from "". Raises SpecError."""
    if value == "":
        return Sample()
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(%?)\s*", str(value), re.ASCII)
    if match is None or (not match[2] and "." in match[1]):
        raise SpecError(f"expected {SAMPLE_EXPECTED}")
    sample = Sample(share=float(match[1]) / 100) if match[2] else Sample(count=int(match[1]))
    if not 0 < sample.share <= 1 or (not match[2] and not sample.count):
        raise SpecError(f"expected {SAMPLE_EXPECTED}")
    return sample


def _apportion(sizes: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """How many of each class make up `size` samples, int64[classes]: shares kept, what is left to the largest rest.

    A class that has samples gets at least one, from whoever has most.
    """
    import numpy as np

    exact = sizes * (size / max(1, sizes.sum()))
    counts = np.floor(exact).astype(np.int64)
    for c in np.argsort(counts - exact, kind="stable")[: size - int(counts.sum())]:
        counts[c] += 1
    for c in np.flatnonzero((counts == 0) & (sizes > 0)):
        counts[counts.argmax()] -= 1
        counts[c] += 1
    return counts
