"""A model as a chain of short texts: "conv 6 5x5", "relu", "maxpool 2", "dense classes".

Knows the grammar, the shapes and the number of parameters of every layer, and says what to change
when a chain does not fit. Does not know arrays: `gossip.models.model` gives the chain its numbers.

    dense N | dense classes    every input to every output; an image is flattened on the way in
    conv N KxK [same] [stride S] [nobias]
                               N filters of K by K pixels; `same` keeps height and width (divided by the stride)
    maxpool K | avgpool K      the largest, or the mean, of every K by K pixels
    avgpool all                the mean of the whole image, channel by channel
    batchnorm | groupnorm P    normalised over the batch, or per sample in P parts of the channels
    relu                       negative values become 0
    mark NAME, add NAME        remember what is here; add it to what is there. From a larger image every second
                               (third, ...) pixel is added, and to channels it does not have nothing
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from gossip.errors import SpecError
from gossip.models.presets import PRESETS

Shape = tuple[int, int, int]  # height, width, channels
Kind = Literal["dense", "conv", "maxpool", "avgpool", "batchnorm", "groupnorm", "relu", "mark", "add"]

PARAMETERS_MAX = 2**31
# All layers' outputs for one sample. The kernels hold 32 samples at least, 2 GiB at this limit, and their slopes;
# plan.py refuses what takes more than 8 GiB. So a swarm's spec cannot ask for more memory than a joiner has.
VALUES_MAX = 2**24

NAME = "[a-z][a-z0-9_]{0,31}"
GRAMMAR: dict[str, tuple[re.Pattern[str], str]] = {
    "dense": (re.compile(r"dense (?:classes|([1-9][0-9]{0,8}))"), '"dense 128" or "dense classes"'),
    "conv": (
        re.compile(r"conv ([1-9][0-9]{0,8}) ([1-9][0-9]{0,3})x\2( same)?(?: stride ([1-9][0-9]?))?( nobias)?"),
        '"conv 6 5x5", "conv 6 5x5 same" or "conv 16 3x3 same stride 2 nobias", with a square kernel',
    ),
    "maxpool": (re.compile(r"maxpool ([1-9][0-9]{0,3})"), '"maxpool 2"'),
    "avgpool": (re.compile(r"avgpool (?:all|([1-9][0-9]{0,3}))"), '"avgpool 2" or "avgpool all"'),
    "batchnorm": (re.compile(r"batchnorm"), '"batchnorm" alone'),
    "groupnorm": (re.compile(r"groupnorm ([1-9][0-9]{0,3})"), '"groupnorm 8"'),
    "relu": (re.compile(r"relu"), '"relu" alone'),
    "mark": (re.compile(rf"mark ({NAME})"), '"mark a", a name of small letters'),
    "add": (re.compile(rf"add ({NAME})"), '"add a", a name that was marked'),
}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer with everything resolved. `text` is canonical: equal texts and inputs, equal layers."""

    text: str
    kind: Kind
    input: Shape
    output: Shape
    kernel: int = 1  # conv and pools: rows, and as many columns
    padding: int = 0  # conv: zero pixels around the image; add: channels before the first one added to
    stride: int = 1  # conv: pixels from one patch to the next; add: of the marked image
    has_bias: bool = True
    parts: int = 0  # of a groupnorm
    name: str = ""  # of a mark, and where it is added
    other: Shape = (0, 0, 0)  # add: what was marked

    @property
    def is_norm(self) -> bool:
        return self.kind in ("batchnorm", "groupnorm")

    @property
    def weights(self) -> int:
        """Number of weights; 0 where there is nothing to learn."""
        if self.kind == "dense":
            return size(self.input) * size(self.output)
        if self.kind == "conv":
            return self.output[2] * self.kernel**2 * self.input[2]
        return self.output[2] if self.is_norm else 0

    @property
    def biases(self) -> int:
        return self.output[2] if self.weights and self.has_bias else 0

    @property
    def products(self) -> int:
        """Multiplications of one sample on its way forward; those that hardly count are left out."""
        height, width, _ = self.output
        return height * width * self.weights if self.kind in ("dense", "conv") else 0

    @property
    def statistics(self) -> int:
        """Numbers that are not learnt but seen: running mean and variance of every channel."""
        return 2 * self.output[2] if self.kind == "batchnorm" else 0

    @property
    def parameters(self) -> int:
        return self.weights + self.biases + self.statistics


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
    marks: dict[str, Shape] = {}
    for number, text in enumerate(texts, start=1):
        try:
            _refuse_image_layer_after_dense(text, layers)
            layer = _parse(text, shape, classes, marks)
            parameters, values = parameters + layer.parameters, values + size(layer.output)
            if parameters > PARAMETERS_MAX:
                raise SpecError(f"brings the model to {parameters} parameters, more than 2^31; use fewer outputs")
            if values > VALUES_MAX:
                raise SpecError(f"gives {_show(layer.output)} and brings a sample to {values} values, more than 2^24")
        except SpecError as error:
            raise SpecError(f'layer {number} "{text}": {error}') from None
        layers.append(layer)
        shape = layer.output
        if layer.kind == "mark":
            marks[layer.name] = shape
    if layers[-1].kind != "dense" or shape[2] != classes:
        raise SpecError(
            f'layer {len(layers)} "{texts[-1]}" is the last and gives {_show(shape)}; '
            f'expected "dense {classes}" at the end, one output per class'
        )
    return tuple(layers)


