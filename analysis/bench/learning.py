"""Does a network learn as much here as in PyTorch? The same start, samples, order and rates; only the rounding differs.

For each seed one run in PyTorch and one of ours per Winograd transform (m of F(m x m, 3 x 3); 0 is direct convolution,
and a network without 3 x 3 kernels has only that), each judged on all held-out samples by its own side. PyTorch also
runs in its other memory layout: how far it is from itself is what rounding alone can do, and no difference of ours
below that means anything.

    lenet      MNIST, 3 epochs of 60,000 samples, batch 32, rate 0.03
    cifar      CIFAR-10, 3 epochs of 10,000 samples (1,000 of each class), batch 32, rate 0.01
    resnet20   the same, batch 64, rate 0.1

All with momentum 0.9, weight decay 1e-4, a warm-up of 3 % and half a cosine. MNIST comes by its recipe; CIFAR-10 from
$GOSSIP_DATA/cifar10-jpg, one zip of JPEG files per class and split.

    python analysis/bench/learning.py --json [--models lenet] [--seeds 1 2 3]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch_twin import TorchTwin, normalised, torch

from gossip.data.recipes import find_recipe
from gossip.data.sampler import Sampler
from gossip.data.store import Dataset, load_dataset
from gossip.kernels.denormals import flush_denormals
from gossip.models.layers import preset_layers, resolve_layers
from gossip.models.model import build_model
from gossip.sections import TrainSpec
from gossip.training.schedule import learning_rate_at
from gossip.training.trainer import Trainer

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True, slots=True)
class Budget:
    data: str
    epochs: int
    batch: int
    rate: float


BUDGETS = {
    "lenet": Budget("mnist", 3, 32, 0.03),
    "cifar": Budget("cifar10", 3, 32, 0.01),
    "resnet20": Budget("cifar10", 3, 64, 0.1),
}
PER_CLASS = 1_000
DECAY = 1e-4
LAYOUTS = {"torch": torch.contiguous_format, "torch, channels last": torch.channels_last}


@dataclass(frozen=True, slots=True)
class Run:
    model: str
    side: str
    seed: int
    accuracy: float  # per cent of all held-out samples
    cpu_s: float


# -- Images -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Images:
    dataset: Dataset
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load(name: str) -> Images:
    if name == "mnist":
        recipe = find_recipe("mnist")
        return Images(load_dataset(recipe), recipe.mean, recipe.std)
    folder = Path(os.environ.get("GOSSIP_DATA", "")) / "cifar10-jpg"
    if not folder.is_dir():
        raise SystemExit(f"{folder} is missing: set GOSSIP_DATA to the folder that holds cifar10-jpg")
    train = _read_zips(folder / "train", PER_CLASS)
    seen = train[0].reshape(-1, 3) / 255
    return Images(Dataset(*train, *_read_zips(folder / "test", None)), tuple(seen.mean(0)), tuple(seen.std(0)))


def _read_zips(folder: Path, per_class: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(uint8[n, 32, 32, 3], uint8[n]); the first so many of every class, None for all."""
    from PIL import Image

    images, labels = [], []
    for label, name in enumerate(CLASSES):
        with zipfile.ZipFile(folder / f"{name}.zip") as archive:
            for member in sorted(archive.namelist())[:per_class]:
                images.append(np.asarray(Image.open(io.BytesIO(archive.read(member))).convert("RGB")))
                labels.append(label)
    return np.stack(images), np.array(labels, np.uint8)


# -- Two ways to learn ----------------------------------------------------------------------------------------


def run_ours(name: str, seed: int, winograd: int, images: Images) -> float:
    budget, dataset = BUDGETS[name], images.dataset
    layers = resolve_layers(preset_layers(name), dataset.train_images.shape[1:], 10)
    model = build_model(layers, images.mean, images.std, batch=budget.batch, winograd=winograd)
    spec = TrainSpec(batch=budget.batch, learning_rate=budget.rate, momentum=0.9, weight_decay=DECAY, warmup=0.03)
    trainer = Trainer(spec, seed, model, dataset, np.arange(len(dataset.train_labels)), order_seed=seed)
    for progress in progresses(budget, dataset):
        trainer.progress = progress
        trainer.step()
    return model.evaluate(trainer.x, dataset.test_images, dataset.test_labels).accuracy


