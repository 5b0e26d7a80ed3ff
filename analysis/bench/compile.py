"""How long compiling takes, how soon a second start trains, and whether machine code on disk goes stale when it must.

Each line is a process of its own that builds the cifar network as a node does and makes one step, from the
interpreter's start to the step's end. All share one fresh cache, and run a copy of the package, whose sources may be
edited:

    cold            nothing is on disk
    second start    everything is
    touched         a kernel's source is newer, and the same: still everything is
    edited          a constant in conv.py is another: everything is compiled again
    another CPU     NUMBA_CPU_NAME is another: likewise
    warmup, cold    every kernel there is, threads, evaluation and exchanges included, in a fresh cache

"files" counts the compiled kernels a start has written to the cache.

    python analysis/bench/compile.py [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import gossip

PACKAGE = Path(gossip.__file__).parent
FIRST_STEP = """
import time
import numpy as np
from gossip.data.store import Dataset
from gossip.models.layers import preset_layers, resolve_layers
from gossip.models.model import build_model
from gossip.sections import TrainSpec
from gossip.training.trainer import Trainer
rng = np.random.default_rng(1)
images, labels = rng.integers(0, 256, (64, 32, 32, 3), np.uint8), rng.integers(0, 10, 64, np.uint8)
model = build_model(resolve_layers(preset_layers("cifar"), (32, 32, 3), 10), [0.5] * 3, [0.25] * 3, batch=32)
dataset = Dataset(images, labels, images[:1], labels[:1])
Trainer(TrainSpec(batch=32), 1, model, dataset, np.arange(64), order_seed=1).step()
print(time.process_time())
"""
WARM_UP = "import time; from gossip.warmup import warm_up; warm_up(); print(time.process_time())"
OTHER_CPU = {"x86_64": "haswell", "AMD64": "haswell", "aarch64": "cortex-a53", "arm64": "cortex-a53"}


@dataclass(frozen=True, slots=True)
class Row:
    start: str
    cpu_s: float
    wall_s: float
    files: int


def start(name: str, code: str, folder: Path, cache: Path, **more: str) -> Row:
    """One process, the package from `folder`."""
    before = _written(cache)
    environment = os.environ | {"PYTHONPATH": str(folder), "NUMBA_CACHE_DIR": str(cache)} | more
    began = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=folder, stdout=subprocess.PIPE, text=True, check=True
    )
    wall_s = time.monotonic() - began
    return Row(name, float(result.stdout), wall_s, len(_written(cache) - before))


def _written(cache: Path) -> set[tuple[Path, int]]:
    """Every compiled kernel, and when."""
    return {(path, path.stat().st_mtime_ns) for path in cache.rglob("*.nbc")}


def measure() -> list[Row]:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copytree(PACKAGE, folder / "gossip", ignore=shutil.ignore_patterns("__pycache__"))
        source = folder / "gossip" / "kernels" / "conv.py"
        cache = folder / "cache"
        cold = start("cold", FIRST_STEP, folder, cache)
        second = start("second start", FIRST_STEP, folder, cache)
        source.touch()
        touched = start("touched", FIRST_STEP, folder, cache)
        source.write_text(source.read_text(encoding="utf-8") + "\nANOTHER = 1\n", encoding="utf-8")
        edited = start("edited", FIRST_STEP, folder, cache)
        other = start("another CPU", FIRST_STEP, folder, cache, NUMBA_CPU_NAME=OTHER_CPU[platform.machine()])
        everything = start("warmup, cold", WARM_UP, folder, folder / "other")
    return [cold, second, touched, edited, other, everything]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure()
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2))
    for row in [] if options.json else rows:
        print(f"{row.start:14} {row.cpu_s:6.2f} s CPU {row.wall_s:6.2f} s wall {row.files:4} files")


if __name__ == "__main__":
    main()
