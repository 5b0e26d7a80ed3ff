"""A model as kernels see it: a table with one row per layer, all int64.

`row_of` and `fields` carry a row through calls by its address: layer = fields(row), then layer.height and so on.
"""

from __future__ import annotations

import numpy as np
from numba import from_dtype, types
from numba.extending import intrinsic

DENSE, CONV, MAXPOOL, MEANPOOL, RELU_ALONE, BATCHNORM, GROUPNORM, SUM = range(8)
TABLE_ROW = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("kind", "place"),  # place: in the chain of layers, from 0
            *("has_relu", "adds"),  # what is done at once where the outputs are stored
            *("weights_at", "biases_at", "parameters_end", "statistics_at"),  # in x; biases_at: -1 for none
            *("input_at", "output_at", "other_at", "kept_at"),  # numbers from a group's begin, in values
            *("input_slopes_at", "output_slopes_at", "other_slopes_at"),  # the same
            *("needs_gradient", "needs_input_slopes", "needs_other_slopes"),
            "keeps_statistics",  # a batch normalisation in training, too: frozen
            *("start", "finish", "other_start", "other_finish"),  # of those slopes, as tile.py has them
            *("prepared_at", "winograd"),  # in prepared; 0, 2 or 4: the m of F(m x m, 3 x 3)
            *("height", "width", "channels", "kernel", "stride", "padding", "out_height", "out_width", "out_channels"),
            "parts",  # of a group normalisation
        )
    ]
)
_RECORD = from_dtype(TABLE_ROW)
LAYER = types.CPointer(_RECORD)


@intrinsic
def row_of(typing_context, table, index):
    """The address of table[index]; not checked."""

    def emit(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.bitcast(builder.gep(data, [args[1]]), context.get_value_type(LAYER))

    return LAYER(table, types.intp), emit


@intrinsic
def fields(typing_context, row):
    """The row at that address."""

    def emit(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(_RECORD))

    return _RECORD(LAYER), emit
