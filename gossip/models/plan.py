"""From a chain of layers to what the kernels walk: their table, and how much memory they need beside it.

A chain is a row of tensors, and a layer a row of the table that reads one or two of them and writes the next. A relu
is no row of its own where the layer before it can store max(0, output), nor is a sum behind a normalisation. Values
of all tensors stay for the way back. Slopes, the derivatives of the loss by them, are needed only from the first
layer that gives some to the layer that made the tensor: they share memory (first fit).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gossip.kernels import table
from gossip.kernels.lanes import LANES
from gossip.kernels.tile import ADD, MASKED, PLAIN, ROWS, VECTORS, ZEROS
from gossip.kernels.winograd import scratch_numbers
from gossip.models.layers import Layer, size
from gossip.models.layout import STATISTICS, Slot

KINDS = {
    "dense": table.DENSE,
    "conv": table.CONV,
    "maxpool": table.MAXPOOL,
    "avgpool": table.MEANPOOL,
    "batchnorm": table.BATCHNORM,
    "groupnorm": table.GROUPNORM,
    "relu": table.RELU_ALONE,
    "add": table.SUM,
}
WITH_RELU = ("dense", "conv", "batchnorm", "groupnorm", "add")  # these store max(0, output) at no cost
WITH_SUM = ("batchnorm", "groupnorm")
GROUPS_MIN, GROUPS_MAX = 2, 8  # of 16 samples in a chunk; the same on every CPU, for sums over a chunk are rounded
CACHED_NUMBERS = 2**18  # values of a chunk: 1 MiB, what a core's second-level cache holds


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of float32. groups: of 16 samples, that go through the layers together; values: of one of them."""

    groups: int
    values: int
    prepared: int
    scratch: int
    channels: int  # at most, of a batch normalisation


@dataclass(slots=True, eq=False)
class _Tensor:
    """One tensor of one group of samples, and its slopes if anybody needs them."""

    features: int
    at: int
    needs_slopes: bool
    is_marked: bool = False
    has_relu: bool = False
    slopes_at: int = -1
    births: list[int] = field(default_factory=list)  # when slopes are given to it, counted on the way back
    death: int = 0  # when they are used up

    @property
    def numbers(self) -> int:
        return LANES * self.features


