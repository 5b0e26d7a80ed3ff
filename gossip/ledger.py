"""What travels, byte by byte and by kind: the formulas of the wire, and the book they are entered in.

Knows the framing of ZMTP 3.1 and CURVE as libzmq 4.3.5 speaks them, over TCP, above the IP packet. Does not
know sockets: the live transport and the simulated one enter the same numbers. Measured with a recording
TCP proxy (every constant) and against the kernel's interface counters (tests/live/test_ledger_namespace.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

Direction = Literal["sent", "received"]

# MESSAGE = its name with length (8), nonce (8), authenticator (16), flags (1), then the frame itself.
CURVE_OVERHEAD_BYTES = 33
# A frame's header is flags + length: the length takes 1 byte up to 255, else 8.
SHORT_FRAME_BYTES_MAX = 255

_GREETING_BYTES = 64
HANDSHAKE_DIALER_BYTES = _GREETING_BYTES + (2 + 200) + (9 + 292)  # HELLO, INITIATE of a DEALER without a name
HANDSHAKE_LISTENER_BYTES = _GREETING_BYTES + (2 + 168) + (2 + 65)  # WELCOME, READY of a ROUTER

HEARTBEAT_INTERVAL_S = 1.0
# Each side sends a PING per interval, traffic or not, and answers the other's with a PONG.
HEARTBEAT_BYTES = (2 + CURVE_OVERHEAD_BYTES + 7) + (2 + CURVE_OVERHEAD_BYTES + 5)


def frame_bytes(size: int) -> int:
    """One frame of `size` bytes, as it goes over TCP."""
    body = size + CURVE_OVERHEAD_BYTES
    return body + (2 if body <= SHORT_FRAME_BYTES_MAX else 9)


def message_bytes(frames: Iterable[bytes]) -> int:
    """A whole message; each of its frames is sealed on its own."""
    return sum(frame_bytes(len(frame)) for frame in frames)


class Traffic(NamedTuple):
    """What one kind of message has cost."""

    bytes: int
    messages: int


class Gain(NamedTuple):
    """What compression made of one kind of part."""

    raw: int
    stored: int


class Ledger:
    """Bytes and messages by direction and kind, and what lz4 earned by kind of part.

    Kinds: "exchange", "membership", "state", "data" as the engine names them; "handshake" (with hello and
    welcome), "heartbeat" and "dropped" (received, but not a message we read) as the transport does.
    """

    def __init__(self) -> None:
        self._bytes: Counter[tuple[Direction, str]] = Counter()
        self._messages: Counter[tuple[Direction, str]] = Counter()
        self._raw: Counter[str] = Counter()
        self._stored: Counter[str] = Counter()

    def record(self, direction: Direction, kind: str, wire_bytes: int, messages: int = 1) -> None:
        self._bytes[direction, kind] += wire_bytes
        self._messages[direction, kind] += messages

    def record_gain(self, part: str, raw: int, stored: int) -> None:
        """A part of `raw` bytes went out as `stored` (equal where lz4 did not shrink it)."""
        self._raw[part] += raw
        self._stored[part] += stored

    def notes(self) -> dict[str, dict[str, list[int]]]:
        """The book so far, as plain JSON."""
        return {way: {kind: list(traffic) for kind, traffic in kinds.items()} for way, kinds in self.totals().items()}

    def restore(self, notes: Mapping[str, Mapping[str, Sequence[int]]]) -> None:
        """Add what a former life of this node has entered."""
        for way, kinds in notes.items():
            for kind, (wire_bytes, messages) in kinds.items():
                self.record("received" if way == "received" else "sent", kind, wire_bytes, messages)

    def totals(self) -> dict[Direction, dict[str, Traffic]]:
        """Traffic by direction and kind, kinds in alphabetical order."""
        totals: dict[Direction, dict[str, Traffic]] = {"sent": {}, "received": {}}
        for direction, kind in sorted(self._bytes):
            key = (direction, kind)
            totals[direction][kind] = Traffic(self._bytes[key], self._messages[key])
        return totals

    def total_bytes(self, direction: Direction) -> int:
        return sum(traffic.bytes for traffic in self.totals()[direction].values())

    def gains(self) -> dict[str, Gain]:
        return {part: Gain(self._raw[part], self._stored[part]) for part in sorted(self._raw)}


class LinkMeter:
    """Enters what one open link costs by being there: its handshake at once, heartbeats as time passes."""

    def __init__(self, ledger: Ledger, *, dialed: bool, now: float) -> None:
        self._ledger = ledger
        self._opened_at = now
        self._beats_entered = 0
        ours, theirs = HANDSHAKE_DIALER_BYTES, HANDSHAKE_LISTENER_BYTES
        ledger.record("sent", "handshake", ours if dialed else theirs)
        ledger.record("received", "handshake", theirs if dialed else ours)

    def settle(self, now: float) -> None:
        """Enter the heartbeats since the last settling."""
        beats = int((now - self._opened_at) / HEARTBEAT_INTERVAL_S)
        due = beats - self._beats_entered
        if due > 0:
            self._ledger.record("sent", "heartbeat", due * HEARTBEAT_BYTES, 2 * due)
            self._ledger.record("received", "heartbeat", due * HEARTBEAT_BYTES, 2 * due)
            self._beats_entered = beats
