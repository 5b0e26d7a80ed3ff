"""The kernels against their NumPy twin, and the twin against finite differences."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy_twin
import pytest

from gossip.errors import SpecError
from gossip.kernels import optimizer, step
from gossip.models.layers import Layer, Shape, preset_layers, resolve_layers
from gossip.models.model import Model, build_model

CHAINS: dict[str, tuple[tuple[str, ...], Shape, int]] = {
    "mlp": (preset_layers("mlp"), (28, 28, 1), 10),
    "lenet": (preset_layers("lenet"), (28, 28, 1), 10),
    "one dense": (("dense classes",), (3, 2, 2), 3),
    "same": (("conv 5 3x3 same", "relu", "conv 3 5x5 same", "relu", "dense classes"), (6, 9, 3), 4),
    "pool before relu": (("conv 7 2x2", "maxpool 3", "relu", "dense 5", "relu", "dense classes"), (7, 7, 2), 10),
    "pool first": (("maxpool 2", "relu", "conv 2 1x1", "dense classes"), (8, 8, 1), 5),
    "strides": (("conv 5 3x3 same stride 2", "relu", "conv 4 2x2 stride 3 nobias", "dense classes"), (9, 11, 2), 3),
    "winograd": (("conv 16 3x3", "relu", "conv 32 3x3 same", "relu", "conv 16 3x3", "dense classes"), (9, 7, 3), 4),
    "batchnorm": (("conv 6 3x3 same nobias", "batchnorm", "relu", "avgpool 2", "dense classes"), (6, 4, 1), 4),
    "norms everywhere": (
        ("batchnorm", "dense 9", "batchnorm", "relu", "dense 8", "groupnorm 2", "relu", "dense classes"),
        (5, 4, 2),
        6,
    ),
    "groupnorm": (("conv 6 3x3", "groupnorm 3", "relu", "groupnorm 1", "avgpool all", "dense classes"), (6, 6, 2), 4),
    "shortcuts": (
        (
            *("mark a", "conv 4 3x3 same", "mark b", "relu", "conv 4 3x3 same", "add b", "relu", "mark b"),
            *("conv 6 3x3 same stride 2 nobias", "batchnorm", "add b", "relu", "mark c", "groupnorm 2", "add c"),
            *("add c", "add a", "dense classes"),
        ),
        (7, 5, 2),
        3,
    ),
}


def some_samples(seed: int, shape: Shape, classes: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), np.uint8), rng.integers(0, classes, count, np.uint8)


def model_of(chain: str, **options: Any) -> tuple[Model, Shape, int]:
    texts, shape, classes = CHAINS[chain]
    channels = range(shape[2])
    mean, std = [0.1 + 0.2 * c for c in channels], [0.3 + 0.1 * c for c in channels]
    return build_model(resolve_layers(texts, shape, classes), mean, std, **options), shape, classes


def seen_by(shape: Shape, images: np.ndarray) -> np.ndarray:
    """What `model_of(...)` makes of images, in float64."""
    channels = np.arange(shape[2])
    return (images / 255 - (0.1 + 0.2 * channels)) / (0.3 + 0.1 * channels)


def a_vector(model: Model, seed: int) -> np.ndarray:
    """float32[dim] like init, but with biases that are not 0."""
    return model.init(seed) + 0.1 * np.random.default_rng(seed + 1).standard_normal(model.dim, np.float32)


def assert_same_gradient(
    model: Model, gradient: np.ndarray, expected: np.ndarray, story: str, tolerance: float = 1e-4
) -> None:
    """Every parameter by itself; what should be 0, as of a bias before a batchnorm, by the size of the whole."""
    floor = 1e-2 * np.linalg.norm(expected)
    for name, slot in model.layout.items():
        ours, theirs = gradient[slot.start : slot.end], expected[slot.start : slot.end]
        error = np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), floor, 1e-12)
        assert error <= tolerance, f"{name}: relative error {error:.1e}; {story}"


@pytest.mark.parametrize("chain", CHAINS)
def test_the_twin_agrees_with_finite_differences(chain: str) -> None:
    """In float64 a central difference is right to about 1e-8, so the twin needs no other proof."""
    model, shape, classes = model_of(chain)
    images, labels = some_samples(5, shape, classes, 3)
    seen = seen_by(shape, images)
    x = a_vector(model, 5).astype(np.float64)
    _, gradient, _ = numpy_twin.loss_and_grad(model.layers, x, seen, labels, 0.1)
    rng = np.random.default_rng(6)
    for name, slot in model.layout.items():
        if slot.is_statistic:
            continue
        for i in rng.integers(slot.start, slot.end, 4):
            above, below = x.copy(), x.copy()
            above[i] += 1e-6
            below[i] -= 1e-6
            rise, fall = (
                numpy_twin.loss_and_grad(model.layers, moved, seen, labels, 0.1)[0] for moved in (above, below)
            )
            assert (rise - fall) / 2e-6 == pytest.approx(gradient[i], rel=1e-5, abs=1e-8), f"{name}, number {i}"


@pytest.mark.parametrize("count", [1, 15, 16, 33, 70])
@pytest.mark.parametrize("chain", CHAINS)
def test_the_kernels_agree_with_the_twin(chain: str, count: int) -> None:
    """Every layer's gradient, the loss, and what is predicted: full and idle lanes, one chunk and several."""
    batch = max(count, 4) if "batchnorm" in CHAINS[chain][0] else 16
    model, shape, classes = model_of(chain, batch=batch, smoothing=0.1)
    images, labels = some_samples(count, shape, classes, batch if batch < 16 else count)
    assert_agrees_with_twin(model, images, labels, seen_by(shape, images), f"chain {chain!r}, {count} samples")


