"""Dense layers: three products of matrices, each one loop of tiles.

inputs, outputs and their slopes are float32[feature][16] per group of samples, groups `gap` numbers apart; weights
are float32[outputs][inputs] as they lie in the parameter vector, read in place. A slope is the derivative of the
loss by a value. `layer` is a row of step.py's table: channels inputs, out_channels outputs.
"""

from __future__ import annotations

from gossip.kernels.compiling import kernel, shared
from gossip.kernels.lanes import LANES, POINTER, add, ahead, load, sum_lanes, transpose, zeros
from gossip.kernels.table import LAYER, fields
from gossip.kernels.tile import ADD, BIASES, PLAIN, ROWS, SIZE, VECTORS, ZEROS, multiply


@kernel
def even(count):
    """Rows per tile, so that all tiles of `count` rows are about as high: two of 5 for 10, not 8 and 2."""
    tiles = -(-count // ROWS)
    return -(-count // tiles)


@kernel
def add_gradient(
    rows, columns, start, out, out_row, corner,
    left, left_row, left_step, left_run, right, right_step, right_run, runs, steps,
):  # fmt: skip
    """A tile whose vectors are 16 columns of a gradient, at most VECTORS of them; start: ZEROS or ADD.

    Where the last one would stick out of the row, all go through `corner`, ROWS * VECTORS * 16 numbers of scratch.
    """
    vectors = -(-columns // LANES)
    if columns == vectors * LANES:
        multiply(
            rows, vectors, start, PLAIN, out, out_row, LANES, out, out,
            left, left_row, left_step, left_run, right, LANES, right_step, right_run, runs, steps,
        )  # fmt: skip
        return
    if start == ADD:
        copy(rows, columns, out, out_row, corner, vectors * LANES)
    multiply(
        rows, vectors, start, PLAIN, corner, vectors * LANES, LANES, out, out,
        left, left_row, left_step, left_run, right, LANES, right_step, right_run, runs, steps,
    )  # fmt: skip
    copy(rows, columns, corner, vectors * LANES, out, out_row)


@kernel
def copy(rows, columns, source, source_row, target, target_row):
    """Of numbers in rows that lie so far apart."""
    for row in range(rows):
        for column in range(columns):
            target[row * target_row + column] = source[row * source_row + column]


@shared(LAYER, *(SIZE,) * 3, *(POINTER,) * 4)
def dense_forward(row, finish, groups, gap, weights, biases, inputs, outputs):
    """outputs[o] = biases[o] + sum over k of weights[o, k] * inputs[k]; finish: PLAIN or RELU."""
    layer = fields(row)
    height = even(layer.out_channels)
    for first in range(0, layer.out_channels, height):
        rows = min(height, layer.out_channels - first)
        for group in range(0, groups, VECTORS):
            multiply(
                rows, min(VECTORS, groups - group), BIASES, finish,
                ahead(outputs, group * gap + first * LANES), LANES, gap, ahead(biases, first), biases,
                ahead(weights, first * layer.channels), layer.channels, 1, 0,
                ahead(inputs, group * gap), gap, LANES, 0,
                1, layer.channels,
            )  # fmt: skip


@shared(LAYER, *(SIZE,) * 4, *(POINTER,) * 4)
def dense_backward(row, start, finish, groups, gap, weights, output_slopes, inputs, input_slopes):
    """input_slopes[k] = sum over o of weights[o, k] * output_slopes[o]; MASKED by inputs, which a relu gave."""
    layer = fields(row)
    height = even(layer.channels)
    for first in range(0, layer.channels, height):
        rows = min(height, layer.channels - first)
        for group in range(0, groups, VECTORS):
            corner = group * gap + first * LANES
            multiply(
                rows, min(VECTORS, groups - group), start, finish,
                ahead(input_slopes, corner), LANES, gap, weights, ahead(inputs, corner),
                ahead(weights, first), 1, layer.channels, 0,
                ahead(output_slopes, group * gap), gap, LANES, 0,
                1, layer.out_channels,
            )  # fmt: skip


@shared(LAYER, *(SIZE,) * 3, *(POINTER,) * 5)
def dense_gradient(row, is_first, groups, gap, inputs, output_slopes, weight_gradient, bias_gradient, scratch):
    """weight_gradient[o, k] (+)= sum over samples of output_slopes[o] * inputs[k]; is_first: = instead of +=.

    Samples are what is summed over, so the inputs are turned: scratch[sample][k]. Size: `dense_scratch`.
    """
    layer = fields(row)
    width = -(-layer.channels // LANES) * LANES
    for group in range(groups):
        for first in range(0, layer.channels, LANES):
            source = ahead(inputs, group * gap + first * LANES)
            transpose(source, LANES, ahead(scratch, group * LANES * width + first), width)
    corner = ahead(scratch, groups * LANES * width)
    start = ZEROS if is_first else ADD
    height = even(layer.out_channels)
    for first in range(0, layer.out_channels, height):
        rows = min(height, layer.out_channels - first)
        slopes = ahead(output_slopes, first * LANES)
        for column in range(0, layer.channels, VECTORS * LANES):
            add_gradient(
                rows, min(VECTORS * LANES, layer.channels - column), start,
                ahead(weight_gradient, first * layer.channels + column), layer.channels, corner,
                slopes, LANES, 1, gap,
                ahead(scratch, column), width, LANES * width,
                groups, LANES,
            )  # fmt: skip
    for o in range(layer.out_channels):
        total = zeros()
        for group in range(groups):
            total = add(total, load(ahead(output_slopes, group * gap), o))
        if is_first:
            bias_gradient[o] = 0
        bias_gradient[o] += sum_lanes(total)
