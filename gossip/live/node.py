"""One live node from start to end: keys, links, data, trainer, engine, and what it leaves behind.

The loop belongs to the main thread, which owns every socket: transport events and the workers'
answers go into the engine, the engine's effects go out through its ports.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import random
import secrets
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from gossip import spec, wire
from gossip.addresses import NONE
from gossip.codec.body import Encoded
from gossip.data.partition import shard_of_key
from gossip.data.store import load_dataset
from gossip.engine import Engine
from gossip.errors import GossipError, NetworkError, SpecError
from gossip.ledger import Ledger
from gossip.live.join import join_swarm
from gossip.live.security import KeyPair, Welcome, load_or_create_keys
from gossip.live.tickets import SEEDS_MAX, mint, parse_ticket, swarm_id
from gossip.live.transport import ZmqTransport
from gossip.live.workers import LiveWorkers
from gossip.models.model import Model, build_model
from gossip.observe import Console, EventLog
from gossip.owner import OwnerKey, SwarmName, verifier
from gossip.protocol import events as ev
from gossip.protocol.node import Node, NodeSettings
from gossip.runs import RunFolder
from gossip.spec import Experiment
from gossip.swarmfile import Door, SwarmFile, write_swarm_file
from gossip.training import mixer
from gossip.training.trainer import Trainer
from gossip.training.work import Work
from gossip.units import bytes_per_s_of

LAST_LOOK_S = 0.5  # a node that was told to stop evaluates for this long at most
REST_S = 1.0  # and waits this long for a step in hand: a large batch must not hold up Ctrl-C
SHOW_CURSOR = b"\x1b[?25h"  # the live table hid it


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """What the command line decides for this one node."""

    listen: str
    advertise: str = ""
    ticket: str = ""  # "" starts a new swarm
    shard: int | None = None
    data_dir: str = ""
    upload: str = ""
    key_file: Path | None = None
    run_dir: Path | None = None
    name: str = "node"
    follow: bool = False  # the end of standard input ends the node


def run_node(experiment: Experiment | None, options: NodeOptions, console: Console) -> dict[str, Any]:
    """Run a node to the end of its run and return its result. Raises GossipError, one line.

    experiment: None takes the swarm's own, which needs a ticket.
    """
    ledger = Ledger()
    keys = load_or_create_keys(options.key_file) if options.key_file else KeyPair.new()
    advertise = NONE if options.listen == NONE else options.advertise
    transport = ZmqTransport(keys, ledger, advertise=advertise, kind_of=wire.kind_of_frames)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(_StopButton())
        try:
            if options.follow:
                transport.watch(sys.stdin.fileno(), lambda: _on_standard_input(stop))
            if options.listen != NONE:
                transport.listen(options.listen)
            entry = _enter(transport, experiment, options.ticket)
            run = RunFolder.create(entry.experiment, options.run_dir)
            if entry.owner_key is not None:
                entry.owner_key.save(run.owner_key)
            _remember(run, entry, transport)
            events = run.open_events()
            stack.callback(_close, events)
            observe = EventLog(events, options.name, time.time, console)
            node = _LiveNode(entry, options, transport, ledger, run, observe, console, stop)
            node.run()
        finally:
            transport.close()  # lets the goodbyes out
        result = node.result()
    if result["outcome"] == "failed":
        raise GossipError(f"{result['why']}; what happened is in {run.events}")
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What a node holds once it is in a swarm."""

    experiment: Experiment
    swarm_key: bytes
    seeds: tuple[tuple[str, bytes], ...]  # (HOST:PORT, public key) of those who let us in; none: we are the first
    owner_key: OwnerKey | None = None  # where we founded a swarm whose spec names no owner

    @property
    def swarm(self) -> SwarmName:
        return SwarmName(self.experiment.hash, swarm_id(self.swarm_key))


