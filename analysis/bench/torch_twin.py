"""The same network in PyTorch: built from the chain of layers, started from the flat vector, and judged beside ours.

Importing this without PyTorch ends the script with one sentence. Nothing in `gossip` needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from gossip.models.layers import Layer
from gossip.models.layout import layout_of, named_parameters

try:
    import torch
    from torch import nn
except ModuleNotFoundError:
    print("this compares with PyTorch, which is not installed: pip install torch", file=sys.stderr)
    raise SystemExit(2) from None


class TorchTwin(nn.Module):
    """Images come as float[n, channels, height, width], normalised."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.chain = list(layers)
        self.parts = nn.ModuleDict({str(i): part for i, layer in enumerate(layers) if (part := _part(layer))})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        marked = {}
        for number, layer in enumerate(self.chain):
            match layer.kind:
                case "mark":
                    marked[layer.name] = x
                case "add":
                    x = x + _as_large_as_x(layer, marked[layer.name])
                case "relu":
                    x = torch.relu(x)
                case "dense":
                    x = self.parts[str(number)](torch.flatten(x, 1))
                case _:
                    x = self.parts[str(number)](x)
        return x

    # -- The flat vector ---------------------------------------------------------------------------------

    @torch.no_grad()
    def load(self, x: np.ndarray) -> None:
        """x: float32[dim]."""
        for name, value in named_parameters(x, layout_of(self.chain)).items():
            self._target(name).copy_(torch.from_numpy(self._theirs(name, value)))

    def gradient(self) -> np.ndarray:
        """float64[dim], as our layout has it; 0 where nothing is learnt."""
        layout = layout_of(self.chain)
        flat = np.zeros(list(layout.values())[-1].end)
        for name, view in named_parameters(flat, layout).items():
            found = self._target(name).grad
            if found is not None:
                view[:] = self._ours(name, found.detach().double().numpy())
        return flat

    def _target(self, name: str) -> torch.Tensor:
        number, _, kind = name.split(".")
        part = self.parts[number]
        return getattr(part, {"mean": "running_mean", "variance": "running_var"}.get(kind, kind))

    def _theirs(self, name: str, value: np.ndarray) -> np.ndarray:
        """PyTorch counts channels first: filters are (out, in, row, column), and so is an image flattened."""
        if value.ndim == 4:
            return np.ascontiguousarray(value.transpose(0, 3, 1, 2))
        if value.ndim == 2:
            shape = self.chain[int(name.split(".")[0])].input
            return value.reshape(-1, *shape).transpose(0, 3, 1, 2).reshape(len(value), -1).copy()
        return value

    def _ours(self, name: str, value: np.ndarray) -> np.ndarray:
        if value.ndim == 4:
            return value.transpose(0, 2, 3, 1)
        if value.ndim == 2:
            height, width, channels = self.chain[int(name.split(".")[0])].input
            return value.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(len(value), -1)
        return value


def normalised(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """float64[n, channels, height, width] of uint8[n, height, width, channels]: what a model sees."""
    seen = (images / 255 - np.asarray(mean)) / np.asarray(std)
    return torch.from_numpy(np.ascontiguousarray(seen.transpose(0, 3, 1, 2)))


def _as_large_as_x(layer: Layer, marked: torch.Tensor) -> torch.Tensor:
    """Every second (third, ...) pixel of what was marked, with zeros for the channels it does not have."""
    rest = layer.output[2] - layer.other[2] - layer.padding
    return nn.functional.pad(marked[:, :, :: layer.stride, :: layer.stride], (0, 0, 0, 0, layer.padding, rest))


def _part(layer: Layer) -> nn.Module | None:
    channels, filters = layer.input[2], layer.output[2]
    match layer.kind:
        case "dense":
            return nn.Linear(int(np.prod(layer.input)), filters)
        case "conv":
            return nn.Conv2d(channels, filters, layer.kernel, layer.stride, layer.padding, bias=layer.has_bias)
        case "maxpool":
            return nn.MaxPool2d(layer.kernel)
        case "avgpool":
            return nn.AvgPool2d(layer.kernel)
        case "batchnorm":
            return nn.BatchNorm2d(channels) if layer.input[0] * layer.input[1] > 1 else nn.BatchNorm1d(channels)
        case "groupnorm":
            return nn.GroupNorm(layer.parts, channels)
    return None
