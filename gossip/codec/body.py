"""A payload's body: a few parts in a fixed order, each raw or through lz4, never above 1 MiB.

Before each part stands its length on the wire (31 bits, little-endian) and whether it is lz4 (top bit). How large
the part is once unpacked is never read from the wire: the receiver knows, or it asks for an exact size and gets
PeerError("DECODE_FAILED"). So nothing a peer sends can make us allocate more than our own model implies.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

import lz4.block

from gossip.errors import PeerError

BODY_BYTES_MAX = 1 << 20
PART_HEADER = struct.Struct("<I")
LZ4_FLAG = 1 << 31


class PartSize(NamedTuple):
    """One line of the ledger: what a kind of part cost, and would have cost without lz4."""

    kind: str
    raw_bytes: int
    wire_bytes: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """A body ready to be sent, and what lz4 earned in it, part by part."""

    body: bytes
    parts: tuple[PartSize, ...]


class Part(NamedTuple):
    """A part to be written. `is_uniform`: its bits are random by construction, lz4 is not even asked."""

    kind: str
    raw: bytes
    is_uniform: bool = False


def join(*parts: Part) -> Encoded:
    """Parts -> body. A part is stored raw where lz4 does not shrink it."""
    chunks: list[bytes] = []
    sizes: list[PartSize] = []
    for kind, raw, is_uniform in parts:
        packed = raw if is_uniform else lz4.block.compress(raw, store_size=False)
        is_smaller = len(packed) < len(raw)
        stored = packed if is_smaller else raw
        chunks += (PART_HEADER.pack(len(stored) | (LZ4_FLAG if is_smaller else 0)), stored)
        sizes.append(PartSize(kind, len(raw), len(stored)))
    return Encoded(b"".join(chunks), tuple(sizes))


class Reader:
    """Takes a peer's body apart again, in order. Every method raises PeerError("DECODE_FAILED")."""

    def __init__(self, body: bytes) -> None:
        if len(body) > BODY_BYTES_MAX:
            raise malformed(f"a body of {len(body)} bytes, expected at most {BODY_BYTES_MAX}")
        self._rest = memoryview(body)

    def take(self, kind: str, raw_bytes: int) -> bytearray:
        """The next part, which must unpack to exactly raw_bytes. Writable, and ours."""
        if len(self._rest) < PART_HEADER.size:
            raise malformed(f"{kind}: the body ends before it")
        (word,) = PART_HEADER.unpack_from(self._rest)
        length = word & ~LZ4_FLAG
        stored = self._rest[PART_HEADER.size : PART_HEADER.size + length]
        if len(stored) < length:
            raise malformed(f"{kind}: {length} bytes announced, {len(stored)} left in the body")
        self._rest = self._rest[PART_HEADER.size + length :]
        if word & LZ4_FLAG:
            return _unpacked(kind, stored, raw_bytes)
        if length != raw_bytes:
            raise malformed(f"{kind}: {length} raw bytes, expected {raw_bytes}")
        return bytearray(stored)

    @property
    def has_more(self) -> bool:
        """Is there anything left to take?"""
        return len(self._rest) > 0

    def end(self) -> None:
        """Nothing may follow the last part."""
        if self._rest:
            raise malformed(f"{len(self._rest)} bytes after the last part")


def _unpacked(kind: str, stored: memoryview, raw_bytes: int) -> bytearray:
    if not 0 < len(stored) < raw_bytes:
        raise malformed(f"{kind}: {len(stored)} bytes of lz4 for {raw_bytes}, expected fewer, and some")
    try:
        raw = lz4.block.decompress(stored, uncompressed_size=raw_bytes, return_bytearray=True)
    except lz4.block.LZ4BlockError as error:
        raise malformed(f"{kind}: not lz4 of {raw_bytes} bytes ({error})") from error
    if len(raw) != raw_bytes:
        raise malformed(f"{kind}: unpacks to {len(raw)} bytes, expected {raw_bytes}")
    return raw


def malformed(text: str) -> PeerError:
    """The one error of this package: a peer sent what no honest peer sends."""
    return PeerError("DECODE_FAILED", text)