def assert_agrees_with_twin(
    model: Model, images: np.ndarray, labels: np.ndarray, seen: np.ndarray, story: str, tolerance: float = 1e-4
) -> None:
    x, gradient = a_vector(model, len(images)), np.full(model.dim, np.nan, np.float32)
    loss = model.loss_and_grad(x, images, labels, gradient)
    exact = x.astype(np.float64)
    expected_loss, expected, _ = numpy_twin.loss_and_grad(model.layers, exact, seen, labels, model.smoothing)
    assert loss == pytest.approx(expected_loss, rel=1e-5), story
    assert_same_gradient(model, gradient, expected, story, tolerance)
    logits = numpy_twin.forward(model.layers, exact, seen, is_training=False)[-1].reshape(len(images), -1)
    judged = model.evaluate(x, images, labels)
    assert judged.loss == pytest.approx(numpy_twin.cross_entropy(logits, labels)[0], rel=1e-5), story
    clear = np.diff(np.sort(logits)[:, -2:]).ravel() > 1e-4
    assert np.array_equal(judged.predictions[clear], logits.argmax(axis=1)[clear]), story
    assert judged.accuracy == np.mean(judged.predictions == labels)


# -- One layer at a time -----------------------------------------------------------------------------------

LINEAR = {
    "dense": ("dense 7",),
    "dense, many tiles": ("dense 43",),
    "conv": ("conv 7 3x3",),
    "conv same": ("conv 9 5x5 same",),
    "conv 1x1": ("conv 33 1x1",),
    "conv of even size": ("conv 5 4x4",),
    "conv stride 2": ("conv 8 3x3 same stride 2",),
    "conv stride 3": ("conv 8 2x2 stride 3 nobias",),
    "conv of 16 channels": ("conv 16 3x3 same", "conv 48 3x3 same", "conv 16 3x3"),
    "avgpool": ("avgpool 2",),
    "avgpool all": ("avgpool all",),
    "batchnorm": ("batchnorm",),
    "groupnorm": ("groupnorm 2",),
    "groupnorm of one part": ("groupnorm 1",),
    "add": ("mark a", "conv 8 3x3 same stride 2 nobias", "add a"),
    "add behind a norm": ("mark a", "batchnorm", "add a", "mark b", "groupnorm 3", "add b"),
}
KINKED = {
    "relu": ("relu",),
    "relu behind a norm": ("batchnorm", "relu"),
    "relu behind a sum": ("mark a", "groupnorm 2", "add a", "relu"),
    "relu of a winograd": ("conv 16 3x3 same", "relu", "conv 16 3x3 same", "relu"),
    "relu by itself": ("maxpool 2", "relu"),
    "maxpool": ("maxpool 2",),
    "maxpool of all": ("maxpool 10",),
}


