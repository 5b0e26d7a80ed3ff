"""A model as a chain of short texts: "conv 6 5x5", "relu", "maxpool 2", "dense classes".

Knows the grammar, the shapes and the number of parameters of every layer, and says what to change
when a chain does not fit. Does not know arrays: `gossip.models.model` gives the chain its numbers.

    dense N | dense classes    every input to every output; an image is flattened on the way in
    conv N KxK [same]          N filters of K by K pixels, stride 1; `same` keeps height and width
    maxpool K                  the largest of every K by K pixels
    relu                       negative values become 0
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from gossip.errors import SpecError

Shape = tuple[int, int, int]  # height, width, channels
Kind = Literal["dense", "conv", "maxpool", "relu"]

PARAMETERS_MAX = 2**31
# All layers' outputs for one sample. The kernels hold sixteen samples and their gradients: 2 GiB at this
# limit, so a swarm's spec cannot make a joiner ask for more memory than its machine has.
VALUES_MAX = 2**24

PRESETS: dict[str, tuple[str, ...]] = {
    "mlp": ("dense 128", "relu", "dense classes"),
    "lenet": (
        *("conv 6 5x5", "relu", "maxpool 2"),
        *("conv 16 5x5", "relu", "maxpool 2"),
        *("dense 120", "relu", "dense 84", "relu", "dense classes"),
    ),
}
GRAMMAR: dict[str, tuple[re.Pattern[str], str]] = {
    "dense": (re.compile(r"dense (?:classes|([1-9][0-9]{0,8}))"), '"dense 128" or "dense classes"'),
    "conv": (
        re.compile(r"conv ([1-9][0-9]{0,8}) ([1-9][0-9]{0,3})x\2(?: (same))?"),
        '"conv 6 5x5" or "conv 6 5x5 same", with a square kernel',
    ),
    "maxpool": (re.compile(r"maxpool ([1-9][0-9]{0,3})"), '"maxpool 2"'),
    "relu": (re.compile(r"relu"), '"relu" alone'),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer with everything resolved. `text` is canonical: equal texts and inputs, equal layers."""

    text: str
    kind: Kind
    input: Shape
    output: Shape
    kernel: int = 1  # conv and maxpool: rows, and as many columns
    padding: int = 0  # conv: zero pixels around the image

    @property
    def weights(self) -> int:
        """Number of weights; 0 where there is nothing to learn."""
        if self.kind == "dense":
            return size(self.input) * size(self.output)
        return self.output[2] * self.kernel**2 * self.input[2] if self.kind == "conv" else 0

    @property
    def biases(self) -> int:
        return self.output[2] if self.kind in ("dense", "conv") else 0

    @property
    def parameters(self) -> int:
        return self.weights + self.biases


def size(shape: Shape) -> int:
    """Values in a shape."""
    height, width, channels = shape
    return height * width * channels


def preset_layers(name: str) -> tuple[str, ...]:
    """The layer texts of a named model. Raises SpecError."""
    try:
        return PRESETS[name]
    except KeyError:
        raise SpecError(f"no preset {name!r}; {_nearest(name, PRESETS)}") from None


def resolve_layers(texts: tuple[str, ...] | list[str], input_shape: Shape, classes: int) -> tuple[Layer, ...]:
    """Parse the texts and carry the shape through them; the last must be dense with `classes` outputs.

    Raises SpecError: which layer, the shape it gets, and what would fit.
    """
    if not texts:
        raise SpecError(f'no layers; the shortest model is ["dense {classes}"]')
    layers: list[Layer] = []
    parameters, values, shape = 0, size(input_shape), input_shape
    for number, text in enumerate(texts, start=1):
        try:
            _refuse_image_layer_after_dense(text, layers)
            layer = _parse(text, shape, classes)
            parameters, values = parameters + layer.parameters, values + size(layer.output)
            if parameters > PARAMETERS_MAX:
                raise SpecError(f"brings the model to {parameters} parameters, more than 2^31; use fewer outputs")
            if values > VALUES_MAX:
                raise SpecError(f"gives {_show(layer.output)} and brings a sample to {values} values, more than 2^24")
        except SpecError as error:
            raise SpecError(f'layer {number} "{text}": {error}') from None
        layers.append(layer)
        shape = layer.output
    if layers[-1].kind != "dense" or shape[2] != classes:
        raise SpecError(
            f'layer {len(layers)} "{texts[-1]}" is the last and gives {_show(shape)}; '
            f'expected "dense {classes}" at the end, one output per class'
        )
    return tuple(layers)


def _parse(text: str, shape: Shape, classes: int) -> Layer:
    """One layer fed with `shape`. The error does not name the layer: the caller knows its number."""
    words = text.split()
    kind = words[0] if words else ""
    if kind not in GRAMMAR:
        raise SpecError(f"unknown layer; {_nearest(kind, GRAMMAR)}")
    pattern, example = GRAMMAR[kind]
    match = pattern.fullmatch(" ".join(words))
    if match is None:
        raise SpecError(f"cannot be read; expected {example}")
    if kind == "dense":
        outputs = int(match[1] or classes)
        return Layer(f"dense {outputs}", "dense", shape, (1, 1, outputs))
    if kind == "conv":
        return _conv(match[0], int(match[1]), int(match[2]), match[3] == "same", shape)
    if kind == "maxpool":
        return _maxpool(match[0], int(match[1]), shape)
    return Layer("relu", "relu", shape, shape)


def _conv(text: str, filters: int, kernel: int, same: bool, shape: Shape) -> Layer:
    height, width, _ = shape
    if kernel > (largest := min(height, width)):
        raise SpecError(f"its kernel exceeds its input {_show(shape)}; use at most {largest}x{largest}")
    if same and kernel % 2 == 0:
        raise SpecError(f'"same" needs an odd kernel; use {kernel - 1}x{kernel - 1} or {kernel + 1}x{kernel + 1}')
    padding = kernel // 2 if same else 0
    shrunk = kernel - 1 - 2 * padding
    return Layer(text, "conv", shape, (height - shrunk, width - shrunk, filters), kernel, padding)


def _maxpool(text: str, kernel: int, shape: Shape) -> Layer:
    height, width, channels = shape
    if height % kernel or width % kernel:
        fitting = [k for k in range(1, min(height, width) + 1) if height % k == width % k == 0]
        raise SpecError(f"does not divide its input {_show(shape)}; these do: {', '.join(map(str, fitting))}")
    return Layer(text, "maxpool", shape, (height // kernel, width // kernel, channels), kernel)


def _refuse_image_layer_after_dense(text: str, before: list[Layer]) -> None:
    if not text.lstrip().startswith(("conv", "maxpool")):
        return
    for number, earlier in enumerate(before, start=1):
        if earlier.kind == "dense":
            raise SpecError(
                f'needs an image, but layer {number} "{earlier.text}" has flattened it '
                f"to {_show(earlier.output)}; move it before layer {number}"
            )


def _show(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
