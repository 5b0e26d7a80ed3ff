"""How often would a newcomer refuse an honest donor, and how often let a liar pass?

Plays an experiment's nodes in turn in one process, with the package's own trainers, exchanges without delay. At many
points of the run a newcomer takes its state from two drawn donors, one fragment per step of the swarm, and compares
them as a node does (gossip.protocol.trust). Then once more with every kind of liar in the place of one of them.

    GOSSIP_DATA=... python analysis/donor_comparison.py deploy/experiments/mnist-mlp.toml --joins 100
"""

from __future__ import annotations

import argparse
import math
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gossip.codec.fragment import Fragment, fragment_count
from gossip.data.store import load_dataset
from gossip.models.model import build_model
from gossip.protocol.events import DonorsCompared
from gossip.protocol.trust import WORSE_FACTOR, WORSE_LOSS, liars
from gossip.spec import Experiment, load
from gossip.training.patchwork import Patchwork
from gossip.training.trainer import Trainer

AUDITED = 2
Lie = Callable[[Fragment, np.random.Generator], None]


def scaled(factor: float) -> Lie:
    def lie(fragment: Fragment, _: np.random.Generator) -> None:
        fragment.x_peaks[:] = np.minimum(fragment.x_peaks * abs(factor), 2.0**20)
        if factor < 0:
            fragment.x_levels[:] = -fragment.x_levels

    return lie


def noise(fragment: Fragment, generator: np.random.Generator) -> None:
    fragment.x_levels[:] = generator.integers(-127, 128, fragment.x_levels.size)


def shuffled(fragment: Fragment, generator: np.random.Generator) -> None:
    """Numbers of the right size in the wrong places: what an untrained model of another seed looks like."""
    generator.shuffle(fragment.x_levels)


LIES: dict[str, Lie] = {
    "x 1000": scaled(1000), "x 10": scaled(10), "x -1": scaled(-1), "x 0": scaled(0), "noise": noise,
    "shuffled": shuffled,
}  # fmt: skip


class Swarm:
    """One trainer per shard, stepping in turn, and one newcomer that never trains."""

    def __init__(self, experiment: Experiment, seed: int) -> None:
        self.experiment, self.draw = experiment, random.Random(seed)
        self.noise = np.random.default_rng(seed)
        self.dataset = load_dataset(experiment.recipe)
        self.nodes = [self.trainer(shard, 100 * seed + shard) for shard in range(experiment.data.shards)]
        self.newcomer, self.by_own_shard = (self.trainer(0, 100 * seed + 99) for _ in range(2))
        own = self.newcomer.sampler._indices[: len(self.newcomer._probe_labels)]
        self.by_own_shard._probe_images = np.ascontiguousarray(self.dataset.train_images[own])
        self.by_own_shard._probe_labels = np.ascontiguousarray(self.dataset.train_labels[own])
        self.exchanges = 0

    def trainer(self, shard: int, order_seed: int) -> Trainer:
        spec = self.experiment
        indices = spec.indices_of(shard, self.dataset.train_labels)
        model = build_model(spec.layers, spec.recipe.mean, spec.recipe.std)
        return Trainer(spec.train, spec.seed, model, self.dataset, indices, order_seed=order_seed)

    @property
    def progress(self) -> float:
        return sum(node.samples for node in self.nodes) / self.experiment.train.samples

    def step(self) -> None:
        for number, node in enumerate(self.nodes):
            node.progress = self.progress
            node.step()
            if (node.steps + 2 * number) % self.experiment.exchange.every_steps_first == 0:
                self.exchange(node, self.draw.choice([other for other in self.nodes if other is not node]))

    def exchange(self, node: Trainer, peer: Trainer) -> None:
        self.exchanges += 1
        request = node.offer(self.exchanges, self.experiment.exchange.blocks_first, False)
        assert request is not None
        node.apply(self.exchanges, peer.respond(request)[0])

    def join(self, lie: Lie | None = None) -> tuple[DonorsCompared, DonorsCompared, bytes]:
        """Compared on held-out samples and on the newcomer's own shard; and who lied, if somebody did."""
        donors = dict(zip((b"a", b"b"), self.draw.sample(self.nodes, 2), strict=True))
        liar = self.draw.choice(list(donors)) if lie else b""
        count = fragment_count(self.newcomer.mixer.n_blocks)
        audited = self.draw.sample(range(count), min(AUDITED, count))
        for index in range(count):
            for peer in donors if index in audited else [self.draw.choice(list(donors))]:
                fragment = donors[peer].fragment(index)
                assert fragment is not None
                if lie is not None and peer == liar:
                    lie(fragment, self.noise)
                for newcomer in (self.newcomer, self.by_own_shard):
                    newcomer.load_fragment(index, peer, fragment, index in audited)
                self.step()
        compared = [newcomer.compare_donors(tuple(donors)) for newcomer in (self.newcomer, self.by_own_shard)]
        for newcomer in (self.newcomer, self.by_own_shard):
            newcomer._patchwork = Patchwork(newcomer.mixer.n_blocks)  # as new as before
        return compared[0], compared[1], liar


def join_at(share: float) -> float:
    """Half of all joins fall into the first fifth of the run, where honest nodes differ most."""
    return 0.4 * share if share < 0.5 else 0.2 + 1.6 * (share - 0.5)


def strain(compared: DonorsCompared) -> float:
    """How near the worse donor came to being refused: at 1 it is."""
    return max(entry.loss / (WORSE_FACTOR * entry.loss_without + WORSE_LOSS) for entry in compared.losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("experiment", type=Path, nargs="+")
    parser.add_argument("--joins", type=int, default=100, help="honest ones, over the whole run")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    for path in options.experiment:
        swarm = Swarm(load(path), options.seed)
        honest: list[tuple[float, DonorsCompared, DonorsCompared]] = []
        caught: Counter[tuple[str, str]] = Counter()
        for number in range(options.joins):
            while swarm.progress < join_at((number + 0.5) / options.joins):
                swarm.step()
            held_out, own, _ = swarm.join()
            honest.append((swarm.progress, held_out, own))
            for name, lie in LIES.items() if number % 2 else ():
                compared, _, liar = swarm.join(lie)
                found = liars(compared)
                verdict = "caught" if found == [liar] else "both" if liar in found else "other" if found else "passed"
                caught[name, verdict] += 1
        print(f"{path.stem}, seed {options.seed}: {len(honest)} honest joins")
        for which, label in ((1, "held-out samples"), (2, "own shard")):
            alarms = sum(bool(liars(entry[which])) for entry in honest)
            strains = [strain(entry[which]) for entry in honest]
            worst = honest[int(np.argmax(strains))]
            at = f"{worst[0]:.0%} of the run, {[round(e.loss, 3) for e in worst[which].losses]}, untrained "
            print(f"  on {label}: {alarms} refused; strain at most {max(strains):.2f}, at {at}"
                  f"{worst[which].untrained:.2f}; median {np.median(strains):.2f}")  # fmt: skip
        to_untrained = [max(e.loss for e in c.losses) / c.untrained for _, c, _ in honest if math.isfinite(c.untrained)]
        early = [round(share, 2) for share in to_untrained[:: max(1, len(to_untrained) // 12)]]
        print(f"  worse donor's loss by the untrained model's, along the run: {early}")
        for name in LIES:
            print(f"  {name}: { ({verdict: n for (lie, verdict), n in caught.items() if lie == name}) }")


if __name__ == "__main__":
    main()
