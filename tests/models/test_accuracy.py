"""F(4x4) where it is near enough to direct convolution, measured, and never on trust."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gossip.kernels.compiling import link
from gossip.models import accuracy
from gossip.models.layers import resolve_layers
from gossip.models.layout import layout_of
from gossip.models.plan import plan


@pytest.mark.parametrize(("channels", "filters"), [(16, 16), (64, 32), (32, 256)])
def test_what_is_measured_is_rounding(channels: int, filters: int) -> None:
    """Well below the limits, or they would be hit by chance on another CPU; and not 0, or nothing was measured."""
    link()
    for m, error_max in accuracy.ERROR_MAX.items():
        assert 1e-8 < accuracy.error(m, channels, filters) < error_max / 3


def test_measuring_costs_little() -> None:
    """It happens at the start of every process, for each pair of channels and filters: 20 ms at most."""
    link()
    accuracy.error(4, 16, 16)
    begin = time.thread_time()
    accuracy.error(4, 512, 512)
    assert time.thread_time() - begin < 0.1, "10 ms on a quiet machine"


@pytest.mark.parametrize(
    ("errors", "chosen"),
    [
        ({4: 1e-6, 2: 1e-7}, 4),
        ({4: 2e-4, 2: 1e-7}, 2),
        ({4: 2e-4, 2: 2e-5}, 0),
        ({4: float("nan"), 2: float("inf")}, 0),
    ],
)
def test_the_largest_that_is_near_enough_is_used(
    errors: dict[int, float], chosen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the table says so, convolution by convolution; nobody gets more than asked for."""
    monkeypatch.setattr(accuracy, "error", lambda m, channels, filters: errors[m])
    accuracy.trusted.cache_clear()
    try:
        layers = resolve_layers(("conv 16 1x1", "conv 16 3x3", "conv 7 3x3", "dense 3"), (8, 8, 3), 3)
        table, _ = plan(layers, layout_of(layers), 32, accuracy.at_most(4))
        assert table["winograd"].tolist() == [0, chosen, 0, 0]
        assert accuracy.at_most(2)(16, 16) == min(chosen, 2) and accuracy.at_most(0)(16, 16) == 0
    finally:
        accuracy.trusted.cache_clear()


@pytest.mark.slow
def test_a_poisoned_transform_is_caught(tmp_path: Path) -> None:
    """One of 36 numbers off by a thousandth: training would go on, a little worse. Compiled anew, so slow."""
    here = Path(__file__).parent
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(here.parents[1])}
    done = subprocess.run([sys.executable, here / "poisoned.py"], env=environment, capture_output=True, text=True)
    chosen, error = done.stdout.split()
    assert chosen == "2" and 1e-4 < float(error) < np.inf, done.stderr[-2000:]
