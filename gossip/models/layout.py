"""Where each parameter lives in the flat vector: names, slices and shapes, for saving and looking.

Layer by layer, weights before biases, no gaps: "0.conv.weight", "0.conv.bias", "3.dense.weight", ...; the
number is the layer's place in the chain. Pure arithmetic over `Layer`s; numpy only to cut views.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gossip.models.layers import Layer, size

STATISTICS = ("mean", "variance")  # of a batch normalisation


@dataclass(frozen=True, slots=True)
class Slot:
    """One named parameter: `shape` (C order), beginning at number `start` of the flat vector."""

    start: int
    shape: tuple[int, ...]
    is_statistic: bool = False  # seen, not learnt: exchanged like the others, but no optimizer steps it

    @property
    def end(self) -> int:
        return self.start + math.prod(self.shape)


def layout_of(layers: Sequence[Layer]) -> dict[str, Slot]:
    """Every parameter of the chain, in order; the last slot's end is the model's dim.

    Layer by layer what is learnt, then what is seen: running statistics wander from batch to batch, and an exchange
    rounds by the block, so they had better not share blocks with weights.

    Weights are (outputs, inputs) for dense and (filters, rows, columns, channels) for conv. A dense layer
    after an image counts its inputs row by row, column by column, channel by channel.
    """
    shapes = [
        (f"{number}.{layer.kind}.{name}", shape, name in STATISTICS)
        for number, layer in enumerate(layers)
        for name, shape in _shapes(layer).items()
    ]
    layout: dict[str, Slot] = {}
    start = 0
    for name, shape, is_statistic in sorted(shapes, key=lambda entry: entry[2]):
        layout[name] = slot = Slot(start, shape, is_statistic)
        start = slot.end
    return layout


def _shapes(layer: Layer) -> dict[str, tuple[int, ...]]:
    """Of one layer's parameters, by their names."""
    channels = (layer.output[2],)
    found = {"weight": _weights(layer)} if layer.weights else {}
    found |= {"bias": channels} if layer.biases else {}
    return found | (dict.fromkeys(STATISTICS, channels) if layer.statistics else {})


def _weights(layer: Layer) -> tuple[int, ...]:
    if layer.is_norm:
        return (layer.output[2],)
    outputs, kernel = layer.output[2], layer.kernel
    return (outputs, kernel, kernel, layer.input[2]) if layer.kind == "conv" else (outputs, size(layer.input))


def named_parameters(x: np.ndarray, layout: Mapping[str, Slot]) -> dict[str, np.ndarray]:
    """Views into x by name: writing to them writes to x. x: float32[>= dim]."""
    return {name: x[slot.start : slot.end].reshape(slot.shape) for name, slot in layout.items()}