def _enter(transport: ZmqTransport, experiment: Experiment | None, ticket_text: str) -> _Entry:
    """Join the ticket's swarm, or begin our own."""
    if ticket_text:
        ticket = parse_ticket(ticket_text)
        welcome = join_swarm(transport, ticket, spec=experiment.canonical() if experiment else b"")
        experiment = _the_swarms(experiment, welcome)
        return _Entry(experiment=experiment, swarm_key=welcome.swarm_key, seeds=ticket.seeds)
    if experiment is None:
        raise SpecError("expected an experiment file, or --join TICKET to take the swarm's")
    if not transport.address:
        raise NetworkError("a node that nobody can dial cannot begin a swarm: let it --join TICKET, or listen")
    swarm_key = secrets.token_bytes(32)
    owner_key = None if experiment.owner else OwnerKey.new()
    if owner_key is not None:
        experiment = experiment.owned_by(owner_key.public)
    transport.become_member(swarm_key, experiment.canonical())
    return _Entry(experiment=experiment, swarm_key=swarm_key, seeds=(), owner_key=owner_key)


def _remember(run: RunFolder, entry: _Entry, transport: ZmqTransport) -> None:
    """What lets this machine talk to the swarm later on. Raises SpecError."""
    content = SwarmFile(
        swarm_id=swarm_id(entry.swarm_key).hex(), swarm_key=entry.swarm_key.hex(),
        spec_hash=entry.experiment.hash.hex(), key=transport.key.hex(), address=transport.address,
        seeds=tuple(Door(address, key.hex()) for address, key in entry.seeds),
    )  # fmt: skip
    try:
        write_swarm_file(run.path, content)
    except OSError as error:
        raise SpecError(f"{run.path}: cannot be written ({error.strerror}); make room or choose another") from error


def _the_swarms(brought: Experiment | None, welcome: Welcome) -> Experiment:
    """The experiment we were let in with. Of a file we brought [node] stays. Raises NetworkError, SpecError."""
    if brought is not None and not welcome.spec:
        return brought
    swarms = spec.from_canonical(welcome.spec)
    if brought is None:
        return swarms
    owned = brought.owned_by(swarms.owner)
    if owned.hash != swarms.hash or brought.owner:
        raise NetworkError(
            f"could not join: BAD_SPEC, the swarm sent experiment {swarms.hash.hex()} and not the one we brought; "
            "join without a spec to take it"
        )
    return owned


