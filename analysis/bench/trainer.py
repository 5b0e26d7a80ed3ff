"""One training step here and in PyTorch, on the same cores: forward, backward, momentum and weight decay.

Both take turns in one process, denormals flushed on both sides; a ratio is PyTorch's time over ours of one turn, and
the median over all turns is what counts. PyTorch runs eagerly, in the faster of its two layouts (contiguous or channels
last) and with the faster of its two SGDs (the default, or fused), and for resnet20 also through torch.compile. It is
handed normalised float32 batches; our step is a node's: it samples, gathers and normalises uint8 images in its time.

Before anything is timed, gradients are compared with PyTorch's in float64: a parameter's error is |ours - exact| /
|exact|, and the largest counts. Twice: of the chain without its kinks (no relu, averages for maxima), which is what
the arithmetic is worth and has a limit ("gradient_error"), and of the chain as it is ("kinked_error", a median of
some batches). There a value within rounding of 0 may fall on the other side, in PyTorch's float32 as in ours, and
each that does costs more than all rounding together; a wrong mask would cost all.

One thread is judged by its CPU time, more by the clock on the wall: they want idle cores. "gflops" counts the products
of plain convolution, so Winograd's can exceed "peak_gflops", which the micro-kernel reaches out of the L1 cache.

    python analysis/bench/trainer.py --json [--quick] [--models cifar resnet20] [--batches 32 128] [--threads 1 2]
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numba import njit
from torch_twin import TorchTwin, normalised, torch

from gossip.data.store import Dataset
from gossip.kernels.denormals import flush_denormals
from gossip.kernels.lanes import LANES, at
from gossip.kernels.tile import PLAIN, ROWS, VECTORS, ZEROS, multiply
from gossip.models.layers import Layer, Shape, preset_layers, resolve_layers
from gossip.models.model import Model, build_model
from gossip.sections import TrainSpec
from gossip.training.trainer import Trainer

GREY, COLOUR = (28, 28, 1), (32, 32, 3)
SHAPES: dict[str, Shape] = {
    "mlp": GREY,
    "mlp2": GREY,
    "lenet": GREY,
    "cifar": COLOUR,
    "cifar10-quick": COLOUR,
    "resnet20": COLOUR,
    "autograd-convnet": GREY,
}
COMPILED = ("resnet20",)  # beside torch.compile, too: a minute of compiling each
CLASSES, MEAN, STD = 10, 0.5, 0.25
RATE, FRICTION, DECAY = 1e-3, 0.9, 1e-4
GRADIENT_ERROR_MAX = {0: 1e-5, 2: 1e-5, 4: 1e-4}  # by m of F(m x m, 3 x 3)
KINKED_ERROR_MAX = 3e-2
KINKED_BATCHES = 3
TURN_S = 0.05
SAMPLES = 2048


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; times are of one step."""

    model: str
    batch: int
    threads: int
    ratio: float
    samples_per_s: float
    gflops: float
    peak_gflops: float
    gradient_error: float
    torch_gradient_error: float
    kinked_error: float
    torch_kinked_error: float
    ours_ms: float
    torch_ms: float
    spread: tuple[float, float]  # quartiles of the ratios
    layout: str
    winograd: int
    compiled: dict[str, float] | str | None  # against torch.compile, or why not


Step = Callable[[], object]


# -- Ours -------------------------------------------------------------------------------------------------


class Ours:
    """A node's trainer with its model, on some samples of noise."""

    def __init__(self, texts: Sequence[str], shape: Shape, batch: int, threads: int, winograd: int) -> None:
        self.layers = resolve_layers(list(texts), shape, CLASSES)
        normal = [MEAN] * shape[2], [STD] * shape[2]
        self.model: Model = build_model(self.layers, *normal, batch=batch, winograd=winograd, threads=threads)
        rng = np.random.default_rng(1)
        self.images = rng.integers(0, 256, (SAMPLES, *shape), np.uint8)
        self.labels = rng.integers(0, CLASSES, SAMPLES, np.uint8)
        self.batches = [rng.choice(SAMPLES, batch, replace=False) for _ in range(8)]
        spec = TrainSpec(batch=batch, learning_rate=RATE, momentum=FRICTION, weight_decay=DECAY, warmup=0.0)
        dataset = Dataset(self.images, self.labels, self.images[:1], self.labels[:1])
        self.trainer = Trainer(spec, 1, self.model, dataset, np.arange(SAMPLES), order_seed=1)
        self.x = self.trainer.x[: self.model.dim]

    def gradient_of(self, picked: np.ndarray) -> np.ndarray:
        gradient = np.empty(self.model.dim, np.float32)
        self.model.loss_and_grad(self.x, self.images[picked], self.labels[picked], gradient)
        return gradient.astype(np.float64)


# -- PyTorch ----------------------------------------------------------------------------------------------

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def torch_batch(ours: Ours, picked: np.ndarray, dtype: torch.dtype, layout: str) -> tuple[torch.Tensor, torch.Tensor]:
    channels = ours.images.shape[3]
    seen = normalised(ours.images[picked], [MEAN] * channels, [STD] * channels)
    labels = torch.from_numpy(ours.labels[picked].astype(np.int64))
    return seen.to(dtype).contiguous(memory_format=LAYOUTS[layout]), labels


