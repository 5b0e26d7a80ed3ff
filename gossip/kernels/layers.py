"""The layers, forward and backward, for one group of 16 samples.

Arrays named inputs, outputs, ..._slopes are flat float32[features * 16] (see lanes.py); an image's feature
is (row * width + column) * channels + channel. A slope is the derivative of the loss by that value.

dense and conv are one kernel, `affine`: a dense layer is a convolution of a 1x1 image whose channels are
its inputs. A filter's weights over one row of the kernel, and the pixels under that row, are both
contiguous; so "for k in range(run)" below walks kernel columns and channels at once.

Four outputs (or inputs) are worked on together because they share a load. Where fewer than four are left,
the last one is done again: the same number is computed and stored twice, and no kernel needs a tail.
What is added to is therefore read for all four before any of them is written.

`shape` is a row of step.py's table: height, width, channels, kernel, padding, out_height, out_width,
out_channels, all int64. Nothing here allocates.
"""

from __future__ import annotations

from gossip.kernels.compiling import kernel
from gossip.kernels.lanes import (
    LANES,
    add,
    add_product,
    load,
    maximum,
    splat,
    store,
    sum_lanes,
    where_equal,
    where_positive,
    zeros,
)


@kernel
def inside(start, count, size):
    """The part of range(count) for which start + i lies in range(size): (first, end)."""
    return max(0, -start), min(count, size - start)


@kernel
def four(first, size):
    """first, first + 1, first + 2, first + 3, none beyond size - 1."""
    last = size - 1
    return first, min(first + 1, last), min(first + 2, last), min(first + 3, last)


@kernel
def affine_forward(shape, weights, biases, inputs, outputs):
    """outputs[y, x, o] = biases[o] + sum over k of weights[o, k] * inputs[patch of (y, x), k].

    weights: float32[out_channels * kernel * kernel * channels]. biases: float32[out_channels].
    Pixels outside the image count as 0.
    """
    taps = shape.kernel * shape.kernel * shape.channels
    for y in range(shape.out_height):
        top = y - shape.padding
        row_first, row_end = inside(top, shape.kernel, shape.height)
        for x in range(shape.out_width):
            left = x - shape.padding
            column_first, column_end = inside(left, shape.kernel, shape.width)
            run = (column_end - column_first) * shape.channels
            pixel = (y * shape.out_width + x) * shape.out_channels
            for first in range(0, shape.out_channels, 4):
                o0, o1, o2, o3 = four(first, shape.out_channels)
                s0, s1, s2, s3 = splat(biases, o0), splat(biases, o1), splat(biases, o2), splat(biases, o3)
                for row in range(row_first, row_end):
                    i = ((top + row) * shape.width + left + column_first) * shape.channels
                    w = (row * shape.kernel + column_first) * shape.channels
                    w0, w1, w2, w3 = o0 * taps + w, o1 * taps + w, o2 * taps + w, o3 * taps + w
                    for k in range(run):
                        value = load(inputs, i + k)
                        s0 = add_product(s0, splat(weights, w0 + k), value)
                        s1 = add_product(s1, splat(weights, w1 + k), value)
                        s2 = add_product(s2, splat(weights, w2 + k), value)
                        s3 = add_product(s3, splat(weights, w3 + k), value)
                store(outputs, pixel + o0, s0)
                store(outputs, pixel + o1, s1)
                store(outputs, pixel + o2, s2)
                store(outputs, pixel + o3, s3)


@kernel
def affine_gradient(shape, inputs, output_slopes, weight_gradient, bias_gradient):
    """Add this group's part: weight_gradient[o, k] += sum over pixels and samples of output_slopes * inputs.

    weight_gradient, bias_gradient: float32, shaped like weights and biases in `affine_forward`.
    """
    pixels = shape.out_height * shape.out_width
    taps = shape.kernel * shape.kernel * shape.channels
    for o in range(shape.out_channels):
        total = zeros()
        for pixel in range(pixels):
            total = add(total, load(output_slopes, pixel * shape.out_channels + o))
        bias_gradient[o] += sum_lanes(total)
    for row in range(shape.kernel):
        above = row - shape.padding
        y_first, y_end = inside(above, shape.out_height, shape.height)
        for column in range(shape.kernel):
            left = column - shape.padding
            x_first, x_end = inside(left, shape.out_width, shape.width)
            for first in range(0, shape.out_channels, 4):
                o0, o1, o2, o3 = four(first, shape.out_channels)
                for channel in range(shape.channels):
                    s0 = s1 = s2 = s3 = zeros()
                    for y in range(y_first, y_end):
                        for x in range(x_first, x_end):
                            i = ((y + above) * shape.width + x + left) * shape.channels + channel
                            value = load(inputs, i)
                            pixel = (y * shape.out_width + x) * shape.out_channels
                            s0 = add_product(s0, load(output_slopes, pixel + o0), value)
                            s1 = add_product(s1, load(output_slopes, pixel + o1), value)
                            s2 = add_product(s2, load(output_slopes, pixel + o2), value)
                            s3 = add_product(s3, load(output_slopes, pixel + o3), value)
                    w = (row * shape.kernel + column) * shape.channels + channel
                    w0, w1, w2, w3 = o0 * taps + w, o1 * taps + w, o2 * taps + w, o3 * taps + w
                    g0 = weight_gradient[w0] + sum_lanes(s0)
                    g1 = weight_gradient[w1] + sum_lanes(s1)
                    g2 = weight_gradient[w2] + sum_lanes(s2)
                    g3 = weight_gradient[w3] + sum_lanes(s3)
                    weight_gradient[w0] = g0
                    weight_gradient[w1] = g1
                    weight_gradient[w2] = g2
                    weight_gradient[w3] = g3