def _parse(text: str, shape: Shape, classes: int, marks: Mapping[str, Shape]) -> Layer:
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
    match kind:
        case "conv":
            return _conv(
                match[0], int(match[1]), int(match[2]), bool(match[3]), int(match[4] or 1), not match[5], shape
            )
        case "maxpool":
            return _pool(match[0], "maxpool", int(match[1]), shape)
        case "avgpool":
            return _pool(match[0], "avgpool", int(match[1]), shape) if match[1] else _whole(match[0], shape)
        case "batchnorm":
            return Layer("batchnorm", "batchnorm", shape, shape)
        case "groupnorm":
            return _groupnorm(match[0], int(match[1]), shape)
        case "mark":
            return Layer(match[0], "mark", shape, shape, name=match[1])
        case "add":
            return _add(match[0], match[1], shape, marks)
    return Layer("relu", "relu", shape, shape)


def _conv(text: str, filters: int, kernel: int, same: bool, stride: int, has_bias: bool, shape: Shape) -> Layer:
    height, width, _ = shape
    if kernel > (largest := min(height, width)):
        raise SpecError(f"its kernel exceeds its input {_show(shape)}; use at most {largest}x{largest}")
    if same and kernel % 2 == 0:
        raise SpecError(f'"same" needs an odd kernel; use {kernel - 1}x{kernel - 1} or {kernel + 1}x{kernel + 1}')
    padding = kernel // 2 if same else 0
    shrunk = kernel - 2 * padding
    output = ((height - shrunk) // stride + 1, (width - shrunk) // stride + 1, filters)
    return Layer(text, "conv", shape, output, kernel, padding, stride, has_bias)


def _groupnorm(text: str, parts: int, shape: Shape) -> Layer:
    channels = shape[2]
    if channels % parts:
        fitting = [count for count in range(1, channels + 1) if channels % count == 0]
        raise SpecError(f"does not divide {channels} channels; these do: {', '.join(map(str, fitting))}")
    return Layer(text, "groupnorm", shape, shape, parts=parts)


def _add(text: str, name: str, shape: Shape, marks: Mapping[str, Shape]) -> Layer:
    if name not in marks:
        known = f"marked before it: {', '.join(marks)}" if marks else f'put "mark {name}" before it'
        raise SpecError(f"adds what no layer before it has marked; {known}")
    (height, width, channels), other = shape, marks[name]
    stride = -(-other[0] // height)
    fits = (-(-other[0] // stride), -(-other[1] // stride)) == (height, width)
    if not fits or other[2] > channels or (channels - other[2]) % 2:
        raise SpecError(
            f"cannot add {_show(other)} to {_show(shape)}; what is marked may be larger by a whole factor, with as "
            "many channels or an even number fewer"
        )
    return Layer(text, "add", shape, shape, padding=(channels - other[2]) // 2, stride=stride, name=name, other=other)


def _pool(text: str, kind: Kind, kernel: int, shape: Shape) -> Layer:
    height, width, channels = shape
    if height % kernel or width % kernel:
        fitting = [k for k in range(1, min(height, width) + 1) if height % k == width % k == 0]
        raise SpecError(f"does not divide its input {_show(shape)}; these do: {', '.join(map(str, fitting))}")
    return Layer(text, kind, shape, (height // kernel, width // kernel, channels), kernel)


def _whole(text: str, shape: Shape) -> Layer:
    height, width, channels = shape
    if height != width:
        raise SpecError(f'needs a square image, but gets {_show(shape)}; use "avgpool K" and "dense N"')
    return Layer(text, "avgpool", shape, (1, 1, channels), height)


def _refuse_image_layer_after_dense(text: str, before: list[Layer]) -> None:
    if not text.lstrip().startswith(("conv", "maxpool", "avgpool")):
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
