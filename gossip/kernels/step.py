"""A whole training step in one compiled call: the model is a table, and one function walks it.

The table has one row of TABLE_ROW per layer, so a single compile serves every model and the disk cache
works. The batch goes through in groups of 16 samples (lanes.py); an incomplete last group is filled with
black samples whose slopes are 0. Activations and slopes live in two workspaces the caller owns, nothing is
allocated. A relu works in place: its row has input_at == output_at.

Shared by all kernels below:
    table   TABLE_ROW[layers], from gossip.models.model
    x       float32[>= dim], every parameter, flat; what lies beyond dim is left alone
    images  uint8[n, features], C-contiguous. labels: uint8[n]. picked: int64[batch], rows of both;
            not checked, so the caller's must lie inside
    scale, shift      float32[features]: the model sees images * scale + shift
    values, slopes    float32[all features * 16], overwritten
"""

from __future__ import annotations

import math

import numpy as np

from gossip.kernels.compiling import kernel
from gossip.kernels.lanes import LANES
from gossip.kernels.layers import (
    affine_backward,
    affine_forward,
    affine_gradient,
    maxpool_backward,
    maxpool_forward,
    relu_backward,
    relu_forward,
)

AFFINE, RELU, MAXPOOL = range(3)
TABLE_ROW = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("kind", "needs_input_slopes"),
            *("weights_at", "biases_at", "parameters_end"),  # in x
            *("input_at", "input_end", "output_at", "output_end"),  # in values and slopes
            *("height", "width", "channels", "kernel", "padding", "out_height", "out_width", "out_channels"),
        )
    ]
)


@kernel
def sgd_step(table, x, gradient, momentum, images, labels, picked, scale, shift, values, slopes, rate, friction, decay):
    """One step of heavy-ball SGD (Polyak 1964) on the picked samples; returns the loss before it.

    momentum = friction * momentum + gradient + decay * x;  x -= rate * momentum, weights and biases alike.
    gradient, momentum: float32, as long as x. A loss that is not finite means that x is spoilt.
    """
    loss = loss_and_grad(table, x, gradient, images, labels, picked, scale, shift, values, slopes)
    rate, friction, decay = np.float32(rate), np.float32(friction), np.float32(decay)
    for i in range(x.size):
        momentum[i] = friction * momentum[i] + gradient[i] + decay * x[i]
        x[i] -= rate * momentum[i]
    return loss


@kernel
def loss_and_grad(table, x, gradient, images, labels, picked, scale, shift, values, slopes):
    """gradient = d(loss)/dx, 0 beyond dim; returns the loss: the mean cross-entropy of the picked samples."""
    gradient[:] = 0
    loss = 0.0
    for start in range(0, picked.size, LANES):
        group = picked[start : start + LANES]
        gather(images, group, scale, shift, values)
        forward(table, x, values)
        loss += softmax_loss(table[-1], labels, group, 1.0 / picked.size, values, slopes)
        backward(table, x, gradient, values, slopes)
    return loss / picked.size


@kernel
def evaluate(table, x, images, labels, picked, scale, shift, values, slopes, predictions):
    """predictions[i] = the likeliest class of sample picked[i]; returns the sum of the losses.

    predictions: uint8[picked.size].
    """
    loss = 0.0
    for start in range(0, picked.size, LANES):
        group = picked[start : start + LANES]
        gather(images, group, scale, shift, values)
        forward(table, x, values)
        loss += softmax_loss(table[-1], labels, group, 1.0, values, slopes)
        last = table[-1]
        for lane in range(group.size):
            predictions[start + lane] = likeliest(values[last.output_at : last.output_end], lane)
    return loss


@kernel
def gather(images, group, scale, shift, values):
    """values[feature, lane] = images[group[lane], feature] * scale[feature] + shift[feature]; 0 in idle lanes."""
    for feature in range(images.shape[1]):
        for lane in range(group.size):
            pixel = np.float32(images[group[lane], feature])
            values[feature * LANES + lane] = pixel * scale[feature] + shift[feature]
        for lane in range(group.size, LANES):
            values[feature * LANES + lane] = 0


@kernel
def forward(table, x, values):
    """Fill `values` behind the first layer's input, which is already there."""
    for row in range(table.size):
        layer = table[row]
        inputs = values[layer.input_at : layer.input_end]
        outputs = values[layer.output_at : layer.output_end]
        if layer.kind == AFFINE:
            weights = x[layer.weights_at : layer.biases_at]
            biases = x[layer.biases_at : layer.parameters_end]
            affine_forward(layer, weights, biases, inputs, outputs)
        elif layer.kind == RELU:
            relu_forward(outputs)
        else:
            maxpool_forward(layer, inputs, outputs)


@kernel
def backward(table, x, gradient, values, slopes):
    """Add this group's part to `gradient`, from the last layer's output slopes, which are already there."""
    for row in range(table.size - 1, -1, -1):
        layer = table[row]
        inputs = values[layer.input_at : layer.input_end]
        outputs = values[layer.output_at : layer.output_end]
        input_slopes = slopes[layer.input_at : layer.input_end]
        output_slopes = slopes[layer.output_at : layer.output_end]
        if layer.kind == AFFINE:
            weights_at, biases_at, end = layer.weights_at, layer.biases_at, layer.parameters_end
            affine_gradient(layer, inputs, output_slopes, gradient[weights_at:biases_at], gradient[biases_at:end])
            if not layer.needs_input_slopes:
                return
            affine_backward(layer, x[weights_at:biases_at], output_slopes, input_slopes)
        elif layer.kind == RELU:
            relu_backward(outputs, output_slopes)
        else:
            maxpool_backward(layer, inputs, outputs, output_slopes, input_slopes)


@kernel
def softmax_loss(last, labels, group, share, values, slopes):
    """Sum of -log softmax(logits)[label] over the group; slopes = share * its derivative by the logits.

    The largest logit is subtracted first, so exp cannot overflow. NaN where a logit is not finite or a
    label is not a class.
    """
    logits = values[last.output_at : last.output_end]
    logit_slopes = slopes[last.output_at : last.output_end]
    logit_slopes[:] = 0
    loss = 0.0
    for lane in range(group.size):
        label = labels[group[lane]]
        largest = logits[likeliest(logits, lane) * LANES + lane]
        total, at_label = 0.0, math.nan
        for feature in range(lane, logits.size, LANES):
            power = math.exp(logits[feature] - largest)
            logit_slopes[feature] = power
            total += power
            if feature == label * LANES + lane:
                at_label = logits[feature] - largest
        for feature in range(lane, logits.size, LANES):
            hit = 1.0 if feature == label * LANES + lane else 0.0
            logit_slopes[feature] = share * (logit_slopes[feature] / total - hit)
        loss += math.log(total) - at_label
    return loss


@kernel
def likeliest(logits, lane):
    """The class with the largest logit of one sample; the first of equals."""
    best = 0
    for c in range(1, logits.size // LANES):
        if logits[c * LANES + lane] > logits[best * LANES + lane]:
            best = c
    return best
