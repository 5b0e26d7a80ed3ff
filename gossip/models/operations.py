"""What a chain of layers does, in order: operations that read one tensor or two and write the next.

A relu is no operation of its own where the one before it can store max(0, output) at no cost, nor is a sum behind a
normalisation. What is marked stays as it is: nothing behind a mark is taken into what is before it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from gossip.models.layers import Layer, size
from gossip.models.layout import Slot

WITH_RELU = ("dense", "conv", "batchnorm", "groupnorm", "add")
WITH_SUM = ("batchnorm", "groupnorm")


@dataclass(slots=True, eq=False)
class Tensor:
    """What an operation gives for one sample; the first is the image."""

    features: int
    needs_slopes: bool  # what made it learns, or something before that
    has_relu: bool = False  # a relu gave it: where it is 0, its slopes are
    is_marked: bool = False


@dataclass(slots=True, eq=False)
class Operation:
    """One row of the kernels' table in the making."""

    place: int  # of its layer in the chain
    layer: Layer
    source: Tensor
    output: Tensor
    other: Tensor | None = None  # is added to the output
    slots: Mapping[str, Slot] = field(default_factory=dict)  # its parameters: weight, bias, mean, variance
    learns: bool = False
    follows: bool = False  # moves its running statistics


def operations(
    layers: Sequence[Layer], layout: Mapping[str, Slot], frozen: Collection[str] = ()
) -> tuple[Operation, ...]:
    """frozen: names of parameters that stay as they are."""
    newest = Tensor(size(layers[0].input), needs_slopes=False)
    marked: dict[str, Tensor] = {}
    done: list[Operation] = []
    for place, layer in enumerate(layers):
        if layer.kind == "mark":
            newest.is_marked = True
            marked[layer.name] = newest
        elif done and layer.kind == "relu" and _can_end_with_relu(done[-1]):
            newest.has_relu = True
        elif done and layer.kind == "add" and _can_end_with_sum(done[-1], layer):
            _add(done[-1], marked[layer.name])
        else:
            done.append(_operation(place, layer, newest, layout, frozen))
            newest = done[-1].output
            if layer.kind == "add":
                _add(done[-1], marked[layer.name])
    return tuple(done)


def _can_end_with_relu(last: Operation) -> bool:
    return last.layer.kind in WITH_RELU and not (last.output.is_marked or last.output.has_relu)


def _can_end_with_sum(last: Operation, layer: Layer) -> bool:
    is_free = last.other is None and not (last.output.is_marked or last.output.has_relu)
    return last.layer.kind in WITH_SUM and layer.other == layer.input and is_free


def _add(operation: Operation, other: Tensor) -> None:
    operation.other = other
    operation.output.needs_slopes |= other.needs_slopes


def _operation(
    place: int, layer: Layer, source: Tensor, layout: Mapping[str, Slot], frozen: Collection[str]
) -> Operation:
    prefix = f"{place}.{layer.kind}."
    slots = {name.removeprefix(prefix): slot for name, slot in layout.items() if name.startswith(prefix)}
    moving = {name for name in slots if prefix + name not in frozen}
    learns, follows = bool(moving & {"weight", "bias"}), bool(moving & {"mean", "variance"})
    output = Tensor(size(layer.output), source.needs_slopes or learns)
    return Operation(place, layer, source, output, None, slots, learns, follows)
