"""What frozen layers save: bytes of a whole exchange, momentum included, and CPU time of a step.

Of each network one with patterns frozen and one without step in turns, on samples of noise; the time is the thread's,
the median of the turns. Then two nodes of each, which began alike and differ in what is learnt, exchange everything.

    python analysis/bench/freezing.py --json [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np

from gossip.codec.answer import encode_answer
from gossip.codec.request import encode_request
from gossip.kernels import optimizer
from gossip.kernels.exchange import BLOCK
from gossip.models.freezing import frozen_parameters
from gossip.models.layers import preset_layers, resolve_layers
from gossip.models.model import Model, build_model
from gossip.training.frozen import Frozen
from gossip.training.mixer import Mixer

SHAPE, BATCH, STEPS = (32, 32, 3), 32, 4
CASES = {
    "cifar": ["conv"],
    "cifar10-quick": ["conv"],
    "resnet20": ["conv", "batchnorm"],
}


class Stepping:
    """A network in training."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._vectors = (model.init(1), *np.zeros((2, model.dim), np.float32))
        rng = np.random.default_rng(1)
        self._samples = rng.integers(0, 256, (BATCH, *SHAPE), np.uint8), rng.integers(0, 10, BATCH, np.uint8)

    def step_s(self) -> float:
        """CPU seconds of this thread for a step."""
        x, gradient, momentum = self._vectors
        began = time.thread_time()
        for _ in range(STEPS):
            self.model.loss_and_grad(x, *self._samples, gradient)
            optimizer.sgd(self.model.segments, x, gradient, momentum, 0.001, 0.9, 0.0, False)
        return (time.thread_time() - began) / STEPS


def exchange(model: Model) -> tuple[int, int]:
    """(blocks, bytes both ways) of a whole exchange of two nodes."""
    frozen = Frozen(model.segments, model.dim)
    vectors, mixers = [], []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        x = np.zeros(-(-model.dim // BLOCK) * BLOCK, np.float32)
        x[: model.dim] = model.init(1)
        mixers.append(Mixer(x, seed, frozen))
        for row in model.segments:
            x[row["start"] : row["end"]] += 1e-3 * rng.standard_normal(row["end"] - row["start"], np.float32)
        vectors.append(x)
    momentum = np.random.default_rng(3).standard_normal(vectors[0].size, np.float32)
    request = mixers[0].offer(vectors[0], 1.0, True, momentum)
    assert request is not None
    answer, _ = mixers[1].respond(vectors[1], request, momentum)
    size = len(encode_request(request, mixers[0].n_blocks).body) + len(encode_answer(answer).body)
    return request.blocks.size, size


def measure(preset: str, freeze: list[str], rounds: int) -> dict[str, Any]:
    layers = resolve_layers(preset_layers(preset), SHAPE, 10)
    models = [
        build_model(layers, (0.5,) * 3, (0.3,) * 3, batch=BATCH, frozen=frozen_parameters(layers, patterns))
        for patterns in ([], freeze)
    ]
    whole, part = (Stepping(model) for model in models)
    times = [(whole.step_s(), part.step_s()) for _ in range(rounds + 1)][1:]  # the first may load kernels
    row: dict[str, Any] = {"model": preset, "freeze": freeze, "parameters": models[0].dim}
    for number, end in enumerate(("", "_frozen")):
        row[f"step_ms{end}"] = round(1e3 * statistics.median(pair[number] for pair in times), 3)
        row[f"blocks{end}"], row[f"bytes{end}"] = exchange(models[number])
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    rows = [measure(preset, freeze, options.rounds) for preset, freeze in CASES.items()]
    if options.json:
        print(json.dumps({"rows": rows}))
        return
    for row in rows:
        print(
            f"{row['model']:14} freeze {', '.join(row['freeze']):16} {row['parameters']:8,} parameters: "
            f"{row['bytes']:,} -> {row['bytes_frozen']:,} B an exchange, "
            f"{row['step_ms']:.2f} -> {row['step_ms_frozen']:.2f} ms CPU a step"
        )


if __name__ == "__main__":
    main()
