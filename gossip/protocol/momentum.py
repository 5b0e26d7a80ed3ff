"""Whether an exchange averages the optimizer's momentum along with the parameters.

It adds about half to a request and doubles an answer, and pays where two nodes exchange often: momentum remembers
about 1 / (1 - friction) steps, ten at 0.9, so what a peer sends is still worth something a few steps later.
"""

from __future__ import annotations

AUTO_STEPS_MAX = 4  # "auto" averages momentum up to this period, in local steps


def momentum_is_wanted(setting: str, momentum: float, every_steps: int) -> bool:
    """setting: exchange.momentum. momentum: the optimizer's coefficient; 0: it keeps none. every_steps: H as it is."""
    if momentum <= 0.0 or setting == "off":
        return False
    return setting == "on" or every_steps <= AUTO_STEPS_MAX


def momentum_refusal(setting: str, momentum: float) -> str:
    """Why `setting` cannot be had with this optimizer, to follow the given value in an error; "" where it can.

    Adam's place, when it comes: averaging its first moment destroyed training in three of three runs.
    """
    if setting == "on" and momentum <= 0.0:
        return 'train.momentum = 0 leaves nothing to average; expected "auto" or "off", or a train.momentum above 0'
    return ""
