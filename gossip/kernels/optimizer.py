"""What a gradient does to the parameters.

The parameter vector is cut into segments, SEGMENT rows: trained parameters follow the optimizer, running statistics
go a fixed share of the way to what the batch showed (norm.py), and what is in no segment, frozen layers and the
padding behind the last parameter, stays as it is. x and gradient are float32[>= dim], the optimizer's state as long.
"""

from __future__ import annotations

import math

import numpy as np

from gossip.kernels.compiling import kernel

TRAINED, STATISTIC = range(2)
SEGMENT = np.dtype([("start", np.int64), ("end", np.int64), ("kind", np.int64)])
STATISTIC_RATE = 0.1  # of running statistics, as PyTorch's default has it


@kernel
def sgd(segments, x, gradient, momentum, rate, friction, decay, is_nesterov):
    """momentum = friction * momentum + gradient + decay * x;  x -= rate * momentum, weights and biases alike.

    Heavy ball (Polyak 1964), or with is_nesterov x -= rate * (gradient + decay * x + friction * momentum), which is
    Nesterov's as Sutskever et al. (2013) have it.
    """
    rate, friction, decay = np.float32(rate), np.float32(friction), np.float32(decay)
    for row in range(segments.size):
        part = slice(segments[row].start, segments[row].end)
        if segments[row].kind == STATISTIC:
            move_statistics(x[part], gradient[part])
        elif is_nesterov:
            nesterov(x[part], gradient[part], momentum[part], rate, friction, decay)
        else:
            heavy_ball(x[part], gradient[part], momentum[part], rate, friction, decay)


@kernel
def heavy_ball(x, gradient, momentum, rate, friction, decay):
    for i in range(x.size):
        momentum[i] = friction * momentum[i] + gradient[i] + decay * x[i]
        x[i] -= rate * momentum[i]


@kernel
def nesterov(x, gradient, momentum, rate, friction, decay):
    for i in range(x.size):
        slope = gradient[i] + decay * x[i]
        momentum[i] = friction * momentum[i] + slope
        x[i] -= rate * (slope + friction * momentum[i])


@kernel
def adamw(segments, x, gradient, mean, square, step, rate, beta1, beta2, epsilon, decay):
    """Loshchilov & Hutter (ICLR 2019, arXiv 1711.05101): Adam, and x shrinks by rate * decay beside it.

    mean, square: moving averages of the gradient and its square. step: counts from 1, for their bias.
    """
    shrink, rate_now = np.float32(1 - rate * decay), np.float32(rate / (1 - beta1**step))
    root = np.float32(1 / math.sqrt(1 - beta2**step))
    for row in range(segments.size):
        part = slice(segments[row].start, segments[row].end)
        if segments[row].kind == STATISTIC:
            move_statistics(x[part], gradient[part])
        else:
            adam(
                x[part], gradient[part], mean[part], square[part], shrink, rate_now, root,
                np.float32(beta1), np.float32(beta2), np.float32(epsilon),
            )  # fmt: skip


@kernel
def adam(x, gradient, mean, square, shrink, rate, root, beta1, beta2, epsilon):
    rest1, rest2 = np.float32(1) - beta1, np.float32(1) - beta2
    for i in range(x.size):
        mean[i] = beta1 * mean[i] + rest1 * gradient[i]
        square[i] = beta2 * square[i] + rest2 * gradient[i] * gradient[i]
        x[i] = shrink * x[i] - rate * mean[i] / (np.sqrt(square[i]) * root + epsilon)


@kernel
def move_statistics(x, gradient):
    """Their gradient is how far they are from the batch's."""
    for i in range(x.size):
        x[i] -= np.float32(STATISTIC_RATE) * gradient[i]


@kernel
def norm_of(segments, gradient):
    """The Euclidean length of the trained parameters' gradient, summed in float64."""
    total = 0.0
    for row in range(segments.size):
        if segments[row].kind == TRAINED:
            for slope in gradient[segments[row].start : segments[row].end]:
                total += np.float64(slope) * np.float64(slope)
    return math.sqrt(total)


@kernel
def clip(segments, gradient, longest):
    """Shorten the gradient to at most `longest` (Pascanu et al. 2013, arXiv 1211.5063); returns its length before."""
    length = norm_of(segments, gradient)
    if length > longest:
        for row in range(segments.size):
            if segments[row].kind == TRAINED:
                gradient[segments[row].start : segments[row].end] *= np.float32(longest / length)
    return length
