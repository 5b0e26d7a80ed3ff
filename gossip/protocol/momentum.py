"""Whether an exchange averages the optimizer's momentum along with the parameters.

It adds 55 % to the bytes of an exchange and pays where two nodes exchange often: momentum remembers about
1 / (1 - friction) steps, ten at 0.9. Four nodes with three MNIST classes each end .4 to 1.3 points better after 400
steps at a period of 1 to 4, and .4 to 1 at 8 (analysis/exchange_convergence.py). At equal bytes offering more blocks
does as well: where the upload is what is scarce, blocks first, momentum once all of them are offered.
"""

from __future__ import annotations

AUTO_STEPS_MAX = 4  # "auto" averages momentum up to this period, in local steps


def momentum_is_wanted(setting: str, momentum: float, every_steps: int) -> bool:
    """setting: exchange.momentum. momentum: the optimizer's coefficient; 0: it keeps none. every_steps: H as it is."""
    if momentum <= 0.0 or setting == "off":
        return False
    return setting == "on" or every_steps <= AUTO_STEPS_MAX


def momentum_refusal(setting: str, momentum: float, optimizer: str = "sgd") -> str:
    """Why `setting` cannot be had with this optimizer, to follow the given value in an error; "" where it can.

    Averaging Adam's first moment destroyed training in three of three runs.
    """
    if setting != "on" or momentum > 0.0:
        return ""
    if optimizer == "adamw":
        return 'adamw keeps moments that must not be averaged; expected "auto" or "off", or another train.optimizer'
    return 'train.momentum = 0 leaves nothing to average; expected "auto" or "off", or a train.momentum above 0'
