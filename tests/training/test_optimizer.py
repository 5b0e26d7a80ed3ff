"""Optimizers: against NumPy twins in float64, what they never touch, and what becomes of their state elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gossip.data.recipes import find_recipe
from gossip.data.store import Dataset, load_dataset
from gossip.errors import DataError
from gossip.kernels.optimizer import SEGMENT, STATISTIC, STATISTIC_RATE, TRAINED
from gossip.models.layers import resolve_layers
from gossip.models.model import build_model
from gossip.sections import TrainSpec
from gossip.training.optimizer import BETAS, EPSILON, Optimizer
from gossip.training.trainer import Trainer

LENGTH = 64
SEGMENTS = np.array([(0, 20, TRAINED), (20, 30, STATISTIC), (40, 50, TRAINED)], SEGMENT)  # 30-40: frozen; 50-: padding
IS_TRAINED = np.r_[np.ones(20), np.zeros(20), np.ones(10), np.zeros(14)] > 0
IS_STATISTIC = np.r_[np.zeros(20), np.ones(10), np.zeros(34)] > 0
RATE = 0.05

RECIPE = find_recipe("glyphs")
LAYERS = resolve_layers(("conv 4 3x3 stride 2", "batchnorm", "relu", "avgpool all", "dense classes"), RECIPE.shape, 10)

Gradients = list[np.ndarray]


def twin_sgd(spec: TrainSpec, x: np.ndarray, gradients: Gradients) -> np.ndarray:
    momentum = np.zeros_like(x)
    for gradient in gradients:
        slope = gradient + spec.weight_decay * x
        momentum = spec.momentum * momentum + slope
        x = x - RATE * (slope + spec.momentum * momentum if spec.optimizer == "nesterov" else momentum)
    return x


def twin_adamw(spec: TrainSpec, x: np.ndarray, gradients: Gradients) -> np.ndarray:
    mean, square = np.zeros_like(x), np.zeros_like(x)
    for number, gradient in enumerate(gradients, start=1):
        x = x - RATE * spec.weight_decay * x
        mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
        square = BETAS[1] * square + (1 - BETAS[1]) * gradient**2
        unbiased = mean / (1 - BETAS[0] ** number), square / (1 - BETAS[1] ** number)
        x = x - RATE * unbiased[0] / (np.sqrt(unbiased[1]) + EPSILON)
    return x


def clipped(gradients: Gradients, longest: float) -> Gradients:
    return [g * min(1, longest / np.linalg.norm(g[IS_TRAINED])) for g in gradients]


@pytest.mark.parametrize("longest", [0.0, 1.5])
@pytest.mark.parametrize(
    ("optimizer", "twin"), [("sgd", twin_sgd), ("nesterov", twin_sgd), ("adamw", twin_adamw)], ids=lambda p: str(p)[:8]
)
def test_ten_steps_go_where_the_formula_goes(optimizer: str, twin: Callable[..., np.ndarray], longest: float) -> None:
    """Trained parameters by the formula; statistics by their own rate, unclipped and undecayed; nothing else moves."""
    rng = np.random.default_rng(4)
    spec = TrainSpec(optimizer=optimizer, weight_decay=0.1, clip=longest)  # type: ignore[arg-type]
    start = rng.normal(size=LENGTH).astype(np.float32)
    x, gradients = start.copy(), [rng.normal(size=LENGTH).astype(np.float32) for _ in range(10)]
    own = Optimizer(spec, SEGMENTS, LENGTH)
    for gradient in gradients:
        own.step(x, gradient.copy(), RATE)
    expected = twin(spec, start.astype(np.float64), clipped(gradients, longest) if longest else gradients)
    np.testing.assert_allclose(x[IS_TRAINED], expected[IS_TRAINED], rtol=2e-5, atol=2e-6)
    statistics = start.astype(np.float64)
    for gradient in gradients:
        statistics = statistics - STATISTIC_RATE * gradient
    np.testing.assert_allclose(x[IS_STATISTIC], statistics[IS_STATISTIC], rtol=1e-5, atol=1e-6)
    others = ~IS_TRAINED & ~IS_STATISTIC
    assert (x[others] == start[others]).all()
    assert all((array[~IS_TRAINED] == 0).all() for array in own.arrays.values()), "state where nothing is learnt"


def test_a_short_gradient_is_left_alone() -> None:
    """To the bit: clipping that does not clip must not cost a rounding."""
    x, gradient = np.zeros(LENGTH, np.float32), np.full(LENGTH, 0.1, np.float32)
    own = Optimizer(TrainSpec(clip=1.0), SEGMENTS, LENGTH)
    own.step(x, gradient, RATE)
    assert (gradient == np.float32(0.1)).all()


# -- In a trainer ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def glyphs() -> Dataset:
    return load_dataset(RECIPE)


def a_trainer(dataset: Dataset, optimizer: str, order_seed: int = 1, **settings: float) -> Trainer:
    spec = TrainSpec(optimizer=optimizer, learning_rate=0.003, warmup=0.0, **settings)  # type: ignore[arg-type]
    model = build_model(LAYERS, RECIPE.mean, RECIPE.std, batch=32)
    trainer = Trainer(spec, 1, model, dataset, np.arange(500), order_seed=order_seed)
    trainer.begin(0)
    return trainer


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adamw"])
def test_a_restored_trainer_goes_on_to_the_bit(glyphs: Dataset, optimizer: str) -> None:
    """Moments and their count come back by name; without the count Adam's correction would begin again."""
    trainer = a_trainer(glyphs, optimizer, clip=0.5)
    for _ in range(5):
        trainer.step()
    kept = trainer.state()
    expected = [trainer.step() for _ in range(5)]
    again = a_trainer(glyphs, optimizer, clip=0.5)
    again.restore(kept)
    assert [again.step() for _ in range(5)] == expected
    assert (again.x == trainer.x).all()


