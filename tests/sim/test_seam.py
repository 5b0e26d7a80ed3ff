"""The seam: a node needs dim, init, loss_and_grad and evaluate over a flat vector, and does not care whose they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gossip.data.recipes import find_recipe
from gossip.data.store import Dataset, load_dataset
from gossip.models.seam import Evaluation
from gossip.protocol import events as ev
from gossip.sections import TrainSpec
from gossip.sim.idle import Pace
from gossip.sim.network import NetworkModel
from gossip.sim.swarm import Swarm, SwarmSettings
from gossip.sim.workers import InlineWorkers
from gossip.training.trainer import Trainer


class SoftmaxRegression:
    """Weights (classes, pixels) and biases, one after the other in x."""

    def __init__(self, pixels: int, classes: int) -> None:
        self.pixels, self.classes = pixels, classes
        self.dim = classes * (pixels + 1)

    def init(self, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).normal(0, 0.01, self.dim).astype(np.float32)

    def loss_and_grad(self, x: np.ndarray, images: np.ndarray, labels: np.ndarray, gradient: np.ndarray) -> float:
        inputs, powers = self._look(x, images)
        of_label = np.arange(len(labels)), labels
        loss = -np.log(powers[of_label]).mean()
        powers[of_label] -= 1
        slopes = (powers / len(labels)).T @ inputs
        gradient[: self.dim] = slopes.ravel()
        return float(loss)

    def evaluate(self, x: np.ndarray, images: np.ndarray, labels: np.ndarray) -> Evaluation:
        _, powers = self._look(x, images)
        said = powers.argmax(1).astype(np.uint8)
        loss = -np.log(powers[np.arange(len(labels)), labels]).mean()
        return Evaluation(float(loss), float((said == labels).mean()), said)

    def _look(self, x: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs = np.column_stack([images.reshape(len(images), -1) / np.float32(255), np.ones(len(images), np.float32)])
        logits = inputs @ x[: self.dim].reshape(self.classes, -1).T
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return inputs, powers / powers.sum(1, keepdims=True)


def test_thirty_lines_of_numpy_train_through_the_node() -> None:
    """Two shards of five digits each, the shipped node, mixer and codecs: together they read all ten."""
    dataset, spec = load_dataset(find_recipe("glyphs")), TrainSpec(samples=60_000, learning_rate=0.02)
    trainers: dict[str, Trainer] = {}

    def a_trainer(shard: int) -> Trainer:
        model = SoftmaxRegression(784, 10)
        mine = np.flatnonzero(dataset.train_labels // 5 == shard)
        return Trainer(spec, 1, model, dataset, mine, order_seed=shard)

    settings = SwarmSettings(
        samples_total=spec.samples, batch=32, every_steps=8, blocks=0.5, fragments=a_trainer(0).fragments,
        average_momentum="auto", momentum=spec.shared_momentum,
    )  # fmt: skip
    swarm = Swarm(3, settings, NetworkModel(delay_s=0.005, jitter_s=0.003))
    for shard, name in enumerate("ab"):

        def workers(name: str, pace: Pace, deliver: Callable[[ev.Input], None], shard: int = shard) -> InlineWorkers:
            trainers[name] = a_trainer(shard)
            return InlineWorkers(swarm.world, trainers[name], 8, pace, deliver)

        swarm.add(name, ("a",) if shard else (), None, workers)
    assert swarm.run(600, lambda: not swarm.alive())
    accuracies = [_accuracy(trainer, dataset) for trainer in trainers.values()]
    assert min(accuracies) > 0.8, accuracies


def _accuracy(trainer: Trainer, dataset: Dataset) -> float:
    return trainer.model.evaluate(trainer.x, dataset.test_images, dataset.test_labels).accuracy
