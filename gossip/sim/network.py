"""The simulated network: links with delay, lost payloads, partitions and crashes.

Speaks to engines exactly as the live transport does, and counts bytes with the same ledger. What
TCP guarantees holds here too: on one link frames arrive in order, what was sent before a link was
closed arrives before its end does, and sending on a link the other end has forgotten resets it.
Only a cut is harsher: it loses what is under way, also where it is too short to break a link.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gossip.ledger import Ledger, message_bytes
from gossip.protocol.events import DIAL_PATIENCE_S
from gossip.protocol.wire_events import REPLACED, AddressTried, FramesReceived, LinkDown, LinkRefused, LinkUp, WireEvent
from gossip.sim.uplink import Uplink
from gossip.sim.world import World

SILENCE_S = 4.0  # how long heartbeats need to notice a silent peer


@dataclass(frozen=True, slots=True)
class NetworkModel:
    """How messages fare. Delay is one way."""

    delay_s: float = 0.01
    jitter_s: float = 0.005  # uniform around the delay
    loss: float = 0.0  # share of payloads (not control messages) that vanish
    upload_bytes_per_s: float = math.inf  # of every host's own line, shared by its links


@dataclass(slots=True, eq=False)
class _Link:
    """One connection; both ends hold the same object, so that an old end never closes a new link."""

    last_arrival_at: dict[bytes, float]  # by receiver: frames stay in order


@dataclass(slots=True)
class _Host:
    deliver: Callable[[WireEvent], None]
    address: str
    ledger: Ledger
    uplink: Uplink
    links: dict[bytes, _Link] = field(default_factory=dict)


class Network:
    """Every host of a simulated swarm. Keys are 32 bytes, as they are live."""

    def __init__(self, world: World, model: NetworkModel) -> None:
        self.model = model  # may be replaced while the world runs
        self._world = world
        self._hosts: dict[bytes, _Host] = {}
        self._cut: dict[tuple[bytes, bytes], None] = {}
        self._shut: dict[tuple[bytes, str], None] = {}
        self.uploads: dict[bytes, float] = {}  # bytes per second, of hosts whose line is not the model's
        self.malice: dict[bytes, Callable[[Sequence[bytes]], Sequence[bytes]]] = {}  # what becomes of a host's frames

    def attach(self, key: bytes, address: str, ledger: Ledger, deliver: Callable[[WireEvent], None]) -> SimTransport:
        """A new host. Returns the transport its engine uses."""
        uplink = Uplink(self._world, lambda: self.uploads.get(key, self.model.upload_bytes_per_s))
        self._hosts[key] = _Host(deliver, address, ledger, uplink)
        return SimTransport(self, key)

    def crash(self, key: bytes) -> None:
        """The process is gone; its peers' kernels notice at once (a reset connection)."""
        host = self._hosts.pop(key, None)
        if host is not None:
            host.uplink.clear()
        for peer, link in host.links.items() if host is not None else ():
            self._close(peer, key, link, "connection reset")

    def cut(self, a: bytes, b: bytes) -> None:
        """Silence between two hosts, both ways, until `heal`."""
        for here, there in ((a, b), (b, a)):
            self._cut[here, there] = None
            if here in self._hosts and there in self._hosts[here].links:
                self._notice_silence(here, there, self._hosts[here].links[there])

    def heal(self) -> None:
        """Every cut is mended."""
        self._cut.clear()

    def shut(self, key: bytes, address: str) -> None:
        """A firewall before this address of a host swallows what knocks there."""
        self._shut[key, address] = None

    def open(self, key: bytes, address: str) -> None:
        del self._shut[key, address]

    # -- What transports call ------------------------------------------------------------------------

    def dial(self, key: bytes, peer: bytes, address: str, connect_s: float = DIAL_PATIENCE_S) -> None:
        def arrive() -> None:
            if key not in self._hosts:
                return
            silence_s = self._silence_s(key, peer, address, connect_s)
            if silence_s is None:
                self._connect(key, peer)
            else:
                refused = LinkRefused(peer, address, "UNREACHABLE", f"nobody answers at {address}")
                self._world.after(silence_s, lambda: self._deliver(key, refused))

        self._world.after(3 * self._delay_s(), arrive)  # TCP and CURVE: three one-way trips before the hello

    def try_address(self, key: bytes, peer: bytes, address: str) -> None:
        def arrive() -> None:
            silence_s = self._silence_s(key, peer, address, DIAL_PATIENCE_S)
            tried = AddressTried(peer, address, "" if silence_s is None else "UNREACHABLE")
            self._world.after(silence_s or 0.0, lambda: self._deliver(key, tried))

        self._world.after(3 * self._delay_s(), arrive)

    def hang_up(self, key: bytes, peer: bytes) -> None:
        link = self._hosts[key].links.get(peer)
        if link is not None:
            self._end(key, peer, link, "we hung up")
            self._close(peer, key, link, "the peer hung up")

    def send(self, key: bytes, peer: bytes, frames: Sequence[bytes], kind: str) -> bool:
        sender = self._hosts.get(key)
        if sender is None or peer not in sender.links:
            return False
        if key in self.malice:
            frames = self.malice[key](frames)
        size = message_bytes(frames)
        sender.ledger.record("sent", kind, size)
        if len(frames) == 2 and self._world.rng.random() < self.model.loss:
            return True

        def arrive() -> None:
            self._hosts[peer].ledger.record("received", kind, size)
            self._hosts[peer].deliver(FramesReceived(key, tuple(frames)))

        link = sender.links[peer]
        self._over(link, key, peer, arrive, lambda: self._close(key, peer, link, "connection reset"), size)
        return True

    # -- How it is done ------------------------------------------------------------------------------

    def _delay_s(self) -> float:
        return max(0.0, self.model.delay_s + self._world.rng.uniform(-1, 1) * self.model.jitter_s)

    def _silence_s(self, key: bytes, peer: bytes, address: str, patience_s: float) -> float | None:
        """None where somebody answers; else how long until that is clear: a swallowed SYN takes all our patience."""
        if (key, peer) in self._cut or (peer, address) in self._shut:
            return patience_s
        is_there = peer in self._hosts and address in self._hosts[peer].address.split(",")
        return None if is_there else self._delay_s()

    def _connect(self, key: bytes, peer: bytes) -> None:
        """The listener is up first, then the dialer; an end of an older link goes down before."""
        ours, theirs = self._hosts[key].links.get(peer), self._hosts[peer].links.get(key)
        if ours is not None and ours is theirs:
            return  # they were quicker: one link is enough
        for here, there, old in ((key, peer, ours), (peer, key, theirs)):
            if old is not None:
                self._end(here, there, old, REPLACED)
        link = _Link({key: self._world.now(), peer: self._world.now()})
        self._hosts[key].links[peer] = self._hosts[peer].links[key] = link
        up_here = LinkUp(key, False, self._hosts[key].address)
        up_there = LinkUp(peer, True, self._hosts[peer].address)
        self._over(link, key, peer, lambda: self._hosts[peer].deliver(up_here))
        self._over(link, peer, key, lambda: self._hosts[key].deliver(up_there))

    def _over(
        self,
        link: _Link,
        sender: bytes,
        receiver: bytes,
        arrive: Callable[[], None],
        on_nobody: Callable[[], None] = lambda: None,
        size: int = 0,
    ) -> None:
        """Let something of `size` bytes arrive over a link, in order; `on_nobody` where the other end is gone."""

        def happen() -> None:
            host = self._hosts.get(receiver)
            if (sender, receiver) in self._cut:
                return
            if host is None or host.links.get(sender) is not link:
                on_nobody()
            else:
                arrive()

        def leave() -> None:
            # Never at the same time as the frame before it: between equal times the seed decides.
            arrives_at = max(self._world.now() + self._delay_s(), link.last_arrival_at[receiver] + 1e-9)
            link.last_arrival_at[receiver] = arrives_at
            self._world.after(arrives_at - self._world.now(), happen)

        host = self._hosts.get(sender)
        if host is None:
            leave()
        else:
            host.uplink.send(link, size, leave)

    def _close(self, key: bytes, peer: bytes, link: _Link, reason: str) -> None:
        """`peer` closed its end: `key` sees that after all that was sent before."""
        self._over(link, peer, key, lambda: self._end(key, peer, link, reason))

    def _end(self, key: bytes, peer: bytes, link: _Link, reason: str) -> None:
        host = self._hosts.get(key)
        if host is not None and host.links.get(peer) is link:
            del host.links[peer]
            self._world.after(0.0, lambda: self._deliver(key, LinkDown(peer, reason)))

    def _deliver(self, key: bytes, event: WireEvent) -> None:
        if key in self._hosts:
            self._hosts[key].deliver(event)

    def _notice_silence(self, key: bytes, peer: bytes, link: _Link) -> None:
        def look() -> None:
            if (key, peer) in self._cut:
                self._end(key, peer, link, "heartbeats ceased")
                self._close(peer, key, link, "heartbeats ceased")

        self._world.after(SILENCE_S, look)


class SimTransport:
    """One host's end: the same methods as the live transport's."""

    def __init__(self, network: Network, key: bytes) -> None:
        self._network = network
        self.key = key

    def dial(self, peer: bytes, address: str, connect_s: float = DIAL_PATIENCE_S) -> None:
        self._network.dial(self.key, peer, address, connect_s)

    def try_address(self, peer: bytes, address: str) -> None:
        self._network.try_address(self.key, peer, address)

    def hang_up(self, peer: bytes) -> None:
        self._network.hang_up(self.key, peer)

    def send(self, peer: bytes, frames: Sequence[bytes], kind: str) -> bool:
        return self._network.send(self.key, peer, frames, kind)
