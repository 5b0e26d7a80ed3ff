"""A model starts sensibly, learns, and names its parameters. (Its gradients: tests/kernels/test_step.py.)"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from gossip.kernels import optimizer
from gossip.models.layers import Shape, preset_layers, resolve_layers
from gossip.models.layout import named_parameters
from gossip.models.model import Model, build_model

CONVNET = ("conv 8 3x3 same", "relu", "maxpool 2", "conv 8 3x3", "relu", "dense 16", "relu", "dense classes")


def model_of(texts: tuple[str, ...], shape: Shape, classes: int) -> Model:
    return build_model(resolve_layers(texts, shape, classes), [0.5] * shape[2], [0.3] * shape[2])


def bars(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy 8x8 images with one bright bar: class 0 has a row, class 1 a column, class 2 the diagonal."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 160, (count, 8, 8, 1), np.uint8)
    labels = rng.integers(0, 3, count, np.uint8)
    for image, label, place in zip(images, labels, rng.integers(0, 8, count), strict=True):
        if label == 2:
            image[np.arange(8), np.roll(np.arange(8), place)] = 255
        else:
            image[(place, slice(None)) if label == 0 else (slice(None), place)] = 255
    return images, labels


@pytest.mark.parametrize("texts", [preset_layers("mlp"), CONVNET], ids=["mlp", "convnet"])
def test_a_model_learns_to_tell_bars_apart(texts: tuple[str, ...]) -> None:
    """The whole path: normalise, forward, backward, momentum. Samples it never saw, batches that do not fill 16."""
    images, labels = bars(1, 3000)
    unseen_images, unseen_labels = bars(2, 500)
    model = model_of(texts, (8, 8, 1), 3)
    x, gradient, momentum = model.init(3), *np.zeros((2, model.dim), np.float32)
    untrained = model.evaluate(x, unseen_images, unseen_labels)
    rng = np.random.default_rng(4)
    for _ in range(600):
        picked = rng.integers(0, 3000, 30)
        model.loss_and_grad(x, images[picked], labels[picked], gradient)
        optimizer.sgd(model.segments, x, gradient, momentum, 0.03, 0.9, 1e-4, False)
    trained = model.evaluate(x, unseen_images, unseen_labels)
    assert untrained.accuracy < 0.6 and trained.accuracy > 0.95
    assert trained.loss < 0.2 * untrained.loss


def test_the_same_seed_gives_the_same_start() -> None:
    """Every node of a swarm starts from the seed in the spec, without sending the vector."""
    model = model_of(preset_layers("lenet"), (28, 28, 1), 10)
    assert np.array_equal(model.init(7), model.init(7))
    assert not np.array_equal(model.init(7), model.init(8))


def test_a_start_keeps_the_size_of_signals() -> None:
    """He et al. 2015: variance 2 / inputs keeps activations alive through relus; biases start at 0."""
    model = model_of(preset_layers("mlp"), (28, 28, 1), 10)
    parameters = named_parameters(model.init(1), model.layout)
    assert parameters["0.dense.weight"].std() == pytest.approx(np.sqrt(2 / 784), rel=0.02)
    assert not parameters["0.dense.bias"].any()
    images, labels = np.random.default_rng(1).integers(0, 256, (200, 28, 28, 1), np.uint8), np.zeros(200, np.uint8)
    assert 1 < model.evaluate(model.init(1), images, labels).loss < 5


def test_the_layout_covers_the_vector_without_gaps() -> None:
    """A saved file must hold every parameter once; the names are what a reader of the file sees."""
    model = model_of(CONVNET, (8, 8, 2), 3)
    assert list(model.layout) == [
        *("0.conv.weight", "0.conv.bias", "3.conv.weight", "3.conv.bias"),
        *("5.dense.weight", "5.dense.bias", "7.dense.weight", "7.dense.bias"),
    ]
    slots = list(model.layout.values())
    assert [slot.start for slot in slots] == [0] + [slot.end for slot in slots[:-1]]
    assert slots[-1].end == model.dim == sum(layer.parameters for layer in model.layers)
    assert model.layout["3.conv.weight"].shape == (8, 3, 3, 8)
    assert model.layout["5.dense.weight"].shape == (16, 2 * 2 * 8)


def test_named_parameters_are_views() -> None:
    """Loading a file writes into x through them; a copy would be lost in silence."""
    model = model_of(CONVNET, (8, 8, 1), 3)
    x = np.zeros(1024 + model.dim, np.float32)
    named_parameters(x, model.layout)["7.dense.bias"][:] = 1
    assert x.sum() == 3 and x[model.dim - 3 : model.dim].all()


def test_evaluation_in_slices_is_the_evaluation_of_all() -> None:
    """The caller cuts a large test set so that the mailbox is served in between."""
    model = model_of(CONVNET, (8, 8, 1), 3)
    images, labels = bars(5, 100)
    x = model.init(5)
    whole = model.evaluate(x, images, labels)
    parts = [model.evaluate(x, images[part], labels[part]) for part in (slice(0, 37), slice(37, 100))]
    assert np.array_equal(whole.predictions, np.concatenate([part.predictions for part in parts]))
    assert whole.loss == pytest.approx((37 * parts[0].loss + 63 * parts[1].loss) / 100)


def test_resolving_a_chain_imports_neither_numba_nor_numpy() -> None:
    """`gossip check` reads spec files; it should not wait for a compiler to load."""
    code = "import sys, gossip.models.layers; sys.exit('numpy' in sys.modules or 'numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_statistics_lie_behind_everything_that_is_learnt() -> None:
    """They move otherwise than weights do, and an exchange rounds whole blocks."""
    model = model_of(preset_layers("resnet20"), (32, 32, 3), 10)
    kinds = [slot.is_statistic for slot in model.layout.values()]
    assert kinds == sorted(kinds) and any(kinds)
    ends = [slot.end for slot in model.layout.values()]
    assert [slot.start for slot in model.layout.values()] == [0, *ends[:-1]] and ends[-1] == model.dim
