"""Convolution by 3 x 3 kernels with fewer products: Winograd's F(m x m, 3 x 3) for m = 2 and 4.

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016, arXiv 1509.09308). An image is cut
into patches of m + 2 by m + 2 pixels that overlap by 2; patch and kernel are transformed, multiplied number by number
(each of the (m + 2)^2 numbers is a product of matrices over channels), and transformed back to m by m pixels:

    outputs = A^T [ (G weights G^T) * (B^T patch B) ] A

That is 36 products where 144 would be needed (m = 4), or 16 for 36 (m = 2). The way back to the inputs is the same
with the weights turned, and the weights' gradient is G^T [ (A slopes A^T) * (B^T patch B) ] G, summed over patches
and samples.

Every one of these is M X M^T for a small constant matrix M (sandwich.py). Channels and
filters must be multiples of 16, for here they lie in lanes where weights are transformed.

m = 4 costs digits, for its matrices hold numbers up to 8. Relative to direct convolution, gradients are off by

    channels and filters     16        64       128
    m = 2                4.3e-7    9.9e-7    1.3e-6
    m = 4                7.8e-7    1.8e-6    2.1e-6

(gossip.models.accuracy.error; tests/kernels/test_winograd.py has the command), and accuracy.py measures it again
before any m is used.
"""

from __future__ import annotations

from gossip.kernels import sandwich
from gossip.kernels.compiling import kernel, shared
from gossip.kernels.conv import add_bias_gradient, inside
from gossip.kernels.dense import add_gradient, even
from gossip.kernels.lanes import (
    LANES,
    POINTER,
    add,
    ahead,
    load,
    maximum,
    splat,
    store,
    transpose,
    where_positive,
    zeros,
)
from gossip.kernels.table import LAYER, fields
from gossip.kernels.tile import ADD, BIASES, MASKED, PLAIN, RELU, SIZE, VECTORS, ZEROS, multiply

GROUPS = 2  # of samples whose patches are multiplied together


@kernel
def transform_patches(
    m, channels, source, row, column, row_first, row_end, column_first, column_end, target, step, number
):
    """B^T patch B of every channel, its vectors `step` numbers apart, the numbers of the product `number` apart."""
    if m == 4:
        for c in range(channels):
            sandwich.patch4(
                ahead(source, c * LANES), row, column, row_first, row_end, column_first, column_end,
                ahead(target, c * step), 6 * number, number,
            )  # fmt: skip
    else:
        for c in range(channels):
            sandwich.patch2(
                ahead(source, c * LANES), row, column, row_first, row_end, column_first, column_end,
                ahead(target, c * step), 4 * number, number,
            )  # fmt: skip


@kernel
def transform_slopes(m, channels, source, row, column, row_end, column_end, target, step, number):
    """A slopes A^T of every channel."""
    if m == 4:
        for c in range(channels):
            sandwich.slopes4(
                ahead(source, c * LANES), row, column, 0, row_end, 0, column_end,
                ahead(target, c * step), 6 * number, number,
            )  # fmt: skip
    else:
        for c in range(channels):
            sandwich.slopes2(
                ahead(source, c * LANES), row, column, 0, row_end, 0, column_end,
                ahead(target, c * step), 4 * number, number,
            )  # fmt: skip


@shared(*(SIZE,) * 3, POINTER, POINTER)
def transform_weights(m, filters, channels, weights, transformed):
    """transformed[number, o, c] = G weights[o, :, :, c] G^T."""
    number = filters * channels
    for o in range(filters):
        for c in range(0, channels, LANES):
            source, target = ahead(weights, o * 9 * channels + c), ahead(transformed, o * channels + c)
            if m == 4:
                sandwich.weights4(source, 3 * channels, channels, 0, 3, 0, 3, target, 6 * number, number)
            else:
                sandwich.weights2(source, 3 * channels, channels, 0, 3, 0, 3, target, 4 * number, number)


# -- Forward, and back to the inputs -----------------------------------------------------------------


