"""The learning rate as a function of progress: a linear warm-up, then half a cosine down to 0.

The cosine is the one of Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts"
(ICLR 2017, arXiv 1608.03983), without restarts. Progress is the swarm's, so a late joiner starts at the
same rate as everybody else.
"""

from __future__ import annotations

import math


def learning_rate_at(progress: float, peak: float, warmup: float) -> float:
    """The rate after this share of the run: 0 at both ends, `peak` at `warmup`.

    progress: 0 to 1; a swarm's estimate may run a little past either end and is clipped.
    warmup: share of the run spent climbing, 0 <= warmup < 1; with 0 the run starts at `peak`.
    """
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return peak * progress / warmup
    return peak * 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))