@pytest.mark.parametrize("winograd", [0, 2, 4])
@pytest.mark.parametrize("name", [*LINEAR, *KINKED])
def test_one_layer_is_right_to_five_digits(name: str, winograd: int) -> None:
    """The gate that counts: a small error of one layer drowns in a deep chain's.

    A layer between two that pass slopes on, 37 samples, inputs that no rounding carries over a kink.
    """
    texts = {**LINEAR, **KINKED}[name]
    if winograd and not any("3x3" in text for text in texts):
        pytest.skip("no layer for it")
    shape, classes = (10, 10, 3), 5
    layers = resolve_layers(("conv 6 1x1", *texts, "dense classes"), shape, classes)
    model = build_model(layers, [0.5] * 3, [0.3] * 3, batch=37, winograd=winograd)
    x = a_vector(model, 37).astype(np.float64)
    for seed in range(100):
        images, labels = some_samples(seed, shape, classes, 37)
        seen = (images / 255 - 0.5) / 0.3
        if distance_to_kinks(layers, numpy_twin.forward(layers, x, seen)) > 3e-6:
            break
    else:
        pytest.fail("no samples far enough from the kinks")
    assert_agrees_with_twin(model, images, labels, seen, name, 1e-4 if winograd == 4 else 1e-5)


def distance_to_kinks(layers: Sequence[Layer], values: Sequence[np.ndarray]) -> float:
    """How much a relu's input or a pool's two largest may change before the slopes jump."""
    closest = math.inf
    for layer, inputs in zip(layers, values, strict=False):
        if layer.kind == "relu":
            closest = min(closest, np.abs(inputs[inputs != 0]).min())
        elif layer.kind == "maxpool":
            largest = np.sort(numpy_twin.windows(inputs, layer.kernel))[..., -2:]
            closest = min(closest, np.diff(largest).min())
    return closest


@pytest.mark.parametrize("winograd", [0, 4])
def test_resnet20_without_its_kinks_agrees_with_the_twin(winograd: int) -> None:
    """Nineteen convolutions and nine shortcuts deep; among its relus some input would always round over 0."""
    texts = tuple(text for text in preset_layers("resnet20") if text != "relu")
    model = build_model(resolve_layers(texts, (12, 12, 3), 10), [0.5] * 3, [0.3] * 3, batch=17, winograd=winograd)
    images, labels = some_samples(1, (12, 12, 3), 10, 17)
    assert_agrees_with_twin(model, images, labels, (images / 255 - 0.5) / 0.3, "resnet20")


# -- Chains nobody thought of ------------------------------------------------------------------------------


def a_random_chain(rng: np.random.Generator) -> tuple[tuple[Layer, ...], Shape, int]:
    """Whatever the grammar accepts of nine proposals: odd sizes, 1x1 images, kernels as large as the image."""
    shape = (int(rng.integers(1, 11)), int(rng.integers(1, 11)), int(rng.integers(1, 6)))
    classes = int(rng.integers(2, 8))
    texts: list[str] = []
    for _ in range(rng.integers(0, 10)):
        with contextlib.suppress(SpecError):
            proposal = a_random_layer(rng)
            resolve_layers((*texts, proposal, "dense classes"), shape, classes)
            texts.append(proposal)
    return resolve_layers((*texts, "dense classes"), shape, classes), shape, classes


