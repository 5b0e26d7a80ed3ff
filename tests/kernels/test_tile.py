"""The micro-kernel alone: every size of tile, every beginning and end, strides that leave gaps, against float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numba import njit

from gossip.kernels.lanes import LANES, at
from gossip.kernels.tile import ADD, BIASES, MASKED, PLAIN, RELU, ROWS, VECTORS, ZEROS, multiply

SIZES = list(itertools.product(range(1, ROWS + 1), range(1, VECTORS + 1)))
UNTOUCHED = np.float32(-777)


@njit
def tile(
    rows, vectors, start, finish, out, out_row, out_gap, bias, mask,
    left, left_row, left_step, left_run, right, right_gap, right_step, right_run, runs, steps,
):  # fmt: skip
    """`multiply` of arrays."""
    multiply(
        rows, vectors, start, finish, at(out, 0), out_row, out_gap, at(bias, 0), at(mask, 0),
        at(left, 0), left_row, left_step, left_run, at(right, 0), right_gap, right_step, right_run, runs, steps,
    )  # fmt: skip


def cells(rows: int, row: int, vectors: int, gap: int) -> np.ndarray:
    """int64[rows, vectors, 16]: where the numbers of a tile lie."""
    return np.add.outer(np.add.outer(np.arange(rows) * row, np.arange(vectors) * gap), np.arange(LANES))


def products(left: np.ndarray, at_left: np.ndarray, right: np.ndarray, at_right: np.ndarray) -> np.ndarray:
    """float64[rows, vectors, 16] from indices [rows, runs, steps] and [vectors, runs, steps, 16]."""
    return np.einsum("rns,vnsl->rvl", left[at_left].astype(np.float64), right[at_right].astype(np.float64))


@pytest.mark.parametrize(("rows", "vectors"), SIZES)
def test_a_tile_is_a_sum_of_products(rows: int, vectors: int) -> None:
    """All that layers ask of it: runs and steps of 1 and more, numbers side by side and far apart, 9 ways to end."""
    for start, finish, (runs, steps, spread) in itertools.product(
        (ZEROS, BIASES, ADD), (PLAIN, RELU, MASKED), ((1, 1, 0), (1, 17, 3), (3, 5, 1), (4, 1, 2))
    ):
        rng = np.random.default_rng(100 * rows + 10 * runs + steps)
        right_step, left_step = LANES + spread, 1 + spread
        right_run, left_run = steps * right_step + spread, steps * left_step + spread
        right_gap, left_row = runs * right_run + spread, runs * left_run + spread
        out_gap, out_row = LANES + spread, vectors * (LANES + spread) + spread
        left = rng.standard_normal(rows * left_row + 1, np.float32)
        right = rng.standard_normal(vectors * right_gap + LANES, np.float32)
        bias = rng.standard_normal(rows, np.float32)
        mask = rng.standard_normal(rows * out_row, np.float32)
        out = np.full(rows * out_row, UNTOUCHED)
        places = cells(rows, out_row, vectors, out_gap)
        out[places] = rng.standard_normal(places.shape, np.float32)

        each = np.add.outer(np.arange(runs) * left_run, np.arange(steps) * left_step)
        along = np.add.outer(np.arange(runs) * right_run, np.arange(steps) * right_step)
        at_left = np.add.outer(np.arange(rows) * left_row, each)
        at_right = np.add.outer(np.add.outer(np.arange(vectors) * right_gap, along), np.arange(LANES))
        expected = products(left, at_left, right, at_right)
        if start == BIASES:
            expected += bias[:, None, None]
        if start == ADD:
            expected += out[places]
        if finish == RELU:
            expected = np.maximum(expected, 0)
        if finish == MASKED:
            expected[mask[places] <= 0] = 0
        tile(
            rows, vectors, start, finish, out, out_row, out_gap, bias, mask,
            left, left_row, left_step, left_run, right, right_gap, right_step, right_run, runs, steps,
        )  # fmt: skip
        story = f"start {start}, finish {finish}, {runs} runs of {steps} steps, spread {spread}"
        np.testing.assert_allclose(out[places], expected, rtol=1e-5, atol=1e-5, err_msg=story)
        beside = np.ones(out.size, bool)
        beside[places] = False
        assert (out[beside] == UNTOUCHED).all(), story


@pytest.mark.parametrize("finish", [PLAIN, RELU])
def test_what_is_not_finite_stays_so(finish: int) -> None:
    """A relu must not turn a NaN into 0: the trainer finds a spoilt vector by its loss."""
    right, out = np.full(LANES, np.nan, np.float32), np.zeros(LANES, np.float32)
    one = np.ones(1, np.float32)
    tile(1, 1, ZEROS, finish, out, LANES, LANES, one, out, one, 1, 1, 0, right, 0, LANES, 0, 1, 1)
    assert np.isnan(out).all()


def test_products_are_added_in_the_same_order_in_every_tile() -> None:
    """So how a layer is cut into tiles, which depends on the CPU, does not change a bit of what it gives."""
    rng = np.random.default_rng(1)
    steps = 501
    left = rng.standard_normal(ROWS * steps, np.float32)
    right = rng.standard_normal(steps * VECTORS * LANES, np.float32)
    one = np.zeros(1, np.float32)

    def by(rows: int, vectors: int) -> np.ndarray:
        out = np.empty(ROWS * VECTORS * LANES, np.float32)
        for row, vector in itertools.product(range(0, ROWS, rows), range(0, VECTORS, vectors)):
            tile(
                min(rows, ROWS - row), min(vectors, VECTORS - vector), ZEROS, PLAIN,
                out[(row * VECTORS + vector) * LANES :], VECTORS * LANES, LANES, one, one,
                left[row * steps :], steps, 1, 0, right[vector * LANES :], LANES, VECTORS * LANES, 0, 1, steps,
            )  # fmt: skip
        return out

    whole = by(ROWS, VECTORS)
    for rows, vectors in SIZES:
        assert np.array_equal(by(rows, vectors), whole), f"{rows} by {vectors}"
