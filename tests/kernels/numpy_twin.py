"""The model in float64 NumPy, one formula per layer: slow, plain, and the proof of the kernels.

Activations are float64[n, height, width, channels]; a dense layer gives height = width = 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gossip.models.layers import Layer
from gossip.models.layout import layout_of, named_parameters

EPSILON = 1e-5  # of normalisations, as everywhere
Named = Mapping[str, np.ndarray]


def loss_and_grad(layers: Sequence[Layer], x: np.ndarray, seen: np.ndarray, labels: np.ndarray, smoothing: float = 0.0):
    """(mean cross-entropy, its gradient float64[dim], logits). seen: the images after normalisation.

    smoothing: share of every label that is spread over all classes. The "gradient" of running statistics is how far
    they are from the batch's.
    """
    values = forward(layers, x, seen)
    logits = values[-1].reshape(len(seen), -1)
    loss, slopes = cross_entropy(logits, labels, smoothing)
    return loss, backward(layers, x, values, slopes), logits


def cross_entropy(logits: np.ndarray, labels: np.ndarray, smoothing: float = 0.0) -> tuple[float, np.ndarray]:
    """(mean loss, its derivative by the logits)."""
    count, classes = logits.shape
    shifted = logits - logits.max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    targets = smoothing / classes + (1 - smoothing) * np.eye(classes)[labels]
    return float(-(targets * logs).sum() / count), (np.exp(logs) - targets) / count


def forward(layers: Sequence[Layer], x: np.ndarray, seen: np.ndarray, is_training: bool = True) -> list[np.ndarray]:
    """The input and then every layer's output."""
    values = [seen]
    for layer, own, other in zip(layers, parameters_by_layer(layers, x), marked_values(layers), strict=True):
        inputs = values[-1].reshape(len(seen), *layer.input)
        if layer.kind == "relu":
            outputs = np.maximum(inputs, 0)
        elif layer.kind == "maxpool":
            outputs = windows(inputs, layer.kernel).max(axis=-1)
        elif layer.kind == "avgpool":
            outputs = windows(inputs, layer.kernel).mean(axis=-1)
        elif layer.is_norm:
            normalised, _ = normalise(layer, inputs, None if is_training else own)
            outputs = own["weight"] * normalised + own["bias"]
        elif layer.kind == "add":
            outputs = inputs.copy()
            outputs[..., channels_added(layer)] += every(layer.stride, values[other])
        elif layer.kind == "mark":
            outputs = inputs
        else:
            outputs = affine(layer, inputs, own["weight"]) + own.get("bias", 0)
        values.append(outputs.reshape(len(seen), *layer.output))
    return values


def backward(layers: Sequence[Layer], x: np.ndarray, values: list[np.ndarray], slopes: np.ndarray) -> np.ndarray:
    """The gradient, from the slopes of the logits."""
    gradient, marked = np.zeros(x.size), marked_values(layers)
    parameters, gradients = parameters_by_layer(layers, x), parameters_by_layer(layers, gradient)
    arriving = [np.zeros_like(value) for value in values]
    arriving[-1] += slopes.reshape(values[-1].shape)
    for number, layer in reversed(list(enumerate(layers))):
        inputs, own, own_gradient = values[number].reshape(-1, *layer.input), parameters[number], gradients[number]
        slopes = arriving[number + 1]
        if layer.kind == "relu":
            slopes = slopes * (inputs > 0)
        elif layer.kind == "maxpool":
            slopes = unpool(inputs, slopes, layer.kernel)
        elif layer.kind == "avgpool":
            slopes = slopes.repeat(layer.kernel, axis=1).repeat(layer.kernel, axis=2) / layer.kernel**2
        elif layer.is_norm:
            slopes = norm_slopes(layer, inputs, own, slopes, own_gradient)
        elif layer.kind == "add":
            every(layer.stride, arriving[marked[number]])[:] += slopes[..., channels_added(layer)]
        elif layer.kind != "mark":
            if layer.has_bias:
                own_gradient["bias"][:] = slopes.sum(axis=(0, 1, 2))
            slopes = affine_slopes(layer, inputs, own["weight"], slopes, own_gradient["weight"])
        arriving[number] += slopes.reshape(arriving[number].shape)
    return gradient


def parameters_by_layer(layers: Sequence[Layer], x: np.ndarray) -> list[Named]:
    """Views into x: weight, bias, mean, variance, whatever the layer has."""
    named = [(name.split("."), view) for name, view in named_parameters(x, layout_of(layers)).items()]
    return [{name: view for (layer, _, name), view in named if layer == str(number)} for number, _ in enumerate(layers)]


# -- Dense and convolution ---------------------------------------------------------------------------------


def affine(layer: Layer, inputs: np.ndarray, weight: np.ndarray) -> np.ndarray:
    if layer.kind == "dense":
        return inputs.reshape(len(inputs), 1, 1, -1) @ weight.T
    padded = pad(layer, inputs)
    return sum(padded[patch] @ weight[:, row, column].T for row, column, patch in patches(layer))