class _LiveNode:
    """A node that has entered its swarm."""

    def __init__(
        self,
        entry: _Entry,
        options: NodeOptions,
        transport: ZmqTransport,
        ledger: Ledger,
        run: RunFolder,
        observe: EventLog,
        console: Console,
        stop: _StopButton,
    ) -> None:
        self.entry, self.experiment, self.options = entry, entry.experiment, options
        self.transport, self.ledger, self.folder = transport, ledger, run
        self.observe, self.console, self.stop = observe, console, stop
        self.inbox: queue.SimpleQueue[ev.Input] = queue.SimpleQueue()

    def run(self) -> None:
        """From its first words to its goodbye."""
        key, shard = self.transport.key.hex()[:8], self._shard()
        self.observe("started", {"key": key, "address": self.transport.address, "shard": shard, "pid": os.getpid()})
        self.model, self.trainer = self._prepare(shard)
        self.workers = LiveWorkers(
            self.trainer, Work(self.trainer, self._on_encoded), self.experiment.exchange.every_steps_first, self._post
        )
        self.engine = self._engine()
        self.stop.arm(self.transport.wake)
        # Not before we can answer who comes with it.
        self.console.say(f"gossip node --join {self._ticket()}")
        try:
            self.engine.start()
            self._loop()
        finally:
            self.has_rested = self.workers.close(REST_S if self.stop.reason is not None else None)

    # -- Before --------------------------------------------------------------------------------------

    def _shard(self) -> int:
        shards = self.experiment.data.shards
        if self.options.shard is None:
            return shard_of_key(self.transport.key, self.experiment.seed, shards)
        if self.options.shard >= shards:
            raise SpecError(f"--shard {self.options.shard}: this experiment has shards 0 to {shards - 1}")
        return self.options.shard

    def _ticket(self) -> str:
        """What lets others in: any member can mint, and names the ones it came by as further doors."""
        own = [(self.transport.address, self.transport.key)] if self.transport.address else []
        return mint(self.entry.swarm_key, [*own, *self.entry.seeds][:SEEDS_MAX], now=time.time()).text()

    def _prepare(self, shard: int) -> tuple[Model, Trainer]:
        """Data, model and compiled kernels."""
        experiment = self.experiment
        dataset = load_dataset(experiment.recipe, self.options.data_dir or experiment.node.data_dir)
        indices = experiment.partition.shard(
            dataset.train_labels, len(experiment.recipe.classes), experiment.data.shards, shard, experiment.seed
        )
        model = build_model(experiment.layers, experiment.recipe.mean, experiment.recipe.std)
        order_seed = int.from_bytes(self.transport.key[:4], "big")
        trainer = Trainer(experiment.train, experiment.seed, model, dataset, indices, order_seed=order_seed)
        mixer.warm_up()
        self.observe("prepared", {"parameters": model.dim, "train_samples": len(indices)})
        return model, trainer

    def _engine(self) -> Engine:
        experiment = self.experiment
        settings = NodeSettings(
            key=self.transport.key,
            address=self.transport.address,
            seeds=tuple((key, address) for address, key in self.entry.seeds),
            fragments=self.trainer.fragments,
            samples_total=experiment.train.samples,
            time_s=experiment.train.time_s,
            target_accuracy=experiment.train.target_accuracy,
            plateau=experiment.train.plateau,
            every_steps=experiment.exchange.every_steps_first,
            blocks=experiment.exchange.blocks_first,
            average_momentum=experiment.exchange.momentum,
            momentum=experiment.train.momentum,
            is_every_free=experiment.exchange.every_steps == "auto",
            are_blocks_free=experiment.exchange.blocks == "auto",
            is_batch_free=experiment.train.batch == "auto",
            batch=experiment.train.batch_first,
            parameters=self.model.dim,
            upload_bytes_per_s=self._upload(),
        )
        return Engine(
            Node(settings, random.Random(secrets.randbits(64))),
            experiment.hash,
            clock=_MonotonicClock(),
            transport=self.transport,
            workers=self.workers,
            ledger=self.ledger,
            observe=self.observe,
            verify=verifier(experiment.owner, self.entry.swarm),
        )

    def _upload(self) -> float:
        """The cap in bytes per second; the command line wins over the file. Raises SpecError."""
        text = self.options.upload or self.experiment.node.upload
        return bytes_per_s_of(text) if text else math.inf

    # -- Meanwhile -----------------------------------------------------------------------------------

    def _loop(self) -> None:
        while self.engine.finished is None:
            for event in self.transport.poll(self.engine.seconds_to_deadline()):
                self.engine.on_transport(event)
            while not self.inbox.empty():
                self.engine.handle(self.inbox.get())
            if self.workers.failure is not None:
                raise self.workers.failure
            if self.stop.reason is not None:
                self.engine.handle(ev.StopRequested(self.stop.reason))
            self.engine.tick_if_due()

    def _post(self, event: ev.Input) -> None:
        """An answer of the workers, from their threads."""
        self.inbox.put(event)
        self.transport.wake()

    def _on_encoded(self, encoded: Encoded) -> None:
        for kind, raw_bytes, wire_bytes in encoded.parts:
            self.ledger.record_gain(kind, raw_bytes, wire_bytes)

    # -- After ---------------------------------------------------------------------------------------

    def result(self) -> dict[str, Any]:
        """Look at all held-out samples, save the model, and say how it went."""
        trainer, exchanges = self.trainer, self.engine.node.exchanges
        # With a step still in hand there is no looking: x is somewhere between two steps, which is good enough to
        # save, and the last accuracy we told the swarm is what we know.
        told = self.engine.node.membership.status.accuracy
        accuracy, looked_at = _last_look(trainer, self.stop) if self.has_rested else (max(0.0, told), 0)
        traffic = self.ledger.totals()
        result = {
            "id": self.options.name,
            "outcome": self._outcome(),
            "why": self.engine.finished,
            "steps": trainer.steps,
            "samples": trainer.samples,
            "swarm_samples": self.engine.node.progress.samples,
            "accuracy": accuracy,
            "looked_at": looked_at,
            "bytes_sent": self.ledger.total_bytes("sent"),
            "bytes_received": self.ledger.total_bytes("received"),
            "bytes_by_kind": {
                kind: {way: traffic[way][kind].bytes if kind in traffic[way] else 0 for way in traffic}
                for kind in sorted({*traffic["sent"], *traffic["received"]})
            },
            "lz4_gain_by_kind": {kind: {"raw": g.raw, "stored": g.stored} for kind, g in self.ledger.gains().items()},
            "exchanges": exchanges.completed,
            "exchanges_failed": exchanges.failed,
            "longest_gap_s": round(self.workers.longest_gap_s, 4),
            "blocks_failed_share": round(trainer.mixer.statistics().failed_share_recent, 4),
        }
        if trainer.steps and trainer.is_finite():
            self.folder.save_model(self.model, trainer.x, self.experiment)
        self.folder.note(result=result)
        self.observe("finished", result)
        return result | {"run": str(self.folder.path)}

    def _outcome(self) -> str:
        """finished: with the swarm. left: earlier, in order. failed: its training went wrong."""
        if self.workers.has_diverged:
            return "failed"
        is_over = self.engine.node.settling.has_begun and self.engine.finished != self.stop.reason
        return "finished" if is_over else "left"


