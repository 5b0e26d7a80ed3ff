"""Convolution, any odd kernel and stride, and its two gradients, as tiles over pixels of the image.

An image is float32[row][column][channel][16] per group of samples, groups `gap` numbers apart; weights are
float32[filter][row][column][channel]. A filter's weights over one row of the kernel, and the values under that row,
are both contiguous: a tile's steps walk kernel columns and channels at once, its runs the kernel's rows. Where the
kernel sticks out of the image the part that is inside is all there is to do; nothing is padded.

`layer` is a row of step.py's table; a slope is the derivative of the loss by a value.
"""

from __future__ import annotations

from gossip.kernels.compiling import kernel, shared
from gossip.kernels.dense import add_gradient, even
from gossip.kernels.lanes import LANES, POINTER, add, ahead, load, store, sum_lanes, transpose, where_positive, zeros
from gossip.kernels.table import LAYER, fields
from gossip.kernels.tile import ADD, BIASES, PLAIN, SIZE, VECTORS, ZEROS, multiply


@kernel
def inside(start, count, size):
    """The part of range(count) for which start + i lies in range(size): (first, end)."""
    return max(0, -start), min(count, size - start)


@shared(LAYER, POINTER, POINTER)
def turn_weights(row, weights, turned):
    """turned[c, row, column, o] = weights[o, row', column', c], rows and columns counted from the other end.

    With stride 1 a convolution's backward pass is a convolution of the output's slopes with these.
    """
    layer = fields(row)
    taps = layer.kernel * layer.kernel
    for o in range(layer.out_channels):
        for tap in range(taps):
            for c in range(layer.channels):
                turned[(c * taps + taps - 1 - tap) * layer.out_channels + o] = weights[
                    (o * taps + tap) * layer.channels + c
                ]


@kernel
def convolve(
    height, width, channels, kernel_size, stride, padding, out_height, out_width, out_channels,
    start, finish, groups, gap, weights, biases, inputs, mask, outputs,
):  # fmt: skip
    """outputs[y, x, o] = sum over k of weights[o, k] * inputs[patch of (y, x), k], as start and finish have it."""
    filter_size = kernel_size * kernel_size * channels
    tile_height = even(out_channels)
    for group in range(0, groups, VECTORS):
        vectors = min(VECTORS, groups - group)
        for y in range(out_height):
            top = y * stride - padding
            row_first, row_end = inside(top, kernel_size, height)
            for x in range(out_width):
                left = x * stride - padding
                column_first, column_end = inside(left, kernel_size, width)
                corner = ((top + row_first) * width + left + column_first) * channels
                patch = ahead(inputs, group * gap + corner * LANES)
                tap = (row_first * kernel_size + column_first) * channels
                for first in range(0, out_channels, tile_height):
                    pixel = group * gap + ((y * out_width + x) * out_channels + first) * LANES
                    multiply(
                        min(tile_height, out_channels - first), vectors, start, finish,
                        ahead(outputs, pixel), LANES, gap, ahead(biases, first), ahead(mask, pixel),
                        ahead(weights, first * filter_size + tap), filter_size, 1, kernel_size * channels,
                        patch, gap, LANES, width * channels * LANES,
                        row_end - row_first, (column_end - column_first) * channels,
                    )  # fmt: skip


@shared(LAYER, *(SIZE,) * 3, *(POINTER,) * 4)
def conv_forward(row, finish, groups, gap, weights, biases, inputs, outputs):
    """finish: PLAIN or RELU."""
    layer = fields(row)
    convolve(
        layer.height, layer.width, layer.channels, layer.kernel, layer.stride, layer.padding,
        layer.out_height, layer.out_width, layer.out_channels,
        BIASES if layer.biases_at >= 0 else ZEROS, finish, groups, gap, weights, biases, inputs, inputs, outputs,
    )  # fmt: skip


@kernel
def _end_pixel(rows, vectors, gap, begin, finish, target, mask):
    """No tap touched it: 0. A relu gave it: masked."""
    for vector in range(vectors):
        for row in range(rows):
            slopes = ahead(target, vector * gap)
            if begin == ZEROS:
                store(slopes, row, zeros())
            elif finish != PLAIN:
                store(slopes, row, where_positive(load(ahead(mask, vector * gap), row), load(slopes, row)))


