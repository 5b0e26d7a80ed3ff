"""Pooling, for one group of 16 samples: the largest, or the mean, of every window of an image.

Images are float32[row][column][channel][16]; `layer` is a row of step.py's table, its `kernel` the window's side.
A slope is the derivative of the loss by a value.
"""

from __future__ import annotations

import numpy as np

from gossip.kernels.compiling import shared
from gossip.kernels.lanes import (
    POINTER,
    add,
    load,
    maximum,
    multiply,
    splat,
    store,
    where_equal,
    where_positive,
    zeros,
)
from gossip.kernels.table import LAYER, fields
from gossip.kernels.tile import ADD, MASKED, SIZE


@shared(LAYER, *(POINTER,) * 2)
def maxpool_forward(row_of_table, inputs, outputs):
    """outputs[y, x, c] = the largest of inputs[y * kernel + row, x * kernel + column, c]; NaN wins."""
    layer = fields(row_of_table)
    for y in range(layer.out_height):
        for x in range(layer.out_width):
            for c in range(layer.channels):
                corner = (y * layer.kernel * layer.width + x * layer.kernel) * layer.channels + c
                largest = load(inputs, corner)
                for row in range(layer.kernel):
                    for column in range(layer.kernel):
                        i = corner + (row * layer.width + column) * layer.channels
                        largest = maximum(largest, load(inputs, i))
                store(outputs, (y * layer.out_width + x) * layer.channels + c, largest)


@shared(LAYER, *(SIZE,) * 2, *(POINTER,) * 4)
def maxpool_backward(row_of_table, start, finish, inputs, outputs, output_slopes, input_slopes):
    """The slope of an output goes to the first input that was the largest; the others get 0."""
    layer = fields(row_of_table)
    for y in range(layer.out_height):
        for x in range(layer.out_width):
            for c in range(layer.channels):
                corner = (y * layer.kernel * layer.width + x * layer.kernel) * layer.channels + c
                o = (y * layer.out_width + x) * layer.channels + c
                largest = load(outputs, o)
                remaining = load(output_slopes, o)
                if finish == MASKED:
                    remaining = where_positive(largest, remaining)
                for row in range(layer.kernel):
                    for column in range(layer.kernel):
                        i = corner + (row * layer.width + column) * layer.channels
                        value = load(inputs, i)
                        slope = where_equal(value, largest, remaining, zeros())
                        remaining = where_equal(value, largest, zeros(), remaining)
                        if start == ADD:
                            slope = add(slope, load(input_slopes, i))
                        store(input_slopes, i, slope)


@shared(LAYER, *(POINTER,) * 2)
def meanpool_forward(row_of_table, inputs, outputs):
    """outputs[y, x, c] = the mean of inputs[y * kernel + row, x * kernel + column, c]."""
    layer = fields(row_of_table)
    share = splat(np.float32(1.0 / (layer.kernel * layer.kernel)))
    for y in range(layer.out_height):
        for x in range(layer.out_width):
            for c in range(layer.channels):
                corner = (y * layer.kernel * layer.width + x * layer.kernel) * layer.channels + c
                total = zeros()
                for row in range(layer.kernel):
                    for column in range(layer.kernel):
                        total = add(total, load(inputs, corner + (row * layer.width + column) * layer.channels))
                store(outputs, (y * layer.out_width + x) * layer.channels + c, multiply(total, share))


@shared(LAYER, *(SIZE,) * 2, *(POINTER,) * 3)
def meanpool_backward(row_of_table, start, finish, inputs, output_slopes, input_slopes):
    """Every input gets its share of the slope."""
    layer = fields(row_of_table)
    share = splat(np.float32(1.0 / (layer.kernel * layer.kernel)))
    for y in range(layer.out_height):
        for x in range(layer.out_width):
            for c in range(layer.channels):
                corner = (y * layer.kernel * layer.width + x * layer.kernel) * layer.channels + c
                part = multiply(load(output_slopes, (y * layer.out_width + x) * layer.channels + c), share)
                for row in range(layer.kernel):
                    for column in range(layer.kernel):
                        i = corner + (row * layer.width + column) * layer.channels
                        slope = where_positive(load(inputs, i), part) if finish == MASKED else part
                        if start == ADD:
                            slope = add(slope, load(input_slopes, i))
                        store(input_slopes, i, slope)
