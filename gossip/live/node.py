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
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip import beginning, wire
from gossip.addresses import NONE
from gossip.codec.body import Encoded
from gossip.cores import Cores
from gossip.data.partition import shard_of_key
from gossip.data.store import Dataset, load_dataset
from gossip.engine import Engine
from gossip.errors import GossipError, SpecError
from gossip.ledger import Ledger
from gossip.live.entering import (
    Entry,
    NodeOptions,
    as_before,
    enter,
    enter_again,
    listen,
    listens_at,
    move_in,
    to_remember,
)
from gossip.live.home import Addresses, find_home, new_keys
from gossip.live.keeping import Keeper
from gossip.live.stopping import StopButton, on_standard_input
from gossip.live.tickets import SEEDS_MAX, mint, parse_ticket
from gossip.live.transport import ZmqTransport
from gossip.live.workers import LiveWorkers
from gossip.models.model import Model
from gossip.observe import Console, EventFile, EventLog
from gossip.owner import verifier
from gossip.pidfile import PidFile
from gossip.protocol import events as ev
from gossip.protocol.node import Node, NodeSettings
from gossip.runs import RunFolder
from gossip.spec import Experiment
from gossip.training.building import model_of
from gossip.training.trainer import Trainer
from gossip.training.work import Work
from gossip.units import bytes_per_s_of
from gossip.warmup import warm_up

LAST_LOOK_S = 0.5  # a node that was told to stop evaluates for this long at most
REST_S = 1.0  # and waits this long for a step in hand: a large batch must not hold up Ctrl-C


def run_node(experiment: Experiment | None, options: NodeOptions, console: Console) -> dict[str, Any]:
    """Run a node to the end of its run and return its result. Raises GossipError, one line.

    experiment: None takes the swarm's own, with a ticket, or that of the run to go on with.
    """
    ledger = Ledger()
    ticket = parse_ticket(options.ticket) if options.ticket else None
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopButton())
        home = find_home(experiment, ticket, run_dir=options.run_dir, key_file=options.key_file, fresh=options.fresh)
        stack.callback(home.leave)
        past = home.past
        if past is not None:
            console.say(past.story())
            experiment, options = past.experiment, as_before(options, past)
        keys = past.keys if past else new_keys(options.key_file, options.run_dir)
        endpoint = listens_at(options, experiment)
        advertise = NONE if endpoint == NONE else options.advertise
        transport = ZmqTransport(keys, ledger, advertise=advertise, kind_of=wire.kind_of_frames)
        try:
            if options.follow:
                transport.watch(sys.stdin.fileno(), lambda: on_standard_input(stop))
            if past is not None:
                addresses = Addresses(past.run, past.swarm_now(ticket))
            listen(transport, endpoint, was_here=past is not None)
            entry = enter_again(transport, past, ticket) if past else enter(transport, experiment, ticket)
            dataset = load_dataset(entry.experiment.recipe, options.data_dir or entry.experiment.node.data_dir)
            if past is None:
                run = RunFolder.create(entry.experiment, options.run_dir)
                home.move_in(run)
                if entry.owner_key is not None:
                    entry.owner_key.save(run.owner_key)
                addresses = move_in(run, entry, keys, options)
                if not options.follow:  # a launcher's nodes are in its folder
                    console.say(f"begins in {run.path}")
            else:
                run = past.run
            stack.enter_context(PidFile(run.path))
            options.on_home(run.path)
            options = replace(options, name=options.name or "node")
            run.note(node=to_remember(options, transport.endpoint))
            events = run.open_events()
            stack.callback(_close, events)
            observe = EventLog(events, options.name, time.time, console)
            cores = stack.enter_context(Cores(entry.experiment.node.threads))
            node = _LiveNode(entry, options, dataset, transport, ledger, run, addresses, observe, console, stop, cores)
            node.run()
        finally:
            transport.close()  # lets the goodbyes out
        result = node.result()
    if result["outcome"] == "failed":
        raise GossipError(f"{result['why']}; what happened is in {run.events}")
    return result