def torch_model(ours: Ours, dtype: torch.dtype, layout: str) -> TorchTwin:
    twin = TorchTwin(ours.layers).to(dtype=dtype, memory_format=LAYOUTS[layout])
    twin.load(ours.x)
    return twin


def torch_gradient(ours: Ours, picked: np.ndarray, dtype: torch.dtype, layout: str) -> np.ndarray:
    twin = torch_model(ours, dtype, layout)
    seen, labels = torch_batch(ours, picked, dtype, layout)
    torch.nn.functional.cross_entropy(twin(seen), labels).backward()
    return twin.gradient()


def torch_step(ours: Ours, layout: str, fused: bool, is_compiled: bool = False) -> Step:
    twin = torch_model(ours, torch.float32, layout)
    optimizer = torch.optim.SGD(twin.parameters(), RATE, FRICTION, weight_decay=DECAY, fused=fused or None)
    forward = torch.compile(twin) if is_compiled else twin
    prepared = [torch_batch(ours, picked, torch.float32, layout) for picked in ours.batches]
    batches = itertools.cycle(prepared)

    def step() -> None:
        seen, labels = next(batches)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(forward(seen), labels).backward()
        optimizer.step()

    return step


# -- Right, before fast -------------------------------------------------------------------------------------


def gradient_errors(ours: Ours, batches: int) -> tuple[float, float]:
    """(ours, PyTorch's in float32): the largest relative error of a parameter, the median over some batches."""
    found = [_gradient_errors(ours, picked) for picked in ours.batches[:batches]]
    return statistics.median(own for own, _ in found), statistics.median(theirs for _, theirs in found)


def _gradient_errors(ours: Ours, picked: np.ndarray) -> tuple[float, float]:
    exact = torch_gradient(ours, picked, torch.float64, "contiguous")

    def largest(found: np.ndarray) -> float:
        slots = [slot for slot in ours.model.layout.values() if not slot.is_statistic]
        parts = [(found[slot.start : slot.end], exact[slot.start : slot.end]) for slot in slots]
        return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in parts)

    return largest(ours.gradient_of(picked)), largest(torch_gradient(ours, picked, torch.float32, "contiguous"))


def without_kinks(texts: Sequence[str]) -> tuple[str, ...]:
    """The chain with a derivative everywhere."""
    return tuple(text.replace("maxpool", "avgpool") for text in texts if text != "relu")


# -- Fast -----------------------------------------------------------------------------------------------------


def products(layers: Sequence[Layer]) -> int:
    """Products per sample and step: forward, by the weights, and by the inputs for all but the first layer."""
    counts = []
    for layer in layers:
        if layer.kind == "dense":
            counts.append(layer.weights)
        elif layer.kind == "conv":
            taps = [
                sum(
                    0 <= i * layer.stride - layer.padding + tap < size
                    for i in range(out)
                    for tap in range(layer.kernel)
                )
                for size, out in zip(layer.input[:2], layer.output[:2], strict=True)
            ]
            counts.append(taps[0] * taps[1] * layer.input[2] * layer.output[2])
    return 3 * sum(counts) - counts[0]


@njit(nogil=True)
def _tiles(left, right, out, steps, times):
    for _ in range(times):
        multiply(
            ROWS, VECTORS, ZEROS, PLAIN, at(out, 0), VECTORS * LANES, LANES, at(out, 0), at(out, 0),
            at(left, 0), steps, 1, 0, at(right, 0), steps * LANES, LANES, 0, 1, steps,
        )  # fmt: skip


def peak_gflops() -> float:
    """What the micro-kernel reaches while its operands stay in the L1 cache; the best of several."""
    steps, times = 64, 20_000
    left, right = np.ones(ROWS * steps, np.float32), np.ones(VECTORS * steps * LANES, np.float32)
    out = np.empty(ROWS * VECTORS * LANES, np.float32)
    _tiles(left, right, out, steps, 1)
    return max(
        2
        * ROWS
        * VECTORS
        * LANES
        * steps
        * times
        / 1e9
        / seconds_of(lambda: _tiles(left, right, out, steps, times), 1, 1)
        for _ in range(10)
    )


