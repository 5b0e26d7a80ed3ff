"""The exchange's kernels against NumPy twins and against what they promise.

A failing case is replayed by its id, which holds the seed: pytest "tests/kernels/...::test_name[seed]".
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gossip.kernels import exchange
from gossip.kernels.exchange import BLOCK, CHECK_WEIGHTS, MAGNITUDE_MAX, RANGE_CODE_MAX, STEPS

SEEDS = range(8)


def pair(seed: int, n_blocks: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two nodes' values, and ranges that are right for most blocks and too narrow for some."""
    rng = np.random.default_rng(seed)
    scale = np.repeat(np.exp2(rng.uniform(-12, 4, n_blocks)), BLOCK)
    x = (scale * rng.normal(size=scale.size)).astype(np.float32)
    gap = scale * rng.standard_t(4, scale.size) * np.exp2(rng.uniform(-8, -1))
    ranges = np.sqrt(np.mean(gap.reshape(-1, BLOCK) ** 2, 1)) * np.exp2(rng.uniform(1, 5, n_blocks))
    return x, (x + gap).astype(np.float32), ranges.astype(np.float32)


def encode(x: np.ndarray, ranges: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    codes, checks = np.empty(blocks.size, np.uint8), np.empty(blocks.size, np.uint16)
    symbols = np.empty(blocks.size * BLOCK, np.uint8)
    exchange.encode(x, ranges, blocks, codes, checks, symbols)
    return codes, checks, symbols


def answer(y, ref, ranges, median, blocks, codes, checks, symbols):
    levels, failed = np.empty(blocks.size * BLOCK, np.int8), np.empty(blocks.size, np.bool_)
    answer_codes = np.empty(blocks.size, np.uint8)
    sums = exchange.answer(
        y, ref, ranges, median, blocks, codes, checks, symbols, levels, answer_codes, failed
    )  # fmt: skip
    return levels, answer_codes, failed, sums


def twin_check(turns: np.ndarray) -> np.ndarray:
    """int64[n, BLOCK] -> uint16[n], with Python's unbounded integers."""
    weights = [int(w) for w in CHECK_WEIGHTS]
    return np.array([sum(w * int(t) for w, t in zip(weights, row, strict=True)) >> 16 & 0xFFFF for row in turns])


def twin_request(x: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    k = np.floor(x.reshape(-1, BLOCK) * (1 / STEPS[codes])[:, None] + 0.5).astype(np.int64)
    return k, twin_check(k >> 4)


def twin_reading(y: np.ndarray, codes: np.ndarray, symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the integers j reads, float64 levels of its displacement)."""
    places = y.reshape(-1, BLOCK) * (1 / STEPS[codes])[:, None]
    q = symbols.reshape(-1, BLOCK).astype(np.int64)
    k = q + 16 * np.floor((places - q) / 16 + 0.5).astype(np.int64)
    return k, np.clip(np.floor((k - places) / 2 + 0.5), -3, 3)


def twin_next_range(own, message, large_share, floor, ceiling):
    far = max(own / message, message / own) > 3
    met = max(own, message) if far else np.sqrt(own * message)
    met *= np.clip(((large_share + 0.002) / 0.003) ** 0.3, 0.8, 1.5)
    return max(min(met, 1.1 * own, max(own, ceiling)), floor)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_request_is_the_lattice_modulo_16_and_its_check(seed: int) -> None:
    x, _, ranges = pair(seed)
    blocks = np.array([0, 2, 5], np.int32)
    codes, checks, symbols = encode(x, ranges, blocks)
    assert np.all(np.abs(np.log2(8 * STEPS[codes] / ranges[blocks])) <= 1 / 8 + 1e-6)
    k, expected = twin_request(x.reshape(-1, BLOCK)[blocks], codes)
    assert np.array_equal(symbols, (k % 16).ravel())
    assert np.array_equal(checks, expected)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_answer_moves_the_responder_by_exactly_what_it_says(seed: int) -> None:
    x, y, ranges = pair(seed)
    blocks = np.arange(6, dtype=np.int32)
    codes, checks, symbols = encode(x, ranges, blocks)
    before, ref, own = y.copy(), y.copy(), ranges.copy()
    levels, answer_codes, failed, sums = answer(y, ref, own, float(np.median(ranges)), blocks, codes, checks, symbols)

    k, expected = twin_reading(before, codes, symbols)
    sent, _ = twin_request(x, codes)
    was_misread = (k != sent).any(1)
    too_wide = codes > [exchange.range_code(max(r, np.median(ranges))) + 12 for r in ranges]
    assert np.array_equal(failed, was_misread | too_wide), "every wrong reading is caught, no right one is lost"
    expected[failed] = 0
    assert np.array_equal(levels.reshape(-1, BLOCK), expected)
    moved = (expected * STEPS[codes][:, None]).astype(np.float32)
    assert np.array_equal(y.reshape(-1, BLOCK), before.reshape(-1, BLOCK) + moved)
    assert np.array_equal(ref, np.where(np.repeat(failed, BLOCK), before, y))
    assert sums[:2] == (failed.sum(), too_wide.sum())
    assert np.array_equal(answer_codes, [exchange.range_code(r) for r in own])
    for n in np.flatnonzero(~failed):
        gap = np.abs(k[n] - before.reshape(-1, BLOCK)[n] / STEPS[codes[n]])
        size = np.sqrt(np.mean(before.reshape(-1, BLOCK)[n].astype(float) ** 2))
        ceiling = 16 * max(float(np.median(ranges)), size)
        wanted = twin_next_range(ranges[n], 8 * STEPS[codes[n]], np.mean(gap > 4), 0.0, ceiling)
        assert own[n] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_whoever_offered_takes_back_what_the_other_added(seed: int) -> None:
    """The sum over the pair is the thing that must survive: selection, rounding, clip and failures included."""
    x, y, ranges = pair(seed)
    total = x.astype(np.float64) + y
    blocks = np.array([1, 2, 3, 4], np.int32)
    codes, checks, symbols = encode(x, ranges, blocks)
    levels, answer_codes, failed, _ = answer(
        y, y.copy(), ranges.copy(), 1.0, blocks, codes, checks, symbols
    )  # fmt: skip
    x_before, ref = x.copy(), x.copy()
    exchange.apply(x, ref, ranges.copy(), 1.0, blocks, codes, levels, answer_codes, failed)

    moved = np.zeros((6, BLOCK), np.float32)
    moved[blocks] = levels.reshape(-1, BLOCK) * STEPS[codes][:, None]
    assert np.array_equal(x, x_before - moved.ravel())
    assert np.array_equal(ref, x)
    rounding = np.spacing(np.maximum(np.abs(x), np.abs(y))) + np.spacing(np.abs(x_before))
    assert np.all(np.abs(x.astype(np.float64) + y - total) <= rounding)


@pytest.mark.parametrize("seed", SEEDS)
def test_within_the_range_every_integer_is_read_right(seed: int) -> None:
    """|x - y| <= R - s/2 is the promise, at any magnitude; beyond it, what is read is never further than R."""
    rng = np.random.default_rng(seed)
    code = int(rng.integers(60, RANGE_CODE_MAX))
    step = STEPS[code]
    x = (step * rng.uniform(-1e4, 1e4, BLOCK)).astype(np.float32)
    gap = rng.choice([-1, 1], BLOCK) * (8 - 0.501) * step * rng.uniform(0.9, 0.999, BLOCK)
    y = (x + gap).astype(np.float32)
    k, _ = twin_request(x, np.array([code]))
    assert np.array_equal(twin_reading(y, np.array([code]), (k % 16).astype(np.uint8))[0], k)
    anything, _ = twin_reading(y, np.array([code]), rng.integers(0, 16, BLOCK).astype(np.uint8))
    assert np.all(np.abs(anything * step - y) <= 8 * step * (1 + 1e-9))


@pytest.mark.parametrize("seed", SEEDS)
def test_nobody_can_push_us_further_than_three_steps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    _, y, ranges = pair(seed)
    before, blocks = y.copy(), np.arange(6, dtype=np.int32)
    codes = np.array([exchange.range_code(r) for r in ranges], np.uint8)
    symbols = rng.integers(0, 16, y.size).astype(np.uint8)
    k, _ = twin_reading(y, codes, symbols)
    levels, _, failed, _ = answer(y, y.copy(), ranges, 1.0, blocks, codes, twin_check(k >> 4), symbols)
    assert not failed.any(), "the liar knew our values and made the checks fit"
    assert np.abs(levels).max() == 3
    rounding = 2 * np.spacing(np.maximum(np.abs(before), np.abs(y))).reshape(-1, BLOCK)
    reach = 3 * STEPS[codes][:, None] * (1 + 1e-7) + rounding
    assert np.all(np.abs(y - before).reshape(-1, BLOCK) <= reach)


def test_the_check_sees_every_small_slip() -> None:
    """One coordinate up to 128 turns off, or two that are one turn off, change the sum's high half, always."""

    def least_change(changes: np.ndarray) -> int:
        return int(np.minimum(changes % 2**32, -changes % 2**32).min())

    assert least_change(CHECK_WEIGHTS[:, None] * np.arange(1, 129)) >= 2**16
    first, second = np.array(list(itertools.combinations(range(BLOCK), 2))).T
    assert least_change(CHECK_WEIGHTS[first] + CHECK_WEIGHTS[second]) >= 2**16
    assert least_change(CHECK_WEIGHTS[first] - CHECK_WEIGHTS[second]) >= 2**16


def test_steps_are_quarter_octaves_and_codes_find_them_again() -> None:
    codes = range(1, RANGE_CODE_MAX + 1)
    assert [exchange.range_code(8 * STEPS[code]) for code in codes] == list(codes)
    assert np.allclose(8 * STEPS, np.exp2(np.arange(256) / 4 - 30), rtol=1e-15)
    assert (exchange.range_code(1e-300), exchange.range_code(1e300)) == (1, RANGE_CODE_MAX)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2 * MAGNITUDE_MAX])
