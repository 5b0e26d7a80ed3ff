"""Which parameters are not to be learnt, by patterns: "conv*" for layers of a kind, "0.*" for parameters by name.

Frozen parameters get no gradient, no optimizer and no exchange: whoever retrains the last layers of a network pays
for those alone. A batch normalisation that is frozen uses the statistics it came with and keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from gossip.errors import SpecError
from gossip.models.layers import Layer
from gossip.models.layout import layout_of

NAMES_SHOWN = 12


def frozen_parameters(layers: Sequence[Layer], patterns: Sequence[str]) -> tuple[str, ...]:
    """Names in the layout's order. A pattern is matched with a parameter's name and with its layer's kind.

    Raises SpecError: a pattern that matches nothing, or nothing left to learn.
    """
    layout = layout_of(layers)
    for pattern in patterns:
        if not any(_is_meant(name, pattern) for name in layout):
            raise SpecError(f"{pattern!r} is none of the parameters; there are {_some(list(layout))}")
    frozen = tuple(name for name in layout if any(_is_meant(name, pattern) for pattern in patterns))
    if all(name in frozen for name, slot in layout.items() if not slot.is_statistic):
        raise SpecError("freezes all parameters and leaves nothing to learn; leave out the last layer's")
    return frozen


def _is_meant(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.split(".")[1], pattern)


def _some(names: list[str]) -> str:
    rest = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