@kernel
def _scatter(layer, start, finish, groups, gap, turned, output_slopes, inputs, input_slopes):
    """`conv_backward` for any stride: of each pixel the taps that touched it, one after the other."""
    taps = layer.kernel * layer.kernel
    tile_height = even(layer.channels)
    for group in range(0, groups, VECTORS):
        vectors = min(VECTORS, groups - group)
        for y in range(layer.height):
            for x in range(layer.width):
                for first in range(0, layer.channels, tile_height):
                    pixel = group * gap + ((y * layer.width + x) * layer.channels + first) * LANES
                    target = ahead(input_slopes, pixel)
                    rows = min(tile_height, layer.channels - first)
                    begin = start
                    for tap in range(taps):
                        down, along = y + layer.padding - tap // layer.kernel, x + layer.padding - tap % layer.kernel
                        if down % layer.stride or along % layer.stride or down < 0 or along < 0:
                            continue
                        out_y, out_x = down // layer.stride, along // layer.stride
                        if out_y >= layer.out_height or out_x >= layer.out_width:
                            continue
                        multiply(
                            rows, vectors, begin, PLAIN,
                            target, LANES, gap, turned, target,
                            ahead(turned, (first * taps + taps - 1 - tap) * layer.out_channels),
                            taps * layer.out_channels, 1, 0,
                            ahead(output_slopes, group * gap + (out_y * layer.out_width + out_x)
                                  * layer.out_channels * LANES), gap, LANES, 0,
                            1, layer.out_channels,
                        )  # fmt: skip
                        begin = ADD
                    _end_pixel(rows, vectors, gap, begin, finish, target, ahead(inputs, pixel))


@shared(LAYER, *(SIZE,) * 4, *(POINTER,) * 4)
def conv_backward(row, start, finish, groups, gap, turned, output_slopes, inputs, input_slopes):
    """input_slopes from output_slopes; turned: of `turn_weights`; finish: PLAIN, or MASKED by the inputs."""
    layer = fields(row)
    if layer.stride == 1:
        convolve(
            layer.out_height, layer.out_width, layer.out_channels, layer.kernel, 1, layer.kernel - 1 - layer.padding,
            layer.height, layer.width, layer.channels,
            start, finish, groups, gap, turned, turned, output_slopes, inputs, input_slopes,
        )  # fmt: skip
    else:
        _scatter(layer, start, finish, groups, gap, turned, output_slopes, inputs, input_slopes)


@kernel
def turn_row(row_size, overhang, length, inputs, turned):
    """turned[sample][overhang + i] = inputs[i][sample] for a row of an image, zeros around it."""
    for first in range(0, row_size, LANES):
        transpose(ahead(inputs, first * LANES), LANES, ahead(turned, overhang + first), length)
    for sample in range(LANES):
        for i in range(overhang):
            turned[sample * length + i] = 0
        for i in range(overhang + row_size, length):
            turned[sample * length + i] = 0


@kernel
def add_bias_gradient(layer, output_slopes, bias_gradient):
    """bias_gradient[o] += sum over pixels and samples; row by row, while a row is in the cache."""
    for y in range(layer.out_height):
        for o in range(layer.out_channels):
            total = zeros()
            for x in range(layer.out_width):
                total = add(total, load(output_slopes, (y * layer.out_width + x) * layer.out_channels + o))
            bias_gradient[o] += sum_lanes(total)


@shared(LAYER, *(SIZE,) * 2, *(POINTER,) * 5)
def conv_gradient(row_of_table, groups, gap, inputs, output_slopes, weight_gradient, bias_gradient, scratch):
    """weight_gradient[o, k] += sum over pixels and samples of output_slopes[o] * inputs[k]; biases likewise.

    Samples and pixels are what is summed over, so each row of an image is turned once, scratch[sample][column,
    channel] with the kernel's overhang as zeros at both ends, and meets every row of the output it touched.
    """
    layer = fields(row_of_table)
    run = layer.kernel * layer.channels
    overhang = layer.padding * layer.channels
    row_size = layer.width * layer.channels
    length = 2 * overhang + -(-row_size // LANES) * LANES
    corner = ahead(scratch, length * LANES)
    tile_height = even(layer.out_channels)
    out_row = layer.out_width * layer.out_channels * LANES
    for group in range(groups):
        for y in range(layer.height):
            turn_row(row_size, overhang, length, ahead(inputs, group * gap + y * row_size * LANES), scratch)
            for row in range(layer.kernel):
                down = y + layer.padding - row
                out_y = down // layer.stride
                if down < 0 or down % layer.stride or out_y >= layer.out_height:
                    continue
                for first in range(0, layer.out_channels, tile_height):
                    slopes = ahead(output_slopes, group * gap + out_y * out_row + first * LANES)
                    for column in range(0, run, VECTORS * LANES):
                        add_gradient(
                            min(tile_height, layer.out_channels - first), min(VECTORS * LANES, run - column), ADD,
                            ahead(weight_gradient, (first * layer.kernel + row) * run + column),
                            layer.kernel * run, corner,
                            slopes, LANES, 1, layer.out_channels * LANES,
                            ahead(scratch, column), length, layer.stride * layer.channels,
                            layer.out_width, LANES,
                        )  # fmt: skip
        if layer.biases_at >= 0:
            add_bias_gradient(layer, ahead(output_slopes, group * gap), bias_gradient)
