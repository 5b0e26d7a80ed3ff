"""Arrays between two pages that nobody may touch, and a script that trains on them: one number too far ends it.

python guarded.py end|begin     random chains of test_step.py; every array ends (begins) at such a page
"""

from __future__ import annotations

import ctypes
import faulthandler
import math
import mmap
import sys
from dataclasses import replace
from typing import Any

import numpy as np

PAGE, PROT_NONE = mmap.PAGESIZE, 0
POISONED = ("values", "live", "prepared", "scratch", "sums")  # of the workspace: nothing in them counts before a step
_mappings: list[mmap.mmap] = []  # alive as long as the process
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def guarded(array: np.ndarray, at_end: bool) -> np.ndarray:
    """A copy that ends where a forbidden page begins, or begins where one ends; floats around it are NaN."""
    inner = math.ceil(array.nbytes / PAGE) * PAGE
    mapping = mmap.mmap(-1, inner + 2 * PAGE)
    _mappings.append(mapping)
    numbers = np.frombuffer(mapping, np.uint8)
    for page in (0, PAGE + inner):
        if _libc.mprotect(numbers.ctypes.data + page, PAGE, PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
    numbers[PAGE : PAGE + inner] = 0xFF
    begin = PAGE + inner - array.nbytes if at_end else PAGE
    copy = numbers[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def train(seed: int, at_end: bool) -> None:
    """Two steps and an evaluation where all memory is guarded and holds NaN, against one with memory to spare."""
    from test_step import a_random_chain, a_vector, some_samples

    from gossip.kernels import optimizer
    from gossip.models.model import build_model

    rng = np.random.default_rng(seed)
    layers, shape, classes = a_random_chain(rng)
    count = int(rng.integers(1, 71))
    options: dict[str, Any] = {"batch": count, "winograd": int(rng.choice([0, 2, 4]))}
    print(seed, [layer.text for layer in layers], shape, count, options, flush=True)
    model = build_model(layers, [0.0] * shape[2], [1.0] * shape[2], **options)
    work = model._works[0]
    poisoned = {name: np.full_like(getattr(work, name), np.nan) for name in POISONED}
    walled = replace(
        model,
        _works=(work._replace(**{name: guarded(array, at_end) for name, array in poisoned.items()}),),
        _table=guarded(model._table, at_end),
        _scale=guarded(model._scale, at_end),
        _shift=guarded(model._shift, at_end),
    )
    images, labels = some_samples(seed, shape, classes, count)
    found = []
    for trained, place in ((model, np.copy), (walled, lambda array: guarded(array, at_end))):
        x, gradient, momentum = (place(v) for v in (a_vector(model, seed), *np.zeros((2, model.dim), np.float32)))
        data = (place(images), place(labels))
        losses = []
        for _ in range(2):
            losses.append(trained.loss_and_grad(x, *data, gradient))
            optimizer.sgd(trained.segments, x, gradient, momentum, 0.01, 0.9, 0.0, False)
        found.append((losses, trained.evaluate(x, *data).loss, x.tobytes(), gradient.tobytes()))
    assert found[0] == found[1], "what lay around the arrays, or in them before, shows in the result"


if __name__ == "__main__":
    faulthandler.enable()
    for seed in range(80):
        train(seed, sys.argv[1] == "end")
