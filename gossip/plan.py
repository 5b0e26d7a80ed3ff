"""What a run will cost a node: memory, disk, traffic and time, from its file and a few seconds of the real thing.

Two trainers in this process step on their own shards of the real data and exchange with each other, through the very
codec the nodes use; the pace is what protocol/pacing.py decides from what is measured. Everything else is arithmetic,
and printed as such.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from gossip.checkpoint import KEPT
from gossip.codec.answer import decode_answer, encode_answer
from gossip.codec.request import decode_request, encode_request
from gossip.data.store import Dataset, load_dataset
from gossip.errors import SpecError
from gossip.ledger import HEARTBEAT_BYTES, HEARTBEAT_INTERVAL_S, message_bytes
from gossip.models.model import Model
from gossip.observe import EVENTS_PER_S_MAX, FILE_BYTES_MAX, OLDER_KEPT
from gossip.protocol.exchange import OPEN_MAX
from gossip.protocol.membership import PROBE_INTERVAL_S
from gossip.protocol.messages import UPDATES_MAX
from gossip.protocol.momentum import momentum_is_wanted
from gossip.protocol.pacing import FIXED_SHARE, Decision, Figures, decide
from gossip.spec import Experiment
from gossip.training.building import model_of
from gossip.training.trainer import Trainer
from gossip.units import bytes_per_s_of
from gossip.warmup import warm_up

MEASURE_S = 5.0
ROUND_TRIP_S = 0.04  # two homes on one continent
LINKS = 8  # a node wants so many
HEADER = bytes(26)  # what precedes a payload's body; its length is what counts
PROBE_BYTES, UPDATE_BYTES = 45, 105  # of a ping or its answer, and for each member it tells of: measured
EVENT_BYTES = 220
NODE_BYTES = 25e6  # sockets, threads and looks, beyond what this process holds: nodes of both MNIST files took 24 to 28
LOOK_SHARE = 0.02  # of a node's time goes into looking at held-out samples
WARM_UP_EXCHANGES = 4
BUSY = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Seconds are of this machine's CPU; bytes are of one exchange, as they go over TCP."""

    step_s: float
    slowdown: float  # how much longer a step took by the clock: what else runs here, now
    exchange_s: float  # both sides, all of it
    on_trainer_s: float  # both sides, the part that training waits for
    offer_bytes: float
    answer_bytes: float
    blocks: float  # share of the model these exchanges offered
    steps: int
    exchanges: int


def plan(
    experiment: Experiment, *, nodes: int, data_dir: str = "", upload: str = "", round_trip_s: float = ROUND_TRIP_S,
    seconds: float = MEASURE_S,
) -> dict[str, Any]:  # fmt: skip
    """The forecast, as plain data for --json. Raises GossipError."""
    warm_up()
    bare = psutil.Process().memory_info().rss
    dataset = load_dataset(experiment.recipe, data_dir or experiment.node.data_dir)
    model = model_of(experiment)
    trainers = [_trainer(experiment, model, dataset, number) for number in range(2)]
    text = upload or experiment.node.upload
    cap = bytes_per_s_of(text) if text else float("inf")
    found = _measure(trainers, experiment, seconds / 2, experiment.exchange.blocks_first, 8)
    pace = _pace(experiment, found, round_trip_s, cap)
    found = _measure(trainers, experiment, seconds / 2, pace.blocks, pace.every_steps)
    pace = _pace(experiment, found, round_trip_s, cap)
    arrays = sum(array.nbytes for array in trainers[0].state_in_place().arrays.values())
    working = arrays + trainers[0].gradient.nbytes
    data = dataset.nbytes
    traffic = _traffic(found, pace, nodes, cap, _latency_s(found, round_trip_s))
    memory = {
        "bare": bare + int(NODE_BYTES), "data": data, "working": working, "checkpoint": arrays,
        "exchanges": int(OPEN_MAX * 2 * (found.offer_bytes + found.answer_bytes)),
    }  # fmt: skip
    model_bytes = 4 * model.dim
    disk = {
        "data": sum(file.bytes for file in experiment.recipe.files) or data,
        "checkpoints": (KEPT + 1) * arrays, "model": model_bytes,
        "events_per_day": int(86_400 * EVENT_BYTES * min(3 * EVENTS_PER_S_MAX, 3 * traffic["exchanges_per_s"] + 2)),
        "events_max": (OLDER_KEPT + 1) * FILE_BYTES_MAX,
    }  # fmt: skip
    disk["total"] = disk["data"] + disk["checkpoints"] + disk["model"] + disk["events_max"]
    return {
        "name": experiment.name, "nodes": nodes, "parameters": model.dim, "cores": os.cpu_count() or 1,
        "load": round(os.getloadavg()[0], 2), "measured": {n: getattr(found, n) for n in found.__slots__},
        "pace": {"every_steps": pace.every_steps, "blocks": pace.blocks, "why": pace.why},
        "memory": memory | {"total": sum(memory.values()), "per_parameter": round((working + arrays) / model.dim, 1)},
        "disk": disk, "traffic": traffic, "time": _time(experiment, found, traffic, nodes),
    }  # fmt: skip


