"""The links others make: one ROUTER, its doorman (ZAP), and a record of each accepted connection.

    accepted -> a good hello within 3 s -> up -> gone
             -> a bad one -> told why, cut          -> none: cut

A ROUTER names its peers by routing ids, which they may choose: we use the id only to find the connection, and
take the peer's key from `User-Id`, which our ZAP handler set to the key CURVE proved. A ROUTER cannot close
one connection and does not say when one goes; descriptors fill both gaps (tcp.py): each message tells the
one it came through, the monitor tells which was accepted and which closed.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import zmq
from zmq.utils import z85

from gossip.addresses import ENDPOINT_EXPECTED, is_endpoint
from gossip.errors import NetworkError
from gossip.ledger import LinkMeter, message_bytes
from gossip.live import tcp
from gossip.live.security import Admitted, HelloVerifier, KeyPair, Refusal, encode_refusal, encode_welcome
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
from gossip.protocol.wire_events import REPLACED, FramesDropped, LinkDown, LinkRefused, LinkUp, WireEvent

HELLO_TIMEOUT_S = 3.0
LINGER_S = 0.5  # what was sent before a link is cut gets this long to leave

_ZAP_ENDPOINT = "inproc://zeromq.zap.01"
_BIND_ADVICE: dict[int | None, str] = {
    errno.EADDRINUSE: "the port is in use; stop the other program or choose another port (0 picks one)",
    errno.EADDRNOTAVAIL: "this machine has no such address; 0.0.0.0 listens on all it has",
    errno.ENODEV: "this machine has no such address; 0.0.0.0 listens on all it has",
    errno.EACCES: "ports below 1024 need privileges; choose a higher one",
}


@dataclass(slots=True)
class _Accepted:
    """One connection. Its key and routing id are known from its first frame on."""

    fd: int
    connection: tcp.Connection | None
    cut_at: float | None
    peer: bytes = b""
    routing_id: bytes = b""
    is_up: bool = False
    meter: LinkMeter | None = None


class Listener:
    """Everything about one listening socket. Raises NetworkError if it cannot listen."""

    def __init__(self, context: zmq.Context, keys: KeyPair, endpoint: str, intake: Intake) -> None:
        if not is_endpoint(endpoint):
            raise NetworkError(f"cannot listen at {endpoint!r}: expected {ENDPOINT_EXPECTED}")
        self._intake = intake
        self._verifier: HelloVerifier | None = None
        self._swarm_key = self._spec = b""
        self._banned: dict[bytes, None] = {}
        self._by_fd: dict[int, _Accepted] = {}
        self._by_routing_id: dict[bytes, _Accepted] = {}
        self._up: dict[bytes, _Accepted] = {}  # by peer: one link each, the newest
        self._events: deque[tuple[int, int]] = deque()  # (event, descriptor), not yet acted on
        self._found_gone: list[bytes] = []  # peers a send could not find

        self.zap = context.socket(zmq.REP)
        self.socket = open_socket(context, zmq.ROUTER, keys)
        self.monitor = self.socket.get_monitor_socket()
        try:
            self.host, self.port = self._bind(endpoint)
        except BaseException:  # a socket left open would keep the context from ever ending
            self.close(0)
            raise

    def _bind(self, endpoint: str) -> tuple[str, int]:
        """Where we listen in the end, host and port."""
        self.zap.bind(_ZAP_ENDPOINT)
        self.socket.curve_server = True
        self.socket.zap_domain = b"gossip"
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a send to nobody fails instead of vanishing
        try:
            self.socket.bind(endpoint)
        except zmq.ZMQError as error:
            advice = _BIND_ADVICE.get(error.errno, f"{error.strerror}; expected {ENDPOINT_EXPECTED}")
            raise NetworkError(f"cannot listen at {endpoint}: {advice}") from error
        host, _, port = self.socket.getsockopt_string(zmq.LAST_ENDPOINT).removeprefix("tcp://").rpartition(":")
        return host, int(port)

    def admit(self, verifier: HelloVerifier, swarm_key: bytes, spec: bytes) -> None:
        """From now on answer hellos, with this key and, on request, this spec."""
        self._verifier, self._swarm_key, self._spec = verifier, swarm_key, spec

    def ban(self, peer: bytes) -> None:
        self._banned[peer] = None

    def is_up(self, peer: bytes) -> bool:
        return peer in self._up

    def send(self, peer: bytes, frames: Sequence[bytes]) -> bool:
        link = self._up[peer]
        try:
            return queue(self.socket, [link.routing_id, *frames])
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self._found_gone.append(peer)
            return False

    def hang_up(self, peer: bytes, now: float) -> None:
        """Read nothing more from `peer`; cut its connections once what was sent has had time to leave."""
        for link in self._by_routing_id.values():
            if link.peer == peer:
                self._turn_away(link, now)

    def read(self, now: float) -> Iterator[WireEvent]:
        """Events are taken before frames and acted on after them: a lost link's last words still count."""
        self._events.extend(monitor_events(self.monitor))
        for message in messages(self.socket, is_routed=True):
            yield from self._on_message(message, now)
        while self._events:
            yield from self._on_event(*self._events.popleft(), now)

    def on_time(self, now: float) -> Iterator[WireEvent]:
        for peer in self._found_gone:
            if peer in self._up:
                yield from self._forget(self._up[peer], now)
        self._found_gone.clear()
        for link in self._by_fd.values():
            if link.meter is not None:
                link.meter.settle(now)
            if link.cut_at is not None and now >= link.cut_at:
                link.cut_at = None
                if link.connection is not None:
                    tcp.cut(link.connection)

    def next_deadline(self) -> float:
        return min((link.cut_at for link in self._by_fd.values() if link.cut_at is not None), default=float("inf"))

    def answer_zap(self) -> None:
        """Let every key in but the banned: the hello decides. Its `User-Id` becomes its key."""
        while self.zap.poll(0):
            request = self.zap.recv_multipart()
            mechanism, credentials = request[5], request[6:]
            is_welcome = mechanism == b"CURVE" and len(credentials) == 1 and credentials[0] not in self._banned
            status, user_id = (b"200", z85.encode(credentials[0])) if is_welcome else (b"400", b"")
            self.zap.send_multipart([b"1.0", request[1], status, b"", user_id, b""])

    def close(self, linger_s: float) -> None:
        close_monitored(self.socket, self.monitor, linger_s)
        self.zap.close(linger=0)

    def _on_message(self, message: Message, now: float) -> Iterator[WireEvent]:
        link = self._by_routing_id.get(message.routing_id)
        if link is None:
            yield from self._on_first_message(message, now)
        elif link.is_up:
            yield self._intake.receive(link.peer, message)
        else:
            yield self._intake.drop(link.peer, message, "NOT_ADMITTED")

    def _on_first_message(self, message: Message, now: float) -> Iterator[WireEvent]:
        frame = message.frames[0]
        peer, fd = z85.decode(str(frame.get("User-Id"))), int(frame.get("__fd"))
        yield from self._catch_up(fd, now)
        link = self._by_fd.get(fd)
        if link is None or link.routing_id:  # from a connection that is gone already
            yield self._intake.drop(peer, message, "NOT_ADMITTED")
            return
        link.peer, link.routing_id = peer, message.routing_id
        link.meter = LinkMeter(self._intake.ledger, dialed=False, now=now)
        self._by_routing_id[message.routing_id] = link
        self._intake.ledger.record("received", "handshake", message.wire_bytes)
        verdict = self._judge(message, peer)
        if isinstance(verdict, Admitted):
            yield from self._let_in(link, verdict, now)
        else:
            self._reply(link, encode_refusal(verdict))
            self._turn_away(link, now)
            yield LinkRefused(peer, "", verdict.code, verdict.reason, dialed=False)

    def _catch_up(self, fd: int, now: float) -> Iterator[WireEvent]:
        """Act on events up to the last accept of `fd`: it may have belonged to another connection before.

        libzmq's one I/O thread reports an accept before it delivers a frame, so by now it can be read.
        """
        self._events.extend(monitor_events(self.monitor))
        accepts = [n for n, event in enumerate(self._events, 1) if event == (zmq.EVENT_ACCEPTED, fd)]
        for _ in range(max(accepts, default=0)):
            yield from self._on_event(*self._events.popleft(), now)

    def _judge(self, message: Message, peer: bytes) -> Admitted | Refusal:
        if self._verifier is None:
            return Refusal("NOT_READY", "this node is itself still joining; try again in a moment")
        if message.frame_count != 1:
            return Refusal("BAD_HELLO", "the first message on a link must be a hello of one frame")
        return self._verifier.verify(message.frames[0].bytes, peer)

    def _let_in(self, link: _Accepted, verdict: Admitted, now: float) -> Iterator[WireEvent]:
        """A newer link of the same key replaces the older: that node restarted, or its network did."""
        if not self._reply(link, encode_welcome(self._swarm_key, self._spec if verdict.wants_spec else b"")):
            return
        older = self._up.get(link.peer)
        if older is not None:
            self._turn_away(older, now)
            yield LinkDown(link.peer, REPLACED)
        link.is_up, link.cut_at = True, None
        self._up[link.peer] = link
        yield LinkUp(link.peer, dialed=False, address=verdict.address)

    def _reply(self, link: _Accepted, frame: bytes) -> bool:
        try:
            is_queued = queue(self.socket, [link.routing_id, frame])
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            return False  # hung up without waiting for the answer
        self._intake.ledger.record("sent", "handshake", message_bytes([frame]))
        return is_queued

    def _turn_away(self, link: _Accepted, now: float) -> None:
        if link.is_up:
            del self._up[link.peer]
        link.is_up, link.cut_at = False, now + LINGER_S

    def _on_event(self, event: int, fd: int, now: float) -> Iterator[WireEvent]:
        if event == zmq.EVENT_ACCEPTED:
            if fd in self._by_fd:
                yield from self._forget(self._by_fd[fd], now)
            connection = tcp.connection_of(fd)
            is_ours = connection is not None and connection.local[1] == self.port
            self._by_fd[fd] = _Accepted(fd, connection if is_ours else None, now + HELLO_TIMEOUT_S)
        elif event in HANDSHAKE_FAILURES:
            yield FramesDropped(None, "HANDSHAKE_FAILED", 1)
        elif event == zmq.EVENT_DISCONNECTED and fd in self._by_fd:
            yield from self._forget(self._by_fd[fd], now)

    def _forget(self, link: _Accepted, now: float) -> Iterator[WireEvent]:
        del self._by_fd[link.fd]
        self._by_routing_id.pop(link.routing_id, None)
        if link.meter is not None:
            link.meter.settle(now)
        if not link.routing_id:  # noise, a failed handshake, or silence
            yield FramesDropped(None, "NO_HELLO", 1)
        if link.is_up:
            del self._up[link.peer]
            yield LinkDown(link.peer, "the connection was lost")
