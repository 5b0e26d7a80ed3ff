"""A batch shared by threads gives the gradient of one, the same bits every time, and nobody waits for ever."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from gossip.models import model as models
from gossip.models.layers import resolve_layers
from gossip.models.model import Model, build_model

CHAINS = {
    "dense": ("dense 40", "relu", "dense classes"),
    "conv": ("conv 16 3x3 same", "relu", "conv 16 3x3 same", "maxpool 2", "dense classes"),
    "normalised": (
        *("conv 16 3x3 same nobias", "batchnorm", "relu", "mark a"),
        *("conv 16 3x3 same nobias", "batchnorm", "add a", "relu", "avgpool all", "dense classes"),
    ),
}
SHAPE, CLASSES = (8, 8, 3), 5


@pytest.fixture(autouse=True)
def _always_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also steps that are too short to be worth it."""
    monkeypatch.setattr(models, "SHARED_PRODUCTS", 0)


def model_of(chain: str, threads: int) -> Model:
    layers = resolve_layers(CHAINS[chain], SHAPE, CLASSES)
    return build_model(layers, (0.5,) * 3, (0.3,) * 3, batch=80, threads=threads)


def gradient_of(model: Model, batch: int) -> tuple[float, np.ndarray]:
    rng = np.random.default_rng(batch)
    images, labels = rng.integers(0, 256, (batch, *SHAPE), np.uint8), rng.integers(0, CLASSES, batch, np.uint8)
    gradient = np.full(model.dim, np.nan, np.float32)
    loss = model.loss_and_grad(model.init(1), images, labels, gradient)
    return loss, gradient


@pytest.mark.parametrize("batch", [1, 16, 17, 40, 80])
@pytest.mark.parametrize("threads", [2, 3, 5])
@pytest.mark.parametrize("chain", CHAINS)
def test_a_team_computes_what_one_thread_does(chain: str, threads: int, batch: int) -> None:
    """Batch normalisation too: its statistics are those of the whole batch, not of a thread's part."""
    alone, together = gradient_of(model_of(chain, 1), batch), gradient_of(model_of(chain, threads), batch)
    assert together[0] == pytest.approx(alone[0], rel=1e-6)
    assert np.linalg.norm(together[1] - alone[1]) <= 2e-6 * np.linalg.norm(alone[1])


@pytest.mark.parametrize("chain", CHAINS)
def test_a_team_gives_the_same_bits_every_time(chain: str) -> None:
    """Whoever comes first: what threads add up is added in their order."""
    model = model_of(chain, 3)
    loss, gradient = gradient_of(model, 70)
    for _ in range(200):
        again = gradient_of(model, 70)
        assert again[0] == loss and np.array_equal(again[1], gradient)


def test_a_team_that_slept_wakes_up() -> None:
    """Helpers park soon after a step; the next one may come at any moment of that. Thousands of them do here."""
    model, rng = model_of("dense", 4), np.random.default_rng(2)
    images, labels = rng.integers(0, 256, (64, *SHAPE), np.uint8), rng.integers(0, CLASSES, 64, np.uint8)
    x, gradient = model.init(1), np.empty(model.dim, np.float32)
    pauses = rng.integers(0, 3000, 2000)
    for pause in pauses:
        model.loss_and_grad(x, images, labels, gradient)
        sum(range(pause))  # a while, in which helpers spin, lie down or sleep


def test_helpers_go_home_with_their_model() -> None:
    """Whoever builds many models must not be left with as many threads."""
    before = set(threading.enumerate())
    model = model_of("dense", 3)
    gradient_of(model, 64)
    helpers = set(threading.enumerate()) - before
    assert len(helpers) == 2
    del model
    gc.collect()
    for helper in helpers:
        helper.join(10.0)
    assert not any(helper.is_alive() for helper in helpers)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_smaller_team_normalises_over_the_whole_batch_too(threads: int) -> None:
    """Other nodes come to the machine while this one trains: each thread gets a larger part."""
    model = model_of("normalised", 4)
    model.use_threads(threads)
    alone, together = gradient_of(model_of("normalised", 1), 80), gradient_of(model, 80)
    assert np.linalg.norm(together[1] - alone[1]) <= 2e-6 * np.linalg.norm(alone[1])