def run_torch(name: str, seed: int, layout: torch.memory_format, images: Images) -> float:
    budget, dataset = BUDGETS[name], images.dataset
    layers = resolve_layers(preset_layers(name), dataset.train_images.shape[1:], 10)
    twin = TorchTwin(layers).to(memory_format=layout)
    twin.load(build_model(layers, images.mean, images.std).init(seed))
    optimizer = torch.optim.SGD(twin.parameters(), 0.1, 0.9, weight_decay=DECAY)
    sampler = Sampler(np.arange(len(dataset.train_labels)), budget.batch, seed)

    images_seen = [seen_by_torch(part, images, layout) for part in (dataset.train_images, dataset.test_images)]
    labels = torch.from_numpy(dataset.train_labels.astype(np.int64))
    for progress in progresses(budget, dataset):
        picked = sampler.next_batch()
        optimizer.param_groups[0]["lr"] = learning_rate_at(progress, budget.rate, 0.03)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(twin(images_seen[0][picked]), labels[picked]).backward()
        optimizer.step()
    twin.eval()
    hits = 0
    with torch.no_grad():
        for first in range(0, len(dataset.test_labels), 500):
            part = slice(first, first + 500)
            found = twin(images_seen[1][part]).argmax(1).numpy()
            hits += int((found == dataset.test_labels[part]).sum())
    return hits / len(dataset.test_labels)


def seen_by_torch(part: np.ndarray, images: Images, layout: torch.memory_format) -> torch.Tensor:
    """float32, in pieces: float64 of all would not fit everywhere."""
    pieces = [normalised(part[i : i + 1000], images.mean, images.std).float() for i in range(0, len(part), 1000)]
    return torch.cat(pieces).contiguous(memory_format=layout)


def progresses(budget: Budget, dataset: Dataset) -> Iterator[float]:
    """Where in the run every step is."""
    steps = budget.epochs * len(dataset.train_labels) // budget.batch
    return (number / steps for number in range(steps))


# -- The command ------------------------------------------------------------------------------------------------


def runs_of(name: str, seeds: list[int], images: Images) -> Iterator[Run]:
    chain = resolve_layers(preset_layers(name), images.dataset.train_images.shape[1:], 10)
    transforms = (0, 2, 4) if any(layer.kind == "conv" and layer.kernel == 3 for layer in chain) else (0,)
    for seed in seeds:
        for side, layout in LAYOUTS.items():
            began = time.thread_time()
            accuracy = run_torch(name, seed, layout, images)
            yield Run(name, side, seed, 100 * accuracy, time.thread_time() - began)
        for winograd in transforms:
            began = time.thread_time()
            accuracy = run_ours(name, seed, winograd, images)
            side = f"ours, F({winograd}x{winograd})" if winograd else "ours, direct"
            yield Run(name, side, seed, 100 * accuracy, time.thread_time() - began)


def summary(runs: list[Run]) -> list[dict[str, object]]:
    """Per network and side: accuracies by seed, their mean, and how far that is from PyTorch's, in points."""
    rows: list[dict[str, object]] = []
    for name, side in dict.fromkeys((run.model, run.side) for run in runs):
        accuracies = {run.seed: run.accuracy for run in runs if (run.model, run.side) == (name, side)}
        theirs = {run.seed: run.accuracy for run in runs if (run.model, run.side) == (name, "torch")}
        gaps = [accuracies[seed] - theirs[seed] for seed in accuracies]
        mean = statistics.fmean(accuracies.values())
        rows.append(
            {"model": name, "side": side, "accuracies": list(accuracies.values()), "mean": mean,
             "spread": max(accuracies.values()) - min(accuracies.values()),
             "points_from_torch": statistics.fmean(gaps), "gaps": gaps}
        )  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    flush_denormals()
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    runs: list[Run] = []
    for name in options.models:
        for run in runs_of(name, options.seeds, load(BUDGETS[name].data)):
            runs.append(run)
            line = f"{run.model:9} seed {run.seed} {run.side:22} {run.accuracy:6.2f} % {run.cpu_s:6.1f} s CPU"
            print(line, file=sys.stderr, flush=True)
    rows = summary(runs)
    if options.json:
        print(json.dumps({"rows": rows, "runs": [asdict(run) for run in runs]}, indent=2))
    for row in [] if options.json else rows:
        shown = ", ".join(f"{accuracy:.2f}" for accuracy in row["accuracies"])
        print(f"{row['model']:9} {row['side']:22} {row['mean']:.2f} % ({shown}), {row['points_from_torch']:+.2f}")


if __name__ == "__main__":
    main()
