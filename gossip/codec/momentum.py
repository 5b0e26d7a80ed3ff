"""Momentum on the wire, behind the blocks it belongs to: at most 65 bytes per block.

Both halves of an exchange may carry it, as their last four parts. Either all of them follow, or the body ends: that
is the flag, and it costs nothing. How long each is follows from the number of blocks.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from gossip.codec.bits import take_array, take_range_codes
from gossip.codec.body import Part, Reader
from gossip.kernels.momentum import BLOCK_BYTES

KEY = struct.Struct("<Q")
MOMENTUM_BLOCK_BYTES = 1 + 2 * BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class Momentum:
    """n blocks of one node's momentum, as `gossip.kernels.momentum.quantise` writes them."""

    key: int  # uint64, of the random numbers both sides draw
    codes: np.ndarray  # uint8[n], 0..RANGE_CODE_MAX; 0: nothing to say of this block
    signs: np.ndarray  # uint8[n * BLOCK_BYTES], a bit per coordinate
    outer: np.ndarray  # uint8[n * BLOCK_BYTES]

    def only(self, chosen: np.ndarray) -> Momentum:
        """The blocks where chosen, bool[n], is true."""
        signs, outer = (plane.reshape(-1, BLOCK_BYTES)[chosen].ravel() for plane in (self.signs, self.outer))
        return Momentum(self.key, self.codes[chosen], signs, outer)


def momentum_parts(momentum: Momentum | None) -> tuple[Part, ...]:
    """The parts to end a body with; none without momentum."""
    if momentum is None:
        return ()
    return (
        Part("momentum_key", KEY.pack(momentum.key), is_uniform=True),
        Part("momentum_scales", momentum.codes.tobytes()),
        Part("momentum_signs", momentum.signs.tobytes(), is_uniform=True),
        Part("momentum_outer", momentum.outer.tobytes()),  # one in twelve is set
    )


def take_momentum(reader: Reader, blocks: int) -> Momentum | None:
    """What is left of a body: momentum of so many blocks, or nothing. Raises PeerError("DECODE_FAILED")."""
    if blocks == 0 or not reader.has_more:
        return None
    (key,) = KEY.unpack(reader.take("momentum_key", KEY.size))
    codes = take_range_codes(reader, blocks, least=0, kind="momentum_scales")
    signs = take_array(reader, "momentum_signs", blocks * BLOCK_BYTES, "u1")
    outer = take_array(reader, "momentum_outer", blocks * BLOCK_BYTES, "u1")
    return Momentum(key, codes, signs, outer)