@kernel
def tiles_at_once(m, channels, filters):
    """Patches of a row that are worked on together: as many as leave room for everything in a core's cache."""
    numbers = (m + 2) * (m + 2) * LANES * GROUPS * (channels + filters)
    return max(1, min(4, 2**17 // numbers))


def scratch_numbers(m: int, channels: int, filters: int) -> int:
    """What `winograd` and `winograd_gradient` need of scratch. For Python, where it is taken."""
    at_once = GROUPS * tiles_at_once.py_func(m, channels, filters)
    patches_and_pixels = LANES * at_once * (channels + filters) + 2 * LANES
    sums_and_a_tile = channels * filters + LANES * LANES
    return (m + 2) * (m + 2) * (patches_and_pixels + sums_and_a_tile) + 16 * LANES * VECTORS


@kernel
def store_pixels(
    m, rows, columns, filters, out_width, start, finish, products, step, number, biases, mask, outputs, corner
):  # fmt: skip
    """A^T products A of every filter, begun and finished as tile.py says."""
    for o in range(filters):
        if m == 4:
            sandwich.pixels4(ahead(products, o * step), 6 * number, number, 0, 6, 0, 6, corner, 4 * LANES, LANES)
        else:
            sandwich.pixels2(ahead(products, o * step), 4 * number, number, 0, 4, 0, 4, corner, 2 * LANES, LANES)
        begin = splat(biases[o]) if start == BIASES else zeros()
        for row in range(rows):
            for column in range(columns):
                pixel = (row * out_width + column) * filters + o
                value = add(load(corner, row * m + column), begin)
                if start == ADD:
                    value = add(value, load(outputs, pixel))
                if finish == RELU:
                    value = maximum(value, zeros())
                if finish == MASKED:
                    value = where_positive(load(mask, pixel), value)
                store(outputs, pixel, value)


@kernel
def winograd(
    m, height, width, channels, padding, out_height, out_width, filters,
    start, finish, groups, gap, transformed, biases, inputs, mask, outputs, scratch,
):  # fmt: skip
    """As conv.convolve for 3 x 3 and stride 1, with the weights of `transform_weights`."""
    numbers = (m + 2) * (m + 2)
    at_once = tiles_at_once(m, channels, filters)
    tile_height = even(filters)
    for group in range(0, groups, GROUPS):
        together = min(GROUPS, groups - group)
        for y in range(0, out_height, m):
            for x in range(0, out_width, m * at_once):
                tiles = min(at_once, -(-(out_width - x) // m))
                count = tiles * together
                patch_number = channels * count * LANES + LANES  # an odd number of cache lines
                pixel_number = filters * count * LANES + LANES
                patches, pixels = scratch, ahead(scratch, numbers * patch_number)
                corner = ahead(pixels, numbers * pixel_number)
                row_first, row_end = inside(y - padding, m + 2, height)
                for n in range(count):
                    left = x + n // together * m - padding
                    column_first, column_end = inside(left, m + 2, width)
                    source = (group + n % together) * gap + ((y - padding) * width + left) * channels * LANES
                    transform_patches(
                        m, channels, ahead(inputs, source), width * channels * LANES, channels * LANES,
                        row_first, row_end, column_first, column_end,
                        ahead(patches, n * LANES), count * LANES, patch_number,
                    )  # fmt: skip
                for number in range(numbers):
                    for first in range(0, filters, tile_height):
                        for n in range(0, count, VECTORS):
                            multiply(
                                min(tile_height, filters - first), min(VECTORS, count - n), ZEROS, PLAIN,
                                ahead(pixels, number * pixel_number + (first * count + n) * LANES),
                                count * LANES, LANES, biases, mask,
                                ahead(transformed, (number * filters + first) * channels), channels, 1, 0,
                                ahead(patches, number * patch_number + n * LANES), LANES, count * LANES, 0,
                                1, channels,
                            )  # fmt: skip
                for n in range(count):
                    column = x + n // together * m
                    target = (group + n % together) * gap + (y * out_width + column) * filters * LANES
                    store_pixels(
                        m, min(m, out_height - y), min(m, out_width - column), filters, out_width, start, finish,
                        ahead(pixels, n * LANES), count * LANES, pixel_number, biases, ahead(mask, target),
                        ahead(outputs, target), corner,
                    )  # fmt: skip


@shared(LAYER, *(SIZE,) * 3, *(POINTER,) * 5)
def winograd_forward(row, finish, groups, gap, transformed, biases, inputs, outputs, scratch):
    """finish: PLAIN or RELU."""
    layer = fields(row)
    winograd(
        layer.winograd, layer.height, layer.width, layer.channels, layer.padding,
        layer.out_height, layer.out_width, layer.out_channels, BIASES if layer.biases_at >= 0 else ZEROS, finish,
        groups, gap, transformed, biases, inputs, inputs, outputs, scratch,
    )  # fmt: skip


@shared(LAYER, *(SIZE,) * 4, *(POINTER,) * 5)
def winograd_backward(row, start, finish, groups, gap, transformed, output_slopes, inputs, input_slopes, scratch):
    """input_slopes from output_slopes; transformed: of the turned weights; finish: PLAIN, or MASKED by the inputs."""
    layer = fields(row)
    winograd(
        layer.winograd, layer.out_height, layer.out_width, layer.out_channels, 2 - layer.padding,
        layer.height, layer.width, layer.channels, start, finish,
        groups, gap, transformed, transformed, output_slopes, inputs, input_slopes, scratch,
    )  # fmt: skip


# -- The gradient of the weights -----------------------------------------------------------------------


@shared(LAYER, *(SIZE,) * 2, *(POINTER,) * 5)
def winograd_gradient(
    row, groups, gap, inputs, output_slopes, weight_gradient, bias_gradient, scratch
):  # fmt: skip
    """As conv.conv_gradient. Samples are what is summed over, so the patches are turned: [number][sample][channel]."""
    layer = fields(row)
    m = layer.winograd
    numbers = (m + 2) * (m + 2)
    channels, filters = layer.channels, layer.out_channels
    at_once = tiles_at_once(m, channels, filters)
    tile_height = even(filters)
    total = ahead(scratch, 0)
    for i in range(numbers * channels * filters):
        total[i] = 0
    lying = ahead(scratch, numbers * channels * filters)  # one tile's patches of 16 channels, not turned yet
    patches = ahead(lying, numbers * LANES * LANES)
    for group in range(groups):
        slopes_here = ahead(output_slopes, group * gap)
        for y in range(0, layer.out_height, m):
            for x in range(0, layer.out_width, m * at_once):
                count = min(at_once, -(-(layer.out_width - x) // m))
                patch_number = count * LANES * channels + LANES
                slope_number = count * LANES * filters + LANES
                slopes = ahead(patches, numbers * patch_number)
                corner = ahead(slopes, numbers * slope_number)
                row_first, row_end = inside(y - layer.padding, m + 2, layer.height)
                for n in range(count):
                    left = x + n * m - layer.padding
                    column_first, column_end = inside(left, m + 2, layer.width)
                    source = group * gap + ((y - layer.padding) * layer.width + left) * channels * LANES
                    for c in range(0, channels, LANES):
                        transform_patches(
                            m, LANES, ahead(inputs, source + c * LANES), layer.width * channels * LANES,
                            channels * LANES, row_first, row_end, column_first, column_end,
                            lying, LANES, LANES * LANES,
                        )  # fmt: skip
                        for number in range(numbers):
                            transpose(
                                ahead(lying, number * LANES * LANES), LANES,
                                ahead(patches, number * patch_number + n * LANES * channels + c), channels,
                            )  # fmt: skip
                    column = x + n * m
                    transform_slopes(
                        m, filters, ahead(slopes_here, (y * layer.out_width + column) * filters * LANES),
                        layer.out_width * filters * LANES, filters * LANES,
                        min(m, layer.out_height - y), min(m, layer.out_width - column),
                        ahead(slopes, n * LANES), count * LANES, slope_number,
                    )  # fmt: skip
                for number in range(numbers):
                    for first in range(0, filters, tile_height):
                        for c in range(0, channels, VECTORS * LANES):
                            add_gradient(
                                min(tile_height, filters - first), min(VECTORS * LANES, channels - c), ADD,
                                ahead(total, (number * filters + first) * channels + c), channels, corner,
                                ahead(slopes, number * slope_number + first * count * LANES), count * LANES, 1, 0,
                                ahead(patches, number * patch_number + c), channels, 0,
                                1, count * LANES,
                            )  # fmt: skip
        if layer.biases_at >= 0:
            add_bias_gradient(layer, slopes_here, bias_gradient)
    number = filters * channels
    for o in range(filters):
        for c in range(0, channels, LANES):
            source = ahead(total, o * channels + c)
            if m == 4:
                sandwich.gradient4(source, 6 * number, number, 0, 6, 0, 6, lying, 3 * LANES, LANES)
            else:
                sandwich.gradient2(source, 4 * number, number, 0, 4, 0, 4, lying, 3 * LANES, LANES)
            target = ahead(weight_gradient, o * 9 * channels + c)
            for tap in range(9):
                there = ahead(target, tap * channels)
                store(there, 0, add(load(there, 0), load(lying, tap)))