@kernel
def affine_backward(shape, weights, output_slopes, input_slopes):
    """input_slopes[patch of (y, x), k] = sum over pixels and outputs of weights[o, k] * output_slopes[y, x, o]."""
    input_slopes[:] = 0
    taps = shape.kernel * shape.kernel * shape.channels
    for y in range(shape.out_height):
        top = y - shape.padding
        row_first, row_end = inside(top, shape.kernel, shape.height)
        for x in range(shape.out_width):
            left = x - shape.padding
            column_first, column_end = inside(left, shape.kernel, shape.width)
            run = (column_end - column_first) * shape.channels
            pixel = (y * shape.out_width + x) * shape.out_channels
            for row in range(row_first, row_end):
                i = ((top + row) * shape.width + left + column_first) * shape.channels
                w = (row * shape.kernel + column_first) * shape.channels
                for first in range(0, run, 4):
                    k0, k1, k2, k3 = four(first, run)
                    s0, s1 = load(input_slopes, i + k0), load(input_slopes, i + k1)
                    s2, s3 = load(input_slopes, i + k2), load(input_slopes, i + k3)
                    for o in range(shape.out_channels):
                        slope = load(output_slopes, pixel + o)
                        filter_row = o * taps + w
                        s0 = add_product(s0, splat(weights, filter_row + k0), slope)
                        s1 = add_product(s1, splat(weights, filter_row + k1), slope)
                        s2 = add_product(s2, splat(weights, filter_row + k2), slope)
                        s3 = add_product(s3, splat(weights, filter_row + k3), slope)
                    store(input_slopes, i + k0, s0)
                    store(input_slopes, i + k1, s1)
                    store(input_slopes, i + k2, s2)
                    store(input_slopes, i + k3, s3)


@kernel
def relu_forward(values):
    """values = max(values, 0), in place; NaN stays NaN."""
    for feature in range(values.size // LANES):
        store(values, feature, maximum(load(values, feature), zeros()))


@kernel
def relu_backward(values, slopes):
    """slopes = 0 where the layer gave 0, in place. values: what `relu_forward` left."""
    for feature in range(values.size // LANES):
        store(slopes, feature, where_positive(load(values, feature), load(slopes, feature)))


@kernel
def maxpool_forward(shape, inputs, outputs):
    """outputs[y, x, c] = the largest of inputs[y * kernel + row, x * kernel + column, c]; NaN wins."""
    for y in range(shape.out_height):
        for x in range(shape.out_width):
            for c in range(shape.channels):
                corner = (y * shape.kernel * shape.width + x * shape.kernel) * shape.channels + c
                largest = load(inputs, corner)
                for row in range(shape.kernel):
                    for column in range(shape.kernel):
                        i = corner + (row * shape.width + column) * shape.channels
                        largest = maximum(largest, load(inputs, i))
                store(outputs, (y * shape.out_width + x) * shape.channels + c, largest)


@kernel
def maxpool_backward(shape, inputs, outputs, output_slopes, input_slopes):
    """The slope of an output goes to the first input that was the largest; the others get 0.

    An in-place relu after the pool may have changed `outputs`; where it did, the slope is 0 anyway.
    """
    for y in range(shape.out_height):
        for x in range(shape.out_width):
            for c in range(shape.channels):
                corner = (y * shape.kernel * shape.width + x * shape.kernel) * shape.channels + c
                o = (y * shape.out_width + x) * shape.channels + c
                largest = load(outputs, o)
                remaining = load(output_slopes, o)
                for row in range(shape.kernel):
                    for column in range(shape.kernel):
                        i = corner + (row * shape.width + column) * shape.channels
                        value = load(inputs, i)
                        store(input_slopes, i, where_equal(value, largest, remaining, zeros()))
                        remaining = where_equal(value, largest, zeros(), remaining)
