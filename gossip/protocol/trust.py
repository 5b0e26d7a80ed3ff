"""Whose part of a state to throw away, once it was looked at with and without it."""

from __future__ import annotations

import math

from gossip.protocol.events import DonorLoss, DonorsCompared

# Clearly worse: more than WORSE_FACTOR times the loss, and WORSE_LOSS on top where losses are small. In a non-IID swarm
# honest nodes differ that much: of three classes each, one was at 4.28 while another was at 0.54, an untrained one at
# 2.4. Of 380 honest joins (analysis/donor_comparison.py, half of them in the first fifth of a run) twice the loss + 0.2
# would have refused a donor in 60, 4 times + 1 in 5, 8 times + 0.5 in 2, this in none. A state scaled by 10 or 1000 was
# caught in 380 of 380 cases, one of noise, zeros or wrong signs in 450 of 760, in a run's second half in 236 of 248. Of
# what is too near to tell, a small model takes the better copy: the liar's in 23.
WORSE_FACTOR = 8.0
WORSE_LOSS = 1.0


def is_clearly_worse(loss: float, than: float) -> bool:
    """Also where `loss` is not finite, whatever `than` is; never worse than what is itself not finite."""
    return not math.isfinite(loss) or (math.isfinite(than) and loss > WORSE_FACTOR * than + WORSE_LOSS)


def liars(compared: DonorsCompared) -> list[bytes]:
    """Nobody; the one donor without whom the state is best; or all, if no state is better than an untrained one."""
    suspects = [entry for entry in compared.losses if is_clearly_worse(entry.loss, entry.loss_without)]
    if suspects:
        return [min(suspects, key=_without).peer]
    if all(is_clearly_worse(entry.loss, compared.untrained) for entry in compared.losses):
        return [entry.peer for entry in compared.losses]
    return []


def _without(entry: DonorLoss) -> float:
    return entry.loss_without if math.isfinite(entry.loss_without) else math.inf
