"""Momentum in 2 bits, against NumPy twins and against what it promises: right on average, and never larger.

A failing case is replayed by its id, which holds the seed: pytest "tests/kernels/...::test_name[seed]".
"""

from __future__ import annotations

import numpy as np
import pytest

from gossip.kernels import momentum as kernels
from gossip.kernels.exchange import BLOCK, MAGNITUDE_MAX, RANGE_CODE_MAX, STEPS
from gossip.kernels.momentum import BLOCK_BYTES

SEEDS = range(6)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
Quantised = tuple[np.uint64, np.ndarray, np.ndarray, np.ndarray]  # key, codes, signs, outer


def some_momentum(seed: int, n_blocks: int = 6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = np.repeat(np.exp2(rng.uniform(-20, 6, n_blocks)), BLOCK)
    return (scale * rng.standard_t(4, scale.size)).astype(np.float32)


def all_blocks(momentum: np.ndarray) -> np.ndarray:
    return np.arange(momentum.size // BLOCK, dtype=np.int32)


def quantise(momentum: np.ndarray, blocks: np.ndarray | None = None, key: int = 1) -> Quantised:
    blocks = all_blocks(momentum) if blocks is None else blocks
    codes, (signs, outer) = np.empty(blocks.size, np.uint8), np.empty((2, blocks.size * BLOCK_BYTES), np.uint8)
    kernels.quantise(momentum, blocks, np.uint64(key), codes, signs, outer)
    return np.uint64(key), codes, signs, outer


def mix(momentum: np.ndarray, given: Quantised, blocks: np.ndarray | None = None) -> int:
    return kernels.mix(momentum, all_blocks(momentum) if blocks is None else blocks, *given)


def twin_mixed(words: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser on uint64[...]."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def twin_dither(key: int, n_blocks: int) -> np.ndarray:
    """u for every coordinate, float64[n, BLOCK]."""
    words = twin_mixed(np.uint64(key) + np.arange(n_blocks * BLOCK // 4, dtype=np.uint64) * GOLDEN)
    sixteen = words[:, None] >> np.arange(0, 64, 16, dtype=np.uint64) & np.uint64(0xFFFF)
    return (sixteen.reshape(-1, BLOCK) + 0.5) / 65536 - 0.5


def twin_quantise(momentum: np.ndarray, key: int) -> Quantised:
    own = momentum.reshape(-1, BLOCK).astype(np.float64)
    peaks = np.abs(own).max(1)
    codes = np.array([next((c for c in range(1, 201) if 8 * STEPS[c] >= peak), 0) for peak in peaks], np.uint8)
    codes[peaks < 2.0**-30] = 0
    k = np.floor(own * (1.5 / (8 * STEPS[codes]))[:, None] + twin_dither(key, len(own)))
    planes = ((plane & (codes > 0)[:, None]).ravel() for plane in (k >= 0, (k < -1) | (k > 0)))
    signs, outer = (np.packbits(plane, bitorder="little") for plane in planes)
    return np.uint64(key), codes, signs, outer


def twin_read(given: Quantised) -> np.ndarray:
    """What the codes and planes of all blocks say, float64[n, BLOCK]."""
    key, codes, *planes = given
    is_positive, is_outer = (np.unpackbits(plane, bitorder="little").reshape(-1, BLOCK) for plane in planes)
    levels = np.where(is_positive, 1, -1) * np.where(is_outer, 1.5, 0.5)
    return (8 * STEPS[codes] / 1.5)[:, None] * (levels - twin_dither(int(key), codes.size))


def twin_mix(momentum: np.ndarray, given: Quantised) -> np.ndarray:
    own = momentum.reshape(-1, BLOCK).copy()
    for block, (code, values) in enumerate(zip(given[1], twin_read(given), strict=True)):
        peak = np.abs(own[block]).max()
        if code and 8 * STEPS[code] <= 8 * peak:
            middle = (0.5 * (own[block] + values)).astype(np.float32)
            own[block] = np.where(own[block] == 0, 0, np.clip(middle, -peak, peak))
    return own.ravel()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_kernels_do_what_their_twins_do(seed: int) -> None:
    momentum, other = some_momentum(seed), some_momentum(seed + 100)
    momentum[BLOCK : 2 * BLOCK] = 0
    given = quantise(momentum, key=2**63 + seed)
    for ours, twins in zip(given, twin_quantise(momentum, 2**63 + seed), strict=True):
        assert np.array_equal(ours, twins)
    expected = twin_mix(other, given)
    blocks_mixed = mix(other, given)
    assert np.array_equal(other, expected)
    peaks = np.abs(some_momentum(seed + 100)).reshape(-1, BLOCK).max(1)
    assert blocks_mixed == np.count_nonzero((given[1] > 0) & (8 * STEPS[given[1]] <= 8 * peaks))


def test_only_the_chosen_blocks_are_read_and_touched() -> None:
    momentum, blocks = some_momentum(1), np.array([1, 4], np.int32)
    given = quantise(momentum, blocks)
    for part, of_all in zip(given[1:], quantise(momentum)[1:], strict=True):
        assert np.array_equal(part.reshape(2, -1), of_all.reshape(6, -1)[blocks]), "random numbers go by block"
    before = momentum.copy().reshape(-1, BLOCK)
    assert mix(momentum, given, blocks) == 2
    is_changed = (momentum.reshape(-1, BLOCK) != before).any(1)
    assert np.flatnonzero(is_changed).tolist() == [1, 4]


def test_what_is_read_is_right_on_average() -> None:
    """4,000 keys: every coordinate's mean is the coordinate, to 5 standard errors, and its error is uniform."""
    momentum, draws = some_momentum(3, n_blocks=1), 4_000
    keys = [kernels.key_of(np.uint64(3), np.uint64(draw)) for draw in range(draws)]
    errors = np.array([twin_read(quantise(momentum, key=key))[0] for key in keys]) - momentum
    step = 2 / 3 * 8 * STEPS[quantise(momentum)[1][0]]
    assert np.all(np.abs(errors) <= step / 2 * (1 + 1e-6))
    assert np.all(np.abs(errors.mean(0)) <= 5 * step / np.sqrt(12 * draws))
    assert errors.var(0) == pytest.approx(np.full(BLOCK, step**2 / 12), rel=0.1)


def test_a_key_rounds_the_same_way_again_and_no_two_are_alike() -> None:
    momentum = some_momentum(4)
    keys = [kernels.key_of(np.uint64(seed), np.uint64(draw)) for seed, draw in ((5, 9), (5, 9), (5, 10), (6, 9))]
    once, again, *others = (quantise(momentum, key=key) for key in keys)
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))
    for other in others:
        differing = np.unpackbits(once[2] ^ other[2]).mean()
        assert 0.1 < differing < 0.5, "the small coordinates' signs are drawn anew"


def test_a_scale_is_never_below_the_largest_coordinate() -> None:
    """A clipped coordinate would be wrong on average, and always the same way."""
    rng = np.random.default_rng(5)
    peaks = np.exp2(rng.uniform(-29.7, 20, 5_000)).astype(np.float32)
    peaks = np.concatenate([peaks, (8 * STEPS[1 : RANGE_CODE_MAX + 1]).astype(np.float32)])
    scales = 8 * STEPS[[kernels.scale_code(peak) for peak in peaks]]
    assert np.all(scales >= peaks)
    assert np.all(scales <= peaks * 2**0.2501)
    assert [kernels.scale_code(np.float32(size)) for size in (0, 2.0**-31, 2.0**-30)] == [0, 0, 1]
    assert kernels.scale_code(np.float32(MAGNITUDE_MAX)) == RANGE_CODE_MAX


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2 * MAGNITUDE_MAX])
def test_what_is_not_a_sane_number_is_neither_sent_nor_mixed(bad: float) -> None:
    momentum, given = some_momentum(6), quantise(some_momentum(6))
    momentum[2 * BLOCK + 3] = bad
    _, codes, signs, outer = quantise(momentum)
    assert np.flatnonzero(codes == 0).tolist() == [2]
    assert not signs.reshape(-1, BLOCK_BYTES)[2].any() and not outer.reshape(-1, BLOCK_BYTES)[2].any()
    before = momentum.copy()
    assert mix(momentum, given) == 5
    third = slice(2 * BLOCK, 3 * BLOCK)
    assert np.array_equal(momentum[third], before[third], equal_nan=True)


def test_a_scale_beyond_eight_times_our_own_is_refused() -> None:
    momentum = np.full(2 * BLOCK, 0.25, np.float32)
    key, codes, signs, outer = quantise(momentum)
    codes[:] = kernels.scale_code(np.float32(2.0)), kernels.scale_code(np.float32(2.0)) + 1
    assert mix(momentum, (key, codes, signs, outer)) == 1
    assert np.all(momentum[BLOCK:] == 0.25)


def test_what_has_no_momentum_neither_gives_nor_takes() -> None:
    """Padding must stay 0, and a unit no gradient ever reached shall not be moved by rounding noise."""
    momentum, given = some_momentum(7), quantise(some_momentum(8))
    momentum[:BLOCK] = 0
    momentum[BLOCK : BLOCK + 40] = 0
    assert quantise(momentum)[1][0] == 0
    mix(momentum, given)
    assert not momentum[: BLOCK + 40].any()
    before = momentum.copy()
    given[1][:] = 0
    assert mix(momentum, given) == 0
    assert np.array_equal(momentum, before)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_peer_can_make_momentum_explode(seed: int) -> None:
    """Every scale that is accepted, all coordinates pushing one way: 1,000 exchanges later nothing has grown."""
    rng = np.random.default_rng(seed)
    momentum = some_momentum(seed)
    peaks = np.abs(momentum).reshape(-1, BLOCK).max(1)
    ones = np.full(momentum.size // 8, 255, np.uint8)
    for _ in range(1_000):
        largest = np.abs(momentum).reshape(-1, BLOCK).max(1)
        reach = np.array([kernels.scale_code(np.float32(8 * size)) for size in largest])
        codes = (reach - rng.integers(0, 3, reach.size)).clip(1).astype(np.uint8)
        key = np.uint64(rng.integers(2**63))
        mix(momentum, (key, codes, ones if rng.random() < 0.9 else ~ones, ones))
        assert np.all(np.abs(momentum).reshape(-1, BLOCK).max(1) <= peaks)


@pytest.mark.parametrize("seed", SEEDS)
def test_between_steps_momentum_stays_within_what_own_gradients_can_build(seed: int) -> None:
    """|m| <= max |g| / (1 - friction), as if nobody had ever exchanged, whoever asks between two steps how often."""
    rng = np.random.default_rng(seed)
    momentum = np.zeros(2 * BLOCK, np.float32)
    friction, largest_gradient = np.float32(0.9), 0.0
    for _ in range(200):
        gradient = (np.exp2(rng.uniform(-3, 3)) * rng.normal(size=momentum.size)).astype(np.float32)
        largest_gradient = max(largest_gradient, float(np.abs(gradient).max()))
        momentum = friction * momentum + gradient
        for _ in range(rng.integers(0, 6)):
            planes = rng.integers(0, 256, (2, momentum.size // 8)).astype(np.uint8)
            codes = rng.integers(0, RANGE_CODE_MAX + 1, 2).astype(np.uint8)
            mix(momentum, (np.uint64(rng.integers(2**63)), codes, *planes))
        assert np.abs(momentum).max() <= largest_gradient / (1 - 0.9) * 1.0001
