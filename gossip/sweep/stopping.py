"""When a trial is given up: after a third of its samples it must be as good as half of the others were then.

The median rule of Golovin et al., "Google Vizier: A Service for Black-Box Optimization" (KDD 2017). It may give up
what would have come late and won: a low rate looks worst in the middle. Pure: numbers in, a sentence out.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

LOOKS = 12  # per trial, evenly spaced; the last one is at its end
FIRST_JUDGED = LOOKS // 3
OTHERS_MIN = 4  # a median of fewer is chance


def why_give_up(own: Sequence[float], others: Iterable[Sequence[float]]) -> str:
    """Why a trial should end now; "" where it should go on.

    own: its accuracies so far, one per look. others: those of trials with other values, however far they are.
    """
    looks = len(own)
    if not FIRST_JUDGED <= looks < LOOKS:
        return ""
    reached = [max(accuracies[:looks]) for accuracies in others if len(accuracies) >= looks]
    if len(reached) < OTHERS_MIN or max(own) >= (median := statistics.median(reached)):
        return ""
    return f"{max(own):.1%} after {looks / LOOKS:.0%}, where the median of {len(reached)} was {median:.1%}"
