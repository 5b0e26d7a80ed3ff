"""What a transport tells the engine: links that come and go, frames that arrive, things it dropped.

Both transports, over ZeroMQ and simulated, speak in these. A peer is its 32-byte public key.
"""

from __future__ import annotations

from dataclasses import dataclass

REPLACED = "replaced by a newer connection"  # the reason of a LinkDown: the same key came again


@dataclass(frozen=True, slots=True)
class LinkUp:
    """Input: `peer` proved itself and can be sent to. At most once until its LinkDown."""

    peer: bytes
    dialed: bool
    address: str  # where it was dialed, or where it says it listens; "" for one that only dials out


@dataclass(frozen=True, slots=True)
class LinkDown:
    """Input: the last connection to `peer` is gone, by its doing, ours or the network's."""

    peer: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class LinkRefused:
    """Input: a dial of ours came to nothing, or (`dialed` false) we turned somebody away."""

    peer: bytes
    address: str
    code: str
    reason: str
    dialed: bool = True


@dataclass(frozen=True, slots=True)
class AddressTried:
    """Input: what came of TryAddress; `code` is empty where `peer` itself answered there."""

    peer: bytes
    address: str
    code: str


@dataclass(frozen=True, slots=True)
class FramesReceived:
    """Input: one message of an admitted peer, one frame (control) or two (header and body), within limits."""

    peer: bytes
    frames: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class FramesDropped:
    """Input: `count` things arrived that nobody will read. `peer` is None where no key was ever proved."""

    peer: bytes | None
    code: str
    count: int


WireEvent = LinkUp | LinkDown | LinkRefused | AddressTried | FramesReceived | FramesDropped
