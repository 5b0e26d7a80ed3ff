"""What is compiled beforehand is all that a run compiles."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
from numba.core import event
compiled = []
class Listener(event.Listener):
    def on_start(self, event): compiled.append(event.data["dispatcher"].__name__)
    def on_end(self, event): pass
from gossip.warmup import warm_up
seen = []
warm_up(lambda done, total, name: seen.append((done, total)))
assert [done for done, _ in seen] == list(range(seen[-1][1] + 1)), seen
assert float("1e-310") * 1.0 > 0, "our own thread takes denormals as zero now"
with event.install_listener("numba:compile", Listener()):
    import numpy as np
    from gossip.models.layers import preset_layers, resolve_layers
    from gossip.kernels import optimizer
    from gossip.models.model import build_model
    for name, shape, threads in (("mlp", (28, 28, 1), 1), ("resnet20", (32, 32, 3), 3)):
        model = build_model(resolve_layers(preset_layers(name), shape, 10), (0.5,) * shape[2], (1.0,) * shape[2],
                            threads=threads)
        images, labels = np.zeros((48, *shape), np.uint8), np.zeros(48, np.uint8)
        x, gradient, momentum = model.init(1), *np.zeros((2, model.dim), np.float32)
        model.loss_and_grad(x, images, labels, gradient)
        optimizer.sgd(model.segments, x, gradient, momentum, 0.1, 0.9, 0.0, False)
        model.evaluate(x, images, labels)
print(sorted(set(compiled)))
"""


def test_a_run_compiles_nothing_that_warm_up_left() -> None:
    """Else a node would stand still for seconds in the middle of its start, without a word."""
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=110)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_second_time_everything_comes_from_the_disk(tmp_path: Path) -> None:
    """In an empty cache: compiled once, then loaded within moments."""
    words = [sys.executable, "-m", "gossip", "warmup"]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    for _ in range(2):
        done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True).stdout
    seconds = float(done.rsplit("kernels ready (", 1)[1].split(" s)")[0])
    assert seconds < 5.0
