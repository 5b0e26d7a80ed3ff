"""The model in float64 NumPy, one formula per layer: slow, plain, and the proof of the kernels.

Activations are float64[n, height, width, channels]; a dense layer gives height = width = 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gossip.models.layers import Layer
from gossip.models.layout import layout_of, named_parameters


def loss_and_grad(layers: Sequence[Layer], x: np.ndarray, seen: np.ndarray, labels: np.ndarray):
    """(mean cross-entropy, its gradient float64[dim], logits). seen: the images after normalisation."""
    values = forward(layers, x, seen)
    logits = values[-1].reshape(len(seen), -1)
    shifted = logits - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    rows = np.arange(len(seen))
    loss = np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[rows, labels])
    slopes = probabilities.copy()
    slopes[rows, labels] -= 1
    gradient = backward(layers, x, values, slopes / len(seen))
    return loss, gradient, logits


def forward(layers: Sequence[Layer], x: np.ndarray, seen: np.ndarray) -> list[np.ndarray]:
    """The input and then every layer's output."""
    parameters = named_parameters(x, layout_of(layers))
    values = [seen]
    for number, layer in enumerate(layers):
        inputs = values[-1].reshape(len(seen), *layer.input)
        if layer.kind == "relu":
            outputs = np.maximum(inputs, 0)
        elif layer.kind == "maxpool":
            outputs = windows(inputs, layer.kernel).max(axis=-1)
        else:
            weight, bias = (parameters[f"{number}.{layer.kind}.{name}"] for name in ("weight", "bias"))
            outputs = affine(layer, inputs, weight) + bias
        values.append(outputs.reshape(len(seen), *layer.output))
    return values


def backward(layers: Sequence[Layer], x: np.ndarray, values: list[np.ndarray], slopes: np.ndarray) -> np.ndarray:
    """The gradient, from the slopes of the logits."""
    gradient = np.zeros(x.size)
    parameters, gradients = (named_parameters(vector, layout_of(layers)) for vector in (x, gradient))
    for number, layer in reversed(list(enumerate(layers))):
        inputs = values[number].reshape(-1, *layer.input)
        slopes = slopes.reshape(-1, *layer.output)
        if layer.kind == "relu":
            slopes = slopes * (inputs > 0)
        elif layer.kind == "maxpool":
            slopes = unpool(inputs, slopes, layer.kernel)
        else:
            name = f"{number}.{layer.kind}"
            gradients[f"{name}.bias"][:] = slopes.sum(axis=(0, 1, 2))
            slopes = affine_slopes(layer, inputs, parameters[f"{name}.weight"], slopes, gradients[f"{name}.weight"])
    return gradient


def affine(layer: Layer, inputs: np.ndarray, weight: np.ndarray) -> np.ndarray:
    if layer.kind == "dense":
        return inputs.reshape(len(inputs), 1, 1, -1) @ weight.T
    padded, height, width = pad(layer, inputs), *layer.output[:2]
    return sum(
        padded[:, row : row + height, column : column + width] @ weight[:, row, column].T
        for row in range(layer.kernel)
        for column in range(layer.kernel)
    )


def affine_slopes(
    layer: Layer, inputs: np.ndarray, weight: np.ndarray, slopes: np.ndarray, weight_gradient: np.ndarray
) -> np.ndarray:
    """The input's slopes; fills weight_gradient."""
    if layer.kind == "dense":
        weight_gradient[:] = slopes[:, 0, 0].T @ inputs.reshape(len(inputs), -1)
        return slopes[:, 0, 0] @ weight
    padded, height, width = pad(layer, inputs), *layer.output[:2]
    padded_slopes = np.zeros_like(padded)
    for row in range(layer.kernel):
        for column in range(layer.kernel):
            patch = np.s_[:, row : row + height, column : column + width]
            weight_gradient[:, row, column] = np.einsum("nyxo,nyxc->oc", slopes, padded[patch])
            padded_slopes[patch] += slopes @ weight[:, row, column]
    edge = layer.padding
    return padded_slopes[:, edge : edge + layer.input[0], edge : edge + layer.input[1]]


def pad(layer: Layer, inputs: np.ndarray) -> np.ndarray:
    edge = (layer.padding, layer.padding)
    return np.pad(inputs, ((0, 0), edge, edge, (0, 0)))


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
