"""Beginning with a trained model instead of drawn numbers: what of it fits another network, and what does not.

The layers must be the same, but for the last: where that has another size, because there are other classes, it starts
afresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gossip.errors import SpecError
from gossip.models.layers import Layer
from gossip.models.layout import layout_of
from gossip.models.portable import PortableModel


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """What a network begins with. fresh: parameters that are drawn after all, by name."""

    parameters: dict[str, np.ndarray]
    fresh: tuple[str, ...]


def start_of(found: PortableModel, layers: Sequence[Layer]) -> Start:
    """What `found` gives a network of these layers. Raises SpecError naming everything that differs."""
    theirs, ours = layout_of(found.layers), layout_of(layers)
    texts, wanted = ([layer.text for layer in chain[:-1]] for chain in (found.layers, layers))
    if texts != wanted:
        raise SpecError(f"has other layers: {_first_difference(texts, wanted)}")
    last = f"{len(layers) - 1}."
    others = [
        f"{name} is {list(theirs[name].shape)}, expected {list(slot.shape)}"
        for name, slot in ours.items()
        if theirs[name].shape != slot.shape and not name.startswith(last)
    ]
    weights = f"{last}dense.weight"
    if theirs[weights].shape[1] != ours[weights].shape[1]:
        others.append(f"{weights} takes {theirs[weights].shape[1]} values, expected {ours[weights].shape[1]}")
    if others:
        raise SpecError(f"does not fit: {'; '.join(others)}")
    fresh = tuple(name for name in ours if theirs[name].shape != ours[name].shape)
    return Start({name: value for name, value in found.parameters.items() if name not in fresh}, fresh)


def _first_difference(theirs: Sequence[str], ours: Sequence[str]) -> str:
    for number, (text, wanted) in enumerate(zip(theirs, ours, strict=False), start=1):
        if text != wanted:
            return f'layer {number} is "{text}", expected "{wanted}"'
    return f"{len(theirs) + 1} of them, expected {len(ours) + 1}"
