"""From a chain of layers to what the kernels walk: their table, and how much memory they need beside it.

Every operation is a row. Values of all tensors stay for the way back. Slopes, the derivatives of the loss by them, are
needed only from the first operation that gives some to the one that made the tensor: they share memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gossip.errors import SpecError
from gossip.kernels import table
from gossip.kernels.lanes import LANES
from gossip.kernels.tile import ADD, MASKED, PLAIN, ROWS, VECTORS, ZEROS
from gossip.kernels.winograd import scratch_numbers
from gossip.models.layers import Layer, size
from gossip.models.layout import Slot
from gossip.models.operations import Operation, Tensor, operations
from gossip.models.placing import Lifetime, place

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
GROUPS_MIN, GROUPS_MAX = 2, 8  # of 16 samples in a chunk; the same on every CPU, for sums over a chunk are rounded
CACHED_NUMBERS = 2**18  # values of a chunk: 1 MiB, what a core's second-level cache holds
BYTES_MAX = 2**33  # of a workspace: a joiner takes its spec from a swarm it does not know
Winograd = Callable[[int, int], int]  # channels, filters -> the m of F(m x m, 3 x 3), or 0 for direct convolution


@dataclass(frozen=True, slots=True)
class Sizes:
    """Numbers of float32. groups: of 16 samples, that go through the layers together; values: of one of them."""

    groups: int
    values: int
    prepared: int
    scratch: int
    channels: int  # at most, of a batch normalisation

    @property
    def bytes(self) -> int:
        """Of one thread's workspace, nearly all of it: 4 * (groups * values + prepared + scratch)."""
        return 4 * (self.groups * (self.values + LANES) + self.prepared + self.scratch) + 16 * self.channels


def plan(
    layers: Sequence[Layer], layout: Mapping[str, Slot], batch: int, winograd: Winograd, frozen: Collection[str] = ()
) -> tuple[np.ndarray, Sizes]:
    """(TABLE_ROW[rows], sizes of the workspace). batch: samples per step at most. frozen: parameters not learnt.

    Raises SpecError: a workspace beyond BYTES_MAX.
    """
    steps = operations(layers, layout, frozen)
    rows = np.zeros(len(steps), table.TABLE_ROW)
    for row, step in zip(rows, steps, strict=True):
        row["place"] = step.place
        _describe(row, step.layer)
        _find_parameters(row, step)
        row["has_relu"], row["adds"] = step.output.has_relu, step.other is not None
        if _is_winograd(step.layer):
            row["winograd"] = winograd(step.layer.input[2], step.layer.output[2])
    prepared = _place_prepared(rows, steps)
    values = _place_slopes(rows, steps, _place_values(rows, steps))
    values += LANES * LANES  # kernels that turn 16 features at once may read so far behind the last
    groups = _groups(steps, values, batch)
    scratch = max(LANES * _rounded(size(layers[0].input)), *(_scratch(row, groups) for row in rows))
    channels = max((step.layer.output[2] for step in steps if step.layer.kind == "batchnorm"), default=1)
    sizes = Sizes(groups, values, max(1, prepared), scratch + ROWS * VECTORS * LANES, channels)
    _refuse_what_no_machine_has(sizes, batch)
    return rows, sizes


def memory_bytes(dim: int, vectors: int, workspaces: Sequence[Sizes]) -> int:
    """What training takes: so many vectors of dim numbers (x, gradient, momentum, ...) and a workspace per thread."""
    return 4 * vectors * dim + sum(sizes.bytes for sizes in workspaces)


# -- What a row says of its layer ----------------------------------------------------------------------------


def _describe(row: np.void, layer: Layer) -> None:
    """Kind and shapes. A dense layer sees its input as one pixel, a sum the earlier tensor as its input."""
    row["kind"] = KINDS[layer.kind]
    for name in ("kernel", "stride", "padding", "parts"):
        row[name] = getattr(layer, name)
    shapes = {"dense": (1, 1, size(layer.input)), "add": layer.other}
    row["height"], row["width"], row["channels"] = shapes.get(layer.kind, layer.input)
    row["out_height"], row["out_width"], row["out_channels"] = layer.output


def _find_parameters(row: np.void, step: Operation) -> None:
    """Where in x they begin, and which of them move."""
    learnt = [slot for slot in step.slots.values() if not slot.is_statistic]
    row["parameters_end"] = max((slot.end for slot in learnt), default=0)
    starts = {name: slot.start for name, slot in step.slots.items()}
    row["weights_at"], row["biases_at"] = starts.get("weight", 0), starts.get("bias", -1)
    row["statistics_at"] = starts.get("mean", 0)
    row["needs_gradient"] = step.learns
    row["keeps_statistics"] = "mean" in step.slots and not step.follows


