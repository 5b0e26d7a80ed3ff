"""The constant matrices of Winograd's convolution, exactly, and the code that multiplies by them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from numba import njit

from gossip.kernels import sandwich
from gossip.kernels.lanes import LANES, at


def exact(matrix: tuple[tuple[float, ...], ...]) -> np.ndarray:
    """Numbers such as 1 / 24 are the nearest float64s: small fractions are meant."""
    return np.array([[Fraction(number).limit_denominator(100) for number in row] for row in matrix])


@pytest.mark.parametrize("m", [2, 4])
def test_the_matrices_make_a_convolution(m: int) -> None:
    """outputs = A^T [(G weights G^T) * (B^T patch B)] A, and both gradients likewise, without any rounding."""
    b, g, a = (exact(getattr(sandwich, f"_{name}{m}")) for name in "BGA")
    rng = np.random.default_rng(m)
    patch, weights, slopes = (rng.integers(-9, 10, (n, n)).astype(object) for n in (m + 2, 3, m))
    direct = np.array(
        [[(patch[y : y + 3, x : x + 3] * weights).sum() for x in range(m)] for y in range(m)],
    )
    assert (a @ ((g @ weights @ g.T) * (b @ patch @ b.T)) @ a.T == direct).all()
    gradient = np.array([[(patch[y : y + m, x : x + m] * slopes).sum() for x in range(3)] for y in range(3)])
    assert (g.T @ ((a.T @ slopes @ a) * (b @ patch @ b.T)) @ g == gradient).all()


TRANSFORMS = {
    "patch2": sandwich._B2,
    "patch4": sandwich._B4,
    "weights2": sandwich._G2,
    "weights4": sandwich._G4,
    "pixels2": sandwich._A2,
    "pixels4": sandwich._A4,
    "slopes2": sandwich._turned(sandwich._A2),
    "slopes4": sandwich._turned(sandwich._A4),
    "gradient2": sandwich._turned(sandwich._G2),
    "gradient4": sandwich._turned(sandwich._G4),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_is_its_matrix_on_both_sides(name: str) -> None:
    """What lies outside of the rows and columns given counts as 0, and is not read: here it is NaN."""
    transform, matrix = getattr(sandwich, name), np.array(TRANSFORMS[name])
    rows_out, size = matrix.shape

    @njit
    def apply(source, row, column, edges, target, target_row, target_column):
        transform(
            at(source, 0), row, column, edges[0], edges[1], edges[2], edges[3],
            at(target, 0), target_row, target_column,
        )  # fmt: skip

    rng = np.random.default_rng(1)
    for edges in ((0, size, 0, size), (1, size, 0, size - 1), (0, 1, 1, 2), (size - 1, size, 0, size), (0, 0, 0, size)):
        square = rng.standard_normal((size, size, LANES), np.float32)
        inside = np.zeros((size, size), bool)
        inside[edges[0] : edges[1], edges[2] : edges[3]] = True
        source = np.full((size, size + 1, LANES + 3), np.nan, np.float32)
        source[:, :size, :LANES][inside] = square[inside]
        target = np.zeros((rows_out, rows_out, LANES + 1), np.float32)
        strides = (array.strides[axis] // 4 for array in (source, target) for axis in (0, 1))
        row, column, target_row, target_column = strides
        apply(source, row, column, np.array(edges), target, target_row, target_column)
        square[~inside] = 0
        expected = np.einsum("ij,jkl,mk->iml", matrix, square.astype(np.float64), matrix)
        np.testing.assert_allclose(target[..., :LANES], expected, rtol=1e-5, atol=3e-5)
        assert not target[..., LANES:].any()