def _trainer(experiment: Experiment, model: Model, dataset: Dataset, number: int) -> Trainer:
    shards = experiment.data.shards
    indices = experiment.indices_of(number % shards, dataset.train_labels)
    return Trainer(experiment.train, experiment.seed, model, dataset, indices, order_seed=number)


# -- Measuring ------------------------------------------------------------------------------------------


def _measure(trainers: list[Trainer], experiment: Experiment, seconds: float, blocks: float, every: int) -> Measured:
    """Both step and exchange, as two nodes would, for so many seconds in all."""
    with_momentum = momentum_is_wanted(experiment.exchange.momentum, experiment.train.shared_momentum, every)
    clocks = {"wall": 0.0, "step": 0.0, "exchange": 0.0, "trainer": 0.0}
    offers: list[int] = []
    answers: list[int] = []
    own, peer = trainers
    steps, number = 0, sum(trainer.mixer.statistics().offers for trainer in trainers)
    began = time.perf_counter()
    while time.perf_counter() < began + seconds or len(offers) <= WARM_UP_EXCHANGES:
        for trainer in trainers:
            trainer.progress = 0.2  # past the warm-up: the steps of most of a run
            at, cpu_at = time.perf_counter(), time.thread_time()
            for _ in range(every):
                trainer.step()
            clocks["wall"] += time.perf_counter() - at
            clocks["step"] += time.thread_time() - cpu_at
            steps += every
            if not trainer.is_finite():
                raise SpecError(
                    f"{experiment.name}: it diverged after {trainer.steps} steps; lower train.learning_rate"
                )
        number += 1
        sizes = _exchange(own, peer, number, blocks, with_momentum, clocks)
        offers.append(sizes[0])
        answers.append(sizes[1])
        own, peer = peer, own
    return Measured(
        step_s=clocks["step"] / steps, slowdown=clocks["wall"] / clocks["step"],
        exchange_s=clocks["exchange"] / len(offers), on_trainer_s=clocks["trainer"] / len(offers),
        offer_bytes=float(np.mean(offers[WARM_UP_EXCHANGES:])),
        answer_bytes=float(np.mean(answers[WARM_UP_EXCHANGES:])),
        blocks=blocks, steps=steps, exchanges=len(offers),
    )  # fmt: skip


def _exchange(
    own: Trainer, peer: Trainer, number: int, blocks: float, with_momentum: bool, clocks: dict[str, float]
) -> tuple[int, int]:
    """One exchange through bytes. Returns what offer and answer cost on the wire."""
    began = at = time.thread_time()
    request = own.offer(number, blocks, False, with_momentum)
    picked_s = time.thread_time() - at
    assert request is not None, "x is finite and nothing is in flight"
    offer = encode_request(request, own.mixer.n_blocks).body
    asked = decode_request(offer, peer.mixer.n_blocks)
    at = time.thread_time()
    reply, _ = peer.respond(asked)
    mixed_s = time.thread_time() - at
    answer = encode_answer(reply).body
    taken = decode_answer(answer, own.blocks_offered(number), own.offered_momentum(number))
    at = time.thread_time()
    own.apply(number, taken)
    clocks["trainer"] += picked_s + mixed_s + time.thread_time() - at
    clocks["exchange"] += time.thread_time() - began
    return message_bytes((HEADER, offer)), message_bytes((HEADER, answer))


def _pace(experiment: Experiment, found: Measured, round_trip_s: float, cap: float) -> Decision:
    whole = (1 + FIXED_SHARE) / (found.blocks + FIXED_SHARE)
    figures = Figures(
        step_s=found.step_s, step_cpu_s=found.step_s, exchange_cpu_s=found.exchange_s / 2 * whole,
        round_trip_s=_latency_s(found, round_trip_s),
        whole_bytes=(found.offer_bytes + found.answer_bytes) / found.blocks,
        cap_bytes_per_s=cap,
    )  # fmt: skip
    every, blocks = experiment.exchange.every_steps, experiment.exchange.blocks
    return decide(figures, None if every == "auto" else every, None if blocks == "auto" else blocks)


# -- Arithmetic -----------------------------------------------------------------------------------------


def _latency_s(found: Measured, round_trip_s: float) -> float:
    """From an offer to its answer: the way, both sides' work, and on average half a step in hand on either side."""
    return round_trip_s + found.exchange_s + found.step_s


