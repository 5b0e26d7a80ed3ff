"""What every socket of ours has in common: its options, its limits, and how messages and events are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from gossip.ledger import HEARTBEAT_INTERVAL_S, Ledger, frame_bytes
from gossip.live.security import KeyPair
from gossip.protocol.wire_events import FramesDropped, FramesReceived

CONTROL_BYTES_MAX = 65_536
HEADER_BYTES_MAX = 256
BODY_BYTES_MAX = 1_048_576

# Byte credit: libzmq counts messages, so one link can make us hold QUEUE_MESSAGES bodies of 1 MiB each way
# and no more; then `send` returns False. 32 lets a burst of small control messages through.
QUEUE_MESSAGES = 32
MESSAGES_PER_READ_MAX = 256  # so that a flood cannot keep poll from returning

_OPTIONS = {
    # Silence of 3 s ends a link: a partition is noticed within 4 s, instead of never.
    zmq.HEARTBEAT_IVL: int(HEARTBEAT_INTERVAL_S * 1000),
    zmq.HEARTBEAT_TIMEOUT: 3000,
    zmq.HANDSHAKE_IVL: 3000,
    # A lost link is an event, and whether to dial again is the protocol's choice.
    zmq.RECONNECT_IVL: -1,
    # A sealed frame is 33 bytes longer than its content. libzmq ends a link that sends more.
    zmq.MAXMSGSIZE: BODY_BYTES_MAX + 64,
    zmq.SNDHWM: QUEUE_MESSAGES,
    zmq.RCVHWM: QUEUE_MESSAGES,
    zmq.IPV6: 1,
    zmq.LINGER: 0,
}


HANDSHAKE_FAILURES = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
)


def open_socket(context: zmq.Context, kind: int, keys: KeyPair) -> zmq.Socket:
    opened = context.socket(kind)
    for option, value in _OPTIONS.items():
        opened.setsockopt(option, value)
    opened.curve_publickey = z85.encode(keys.public)
    opened.curve_secretkey = z85.encode(keys.secret)
    return opened


def queue(to: zmq.Socket, frames: Sequence[bytes]) -> bool:
    """Hand one whole message to libzmq without waiting; False if its queue is full. ROUTER: EHOSTUNREACH."""
    for _ in range(2):
        try:
            to.send_multipart(frames, zmq.NOBLOCK)
            return True
        except zmq.Again:
            to.get(zmq.EVENTS)  # lets libzmq notice what has left the queue; send alone looks only now and then
    return False


class Message(NamedTuple):
    """One message as it came. Of too many frames only the first three are kept, but all are counted."""

    routing_id: bytes
    frames: tuple[zmq.Frame, ...]
    frame_count: int
    wire_bytes: int

    def bodies(self) -> tuple[bytes, ...]:
        return tuple(frame.bytes for frame in self.frames)


def messages(source: zmq.Socket, *, is_routed: bool = False) -> Iterator[Message]:
    """What has arrived, without waiting. MAXMSGSIZE limits a frame, not their number: hence the counting.

    `is_routed`: a ROUTER puts a routing id first, which did not travel.
    """
    for _ in range(MESSAGES_PER_READ_MAX):
        try:
            routing_id = source.recv(zmq.NOBLOCK) if is_routed else b""
            frame = source.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return
        kept, count, wire_bytes = [frame], 1, frame_bytes(len(frame))
        while frame.more:
            frame = source.recv(copy=False)
            count, wire_bytes = count + 1, wire_bytes + frame_bytes(len(frame))
            if len(kept) < 3:
                kept.append(frame)
        yield Message(routing_id, tuple(kept), count, wire_bytes)


def monitor_events(monitor: zmq.Socket) -> Iterator[tuple[int, int]]:
    """(event, value) for what has happened to a socket; the value is a descriptor where there is one."""
    while True:
        try:
            event = parse_monitor_message(monitor.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            return
        yield event["event"], event["value"]


def close_monitored(monitored: zmq.Socket, monitor: zmq.Socket, linger_s: float) -> None:
    monitored.disable_monitor()
    monitor.close(linger=0)
    monitored.close(linger=int(linger_s * 1000))


class Intake:
    """The last check before frames become an event: each message is entered in the ledger, read or not."""

    def __init__(self, ledger: Ledger, kind_of: Callable[[Sequence[bytes]], str]) -> None:
        self.ledger = ledger
        self._kind_of = kind_of

    def receive(self, peer: bytes, message: Message) -> FramesReceived | FramesDropped:
        """One frame of control or two of payload, each within its limit; anything else is dropped by name."""
        sizes = [len(frame) for frame in message.frames]
        if message.frame_count > 2:
            return self.drop(peer, message, "TOO_MANY_FRAMES")
        limits = (CONTROL_BYTES_MAX,) if message.frame_count == 1 else (HEADER_BYTES_MAX, BODY_BYTES_MAX)
        if any(size > limit for size, limit in zip(sizes, limits, strict=True)):
            return self.drop(peer, message, "TOO_LARGE")
        frames = message.bodies()
        self.ledger.record("received", self._kind_of(frames), message.wire_bytes)
        return FramesReceived(peer, frames)

    def drop(self, peer: bytes | None, message: Message, code: str) -> FramesDropped:
        self.ledger.record("received", "dropped", message.wire_bytes)
        return FramesDropped(peer, code, 1)
