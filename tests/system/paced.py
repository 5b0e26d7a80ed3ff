"""`gossip` with steps of a known length at next to no work, so that two cores are enough for a swarm.

    python tests/system/paced.py STEP_S PYTHON -m gossip node ...

Put before a command (`GossipProcess(prefix=...)`). As with a step of that length, what is asked of the trainer waits
for its end.
"""

from __future__ import annotations

import sys
import threading

from gossip.__main__ import main
from gossip.training.trainer import Trainer

STEP_S = float(sys.argv[1])
_step, _never = Trainer.step, threading.Event()


def paced_step(trainer: Trainer) -> float:
    loss = _step(trainer)
    _never.wait(STEP_S)
    return loss


if __name__ == "__main__":
    Trainer.step = paced_step  # type: ignore[method-assign]
    sys.argv = sys.argv[4:]
    main()
