"""A link we make: one DEALER, one peer, one life. (name looked up ->) dialing -> up -> over, or -> refused.

The peer's key is the `curve_serverkey` the socket was given: only its owner can finish the handshake.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

import zmq
from zmq.utils import z85

from gossip.errors import NetworkError, PeerError
from gossip.ledger import LinkMeter, message_bytes
from gossip.live.names import host_of
from gossip.live.security import MEMBER_PERMIT_S, KeyPair, Refusal, Welcome, parse_reply
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
from gossip.protocol.events import DIAL_PATIENCE_S
from gossip.protocol.wire_events import AddressTried, FramesDropped, LinkDown, LinkRefused, LinkUp, WireEvent

# From dial to welcome. A person with a wrong ticket or a dead seed hears of it within 5 s, end to end.
DIAL_TIMEOUT_S = DIAL_PATIENCE_S

# A link's stage until it is up, and what it means if it ends there.
_FAILURES = {
    "UNREACHABLE": "nothing answers there; is that node running, and its port open to us?",
    "NO_HANDSHAKE": "something answers there, but it does not hold the expected key (the ticket is wrong, "
    "or that node has a new key), or it bans ours, or it is still starting",
    "NO_WELCOME": "it did not answer our hello",
}


class Trial:
    """Does `peer` answer at `address`? A handshake and nothing else: no hello, no link.

    `number`: `address` with its host looked up, now or later. Raises ZMQError if libzmq cannot dial it.
    """

    def __init__(
        self, context: zmq.Context, keys: KeyPair, peer: bytes, address: str, number: Future[str], now: float
    ) -> None:
        self.peer = peer
        self.address = address
        self.deadline = now + DIAL_TIMEOUT_S
        self._code = "UNREACHABLE"  # what it is if nothing more happens
        self._number: Future[str] | None = number
        self.socket = open_socket(context, zmq.DEALER, keys)
        self.socket.curve_serverkey = z85.encode(peer)
        self.monitor = self.socket.get_monitor_socket()

    def outcome(self, now: float) -> AddressTried | None:
        """What came of it, once that is known."""
        if self._number is not None and self._number.done():
            number, self._number = self._number, None
            try:
                self.socket.connect(f"tcp://{number.result()}")
            except (NetworkError, zmq.ZMQError):
                return AddressTried(self.peer, self.address, self._code)
        for event, _ in monitor_events(self.monitor):
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                return AddressTried(self.peer, self.address, "")
            if event == zmq.EVENT_CONNECTED:
                self._code = "NO_HANDSHAKE"
            if event in (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED):
                return AddressTried(self.peer, self.address, self._code)
        return AddressTried(self.peer, self.address, self._code) if now >= self.deadline else None

    def close(self) -> None:
        close_monitored(self.socket, self.monitor, 0)


class DialedLink:
    """`number`: `address` with its host looked up, now or later. Raises ZMQError if libzmq cannot dial it."""

    def __init__(
        self,
        context: zmq.Context,
        keys: KeyPair,
        peer: bytes,
        address: str,
        number: Future[str],
        hello: bytes,
        intake: Intake,
        now: float,
        *,
        is_member: bool = True,
        connect_s: float = DIAL_PATIENCE_S,
    ) -> None:
        """`is_member`: the hello's permit is one we made ourselves, just now.

        connect_s: how long the other machine may take to accept; libzmq's own patience is the kernel's two minutes.
        """
        self.peer = peer
        self.address = address
        self.is_up = False
        self.is_over = False
        self.welcome: Welcome | None = None  # from `is_up` on
        self._welcome_by = now + DIAL_TIMEOUT_S
        self._connect_s = connect_s
        self._connect_by = math.inf  # counted from when the name is known
        self._stage = "UNREACHABLE"
        self._number: Future[str] | None = number  # until we connect
        self._hello = hello
        self._is_member = is_member
        self._intake = intake
        self._meter: LinkMeter | None = None
        self.socket = open_socket(context, zmq.DEALER, keys)
        self.socket.curve_serverkey = z85.encode(peer)
        self.monitor = self.socket.get_monitor_socket()
        if number.done() and not number.exception():
            try:
                self._connect(number.result(), now)
            except zmq.ZMQError:
                self.close(0, now)
                raise

    @property
    def deadline(self) -> float:
        """When this is given up, unless something happens before."""
        return min(self._welcome_by, self._connect_by) if self._stage == "UNREACHABLE" else self._welcome_by

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
        if self._number is not None and self._number.done():
            yield from self._on_number(self._number, now)
        if not self.is_up and not self.is_over and now >= self.deadline:
            yield self._fail(self._stage, self._what_failed())

    def close(self, linger_s: float, now: float) -> None:
        """What was sent gets `linger_s` to leave. For good: a new dial is a new link."""
        self.is_up, self.is_over = False, True
        if self._meter is not None:
            self._meter.settle(now)
        close_monitored(self.socket, self.monitor, linger_s)

    def _connect(self, number: str, now: float) -> None:
        self._number = None
        self._connect_by = now + self._connect_s
        self.socket.connect(f"tcp://{number}")
        self.socket.send(self._hello)  # waits inside libzmq for the handshake: always the link's first frame

    def _on_number(self, number: Future[str], now: float) -> Iterator[WireEvent]:
        try:
            self._connect(number.result(), now)
        except (NetworkError, zmq.ZMQError) as error:
            yield self._fail("UNREACHABLE", str(error))

    def _what_failed(self) -> str:
        if self._number is not None:
            return f"the name {host_of(self.address)} is still being looked up; is this machine's name server up?"
        return _FAILURES[self._stage]

    def _on_reply(self, message: Message) -> WireEvent:
        """The first frame that comes back, a welcome or a refusal."""
        self._intake.ledger.record("received", "handshake", message.wire_bytes)
        try:
            reply = parse_reply(b"".join(message.bodies()), self.peer)
        except PeerError as error:
            return self._fail(error.code, str(error))
        if isinstance(reply, Refusal):
            return self._fail(reply.code, self._reason(reply))
        self.is_up, self.welcome = True, reply
        return LinkUp(self.peer, dialed=True, address=self.address)

    def _reason(self, refusal: Refusal) -> str:
        """A member has no ticket to renew: what it showed was made a moment ago, by its own clock."""
        if refusal.code == "TICKET_EXPIRED" and self._is_member:
            return (
                f"our clock and that member's differ by over {MEMBER_PERMIT_S // 60} minutes; set the one that is off"
            )
        return refusal.reason

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
                yield self._fail(self._stage, self._what_failed())

    def _fail(self, code: str, reason: str) -> LinkRefused:
        self.is_over = True
        return LinkRefused(self.peer, self.address, code, reason)
