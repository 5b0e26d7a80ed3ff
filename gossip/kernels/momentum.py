"""Momentum in 2 bits: a block is its largest magnitude, one byte, and one of four levels per coordinate.

The levels are two thirds of the scale S apart: -S, -S/3, S/3, S. Sender and receiver draw the same random number u
for every coordinate; one adds it before it rounds, the other takes it away again (subtractive dither, Roberts 1962;
Schuchman 1964). What is read is then right on average, and its error has a variance of step^2 / 12 whatever the
momentum. Rounding up or down at random is as unbiased, but near 0, where most coordinates are, its variance is three
times as large: it lost 1.6 points where this gains .4 (analysis/exchange_convergence.py, H = 4, f = .1, rate .1).

A block without momentum neither gives nor takes: its code is 0. The same holds for a coordinate at exactly 0, which
no gradient ever reached (padding, a dead unit): there is no level 0, so all it could be given is noise.
"""

from __future__ import annotations

import math

import numpy as np

from gossip.kernels.compiling import kernel
from gossip.kernels.exchange import (
    BLOCK,
    CODE_OF_ONE,
    CODES_PER_OCTAVE,
    MAGNITUDE_MAX,
    RANGE_CODE_MAX,
    STEPS,
)

BLOCK_BYTES = BLOCK // 8  # of one plane: a bit per coordinate
REFUSE_MULTIPLE = 8.0

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)
_SIXTEEN, _LOW_16 = np.uint64(16), np.uint64(0xFFFF)


@kernel
def quantise(momentum, blocks, key, codes, signs, outer):
    """Write the chosen blocks: k = floor(m / step + u), step = 2 S / 3; k = -2..1 stands for (k + 1/2 - u) step.

    momentum: float32[dim]. blocks: int32[n]. key: uint64, of the random numbers; a new one for every call, or the
    errors of two calls are the same and do not average out.
    Overwritten: codes uint8[n], S as a byte, see `scale_code`; 0 for a block without momentum or with a number that
    is not sane, whose planes are 0. signs, outer: uint8[n * BLOCK_BYTES], bit planes from the little end: is the
    level positive, and is it an outer one.
    """
    for n in range(blocks.size):
        own = momentum[blocks[n] * BLOCK : (blocks[n] + 1) * BLOCK]
        planes_at = n * BLOCK_BYTES
        peak = largest_magnitude(own)
        codes[n] = scale_code(peak) if peak <= MAGNITUDE_MAX else 0
        if codes[n] == 0:
            signs[planes_at : planes_at + BLOCK_BYTES] = 0
            outer[planes_at : planes_at + BLOCK_BYTES] = 0
            continue
        per_step = 1.5 / (8.0 * STEPS[codes[n]])
        word = np.uint64(0)
        for byte in range(BLOCK_BYTES):
            sign_bits, outer_bits = 0, 0
            for bit in range(8):
                if bit % 4 == 0:
                    word = four_draws(key, blocks[n], byte * 2 + bit // 4)
                k = math.floor(own[byte * 8 + bit] * per_step + dither(word))
                word >>= _SIXTEEN
                sign_bits |= (k >= 0) << bit
                outer_bits |= (k < -1 or k > 0) << bit
            signs[planes_at + byte] = sign_bits
            outer[planes_at + byte] = outer_bits


@kernel
def mix(momentum, blocks, key, codes, signs, outer):
    """m = (m + Q) / 2, in place, within +- the largest |m| of the block before. Returns how many blocks were mixed.

    momentum: float32[dim]. blocks: int32[n]. key, codes, signs, outer: what the peer's `quantise` had and wrote.
    Left alone: a block with code 0, one without own momentum, one that is not sane, and one whose scale is more
    than 8 x our largest. The bound is what keeps momentum from exploding: without it a peer that always announces
    8 x our own multiplies ours by 4.5 or more with every exchange. So exchanges can turn momentum and shorten it;
    only our own gradients make its largest coordinate larger. It costs nothing: exact momentum did as well with it
    as without.
    """
    count = 0
    for n in range(blocks.size):
        own = momentum[blocks[n] * BLOCK : (blocks[n] + 1) * BLOCK]
        peak = largest_magnitude(own)
        scale = 8.0 * STEPS[codes[n]]
        if codes[n] == 0 or not peak <= MAGNITUDE_MAX or scale > REFUSE_MULTIPLE * peak:
            continue
        step = scale / 1.5
        word = np.uint64(0)
        for c in range(BLOCK):
            if c % 4 == 0:
                word = four_draws(key, blocks[n], c // 4)
            byte, bit = n * BLOCK_BYTES + (c >> 3), c & 7
            level = 1.5 if (outer[byte] >> bit) & 1 else 0.5
            given = step * ((level if (signs[byte] >> bit) & 1 else -level) - dither(word))
            word >>= _SIXTEEN
            middle = np.float32(0.5 * (own[c] + given))
            own[c] = min(max(middle, -peak), peak) if own[c] != 0.0 else own[c]
        count += 1
    return count


@kernel
def key_of(seed, draw):
    """A key of its own for every (seed, draw), uint64 each."""
    return mixed(mixed(seed) + draw * _GOLDEN)


@kernel
def four_draws(key, block, four):
    """64 random bits for the coordinates 4 four .. 4 four + 3 of a block: 16 each, the first one's lowest."""
    return mixed(key + np.uint64(block * (BLOCK // 4) + four) * _GOLDEN)


@kernel
def dither(word):
    """The lowest 16 bits as a number within +- 1/2, of mean 0."""
    return (np.float64(word & _LOW_16) + 0.5) / 65536.0 - 0.5


@kernel
def scale_code(peak):
    """The least code whose scale 2 ** (code / 4 - 30) is not below peak, 1..RANGE_CODE_MAX; 0 below 2^-30.

    Rounded up, never to the nearest: a scale below the largest coordinate would clip it, a bias no rounding mends.
    peak: at most MAGNITUDE_MAX. Less than 2^-30 changes no weight that float32 can tell apart.
    """
    if peak < 2.0 ** (-CODE_OF_ONE // CODES_PER_OCTAVE):
        return 0
    code = min(max(math.ceil(CODES_PER_OCTAVE * math.log2(peak) + CODE_OF_ONE), 1), RANGE_CODE_MAX)
    return code + 1 if 8.0 * STEPS[code] < peak and code < RANGE_CODE_MAX else code  # where log2 rounds down


@kernel
def largest_magnitude(x):
    """max |x| of a block, float32[BLOCK]; not a finite number where one of them is not.

    By the integer bits, as in `gossip.kernels.exchange.is_readable`.
    """
    bits = x.view(np.int32)
    largest = np.int32(0)
    for c in range(bits.size):
        largest = max(largest, bits[c] & np.int32(0x7FFFFFFF))
    return np.int32(largest).view(np.float32)


@kernel
def mixed(word):
    """splitmix64's finaliser (Steele, Lea & Flood 2014): uint64 -> uint64 in which every bit depends on every bit."""
    word = (word ^ (word >> _SHIFT_1)) * _MIX_1
    word = (word ^ (word >> _SHIFT_2)) * _MIX_2
    return word ^ (word >> _SHIFT_3)
