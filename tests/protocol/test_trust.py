"""Whose part of a state is thrown away."""

from __future__ import annotations

import math

import pytest

from gossip.protocol.events import DonorLoss, DonorsCompared
from gossip.protocol.trust import liars

A, B = b"a" * 32, b"b" * 32
UNTRAINED = 2.4


@pytest.mark.parametrize(
    ("with_and_without", "distrusted"),
    [
        ([(0.3, 0.4), (0.4, 0.3)], []),
        ([(2.4, 2.5), (2.5, 2.4)], []),
        ([(4.28, 0.54), (0.54, 4.28)], []),
        ([(2.4, 0.1), (0.1, 2.4)], [A]),
        ([(900.0, 7.0), (880.0, 950.0)], [A]),
        ([(math.nan, 7.0), (math.nan, math.nan)], [A]),
        ([(math.nan, math.inf), (math.inf, 6.0)], [B]),
        ([(90.0, 80.0), (80.0, 90.0)], [A, B]),
        ([(0.3, UNTRAINED)], []),
        ([(90.0, UNTRAINED)], [A]),
        ([(math.nan, UNTRAINED)], [A]),
    ],
    ids=[
        "both fine", "both hardly trained", "donors differ in a non-IID swarm", "one gives an untrained model",
        "one is scaled, and in both variants", "one is not finite, and in both variants", "the other is not finite",
        "both worse than untrained", "one donor, fine", "one donor, worse than untrained", "one donor, not finite",
    ],
)  # fmt: skip
def test_who_is_distrusted(with_and_without: list[tuple[float, float]], distrusted: list[bytes]) -> None:
    """The one without whom the state is better; all, where nobody's is better than nothing; never a mere difference."""
    losses = [DonorLoss(peer, *pair) for peer, pair in zip((A, B), with_and_without, strict=False)]
    assert liars(DonorsCompared(tuple(losses), UNTRAINED)) == distrusted
