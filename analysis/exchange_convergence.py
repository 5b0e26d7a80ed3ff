"""Which exchange settings bring every node of a non-IID swarm to a good model in the fewest steps?

Four nodes train an MLP 784-128-10 on MNIST; each sees only three of the ten classes (the last: 9, 0 and 1), so alone
none of them passes 32 %. They step in turn in one process, with the package's own Mixer between them and a NumPy
model, and are judged by the worst node's own final model. No payload bytes: the codec is lossless and tested apart.

    GOSSIP_DATA=... python analysis/exchange_convergence.py --every 4 8 --blocks .25 .5 --rate .05 --steps 1000 2000
    GOSSIP_DATA=... python analysis/exchange_convergence.py --every 2 4 --momentum off on --seed 1 2 3
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import math
import os
from pathlib import Path

import numpy as np

from gossip.kernels.exchange import BLOCK
from gossip.training.mixer import Mixer, MixStatistics

CLASSES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 0, 1))
HIDDEN = 128
DIM = 784 * HIDDEN + HIDDEN + HIDDEN * 10 + 10
BATCH, MOMENTUM, WARM_UP_SHARE = 32, 0.9, 0.03
FINAL_ROUNDS = 12


def read_idx(path: Path) -> np.ndarray:
    """An MNIST file -> uint8 array; the last byte of the magic number counts the dimensions."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">u4", raw[3], 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def read_mnist(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """(images float32[n, 784], of mean 0 and deviation 1, labels uint8[n]); part is "train" or "t10k"."""
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{part}-labels-idx1-ubyte.gz")
    return images.reshape(len(images), -1).astype(np.float32) / 78.6 - 0.424, labels


def layers(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Views of the flat vector: w1[784, 128], b1, w2[128, 10], b2."""
    ends = np.cumsum((784 * HIDDEN, HIDDEN, HIDDEN * 10, 10))
    w1, b1, w2, b2 = np.split(x[:DIM], ends[:-1])
    return w1.reshape(784, HIDDEN), b1, w2.reshape(HIDDEN, 10), b2


