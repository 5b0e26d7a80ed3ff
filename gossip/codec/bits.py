"""Bits, nibbles and plain numbers <-> the bytes of a part, little end first.

Unused bits of a last byte are 0, and must be when read: one meaning, one body.
"""

from __future__ import annotations

import numpy as np

from gossip.codec.body import Reader, malformed
from gossip.kernels.exchange import RANGE_CODE_MAX


def pack_bits(bits: np.ndarray) -> bytes:
    """bool[n] -> ceil(n / 8) bytes."""
    return np.packbits(bits, bitorder="little").tobytes()


def take_bits(reader: Reader, kind: str, count: int) -> np.ndarray:
    """The next part as bool[count]. Raises PeerError, also for a set bit beyond count."""
    packed = np.frombuffer(reader.take(kind, bytes_for_bits(count)), np.uint8)
    bits = np.unpackbits(packed, bitorder="little").view(np.bool_)
    if bits[count:].any():
        raise malformed(f"{kind}: a bit beyond the {count} expected is set")
    return bits[:count]


def bytes_for_bits(count: int) -> int:
    return -(-count // 8)


def pack_nibbles(symbols: np.ndarray) -> bytes:
    """uint8[n], 0..15, n even -> n / 2 bytes."""
    return (symbols[0::2] | (symbols[1::2] << 4)).tobytes()


def take_nibbles(reader: Reader, kind: str, count: int) -> np.ndarray:
    """The next part as uint8[count], 0..15; count even. Raises PeerError."""
    packed = np.frombuffer(reader.take(kind, count // 2), np.uint8)
    symbols = np.empty(count, np.uint8)
    symbols[0::2] = packed & 15
    symbols[1::2] = packed >> 4
    return symbols


def take_array(reader: Reader, kind: str, count: int, dtype: str) -> np.ndarray:
    """The next part as a writable array of count little-endian numbers. Raises PeerError."""
    return np.frombuffer(reader.take(kind, count * np.dtype(dtype).itemsize), dtype)


def take_range_codes(reader: Reader, count: int, least: int, kind: str = "ranges") -> np.ndarray:
    """The next part as uint8[count], least..RANGE_CODE_MAX. Raises PeerError: no absurd scale gets past here."""
    codes = take_array(reader, kind, count, "u1")
    if codes.min() < least or codes.max() > RANGE_CODE_MAX:
        raise malformed(f"{kind}: codes {codes.min()}..{codes.max()}, expected {least}..{RANGE_CODE_MAX}")
    return codes
