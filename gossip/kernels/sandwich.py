"""M X M^T for small constant matrices M: the transforms of Winograd's convolution, written out as LLVM code.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016, arXiv 1509.09308), section 4; the
numbers in names are the m of F(m x m, 3 x 3). X is a square of vectors that lie anywhere: pixels, or weights.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gossip.kernels.lanes import POINTER, VECTOR, multiply_add, splat_number

_B2 = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_G2 = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_A2 = ((1, 1, 1, 0), (0, 1, -1, -1))
_B4 = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
_G4 = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_A4 = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def _sandwich(matrix):
    """An intrinsic: target = matrix source matrix^T, of vectors.

    f(source, row, column, row_first, row_end, column_first, column_end, target, target_row, target_column)
    row, column, target_row, target_column: numbers between neighbours. What lies outside of the rows and columns
    given counts as 0 and is not read.
    """
    size = types.intp

    @intrinsic
    def transform(
        typing_context, source, row, column, row_first, row_end, column_first, column_end,
        target, target_row, target_column,
    ):  # fmt: skip
        def emit(context, builder, signature, args):
            (source, row, column, row_first, row_end, column_first, column_end, target, target_row, target_column) = (
                args
            )
            count = len(matrix[0])
            nothing = cgutils.global_constant(builder, "zeros", ir.Constant(VECTOR, None))

            def constant(number):
                return ir.Constant(row.type, number)

            def within(index, first, end):
                index = constant(index)
                return builder.and_(builder.icmp_signed(">=", index, first), builder.icmp_signed("<", index, end))

            def address(pointer, i, j, row, column):
                offset = builder.add(builder.mul(row, constant(i)), builder.mul(column, constant(j)))
                return builder.bitcast(builder.gep(pointer, [offset]), VECTOR.as_pointer())

            rows = [within(index, row_first, row_end) for index in range(count)]
            columns = [within(index, column_first, column_end) for index in range(count)]
            by_column = []
            for j in range(count):
                vectors = []
                for i in range(count):
                    is_there = builder.and_(rows[i], columns[j])
                    pointer = builder.select(is_there, address(source, i, j, row, column), nothing)
                    vectors.append(builder.load(pointer, align=4))
                by_column.append(_apply(builder, matrix, vectors))
            for i in range(len(matrix)):
                result = _apply(builder, matrix, [vectors[i] for vectors in by_column])
                for j, vector in enumerate(result):
                    builder.store(vector, address(target, i, j, target_row, target_column), align=4)
            return context.get_dummy_value()

        return types.void(POINTER, *(size,) * 6, POINTER, size, size), emit

    return transform


def _apply(builder, matrix, vectors):
    """matrix times vectors. Rows that differ only in signs share their sums: s + d and s - d."""
    result = {}
    for index, row in enumerate(matrix):
        if index in result:
            continue
        twin = next(
            (
                other for other in range(index + 1, len(matrix))
                if all(abs(a) == abs(b) for a, b in zip(row, matrix[other], strict=True))
            ),
            None,
        )  # fmt: skip
        if twin is None:
            result[index] = _sum(builder, row, vectors)
            continue
        pairs = list(zip(row, matrix[twin], strict=True))
        same = _sum(builder, [a if a == b else 0 for a, b in pairs], vectors)
        different = _sum(builder, [a if a != b else 0 for a, b in pairs], vectors)
        result[index] = builder.fadd(same, different)
        result[twin] = builder.fsub(same, different)
    return [result[index] for index in range(len(matrix))]


def _sum(builder, factors, vectors):
    total = None
    terms = sorted(((f, v) for f, v in zip(factors, vectors, strict=True) if f), key=lambda term: term[0] != 1)
    for factor, vector in terms:
        if total is None:
            total = vector if factor == 1 else builder.fmul(vector, _constant(builder, factor))
        elif factor == 1:
            total = builder.fadd(total, vector)
        elif factor == -1:
            total = builder.fsub(total, vector)
        else:
            total = multiply_add(builder, vector, _constant(builder, factor), total)
    return total


def _constant(builder, factor):
    return splat_number(builder, ir.Constant(ir.FloatType(), float(np.float32(factor))))


def _turned(matrix):
    return tuple(zip(*matrix, strict=True))


patch2, patch4 = _sandwich(_B2), _sandwich(_B4)
weights2, weights4 = _sandwich(_G2), _sandwich(_G4)
pixels2, pixels4 = _sandwich(_A2), _sandwich(_A4)
slopes2, slopes4 = _sandwich(_turned(_A2)), _sandwich(_turned(_A4))
gradient2, gradient4 = _sandwich(_turned(_G2)), _sandwich(_turned(_G4))
