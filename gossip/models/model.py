"""Model: a chain of layers over ONE flat float32 vector that somebody else owns.

Knows how to start, train and judge such a vector. Keeps no parameters, only the layer table and a
workspace for 16 samples; the workspace makes a Model a one-thread object: build one per thread.

The vectors x, gradient and momentum are float32[n], n >= dim, C-contiguous. What lies beyond dim is the
caller's padding: it stays 0 if it was 0. Images are uint8[n, height, width, channels], labels uint8[n].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gossip.kernels import step
from gossip.kernels.lanes import LANES
from gossip.models.layers import Layer, resolve_layers, size
from gossip.models.layout import Slot, layout_of, named_parameters


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a vector is on some samples. predictions: uint8[n], the likeliest class of each."""

    loss: float
    accuracy: float
    predictions: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Built by `build_model`. The underscored arrays are what gossip.kernels.step calls by the same names."""

    layers: tuple[Layer, ...]
    layout: Mapping[str, Slot]
    dim: int
    _table: np.ndarray
    _scale: np.ndarray
    _shift: np.ndarray
    _values: np.ndarray
    _slopes: np.ndarray

    def init(self, seed: int) -> np.ndarray:
        """float32[dim]: weights normal with variance 2 / inputs (He et al. 2015), biases 0."""
        generator = np.random.default_rng(seed)
        x = np.zeros(self.dim, np.float32)
        for parameter in named_parameters(x, self.layout).values():
            if parameter.ndim > 1:
                inputs = parameter[0].size
                parameter[:] = generator.standard_normal(parameter.shape, np.float32) * np.sqrt(2 / inputs)
        return x

    def loss_and_grad(self, x: np.ndarray, images: np.ndarray, labels: np.ndarray, gradient: np.ndarray) -> float:
        """The mean cross-entropy of all samples given; overwrites `gradient` with its derivative by x."""
        samples = self._samples(images, labels, np.arange(len(images)))
        return step.loss_and_grad(self._table, x, gradient, *samples, *self._workspace)

    def sgd_step(
        self,
        x: np.ndarray,
        gradient: np.ndarray,
        momentum: np.ndarray,
        images: np.ndarray,
        labels: np.ndarray,
        picked: np.ndarray,
        learning_rate: float,
        momentum_factor: float,
        weight_decay: float,
    ) -> float:
        """One step in place on the samples `picked` (int64[batch], indices into images and labels).

        m = momentum_factor * m + gradient + weight_decay * x;  x -= learning_rate * m, biases included.
        Returns the mean loss before the step: if it is not finite, x is spoilt. Releases the GIL.
        """
        samples = self._samples(images, labels, picked)
        settings = (float(learning_rate), float(momentum_factor), float(weight_decay))
        return step.sgd_step(self._table, x, gradient, momentum, *samples, *self._workspace, *settings)

    def evaluate(self, x: np.ndarray, images: np.ndarray, labels: np.ndarray) -> Evaluation:
        """Judge x on all samples given, at least one. Allocates 9 bytes per sample."""
        predictions = np.empty(len(images), np.uint8)
        samples = self._samples(images, labels, np.arange(len(images)))
        loss = step.evaluate(self._table, x, *samples, *self._workspace, predictions)
        return Evaluation(loss / len(images), float(np.mean(predictions == labels)), predictions)

    @property
    def _workspace(self) -> tuple[np.ndarray, ...]:
        return self._scale, self._shift, self._values, self._slopes

    def _samples(self, images: np.ndarray, labels: np.ndarray, picked: np.ndarray) -> tuple[np.ndarray, ...]:
        """The three as read-only views: data that is read-only already must not cost a second compile."""
        views = images.reshape(len(images), -1), labels.view(), picked.view()
        for view in views:
            view.flags.writeable = False
        return views


def build_model(layers: Sequence[Layer], mean: Sequence[float], std: Sequence[float]) -> Model:
    """A model of resolved layers. It sees (pixel / 255 - mean) / std; mean and std: one number per channel."""
    height, width, _ = layers[0].input
    mean_by_channel, std_by_channel = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    layout = layout_of(layers)
    table = _table(layers, layout)
    values = _aligned_zeros(table[-1]["output_end"])
    return Model(
        layers=tuple(layers),
        layout=layout,
        dim=list(layout.values())[-1].end,
        _table=table,
        _scale=np.tile(1 / (255 * std_by_channel), height * width).astype(np.float32),
        _shift=np.tile(-mean_by_channel / std_by_channel, height * width).astype(np.float32),
        _values=values,
        _slopes=_aligned_zeros(values.size),
    )


def warm_up() -> None:
    """Compile every kernel, or load it from the disk cache. One toy call serves all models."""
    toy = build_model(resolve_layers(("dense 2",), (1, 1, 1), 2), (0.0,), (1.0,))
    x, gradient, momentum = (np.zeros(toy.dim, np.float32) for _ in range(3))
    images, labels, picked = np.zeros((1, 1, 1, 1), np.uint8), np.zeros(1, np.uint8), np.zeros(1, np.int64)
    toy.loss_and_grad(x, images, labels, gradient)
    toy.evaluate(x, images, labels)
    toy.sgd_step(x, gradient, momentum, images, labels, picked, 0.1, 0.9, 0.0)


def _table(layers: Sequence[Layer], layout: Mapping[str, Slot]) -> np.ndarray:
    """The chain as gossip.kernels.step reads it: TABLE_ROW[layers]."""
    table = np.zeros(len(layers), step.TABLE_ROW)
    has_parameters_before = False
    output_end = LANES * size(layers[0].input)
    output_at = 0
    for number, (layer, row) in enumerate(zip(layers, table, strict=True)):
        row["input_at"], row["input_end"] = output_at, output_end
        if layer.kind != "relu":  # a relu works in place
            output_at, output_end = output_end, output_end + LANES * size(layer.output)
        row["output_at"], row["output_end"] = output_at, output_end
        row["needs_input_slopes"] = has_parameters_before
        row["kernel"], row["padding"] = layer.kernel, layer.padding
        row["height"], row["width"], row["channels"] = (
            (1, 1, size(layer.input)) if layer.kind == "dense" else layer.input
        )
        row["out_height"], row["out_width"], row["out_channels"] = layer.output
        row["kind"] = {"relu": step.RELU, "maxpool": step.MAXPOOL}.get(layer.kind, step.AFFINE)
        if layer.parameters:
            weight, bias = (layout[f"{number}.{layer.kind}.{name}"] for name in ("weight", "bias"))
            row["weights_at"], row["biases_at"], row["parameters_end"] = weight.start, bias.start, bias.end
            has_parameters_before = True
    return table


def _aligned_zeros(count: int) -> np.ndarray:
    """float32[count] that begins on a cache line, so that no 16-sample vector crosses one."""
    raw = np.zeros(4 * int(count) + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + 4 * int(count)].view(np.float32)