def test_what_is_not_a_sane_number_is_neither_offered_nor_mixed(bad: float) -> None:
    x, y, ranges = pair(1)
    x[BLOCK] = bad
    drift = np.empty(6, np.float32)
    exchange.measure(x, np.zeros_like(x), ranges.copy(), drift)
    assert drift[1] == -1
    assert np.all(np.delete(drift, 1) >= 0)

    blocks = np.arange(6, dtype=np.int32)
    codes, checks, symbols = encode(y, ranges, blocks)
    before, own = x.copy(), ranges.copy()
    levels, answer_codes, failed, _ = answer(x, x.copy(), own, 1.0, blocks, codes, checks, symbols)
    assert failed[1]
    assert not levels[BLOCK : 2 * BLOCK].any()
    assert np.array_equal(x[BLOCK : 2 * BLOCK], before[BLOCK : 2 * BLOCK], equal_nan=True)
    assert own[1] == ranges[1]
    exchange.apply(x, x.copy(), own, 1.0, blocks, codes, np.full_like(levels, 3), answer_codes, np.zeros(6, np.bool_))
    assert np.array_equal(x[BLOCK : 2 * BLOCK], before[BLOCK : 2 * BLOCK], equal_nan=True)


def test_measure_lifts_ranges_to_eight_times_the_own_movement() -> None:
    rng = np.random.default_rng(3)
    ref = rng.normal(size=3 * BLOCK).astype(np.float32)
    x = ref.copy()
    x[:BLOCK] += 0.5
    x[BLOCK : 2 * BLOCK] += 0.25
    ranges, drift = np.array([0, 7, 0], np.float32), np.empty(3, np.float32)
    exchange.measure(x, ref, ranges, drift)
    assert drift == pytest.approx(BLOCK * np.array([0.25, 0.0625, 0]), rel=1e-5)
    assert ranges == pytest.approx([4, 7, 0], rel=1e-5), "lifted; already wider; never moved"


