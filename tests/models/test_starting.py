"""Beginning with a trained model: what fits is taken, a last layer for other classes is not, the rest is refused."""

from __future__ import annotations

import numpy as np
import pytest

from gossip.errors import SpecError
from gossip.models.layers import Shape, resolve_layers
from gossip.models.layout import layout_of, named_parameters
from gossip.models.model import build_model
from gossip.models.portable import PortableModel
from gossip.models.starting import start_of

CHAIN = ("conv 4 3x3", "relu", "avgpool all", "dense 6", "relu", "dense classes")


def trained(texts: tuple[str, ...] = CHAIN, shape: Shape = (8, 8, 1), classes: int = 3) -> PortableModel:
    """As if it had been trained: all numbers drawn."""
    layers = resolve_layers(texts, shape, classes)
    x = np.random.default_rng(1).standard_normal(list(layout_of(layers).values())[-1].end, np.float32)
    return PortableModel(layers, tuple("abcdefgh"[:classes]), (0.5,) * shape[2], (1.0,) * shape[2], x, b"")


def test_the_same_network_begins_as_it_ended() -> None:
    found = trained()
    start = start_of(found, found.layers)
    assert start.fresh == ()
    model = build_model(found.layers, found.mean, found.std, start=start.parameters)
    assert model.knows_start and model.init(7).tobytes() == found.x.tobytes()


def test_other_classes_get_a_last_layer_of_their_own() -> None:
    """The very one that the seed draws for everybody."""
    found, layers = trained(), resolve_layers(CHAIN, (8, 8, 1), 7)
    start = start_of(found, layers)
    assert start.fresh == ("5.dense.weight", "5.dense.bias")
    model, drawn = build_model(layers, (0.5,), (1.0,), start=start.parameters), build_model(layers, (0.5,), (1.0,))
    begun, other = (named_parameters(m.init(3), m.layout) for m in (model, drawn))
    for name, parameter in begun.items():
        assert np.array_equal(parameter, other[name] if name in start.fresh else found.parameters[name]), name


def test_images_of_another_size_are_none_of_its_business_where_no_parameter_depends_on_it() -> None:
    assert start_of(trained(shape=(12, 12, 1)), resolve_layers(CHAIN, (8, 8, 1), 3)).fresh == ()


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (trained(("conv 5 3x3", *CHAIN[1:])), 'has other layers: layer 1 is "conv 5 3x3", expected "conv 4 3x3"'),
        (trained((*CHAIN[:4], "dense classes")), 'layer 5 is "dense 3"|5 of them, expected 6'),
        (trained(CHAIN[1:], (8, 8, 4)), 'layer 1 is "relu", expected "conv 4 3x3"'),
        (trained(shape=(8, 8, 2)), r"does not fit: 0\.conv\.weight is \[4, 3, 3, 2\], expected \[4, 3, 3, 1\]"),
    ],
    ids=["filters", "one fewer", "none in front", "channels"],
)
def test_anything_else_is_refused_by_name(other: PortableModel, expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        start_of(other, resolve_layers(CHAIN, (8, 8, 1), 3))


def test_a_last_layer_of_the_same_classes_that_sees_other_values_is_refused() -> None:
    chain = ("conv 4 3x3", "dense classes")
    with pytest.raises(SpecError, match=r"1\.dense\.weight takes 400 values, expected 144"):
        start_of(trained(chain, (12, 12, 1)), resolve_layers(chain, (8, 8, 1), 5))


def test_who_lacks_the_file_knows_that() -> None:
    """It begins as the seed draws, until others give it their state."""
    layers = resolve_layers(CHAIN, (8, 8, 1), 3)
    model, drawn = build_model(layers, (0.5,), (1.0,), start=None), build_model(layers, (0.5,), (1.0,))
    assert not model.knows_start and drawn.knows_start
    assert np.array_equal(model.init(1), drawn.init(1))
