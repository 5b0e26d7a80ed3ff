"""The simulated network: links with delay, lost payloads, partitions and crashes.

Speaks to engines exactly as the live transport does, and counts bytes with the same ledger. What
TCP guarantees holds here too: on one link frames arrive in order or the link breaks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gossip.ledger import Ledger, message_bytes
from gossip.protocol.wire_events import FramesReceived, LinkDown, LinkRefused, LinkUp, WireEvent
from gossip.sim.world import World

DIAL_TIMEOUT_S = 3.0
SILENCE_S = 4.0  # how long heartbeats need to notice a silent peer


@dataclass(frozen=True, slots=True)
class NetworkModel:
    """How messages fare. Delay is one way."""

    delay_s: float = 0.01
    jitter_s: float = 0.005  # uniform around the delay
    loss: float = 0.0  # share of payloads (not control messages) that vanish


@dataclass(slots=True)
class _Host:
    deliver: Callable[[WireEvent], None]
    address: str
    ledger: Ledger
    links: dict[bytes, float] = field(default_factory=dict)  # peer -> when its last frame arrives here


class Network:
    """Every host of a simulated swarm. Keys are 32 bytes, as they are live."""

    def __init__(self, world: World, model: NetworkModel) -> None:
        self._world = world
        self._model = model
        self._hosts: dict[bytes, _Host] = {}
        self._cut: dict[tuple[bytes, bytes], None] = {}

    def attach(
        self, key: bytes, address: str, ledger: Ledger, deliver: Callable[[WireEvent], None]
    ) -> SimTransport:
        """A new host. Returns the transport its engine uses."""
        self._hosts[key] = _Host(deliver, address, ledger)
        return SimTransport(self, key)

    def crash(self, key: bytes) -> None:
        """The process is gone; its peers' kernels notice at once (a reset connection)."""
        host = self._hosts.pop(key)
        for peer in list(host.links):
            self._down(peer, key, self._delay_s(), "connection reset")

    def cut(self, a: bytes, b: bytes) -> None:
        """Silence between two hosts, both ways, until `heal`."""
        for pair in ((a, b), (b, a)):
            self._cut[pair] = None
            self._world.after(SILENCE_S, lambda pair=pair: self._notice_silence(*pair))  # type: ignore[misc]

    def heal(self) -> None:
        self._cut.clear()

    # -- What transports call ------------------------------------------------------------------------

    def dial(self, key: bytes, peer: bytes, address: str) -> None:
        def arrive() -> None:
            if key not in self._hosts:
                return
            if peer not in self._hosts or (key, peer) in self._cut or self._hosts[peer].address != address:
                wait_s = DIAL_TIMEOUT_S if (key, peer) in self._cut else self._delay_s()
                refused = LinkRefused(peer, address, "UNREACHABLE", f"nobody answers at {address}")
                self._world.after(wait_s, lambda: self._deliver(key, refused))
                return
            for here, there, dialed in ((key, peer, True), (peer, key, False)):
                host = self._hosts[here]
                if there not in host.links:
                    host.links[there] = self._world.now()
                    event = LinkUp(there, dialed, self._hosts[there].address)
                    self._world.after(
                        self._delay_s(), lambda here=here, event=event: self._deliver(here, event)
                    )  # type: ignore[misc]

        self._world.after(3 * self._delay_s(), arrive)  # TCP and CURVE: three one-way trips before the hello

    def hang_up(self, key: bytes, peer: bytes) -> None:
        if peer in self._hosts[key].links:
            self._down(key, peer, 0.0, "hung up")
            if peer in self._hosts:
                self._down(peer, key, self._delay_s(), "the peer hung up")

    def send(self, key: bytes, peer: bytes, frames: Sequence[bytes], kind: str) -> bool:
        sender = self._hosts.get(key)
        if sender is None or peer not in sender.links:
            return False
        size = message_bytes(frames)
        sender.ledger.record("sent", kind, size)
        is_lost = len(frames) == 2 and self._world.rng.random() < self._model.loss
        receiver = self._hosts.get(peer)
        if is_lost or receiver is None or (key, peer) in self._cut or key not in receiver.links:
            return True
        # In order on one link: never before the frame sent last.
        arrives_at = max(self._world.now() + self._delay_s(), receiver.links[key])
        receiver.links[key] = arrives_at

        def arrive() -> None:
            if (key, peer) in self._cut or peer not in self._hosts or key not in self._hosts[peer].links:
                return
            self._hosts[peer].ledger.record("received", kind, size)
            self._deliver(peer, FramesReceived(key, tuple(frames)))

        self._world.after(arrives_at - self._world.now(), arrive)
        return True

    # -- How it is done ------------------------------------------------------------------------------

    def _delay_s(self) -> float:
        return max(0.0, self._model.delay_s + self._world.rng.uniform(-1, 1) * self._model.jitter_s)

    def _deliver(self, key: bytes, event: WireEvent) -> None:
        host = self._hosts.get(key)
        if host is None or (isinstance(event, LinkUp) and event.peer not in host.links):
            return
        host.deliver(event)

    def _down(self, key: bytes, peer: bytes, delay_s: float, reason: str) -> None:
        host = self._hosts.get(key)
        if host is not None and host.links.pop(peer, None) is not None:
            self._world.after(delay_s, lambda: self._deliver(key, LinkDown(peer, reason)))

    def _notice_silence(self, key: bytes, peer: bytes) -> None:
        if (key, peer) in self._cut:
            self._down(key, peer, 0.0, "heartbeats ceased")


class SimTransport:
    """One host's end: the same methods as the live transport's."""

    def __init__(self, network: Network, key: bytes) -> None:
        self._network = network
        self.key = key

    def dial(self, peer: bytes, address: str) -> None:
        self._network.dial(self.key, peer, address)

    def hang_up(self, peer: bytes) -> None:
        self._network.hang_up(self.key, peer)

    def send(self, peer: bytes, frames: Sequence[bytes], kind: str) -> bool:
        return self._network.send(self.key, peer, frames, kind)
