"""A loss that is not finite: the layer that went first is named, whatever it takes along behind it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gossip.models.layers import resolve_layers
from gossip.models.layout import named_parameters
from gossip.models.model import Model, build_model

TEXTS = (
    *("conv 16 3x3 same", "batchnorm", "relu", "mark a", "conv 16 3x3 same nobias", "groupnorm 4", "add a", "relu"),
    *("maxpool 2", "conv 16 3x3 same", "relu", "dense 20", "relu", "dense classes"),
)


def a_model() -> tuple[Model, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    model = build_model(resolve_layers(TEXTS, (8, 8, 1), 10), (0.5,), (0.25,), batch=40)
    images, labels = rng.integers(0, 256, (40, 8, 8, 1), np.uint8), rng.integers(0, 10, 40).astype(np.uint8)
    return model, model.init(3), images, labels


@pytest.mark.parametrize(
    "broken", ["0.conv.bias", "1.batchnorm.weight", "4.conv.weight", "9.conv.weight", "13.dense.bias"]
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_bad_number_is_traced_to_its_layer(broken: str, value: float) -> None:
    """One coordinate of one layer: everything behind it is ruined as well, and must not be blamed."""
    model, x, images, labels = a_model()
    named_parameters(x, model.layout)[broken].flat[0] = value
    gradient = np.zeros_like(x)
    assert not math.isfinite(model.loss_and_grad(x, images, labels, gradient))
    place = int(broken.split(".")[0])
    expected = f'layer {place + 1} "{model.layers[place].text}": its weights are not finite any more'
    assert model.where_it_broke(x, images, labels) == expected


def test_weights_that_grew_too_large_are_told_from_weights_that_are_none() -> None:
    model, x, images, labels = a_model()
    named_parameters(x, model.layout)["11.dense.weight"][:] = 1e38
    assert not math.isfinite(model.loss_and_grad(x, images, labels, np.zeros_like(x)))
    said = model.where_it_broke(x, images, labels)
    assert said == 'layer 12 "dense 20": its output overflows, with weights of up to 1e+38'


def test_outputs_that_are_finite_and_too_far_apart() -> None:
    """The largest is subtracted from the others, and that overflows."""
    model, x, images, labels = a_model()
    parameters = named_parameters(x, model.layout)
    parameters["13.dense.weight"][:] = 0
    parameters["13.dense.bias"][:] = 3e38 * (-1) ** np.arange(10)
    assert not math.isfinite(model.loss_and_grad(x, images, labels, np.zeros_like(x)))
    said = model.where_it_broke(x, images, labels)
    assert said == 'the loss itself, behind layer 14 "dense 10": its outputs reach 3e+38'


def test_nothing_is_blamed_where_nothing_is_wrong() -> None:
    model, x, images, labels = a_model()
    assert model.where_it_broke(x, images, labels) == ""