def affine_slopes(
    layer: Layer, inputs: np.ndarray, weight: np.ndarray, slopes: np.ndarray, weight_gradient: np.ndarray
) -> np.ndarray:
    """The input's slopes; fills weight_gradient."""
    if layer.kind == "dense":
        weight_gradient[:] = slopes[:, 0, 0].T @ inputs.reshape(len(inputs), -1)
        return slopes[:, 0, 0] @ weight
    padded = pad(layer, inputs)
    padded_slopes = np.zeros_like(padded)
    for row, column, patch in patches(layer):
        weight_gradient[:, row, column] = np.tensordot(slopes, padded[patch], ((0, 1, 2), (0, 1, 2)))
        padded_slopes[patch] += slopes @ weight[:, row, column]
    edge = layer.padding
    return padded_slopes[:, edge : edge + layer.input[0], edge : edge + layer.input[1]]


def pad(layer: Layer, inputs: np.ndarray) -> np.ndarray:
    edge = (layer.padding, layer.padding)
    return np.pad(inputs, ((0, 0), edge, edge, (0, 0)))


def patches(layer: Layer):
    """(row, column, the pixels of a padded image that this number of the kernel meets), for every one."""
    height, width, stride = *layer.output[:2], layer.stride
    for row in range(layer.kernel):
        for column in range(layer.kernel):
            rows = slice(row, row + stride * (height - 1) + 1, stride)
            columns = slice(column, column + stride * (width - 1) + 1, stride)
            yield row, column, (slice(None), rows, columns)


# -- Pools -------------------------------------------------------------------------------------------------


def windows(inputs: np.ndarray, kernel: int) -> np.ndarray:
    """[n, height, width, channels] -> [n, height / kernel, width / kernel, channels, kernel * kernel]."""
    count, height, width, channels = inputs.shape
    cut = inputs.reshape(count, height // kernel, kernel, width // kernel, kernel, channels)
    return cut.transpose(0, 1, 3, 5, 2, 4).reshape(count, height // kernel, width // kernel, channels, -1)


def unpool(inputs: np.ndarray, slopes: np.ndarray, kernel: int) -> np.ndarray:
    """Each slope at the first largest input of its window, 0 elsewhere."""
    cut = windows(inputs, kernel)
    hits = np.arange(kernel * kernel) == cut.argmax(axis=-1)[..., None]
    count, height, width, channels = slopes.shape
    spread = (hits * slopes[..., None]).reshape(count, height, width, channels, kernel, kernel)
    return spread.transpose(0, 1, 4, 2, 5, 3).reshape(inputs.shape)


# -- Normalisations ----------------------------------------------------------------------------------------


def normalise(layer: Layer, inputs: np.ndarray, running: Named | None = None) -> tuple[np.ndarray, np.ndarray]:
    """((inputs - mean) / deviation, deviation); running: whose statistics to use instead of the inputs' own."""
    if running is not None and layer.kind == "batchnorm":
        deviation = np.sqrt(running["variance"] + EPSILON)
        return (inputs - running["mean"]) / deviation, deviation
    parts = in_parts(layer, inputs)
    axes = norm_axes(layer)
    deviation = np.sqrt(parts.var(axis=axes, keepdims=True) + EPSILON)
    return ((parts - parts.mean(axis=axes, keepdims=True)) / deviation).reshape(inputs.shape), deviation


def norm_slopes(layer: Layer, inputs: np.ndarray, own: Named, slopes: np.ndarray, own_gradient: Named) -> np.ndarray:
    """The input's slopes; fills the gradient of weight and bias, and how far the running statistics are off."""
    normalised, deviation = normalise(layer, inputs)
    own_gradient["bias"][:] = slopes.sum(axis=(0, 1, 2))
    own_gradient["weight"][:] = (slopes * normalised).sum(axis=(0, 1, 2))
    if layer.kind == "batchnorm":
        count = inputs.size / inputs.shape[-1]
        own_gradient["mean"][:] = own["mean"] - inputs.mean(axis=(0, 1, 2))
        own_gradient["variance"][:] = own["variance"] - inputs.var(axis=(0, 1, 2)) * count / max(1, count - 1)
    axes, parts, normalised = norm_axes(layer), in_parts(layer, slopes * own["weight"]), in_parts(layer, normalised)
    parts = parts - parts.mean(axis=axes, keepdims=True) - normalised * (parts * normalised).mean(axes, keepdims=True)
    return (parts / deviation).reshape(inputs.shape)


def in_parts(layer: Layer, values: np.ndarray) -> np.ndarray:
    """[n, height, width, part, channel]: what is normalised together; a batchnorm's parts are single channels."""
    *rest, channels = values.shape
    parts = layer.parts if layer.kind == "groupnorm" else channels
    return values.reshape(*rest, parts, channels // parts)


def norm_axes(layer: Layer) -> tuple[int, ...]:
    return (1, 2, 4) if layer.kind == "groupnorm" else (0, 1, 2, 4)


# -- Sums --------------------------------------------------------------------------------------------------


def marked_values(layers: Sequence[Layer]) -> list[int]:
    """For every layer that adds: which of the values; a name may be marked again, and the newest counts."""
    newest: dict[str, int] = {}
    found = []
    for number, layer in enumerate(layers):
        if layer.kind == "mark":
            newest[layer.name] = number
        found.append(newest.get(layer.name, -1))
    return found


def every(stride: int, image: np.ndarray) -> np.ndarray:
    """A view of every stride-th row and column."""
    return image[:, ::stride, ::stride]


def channels_added(layer: Layer) -> slice:
    return slice(layer.padding, layer.padding + layer.other[2])
