"""Which shard holds which training samples: nothing is assigned by anybody, every node computes it.

Knows labels, shards and a seed. Does not know pixels or peers. The checks need no numpy, so that a
wrong spec is refused before anything heavy is imported; the sharding imports it when called.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gossip.errors import SpecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXPECTED = 'expected "iid", "dirichlet(alpha)" with alpha from 0.001 to 1000, or "classes(k)" with k from 1'
ALPHA_MIN, ALPHA_MAX = 0.001, 1000.0  # beyond, the result is one class per shard or iid anyway


@dataclass(frozen=True, slots=True)
class Partition:
    """How training samples are dealt to shards. Made by `parse_partition`.

    iid: at random, equally many each.
    dirichlet: equally many each; a shard's class mix is drawn from Dirichlet(alpha, ..., alpha). The smaller
        alpha, the fewer classes dominate a shard. Hsu, Qi and Brown, "Measuring the Effects of Non-Identical
        Data Distribution for Federated Visual Classification", 2019, arXiv:1909.06335; their alpha is the
        sum over the classes, ours is per class, as in most later work.
    classes: at most k classes per shard, every class in some shard; a shared class is split equally.
    """

    kind: Literal["iid", "dirichlet", "classes"]
    alpha: float = 0.0
    classes_max: int = 0

    def check(self, class_count: int, shards: int) -> None:
        """Raises SpecError for what cannot be: more classes than there are, or a class nobody holds."""
        if self.kind != "classes":
            return
        k = self.classes_max
        if k > class_count:
            raise SpecError(f"expected at most classes({class_count}): the data set has {class_count} classes")
        if shards * k < class_count:
            fewest = f"classes({-(-class_count // shards)}) or shards = {-(-class_count // k)}"
            raise SpecError(
                f"{shards} shards of {k} classes leave {class_count - shards * k} of the {class_count} "
                f"classes to nobody; expected at least {fewest}"
            )

    def shard(
        self, labels: NDArray[np.uint8], class_count: int, shards: int, shard: int, seed: int
    ) -> NDArray[np.int64]:
        """The sorted indices of the samples in one shard: int64[m], m >= 1.

        labels: uint8[n], each below class_count. The shards 0 .. shards - 1 of one seed are disjoint and
        cover every sample. With more nodes than shards the caller takes the node's number modulo `shards`.
        Raises SpecError for an impossible partition, a shard out of range, or fewer samples than shards.
        """
        import numpy as np

        self.check(class_count, shards)
        if not 0 <= shard < shards:
            raise SpecError(f"shard {shard}: expected 0 to {shards - 1}")
        if len(labels) < shards:
            raise SpecError(f"{len(labels)} samples cannot fill {shards} shards; expected fewer shards")
        # RandomState, not default_rng: its stream is frozen for good (NEP 19), so nodes with different numpy
        # versions still agree on who holds what.
        rng = np.random.RandomState([seed, 0x73686172])
        if self.kind == "iid":
            owners = _deal_iid(len(labels), shards, rng)
        elif self.kind == "dirichlet":
            owners = _deal_dirichlet(labels, class_count, shards, self.alpha, rng)
        else:
            owners = _deal_classes(labels, class_count, shards, self.classes_max, rng)
        return np.flatnonzero(owners == shard)


def parse_partition(text: str) -> Partition:
    """A Partition from "iid", "dirichlet(0.3)" or "classes(3)". Raises SpecError."""
    match = re.fullmatch(r"\s*(iid|(dirichlet|classes)\s*\(\s*([0-9][0-9.e+-]*)\s*\))\s*", text)
    if match is None:
        raise SpecError(EXPECTED)
    if match[1] == "iid":
        return Partition("iid")
    try:
        if match[2] == "classes":
            partition = Partition("classes", classes_max=int(match[3]))
            valid = partition.classes_max >= 1
        else:
            partition = Partition("dirichlet", alpha=float(match[3]))
            valid = math.isfinite(partition.alpha) and ALPHA_MIN <= partition.alpha <= ALPHA_MAX
    except ValueError as error:
        raise SpecError(EXPECTED) from error
    if not valid:
        raise SpecError(EXPECTED)
    return partition


def shard_of_key(public_key: bytes, seed: int, shards: int) -> int:
    """A node's shard, from nothing but its public key and the spec: anybody can recompute it.

    With as many nodes as shards some shards stay empty-handed and others are held twice; a swarm that
    numbers its nodes does better.
    """
    digest = hashlib.sha256(b"gossip shard" + seed.to_bytes(8, "big") + public_key).digest()
    return int.from_bytes(digest[:8], "big") % shards


def _deal_iid(samples: int, shards: int, rng: np.random.RandomState) -> NDArray[np.int64]:
    """The owner of every sample, int64[n]: a shuffled deal, sizes differ by at most one."""
    import numpy as np

    owners: NDArray[np.int64] = np.arange(samples, dtype=np.int64) % shards
    rng.shuffle(owners)
    return owners


def _deal_dirichlet(
    labels: NDArray[np.uint8], class_count: int, shards: int, alpha: float, rng: np.random.RandomState
) -> NDArray[np.int64]:
    """The owner of every sample, int64[n]: shard after shard draws its mix and takes what is left of it.

    As in Hsu et al., a class that runs out is struck from the mixes of the shards after it.
    """
    import numpy as np

    piles = [rng.permutation(np.flatnonzero(labels == c)) for c in range(class_count)]
    left = np.array([pile.size for pile in piles])
    owners = np.empty(len(labels), dtype=np.int64)
    for shard in range(shards):
        mix = _dirichlet(alpha, class_count, rng)
        wanted = len(labels) * (shard + 1) // shards - len(labels) * shard // shards
        while wanted:
            weights = np.where(left > 0, mix, 0.0)
            if not weights.any():  # everything this shard likes is gone
                weights = left.astype(np.float64)
            taken = np.minimum(rng.multinomial(wanted, weights / weights.sum()), left)
            for c in np.flatnonzero(taken):
                owners[piles[c][left[c] - taken[c] : left[c]]] = shard
            left -= taken
            wanted -= int(taken.sum())
    return owners


def _dirichlet(alpha: float, size: int, rng: np.random.RandomState) -> NDArray[np.float64]:
    """One draw from Dirichlet(alpha, ..., alpha), float64[size], by way of log-gammas.

    G(alpha) = G(alpha + 1) U^(1/alpha) (Marsaglia and Tsang 2000): in logs, a small alpha cannot end in 0/0.
    """
    import numpy as np

    logs = np.log(rng.standard_gamma(alpha + 1, size)) + np.log(1 - rng.random_sample(size)) / alpha
    shares = np.exp(logs - logs.max())
    return shares / shares.sum()


def _deal_classes(
    labels: NDArray[np.uint8], class_count: int, shards: int, classes_max: int, rng: np.random.RandomState
) -> NDArray[np.int64]:
    """The owner of every sample, int64[n]: a class is split equally among its holders.

    A shard left with nothing (its classes have fewer samples than holders) gets one sample of the largest.
    """
    import numpy as np

    holders: list[list[int]] = [[] for _ in range(class_count)]
    for shard, classes in enumerate(class_sets(class_count, shards, classes_max, rng.permutation(class_count))):
        for c in classes:
            holders[c].append(shard)
    owners = np.empty(len(labels), dtype=np.int64)
    for c, shards_of_class in enumerate(holders):
        pile = rng.permutation(np.flatnonzero(labels == c))
        owners[pile] = np.array(shards_of_class)[np.arange(pile.size) % len(shards_of_class)]
    sizes = np.bincount(owners, minlength=shards)
    for empty in np.flatnonzero(sizes == 0):
        largest = sizes.argmax()
        owners[np.flatnonzero(owners == largest)[0]] = empty
        sizes[largest] -= 1
        sizes[empty] += 1
    return owners


def class_sets(class_count: int, shards: int, classes_max: int, order: NDArray[np.int64]) -> list[list[int]]:
    """Which classes each shard holds: shard after shard takes the classes with the fewest holders so far.

    order: a permutation of the classes, the seed's choice. Ten classes, 4 shards of 3, in the order 0..9:
    0-2, 3-5, 6-8, and 9 with 0 and 3: on a tie goes what another shard took first, so that the last
    shards borrow from many. No class has two holders more than another.
    """
    holders, place, rank = [0] * class_count, [0] * class_count, [0] * class_count
    for position, c in enumerate(order.tolist()):
        rank[c] = position
    sets = []
    for _ in range(shards):
        chosen = sorted(range(class_count), key=lambda c: (holders[c], place[c], rank[c]))[:classes_max]
        for position, c in enumerate(chosen):
            holders[c] += 1
            place[c] = position
        sets.append(chosen)
    return sets
