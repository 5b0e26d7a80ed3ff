"""Layers that are not learnt: named by patterns, left alone by every step, and what is learnt beside them is right."""

from __future__ import annotations

import numpy as np
import numpy_twin
import pytest

from gossip.errors import SpecError
from gossip.kernels import optimizer
from gossip.models.accuracy import at_most
from gossip.models.freezing import frozen_parameters
from gossip.models.layers import resolve_layers
from gossip.models.layout import layout_of, named_parameters
from gossip.models.model import Model, build_model
from gossip.models.plan import plan

SHAPE = (9, 10, 2)
LAYERS = resolve_layers(
    (
        *("conv 16 3x3 same", "batchnorm", "relu", "mark a", "conv 16 3x3 same nobias", "batchnorm", "add a", "relu"),
        *("conv 6 3x3 stride 2", "groupnorm 2", "relu", "maxpool 2", "dense 8", "relu", "dense classes"),
    ),
    SHAPE,
    5,
)
IMAGES, LABELS = (np.random.default_rng(1).integers(0, n, s, np.uint8) for n, s in ((256, (40, *SHAPE)), (5, 40)))


@pytest.fixture(autouse=True)
def _however_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step as short as these is shared by threads, too."""
    monkeypatch.setattr("gossip.models.model.SHARED_PRODUCTS", 0)


def model_with(*patterns: str, threads: int = 1) -> Model:
    frozen = frozen_parameters(LAYERS, patterns)
    return build_model(LAYERS, (0.4, 0.5), (0.5, 1), batch=40, frozen=frozen, threads=threads)


def start_of(model: Model) -> np.ndarray:
    """Running statistics are not what a batch shows."""
    return model.init(2) + np.abs(0.1 * np.random.default_rng(3).standard_normal(model.dim, np.float32))


def gradient_of(model: Model) -> dict[str, np.ndarray]:
    gradient = np.full(model.dim, np.nan, np.float32)
    model.loss_and_grad(start_of(model), IMAGES, LABELS, gradient)
    return named_parameters(gradient, model.layout)


def test_patterns_are_names_of_parameters_or_kinds_of_layers() -> None:
    convolutions = ["0.conv.weight", "0.conv.bias", "4.conv.weight", "8.conv.weight", "8.conv.bias"]
    assert list(frozen_parameters(LAYERS, ["conv*"])) == convolutions
    assert list(frozen_parameters(LAYERS, ["conv"])) == convolutions
    assert frozen_parameters(LAYERS, ["0.*", "*.bias"])[:3] == ("0.conv.weight", "0.conv.bias", "1.batchnorm.bias")
    norms = frozen_parameters(LAYERS, ["batchnorm", "9.groupnorm.weight"])
    assert len(norms) == 9 and {"1.batchnorm.weight", "5.batchnorm.variance", "9.groupnorm.weight"} < set(norms)
    assert frozen_parameters(LAYERS, []) == ()


def test_a_pattern_for_nothing_names_what_there_is() -> None:
    with pytest.raises(
        SpecError, match=r"'conf\*' is none of the parameters; there are 0\.conv\.weight, .* and 7 more"
    ):
        frozen_parameters(LAYERS, ["0.*", "conf*"])
    for everything in (["*"], ["*.weight", "*.bias"]):
        with pytest.raises(SpecError, match="leaves nothing to learn"):
            frozen_parameters(LAYERS, everything)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "patterns",
    [["conv"], ["0.*"], ["8.*"], ["dense"], ["groupnorm"], ["0.conv.bias", "12.dense.weight"], ["1.*.weight", "5.*s"]],
    ids=str,
)
def test_what_is_learnt_gets_the_gradient_it_gets_without(patterns: list[str], threads: int) -> None:
    """Whatever is frozen before it, behind or between; and what is frozen gets none."""
    frozen, expected = frozen_parameters(LAYERS, patterns), gradient_of(model_with())
    found = gradient_of(model_with(*patterns, threads=threads))
    for name, gradient in found.items():
        if name not in frozen:
            assert gradient == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    wholly = [f"{number}." for number in range(len(LAYERS)) if is_whole(f"{number}.", frozen)]
    assert not any(gradient.any() for name, gradient in found.items() if name.startswith(tuple(wholly)))


def is_whole(layer: str, frozen: tuple[str, ...]) -> bool:
    return all(name in frozen for name in model_with().layout if name.startswith(layer))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("patterns", [["batchnorm"], ["*.mean", "*.variance"], ["batchnorm", "4.*"]], ids=str)
def test_a_frozen_normalisation_is_a_constant_factor(patterns: list[str], threads: int) -> None:
    """It uses what it came with, in training too; the loss and its slopes are those of an evaluation, in float64."""
    model = model_with(*patterns, threads=threads)
    x, gradient = start_of(model), np.zeros(model.dim, np.float32)
    seen = (IMAGES / 255 - [0.4, 0.5]) / [0.5, 1]
    loss = model.loss_and_grad(x, IMAGES, LABELS, gradient)
    assert loss == pytest.approx(exact_loss(x.astype(np.float64), seen), rel=1e-5)
    rng = np.random.default_rng(4)
    learnt = [slot for name, slot in model.layout.items() if name not in frozen_parameters(LAYERS, patterns)]
    for slot in learnt:
        for i in rng.integers(slot.start, slot.end, 3):
            losses = []
            for moved in (-1e-6, 1e-6):
                vector = x.astype(np.float64)
                vector[i] += moved
                losses.append(exact_loss(vector, seen))
            assert gradient[i] == pytest.approx((losses[1] - losses[0]) / 2e-6, rel=1e-3, abs=1e-5)


def exact_loss(x: np.ndarray, seen: np.ndarray) -> float:
    logits = numpy_twin.forward(LAYERS, x, seen, is_training=False)[-1].reshape(len(seen), -1)
    return numpy_twin.cross_entropy(logits, LABELS)[0]


@pytest.mark.parametrize("patterns", [["conv"], ["batchnorm", "*.bias"], ["?.*"]], ids=str)
def test_steps_leave_what_is_frozen_alone(patterns: list[str]) -> None:
    """To the bit, decay, momentum and running statistics included; and the rest moves."""
    model, frozen = model_with(*patterns), frozen_parameters(LAYERS, patterns)
    x, gradient, momentum = start_of(model), *np.zeros((2, model.dim), np.float32)
    for _ in range(5):
        model.loss_and_grad(x, IMAGES, LABELS, gradient)
        optimizer.sgd(model.segments, x, gradient, momentum, 0.01, 0.9, 0.1, False)
    before, after = (named_parameters(vector, model.layout) for vector in (start_of(model), x))
    remembered = named_parameters(momentum, model.layout)
    for name, slot in model.layout.items():
        assert np.array_equal(after[name], before[name]) == (name in frozen), name
        assert remembered[name].any() == (name not in frozen and not slot.is_statistic), name


def test_no_slopes_are_computed_below_the_first_layer_that_is_learnt() -> None:
    """What makes retraining the last layers cheap: their table, read off."""
    table, sizes = plan(LAYERS, layout_of(LAYERS), 32, at_most(4), frozen_parameters(LAYERS, ["?.*"]))
    whole, whole_sizes = plan(LAYERS, layout_of(LAYERS), 32, at_most(4))
    below = table[: next(i for i, row in enumerate(table) if row["needs_gradient"])]
    assert len(below) == 7 and not below["needs_input_slopes"].any() and not below["needs_other_slopes"].any()
    assert not table[len(below)]["needs_input_slopes"] and table[len(below) + 1 :]["needs_input_slopes"].all()
    assert whole[1:]["needs_input_slopes"].all()
    assert sizes.values < whole_sizes.values
