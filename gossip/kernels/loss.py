"""Softmax cross-entropy behind the last layer, sample by sample."""

from __future__ import annotations

import math

from gossip.kernels.compiling import kernel
from gossip.kernels.lanes import LANES, at


@kernel
def softmax_loss(last, labels, chunk, smoothing, share, values):
    """The sum of the samples' cross-entropies; their slopes by the logits, times share.

    NaN where a logit is not finite or a label is not a class.
    """
    loss = 0.0
    for group in range(-(-chunk.size // LANES)):
        begin = group * values.shape[1]
        logits, slopes = at(values, begin + last.output_at), at(values, begin + last.output_slopes_at)
        for lane in range(LANES):
            sample = group * LANES + lane
            if sample < chunk.size:
                loss += sample_loss(logits, last.out_channels, lane, labels[chunk[sample]], smoothing, share, slopes)
            else:
                for c in range(last.out_channels):
                    slopes[c * LANES + lane] = 0
    return loss


@kernel
def sample_loss(logits, classes, lane, label, smoothing, share, slopes):
    """-sum over classes of target * log softmax(logits); the largest is subtracted first, so exp cannot overflow."""
    largest = logits[likeliest(logits, classes, lane) * LANES + lane]
    total, spread = 0.0, 0.0
    for c in range(classes):
        power = math.exp(logits[c * LANES + lane] - largest)
        slopes[c * LANES + lane] = power
        total += power
        spread += logits[c * LANES + lane] - largest
    for c in range(classes):
        target = smoothing / classes + (1.0 - smoothing if c == label else 0.0)
        slopes[c * LANES + lane] = share * (slopes[c * LANES + lane] / total - target)
    if label >= classes:
        return math.nan
    hit = logits[label * LANES + lane] - largest
    return math.log(total) - (1.0 - smoothing) * hit - smoothing * spread / classes


@kernel
def likeliest(logits, classes, lane):
    """The class with the largest logit of one sample; the first of equals."""
    best = 0
    for c in range(1, classes):
        if logits[c * LANES + lane] > logits[best * LANES + lane]:
            best = c
    return best
