"""The same network in PyTorch: built from the chain, loaded from the flat vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from gossip.models.layers import Layer
from gossip.models.layout import layout_of, named_parameters


class TorchTwin(nn.Module):
    """Images come as float[n, channels, height, width], normalised."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.chain = list(layers)
        self.parts = nn.ModuleDict({str(i): part for i, layer in enumerate(layers) if (part := _part(layer))})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        marked = {}
        for number, layer in enumerate(self.chain):
            if layer.kind == "mark":
                marked[layer.name] = x
            elif layer.kind == "add":
                other = marked[layer.name][:, :, :: layer.stride, :: layer.stride]
                rest = layer.output[2] - layer.other[2] - layer.padding
                x = x + nn.functional.pad(other, (0, 0, 0, 0, layer.padding, rest))
            elif layer.kind == "relu":
                x = torch.relu(x)
            else:
                if layer.kind == "dense":
                    x = torch.flatten(x, 1)
                x = self.parts[str(number)](x)
        return x

    @torch.no_grad()
    def load(self, x: np.ndarray) -> None:
        """x: float32[dim], the flat vector."""
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
