"""The first half of an exchange on the wire: 131 bytes per block, and one bit for each block of the model.

With momentum, 196 bytes per block at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gossip.codec.bits import (
    bytes_for_bits,
    pack_bits,
    pack_nibbles,
    take_array,
    take_bits,
    take_nibbles,
    take_range_codes,
)
from gossip.codec.body import BODY_BYTES_MAX, Encoded, Part, Reader, join, malformed
from gossip.codec.momentum import MOMENTUM_BLOCK_BYTES, Momentum, momentum_parts, take_momentum
from gossip.kernels.exchange import BLOCK

MODEL_BLOCKS_MAX = 1 << 20  # 268 million parameters; the bitmap alone is then 128 KiB of every body
BLOCK_BYTES = BLOCK // 2 + 1 + 2
_BYTES_FOR_BLOCKS = BODY_BYTES_MAX - bytes_for_bits(MODEL_BLOCKS_MAX) - 64  # 64 bytes for lengths and a key
MAX_OFFER_BLOCKS = _BYTES_FOR_BLOCKS // BLOCK_BYTES  # 7,003
MAX_OFFER_BLOCKS_WITH_MOMENTUM = _BYTES_FOR_BLOCKS // (BLOCK_BYTES + MOMENTUM_BLOCK_BYTES)  # 4,680


@dataclass(frozen=True, slots=True)
class Request:
    """Blocks of i as lattice symbols, to be read by a peer relative to its own values."""

    blocks: np.ndarray  # int32[n], strictly ascending, 1 <= n <= MAX_OFFER_BLOCKS
    range_codes: np.ndarray  # uint8[n], 1..RANGE_CODE_MAX
    checks: np.ndarray  # uint16[n]
    symbols: np.ndarray  # uint8[n * BLOCK], 0..15
    momentum: Momentum | None = None  # i's, on these blocks; asks for j's in return


def encode_request(request: Request, n_blocks: int) -> Encoded:
    """Request -> body. n_blocks: how many blocks the model has."""
    bitmap = np.zeros(n_blocks, np.bool_)
    bitmap[request.blocks] = True
    return join(
        Part("block_bitmap", pack_bits(bitmap)),
        Part("ranges", request.range_codes.tobytes()),
        Part("checks", request.checks.astype("<u2").tobytes(), is_uniform=True),
        Part("symbols", pack_nibbles(request.symbols), is_uniform=True),
        *momentum_parts(request.momentum),
    )


def decode_request(body: bytes, n_blocks: int, closed: np.ndarray | None = None) -> Request:
    """The peer's body for a model of n_blocks -> Request. Raises PeerError("DECODE_FAILED").

    closed: bool[n_blocks], blocks that nobody may offer.
    """
    reader = Reader(body)
    blocks = np.flatnonzero(take_bits(reader, "block_bitmap", n_blocks)).astype(np.int32)
    if not 0 < blocks.size <= MAX_OFFER_BLOCKS:
        raise malformed(f"{blocks.size} blocks offered, expected 1 to {MAX_OFFER_BLOCKS}")
    if closed is not None and closed[blocks].any():
        raise malformed(f"block {blocks[closed[blocks]][0]} offered, which is frozen")
    range_codes = take_range_codes(reader, blocks.size, least=1)
    checks = take_array(reader, "checks", blocks.size, "<u2")
    symbols = take_nibbles(reader, "symbols", blocks.size * BLOCK)
    momentum = take_momentum(reader, blocks.size)
    reader.end()
    return Request(blocks, range_codes, checks, symbols, momentum)
