"""Which layer went first, when a loss is not finite: a walk along the tensors of a forward pass that is done.

Numbers that are not finite never become finite again on the way (a relu and a pool keep NaN), so the first tensor that
holds one was made by the layer that is to blame; its inputs, all finite, or its parameters say why.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gossip.kernels.lanes import LANES
from gossip.models.layers import Layer


def first_broken(layers: Sequence[Layer], table: np.ndarray, x: np.ndarray, values: np.ndarray, samples: int) -> str:
    """Part of a sentence: 'layer 3 "conv 16 5x5": its weights are not finite'.

    table: TABLE_ROW rows. x: float32[>= dim]. values: a workspace's, float32[groups, ...], after a forward pass of
    `samples` samples.
    """
    values = values[: -(-samples // LANES)]
    for row in table:
        output = values[:, row["output_at"] :][:, : LANES * row["out_height"] * row["out_width"] * row["out_channels"]]
        if not np.isfinite(output).all():
            return f"{_name(layers, row)}: {_why(row, x)}"
    last = table[-1]
    logits = values[:, last["output_at"] :][:, : LANES * last["out_channels"]]
    return f"the loss itself, behind {_name(layers, last)}: its outputs reach {np.abs(logits).max():.1g}"


def _name(layers: Sequence[Layer], row: np.void) -> str:
    return f'layer {row["place"] + 1} "{layers[row["place"]].text}"'


def _why(row: np.void, x: np.ndarray) -> str:
    if row["parameters_end"]:
        parameters = x[row["weights_at"] : row["parameters_end"]]
        if not np.isfinite(parameters).all():
            return "its weights are not finite any more"
        return f"its output overflows, with weights of up to {np.abs(parameters).max():.1g}"
    return "its output overflows"