def test_a_refused_range_moves_nothing_and_grows_nothing_on_either_side() -> None:
    y = np.zeros(BLOCK, np.float32)
    x, block = np.full(BLOCK, 3, np.float32), np.zeros(1, np.int32)
    codes, checks, symbols = encode(x, np.array([8.1 * 1.2], np.float32), block)
    ranges = np.ones(1, np.float32)
    _, answer_codes, failed, sums = answer(y, y.copy(), ranges, 1.0, block, codes, checks, symbols)
    assert failed[0]
    assert sums[:2] == (1, 1)
    assert ranges[0] == 1
    assert not y.any()
    mine = np.array([9.7], np.float32)
    levels = np.zeros(BLOCK, np.int8)
    assert exchange.apply(x, x.copy(), mine, 1.0, block, codes, levels, answer_codes, failed)[:2] == (1, 1)
    assert mine[0] == np.float32(9.7)


def test_a_misread_block_grows_to_half_again_the_request_on_both_sides() -> None:
    y, x = np.zeros(BLOCK, np.float32), np.full(BLOCK, 30, np.float32)
    block, codes, levels = np.zeros(1, np.int32), np.zeros(1, np.uint8), np.zeros(BLOCK, np.int8)
    codes, checks, symbols = encode(x, np.array([2], np.float32), block)
    ranges, mine = np.ones(1, np.float32), np.full(1, 1.5, np.float32)
    _, answer_codes, failed, sums = answer(y, y.copy(), ranges, 1.0, block, codes, checks, symbols)
    exchange.apply(x, x.copy(), mine, 1.0, block, codes, levels, answer_codes, failed)
    assert sums[:2] == (1, 0)
    assert (ranges[0], mine[0]) == (3, 3)