def initial(rng: np.random.Generator) -> np.ndarray:
    x = np.zeros(-(-DIM // BLOCK) * BLOCK, np.float32)
    w1, _, w2, _ = layers(x)
    w1[:] = rng.normal(0, math.sqrt(2 / 784), w1.shape)
    w2[:] = rng.normal(0, math.sqrt(1 / HIDDEN), w2.shape)
    return x


def gradient(x: np.ndarray, images: np.ndarray, labels: np.ndarray, out: np.ndarray) -> None:
    """Mean cross-entropy's gradient at x, written to out (flat, like x)."""
    w1, b1, w2, b2 = layers(x)
    g1, gb1, g2, gb2 = layers(out)
    hidden = np.maximum(images @ w1 + b1, 0)
    scores = hidden @ w2 + b2
    errors = np.exp(scores - scores.max(1, keepdims=True))
    errors /= errors.sum(1, keepdims=True)
    errors[np.arange(len(labels)), labels] -= 1
    errors /= len(labels)
    np.matmul(hidden.T, errors, out=g2)
    errors.sum(0, out=gb2)
    back = (errors @ w2.T) * (hidden > 0)
    np.matmul(images.T, back, out=g1)
    back.sum(0, out=gb1)


def accuracy(x: np.ndarray, images: np.ndarray, labels: np.ndarray) -> float:
    w1, b1, w2, b2 = layers(x)
    return float(np.mean(np.argmax(np.maximum(images @ w1 + b1, 0) @ w2 + b2, 1) == labels))


def learning_rate(peak: float, progress: float) -> float:
    return peak * min(1, progress / WARM_UP_SHARE) * (1 + math.cos(math.pi * progress)) / 2


class Swarm:
    """Four nodes in one process. An exchange travels `delay` steps to the peer and as many back."""

    def __init__(
        self, train: tuple[np.ndarray, np.ndarray], seed: int, delay: int, lost: float, with_momentum: bool
    ) -> None:
        self.rng = np.random.default_rng(seed)
        images, labels = train
        start = initial(self.rng)
        self.images, self.labels = images, labels
        self.holds = [np.flatnonzero(np.isin(labels, wanted)) for wanted in CLASSES]
        self.x = [start.copy() for _ in CLASSES]
        self.velocity = [np.zeros_like(start) for _ in CLASSES]
        self.mixers = [Mixer(x, seed=node) for node, x in enumerate(self.x)]
        self.with_momentum = with_momentum
        self.scratch = np.zeros_like(start)
        self.delay, self.lost = delay, lost
        self.due: list[tuple] = []  # (step, function) in flight
        self.seen: list[MixStatistics] = []

    def train(self, steps: int, every: int, fraction: float, peak: float) -> None:
        """Blocks in flight are not offered again. Waiting with that rule until the round trip exceeds 2 H is too
        late when much is offered: H = 4, all blocks, one-way delay 4 (a round trip of exactly 2 H) ended at 15 %.
        """
        nodes = range(len(self.x))
        offsets = [every * node // len(self.x) for node in nodes]
        for step in range(steps):
            self.deliver(step)
            for node in nodes:
                self.step(node, learning_rate(peak, step / steps))
                if (step + offsets[node]) % every == 0:
                    self.offer(node, fraction, step, skip=2 * self.delay > every)
        self.deliver(steps + 2 * self.delay)

    def finish(self) -> None:
        for _, node in itertools.product(range(FINAL_ROUNDS), range(len(self.x))):
            self.offer(node, 1.0, 0, skip=False)
            self.deliver(2 * self.delay)

    def step(self, node: int, rate: float) -> None:
        x, velocity = self.x[node], self.velocity[node]
        picks = self.rng.choice(self.holds[node], BATCH)
        gradient(x, self.images[picks], self.labels[picks], self.scratch)
        velocity *= np.float32(MOMENTUM)
        velocity += self.scratch
        x -= np.float32(rate) * velocity

    def offer(self, node: int, fraction: float, step: int, skip: bool) -> None:
        peer = int(self.rng.choice([other for other in range(len(self.x)) if other != node]))
        request = self.mixers[node].offer(
            self.x[node], fraction, skip, self.velocity[node] if self.with_momentum else None
        )
        if request is None:
            return

        def arrive() -> None:
            answer, statistics = self.mixers[peer].respond(self.x[peer], request, self.velocity[peer])
            self.seen.append(statistics)

            def come_back() -> None:
                self.mixers[node].apply(self.x[node], request.blocks, request.range_codes, answer, self.velocity[node])

            def give_up() -> None:
                self.mixers[node].give_up(request.blocks)

            is_lost = self.rng.random() < self.lost
            self.due.append((step + 2 * self.delay, give_up if is_lost else come_back))

        self.due.append((step + self.delay, arrive))

    def deliver(self, step: int) -> None:
        while ready := [entry for entry in self.due if entry[0] <= step]:
            self.due = [entry for entry in self.due if entry[0] > step]
            for _, act in ready:
                act()

    def spread(self) -> float:
        """Largest distance of a node from the mean model, relative to the mean's norm."""
        mean = np.mean(self.x, 0)
        return max(float(np.linalg.norm(x - mean) / np.linalg.norm(mean)) for x in self.x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--every", type=int, nargs="+", default=[8])
    parser.add_argument("--blocks", type=float, nargs="+", default=[0.25])
    parser.add_argument("--rate", type=float, nargs="+", default=[0.05])
    parser.add_argument("--steps", type=int, nargs="+", default=[2000])
    parser.add_argument("--seed", type=int, nargs="+", default=[1])
    parser.add_argument("--momentum", choices=("on", "off"), nargs="+", default=["off"], help="averaged too")
    parser.add_argument("--delay", type=int, default=1, help="one way, in steps")
    parser.add_argument("--lost", type=float, default=0.0, help="share of answers lost")
    options = parser.parse_args()
    folder = Path(os.environ["GOSSIP_DATA"]) / "mnist"
    train, test = read_mnist(folder, "train"), read_mnist(folder, "t10k")
    print(
        "steps every blocks  rate momentum seed | worst  mean  swarm | distance before, after"
        " | failed late  refused  no momentum"
    )
    grid = itertools.product(options.steps, options.every, options.blocks, options.rate, options.momentum, options.seed)
    for steps, every, fraction, rate, momentum, seed in grid:
        swarm = Swarm(train, seed, options.delay, options.lost, momentum == "on")
        swarm.train(steps, every, fraction, rate)
        late = swarm.seen[len(swarm.seen) // 4 :]
        failed = sum(s.failed for s in late) / sum(s.blocks for s in late)
        refused = sum(s.refused for s in late) / sum(s.blocks for s in late)
        without = 1 - sum(s.momentum_mixed for s in late) / sum(s.blocks - s.failed for s in late)
        before = swarm.spread()
        swarm.finish()
        own = [100 * accuracy(x, *test) for x in swarm.x]
        whole = 100 * accuracy(np.mean(swarm.x, 0), *test)
        print(
            f"{steps:5} {every:5} {fraction:6} {rate:5} {momentum:8} {seed:4}"
            f" | {min(own):5.2f} {np.mean(own):5.2f} {whole:6.2f} |        {before:6.4f}, {swarm.spread():6.4f}"
            f" |      {failed:6.4f}   {refused:6.4f}       {without:6.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