def _traffic(found: Measured, pace: Decision, nodes: int, cap: float, latency_s: float) -> dict[str, float]:
    """Bytes per second of one node. It begins as many exchanges as it answers: up and down are the same.

    An exchange is wanted every period of every_steps, and begun where one of the slots is free: a slot is taken for
    whole periods.
    """
    links = min(LINKS, nodes - 1)
    step_s = found.step_s + found.on_trainer_s / pace.every_steps * (nodes > 1)
    period_s = pace.every_steps * step_s
    periods = max(1.0, math.ceil(latency_s / period_s) / pace.slots)
    rate = 1 / (periods * period_s) if nodes > 1 else 0.0
    scale = pace.blocks / found.blocks
    exchange = rate * scale * (found.offer_bytes + found.answer_bytes)
    membership = 2 / PROBE_INTERVAL_S * (PROBE_BYTES + UPDATE_BYTES * min(UPDATES_MAX, nodes)) * (nodes > 1)
    heartbeat = links * HEARTBEAT_BYTES / HEARTBEAT_INTERVAL_S
    if exchange + membership + heartbeat > cap:
        allowed = max(0.0, cap - membership - heartbeat)
        rate, exchange = rate * allowed / exchange, allowed
    total = exchange + membership + heartbeat
    return {
        "step_s": step_s, "latency_s": latency_s, "exchanges_per_s": rate,
        "exchange_bytes": scale * (found.offer_bytes + found.answer_bytes),
        "exchange": exchange, "membership": membership, "heartbeat": heartbeat, "links": links,
        "up_per_s": total, "down_per_s": total, "up_per_hour": 3600 * total, "down_per_hour": 3600 * total,
    }  # fmt: skip


def _time(experiment: Experiment, found: Measured, traffic: dict[str, float], nodes: int) -> dict[str, Any]:
    batch = experiment.train.batch_first
    rate = (1 - LOOK_SHARE) * batch / traffic["step_s"]
    by_samples_s = experiment.train.samples / (nodes * rate)
    ends = {"train.samples": by_samples_s, "train.time": experiment.train.time_s}
    return {
        "samples_per_s": rate, "batch": batch, "samples": experiment.train.samples,
        "seconds": min(ends.values()), "ended_by": min(ends, key=lambda name: ends[name]),
    }  # fmt: skip


# -- For a person ---------------------------------------------------------------------------------------


def lines(found: dict[str, Any]) -> list[str]:
    """The forecast with its formulas, at most 80 columns wide."""
    memory, disk, traffic, end, measured = (found[n] for n in ("memory", "disk", "traffic", "time", "measured"))
    pace, nodes, step_ms = found["pace"], found["nodes"], 1e3 * traffic["step_s"]
    every, batch = pace["every_steps"], end["batch"]
    return [
        f"{found['name']}: {found['parameters']:,} parameters; {nodes} nodes like this machine",
        f"measured in {measured['steps']:,} steps and {measured['exchanges']:,} exchanges; load {found['load']:g} "
        f"on {found['cores']} cores",
        "",
        f"time     {duration(end['seconds'])}, ended by {end['ended_by']}",
        f"         {end['samples']:,} samples / ({nodes} x {end['samples_per_s']:,.0f} samples/s);",
        f"         batch {batch} in {1e3 * measured['step_s']:.2f} ms + "
        f"{1e3 * measured['on_trainer_s']:.2f} ms exchange / {every} steps",
        f"traffic  {size(traffic['up_per_hour'])}/h up and as much down, each node "
        f"({8e-3 * traffic['up_per_s']:,.0f} kbit/s)",
        f"         {traffic['exchange_bytes']:,.0f} B (offer + answer) x "
        f"{traffic['exchanges_per_s']:.1f}/s + {traffic['membership']:,.0f} B/s membership",
        f"         + {traffic['heartbeat']:,.0f} B/s heartbeats on {traffic['links']} links; "
        f"an exchange every {every} steps",
        f"         of {step_ms:.2f} ms offers {pace['blocks']:.0%} of the model",
        f"memory   {size(memory['total'])} a node",
        f"         {size(memory['bare'])} Python and kernels + {size(memory['data'])} data + "
        f"{memory['per_parameter']:g} B x {found['parameters']:,}",
        f"         (x, gradient, optimizer, ref: {size(memory['working'])}; checkpoint copy: "
        f"{size(memory['checkpoint'])})",
        f"         + {size(memory['exchanges'])} exchanges under way",
        f"disk     {size(disk['total'])} a node at most",
        f"         {size(disk['data'])} data + {size(disk['checkpoints'])} checkpoints (2, and one being written)",
        f"         + {size(disk['model'])} model + events: {size(disk['events_per_day'])} a day, "
        f"at most {size(disk['events_max'])}",
        *_busy(measured),
    ]


def _busy(measured: dict[str, Any]) -> list[str]:
    if measured["slowdown"] < BUSY:
        return []
    times = f"{measured['slowdown']:.1f} times"
    return [
        "",
        "Times are for a machine with nothing else to do.",
        f"This one is busy: steps take {times} as long now.",
    ]


def size(count: float) -> str:
    """ "1.5 MB"."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count:,.0f} B"


def duration(seconds: float) -> str:
    """ "3 days 2 h", "5 min 3 s", "12 s": the two largest parts."""
    left = round(seconds)
    parts: list[str] = []
    for unit, name in ((86_400, "days"), (3600, "h"), (60, "min"), (1, "s")):
        if left >= unit or (unit == 1 and not parts):
            parts.append(f"{left // unit} {name}")
            left %= unit
    return " ".join(parts[:2])
