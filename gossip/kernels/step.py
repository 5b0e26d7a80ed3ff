"""A whole training step in one compiled call: the model is a table, and one function walks it.

The table has one row of TABLE_ROW per layer, so a single compile serves every model and the disk cache works. The
batch goes through in chunks of a few groups of 16 samples (lanes.py), all groups of a chunk layer by layer. What a
relu does is done where its layer's outputs are stored, and on the way back where the next layer's slopes are; a sum
with an earlier tensor likewise. Nothing is allocated.

A slope is the derivative of the loss by a value. Idle lanes, those of the last group that no sample is left for,
hold zeros and have slopes of 0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gossip.kernels import conv, dense, norm, pool, residual, team
from gossip.kernels.compiling import kernel
from gossip.kernels.lanes import LANES, ahead, at, transpose
from gossip.kernels.loss import likeliest, softmax_loss
from gossip.kernels.table import (
    BATCHNORM,
    CONV,
    DENSE,
    GROUPNORM,
    MAXPOOL,
    MEANPOOL,
    SUM,
    fields,
    row_of,
)
from gossip.kernels.tile import PLAIN, RELU
from gossip.kernels.winograd import transform_weights, winograd_backward, winograd_forward, winograd_gradient


class Samples(NamedTuple):
    """What is trained or judged on."""

    images: np.ndarray  # uint8[n, features], C-contiguous
    labels: np.ndarray  # uint8[n]
    picked: np.ndarray  # int64[batch], rows of both; not checked, so they must lie inside
    scale: np.ndarray  # float32[features]: the model sees images * scale + shift
    shift: np.ndarray


class Workspace(NamedTuple):
    """As large as gossip.models.plan says; overwritten."""

    values: np.ndarray  # float32[groups, ...], all tensors and their slopes, 16 numbers a feature
    live: np.ndarray  # float32[groups, 16]: 1 for a sample, 0 for an idle lane
    prepared: np.ndarray  # float32: weights as the step wants them
    scratch: np.ndarray  # float32
    sums: np.ndarray  # float64[2 * channels]
    me: int  # of a team of threads (team.py)
    size: int
    flags: np.ndarray  # int64, the team's
    board: np.ndarray  # float64[size, 2 * channels], the team's


@kernel
def loss_and_grad(table, x, gradient, samples, smoothing, work):
    """gradient = d(loss)/dx, 0 where nothing is learnt; returns the mean cross-entropy of the picked samples.

    table: TABLE_ROW[layers]. x, gradient: float32[>= dim], every parameter, flat. smoothing: share of every label
    that is spread over all classes (Szegedy et al. 2016, arXiv 1512.00567).
    """
    prepare(table, x, work.prepared)
    clear(table, gradient)
    loss = 0.0
    batch = samples.picked.size
    size = work.values.shape[0] * LANES
    first, end = team.share(batch, work)
    for start in range(first, end, size):
        chunk = samples.picked[start : min(start + size, end)]
        gather(samples, chunk, work)
        forward(table, x, gradient, chunk.size, batch, work)
        loss += softmax_loss(table[-1], samples.labels, chunk, smoothing, 1.0 / batch, work.values)
        backward(table, x, gradient, start == first, chunk.size, batch, work)
    return loss / batch


@kernel
def loss_and_grad_together(table, x, gradient, others, samples, smoothing, work):
    """The same by a team of threads, each of which calls this with its own workspace; all get the same loss.

    others: float32[size - 1, n], the gradients of all threads but the first, whose is `gradient`.
    """
    own = gradient if work.me == 0 else others[work.me - 1]
    loss = loss_and_grad(table, x, own, samples, smoothing, work)
    work.sums[0] = loss
    team.add_up(work.sums, 1, work)
    loss = work.sums[0]
    team.gather_gradients(gradient, others, work)
    return loss


@kernel
def evaluate(table, x, samples, work, predictions):
    """predictions[i] = the likeliest class of sample picked[i]; returns the sum of the losses.

    predictions: uint8[picked.size].
    """
    prepare(table, x, work.prepared)
    loss = 0.0
    last, values = table[-1], work.values
    size = values.shape[0] * LANES
    for start in range(0, samples.picked.size, size):
        chunk = samples.picked[start : start + size]
        gather(samples, chunk, work)
        forward(table, x, x, chunk.size, 0, work)
        loss += softmax_loss(last, samples.labels, chunk, 0.0, 1.0, values)
        for sample in range(chunk.size):
            logits = at(values, sample // LANES * values.shape[1] + last.output_at)
            predictions[start + sample] = likeliest(logits, last.out_channels, sample % LANES)
    return loss


# -- Before the first layer ----------------------------------------------------------------------------------


@kernel
def gather(samples, chunk, work):
    """The first tensor: [group, feature, lane] = images[sample, feature] * scale[feature] + shift[feature]."""
    features, values, scratch = samples.images.shape[1], work.values, work.scratch
    width = -(-features // LANES) * LANES
    for group in range(-(-chunk.size // LANES)):
        for lane in range(LANES):
            row = scratch[lane * width : lane * width + features]
            sample = group * LANES + lane
            work.live[group, lane] = sample < chunk.size
            if sample < chunk.size:
                normalise(samples.images[chunk[sample]], samples.scale, samples.shift, row)
            else:
                row[:] = 0
        for first in range(0, features, LANES):
            transpose(at(scratch, first), width, at(values, group * values.shape[1] + first * LANES), LANES)


@kernel
def normalise(image, scale, shift, row):
    """row = image * scale + shift."""
    for feature in range(image.size):
        row[feature] = np.float32(image[feature]) * scale[feature] + shift[feature]


# -- Before the first chunk ----------------------------------------------------------------------------------


@kernel
def clear(table, gradient):
    """What is added to begins at 0; dense layers write theirs at their first chunk."""
    end = 0
    for row in range(table.size):
        layer = table[row]
        if layer.parameters_end > 0:
            end = layer.parameters_end
            if layer.kind != DENSE or not layer.needs_gradient:
                gradient[layer.weights_at : end] = 0
    gradient[end:] = 0


@kernel
def prepare(table, x, prepared):
    """Weights turned for the way back, and transformed for Winograd's convolution."""
    for index in range(table.size):
        row = row_of(table, index)
        layer = fields(row)
        if layer.kind == CONV:
            weights, turned = at(x, layer.weights_at), at(prepared, layer.prepared_at)
            if layer.needs_input_slopes:
                conv.turn_weights(row, weights, turned)
            if layer.winograd:
                m, count = layer.winograd, layer.out_channels * layer.channels
                there = ahead(turned, 9 * count)
                transform_weights(m, layer.out_channels, layer.channels, weights, there)
                if layer.needs_input_slopes:
                    back = ahead(there, (m + 2) * (m + 2) * count)
                    transform_weights(m, layer.channels, layer.out_channels, turned, back)


