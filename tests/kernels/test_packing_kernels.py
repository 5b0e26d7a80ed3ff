"""Displacement planes and 8-bit snapshots against NumPy. A failing case is replayed by its id, which holds the seed."""

from __future__ import annotations

import numpy as np
import pytest

from gossip.kernels import absmax, levels

SEEDS = range(5)


@pytest.mark.parametrize("seed", SEEDS)
def test_planes_are_the_magnitudes_bits_and_signs_those_of_what_moved(seed: int) -> None:
    rng = np.random.default_rng(seed)
    zeros = rng.uniform()
    values = (rng.integers(-3, 4, 512) * (rng.uniform(size=512) > zeros)).astype(np.int8)
    low, high, signs = np.empty((3, 64), np.uint8)
    count = levels.pack(values, low, high, signs)
    moved = values[values != 0]
    assert count == moved.size == levels.count_nonzero(low, high)
    assert np.array_equal(np.unpackbits(low, bitorder="little"), np.abs(values) & 1)
    assert np.array_equal(np.unpackbits(high, bitorder="little"), np.abs(values) >> 1)
    assert np.array_equal(np.unpackbits(signs, bitorder="little")[:count], moved < 0)
    back = np.empty_like(values)
    levels.unpack(low, high, signs[: -(-count // 8)], back)
    assert np.array_equal(back, values)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_snapshot_is_within_half_a_level(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (np.exp2(rng.uniform(-40, 15, (7, 1))) * rng.normal(size=(7, 256))).astype(np.float32)
    x[2] = 0
    peaks, values, back = np.empty(7, np.float32), np.empty(7 * 256, np.int8), np.empty(7 * 256, np.float32)
    absmax.quantise(x.ravel(), peaks, values)
    absmax.dequantise(peaks, values, back)
    assert np.array_equal(peaks, np.abs(x).max(1))
    assert np.abs(values).max() == 127
    assert np.all(np.abs(back.reshape(7, 256) - x) <= peaks[:, None] / 254 * 1.001)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_snapshot_shows_what_is_not_finite_in_its_peak(bad: float) -> None:
    x = np.ones(512, np.float32)
    x[300] = bad
    peaks, values = np.empty(2, np.float32), np.empty(512, np.int8)
    absmax.quantise(x, peaks, values)
    assert peaks[0] == 1
    assert not np.isfinite(peaks[1])
    assert not values[256:].any()
