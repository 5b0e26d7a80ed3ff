"""Displacement levels -3..3 <-> two bit planes of their magnitudes and one sign bit for each that is not 0.

Bits fill bytes from the little end. NumPy takes several times as long, and holds the interpreter lock meanwhile.
"""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True)
def pack(levels, low, high, signs):
    """Returns how many levels are not 0, which is how many sign bits were written.

    levels: int8[n], n a multiple of 8. Overwritten: low, high uint8[n / 8], the bits of |level|; signs
    uint8[n / 8 at least], 1 for a negative level, of which the first ceil(count / 8) bytes mean something.
    """
    count = 0
    signs[:] = 0
    for byte in range(low.size):
        low_bits, high_bits = 0, 0
        for bit in range(8):
            level = levels[byte * 8 + bit]
            magnitude = abs(level)
            low_bits |= (magnitude & 1) << bit
            high_bits |= (magnitude >> 1) << bit
            signs[count >> 3] |= (level < 0) << (count & 7)
            count += level != 0
        low[byte] = low_bits
        high[byte] = high_bits
    return count


@njit(cache=True, nogil=True)
def count_nonzero(low, high):
    """How many levels two planes, uint8[n / 8] each, describe that are not 0: their union's population count."""
    count = 0
    for byte in range(low.size):
        bits = low[byte] | high[byte]
        for bit in range(8):
            count += (bits >> bit) & 1
    return count


@njit(cache=True, nogil=True)
def unpack(low, high, signs, levels):
    """The way back. low, high: uint8[n / 8]. signs: uint8, ceil(count_nonzero / 8) or more. levels: overwritten."""
    count = 0
    for byte in range(low.size):
        for bit in range(8):
            magnitude = ((low[byte] >> bit) & 1) | (((high[byte] >> bit) & 1) << 1)
            levels[byte * 8 + bit] = magnitude
            if magnitude:
                if (signs[count >> 3] >> (count & 7)) & 1:
                    levels[byte * 8 + bit] = -magnitude
                count += 1
