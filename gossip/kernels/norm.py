"""Batch and group normalisation, with what may follow at once: a sum with an earlier tensor, and a relu.

Ioffe & Szegedy (arXiv 1502.03167) and Wu & He (arXiv 1803.08494). Images are float32[pixel][channel][16] per group
of samples, groups `gap` numbers apart. `live` is float32[groups][16]: 1 for a sample, 0 for an idle lane, which
must neither count nor get slopes. A slope is the derivative of the loss by a value.

Batch normalisation sees the whole batch. What it found is kept in `kept`, float32[5][channels]: mean, 1 / deviation
(the root of variance + epsilon), and room for three factors. The running statistics lie in the parameter vector; their
"gradient" is how far they are from this batch's, so that whoever steps the parameters moves them by a fixed share of
it.
Group normalisation sees one sample, so everything it finds has a number per lane.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from gossip.kernels.compiling import shared
from gossip.kernels.lanes import (
    LANES,
    POINTER,
    add,
    add_product,
    ahead,
    load,
    maximum,
    multiply,
    splat,
    store,
    subtract,
    sum_lanes,
    where_positive,
    zeros,
)
from gossip.kernels.table import LAYER, fields
from gossip.kernels.tile import ADD, MASKED, RELU, SIZE

EPSILON = 1e-5
SUMS = types.CPointer(types.float64)


@shared(LAYER, SIZE, SIZE, POINTER, POINTER, SUMS)
def batch_statistics(row, groups, gap, live, inputs, sums):
    """sums: float64[2][channels], the sum of every channel's values and of their squares.

    Float32 along a row of the image, float64 from there on. A mean far from 0 costs digits: at 10 deviations from it
    gradients are 2e-6 off, at 30 7e-6.
    """
    layer = fields(row)
    channels, width = layer.channels, layer.width
    for i in range(2 * channels):
        sums[i] = 0
    for group in range(groups):
        alive = load(live, group)
        for y in range(layer.height):
            line = ahead(inputs, group * gap + y * width * channels * LANES)
            for c in range(channels):
                total = squares = zeros()
                for x in range(width):
                    value = multiply(load(line, x * channels + c), alive)
                    total = add(total, value)
                    squares = add_product(squares, value, value)
                sums[c] += sum_lanes(total)
                sums[channels + c] += sum_lanes(squares)


@shared(LAYER, SIZE, SUMS, *(POINTER,) * 3)
def batchnorm_begin(row, samples, sums, statistics, statistics_gradient, kept):
    """From the sums of the whole batch: what to normalise with, and how far the running statistics are off.

    statistics: float32[2][channels], running mean and variance (unbiased, as everywhere).
    """
    layer = fields(row)
    channels = layer.channels
    count = samples * layer.height * layer.width
    for c in range(channels):
        mean = sums[c] / count
        variance = max(0.0, sums[channels + c] / count - mean * mean)
        kept[c] = mean
        kept[layer.channels + c] = 1 / math.sqrt(variance + EPSILON)
        statistics_gradient[c] = statistics[c] - mean
        statistics_gradient[layer.channels + c] = statistics[layer.channels + c] - variance * count / max(1, count - 1)


@shared(LAYER, POINTER, POINTER)
def batchnorm_recall(row, statistics, kept):
    """For an evaluation: what was seen in training. Averaging in few bits may have left a variance below 0."""
    layer = fields(row)
    for c in range(layer.channels):
        kept[c] = statistics[c]
        variance = max(np.float32(0), statistics[layer.channels + c])
        kept[layer.channels + c] = 1 / math.sqrt(variance + EPSILON)


@shared(LAYER, *(SIZE,) * 3, *(POINTER,) * 6)
def batchnorm_forward(row, finish, groups, gap, scales, biases, kept, inputs, other, outputs):
    """outputs = scales * (inputs - mean) / deviation + biases (+ other where layer.adds), finished."""
    layer = fields(row)
    channels = layer.channels
    factors, constants = ahead(kept, 2 * channels), ahead(kept, 3 * channels)
    for c in range(channels):
        factors[c] = scales[c] * kept[channels + c]
        constants[c] = biases[c] - kept[c] * factors[c]
    for group in range(groups):
        for pixel in range(layer.height * layer.width):
            at_pixel = group * gap + pixel * channels * LANES
            for c in range(channels):
                value = add_product(splat(constants[c]), load(ahead(inputs, at_pixel), c), splat(factors[c]))
                if layer.adds:
                    value = add(value, load(ahead(other, at_pixel), c))
                if finish == RELU:
                    value = maximum(value, zeros())
                store(ahead(outputs, at_pixel), c, value)


@shared(LAYER, *(SIZE,) * 2, *(POINTER,) * 3, SUMS)
def batchnorm_slopes(row, groups, gap, kept, inputs, output_slopes, sums):
    """sums: float64[2][channels], of the output's slopes, and of slopes times normalised values."""
    layer = fields(row)
    channels, width = layer.channels, layer.width
    for i in range(2 * channels):
        sums[i] = 0
    for group in range(groups):
        for y in range(layer.height):
            at_row = group * gap + y * width * channels * LANES
            for c in range(channels):
                total = products = zeros()
                mean = splat(kept[c])
                for x in range(width):
                    slope = load(ahead(output_slopes, at_row), x * channels + c)
                    total = add(total, slope)
                    deviation = subtract(load(ahead(inputs, at_row), x * channels + c), mean)
                    products = add_product(products, slope, deviation)
                sums[c] += sum_lanes(total)
                sums[channels + c] += sum_lanes(products) * np.float64(kept[channels + c])