class _LiveNode:
    """A node that has entered its swarm."""

    def __init__(
        self,
        entry: Entry,
        options: NodeOptions,
        dataset: Dataset,
        transport: ZmqTransport,
        ledger: Ledger,
        run: RunFolder,
        addresses: Addresses,
        observe: EventLog,
        console: Console,
        stop: StopButton,
        cores: Cores,
    ) -> None:
        self.entry, self.experiment, self.options, self.dataset = entry, entry.experiment, options, dataset
        self.transport, self.ledger, self.folder, self.addresses = transport, ledger, run, addresses
        self.observe, self.console, self.stop, self.cores = observe, console, stop, cores
        self.inbox: queue.SimpleQueue[ev.Input] = queue.SimpleQueue()

    def run(self) -> None:
        """From its first words to its goodbye."""
        key, shard = self.transport.key.hex()[:8], self._shard()
        started = {"key": key, "address": self.transport.address, "shard": shard, "pid": os.getpid()}
        self.observe("started", started | {"incarnation": self.entry.incarnation})
        self.model, self.trainer = self._prepare(shard)
        self.keeper = Keeper(
            self.folder,
            self.experiment,
            self.trainer,
            self.model,
            shard,
            node=f"{self.options.name}-{key}",
            observe=self.observe,
            wake=self.transport.wake,
        )
        self.resumed = self.keeper.restore(self.ledger) if self.entry.was_here else None
        self.workers = LiveWorkers(
            self.trainer,
            Work(self.trainer, self._on_encoded, self.keeper.save),
            self.experiment.exchange.every_steps_first,
            self._post,
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
        """Model, trainer and compiled kernels."""
        experiment, dataset = self.experiment, self.dataset
        warm_up(self.console.on_warm_up)
        indices = experiment.indices_of(shard, dataset.train_labels)
        model = model_of(experiment, self.cores.most())
        order_seed = int.from_bytes(self.transport.key[:4], "big")
        trainer = Trainer(experiment.train, experiment.seed, model, dataset, indices, order_seed=order_seed)
        if experiment.model.init_sha256 or experiment.model.freeze:
            self.observe("started_from", beginning.story(experiment.model, experiment.recipe, model))
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
            incarnation=self.entry.incarnation,
            checkpoint_every_s=experiment.node.checkpoint_every_s,
            resumed=self.resumed,
            average_momentum=experiment.exchange.momentum,
            momentum=experiment.train.shared_momentum,
            is_every_free=experiment.exchange.every_steps == "auto",
            are_blocks_free=experiment.exchange.blocks == "auto",
            is_batch_free=experiment.train.batch == "auto",
            batch=experiment.train.batch_first,
            parameters=self.trainer.frozen.exchanged,
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
            if job := self.addresses.look(self.engine.node, time.monotonic()):
                self.workers.on_saver(job)
            self.keeper.say()
            self.model.use_threads(self.cores.threads())

    def _post(self, event: ev.Input) -> None:
        """An answer of the workers, from their threads."""
        self.inbox.put(event)
        self.transport.wake()

    def _on_encoded(self, encoded: Encoded) -> None:
        for kind, raw_bytes, wire_bytes in encoded.parts:
            self.ledger.record_gain(kind, raw_bytes, wire_bytes)

    # -- After ---------------------------------------------------------------------------------------

    def result(self) -> dict[str, Any]:
        """Save everything, look at all held-out samples, and say how it went."""
        has_state = self.engine.node.life.has_state
        if self.has_rested:
            self.trainer.end_loading(is_whole=has_state)
        if self.trainer.steps and not self.workers.has_diverged:
            self.keeper.save_last(self.engine.notes(), self._why_not_saved())
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
        is_good = trainer.steps and trainer.is_finite() and (self.has_rested or has_state)
        result = self._left_behind(result, trainer.x if is_good else None)
        self.observe("finished", result)  # before the copy outside: who waits for our result need not wait for that
        self.keeper.back_up_last(lambda: self.stop.pressed_at)
        return result | {"run": str(self.folder.path)}

    def _left_behind(self, result: dict[str, Any], x: NDArray[np.float32] | None) -> dict[str, Any]:
        """The model and the result, in the run's folder. A run whose model the disk did not take has failed."""
        try:
            if x is not None:
                self.folder.save_model(self.model, x, self.experiment)
            self.folder.note(result=result)
        except SpecError as error:
            return result | {"outcome": "failed", "why": str(error)}
        return result

    def _why_not_saved(self) -> str:
        if not self.engine.node.life.has_state:
            return "the swarm's state has not come whole, and ours is on the disk"
        if not self.has_rested:
            return "a step is still in hand"
        return "the disk is still busy with the one before" if self.workers.is_still_saving else ""

    def _outcome(self) -> str:
        """finished: with the swarm. left: earlier, in order. failed: its training went wrong."""
        if self.workers.has_diverged:
            return "failed"
        is_over = self.engine.node.life.settling.has_begun and self.engine.finished != self.stop.reason
        return "finished" if is_over else "left"


def _close(events: EventFile) -> None:
    with contextlib.suppress(OSError):  # what a full disk did not take was said when it happened
        events.close()


def _last_look(trainer: Trainer, stop: StopButton) -> tuple[float, int]:
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
