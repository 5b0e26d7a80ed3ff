"""Which Winograd convolution is near enough to the direct one: measured before it is used, for each size once.

The larger m, the fewer products and the more digits are lost, and how many depends on the channels that are summed
over. What is compared are the gradients of three layers around one convolution, which hold its outputs, its slopes
and its own gradient, for one group of samples: 3 ms for 64 channels, once in the life of a process.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from gossip.kernels import step
from gossip.kernels.lanes import LANES
from gossip.models.layers import Layer, resolve_layers, size
from gossip.models.layout import layout_of, named_parameters
from gossip.models.plan import Winograd, plan
from gossip.models.workspace import workspaces

# Far more than rounding: F(4x4) is 1e-6 off for 16 channels, 2e-6 for 128, and F(2x2) half of that.
ERROR_MAX = {4: 1e-4, 2: 1e-5}
CHANNELS_MAX = 128  # that are measured, 10 ms; with more of them the error grows by their square root


def at_most(m: int) -> Winograd:
    """The largest of m, 2 and 0 that is near enough."""
    return lambda channels, filters: trusted(channels, filters, m)


@cache
def trusted(channels: int, filters: int, largest: int) -> int:
    """The m for a convolution of 3 by 3; 0: direct."""
    for m, error_max in ERROR_MAX.items():
        if m <= largest and error(m, channels, filters) <= error_max:
            return m
    return 0


def error(m: int, channels: int, filters: int) -> float:
    """How far F(m x m, 3 x 3) is from direct convolution, relative to it: of three gradients the worst."""
    channels, filters = min(channels, CHANNELS_MAX), min(filters, CHANNELS_MAX)
    layers = resolve_layers((f"conv {channels} 1x1", f"conv {filters} 3x3", "dense 10"), (6, 6, 3), 10)
    ours, direct = (named_parameters(_gradient(layers, by), layout_of(layers)) for by in (m, 0))
    weights = [name for name in direct if name.endswith("weight")]
    return float(np.max([np.linalg.norm(ours[name] - direct[name]) / np.linalg.norm(direct[name]) for name in weights]))


def _gradient(layers: Sequence[Layer], m: int) -> np.ndarray:
    """float32[dim], of seeded weights and samples."""
    layout = layout_of(layers)
    dim = max(slot.end for slot in layout.values())
    rng = np.random.default_rng(1)
    x, gradient = np.zeros(dim, np.float32), np.zeros(dim, np.float32)
    for parameter in named_parameters(x, layout).values():
        parameter[:] = rng.standard_normal(parameter.shape, np.float32) * np.sqrt(2 / parameter[0].size)
    features = size(layers[0].input)
    images, labels = rng.integers(0, 256, (LANES, features), np.uint8), rng.integers(0, 10, LANES, np.uint8)
    table, sizes = plan(layers, layout, LANES, lambda channels, filters: m)
    views = images, labels, np.arange(LANES)
    for view in views:
        view.flags.writeable = False  # as a Model has them: no second compile
    scale, shift = np.full(features, 1 / 64, np.float32), np.full(features, -2, np.float32)
    samples = step.Samples(*views, scale, shift)
    step.loss_and_grad(table, x, gradient, samples, 0.0, workspaces([sizes])[0])
    return gradient
