"""A chain of layer texts becomes shapes and parameter counts, or one sentence that says what to change."""

from __future__ import annotations

import pytest

from gossip.errors import SpecError
from gossip.models.layers import PRESETS, VALUES_MAX, preset_layers, resolve_layers, size

MNIST = (28, 28, 1)


def test_lenet_has_the_shapes_and_parameters_of_its_paper() -> None:
    """LeNet-5 without the sparse connections of its third layer: 44,426 parameters on 28x28 images."""
    layers = resolve_layers(preset_layers("lenet"), MNIST, 10)
    assert [layer.output for layer in layers if layer.parameters] == [
        (24, 24, 6),
        (8, 8, 16),
        (1, 1, 120),
        (1, 1, 84),
        (1, 1, 10),
    ]
    assert [layer.parameters for layer in layers if layer.parameters] == [156, 2416, 30840, 10164, 850]


def test_the_mlp_is_the_one_of_the_measurements() -> None:
    """784-128-10: every published figure is about these 101,770 parameters."""
    assert sum(layer.parameters for layer in resolve_layers(preset_layers("mlp"), MNIST, 10)) == 101_770


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_ends_with_as_many_outputs_as_there_are_classes(name: str) -> None:
    """The same preset serves ten digits and two glyphs."""
    shape = (32, 32, 3) if "cifar" in name else MNIST
    assert resolve_layers(preset_layers(name), shape, 26)[-1].text == "dense 26"


def test_the_text_is_canonical() -> None:
    """Nodes compare hashes of the texts, so spaces must not tell them apart, and resolving is idempotent."""
    layers = resolve_layers((" conv  8 3x3   same ", "maxpool 2", "dense  classes"), MNIST, 10)
    texts = tuple(layer.text for layer in layers)
    assert texts == ("conv 8 3x3 same", "maxpool 2", "dense 10")
    assert resolve_layers(texts, MNIST, 10) == layers


def test_same_keeps_height_and_width() -> None:
    """The kernel hangs over the edge by half its size on every side."""
    layer = resolve_layers(("conv 4 5x5 same", "dense 2"), (9, 7, 3), 2)[0]
    assert (layer.output, layer.padding, layer.weights, layer.biases) == ((9, 7, 4), 2, 4 * 5 * 5 * 3, 4)


WRONG: dict[tuple[str, ...], str] = {
    (): 'no layers; the shortest model is ["dense 10"]',
    ("dens 5",): 'layer 1 "dens 5": unknown layer; did you mean dense?',
    (
        "relu",
        "what",
        "dense 10",
    ): 'layer 2 "what": unknown layer; known: dense, conv, maxpool, avgpool, batchnorm, groupnorm, relu, mark, add',
    ("",): 'layer 1 "": unknown layer; known: dense, conv, maxpool, avgpool, batchnorm, groupnorm, relu, mark, add',
    ("dense",): 'layer 1 "dense": cannot be read; expected "dense 128" or "dense classes"',
    ("dense 0",): 'layer 1 "dense 0": cannot be read; expected "dense 128" or "dense classes"',
    ("dense 1e3",): 'layer 1 "dense 1e3": cannot be read; expected "dense 128" or "dense classes"',
    ("dense " + "9" * 5000,): 'cannot be read; expected "dense 128" or "dense classes"',
    ("maxpool 1\u0663",): 'cannot be read; expected "maxpool 2"',
    (
        "conv 6 5x3",
    ): 'expected "conv 6 5x5", "conv 6 5x5 same" or "conv 16 3x3 same stride 2 nobias", with a square kernel',
    ("maxpool -2",): 'layer 1 "maxpool -2": cannot be read; expected "maxpool 2"',
    ("relu 6",): 'layer 1 "relu 6": cannot be read; expected "relu" alone',
    ("conv 6 29x29",): 'layer 1 "conv 6 29x29": its kernel exceeds its input 28x28x1; use at most 28x28',
    ("conv 6 4x4 same",): 'layer 1 "conv 6 4x4 same": "same" needs an odd kernel; use 3x3 or 5x5',
    ("conv 6 5x5", "maxpool 5"): 'layer 2 "maxpool 5": does not divide its input 24x24x6; '
    "these do: 1, 2, 3, 4, 6, 8, 12, 24",
    ("maxpool 30",): 'layer 1 "maxpool 30": does not divide its input 28x28x1; these do: 1, 2, 4, 7, 14, 28',
    ("relu", "dense 9", "relu", "conv 6 5x5"): 'layer 4 "conv 6 5x5": needs an image, but layer 2 "dense 9" has '
    "flattened it to 1x1x9; move it before layer 2",
    ("dense 9", "maxpool 2"): 'layer 2 "maxpool 2": needs an image, but layer 1 "dense 9" has flattened it',
    ("dense 128", "relu"): 'layer 2 "relu" is the last and gives 1x1x128; expected "dense 10" at the end',
    ("dense 12",): 'layer 1 "dense 12" is the last and gives 1x1x12; expected "dense 10" at the end',
    ("conv 10 28x28",): 'layer 1 "conv 10 28x28" is the last and gives 1x1x10; expected "dense 10" at the end',
    ("conv 6 3x3 stride 0", "dense 10"): 'layer 1 "conv 6 3x3 stride 0": cannot be read; expected "conv 6 5x5", ',
    ("conv 6 3x3 nobias same", "dense 10"): "cannot be read; expected",
    ("avgpool 3", "dense 10"): 'layer 1 "avgpool 3": does not divide its input 28x28x1; these do: 1, 2, 4, 7, 14, 28',
    ("avgpool",): 'layer 1 "avgpool": cannot be read; expected "avgpool 2" or "avgpool all"',
    ("dense 9", "avgpool all"): 'layer 2 "avgpool all": needs an image, but layer 1 "dense 9" has flattened it',
    ("batchnorm 3",): 'layer 1 "batchnorm 3": cannot be read; expected "batchnorm" alone',
    ("conv 6 5x5", "groupnorm 4"): 'layer 2 "groupnorm 4": does not divide 6 channels; these do: 1, 2, 3, 6',
    ("mark A",): 'layer 1 "mark A": cannot be read; expected "mark a", a name of small letters',
    ("add a",): 'layer 1 "add a": adds what no layer before it has marked; put "mark a" before it',
    ("mark a", "mark b", "add c"): 'layer 3 "add c": adds what no layer before it has marked; marked before it: a, b',
    ("mark a", "conv 4 5x5", "add a"): 'layer 3 "add a": cannot add 28x28x1 to 24x24x4; what is marked may be larger '
    "by a whole factor, with as many channels or an even number fewer",
    ("mark a", "conv 4 3x3 same", "add a"): 'layer 3 "add a": cannot add 28x28x1 to 28x28x4;',
    ("conv 4 1x1", "mark a", "conv 2 1x1", "add a"): 'layer 4 "add a": cannot add 28x28x4 to 28x28x2;',
    ("maxpool 28", "mark a", "relu", "add b", "dense 10"): "marked before it: a",
    ("batchnorm",): 'layer 1 "batchnorm" is the last and gives 28x28x1; expected "dense 10" at the end',
    ("dense 90000", "dense 90000", "dense 10"): 'layer 2 "dense 90000": brings the model to 8170740000 parameters',
    ("conv 99999 1x1", "dense 10"): 'layer 1 "conv 99999 1x1": gives 28x28x99999 and brings a sample to 78400000',
}


