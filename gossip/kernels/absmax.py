"""Snapshots in 8 bits: a block is its largest magnitude and one signed byte per coordinate."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def quantise(x, peaks, levels):
    """levels = round(127 x / peak), peak = max |x| over the block.

    x: float32[blocks * width]. Overwritten: peaks float32[blocks], levels int8[blocks * width], -127..127.
    The maximum is taken on the integer bits, which order like the magnitudes (9x a float maximum); a NaN or an
    infinity in x therefore shows as a non-finite peak, with all levels 0.
    """
    width = x.size // peaks.size
    bits = x.view(np.int32)
    peak_bits = peaks.view(np.int32)
    for block in range(peaks.size):
        largest = np.int32(0)
        for c in range(block * width, (block + 1) * width):
            largest = max(largest, bits[c] & np.int32(0x7FFFFFFF))
        peak_bits[block] = largest
        per_level = np.float32(127.0 / peaks[block]) if 1e-30 < peaks[block] < np.inf else np.float32(0.0)
        for c in range(block * width, (block + 1) * width):
            levels[c] = int(np.rint(x[c] * per_level)) if per_level > 0.0 else 0


@njit(cache=True, nogil=True)
def dequantise(peaks, levels, x):
    """x = levels * peak / 127. Shapes as in `quantise`; x is overwritten."""
    width = x.size // peaks.size
    for block in range(peaks.size):
        level_size = np.float32(peaks[block] / np.float32(127.0))
        for c in range(block * width, (block + 1) * width):
            x[c] = levels[c] * level_size
