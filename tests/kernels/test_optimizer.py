"""What a step does to every number of the vector, against float64 formulas; clipping. (Through a trainer:
tests/training/test_optimizer.py.)"""

from __future__ import annotations

import numpy as np
import pytest

from gossip.kernels import optimizer

# Trained, frozen (in no segment), trained, running statistics, padding.
SEGMENTS = np.array(
    [(0, 40, optimizer.TRAINED), (50, 90, optimizer.TRAINED), (90, 100, optimizer.STATISTIC)], optimizer.SEGMENT
)
LEARNT, SEEN = np.r_[0:40, 50:90], np.r_[90:100]
RATE, DECAY = 0.05, 0.01


def vectors(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 128), np.float32)


def heavy_ball(x, slope, state, step):
    state[0] = 0.9 * state[0] + slope + DECAY * x
    return x - RATE * state[0]


def nesterov(x, slope, state, step):
    slope = slope + DECAY * x
    state[0] = 0.9 * state[0] + slope
    return x - RATE * (slope + 0.9 * state[0])


def adamw(x, slope, state, step):
    state[0] = 0.9 * state[0] + 0.1 * slope
    state[1] = 0.999 * state[1] + 0.001 * slope**2
    mean, square = state[0] / (1 - 0.9**step), state[1] / (1 - 0.999**step)
    return (1 - RATE * DECAY) * x - RATE * mean / (np.sqrt(square) + 1e-8)


def ours(name: str, x, gradient, state, step: int) -> None:
    if name == "adamw":
        optimizer.adamw(SEGMENTS, x, gradient, *state, step, RATE, 0.9, 0.999, 1e-8, DECAY)
    else:
        optimizer.sgd(SEGMENTS, x, gradient, state[0], RATE, 0.9, DECAY, name == "nesterov")


@pytest.mark.parametrize("twin", [heavy_ball, nesterov, adamw])
def test_each_part_of_the_vector_goes_its_own_way(twin) -> None:
    """Weights follow the optimizer, statistics a tenth of their "gradient"; frozen layers and padding stay put."""
    x, state = vectors(1, 1)[0], np.zeros((2, 128), np.float32)
    expected, memory = x.astype(np.float64), np.zeros((2, 128))
    start = x.copy()
    for step in range(1, 6):
        gradient = vectors(10 + step, 1)[0]
        moved = twin(expected, gradient.astype(np.float64), memory, step)
        expected[LEARNT] = moved[LEARNT]
        expected[SEEN] -= 0.1 * gradient[SEEN]
        ours(twin.__name__, x, gradient, state, step)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-5)
    rest = np.setdiff1d(np.arange(128), np.r_[LEARNT, SEEN])
    assert np.array_equal(x[rest], start[rest])
    assert not state[:, np.setdiff1d(np.arange(128), LEARNT)].any(), "momentum of what does not learn"


@pytest.mark.parametrize("longest", [0.5, 5.0, 1e9])
def test_clipping_shortens_and_turns_nothing(longest: float) -> None:
    """The length is that of what is learnt: statistics neither count nor are shortened."""
    gradient = vectors(2, 1)[0]
    before = gradient.copy()
    length = optimizer.clip(SEGMENTS, gradient, longest)
    assert length == pytest.approx(np.linalg.norm(before[LEARNT].astype(np.float64)))
    np.testing.assert_allclose(gradient[LEARNT], before[LEARNT] * min(1, longest / length), rtol=1e-6)
    assert np.array_equal(gradient[SEEN], before[SEEN])


def test_a_gradient_that_is_not_finite_is_not_hidden_by_clipping() -> None:
    """inf / inf would be NaN and longest / inf 0: the length says that something went wrong, before x moves."""
    for bad in (np.nan, np.inf):
        gradient = vectors(3, 1)[0]
        gradient[7] = bad
        assert not np.isfinite(optimizer.clip(SEGMENTS, gradient, 1.0))
