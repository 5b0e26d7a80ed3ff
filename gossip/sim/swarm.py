"""A swarm in virtual time: the very Node and Engine that ship, on simulated ports.

What is under test is real, what is simulated is only what surrounds it: clock, network, durations.
Invariants are checked after every event.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gossip import wire
from gossip.engine import Engine, Workers
from gossip.errors import InvariantError
from gossip.ledger import Ledger
from gossip.owner import OwnerKey, SwarmName, verifier
from gossip.protocol import events as ev
from gossip.protocol.invariants import check
from gossip.protocol.messages import Message, Status
from gossip.protocol.node import Node, NodeSettings
from gossip.protocol.resuming import Resumed
from gossip.protocol.wire_events import FramesReceived, WireEvent
from gossip.sim.idle import Disk, IdleWorkers, Pace
from gossip.sim.network import Network, NetworkModel
from gossip.sim.world import World

SPEC_HASH = b"simulate"
SWARM = SwarmName(SPEC_HASH, b"a swarm.")


@dataclass(slots=True)
class SimNode:
    """One simulated node and what it said."""

    name: str
    key: bytes
    engine: Engine
    disk: Disk
    events: list[tuple[float, str, dict[str, Any]]] = field(default_factory=list)
    alive: bool = True
    wakes_at: float = math.inf
    paused: bool = False
    backlog: list[Callable[[SimNode], None]] = field(default_factory=list)  # what happened meanwhile

    @property
    def node(self) -> Node:
        return self.engine.node

    def said(self, name: str) -> list[dict[str, Any]]:
        """The fields of every event of that name, in order."""
        return [fields for _, event, fields in self.events if event == name]


@dataclass(frozen=True, slots=True, kw_only=True)
class SwarmSettings:
    """What all simulated nodes share."""

    samples_total: int = 10**9
    time_s: float = math.inf
    target_accuracy: float = 0.0
    plateau: int = 0
    batch: int = 32
    every_steps: int = 8
    blocks: float = 0.25
    average_momentum: str = "off"
    momentum: float = 0.0
    is_pace_free: bool = False  # every_steps and blocks are where "auto" begins
    is_batch_free: bool = False
    fragments: int = 4
    checkpoint_every_s: float = 5.0


MakeWorkers = Callable[[str, Pace, Callable[[ev.Input], None]], Workers]


class Swarm:
    """Adds, kills and stops nodes; plays time."""

    def __init__(self, seed: int, settings: SwarmSettings | None = None, network: NetworkModel | None = None) -> None:
        self.seed = seed
        self.settings = settings or SwarmSettings()
        self.world = World(seed)
        self.network = Network(self.world, network or NetworkModel())
        self.nodes: dict[str, SimNode] = {}
        self.addresses: dict[str, str] = {}  # of those that advertise anything but NAME:7700
        self.owner = OwnerKey(hashlib.sha256(f"{seed} owner".encode()).digest())

    def add(
        self,
        name: str,
        seeds: tuple[str, ...] = (),
        pace: Pace | None = None,
        make_workers: MakeWorkers | None = None,
    ) -> SimNode:
        """Start a node. Without seeds it is the first of its swarm."""
        known = tuple((self.nodes[seed].key, self.address_of(seed)) for seed in seeds)
        return self._start(name, known, pace or Pace(), make_workers, incarnation=0, disk=Disk())

    def restart(
        self, name: str, *, pace: Pace | None = None, has_disk: bool = True, make_workers: MakeWorkers | None = None
    ) -> SimNode:
        """The same node again, after a kill or a stop: it knows whom it knew, and, `has_disk`, its last checkpoint."""
        before = self.nodes[name]
        self.network.crash(before.key)
        known = tuple((member.key, member.address) for member in before.node.membership.members.values())
        incarnation = before.node.settings.incarnation + 1
        disk = before.disk if has_disk else None
        return self._start(name, known, pace or Pace(), make_workers, incarnation=incarnation, disk=disk)

    def _start(
        self,
        name: str,
        seeds: tuple[tuple[bytes, str], ...],
        pace: Pace,
        make_workers: MakeWorkers | None,
        *,
        incarnation: int,
        disk: Disk | None,
    ) -> SimNode:
        """disk: None for a node that comes back with nothing but its key."""
        key = hashlib.sha256(f"{self.seed} {name}".encode()).digest()
        address = self.address_of(name)
        is_back = incarnation > 0 and disk is not None
        disk = disk or Disk()
        settings = NodeSettings(
            key=key,
            address=address,
            seeds=seeds,
            fragments=self.settings.fragments,
            samples_total=self.settings.samples_total,
            time_s=self.settings.time_s,
            target_accuracy=self.settings.target_accuracy,
            plateau=self.settings.plateau,
            every_steps=self.settings.every_steps,
            blocks=self.settings.blocks,
            average_momentum=self.settings.average_momentum,
            momentum=self.settings.momentum,
            incarnation=incarnation,
            checkpoint_every_s=self.settings.checkpoint_every_s,
            resumed=Resumed(steps=disk.steps, samples=disk.samples, notes=disk.notes) if is_back else None,
            is_every_free=self.settings.is_pace_free,
            are_blocks_free=self.settings.is_pace_free,
            is_batch_free=self.settings.is_batch_free,
            batch=self.settings.batch,
            parameters=2 * pace.offer_bytes,  # 4 bits each
            upload_bytes_per_s=pace.upload_bytes_per_s,
        )
        rng = random.Random(int.from_bytes(key[:8], "big") + incarnation)
        make = make_workers or self._idle_workers(disk)
        events: list[tuple[float, str, dict[str, Any]]] = []
        # What a former life still has coming goes to that life, which is deaf.
        workers = make(name, pace, lambda event: self._on(node, lambda node: node.engine.handle(event)))
        ledger = Ledger()
        if is_back and disk.notes:
            ledger.restore(disk.notes["ledger"])
        transport = self.network.attach(key, address, ledger, lambda event: self._on_transport(node, event))
        engine = Engine(
            Node(settings, rng),
            SPEC_HASH,
            clock=self.world,
            transport=transport,
            workers=workers,
            ledger=ledger,
            observe=lambda event, fields: events.append((self.world.now(), event, fields)),
            verify=verifier(self.owner.public, SWARM),
        )
        node = self.nodes[name] = SimNode(name, key, engine, disk, events)
        self._on(node, lambda node: node.engine.start())
        return node

    def address_of(self, name: str) -> str:
        return self.addresses.get(name, f"{name}:7700")

    def kill(self, name: str) -> None:
        """kill -9: no goodbye."""
        self.nodes[name].alive = False
        self.network.crash(self.nodes[name].key)

    def stop(self, name: str) -> None:
        """Ctrl-C: the node says goodbye."""
        self._on(self.nodes[name], lambda node: node.engine.handle(ev.StopRequested("asked to")))

    def tell(self, name: str, message: Message, sender: bytes = bytes(32)) -> None:
        """A message from outside the swarm, as the owner's client sends it: over a link that tells of no member."""
        self._on_transport(self.nodes[name], FramesReceived(sender, (wire.encode_message(message),)))

    def pause(self, name: str, seconds: float) -> None:
        """The process stands still (SIGSTOP, a swapping machine); nothing is lost, all is late."""
        node = self.nodes[name]
        node.paused = True
        self.world.after(seconds, lambda: self._resume(node))

    def lie(self, name: str, lie: Callable[[Status], Status]) -> None:
        """From now on this node tells of itself what `lie` makes of its status; what it says of others stays true."""
        key = self.nodes[name].key
        self.network.malice[key] = lambda frames: _with_own_status(frames, key, lie)

    def cut(self, left: tuple[str, ...], right: tuple[str, ...]) -> None:
        """A partition between two groups."""
        for a in left:
            for b in right:
                self.network.cut(self.nodes[a].key, self.nodes[b].key)

    def alive(self) -> list[SimNode]:
        return [node for node in self.nodes.values() if node.alive]

    def run(self, seconds: float, stop: Callable[[], bool] = lambda: False) -> bool:
        """Play for `seconds` of virtual time at most; True as soon as `stop()` holds."""
        return self.world.run(self.world.now() + seconds, stop)

    def views_agree(self) -> bool:
        """Does every living node hold exactly the other living ones for alive?"""
        living = [node.key for node in self.alive()]
        return all(
            sorted(member.key for member in node.node.membership.alive())
            == sorted(key for key in living if key != node.key)
            for node in self.alive()
        )

    # -- How it is done ------------------------------------------------------------------------------

    def _idle_workers(self, disk: Disk) -> MakeWorkers:
        every_steps, batch = self.settings.every_steps, self.settings.batch
        return lambda name, pace, deliver: IdleWorkers(self.world, every_steps, batch, pace, deliver, disk)

    def _on_transport(self, node: SimNode, event: WireEvent) -> None:
        self._on(node, lambda node: node.engine.on_transport(event))

    def _on(self, node: SimNode, act: Callable[[SimNode], None]) -> None:
        """Let a living node do something, check it, see to its end, and wake it at its next deadline."""
        if not node.alive:
            return
        if node.paused:
            node.backlog.append(act)
            return
        act(node)
        check(node.node)
        if node.engine.finished is not None:
            node.alive = False
            self.world.after(0.5, lambda: self._end(node))  # lets the goodbyes out first
            return
        deadline = node.node.next_deadline()
        if deadline < node.wakes_at:
            node.wakes_at = deadline
            self.world.after(deadline - self.world.now(), lambda: self._tick(node))

    def _end(self, node: SimNode) -> None:
        if self.nodes[node.name] is node:  # it has not been started again meanwhile
            self.network.crash(node.key)

    def _tick(self, node: SimNode) -> None:
        if self.world.now() < node.wakes_at:
            return  # it was woken earlier, and sleeps again
        node.wakes_at = math.inf
        self._on(node, self._tick_if_due)

    def _tick_if_due(self, node: SimNode) -> None:
        node.engine.tick_if_due()
        if node.engine.finished is None and node.node.next_deadline() <= self.world.now():
            raise InvariantError(f"broken: a tick leaves nothing due (node {node.name} would spin)")

    def _resume(self, node: SimNode) -> None:
        node.paused = False
        backlog, node.backlog = node.backlog, []
        for act in backlog:
            self._on(node, act)


def _with_own_status(frames: Sequence[bytes], key: bytes, lie: Callable[[Status], Status]) -> Sequence[bytes]:
    """The same message, but for what its sender says of itself."""
    if len(frames) != 1:
        return frames
    message: Any = wire.decode_message(frames[0])
    if not hasattr(message, "updates"):
        return frames
    told = tuple(u if u.key != key else replace(u, status=lie(u.status)) for u in message.updates)
    return (wire.encode_message(replace(message, updates=told)),)