def test_adam_is_adam_in_a_trainer_too(glyphs: Dataset) -> None:
    """A newcomer takes x, and running statistics in it; its moments begin at 0 with their count."""
    donor, newcomer = a_trainer(glyphs, "adamw"), a_trainer(glyphs, "adamw", order_seed=2)
    first = [trainer.step() for trainer in (donor, newcomer) for _ in range(20)]
    newcomer.take_fragments()
    fragment = donor.fragment(0)
    assert fragment is not None and not fragment.momentum_levels.any()
    newcomer.load_fragment(0, b"d", fragment, keep=False)
    assert newcomer.optimizer.updates == 0 and not any(array.any() for array in newcomer.optimizer.arrays.values())
    np.testing.assert_allclose(newcomer.x, donor.x, atol=np.abs(donor.x).max() / 127)
    own = donor.look(), newcomer.look()
    assert abs(own[0].loss - own[1].loss) < 0.1
    newcomer.begin(0)
    assert newcomer.step() < max(first)
    assert newcomer.optimizer.updates == 1


def test_a_node_that_came_back_and_turned_the_swarm_down_has_its_moments_again(glyphs: Dataset) -> None:
    donor, back = a_trainer(glyphs, "adamw"), a_trainer(glyphs, "adamw", order_seed=2)
    for _ in range(5):
        back.step()
    before = back.state()
    back.take_fragments()
    fragment = donor.fragment(0)
    assert fragment is not None
    back.load_fragment(0, b"d", fragment, keep=False)
    back.drop_fragments()
    after = back.state()
    assert after.counters == before.counters
    assert all((after.arrays[name] == array).all() for name, array in before.arrays.items())


def test_adam_s_moments_are_never_shared(glyphs: Dataset) -> None:
    """Even where a peer sends momentum: spec and trainer agree that there is none."""
    one, other = a_trainer(glyphs, "adamw"), a_trainer(glyphs, "sgd", order_seed=2)
    other.step()
    request = one.offer(7, 1.0, False, with_momentum=True)
    assert request is not None and request.momentum is None
    asked = other.offer(8, 1.0, False, with_momentum=True)
    assert asked is not None and asked.momentum is not None
    answer, statistics = one.respond(asked)
    assert answer.momentum is None and statistics.momentum_mixed == 0


def test_a_state_of_another_optimizer_is_refused(glyphs: Dataset) -> None:
    """Someone who edits the spec of a run learns it here."""
    kept = a_trainer(glyphs, "sgd").state()
    with pytest.raises(DataError, match="the state's mean is nothing"):
        a_trainer(glyphs, "adamw").restore(kept)
