"""Running statistics travel in the vector: exchanges mix them, joiners get them, and no optimizer steps them.

What the optimizers leave alone is in test_optimizer.py; here two nodes really exchange.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from gossip.data.recipes import find_recipe
from gossip.data.store import Dataset, load_dataset
from gossip.models.layers import resolve_layers
from gossip.models.layout import named_parameters
from gossip.models.model import Model, build_model
from gossip.sections import TrainSpec
from gossip.training.trainer import Trainer

RECIPE = find_recipe("glyphs")
LAYERS = resolve_layers(
    ("conv 16 3x3 same stride 2 nobias", "batchnorm", "relu", "conv 16 3x3 same stride 2 nobias", "batchnorm", "relu",
     "avgpool all", "dense classes"),
    RECIPE.shape, 10,
)  # fmt: skip


@pytest.fixture(scope="module")
def glyphs() -> Dataset:
    return load_dataset(RECIPE)


def a_trainer(dataset: Dataset, order_seed: int) -> Trainer:
    """Odd digits for odd seeds, even ones for even seeds: their batches have different statistics."""
    model = build_model(LAYERS, RECIPE.mean, RECIPE.std, batch=32)
    mine = np.flatnonzero(dataset.train_labels % 2 == order_seed % 2)
    spec = TrainSpec(learning_rate=0.05, warmup=0.0, weight_decay=0.001, clip=5.0)
    trainer = Trainer(spec, 1, model, dataset, mine, order_seed=order_seed)
    trainer.begin(0)
    return trainer


def statistics_of(trainer: Trainer) -> np.ndarray:
    assert isinstance(trainer.model, Model)
    parameters = named_parameters(trainer.x, trainer.model.layout)
    return np.concatenate([parameters[name] for name, slot in trainer.model.layout.items() if slot.is_statistic])


def trained_pair(dataset: Dataset, with_exchanges: bool) -> tuple[Trainer, Trainer]:
    one, other = a_trainer(dataset, 1), a_trainer(dataset, 2)
    for step in range(200):
        one.step(), other.step()
        if with_exchanges and step % 4 == 3:
            asker, asked = (one, other) if step % 8 == 3 else (other, one)
            request = asker.offer(step, 1.0, False, with_momentum=True)
            assert request is not None
            asker.apply(step, asked.respond(request)[0])
    return one, other


def test_exchanges_bring_statistics_together_and_leave_them_sane(glyphs: Dataset) -> None:
    """And momentum that is averaged stays 0 where there is nothing to step."""
    apart, together = trained_pair(glyphs, False), trained_pair(glyphs, True)
    gaps = [np.abs(statistics_of(one) - statistics_of(other)).mean() for one, other in (apart, together)]
    assert gaps[1] < 0.5 * gaps[0]
    for trainer in together:
        assert isinstance(trainer.model, Model)
        momentum = named_parameters(trainer.optimizer.arrays["momentum"], trainer.model.layout)
        for name, slot in trainer.model.layout.items():
            assert bool(momentum[name].any()) is not slot.is_statistic
        variances = [p for n, p in named_parameters(trainer.x, trainer.model.layout).items() if n.endswith("variance")]
        assert min(variance.min() for variance in variances) > -0.05
        assert math.isfinite(trainer.look().loss)


def test_a_joiner_has_the_donor_s_statistics(glyphs: Dataset) -> None:
    """In 8 bits, without a step of its own: judged on held-out samples it is as good as the donor, or nearly."""
    donor, _ = trained_pair(glyphs, True)
    joiner = a_trainer(glyphs, 3)
    fresh = joiner.look()
    joiner.take_fragments()
    for index in range(donor.fragments):
        fragment = donor.fragment(index)
        assert fragment is not None
        joiner.load_fragment(index, b"d", fragment, keep=False)
    assert np.abs(statistics_of(joiner) - statistics_of(donor)).max() <= np.abs(donor.x).max() / 127
    assert joiner.look().loss < donor.look().loss + 0.1 < fresh.loss


def test_a_variance_below_zero_does_no_harm_and_goes_away(glyphs: Dataset) -> None:
    """Averaging rounds: a variance near 0 may come out of it with the wrong sign."""
    trainer, _ = trained_pair(glyphs, True)
    assert isinstance(trainer.model, Model)
    variance = named_parameters(trainer.x, trainer.model.layout)["1.batchnorm.variance"]
    variance[:2] = -0.01
    assert math.isfinite(trainer.look().loss)
    losses = [trainer.step() for _ in range(60)]
    assert math.isfinite(sum(losses)) and variance.min() >= 0
