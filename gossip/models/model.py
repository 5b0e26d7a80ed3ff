"""Model: a chain of layers over ONE flat float32 vector that somebody else owns.

Knows how to start, train and judge such a vector. Keeps no parameters, only the layer table and a
workspace for a few groups of samples; the workspace makes a Model a one-thread object: build one per thread.

The vectors x, gradient and momentum are float32[n], n >= dim, C-contiguous. What lies beyond dim is the
caller's padding: it stays 0 if it was 0. Images are uint8[n, height, width, channels], labels uint8[n].
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from gossip.errors import InvariantError
from gossip.kernels import optimizer, step, team
from gossip.kernels.compiling import link
from gossip.kernels.lanes import LANES
from gossip.models.accuracy import at_most
from gossip.models.diagnosis import first_broken
from gossip.models.layers import Layer
from gossip.models.layout import Slot, layout_of, named_parameters
from gossip.models.plan import plan
from gossip.models.seam import Evaluation
from gossip.models.team import Team
from gossip.models.workspace import workspaces

# A step of fewer products than this, about .3 ms, is not shared: threads that meet, and a gradient for each of them,
# cost as much (python analysis/bench/trainer.py --threads 1 2 compares).
SHARED_PRODUCTS = 40_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """Built by `build_model`."""

    layers: tuple[Layer, ...]
    layout: Mapping[str, Slot]
    dim: int
    segments: np.ndarray  # optimizer.SEGMENT rows: which parts of a vector are learnt, which are seen
    smoothing: float
    batch: float  # the most samples of a step; inf for any number
    _all: np.ndarray  # int64: 0, 1, 2 ...
    start: Mapping[str, np.ndarray] | None  # parameters that do not begin drawn; None: unknown here
    _table: np.ndarray
    _scale: np.ndarray
    _shift: np.ndarray
    _works: tuple[step.Workspace, ...]  # one per thread
    _team: Team

    def init(self, seed: int) -> np.ndarray:
        """float32[dim]: weights normal with variance 2 / inputs (He et al. 2015), biases 0.

        A normalisation begins by changing nothing: its weights, and variances it has seen, are 1. What the model was
        given to start with begins as that.
        """
        generator = np.random.default_rng(seed)
        x = np.zeros(self.dim, np.float32)
        for name, parameter in named_parameters(x, self.layout).items():
            if parameter.ndim > 1:
                inputs = parameter[0].size
                parameter[:] = generator.standard_normal(parameter.shape, np.float32) * np.sqrt(2 / inputs)
            elif name.endswith(("norm.weight", ".variance")):
                parameter[:] = 1
            if self.start and name in self.start:
                parameter[:] = self.start[name]
        return x

    @property
    def knows_start(self) -> bool:
        """Whether `init` gives what the swarm began with: not where that is a file this machine does not have."""
        return self.start is not None

    def loss_and_grad(self, x: np.ndarray, images: np.ndarray, labels: np.ndarray, gradient: np.ndarray) -> float:
        """The mean cross-entropy of all samples given; overwrites `gradient` with its derivative by x.

        Of running statistics it is how far they are from what these samples show. Where a batch normalisation must see
        them all at once there may be no more than the model was built for: raises InvariantError. Releases the GIL.
        """
        if len(images) > self.batch:
            raise InvariantError(f"a batch of {len(images)} for a model built for {self.batch}")
        return self._loss_and_grad(x, gradient, self._samples(images, labels))

    def _loss_and_grad(self, x: np.ndarray, gradient: np.ndarray, samples: step.Samples) -> float:
        threads = self._threads_for(len(samples.picked))
        if threads > 1:
            return self._team.loss_and_grad(x, gradient, samples, self.smoothing, threads)
        return step.loss_and_grad(self._table, x, gradient, samples, self.smoothing, self._alone)

    def loss_and_grad_by_team(
        self, x: np.ndarray, images: np.ndarray, labels: np.ndarray, gradient: np.ndarray
    ) -> float:
        """`loss_and_grad` as threads compute it, however many there are and however little there is to do."""
        samples = self._samples(images, labels)
        size = min(self._team.limit, -(-len(images) // LANES))
        return self._team.loss_and_grad(x, gradient, samples, self.smoothing, size)

    def use_threads(self, count: int) -> None:
        """From the next step on; no more than it was built for."""
        self._team.limit = max(1, min(count, len(self._works)))

    def _threads_for(self, batch: int) -> int:
        """As many as there are groups of samples for, and only where a step is long enough to be shared."""
        products = 3 * batch * sum(layer.products for layer in self.layers)
        return min(self._team.limit, -(-batch // LANES)) if products > SHARED_PRODUCTS else 1

    @property
    def _alone(self) -> step.Workspace:
        return self._works[0]._replace(size=1)

    def where_it_broke(self, x: np.ndarray, images: np.ndarray, labels: np.ndarray) -> str:
        """The layer that went first where the loss of these samples is not finite; "" where it is."""
        gradient, work = np.zeros_like(x), self._alone
        size = work.values.shape[0] * LANES
        for first in range(0, len(images), size):
            samples = self._samples(images[first : first + size], labels[first : first + size])
            loss = step.loss_and_grad(self._table, x, gradient, samples, self.smoothing, work)
            if not math.isfinite(loss):
                return first_broken(self.layers, self._table, x, work.values, len(samples.picked))
        return ""

    def evaluate(self, x: np.ndarray, images: np.ndarray, labels: np.ndarray) -> Evaluation:
        """Judge x on all samples given, at least one. Allocates 9 bytes per sample."""
        predictions = np.empty(len(images), np.uint8)
        samples = self._samples(images, labels)
        loss = step.evaluate(self._table, x, samples, self._alone, predictions)
        return Evaluation(loss / len(images), float(np.mean(predictions == labels)), predictions)

    def _samples(self, images: np.ndarray, labels: np.ndarray) -> step.Samples:
        """Read-only views: data that is read-only already must not cost a second compile."""
        picked = self._all[: len(images)] if len(images) <= len(self._all) else np.arange(len(images))
        views = images.reshape(len(images), len(self._scale)), labels.view(), picked.view()
        for view in views:
            view.flags.writeable = False
        return step.Samples(*views, self._scale, self._shift)


def build_model(
    layers: Sequence[Layer],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    batch: int = 256,
    winograd: int = 4,
    smoothing: float = 0.0,
    threads: int = 1,
    frozen: Collection[str] = (),
    start: Mapping[str, np.ndarray] | None = MappingProxyType({}),
) -> Model:
    """A model of resolved layers. It sees (pixel / 255 - mean) / std; mean and std: one number per channel.

    batch: samples per step at most, where a batch normalisation must see all of them at once. winograd: m of
    F(m x m, 3 x 3) at most, where accuracy.py finds it good enough; 0 for direct convolution. threads: that compute a
    gradient together, each a part of the batch; no more than it has groups of 16 samples.
    frozen: names of parameters that stay as they are. start: parameters to begin with instead of drawn ones; None where
    others know them, and this machine does not.
    """
    link()
    height, width, _ = layers[0].input
    mean_by_channel, std_by_channel = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    layout = layout_of(layers)
    threads = max(1, min(threads, -(-batch // LANES), team.TEAM_MAX))
    table, whole = plan(layers, layout, batch, at_most(winograd), frozen)
    half = plan(layers, layout, -(-batch // 2), at_most(winograd), frozen)[1]  # of two, the second has no more
    works = workspaces([whole] + [half] * (threads - 1))
    needs_whole_batch = any(layer.kind == "batchnorm" for layer in layers)
    return Model(
        layers=tuple(layers),
        layout=layout,
        dim=list(layout.values())[-1].end,
        segments=_segments(layout, frozen),
        smoothing=smoothing,
        batch=batch if needs_whole_batch else math.inf,
        _all=np.arange(batch),
        start=start,
        _table=table,
        _scale=np.tile(1 / (255 * std_by_channel), height * width).astype(np.float32),
        _shift=np.tile(-mean_by_channel / std_by_channel, height * width).astype(np.float32),
        _works=works,
        _team=Team(table, works),
    )


def _segments(layout: Mapping[str, Slot], frozen: Collection[str]) -> np.ndarray:
    """SEGMENT rows, neighbours of one kind joined; none for what is frozen."""
    found: list[list[int]] = []
    for name, slot in layout.items():
        if name in frozen:
            continue
        kind = optimizer.STATISTIC if slot.is_statistic else optimizer.TRAINED
        if found and found[-1][1:] == [slot.start, kind]:
            found[-1][1] = slot.end
        else:
            found.append([slot.start, slot.end, kind])
    return np.array([tuple(row) for row in found], optimizer.SEGMENT)
