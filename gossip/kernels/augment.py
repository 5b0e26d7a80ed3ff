"""Training images as they come, and a little different each time: mirrored, and cut out of themselves with a border.

Draws are counted, not remembered: what happens to a sample is a function of a key, of how many steps were before it,
and of its place in the batch. So a node that goes on from a checkpoint sees what it would have seen.
"""

from __future__ import annotations

import numpy as np

from gossip.kernels.compiling import kernel
from gossip.kernels.momentum import key_of, mixed

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@kernel
def augment(images, picked, is_flipped, margin, border, key, step, into):
    """into[i] = images[picked[i]], perhaps mirrored, moved by up to `margin` pixels either way.

    images: uint8[n, height, width, channels], C-contiguous. picked: int64[batch], not checked. is_flipped: mirror every
    second one. margin: 0 to the shorter side; what comes from outside the image is border, uint8[channels].
    key, step: uint64. into: uint8[>= batch, height, width, channels].
    """
    height, width, channels = images.shape[1:]
    pixels, written = images.reshape(-1), into.reshape(-1)
    shifts = np.uint64(2 * margin + 1)
    for i in range(picked.size):
        draw = draw_of(key, step, i)
        down = np.int64((draw >> np.uint64(32)) % shifts) - margin
        right = np.int64((draw & np.uint64(0xFFFFFFFF)) % shifts) - margin
        is_mirrored = is_flipped and (draw >> np.uint64(63)) == np.uint64(1)
        first, end = max(0, -right), min(width, width - right)  # of what is written: where there is a source
        for y in range(height):
            row = (i * height + y) * width
            if not 0 <= y + down < height:
                fill(border, written, row, row + width)
                continue
            source = (picked[i] * height + y + down) * width + right
            copy(pixels, (source + first) * channels, written, (row + first) * channels, (end - first) * channels)
            fill(border, written, row, row + first)
            fill(border, written, row + end, row + width)
            if is_mirrored:
                mirror(written, row * channels, width, channels)


@kernel
def copy(source, first, into, start, count):
    for i in range(count):
        into[start + i] = source[first + i]


@kernel
def fill(border, into, first, end):
    """Pixels first to end become the border's colour."""
    for pixel in range(first, end):
        for c in range(border.size):
            into[pixel * border.size + c] = border[c]


@kernel
def mirror(row, start, width, channels):
    """One row of an image, from its end."""
    for x in range(width // 2):
        left, right = start + x * channels, start + (width - 1 - x) * channels
        for c in range(channels):
            row[left + c], row[right + c] = row[right + c], row[left + c]


@kernel
def draw_of(key, step, i):
    """64 bits for sample i of a step."""
    return mixed(key_of(key, step) + GOLDEN * np.uint64(i + 1))