@shared(LAYER, *(SIZE,) * 5, *(POINTER,) * 3, SUMS, *(POINTER,) * 3)
def batchnorm_backward(
    row, start, finish, groups, gap, samples, live, scales, kept, sums, inputs, output_slopes, input_slopes
):  # fmt: skip
    """input_slopes = scales / deviation * (slope - mean slope - normalised * mean of slope * normalised)."""
    layer = fields(row)
    channels = layer.channels
    count = samples * layer.height * layer.width
    by_slope, by_value, constants = ahead(kept, 2 * channels), ahead(kept, 3 * channels), ahead(kept, 4 * channels)
    for c in range(channels):
        inverse = np.float64(kept[channels + c])
        factor = scales[c] * inverse
        of_value = -factor * inverse * sums[channels + c] / count
        by_slope[c], by_value[c] = factor, of_value
        constants[c] = -factor * sums[c] / count - of_value * kept[c]
    for group in range(groups):
        alive = load(live, group)
        for pixel in range(layer.height * layer.width):
            at_pixel = group * gap + pixel * channels * LANES
            for c in range(channels):
                value = load(ahead(inputs, at_pixel), c)
                slope = add_product(splat(constants[c]), load(ahead(output_slopes, at_pixel), c), splat(by_slope[c]))
                slope = multiply(add_product(slope, value, splat(by_value[c])), alive)
                if start == ADD:
                    slope = add(slope, load(ahead(input_slopes, at_pixel), c))
                if finish == MASKED:
                    slope = where_positive(value, slope)
                store(ahead(input_slopes, at_pixel), c, slope)


# -- Group normalisation ---------------------------------------------------------------------------------


@shared(LAYER, SIZE, *(POINTER,) * 6)
def groupnorm_forward(row, finish, scales, biases, kept, inputs, other, outputs):
    """One group of samples. kept: float32[2][layer.parts][16], mean and 1 / deviation of every part and sample."""
    layer = fields(row)
    members = layer.channels // layer.parts
    pixels = layer.height * layer.width
    share = splat(np.float32(1 / (members * pixels)))
    for part in range(layer.parts):
        total = zeros()
        for pixel in range(pixels):
            for c in range(part * members, (part + 1) * members):
                total = add(total, load(inputs, pixel * layer.channels + c))
        mean = multiply(total, share)
        squares = zeros()
        for pixel in range(pixels):
            for c in range(part * members, (part + 1) * members):
                deviation = subtract(load(inputs, pixel * layer.channels + c), mean)
                squares = add_product(squares, deviation, deviation)
        store(kept, part, mean)
        inverses = ahead(kept, (layer.parts + part) * LANES)
        store(inverses, 0, multiply(squares, share))
        for lane in range(LANES):
            inverses[lane] = 1 / math.sqrt(inverses[lane] + EPSILON)
        inverse = load(inverses, 0)
        for pixel in range(pixels):
            for c in range(part * members, (part + 1) * members):
                i = pixel * layer.channels + c
                normalised = multiply(subtract(load(inputs, i), mean), inverse)
                value = add_product(splat(biases[c]), normalised, splat(scales[c]))
                if layer.adds:
                    value = add(value, load(other, i))
                if finish == RELU:
                    value = maximum(value, zeros())
                store(outputs, i, value)


@shared(LAYER, *(SIZE,) * 3, *(POINTER,) * 7)
def groupnorm_backward(
    row, start, finish, needs_slopes, scales, kept, inputs, output_slopes, input_slopes, scale_gradient, bias_gradient
):  # fmt: skip
    """One group of samples; adds to the gradients of scales and biases."""
    layer = fields(row)
    members = layer.channels // layer.parts
    pixels = layer.height * layer.width
    share = splat(np.float32(-1 / (members * pixels)))
    for part in range(layer.parts):
        mean, inverse = load(kept, part), load(kept, layer.parts + part)
        slopes = products = zeros()
        for c in range(part * members, (part + 1) * members):
            total = by_value = zeros()
            for pixel in range(pixels):
                i = pixel * layer.channels + c
                slope = load(output_slopes, i)
                total = add(total, slope)
                by_value = add_product(by_value, slope, multiply(subtract(load(inputs, i), mean), inverse))
            scale_gradient[c] += sum_lanes(by_value)
            bias_gradient[c] += sum_lanes(total)
            slopes = add_product(slopes, total, splat(scales[c]))
            products = add_product(products, by_value, splat(scales[c]))
        if not needs_slopes:
            continue
        constant, by_normalised = multiply(slopes, share), multiply(products, share)
        for pixel in range(pixels):
            for c in range(part * members, (part + 1) * members):
                i = pixel * layer.channels + c
                value = load(inputs, i)
                slope = add_product(constant, load(output_slopes, i), splat(scales[c]))
                slope = add_product(slope, multiply(subtract(value, mean), inverse), by_normalised)
                slope = multiply(slope, inverse)
                if start == ADD:
                    slope = add(slope, load(input_slopes, i))
                if finish == MASKED:
                    slope = where_positive(value, slope)
                store(input_slopes, i, slope)