def _is_winograd(layer: Layer) -> bool:
    """3 by 3, step by step, and channels that fill vectors."""
    is_plain = layer.kind == "conv" and layer.kernel == 3 and layer.stride == 1
    return is_plain and layer.input[2] % LANES == layer.output[2] % LANES == 0


# -- What lies where -----------------------------------------------------------------------------------------


def _place_prepared(rows: np.ndarray, steps: Sequence[Operation]) -> int:
    """Weights as a step wants them: turned, and transformed twice for Winograd; what a batchnorm found."""
    end = 0
    for row, step in zip(rows, steps, strict=True):
        row["prepared_at"] = end
        if step.layer.kind == "conv":
            m, weights = int(row["winograd"]), step.layer.weights
            end += weights + (2 * (m + 2) ** 2 * (weights // 9) if m else 0)
        elif step.layer.kind == "batchnorm":
            end += 5 * step.layer.output[2]
    return end


def _place_values(rows: np.ndarray, steps: Sequence[Operation]) -> int:
    """One tensor behind the other, for one group of samples, and what a groupnorm keeps of them."""
    places: dict[Tensor, int] = {steps[0].source: 0}
    end = LANES * steps[0].source.features
    for row, step in zip(rows, steps, strict=True):
        row["kept_at"] = end
        end += 2 * step.layer.parts * LANES
        row["input_at"], row["output_at"] = places[step.source], end
        row["other_at"] = places[step.other] if step.other else 0
        places[step.output] = end
        end += LANES * step.output.features
    return end


def _place_slopes(rows: np.ndarray, steps: Sequence[Operation], begin: int) -> int:
    """Behind the values, each from when it is first given to when it is used; says how it is given."""
    lives = {steps[-1].output: Lifetime(LANES * steps[-1].output.features, birth=-1, death=0)}
    for time, (row, step) in enumerate(zip(rows[::-1], reversed(steps), strict=True)):
        if step.output in lives:
            lives[step.output].death = time
        for prefix, tensor in _receivers(step):
            row[f"needs_{prefix or 'input_'}slopes"] = 1
            row[f"{prefix}start"] = ADD if tensor in lives else ZEROS
            row[f"{prefix}finish"] = MASKED if tensor.has_relu else PLAIN
            lives.setdefault(tensor, Lifetime(LANES * tensor.features, time, time))
    end = place(lives.values(), begin)
    for row, step in zip(rows, steps, strict=True):
        for name, used in (("input", step.source), ("output", step.output), ("other", step.other)):
            row[f"{name}_slopes_at"] = lives[used].at if used in lives else 0
    return end


def _receivers(step: Operation) -> list[tuple[str, Tensor]]:
    """Who is given slopes, in the order of step.backward: a batchnorm's input before what it adds."""
    both = [("other_", step.other), ("", step.source)]
    if step.layer.kind == "batchnorm":
        both.reverse()
    return [(prefix, tensor) for prefix, tensor in both if tensor is not None and tensor.needs_slopes]


# -- How much at once ----------------------------------------------------------------------------------------


def _groups(steps: Sequence[Operation], values: int, batch: int) -> int:
    """As many as a core's cache holds; all of a batch that is normalised."""
    whole = -(-batch // LANES)
    if any(step.layer.kind == "batchnorm" for step in steps):
        return whole
    return max(GROUPS_MIN, min(GROUPS_MAX, CACHED_NUMBERS // values, whole))


def _refuse_what_no_machine_has(sizes: Sizes, batch: int) -> None:
    if sizes.bytes > BYTES_MAX:
        raise SpecError(
            f"the model needs {sizes.bytes / 2**30:.0f} GiB of memory for {sizes.groups * LANES} samples at once, more "
            f"than {BYTES_MAX // 2**30} GiB; use fewer outputs per layer, or, where a batchnorm wants all {batch} "
            "samples of a batch together, a smaller batch or groupnorm"
        )


def _scratch(row: np.void, groups: int) -> int:
    """Numbers that are turned or transformed at once: the inputs of a dense layer, a row of an image, patches."""
    if row["kind"] == table.DENSE:
        return groups * LANES * _rounded(int(row["channels"]))
    if row["kind"] != table.CONV:
        return 0
    m, channels, filters = int(row["winograd"]), int(row["channels"]), int(row["out_channels"])
    if m:
        return max(scratch_numbers(m, channels, filters), scratch_numbers(m, filters, channels))
    return LANES * (2 * int(row["padding"]) * channels + _rounded(int(row["width"]) * channels))


def _rounded(count: int) -> int:
    return -(-count // LANES) * LANES
