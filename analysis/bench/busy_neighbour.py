"""What a busy communication thread costs the trainer's thread, and how soon it gets its own turns.

The trainer steps as in a node. Beside it a second thread never rests: it answers and makes exchange bodies with the
real codec and sends each through a pair of zmq sockets over loopback, one turn after another. Both need the GIL in
between, which a step gives away while its kernels run.

Cost: CPU time of the trainer's thread per step with the neighbour over that without, periods of both alternating, the
median of paired ratios. Turns: the time between two ends of turns while the trainer steps, the 99th percentile and the
longest, and beside it the same of a neighbour that is alone: what is left on a busy machine is the machine's.

    python analysis/bench/busy_neighbour.py --json [--models mlp cifar resnet20] [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from dataclasses import asdict, dataclass, field

import numpy as np
import zmq

from gossip.codec.answer import decode_answer, encode_answer
from gossip.codec.request import decode_request, encode_request
from gossip.data.store import Dataset
from gossip.kernels.denormals import flush_denormals
from gossip.kernels.exchange import BLOCK
from gossip.models.layers import Shape, preset_layers, resolve_layers
from gossip.models.model import build_model
from gossip.sections import TrainSpec
from gossip.training.mixer import Mixer
from gossip.training.mixer import warm_up as warm_up_mixer
from gossip.training.trainer import Trainer

SHAPES: dict[str, Shape] = {
    "mlp": (28, 28, 1),
    "lenet": (28, 28, 1),
    "cifar": (32, 32, 3),
    "resnet20": (32, 32, 3),
}
BATCH, SAMPLES = 32, 1024
PERIOD_S = 0.3
SHARE = 0.25  # of the model in an exchange, the default
WITHIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Row:
    """Times in milliseconds; `turns` are the neighbour's."""

    model: str
    cost: float
    spread: tuple[float, float]  # quartiles
    step_cpu_ms: float
    step_cpu_ms_beside: float
    turns_per_s: float
    gap_ms_p99: float
    gap_ms_longest: float
    alone_gap_ms_p99: float
    alone_gap_ms_longest: float


def a_trainer(name: str) -> Trainer:
    shape = SHAPES[name]
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (SAMPLES, *shape), np.uint8), rng.integers(0, 10, SAMPLES, np.uint8)
    layers = resolve_layers(preset_layers(name), shape, 10)
    model = build_model(layers, [0.5] * shape[2], [0.25] * shape[2], batch=BATCH)
    spec = TrainSpec(batch=BATCH, learning_rate=0.001, warmup=0.0)
    dataset = Dataset(images, labels, images[:1], labels[:1])
    return Trainer(spec, 1, model, dataset, np.arange(SAMPLES), order_seed=1)


@dataclass(slots=True)
class Turns:
    """When the neighbour's turns ended, in one period."""

    ends: list[float] = field(default_factory=list)

    def gaps_s(self) -> list[float]:
        return [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]


class Neighbour:
    """A thread of its own, as busy as it can be while `work` is set."""

    def __init__(self, dim: int) -> None:
        rng = np.random.default_rng(2)
        x = np.zeros(-(-dim // BLOCK) * BLOCK, np.float32)
        x[:dim] = rng.normal(0, 0.05, dim)
        peer = x.copy()
        peer[:dim] += rng.normal(0, 0.002, dim).astype(np.float32)
        mixers = Mixer(x), Mixer(peer)
        request = mixers[0].offer(x, SHARE, False)
        self._request, self._blocks, self._n_blocks = request, request.blocks.size, mixers[0].n_blocks
        self._answer, _ = mixers[1].respond(peer, request)
        context = zmq.Context.instance()
        self._here, self._there = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        port = self._here.bind_to_random_port("tcp://127.0.0.1")
        self._there.connect(f"tcp://127.0.0.1:{port}")
        self._work, self._rests = threading.Event(), threading.Event()
        self._is_over = False
        self.turns = Turns()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def begin(self) -> None:
        self.turns = Turns()
        self._rests.clear()
        self._work.set()

    def rest(self) -> Turns:
        """From here on, until `begin`."""
        self._work.clear()
        self._rests.wait(WITHIN_S)
        return self.turns

    def close(self) -> None:
        self._is_over = True
        self._work.set()
        self._thread.join(WITHIN_S)
        self._here.close(0)
        self._there.close(0)

    def _run(self) -> None:
        while True:
            if not self._work.is_set():
                self._rests.set()
                self._work.wait()
            if self._is_over:
                return
            self._turn()
            self.turns.ends.append(time.monotonic())

    def _turn(self) -> None:
        """A request and an answer there, and a look at them: what a node's two exchanges a moment are made of."""
        decode_request(self._across(encode_request(self._request, self._n_blocks).body), self._n_blocks)
        decode_answer(self._across(encode_answer(self._answer).body), self._blocks, False)

    def _across(self, body: bytes) -> bytes:
        self._here.send(body)
        return self._there.recv()


def period(trainer: Trainer) -> float:
    """CPU seconds of this thread per step, over about PERIOD_S."""
    began, cpu_began, steps = time.monotonic(), time.thread_time(), 0
    while time.monotonic() - began < PERIOD_S:
        trainer.step()
        steps += 1
    return (time.thread_time() - cpu_began) / steps


def measure(name: str, rounds: int) -> Row:
    trainer = a_trainer(name)
    neighbour = Neighbour(trainer.model.dim)
    for _ in range(3):
        trainer.step()
    alone: list[float] = []
    quiet_s, beside_s, gaps = [], [], []
    done = 0
    for _ in range(rounds):
        quiet_s.append(period(trainer))
        neighbour.begin()
        beside_s.append(period(trainer))
        turns = neighbour.rest()
        gaps += turns.gaps_s()
        done += len(turns.ends)
        neighbour.begin()
        threading.Event().wait(PERIOD_S)
        alone += neighbour.rest().gaps_s()
    neighbour.close()
    ratios = [beside / quiet for quiet, beside in zip(quiet_s, beside_s, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4)
    return Row(
        name, statistics.median(ratios), (quartiles[0], quartiles[2]), 1e3 * statistics.median(quiet_s),
        1e3 * statistics.median(beside_s), done / (rounds * PERIOD_S), 1e3 * float(np.quantile(gaps, 0.99)),
        1e3 * max(gaps), 1e3 * float(np.quantile(alone, 0.99)), 1e3 * max(alone),
    )  # fmt: skip


def show(row: Row) -> str:
    return (
        f"{row.model:9} a step costs {row.cost:.3f} ({row.spread[0]:.3f}-{row.spread[1]:.3f}) of its CPU time alone, "
        f"{row.step_cpu_ms_beside:.3f} ms; the neighbour has {row.turns_per_s:.0f} turns a second, 99 % within "
        f"{row.gap_ms_p99:.1f} ms, the longest gap {row.gap_ms_longest:.1f} ms "
        f"(alone {row.alone_gap_ms_p99:.1f} and {row.alone_gap_ms_longest:.1f} ms)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    flush_denormals()
    warm_up_mixer()
    rows = []
    for name in options.models:
        rows.append(measure(name, options.rounds))
        print(show(rows[-1]), file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2))


if __name__ == "__main__":
    main()
