"""Sums of two tensors: the shortcuts of residual networks, and what a relu does where no other layer can do it.

He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016, arXiv 1512.03385). Where the earlier tensor is
larger, every `stride`-th row and column of it counts, and where it has fewer channels, the others get nothing (the
paper's option A, which has no parameters). Images are float32[row][column][channel][16], one group of samples.
`layer` is a row of step.py's table; its other_... say how the earlier tensor, `other`, lies.
"""

from __future__ import annotations

from gossip.kernels.compiling import shared
from gossip.kernels.lanes import POINTER, add, load, maximum, store, where_positive, zeros
from gossip.kernels.table import LAYER, fields
from gossip.kernels.tile import ADD, MASKED, RELU, SIZE


@shared(LAYER, SIZE, *(POINTER,) * 3)
def sum_forward(row, finish, inputs, other, outputs):
    """outputs = inputs + other, finished."""
    layer = fields(row)
    for y in range(layer.out_height):
        for x in range(layer.out_width):
            here = (y * layer.out_width + x) * layer.out_channels
            there = (y * layer.width + x) * layer.stride * layer.channels
            for c in range(layer.out_channels):
                value = load(inputs, here + c)
                from_c = c - layer.padding
                if 0 <= from_c < layer.channels:
                    value = add(value, load(other, there + from_c))
                if finish == RELU:
                    value = maximum(value, zeros())
                store(outputs, here + c, value)


@shared(*(SIZE,) * 3, *(POINTER,) * 3)
def pass_slopes(count, start, finish, values, output_slopes, input_slopes):
    """input_slopes (+)= output_slopes of so many features; MASKED where the values, which a relu gave, are 0."""
    for i in range(count):
        slope = load(output_slopes, i)
        if start == ADD:
            slope = add(slope, load(input_slopes, i))
        if finish == MASKED:
            slope = where_positive(load(values, i), slope)
        store(input_slopes, i, slope)


@shared(LAYER, *(SIZE,) * 2, *(POINTER,) * 3)
def shortcut_backward(row, start, finish, other, output_slopes, other_slopes):
    """The same for the earlier tensor."""
    layer = fields(row)
    if start != ADD:
        for i in range(layer.height * layer.width * layer.channels):
            store(other_slopes, i, zeros())
    for y in range(layer.out_height):
        for x in range(layer.out_width):
            here = (y * layer.out_width + x) * layer.out_channels + layer.padding
            there = (y * layer.width + x) * layer.stride * layer.channels
            for c in range(min(layer.channels, layer.out_channels - layer.padding)):
                slope = add(load(output_slopes, here + c), load(other_slopes, there + c))
                if finish == MASKED:
                    slope = where_positive(load(other, there + c), slope)
                store(other_slopes, there + c, slope)


@shared(SIZE, *(POINTER,) * 2)
def relu_forward(count, inputs, outputs):
    """outputs = max(inputs, 0); NaN stays NaN."""
    for i in range(count):
        store(outputs, i, maximum(load(inputs, i), zeros()))


@shared(*(SIZE,) * 2, *(POINTER,) * 3)
def relu_backward(count, start, outputs, output_slopes, input_slopes):
    """0 where the relu gave 0."""
    for i in range(count):
        slope = where_positive(load(outputs, i), load(output_slopes, i))
        if start == ADD:
            slope = add(slope, load(input_slopes, i))
        store(input_slopes, i, slope)
