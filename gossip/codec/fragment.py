"""A piece of a node's state for somebody who joins: x and momentum in 8 bits, and the range table.

Fragment i covers FRAGMENT_BLOCKS blocks (the last one what is left) and may come from any donor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gossip.codec.bits import take_array, take_range_codes
from gossip.codec.body import Encoded, Part, Reader, join, malformed
from gossip.kernels.exchange import BLOCK, MAGNITUDE_MAX

# 65,536 coordinates, at most 133,600 bytes: a small model has two, so that two donors share the load; on 1 Mbit/s
# one takes a second, which is what a lost donor costs at most, and the trainer copies it out in 0.1 ms.
FRAGMENT_BLOCKS = 256


@dataclass(frozen=True, slots=True)
class Fragment:
    """n consecutive blocks of a donor's state. A coordinate is level * peak / 127."""

    first: int  # block
    range_codes: np.ndarray  # uint8[n]; 0: never moved
    x_peaks: np.ndarray  # float32[n], finite, 0..MAGNITUDE_MAX
    x_levels: np.ndarray  # int8[n * BLOCK], -127..127
    momentum_peaks: np.ndarray
    momentum_levels: np.ndarray

    @property
    def count(self) -> int:
        return self.range_codes.size


def fragment_count(n_blocks: int) -> int:
    """How many fragments the state of a model has."""
    return -(-n_blocks // FRAGMENT_BLOCKS)


def fragment_span(n_blocks: int, index: int) -> tuple[int, int]:
    """(first block, number of blocks) of fragment `index`. Raises IndexError beyond the last."""
    if not 0 <= index < fragment_count(n_blocks):
        raise IndexError(f"fragment {index} of {fragment_count(n_blocks)}")
    first = index * FRAGMENT_BLOCKS
    return first, min(FRAGMENT_BLOCKS, n_blocks - first)


def encode_fragment(fragment: Fragment) -> Encoded:
    """Fragment -> body."""
    return join(
        Part("ranges", fragment.range_codes.tobytes()),
        Part("x_peaks", fragment.x_peaks.astype("<f4").tobytes()),
        Part("x_levels", fragment.x_levels.tobytes()),
        Part("momentum_peaks", fragment.momentum_peaks.astype("<f4").tobytes()),
        Part("momentum_levels", fragment.momentum_levels.tobytes()),
    )


def decode_fragment(body: bytes, n_blocks: int, index: int) -> Fragment:
    """The donor's body for fragment `index` of a model of n_blocks. Raises PeerError("DECODE_FAILED")."""
    try:
        first, count = fragment_span(n_blocks, index)
    except IndexError as error:
        raise malformed(str(error)) from error
    reader = Reader(body)
    range_codes = take_range_codes(reader, count, least=0)
    x_peaks, x_levels = _take_quantised(reader, "x", count)
    momentum_peaks, momentum_levels = _take_quantised(reader, "momentum", count)
    reader.end()
    return Fragment(first, range_codes, x_peaks, x_levels, momentum_peaks, momentum_levels)


def _take_quantised(reader: Reader, name: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    peaks = take_array(reader, f"{name}_peaks", count, "<f4")
    levels = take_array(reader, f"{name}_levels", count * BLOCK, "i1")
    if not np.all((peaks >= 0) & (peaks <= MAGNITUDE_MAX)):  # also false for NaN
        raise malformed(f"{name}: a peak outside 0..{MAGNITUDE_MAX:.0f}")
    if levels.min() < -127:
        raise malformed(f"{name}: a level below -127")
    return peaks, levels
