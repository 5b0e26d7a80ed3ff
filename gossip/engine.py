"""Executes the core's effects through its ports. The same engine runs live and in the simulator.

The node decides, the engine does: it parses what peers sent (once, here), hands inputs to the
node, and turns each effect into one call on a port. A peer's error ends here, as a named event;
our own broken invariant goes on up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from gossip import wire
from gossip.errors import PeerError
from gossip.ledger import Ledger
from gossip.observe import Observer
from gossip.protocol import events as ev
from gossip.protocol.commands import Checks
from gossip.protocol.messages import Command
from gossip.protocol.node import Node
from gossip.protocol.wire_events import FramesDropped, FramesReceived, LinkDown, WireEvent


class Clock(Protocol):
    """now: seconds, monotonic, from an arbitrary start."""

    def now(self) -> float: ...


class Transport(Protocol):
    """Links to peers. A peer is its public key (32 bytes)."""

    def dial(self, peer: bytes, address: str, connect_s: float) -> None: ...
    def try_address(self, peer: bytes, address: str) -> None: ...
    def hang_up(self, peer: bytes) -> None: ...
    def send(self, peer: bytes, frames: Sequence[bytes], kind: str) -> bool: ...


class Workers(Protocol):
    """Whoever owns the parameters. Takes trainer effects; answers come back as inputs."""

    def submit(self, effect: ev.Effect) -> None: ...


class Engine:
    """One node, its ports, and the loop between them."""

    def __init__(
        self,
        node: Node,
        spec_hash: bytes,
        *,
        clock: Clock,
        transport: Transport,
        workers: Workers,
        ledger: Ledger,
        observe: Observer,
        verify: Callable[[Command], bool] = lambda command: False,
    ) -> None:
        """verify: is this command the owner's, for this swarm? A swarm without an owner believes nobody."""
        self.node = node
        self.finished: str | None = None  # the reason, once the node is done
        self._spec_hash = spec_hash
        self._clock = clock
        self._transport = transport
        self._ledger = ledger
        self._observe = observe
        self._verify = verify
        self._checks = Checks()
        on_trainer: Callable[[Any], None] = workers.submit
        self._execute: dict[type, Callable[[Any], None]] = {
            ev.Dial: lambda e: transport.dial(e.peer, e.address, e.connect_s),
            ev.TryAddress: lambda e: transport.try_address(e.peer, e.address),
            ev.HangUp: lambda e: transport.hang_up(e.peer),
            ev.Send: self._send,
            ev.SendPayload: self._send_payload,
            ev.SaveCheckpoint: lambda e: workers.submit(ev.SaveCheckpoint(self.notes(e.notes))),
            ev.MeasureTraffic: self._measure_traffic,
            ev.Emit: lambda e: observe(e.name, e.fields),
            ev.Finish: self._finish,
            **dict.fromkeys(
                (
                    ev.StartTraining, ev.StopTraining, ev.SetProgress, ev.SetLearningRate, ev.SetPeriod, ev.SetBatch,
                    ev.PickBlocks, ev.Respond, ev.Apply, ev.GiveUp, ev.Forget, ev.ReadFragment, ev.LoadFragment,
                    ev.CompareDonors, ev.TakeFragments, ev.DropFragments, ev.Evaluate,
                ),
                on_trainer,
            ),
        }  # fmt: skip

    def start(self) -> None:
        self._do(self.node.start(self._clock.now()))

    def handle(self, event: ev.Input) -> None:
        self._do(self.node.handle(event, self._clock.now()))

    def on_transport(self, event: WireEvent) -> None:
        """What the transport saw: links as they are, frames parsed first."""
        if isinstance(event, FramesReceived):
            self._on_frames(event.peer, event.frames)
        elif isinstance(event, FramesDropped):
            peer = event.peer.hex()[:8] if event.peer else "a stranger"
            self._observe("frames_dropped", {"peer": peer, "code": event.code, "count": event.count})
        else:
            if isinstance(event, LinkDown):
                self._checks.forget(event.peer)
            self.handle(event)

    def tick_if_due(self) -> None:
        if self._clock.now() >= self.node.next_deadline():
            self.handle(ev.Tick())

    def seconds_to_deadline(self) -> float:
        return max(0.0, self.node.next_deadline() - self._clock.now())

    def notes(self, notes: dict[str, Any] | None = None) -> dict[str, Any]:
        """The node's notes (or these, taken of it) and the ledger's: what a restart wants to know again."""
        return {**(self.node.notes(self._clock.now()) if notes is None else notes), "ledger": self._ledger.notes()}

    def _do(self, effects: list[ev.Effect]) -> None:
        for effect in effects:
            self._execute[type(effect)](effect)

    def _on_frames(self, peer: bytes, frames: tuple[bytes, ...]) -> None:
        try:
            event = self._parsed(peer, frames)
        except PeerError as error:
            self._observe("message_refused", {"peer": peer.hex()[:8], "code": error.code, "why": str(error)})
            return
        self.handle(event)

    def _parsed(self, peer: bytes, frames: tuple[bytes, ...]) -> ev.Input:
        match frames:
            case (frame,):
                message = wire.decode_message(frame)
                if isinstance(message, Command):
                    self._check(peer, message)
                return ev.MessageReceived(peer, message)
            case (header, body):
                return ev.PayloadReceived(peer, wire.decode_header(header, self._spec_hash), body)
        raise PeerError("DECODE_FAILED", f"message of {len(frames)} frames, expected 1 or 2")

    def _check(self, peer: bytes, command: Command) -> None:
        """Raises PeerError unless the owner signed it. One that would change nothing is not worth a look."""
        if not self.node.commands.is_news(command):
            return
        what = f"command {command.sequence}, {command.name!r}"
        if not self._checks.take(peer, self._clock.now()):
            raise PeerError("TOO_MANY_COMMANDS", f"{what}: this peer had its share of signatures checked")
        if not self._verify(command):
            raise PeerError("BAD_SIGNATURE", f"{what}: not signed by this swarm's owner for this swarm")

    def _send(self, effect: ev.Send) -> None:
        frame = wire.encode_message(effect.message)
        if not self._transport.send(effect.peer, (frame,), wire.kind_of_message(effect.message)):
            name = type(effect.message).__name__
            self._observe("send_dropped", {"peer": effect.peer.hex()[:8], "message": name})

    def _send_payload(self, effect: ev.SendPayload) -> None:
        header = wire.encode_header(effect.header, self._spec_hash)
        if not self._transport.send(effect.peer, (header, effect.body), wire.kind_of_payload(effect.header.kind)):
            name = effect.header.kind.name.lower()
            self._observe("send_dropped", {"peer": effect.peer.hex()[:8], "message": name})

    def _measure_traffic(self, effect: ev.MeasureTraffic) -> None:
        self.handle(ev.Traffic(self._ledger.total_bytes("sent"), self._ledger.total_bytes("received")))

    def _finish(self, effect: ev.Finish) -> None:
        self.finished = effect.reason
