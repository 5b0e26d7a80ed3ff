"""The arithmetic of one exchange between two nodes, i (who offers) and j (who answers).

    i: measure     which blocks moved since they were last mixed, and how wide each one's range must be
    i: encode      every coordinate of an offered block as 4 bits of a lattice, plus a 16-bit check per block
    j: answer      read the lattice relative to j's own values, move half way, say by how much
    i: apply       move by the very same amounts the other way, so that the sum over both is kept

A *block* is BLOCK consecutive coordinates of a flat float32 vector, which its owner pads with zeros. The *range* R
of a block is how far apart two nodes may be and still read each other; its *step* is s = R / 8. On the wire a range
is one byte, its code. All of it lives in one file because Numba's on-disk cache looks only at the age of a kernel's
own file: a helper or constant changed elsewhere would leave stale machine code behind.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

BLOCK = 256  # coordinates
MAGNITUDE_MAX = 2.0**20  # a block with a larger coordinate, or a NaN, is unreadable: never offered, never mixed

# Lattice: 4 bits. Displacement levels: 3 bits, sign and magnitude 0..3, with the lattice's own step.
MODULUS = 16
LEVEL_MAX = 3

# R = 2 ** (code / 4 - 30): quarter octaves from 2^-29.75 (far below float32's resolution of a weight) to 2^20.
# Code 0 says "this block has never moved" and is used in snapshots only. With MAGNITUDE_MAX no lattice integer
# exceeds 2^53, so every one of them is exact in float64.
RANGE_CODE_MAX = 200
CODES_PER_OCTAVE = 4
CODE_OF_ONE = 120
RANGE_MIN = 2.0**-29.75
RANGE_MAX = 2.0**20
RANGE_FIRST = 2.0**-20  # of a block that is offered, or asked for, before it ever moved

# Range control; see `next_range`, `range_floor`, `range_ceiling`, `range_after_failure` and `answer`.
DRIFT_MULTIPLE = 8.0
CEILING_MULTIPLE = 16.0
LARGE_SHARE_WANTED = 0.001
GROWTH_MAX = 1.1
FAILURE_GROWTH = 1.5
REFUSE_CODES = 12  # 8x in quarter octaves


def _steps() -> np.ndarray:
    """float64[256]: lattice step R / 8 by range code, built from four constants so that every machine agrees."""
    fractions = (1.0, 1.189207115002721, 1.4142135623730951, 1.681792830507429)
    exponents = [code // 4 - CODE_OF_ONE // 4 - 3 for code in range(256)]
    return np.array([math.ldexp(fractions[code % 4], exponents[code]) for code in range(256)])


def _check_weights() -> np.ndarray:
    """int64[BLOCK]: odd 32-bit weights, murmur3's finaliser of the coordinates 512..767.

    Plain sums miss many wrong readings: one coordinate a turn too high and another a turn too low cancel. These
    weights miss no single coordinate that is up to 128 turns off and no two that are one turn off (a test goes
    through them all); 0..255 would not do, as 0 finalises to 0: errors of the first coordinate went unseen, both
    sides believed to agree, and it drifted apart for good.
    """
    weights = []
    for h in range(2 * BLOCK, 3 * BLOCK):
        h ^= h >> 16
        h = h * 0x85EBCA6B & 0xFFFFFFFF
        h ^= h >> 13
        h = h * 0xC2B2AE35 & 0xFFFFFFFF
        weights.append((h ^ h >> 16) | 1)
    return np.array(weights, dtype=np.int64)


STEPS = _steps()
CHECK_WEIGHTS = _check_weights()
_MAGNITUDE_BITS = int(np.float32(MAGNITUDE_MAX).view(np.int32))


@njit(cache=True, nogil=True)
def range_code(size):
    """Range (float, > 0) -> the nearest code, 1..RANGE_CODE_MAX."""
    code = math.floor(CODES_PER_OCTAVE * math.log2(size) + CODE_OF_ONE + 0.5)
    return min(max(code, 1), RANGE_CODE_MAX)


@njit(cache=True, nogil=True)
def range_codes(ranges, codes):
    """A range table for a snapshot. ranges: float32[n]. codes: uint8[n], overwritten; 0: the block never moved."""
    for block in range(ranges.size):
        codes[block] = range_code(ranges[block]) if ranges[block] > 0.0 else 0


@njit(cache=True, nogil=True)
def next_range(own, message, large_share, floor, ceiling):
    """The range of a block after it was mixed. This loop keeps failures rare and the lattice fine at once.

    own: our range. message: the peer's. large_share: g, the share of the block's coordinates on which we were
    more than message / 2 apart. floor, ceiling: see `range_floor` and `range_ceiling`.

    1. Rule. The two ranges meet at their geometric mean, unless they are more than 3x apart: then the larger one
       is believed, for a range too wide costs precision where one too narrow costs the exchange.
    2. Factor ((g + .002) / (tau + .002)) ** .3, within .8 .. 1.5, steers g to tau: one coordinate of a block at
       more than half the range in every fourth exchange. A multiple of the standard deviation collapses: the
       tails are heavy. Four nodes with three MNIST classes each fail on 1-4 % of the blocks with tau = .001, on
       10-24 % with .004, and end .2 to .9 point better (analysis/exchange_convergence.py).
    3. Growth is capped at 1.1 x own *after* rule and factor. Capped before, a pair that believes each other's
       maximum in turn would run away, and a single peer could push our range as far as it likes.
    4. The ceiling stops growth: a range above it shrinks if the others say so, but does not grow.
    5. The floor wins over cap and ceiling, as our own movement is no rumour.
    """
    if message > 3.0 * own or own > 3.0 * message:
        met = max(own, message)
    else:
        met = math.sqrt(own * message)
    factor = ((large_share + 0.002) / (LARGE_SHARE_WANTED + 0.002)) ** 0.3
    met *= min(max(factor, 0.8), 1.5)
    met = min(met, GROWTH_MAX * own)
    met = min(met, max(own, ceiling))
    return bounded_range(max(met, floor))


@njit(cache=True, nogil=True)
def range_after_failure(own, message, ceiling):
    """The range of a block that could not be read: at least 1.5 x the *request's* range, on both sides.

    Never 1.5 x own: several exchanges in flight would multiply. The 1.1 cap does not apply.
    """
    return bounded_range(max(own, min(FAILURE_GROWTH * message, ceiling)))


@njit(cache=True, nogil=True)
def bounded_range(size):
    """size within RANGE_MIN .. RANGE_MAX."""
    return min(max(size, RANGE_MIN), RANGE_MAX)


@njit(cache=True, nogil=True)
def is_readable(x):
    """Whether a block, float32[BLOCK], holds only numbers within MAGNITUDE_MAX.

    The maximum is taken on the integer bits: they order like the magnitudes, put infinity and NaN on top, and
    the loop vectorises.
    """
    bits = x.view(np.int32)
    largest = np.int32(0)
    for c in range(bits.size):
        largest = max(largest, bits[c] & np.int32(0x7FFFFFFF))
    return largest <= _MAGNITUDE_BITS


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def squared_norm(x):
    """|x|^2 of a block, float32[BLOCK]. Reassociation lets the sum vectorise."""
    total = np.float32(0.0)
    for c in range(x.size):
        total += x[c] * x[c]
    return total


@njit(cache=True, nogil=True, fastmath={"reassoc"})
def squared_distance(x, ref):
    """|x - ref|^2 of a block, float32[BLOCK] each."""
    total = np.float32(0.0)
    for c in range(x.size):
        change = x[c] - ref[c]
        total += change * change
    return total


@njit(cache=True, nogil=True)
def range_floor(drift):
    """The least range that still covers 8 x the rms of our own movement (drift = |x - ref|^2 of the block)."""
    return DRIFT_MULTIPLE * math.sqrt(drift / BLOCK)


@njit(cache=True, nogil=True)
def range_ceiling(median, squared_size):
    """Where growth stops: 16 x our median range, or 16 x the block's own rms (squared_size = |x|^2) if larger.

    It keeps a peer that fails on purpose from widening our ranges until nothing is mixed. The median alone locks
    layers with larger weights out for good: their disagreement outgrows it, and then every exchange fails.
    """
    return CEILING_MULTIPLE * max(median, math.sqrt(squared_size / BLOCK))


@njit(cache=True, nogil=True)
def range_in_use(known, floor):
    """The range to work with: never below the floor, and RANGE_FIRST for a block that never moved."""
    size = max(known, floor)
    return bounded_range(size if size > 0.0 else RANGE_FIRST)


@njit(cache=True, nogil=True)
def measure(x, ref, ranges, drift):
    """Fill drift with |x - ref|^2 per block, -1 where unreadable, and lift every range to its floor.

    x, ref: float32[blocks * BLOCK]. ranges: float32[blocks], changed in place; a block that never moved keeps 0.
    drift: float32[blocks], overwritten.
    """
    for block in range(drift.size):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        if is_readable(x[part]):
            drift[block] = squared_distance(x[part], ref[part])
            if drift[block] > 0.0:
                ranges[block] = range_in_use(ranges[block], range_floor(drift[block]))
        else:
            drift[block] = -1.0


@njit(cache=True, nogil=True)
def encode(x, ranges, blocks, codes, checks, symbols):
    """Write the chosen blocks as a lattice request: k = floor(x / s + 1/2), of which 4 bits travel.

    x: float32[dim]. ranges: float32[all blocks]; 0 means RANGE_FIRST. blocks: int32[n], readable.
    Overwritten: codes uint8[n], the ranges as bytes, which define s = STEPS[code]; checks uint16[n], the high half of
    sum(weight * (k >> 4)) mod 2^32; symbols uint8[n * BLOCK], k mod 16.
    """
    for n in range(blocks.size):
        own = x[blocks[n] * BLOCK : (blocks[n] + 1) * BLOCK]
        out = symbols[n * BLOCK : (n + 1) * BLOCK]
        codes[n] = range_code(range_in_use(ranges[blocks[n]], 0.0))
        per_step = 1.0 / STEPS[codes[n]]
        total = 0
        for c in range(BLOCK):
            k = math.floor(own[c] * per_step + 0.5)
            out[c] = k & (MODULUS - 1)
            total += CHECK_WEIGHTS[c] * (k >> 4)
        checks[n] = (total >> 16) & 0xFFFF


@njit(cache=True, nogil=True)
def answer(y, ref, ranges, median, blocks, codes, checks, symbols, levels, answer_codes, failed):
    """Read the offered blocks relative to our own y, move y half way, in place, and say by how much.

    Of all integers that are q mod 16 the one nearest to y / s is taken: k' = q + 16 round((y / s - q) / 16). It
    is i's k whenever |x - y| <= R - s / 2, and |s k' - y| <= R whatever arrives: nobody can push us further than
    the range we accept. The check finds the blocks where k' is not k; they are left alone, as are blocks with a
    range above 8 x the larger of our own and our median range (refused), and unreadable ones.
    The displacement is d = (s k' - y) / 2, in levels of s, clipped to +-3; what is cut off stays as disagreement.

    y, ref: float32[dim]; ranges: float32[all blocks]: changed on these blocks. median: our median range.
    blocks: int32[n]; codes: uint8[n]; checks: uint16[n]; symbols: uint8[n * BLOCK]: the request.
    Overwritten: levels int8[n * BLOCK], 0 on failed blocks; answer_codes uint8[n], our ranges afterwards;
    failed bool[n].
    Returns (failed blocks, refused among them, sum of (s k' - y)^2, of y^2, of displacement^2, over mixed blocks).
    """
    failures, refusals, gap_squares, squares, moved_squares = 0, 0, 0.0, 0.0, 0.0
    for n in range(blocks.size):
        block = blocks[n]
        own = y[block * BLOCK : (block + 1) * BLOCK]
        last_mixed = ref[block * BLOCK : (block + 1) * BLOCK]
        given = symbols[n * BLOCK : (n + 1) * BLOCK]
        out = levels[n * BLOCK : (n + 1) * BLOCK]
        step = STEPS[codes[n]]
        readable = is_readable(own)
        floor = range_floor(squared_distance(own, last_mixed)) if readable else 0.0
        size = range_in_use(ranges[block], floor)
        ceiling = range_ceiling(median, squared_norm(own)) if readable else 0.0
        refused = codes[n] > range_code(max(size, median)) + REFUSE_CODES
        total, large, gaps, places = 0, 0, 0.0, 0.0
        if readable and not refused:
            per_step = 1.0 / step
            for c in range(BLOCK):
                place = own[c] * per_step
                q = float(given[c])
                turn = math.floor((place - q) / MODULUS + 0.5)
                gap = q + MODULUS * turn - place
                out[c] = min(max(math.floor(0.5 * gap + 0.5), -LEVEL_MAX), LEVEL_MAX)
                total += CHECK_WEIGHTS[c] * turn
                large += abs(gap) > 4.0
                gaps += gap * gap
                places += place * place
        failed[n] = not readable or refused or (total >> 16) & 0xFFFF != checks[n]
        if failed[n]:
            out[:] = 0
            failures += 1
            refusals += refused
            if readable and not refused:
                size = range_after_failure(size, 8.0 * step, ceiling)
        else:
            moved_squares += step * step * move(own, last_mixed, out, step)
            size = next_range(size, 8.0 * step, large / BLOCK, floor, ceiling)
            gap_squares += step * step * gaps
            squares += step * step * places
        if readable:
            ranges[block] = size
        answer_codes[n] = range_code(size)
    return failures, refusals, gap_squares, squares, moved_squares


@njit(cache=True, nogil=True)
def move(x, ref, levels, step):
    """x += levels * step on one block, in place, and ref = x. Returns the sum of levels^2."""
    squares = 0
    for c in range(x.size):
        x[c] += np.float32(levels[c] * step)
        ref[c] = x[c]
        squares += levels[c] * levels[c]
    return squares


@njit(cache=True, nogil=True)
def apply(x, ref, ranges, median, blocks, codes, levels, answer_codes, failed):
    """x -= levels * step, in place, on the blocks the peer could read; the peer added the very same numbers.

    x, ref: float32[dim]; ranges: float32[all blocks]: changed on these blocks. median: our median range.
    blocks: int32[n]; codes: uint8[n]: our own request, which defines the steps, however long ago it was.
    levels: int8[n * BLOCK], -3..3; answer_codes: uint8[n], the peer's ranges; failed: bool[n].
    A failed block is known to be refused by the peer's range, 8x below ours: it does not grow.
    Large levels, 2 and 3, stand for g. They begin at 3/8 R and so count a little too much rather than too little.
    Returns (failed blocks, refused among them, sum of (2 displacement)^2, of x^2, of displacement^2).
    """
    failures, refusals, squares, moved_squares = 0, 0, 0.0, 0.0
    for n in range(blocks.size):
        block = blocks[n]
        own = x[block * BLOCK : (block + 1) * BLOCK]
        last_mixed = ref[block * BLOCK : (block + 1) * BLOCK]
        given = levels[n * BLOCK : (n + 1) * BLOCK]
        if not is_readable(own):
            failures += 1
            continue
        step = STEPS[codes[n]]
        floor = range_floor(squared_distance(own, last_mixed))
        size = range_in_use(ranges[block], floor)
        squared_size = squared_norm(own)
        ceiling = range_ceiling(median, squared_size)
        if failed[n]:
            failures += 1
            if codes[n] > answer_codes[n] + REFUSE_CODES:
                refusals += 1
            else:
                size = range_after_failure(size, 8.0 * step, ceiling)
        else:
            large = 0
            for c in range(BLOCK):
                large += abs(given[c]) >= 2
            squares += squared_size
            moved_squares += step * step * move(own, last_mixed, given, -step)
            size = next_range(size, 8.0 * STEPS[answer_codes[n]], large / BLOCK, floor, ceiling)
        ranges[block] = size
    return failures, refusals, 4.0 * moved_squares, squares, moved_squares
