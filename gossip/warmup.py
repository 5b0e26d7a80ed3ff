"""Compile every kernel, or load it from the disk cache, step by step, so that whoever waits can be told how far it is.

One toy call serves all models: the kernels walk a table. On a machine that has done this before it takes a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import numpy as np

from gossip.kernels import optimizer, team
from gossip.kernels.augment import augment
from gossip.kernels.compiling import steps_to_link
from gossip.kernels.denormals import flush_denormals
from gossip.models.layers import resolve_layers
from gossip.models.model import Model, build_model
from gossip.training import mixer


def warm_up(on_step: Callable[[int, int, str], object] = lambda done, total, name: None) -> None:
    """on_step(done, total, name) is called before each step, and at the end."""
    steps = list(_steps())
    for done, (name, work) in enumerate(steps):
        on_step(done, len(steps), name)
        work()
    on_step(len(steps), len(steps), "")


def _steps() -> Iterator[tuple[str, Callable[[], object]]]:
    yield from steps_to_link().items()
    toy = _Toy()
    yield "a step", toy.step
    yield "a shared step", toy.shared_step
    yield "an evaluation", toy.evaluate
    yield "optimizers", toy.optimize
    yield "augmentation", toy.augment
    yield "threads", toy.meet
    yield "exchanges", mixer.warm_up


class _Toy:
    """The smallest model there is."""

    def __init__(self) -> None:
        self._images, self._labels = np.zeros((1, 1, 1, 1), np.uint8), np.zeros(1, np.uint8)

    def step(self) -> None:
        model, x, gradient = self._model()
        model.loss_and_grad(x, self._images, self._labels, gradient)

    def shared_step(self) -> None:
        model, x, gradient = self._model()
        model.loss_and_grad_by_team(x, self._images, self._labels, gradient)

    def evaluate(self) -> None:
        model, x, _ = self._model()
        model.evaluate(x, self._images, self._labels)

    def optimize(self) -> None:
        model, x, gradient = self._model()
        states = np.zeros((2, model.dim), np.float32)
        optimizer.sgd(model.segments, x, gradient, states[0], 0.1, 0.9, 0.0, False)
        optimizer.adamw(model.segments, x, gradient, *states, 1, 0.1, 0.9, 0.999, 1e-8, 0.0)
        optimizer.clip(model.segments, gradient, 1.0)

    def augment(self) -> None:
        images = self._images.view()
        images.flags.writeable = False
        border = np.zeros(1, np.uint8)
        augment(images, np.zeros(1, np.int64), True, 0, border, np.uint64(1), np.uint64(0), self._images.copy())

    def meet(self) -> None:
        flags = np.zeros(team.PARKED + team.TEAM_MAX, np.int64)
        team.started(flags, 1)
        team.has_started(flags, 0)
        team.start(flags)
        team.park(flags, 0, 0)
        team.wake(flags, 0)
        thread = threading.Thread(target=flush_denormals)  # of its own: ours keeps its arithmetic
        thread.start()
        thread.join()

    def _model(self) -> tuple[Model, np.ndarray, np.ndarray]:
        model = build_model(resolve_layers(("dense 2",), (1, 1, 1), 2), (0.0,), (1.0,))
        return model, np.zeros(model.dim, np.float32), np.zeros(model.dim, np.float32)
