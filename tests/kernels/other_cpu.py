"""A script for the CPU that NUMBA_CPU_NAME names: python other_cpu.py RESULT.npz

Passes the gradient gate for some chains, takes a few steps of each, and saves the vectors they lead to.
"""

from __future__ import annotations

import sys

import numpy as np
from test_step import CHAINS, a_vector, assert_agrees_with_twin, model_of, seen_by, some_samples

from gossip.kernels import optimizer, target, tile

TRIED = ("lenet", "same", "strides", "winograd", "batchnorm", "groupnorm", "shortcuts")


def main(path: str) -> None:
    found = {"tile": np.array([tile.ROWS, tile.VECTORS, target.HAS_FMA])}
    for chain in TRIED:
        model, shape, classes = model_of(chain, batch=40, smoothing=0.1)
        images, labels = some_samples(40, shape, classes, 40)
        assert_agrees_with_twin(model, images, labels, seen_by(shape, images), f"{CHAINS[chain]}")
        x, gradient, momentum = a_vector(model, 1), *np.zeros((2, model.dim), np.float32)
        for _ in range(5):
            model.loss_and_grad(x, images, labels, gradient)
            optimizer.sgd(model.segments, x, gradient, momentum, 0.01, 0.9, 1e-3, False)
        found[chain] = x
    np.savez(path, **found)


if __name__ == "__main__":
    main(sys.argv[1])
