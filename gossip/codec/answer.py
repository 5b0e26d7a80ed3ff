"""The second half of an exchange on the wire: by how much both sides move. About 60 bytes per block.

Levels are -3..3 and most are 0, so they travel as two bit planes of their magnitudes, which lz4 shrinks, and
one sign bit for each that is not 0. Blocks the responder could not read are left out: there is nothing to say.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gossip.codec.bits import bytes_for_bits, pack_bits, take_array, take_bits, take_range_codes
from gossip.codec.body import Encoded, Part, Reader, join, malformed
from gossip.codec.momentum import Momentum, momentum_parts, take_momentum
from gossip.kernels import levels as planes
from gossip.kernels.exchange import BLOCK


@dataclass(frozen=True, slots=True)
class Answer:
    """What the responder added to its own values, on the blocks of one request, in the request's order."""

    range_codes: np.ndarray  # uint8[n], 1..RANGE_CODE_MAX: the responder's own ranges
    failed: np.ndarray  # bool[n]: refused or not readable; both sides leave these blocks alone
    levels: np.ndarray  # int8[n * BLOCK], -3..3 steps of the request; 0 on failed blocks
    momentum: Momentum | None = None  # the responder's before it mixed, on the blocks that did not fail, if asked for


def encode_answer(answer: Answer) -> Encoded:
    """Answer -> body."""
    levels = answer.levels.reshape(-1, BLOCK)[~answer.failed].ravel()
    low, high, signs = np.empty((3, levels.size // 8), np.uint8)
    signs_bytes = bytes_for_bits(planes.pack(levels, low, high, signs))
    return join(
        Part("failed_bitmap", pack_bits(answer.failed)),
        Part("ranges", answer.range_codes.tobytes()),
        Part("planes_low", low.tobytes()),
        Part("planes_high", high.tobytes()),
        Part("signs", signs[:signs_bytes].tobytes(), is_uniform=True),
        *momentum_parts(answer.momentum),
    )


def decode_answer(body: bytes, blocks_offered: int, with_momentum: bool = False) -> Answer:
    """The peer's body, for our request of blocks_offered >= 1 blocks. Raises PeerError("DECODE_FAILED").

    with_momentum: we sent ours. Nobody has to send momentum, but nobody may who was not asked.
    """
    reader = Reader(body)
    failed = take_bits(reader, "failed_bitmap", blocks_offered)
    range_codes = take_range_codes(reader, blocks_offered, least=1)
    coordinates = int(np.count_nonzero(~failed)) * BLOCK
    low = take_array(reader, "planes_low", coordinates // 8, "u1")
    high = take_array(reader, "planes_high", coordinates // 8, "u1")
    moved = planes.count_nonzero(low, high)
    signs = take_array(reader, "signs", bytes_for_bits(moved), "u1")
    if moved % 8 and signs[-1] >> (moved % 8):
        raise malformed(f"signs: a bit beyond the {moved} expected is set")
    momentum = take_momentum(reader, coordinates // BLOCK) if with_momentum else None
    reader.end()
    mixed = np.empty(coordinates, np.int8)
    planes.unpack(low, high, signs, mixed)
    levels = np.zeros((blocks_offered, BLOCK), np.int8)
    levels[~failed] = mixed.reshape(-1, BLOCK)
    return Answer(range_codes, failed, levels.ravel(), momentum)
