"""A thread that asked for it takes numbers below 1.2e-38 as 0; the others do not."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from gossip.kernels import optimizer
from gossip.kernels.denormals import IS_X86, flush_denormals

SEGMENTS = np.array([(0, 32, optimizer.TRAINED)], optimizer.SEGMENT)


def momentum_after(momentum: float) -> float:
    """Of a parameter whose gradient is 0, after one step."""
    x, gradient = np.ones(32, np.float32), np.zeros(32, np.float32)
    vector = np.full(32, momentum, np.float32)
    optimizer.sgd(SEGMENTS, x, gradient, vector, 0.1, 0.9, 0.0, False)
    return float(vector[0])


@pytest.mark.skipif(not IS_X86, reason="x86 alone is slow with denormals, and has the register")
def test_momentum_that_fades_becomes_zero_in_the_thread_that_asked() -> None:
    """Otherwise it would stay a denormal for ever, and slow every step down."""
    seen: list[float] = []

    def life() -> None:
        seen.append(momentum_after(1e-40))
        flush_denormals()
        seen.extend((momentum_after(1e-40), momentum_after(1.2e-38), momentum_after(1e-30)))

    thread = threading.Thread(target=life)
    thread.start()
    thread.join()
    assert seen == [pytest.approx(0.9e-40, rel=1e-4), 0.0, 0.0, pytest.approx(0.9e-30)]
    assert momentum_after(1e-40) > 0, "another thread keeps its arithmetic"
