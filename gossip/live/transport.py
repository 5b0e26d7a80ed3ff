"""The engine's Transport port over ZeroMQ: dial, hang up, send; and poll, which tells what happened.

Composes one Listener (listening.py) and a DialedLink per peer we dialed (dialing.py), and turns their links
into peers: two nodes may dial each other at once, then both links live, but the peer comes up once and goes
down when the last of them does. Knows nothing of what frames mean.
All of it belongs to the one thread that made it, except `wake`.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import zmq

from gossip.addresses import NONE, joined
from gossip.errors import NetworkError
from gossip.ledger import Ledger, message_bytes
from gossip.live import tcp
from gossip.live.dialing import DialedLink, Trial
from gossip.live.interfaces import reachable_hosts
from gossip.live.listening import LINGER_S, Listener
from gossip.live.names import Names
from gossip.live.security import (
    MEMBER_PERMIT_S,
    HelloVerifier,
    KeyPair,
    Permit,
    Welcome,
    make_hello,
    mint_permit,
    spec_hash,
)
from gossip.live.sockets import Intake
from gossip.protocol.events import DIAL_PATIENCE_S
from gossip.protocol.wire_events import AddressTried, FramesDropped, LinkDown, LinkRefused, LinkUp, WireEvent
from gossip.spec import without_owner

LINKS_DIALED_MAX = 64  # each is three sockets and an inbound queue of 32 MiB at worst
TRIALS_MAX = 8  # addresses being tried for others
WAIT_S_MAX = 60.0  # heartbeats are entered in the ledger at least this often


def _kind_by_shape(frames: Sequence[bytes]) -> str:
    return "membership" if len(frames) == 1 else "exchange"


class ZmqTransport:
    """A node's links. `key` is who it is, `address` what it tells others to dial, with commas between; "": nobody."""

    def __init__(
        self,
        keys: KeyPair,
        ledger: Ledger,
        *,
        advertise: str = "",
        kind_of: Callable[[Sequence[bytes]], str] = _kind_by_shape,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`advertise` wins over the address listened on, also as "none"; `kind_of` names what arrives."""
        self.key = keys.public
        self.address = tcp.checked_addresses(advertise) if advertise not in ("", NONE) else ""
        self._says_where_it_listens = not advertise
        self.endpoint = ""  # tcp://HOST:PORT as bound, once we listen
        self.dropped: Counter[str] = Counter()  # everything ever dropped, by code
        self._keys = keys
        self._ledger = ledger
        self._intake = Intake(ledger, kind_of)
        self._clock = clock
        self._wall_clock = wall_clock
        self._permit: Permit | None = None
        self._swarm_key = self._spec = b""

        self._context = zmq.Context()  # our own: its ZAP address is ours alone, and close ends all of it
        self._poller = zmq.Poller()
        self._listener: Listener | None = None
        self._names = Names(self.wake)
        self._dialed: dict[bytes, DialedLink] = {}
        self._trials: list[Trial] = []
        self._links_up: Counter[bytes] = Counter()  # 1 or 2 for a peer that is up
        self._inputs: list[WireEvent] = []
        self._drops: Counter[tuple[bytes | None, str]] = Counter()
        self._watched: dict[int, Callable[[], object]] = {}
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self.watch(self._wake_reader.fileno(), lambda: self._wake_reader.recv(4096))

    # Who we are

    def use_permit(self, permit: Permit, spec: bytes = b"") -> None:
        """Introduce ourselves with a ticket's permit; an empty spec asks the swarm for its own."""
        self._permit, self._spec = permit, spec

    def become_member(self, swarm_key: bytes, spec: bytes) -> None:
        """From now on let others in, and introduce ourselves by the swarm key. `spec`: canonical bytes."""
        self._swarm_key, self._spec = swarm_key, spec
        self._admit()

    def listen(self, endpoint: str) -> None:
        """Accept links at tcp://HOST:PORT; port 0 picks a free one. Raises NetworkError."""
        listener = Listener(self._context, self._keys, endpoint, self._intake)
        self._listener = listener
        if self._says_where_it_listens:
            self.address = joined(f"{host}:{listener.port}" for host in reachable_hosts(listener.host))
        self.endpoint = f"tcp://{listener.host}:{listener.port}"
        for source in (listener.zap, listener.monitor, listener.socket):
            self._poller.register(source, zmq.POLLIN)
        self._admit()

    # What the engine calls

    def dial(self, peer: bytes, address: str, connect_s: float = DIAL_PATIENCE_S) -> None:
        """Ends in LinkUp or LinkRefused within 3 s, the lookup of a name included.

        No event if `peer` is up or being dialed already. `connect_s`: its part for the TCP connection.
        """
        if peer in self._dialed or self.is_up(peer):
            return
        try:
            if peer == self.key:
                raise NetworkError("this key is our own")
            if len(self._dialed) >= LINKS_DIALED_MAX:
                raise NetworkError(f"{LINKS_DIALED_MAX} links are open already")
            hello = make_hello(self._current_permit(), self.key, peer, self._spec, self.address)
            number = self._names.look_up(tcp.checked_address(address))
            link = DialedLink(
                self._context,
                self._keys,
                peer,
                address,
                number,
                hello,
                self._intake,
                self._clock(),
                is_member=bool(self._swarm_key),
                connect_s=connect_s,
            )
        except (NetworkError, zmq.ZMQError) as error:
            self._inputs.append(LinkRefused(peer, address, "CANNOT_DIAL", str(error)))
            return
        self._dialed[peer] = link
        self._poller.register(link.socket, zmq.POLLIN)
        self._poller.register(link.monitor, zmq.POLLIN)

    def try_address(self, peer: bytes, address: str) -> None:
        """Ends in AddressTried within 3 s. No link comes of it."""
        try:
            if len(self._trials) >= TRIALS_MAX:
                raise NetworkError(f"{TRIALS_MAX} addresses are being tried already")
            number = self._names.look_up(tcp.checked_address(address))
            trial = Trial(self._context, self._keys, peer, address, number, self._clock())
        except (NetworkError, zmq.ZMQError):
            self._inputs.append(AddressTried(peer, address, "CANNOT_DIAL"))
            return
        self._trials.append(trial)
        self._poller.register(trial.monitor, zmq.POLLIN)
        self.wake()  # a name that is a number is known already

    def hang_up(self, peer: bytes) -> None:
        """End every link with `peer`. What was sent gets half a second to leave; LinkDown if it was up."""
        if peer in self._dialed:
            self._drop_dialed(peer, LINGER_S)
        if self._listener is not None:
            self._listener.hang_up(peer, self._clock())
        if self._links_up.pop(peer, 0):
            self._inputs.append(LinkDown(peer, "we hung up"))

    def send(self, peer: bytes, frames: Sequence[bytes], kind: str) -> bool:
        """Queue 1 frame (control) or 2 (payload). False: `peer` is not up, or has no credit left."""
        dialed = self._dialed.get(peer)
        if dialed is not None and dialed.is_up:
            is_queued = dialed.send(frames)
        elif self._listener is not None and self._listener.is_up(peer):
            is_queued = self._listener.send(peer, frames)
        else:
            return False
        if is_queued:
            self._ledger.record("sent", kind, message_bytes(frames))
        return is_queued

    def close(self) -> None:
        """Let go of everything; again does nothing. What was sent gets half a second to leave."""
        for trial in self._trials:
            trial.close()
        self._trials.clear()
        for peer in list(self._dialed):
            self._drop_dialed(peer, LINGER_S if self._dialed[peer].is_up else 0)
        if self._listener is not None:
            self._listener.close(LINGER_S)
            self._listener = None
        self._context.term()
        self._wake_reader.close()
        self._wake_writer.close()

    # What the live loop calls

    def poll(self, timeout_s: float) -> list[WireEvent]:
        """What has happened, in order; waits for something to, at most `timeout_s`."""
        ready = dict(self._poller.poll(self._wait_ms(timeout_s)))
        for fd in [fd for fd in self._watched if fd in ready]:
            self._watched[fd]()
        now = self._clock()
        if self._listener is not None:
            if self._listener.zap in ready:
                self._listener.answer_zap()
            if self._listener.socket in ready or self._listener.monitor in ready:
                self._take(self._listener.read(now))
            self._take(self._listener.on_time(now))
        for link in list(self._dialed.values()):
            if link.socket in ready or link.monitor in ready:
                self._take(link.read(now))
            if not link.is_over:
                self._take(link.on_time(now))
            if link.is_over:
                self._drop_dialed(link.peer, 0)
        for trial in list(self._trials):
            if (tried := trial.outcome(now)) is not None:
                self._poller.unregister(trial.monitor)
                self._trials.remove(trial)
                trial.close()
                self._inputs.append(tried)
        dropped = [FramesDropped(*source, count) for source, count in self._drops.items()]
        inputs, self._inputs = self._inputs + dropped, []
        self._drops.clear()
        return inputs

    def wake(self) -> None:
        """Make `poll` return now. Any thread may call this, even one that has not heard of our `close`."""
        with contextlib.suppress(OSError):  # closed; or full of wakes not yet answered, then it will wake
            self._wake_writer.send(b"!")

    def watch(self, fd: int, on_readable: Callable[[], object]) -> None:
        """Have `poll` call `on_readable` whenever `fd` can be read, its end included."""
        self._watched[fd] = on_readable
        self._poller.register(fd, zmq.POLLIN)

    def unwatch(self, fd: int) -> None:
        del self._watched[fd]
        self._poller.unregister(fd)

    def put_back(self, inputs: Sequence[WireEvent]) -> None:
        """Have the next `poll` return these first: for whoever polled before the engine did."""
        self._inputs[:0] = inputs

    def ban(self, peer: bytes) -> None:
        """Hang up on this key, and let it in no more."""
        if self._listener is not None:
            self._listener.ban(peer)
        self.hang_up(peer)

    def is_up(self, peer: bytes) -> bool:
        return self._links_up[peer] > 0

    def welcome_from(self, peer: bytes) -> Welcome | None:
        """What `peer` said when it let us in."""
        link = self._dialed.get(peer)
        return link.welcome if link is not None else None

    def _take(self, happened: Iterable[WireEvent]) -> None:
        """Pass on a peer's first link up and last link down; sum up what was dropped."""
        for event in happened:
            match event:
                case LinkUp(peer=peer):
                    self._links_up[peer] += 1
                    if self._links_up[peer] == 1:
                        self._inputs.append(event)
                case LinkDown(peer=peer):
                    self._links_up[peer] -= 1
                    if not self._links_up[peer]:
                        del self._links_up[peer]
                        self._inputs.append(event)
                case FramesDropped(peer=source, code=code, count=count):
                    self._drops[source, code] += count
                    self.dropped[code] += count
                case _:
                    self._inputs.append(event)

    def _drop_dialed(self, peer: bytes, linger_s: float) -> None:
        link = self._dialed.pop(peer)
        self._poller.unregister(link.socket)
        self._poller.unregister(link.monitor)
        link.close(linger_s, self._clock())

    def _wait_ms(self, timeout_s: float) -> int:
        if self._inputs:
            return 0
        deadlines = [link.deadline for link in self._dialed.values() if not link.is_up]
        deadlines += [trial.deadline for trial in self._trials]
        if self._listener is not None:
            deadlines.append(self._listener.next_deadline())
        until_s = min(deadlines, default=math.inf) - self._clock()
        return math.ceil(1000 * max(0.0, min(timeout_s, until_s, WAIT_S_MAX)))

    def _current_permit(self) -> Permit:
        if self._swarm_key:
            return mint_permit(self._swarm_key, valid_for_s=MEMBER_PERMIT_S, now=self._wall_clock())
        if self._permit is None:
            raise NetworkError("no ticket: this node belongs to no swarm yet")
        return self._permit

    def _admit(self) -> None:
        if self._listener is not None and self._swarm_key:
            file_hash = spec_hash(without_owner(self._spec))
            verifier = HelloVerifier(self._swarm_key, self.key, spec_hash(self._spec), self._wall_clock, file_hash)
            self._listener.admit(verifier, self._swarm_key, self._spec)
