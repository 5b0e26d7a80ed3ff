"""The learning rate as a function of progress: a linear warm-up, then half a cosine down to 0.

The cosine is the one of Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts"
(ICLR 2017, arXiv 1608.03983), without restarts. Progress is the swarm's, so a late joiner starts at the
same rate as everybody else.
"""

from __future__ import annotations

import math

LINEAR_MAX = 4.0  # batches this many times the usual one get as many times the rate, larger ones the root of the rest


def scale_of_batch(batch: int, usual: int) -> float:
    """What the learning rate is multiplied with for a batch of another size; 1 for the usual one.

    Linear (Goyal et al. 2017, arXiv 1706.02677), so that a sample counts as much in whichever batch it is seen.
    """
    ratio = batch / usual
    return ratio if ratio <= LINEAR_MAX else LINEAR_MAX * math.sqrt(ratio / LINEAR_MAX)


def learning_rate_at(progress: float, peak: float, warmup: float) -> float:
    """The rate after this share of the run: 0 at both ends, `peak` at `warmup`.

    progress: 0 to 1; a swarm's estimate may run a little past either end and is clipped.
    warmup: share of the run spent climbing, 0 <= warmup < 1; with 0 the run starts at `peak`.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return peak * progress / warmup
    return peak * 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))