def a_random_layer(rng: np.random.Generator) -> str:
    kernel, filters = rng.integers(1, 6), rng.choice([1, 2, 3, 5, 8, 16, 17, 32])
    words = [rng.choice(["", " same"]), rng.choice(["", " stride 2", " stride 3"]), rng.choice(["", " nobias"])]
    return str(
        rng.choice(
            [
                f"conv {filters} {kernel}x{kernel}{''.join(words)}",
                f"conv {rng.choice([16, 32])} 3x3{words[0]}",
                f"dense {rng.integers(1, 40)}",
                f"maxpool {rng.integers(1, 4)}",
                f"avgpool {rng.choice(['all', '2', '3'])}",
                f"groupnorm {rng.integers(1, 4)}",
                *("batchnorm", "relu", "relu", "mark a", "mark b", "add a", "add a", "add b"),
            ]
        )
    )


@pytest.mark.parametrize("seed", range(120))
def test_random_chains_agree_with_the_twin(seed: int) -> None:
    """Layers side by side that no preset has, with whatever batch; the seed says which."""
    rng = np.random.default_rng(seed)
    layers, shape, classes = a_random_chain(rng)
    has_batchnorm = any(layer.kind == "batchnorm" for layer in layers)
    count = int(rng.integers(20 if has_batchnorm else 1, 71))
    model = build_model(
        layers, [0.0] * shape[2], [1.0] * shape[2], batch=count if has_batchnorm else 16,
        winograd=int(rng.choice([0, 2, 4])), smoothing=float(rng.choice([0, 0.1])),
    )  # fmt: skip
    images, labels = some_samples(seed, shape, classes, count)
    story = f"{[layer.text for layer in layers]} on {shape}, {count} samples"
    assert_agrees_with_twin(model, images, labels, images / 255, story)


def sgd_step(
    model: Model, x: np.ndarray, gradient: np.ndarray, momentum: np.ndarray, images: np.ndarray, labels: np.ndarray,
    picked: np.ndarray, *settings: float,
) -> float:  # fmt: skip
    """One step on the picked samples. settings: rate, friction, decay."""
    loss = model.loss_and_grad(x, images[picked], labels[picked], gradient)
    optimizer.sgd(model.segments, x, gradient, momentum, *settings, False)
    return loss


def test_a_step_is_the_heavy_ball_formula_on_the_picked_samples() -> None:
    """m = 0.9 m + g + wd x, x -= lr m, twice, so that the second step sees the first one's momentum."""
    model, shape, classes = model_of("same")
    images, labels = some_samples(1, shape, classes, 50)
    picked = np.array([49, 3, 3, 17, 0], np.int64)
    x, gradient, momentum = a_vector(model, 1), np.zeros(model.dim, np.float32), np.zeros(model.dim, np.float32)
    expected_x, expected_momentum = x.astype(np.float64), np.zeros(model.dim)
    for _ in range(2):
        loss = sgd_step(model, x, gradient, momentum, images, labels, picked, 0.05, 0.9, 0.01)
        expected_loss, slope, _ = numpy_twin.loss_and_grad(
            model.layers, expected_x, seen_by(shape, images[picked]), labels[picked]
        )
        expected_momentum = 0.9 * expected_momentum + slope + 0.01 * expected_x
        expected_x = expected_x - 0.05 * expected_momentum
        assert loss == pytest.approx(expected_loss, rel=1e-4)
    np.testing.assert_allclose(x, expected_x, atol=1e-5)
    np.testing.assert_allclose(momentum, expected_momentum, atol=1e-4)


def test_padding_behind_the_parameters_stays_zero() -> None:
    """Exchanges cut the vectors into blocks of 256; what fills the last block must never move."""
    model, shape, classes = model_of("one dense")
    images, labels = some_samples(2, shape, classes, 20)
    picked = np.arange(20)
    bare = [a_vector(model, 2), *np.zeros((2, model.dim), np.float32)]
    padded = [np.concatenate([vector, np.zeros(256 - model.dim, np.float32)]) for vector in bare]
    for _ in range(3):
        losses = [sgd_step(model, *v, images, labels, picked, 0.1, 0.9, 0.01) for v in (bare, padded)]
        assert losses[0] == losses[1]
    for short, long in zip(bare, padded, strict=True):
        assert np.array_equal(short, long[: model.dim])
        assert not long[model.dim :].any()