class _Plan:
    """Grows row by row."""

    def __init__(
        self, layers: Sequence[Layer], layout: Mapping[str, Slot], winograd: int, frozen: Collection[str]
    ) -> None:
        self._layout = layout
        self._frozen = frozen
        self._winograd = winograd
        self._marked: dict[str, _Tensor] = {}
        self._rows: list[Any] = []
        self._made: list[tuple[_Tensor, _Tensor | None, _Tensor]] = []  # of each row: input, other, output
        self._layers: list[Layer] = []
        self._values = 0
        self._prepared = 0
        self._newest = self._tensor(size(layers[0].input), False)
        self.first = self._newest
        for number, layer in enumerate(layers):
            self._take(number, layer)

    def _tensor(self, features: int, needs_slopes: bool) -> _Tensor:
        tensor = _Tensor(features, self._values, needs_slopes)
        self._values += tensor.numbers
        return tensor

    def _take(self, number: int, layer: Layer) -> None:
        newest = self._newest
        before = self._layers[-1].kind if self._layers and not newest.is_marked else None
        if layer.kind == "mark":
            newest.is_marked = True
            self._marked[layer.name] = newest
        elif layer.kind == "relu" and before in WITH_RELU and not newest.has_relu:
            self._rows[-1]["has_relu"] = 1
            newest.has_relu = True
        elif layer.kind == "add" and before in WITH_SUM and layer.other == layer.input and not self._is_busy:
            self._add_other(self._marked[layer.name])
        else:
            self._append(number, layer)

    @property
    def _is_busy(self) -> bool:
        """The last row does something at once already."""
        return bool(self._rows[-1]["has_relu"] or self._rows[-1]["adds"])

    def _add_other(self, other: _Tensor) -> None:
        source, _, output = self._made[-1]
        self._made[-1] = (source, other, output)
        self._rows[-1]["adds"] = 1
        output.needs_slopes |= other.needs_slopes

    def _append(self, number: int, layer: Layer) -> None:
        row = np.zeros((), table.TABLE_ROW)[()]
        row["kind"], row["place"] = KINDS[layer.kind], number
        row["kernel"], row["stride"], row["padding"], row["parts"] = (
            layer.kernel, layer.stride, layer.padding, layer.parts,
        )  # fmt: skip
        shape = (1, 1, size(layer.input)) if layer.kind == "dense" else layer.input
        row["height"], row["width"], row["channels"] = layer.other if layer.kind == "add" else shape
        row["out_height"], row["out_width"], row["out_channels"] = layer.output
        row["biases_at"] = -1
        if layer.parameters:
            slots = {name.split(".")[2]: slot for name, slot in self._layout.items() if name.startswith(f"{number}.")}
            ends = [slot.end for slot in slots.values() if not slot.is_statistic]
            row["weights_at"], row["parameters_end"] = slots["weight"].start, max(ends)
            row["biases_at"] = slots["bias"].start if "bias" in slots else -1
            row["statistics_at"] = slots["mean"].start if "mean" in slots else 0
            moving = {name for name in slots if f"{number}.{layer.kind}.{name}" not in self._frozen}
            row["needs_gradient"] = bool(moving.difference(STATISTICS))
            row["keeps_statistics"] = layer.statistics > 0 and not moving.intersection(STATISTICS)
        row["prepared_at"] = self._prepared
        if layer.kind == "conv":
            row["winograd"] = m = self._winograd if can_winograd(layer) else 0
            self._prepared += layer.weights + (2 * (m + 2) ** 2 * (layer.weights // 9) if m else 0)
        elif layer.kind == "batchnorm":
            self._prepared += 5 * layer.output[2]
        elif layer.kind == "groupnorm":
            row["kept_at"] = self._values
            self._values += 2 * layer.parts * LANES
        source = self._newest
        self._newest = self._tensor(size(layer.output), source.needs_slopes or bool(row["needs_gradient"]))
        self._rows.append(row)
        self._layers.append(layer)
        self._made.append((source, None, self._newest))
        if layer.kind == "add":
            self._add_other(self._marked[layer.name])

    # -- The way back ------------------------------------------------------------------------------------

    def table(self) -> np.ndarray:
        """TABLE_ROW[rows]."""
        self._newest.births.append(-1)
        for time, (row, made) in enumerate(zip(reversed(self._rows), reversed(self._made), strict=True)):
            source, other, output = made
            output.death = time
            receivers = [("other_", other), ("", source)]
            for name, tensor in reversed(receivers) if row["kind"] == table.BATCHNORM else receivers:
                if tensor is not None and tensor.needs_slopes:
                    row[f"{name}start"] = ADD if tensor.births else ZEROS
                    row[f"{name}finish"] = MASKED if tensor.has_relu else PLAIN
                    tensor.births.append(time)
        self._place_slopes()
        for row, (source, other, output) in zip(self._rows, self._made, strict=True):
            row["input_at"], row["input_slopes_at"] = source.at, max(0, source.slopes_at)
            row["output_at"], row["output_slopes_at"] = output.at, max(0, output.slopes_at)
            row["needs_input_slopes"] = source.needs_slopes
            if other is not None:
                row["other_at"], row["other_slopes_at"] = other.at, max(0, other.slopes_at)
                row["needs_other_slopes"] = other.needs_slopes
        return np.array(self._rows, table.TABLE_ROW)

    def _place_slopes(self) -> None:
        begin = self._values
        placed: list[_Tensor] = []
        needed = [output for _, _, output in self._made if output.births]
        for tensor in sorted(needed, key=lambda tensor: min(tensor.births)):
            living = [other for other in placed if other.death >= min(tensor.births)]
            tensor.slopes_at = begin
            for other in sorted(living, key=lambda other: other.slopes_at):
                if tensor.slopes_at + tensor.numbers <= other.slopes_at:
                    break
                tensor.slopes_at = max(tensor.slopes_at, other.slopes_at + other.numbers)
            placed.append(tensor)
            self._values = max(self._values, tensor.slopes_at + tensor.numbers)

    def sizes(self, batch: int) -> Sizes:
        values = self._values + LANES * LANES  # kernels that turn 16 features at once may read so far behind the last
        needs_whole_batch = any(layer.kind == "batchnorm" for layer in self._layers)
        whole = -(-batch // LANES)
        groups = whole if needs_whole_batch else max(GROUPS_MIN, min(GROUPS_MAX, CACHED_NUMBERS // values, whole))
        scratch = max(_scratch(layer, groups, self._winograd) for layer in self._layers)
        channels = max((layer.output[2] for layer in self._layers if layer.kind == "batchnorm"), default=1)
        return Sizes(groups, values, max(1, self._prepared), scratch, channels)


def plan(
    layers: Sequence[Layer], layout: Mapping[str, Slot], batch: int, winograd: int, frozen: Collection[str] = ()
) -> tuple[np.ndarray, Sizes]:
    """(TABLE_ROW[rows], sizes of the workspace). batch: samples per step at most. frozen: parameters not learnt."""
    grown = _Plan(layers, layout, winograd, frozen)
    table = grown.table()
    return table, grown.sizes(batch)


def can_winograd(layer: Layer) -> bool:
    """3 by 3, step by step, and channels that fill vectors."""
    is_plain = layer.kind == "conv" and layer.kernel == 3 and layer.stride == 1
    return is_plain and layer.input[2] % LANES == layer.output[2] % LANES == 0


def _scratch(layer: Layer, groups: int, winograd: int) -> int:
    """Numbers that a layer turns at once, and a tile beside them; enough for the first layer's samples."""
    turned = LANES * _rounded(size(layer.input))
    if layer.kind == "dense":
        turned *= groups
    if layer.kind == "conv":
        _, width, channels = layer.input
        turned = max(turned, LANES * (2 * layer.padding * channels + _rounded(width * channels)))
        if can_winograd(layer) and winograd:
            turned = max(turned, scratch_numbers(winograd, channels, layer.output[2]))
            turned = max(turned, scratch_numbers(winograd, layer.output[2], channels))
    return turned + ROWS * VECTORS * LANES


def _rounded(count: int) -> int:
    return -(-count // LANES) * LANES