@pytest.mark.parametrize("texts", WRONG, ids=lambda texts: ", ".join(texts)[:40])
def test_a_wrong_chain_says_what_to_change(texts: tuple[str, ...]) -> None:
    """The reader has the experiment file open: the sentence names the layer, what it gets, what would fit."""
    with pytest.raises(SpecError) as caught:
        resolve_layers(texts, MNIST, 10)
    assert WRONG[texts] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shortcut_may_skip_pixels_and_gain_channels() -> None:
    """Option A of He et al.: every second pixel, and zeros for half of the new channels on either side."""
    layer = resolve_layers(("conv 4 1x1", "mark a", "conv 8 3x3 same stride 2", "add a", "dense 3"), (7, 9, 1), 3)[3]
    assert (layer.output, layer.other, layer.stride, layer.padding) == ((4, 5, 8), (7, 9, 4), 2, 2)


def test_a_wide_image_s_mean_is_refused_with_what_fits() -> None:
    """The pool's kernel is square."""
    with pytest.raises(SpecError, match=r'"avgpool all": needs a square image, but gets 6x8x2; use "avgpool K"'):
        resolve_layers(("avgpool all", "dense 3"), (6, 8, 2), 3)


def test_normalisations_say_what_they_learn_and_what_they_see() -> None:
    """Running statistics count as parameters: they are exchanged like the others."""
    layers = resolve_layers(("conv 6 3x3 nobias", "batchnorm", "groupnorm 2", "dense 3"), (5, 5, 1), 3)
    assert [(layer.weights, layer.biases, layer.statistics) for layer in layers[:3]] == [
        (54, 0, 0),
        (6, 6, 12),
        (6, 6, 0),
    ]


def test_many_small_layers_cannot_add_up_to_a_machine_s_memory() -> None:
    """A joiner takes its spec from a swarm it does not know; 256 layers below a per-layer limit would do."""
    chain = ("conv 8 1x1",) * 255 + ("dense 10",)
    assert 255 * size((224, 224, 8)) > VALUES_MAX
    with pytest.raises(SpecError, match="2\\^24"):
        resolve_layers(chain, (224, 224, 3), 10)


def test_an_unknown_preset_names_the_nearest() -> None:
    """One letter wrong is the usual mistake."""
    with pytest.raises(SpecError, match=r"no preset 'lennet'; did you mean lenet\?"):
        preset_layers("lennet")
    with pytest.raises(SpecError, match="known: mlp, mlp2, lenet"):
        preset_layers("transformer")
