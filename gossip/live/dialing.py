"""A link we make: one DEALER, one peer, one life. dialing -> up -> over, or dialing -> refused.

The peer's key is the `curve_serverkey` the socket was given: only its owner can finish the handshake.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import zmq
from zmq.utils import z85

from gossip.errors import PeerError
from gossip.ledger import LinkMeter, message_bytes
from gossip.live.security import KeyPair, Refusal, Welcome, parse_reply
from gossip.live.sockets import (
    HANDSHAKE_FAILURES,
    Intake,
    Message,
    close_monitored,
    messages,
    monitor_events,
    open_socket,
    queue,
)
from gossip.protocol.wire_events import FramesDropped, LinkDown, LinkRefused, LinkUp, WireEvent

# From dial to welcome. A person with a wrong ticket or a dead seed hears of it within 5 s, end to end.
DIAL_TIMEOUT_S = 3.0

# A link's stage until it is up, and what it means if it ends there.
_FAILURES = {
    "UNREACHABLE": "nothing answers there; is that node running, and its port open to us?",
    "NO_HANDSHAKE": "something answers there, but it does not hold the expected key (the ticket is wrong, "
    "or that node has a new key), or it bans ours",
    "NO_WELCOME": "it did not answer our hello",
}


class DialedLink:
    """Raises ZMQError if `address` is nothing libzmq can dial."""

    def __init__(
        self,
        context: zmq.Context,
        keys: KeyPair,
        peer: bytes,
        address: str,
        hello: bytes,
        intake: Intake,
        now: float,
    ) -> None:
        self.peer = peer
        self.address = address
        self.is_up = False
        self.is_over = False
        self.welcome: Welcome | None = None  # from `is_up` on
        self.deadline = now + DIAL_TIMEOUT_S
        self._stage = "UNREACHABLE"
        self._hello = hello
        self._intake = intake
        self._meter: LinkMeter | None = None
        self.socket = open_socket(context, zmq.DEALER, keys)
        self.socket.curve_serverkey = z85.encode(peer)
        self.monitor = self.socket.get_monitor_socket()
        try:
            self.socket.connect(f"tcp://{address}")
        except zmq.ZMQError:
            self.close(0, now)
            raise
        self.socket.send(hello)  # waits inside libzmq for the handshake: always the link's first frame

    def send(self, frames: Sequence[bytes]) -> bool:
        return queue(self.socket, frames)

    def read(self, now: float) -> Iterator[WireEvent]:
        """Events are taken before frames and acted on after them: a lost link's last words still count."""
        events = [event for event, _ in monitor_events(self.monitor)]
        if zmq.EVENT_HANDSHAKE_SUCCEEDED in events:
            self._meter = LinkMeter(self._intake.ledger, dialed=True, now=now)
            self._intake.ledger.record("sent", "handshake", message_bytes([self._hello]))
        for message in messages(self.socket):
            yield self._intake.receive(self.peer, message) if self.is_up else self._on_reply(message)
            if self.is_over:
                return
        for event in events:
            yield from self._on_event(event)

    def on_time(self, now: float) -> Iterator[WireEvent]:
        if self._meter is not None:
            self._meter.settle(now)
        if not self.is_up and now >= self.deadline:
            yield self._fail(self._stage, _FAILURES[self._stage])

    def close(self, linger_s: float, now: float) -> None:
        """What was sent gets `linger_s` to leave. For good: a new dial is a new link."""
        self.is_up, self.is_over = False, True
        if self._meter is not None:
            self._meter.settle(now)
        close_monitored(self.socket, self.monitor, linger_s)

    def _on_reply(self, message: Message) -> WireEvent:
        """The first frame that comes back, a welcome or a refusal."""
        self._intake.ledger.record("received", "handshake", message.wire_bytes)
        try:
            reply = parse_reply(b"".join(message.bodies()), self.peer)
        except PeerError as error:
            return self._fail(error.code, str(error))
        if isinstance(reply, Refusal):
            return self._fail(reply.code, reply.reason)
        self.is_up, self.welcome = True, reply
        return LinkUp(self.peer, dialed=True, address=self.address)

    def _on_event(self, event: int) -> Iterator[WireEvent]:
        if event == zmq.EVENT_CONNECTED:
            self._stage = "NO_HANDSHAKE"
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._stage = "NO_WELCOME"
        elif event in HANDSHAKE_FAILURES:
            yield FramesDropped(self.peer, "HANDSHAKE_FAILED", 1)
        elif event in (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED) and not self.is_over:
            if self.is_up:
                self.is_up, self.is_over = False, True
                yield LinkDown(self.peer, "the connection was lost")
            else:
                yield self._fail(self._stage, _FAILURES[self._stage])

    def _fail(self, code: str, reason: str) -> LinkRefused:
        self.is_over = True
        return LinkRefused(self.peer, self.address, code, reason)