def _close(events: TextIO) -> None:
    with contextlib.suppress(OSError):  # what a full disk did not take was said when it happened
        events.close()


def _last_look(trainer: Trainer, stop: _StopButton) -> tuple[float, int]:
    """(accuracy, held-out samples looked at): all of them, or as many as there is time for when told to stop."""
    began = time.monotonic()
    right = looked_at = 0.0
    for part in trainer.evaluate_in_slices():
        right += part.accuracy * len(part.predictions)
        looked_at += len(part.predictions)
        if stop.reason is not None and time.monotonic() > began + LAST_LOOK_S:
            break
    return right / max(1.0, looked_at), int(looked_at)


class _MonotonicClock:
    @staticmethod
    def now() -> float:
        return time.monotonic()


def _on_standard_input(stop: _StopButton) -> None:
    """Whoever started us holds the other end: with it gone, so are we."""
    if not os.read(sys.stdin.fileno(), 4096):
        stop.press("the launcher is gone")


class _StopButton:
    """SIGINT and SIGTERM. Until armed they end the process at once, wherever it is: there is nothing to save."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._wake: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _StopButton:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def arm(self, wake: Callable[[], None]) -> None:
        """From now on the first signal asks for an orderly end, and a second one ends the process at once."""
        self._wake = wake
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}

    def press(self, reason: str) -> None:
        """Ask for an orderly end. Raises NetworkError while there is nothing to end in order."""
        self.reason = self.reason or reason
        if self._wake is None:
            raise NetworkError(f"{reason}: this node had not begun")
        self._wake()

    def _on_signal(self, number: int, frame: object) -> None:
        if self.reason is not None:
            os.write(2, SHOW_CURSOR + b"\nstopped at once\n" if os.isatty(2) else b"stopped at once\n")
            os._exit(128 + number)
        self.press(f"stopped by {signal.Signals(number).name}")