# -- Through the layers --------------------------------------------------------------------------------------


@kernel
def forward(table, x, gradient, count, batch, work):
    """All tensors behind the first one, for `count` samples of a batch; batch 0: for an evaluation."""
    for index in range(table.size):
        row = row_of(table, index)
        layer = fields(row)
        if layer.kind == BATCHNORM:
            forward_batchnorm(row, x, gradient, count, batch, work)
        elif layer.kind == DENSE or layer.kind == CONV:
            forward_affine(row, x, -(-count // LANES), work)
        else:
            for group in range(-(-count // LANES)):
                forward_group(row, x, group * work.values.shape[1], work.values)


@kernel
def forward_affine(row, x, groups, work):
    """Dense and convolution."""
    layer = fields(row)
    values, gap = work.values, work.values.shape[1]
    inputs, outputs = at(values, layer.input_at), at(values, layer.output_at)
    weights, biases = at(x, layer.weights_at), at(x, layer.biases_at)
    finish = RELU if layer.has_relu else PLAIN
    if layer.kind == DENSE:
        dense.dense_forward(row, finish, groups, gap, weights, biases, inputs, outputs)
    elif layer.winograd:
        transformed = at(work.prepared, layer.prepared_at + 9 * layer.channels * layer.out_channels)
        winograd_forward(
            row, finish, groups, gap, transformed, biases, inputs, outputs, at(work.scratch, 0)
        )  # fmt: skip
    else:
        conv.conv_forward(row, finish, groups, gap, weights, biases, inputs, outputs)


@kernel
def forward_batchnorm(row, x, gradient, count, batch, work):
    """All groups of the chunk, which is the batch."""
    layer = fields(row)
    values, gap, sums = work.values, work.values.shape[1], at(work.sums, 0)
    groups = -(-count // LANES)
    inputs, kept = at(values, layer.input_at), at(work.prepared, layer.prepared_at)
    statistics = at(x, layer.statistics_at)
    if batch and not layer.keeps_statistics:
        norm.batch_statistics(row, groups, gap, at(work.live, 0), inputs, sums)
        team.add_up(work.sums, 2 * layer.channels, work)
        statistics_gradient = at(gradient, layer.statistics_at)
        norm.batchnorm_begin(row, batch, sums, statistics, statistics_gradient, kept)
        if work.me > 0:
            gradient[layer.statistics_at : layer.statistics_at + 2 * layer.channels] = 0
    else:
        norm.batchnorm_recall(row, statistics, kept)
    norm.batchnorm_forward(
        row, RELU if layer.has_relu else PLAIN, groups, gap, at(x, layer.weights_at), at(x, layer.biases_at), kept,
        inputs, at(values, layer.other_at), at(values, layer.output_at),
    )  # fmt: skip


@kernel
def forward_group(row, x, begin, values):
    """Layers that know one group of samples at a time."""
    layer = fields(row)
    inputs, outputs = at(values, begin + layer.input_at), at(values, begin + layer.output_at)
    other = at(values, begin + layer.other_at)
    finish = RELU if layer.has_relu else PLAIN
    if layer.kind == MAXPOOL:
        pool.maxpool_forward(row, inputs, outputs)
    elif layer.kind == MEANPOOL:
        pool.meanpool_forward(row, inputs, outputs)
    elif layer.kind == GROUPNORM:
        scales, biases, kept = at(x, layer.weights_at), at(x, layer.biases_at), at(values, begin + layer.kept_at)
        norm.groupnorm_forward(row, finish, scales, biases, kept, inputs, other, outputs)
    elif layer.kind == SUM:
        residual.sum_forward(row, finish, inputs, other, outputs)
    else:
        residual.relu_forward(layer.height * layer.width * layer.channels, inputs, outputs)


# -- And back ------------------------------------------------------------------------------------------------


@kernel
def backward(table, x, gradient, is_first, count, batch, work):
    """Add this chunk's part to `gradient`, from the last layer's output slopes, which are already there."""
    for index in range(table.size - 1, -1, -1):
        row = row_of(table, index)
        layer = fields(row)
        if layer.kind == BATCHNORM:
            backward_batchnorm(row, x, gradient, count, batch, work)
        elif layer.kind == DENSE:
            backward_dense(row, x, gradient, is_first, -(-count // LANES), work)
        elif layer.kind == CONV:
            backward_conv(row, gradient, -(-count // LANES), work)
        for group in range(-(-count // LANES)):
            begin = group * work.values.shape[1]
            if layer.adds and layer.needs_other_slopes:
                other, slopes = at(work.values, begin + layer.other_at), at(work.values, begin + layer.output_slopes_at)
                other_slopes = at(work.values, begin + layer.other_slopes_at)
                residual.shortcut_backward(row, layer.other_start, layer.other_finish, other, slopes, other_slopes)
            if layer.kind > CONV and layer.kind != BATCHNORM:
                backward_group(row, x, gradient, begin, work.values)


@kernel
def backward_dense(row, x, gradient, is_first, groups, work):
    """Its gradient where it learns, and its input's slopes where somebody before it does."""
    layer = fields(row)
    values, gap = work.values, work.values.shape[1]
    inputs, input_slopes = at(values, layer.input_at), at(values, layer.input_slopes_at)
    output_slopes = at(values, layer.output_slopes_at)
    if layer.needs_gradient:
        weight_gradient, bias_gradient = at(gradient, layer.weights_at), at(gradient, layer.biases_at)
        dense.dense_gradient(
            row, is_first, groups, gap, inputs, output_slopes, weight_gradient, bias_gradient, at(work.scratch, 0)
        )  # fmt: skip
    if layer.needs_input_slopes:
        weights = at(x, layer.weights_at)
        dense.dense_backward(
            row, layer.start, layer.finish, groups, gap, weights, output_slopes, inputs, input_slopes
        )  # fmt: skip


@kernel
def backward_conv(row, gradient, groups, work):
    """The same of a convolution."""
    layer = fields(row)
    values, gap, scratch = work.values, work.values.shape[1], at(work.scratch, 0)
    inputs, input_slopes = at(values, layer.input_at), at(values, layer.input_slopes_at)
    output_slopes = at(values, layer.output_slopes_at)
    m, turned = layer.winograd, at(work.prepared, layer.prepared_at)
    if layer.needs_gradient:
        weight_gradient, bias_gradient = at(gradient, layer.weights_at), at(gradient, layer.biases_at)
        if m:
            winograd_gradient(
                row, groups, gap, inputs, output_slopes, weight_gradient, bias_gradient, scratch
            )  # fmt: skip
        else:
            conv.conv_gradient(
                row, groups, gap, inputs, output_slopes, weight_gradient, bias_gradient, scratch
            )  # fmt: skip
    if not layer.needs_input_slopes:
        return
    if m:
        transformed = ahead(turned, (9 + (m + 2) * (m + 2)) * layer.channels * layer.out_channels)
        winograd_backward(
            row, layer.start, layer.finish, groups, gap, transformed, output_slopes, inputs, input_slopes, scratch
        )  # fmt: skip
    else:
        conv.conv_backward(
            row, layer.start, layer.finish, groups, gap, turned, output_slopes, inputs, input_slopes
        )  # fmt: skip


@kernel
def backward_batchnorm(row, x, gradient, count, batch, work):
    """All groups of the chunk, which is the batch."""
    layer = fields(row)
    if not layer.needs_gradient and not layer.needs_input_slopes:
        return
    values, gap, sums = work.values, work.values.shape[1], at(work.sums, 0)
    groups = -(-count // LANES)
    inputs, kept = at(values, layer.input_at), at(work.prepared, layer.prepared_at)
    output_slopes = at(values, layer.output_slopes_at)
    if not (layer.needs_gradient or layer.needs_input_slopes):
        return
    norm.batchnorm_slopes(row, groups, gap, kept, inputs, output_slopes, sums)
    team.add_up(work.sums, 2 * layer.channels, work)
    if layer.needs_gradient and work.me == 0:
        for c in range(layer.channels):
            gradient[layer.weights_at + c] += sums[layer.channels + c]
            gradient[layer.biases_at + c] += sums[c]
    if layer.keeps_statistics:  # constants: no slope goes through them
        work.sums[: 2 * layer.channels] = 0
    if layer.needs_input_slopes:
        norm.batchnorm_backward(
            row, layer.start, layer.finish, groups, gap, batch, at(work.live, 0), at(x, layer.weights_at), kept,
            sums, inputs, output_slopes, at(values, layer.input_slopes_at),
        )  # fmt: skip


@kernel
def backward_group(row, x, gradient, begin, values):
    """Layers that know one group of samples at a time."""
    layer = fields(row)
    inputs, outputs = at(values, begin + layer.input_at), at(values, begin + layer.output_at)
    slopes, input_slopes = at(values, begin + layer.output_slopes_at), at(values, begin + layer.input_slopes_at)
    if layer.kind == GROUPNORM:
        if layer.needs_gradient or layer.needs_input_slopes:
            norm.groupnorm_backward(
                row, layer.start, layer.finish, layer.needs_input_slopes, at(x, layer.weights_at),
                at(values, begin + layer.kept_at), inputs, slopes, input_slopes,
                at(gradient, layer.weights_at), at(gradient, layer.biases_at),
            )  # fmt: skip
            if not layer.needs_gradient:
                gradient[layer.weights_at : layer.parameters_end] = 0
    elif not layer.needs_input_slopes:
        return
    elif layer.kind == MAXPOOL:
        pool.maxpool_backward(row, layer.start, layer.finish, inputs, outputs, slopes, input_slopes)
    elif layer.kind == MEANPOOL:
        pool.meanpool_backward(row, layer.start, layer.finish, inputs, slopes, input_slopes)
    elif layer.kind == SUM:
        count = layer.out_height * layer.out_width * layer.out_channels
        residual.pass_slopes(count, layer.start, layer.finish, inputs, slopes, input_slopes)
    else:
        count = layer.height * layer.width * layer.channels
        residual.relu_backward(count, layer.start, outputs, slopes, input_slopes)