@pytest.mark.parametrize(
    ("own", "message", "share", "floor", "ceiling", "expected"),
    [
        (1.0, 1.0, 0.001, 0.0, 9.0, 1.0),  # g = tau: stay
        (1.0, 0.5, 0.001, 0.0, 9.0, 0.5**0.5),  # meet in the middle
        (1.0, 0.3, 0.001, 0.0, 9.0, 1.0),  # more than 3x apart: the larger
        (1.0, 8.0, 0.5, 0.0, 9.0, 1.1),  # the cap comes last
        (1.0, 1.0, 0.0, 0.0, 9.0, (2 / 3) ** 0.3),  # quiet: finer
        (1.0, 1.0, 0.0, 2.0, 9.0, 2.0),  # own movement beats the cap
        (1.0, 2.0, 0.5, 0.0, 1.05, 1.05),  # the ceiling stops growth
        (2.0, 2.0, 0.5, 0.0, 1.05, 2.0),  # and shrinks nothing
        (1.0, 1.0, 0.5, 3.0, 1.05, 3.0),  # unless the movement is our own
    ],
)
def test_range_control(own, message, share, floor, ceiling, expected) -> None:
    assert exchange.next_range(own, message, share, floor, ceiling) == pytest.approx(expected)
    assert twin_next_range(own, message, share, floor, ceiling) == pytest.approx(expected)


def test_ranges_stay_within_what_a_code_can_say() -> None:
    assert exchange.next_range(exchange.RANGE_MIN, exchange.RANGE_MIN, 0.0, 0.0, 1.0) == exchange.RANGE_MIN
    assert exchange.range_after_failure(exchange.RANGE_MAX, exchange.RANGE_MAX, 1e30) == exchange.RANGE_MAX
    codes = np.empty(3, np.uint8)
    exchange.range_codes(np.array([0, 1, exchange.RANGE_MAX], np.float32), codes)
    assert codes.tolist() == [0, 120, RANGE_CODE_MAX]