def allocations_of_a_step(chain: str, batch: int) -> tuple[int, int]:
    """(made, given back) while one step is taken."""
    from numba.core.runtime import _nrt_python, rtsys

    model, shape, classes = model_of(chain)
    images, labels = some_samples(3, shape, classes, batch)
    x, gradient, momentum = a_vector(model, 3), *np.zeros((2, model.dim), np.float32)
    settings = (images, labels, np.arange(batch), 0.1, 0.9, 0.0)
    sgd_step(model, x, gradient, momentum, *settings)
    _nrt_python.memsys_enable_stats()
    try:
        before = rtsys.get_allocation_stats()
        sgd_step(model, x, gradient, momentum, *settings)
        after = rtsys.get_allocation_stats()
    finally:
        _nrt_python.memsys_disable_stats()
    return after.alloc - before.alloc, after.free - before.free


def test_a_step_allocates_nothing() -> None:
    """Numba wraps each array argument of the two calls in a small handle; the step itself takes no memory."""
    found = {allocations_of_a_step(chain, batch) for chain in CHAINS for batch in (8, 40)}
    assert len(found) == 1, "depends on the model or the batch"
    made, given_back = found.pop()
    assert made == given_back <= 20


def test_read_only_data_costs_no_second_compile() -> None:
    """Numba has another type for arrays that cannot be written, such as a memory-mapped file."""
    model, shape, classes = model_of("one dense")
    images, labels = some_samples(4, shape, classes, 8)
    x, gradient = a_vector(model, 4), np.zeros(model.dim, np.float32)
    for writeable in (True, False):
        images.flags.writeable = labels.flags.writeable = writeable
        model.loss_and_grad(x, images, labels, gradient)
    assert images.flags.writeable is False and len(step.loss_and_grad.signatures) == 1


def test_large_logits_overflow_nothing() -> None:
    """exp(1000) is infinite in float32 and float64; the softmax must not meet it."""
    model, shape, classes = model_of("one dense")
    images, labels = some_samples(7, shape, classes, 30)
    x, gradient = 3000 * a_vector(model, 7), np.empty(model.dim, np.float32)
    loss = model.loss_and_grad(x, images, labels, gradient)
    expected_loss, expected, _ = numpy_twin.loss_and_grad(
        model.layers, x.astype(np.float64), seen_by(shape, images), labels
    )
    assert loss > 1000 and loss == pytest.approx(expected_loss, rel=1e-4)
    assert_same_gradient(model, gradient, expected, "logits in the thousands")


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("chain", ["mlp", "lenet", "pool before relu"])
def test_a_poisoned_vector_shows_in_the_loss(chain: str, poison: float) -> None:
    """The trainer looks at the loss only: neither relu nor pooling may swallow a NaN on its way there."""
    model, shape, classes = model_of(chain)
    images, labels = some_samples(8, shape, classes, 17)
    x = a_vector(model, 8)
    x[model.layout[next(iter(model.layout))].start] = poison
    assert not math.isfinite(model.loss_and_grad(x, images, labels, np.empty(model.dim, np.float32)))


def test_a_label_that_is_no_class_shows_in_the_loss() -> None:
    """And writes nowhere: the label is compared with classes, never used as an index."""
    model, shape, classes = model_of("one dense")
    images, labels = some_samples(9, shape, classes, 4)
    labels[2] = classes
    assert math.isnan(model.loss_and_grad(model.init(1), images, labels, np.empty(model.dim, np.float32)))


def test_no_samples_are_an_error_not_a_nan() -> None:
    """The mean of nothing would be NaN, and x with it after the step."""
    model, shape, classes = model_of("one dense")
    images, labels = some_samples(9, shape, classes, 4)
    x, gradient, momentum = model.init(1), *np.zeros((2, model.dim), np.float32)
    with pytest.raises(ZeroDivisionError):
        sgd_step(model, x, gradient, momentum, images, labels, np.zeros(0, np.int64), 0.1, 0.9, 0.0)
    assert np.array_equal(x, model.init(1))