def seconds_of(step: Step, count: int, threads: int) -> float:
    """Per step, over `count` of them."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    began = clock()
    for _ in range(count):
        step()
    return (clock() - began) / count


def paired(first: Step, second: Step, threads: int, rounds: int) -> list[tuple[float, float]]:
    """Seconds per step of both, round by round; each turn begins with a step that only warms the caches."""
    counts = []
    for step in (first, second):
        step()
        counts.append(max(1, round(TURN_S / max(1e-6, seconds_of(step, 3, threads)))))
    found = []
    for number in range(rounds):
        turns = [(first, counts[0], 0), (second, counts[1], 1)]
        seconds = [0.0, 0.0]
        for step, count, which in turns if number % 2 else reversed(turns):
            step()
            seconds[which] = seconds_of(step, count, threads)
        found.append((seconds[0], seconds[1]))
    return found


def fastest(steps: dict[str, Step], threads: int) -> str:
    """The name of the one whose best of a few turns is the shortest."""
    for step in steps.values():
        seconds_of(step, 2, threads)
    best = {name: min(seconds_of(step, 5, threads) for _ in range(5)) for name, step in steps.items()}
    return min(best, key=lambda name: best[name])


def measure(name: str, batch: int, threads: int, winograd: int, rounds: int, peak: float, with_compile: bool) -> Row:
    """Raises SystemExit where our gradient is wrong: a wrong kernel may be as fast as it likes."""
    torch.set_num_threads(threads)
    texts, settings = preset_layers(name), (SHAPES[name], batch, threads, winograd)
    error, torch_error = gradient_errors(Ours(without_kinks(texts), *settings), 1)
    ours = Ours(texts, *settings)
    kinked_error, torch_kinked_error = gradient_errors(ours, KINKED_BATCHES)
    # A bias between two batch normalisations has a gradient that almost cancels: PyTorch's own error is the measure.
    if not (error <= max(GRADIENT_ERROR_MAX[winograd], 2 * torch_error) and kinked_error <= KINKED_ERROR_MAX):
        raise SystemExit(
            f"{name}, batch {batch}: the gradient is wrong by {error:.1e} without kinks, {kinked_error:.1e} with them; "
            "nothing was timed"
        )
    layouts = LAYOUTS if any(layer.kind == "conv" for layer in ours.layers) else ["contiguous"]
    rivals = {
        layout + (", fused SGD" if fused else ""): torch_step(ours, layout, fused)
        for layout in layouts
        for fused in (False, True)
    }
    layout = fastest(rivals, threads)
    times = paired(ours.trainer.step, rivals[layout], threads, rounds)
    ratios = [theirs / own for own, theirs in times]
    seconds = statistics.median(own for own, _ in times)
    quartiles = statistics.quantiles(ratios, n=4)
    return Row(
        name, batch, threads, statistics.median(ratios), batch / seconds,
        2e-9 * products(ours.layers) * batch / seconds, threads * peak, error, torch_error,
        kinked_error, torch_kinked_error,
        1e3 * seconds, 1e3 * statistics.median(theirs for _, theirs in times), (quartiles[0], quartiles[2]),
        layout, winograd, compare_compiled(ours, threads, rounds) if with_compile and name in COMPILED else None,
    )  # fmt: skip


def compare_compiled(ours: Ours, threads: int, rounds: int) -> dict[str, float] | str:
    """Against torch.compile in its better layout; a sentence where it cannot."""
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        return "torch.compile needs a C++ compiler, and there is none"
    try:
        rivals = {layout: torch_step(ours, layout, False, is_compiled=True) for layout in LAYOUTS}
        layout = fastest(rivals, threads)
    except Exception as error:  # whatever it stumbles over is not ours to mend
        return f"torch.compile failed: {str(error).splitlines()[0]}"
    times = paired(ours.trainer.step, rivals[layout], threads, rounds)
    ratio = statistics.median(theirs / own for own, theirs in times)
    return {"ratio": ratio, "torch_ms": 1e3 * statistics.median(theirs for _, theirs in times), "layout": layout}


# -- The command ------------------------------------------------------------------------------------------------


def show(row: Row) -> str:
    compiled = row.compiled
    beside = "" if compiled is None else f"; {compiled}" if isinstance(compiled, str) else ""
    if isinstance(compiled, dict):
        beside = f"; torch.compile {compiled['ratio']:.2f} ({compiled['torch_ms']:.2f} ms, {compiled['layout']})"
    return (
        f"{row.model:16} batch {row.batch:3}, {row.threads} thread(s): {row.ratio:.2f} "
        f"({row.spread[0]:.2f}-{row.spread[1]:.2f}) of PyTorch; {row.ours_ms:.3f} ms, PyTorch {row.torch_ms:.3f} ms "
        f"({row.layout}); {row.samples_per_s:,.0f} samples/s, {row.gflops:.0f} of {row.peak_gflops:.0f} GFLOP/s; "
        f"gradient error {row.gradient_error:.1e}, PyTorch's {row.torch_gradient_error:.1e}, "
        f"with kinks {row.kinked_error:.1e} and {row.torch_kinked_error:.1e}{beside}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 128])
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--winograd", type=int, choices=(0, 2, 4), default=4, help="m of F(m x m, 3 x 3)")
    parser.add_argument("--rounds", type=int, default=31, help="turns of each side")
    parser.add_argument("--quick", action="store_true", help="7 rounds, and no torch.compile")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    flush_denormals()
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    peak, rows = peak_gflops(), []
    rounds = 7 if options.quick else options.rounds
    for threads in options.threads:
        for name in options.models:
            for batch in options.batches:
                rows.append(measure(name, batch, threads, options.winograd, rounds, peak, not options.quick))
                print(show(rows[-1]), file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}, indent=2))


if __name__ == "__main__":
    main()
