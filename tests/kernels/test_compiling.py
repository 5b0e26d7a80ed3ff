"""Machine code on disk must not outlive the sources it was made from."""

from __future__ import annotations

import pickle
from pathlib import Path

from gossip.kernels import compiling, step
from gossip.warmup import warm_up


def test_the_cache_is_stamped_with_every_kernel_source() -> None:
    """Numba alone would stamp it with step.py, and an upgraded conv.py would go unnoticed."""
    warm_up()
    cache = step.loss_and_grad._cache
    index = Path(cache.cache_path) / cache._cache_file._index_name
    with index.open("rb") as file:
        pickle.load(file)  # Numba's own version comes first
        stamp, _ = pickle.loads(file.read())
    assert stamp == compiling.SOURCES
