"""Optimizers as chains of small links: what each remembers, and what it does to gradient and parameters.

A link is (init, update). A chain calls its links in turn on the same step; their states lie side by side under names of
their own, which are the names in a checkpoint. The arithmetic is gossip.kernels.optimizer's. Only momentum is anybody
else's business: exchanges may average it, and a joiner is given it. Adam's moments are neither: averaging the first
destroyed training in three of three runs, and in a fragment's 8 bits the second would become 0 next to larger ones,
which it divides by. So they begin anew with every vector that somebody else gave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gossip.kernels import optimizer as kernels
from gossip.sections import TrainSpec

Vector = NDArray[np.float32]
State = dict[str, Vector]  # by name, each as long as x

BETAS, EPSILON = (0.9, 0.999), 1e-8  # Adam's, as its authors have them


class Step(NamedTuple):
    """What a link sees of a step; it may write to x and gradient."""

    segments: NDArray[np.void]
    x: Vector
    gradient: Vector
    rate: float
    number: int  # counts from 1 since the state was empty


class Link(NamedTuple):
    init: Callable[[int], State]  # length of x -> what there is to remember, all 0
    update: Callable[[Step, State], None]


def chain(*links: Link) -> Link:
    """One after the other. The links' names differ."""

    def init(length: int) -> State:
        return {name: array for link in links for name, array in link.init(length).items()}

    def update(step: Step, state: State) -> None:
        for link in links:
            link.update(step, state)

    return Link(init, update)


def clip(longest: float) -> Link:
    """Shorten the gradient to this length; running statistics neither count nor change."""

    def update(step: Step, state: State) -> None:
        kernels.clip(step.segments, step.gradient, float(longest))

    return Link(lambda length: {}, update)


def sgd(friction: float, decay: float, is_nesterov: bool = False) -> Link:
    """Heavy ball or Nesterov's; keeps `momentum`."""

    def update(step: Step, state: State) -> None:
        kernels.sgd(
            step.segments, step.x, step.gradient, state["momentum"], float(step.rate), float(friction), float(decay),
            is_nesterov,
        )  # fmt: skip

    return Link(lambda length: {"momentum": np.zeros(length, np.float32)}, update)


def adamw(decay: float) -> Link:
    """Adam with decay beside it; keeps `mean` and `square` of the gradient."""

    def update(step: Step, state: State) -> None:
        kernels.adamw(
            step.segments, step.x, step.gradient, state["mean"], state["square"], step.number, float(step.rate),
            *BETAS, EPSILON, float(decay),
        )  # fmt: skip

    return Link(lambda length: {name: np.zeros(length, np.float32) for name in ("mean", "square")}, update)


def chain_of(spec: TrainSpec) -> Link:
    """What the spec asks for."""
    links = [clip(spec.clip)] if spec.clip else []
    if spec.optimizer == "adamw":
        return chain(*links, adamw(spec.weight_decay))
    return chain(*links, sgd(spec.momentum, spec.weight_decay, spec.optimizer == "nesterov"))


class Optimizer:
    """A chain and its state, for one x.

    arrays: what a checkpoint keeps, by name. updates: steps since they were all 0, which it keeps too.
    """

    def __init__(self, spec: TrainSpec, segments: NDArray[np.void], length: int) -> None:
        """length: of x and gradient, padding included."""
        self._chain = chain_of(spec)
        self._segments = segments
        self.arrays = self._chain.init(length)
        self.updates = 0

    def step(self, x: Vector, gradient: Vector, rate: float) -> None:
        """x changes in place, and gradient may."""
        self.updates += 1
        self._chain.update(Step(self._segments, x, gradient, rate, self.updates), self.arrays)

    @property
    def momentum(self) -> Vector | None:
        """What others may be given, and may change; None where there is nothing of that kind."""
        return self.arrays.get("momentum")

    def on_foreign_x(self) -> None:
        """Part of x is somebody else's now: what cannot be handed over begins anew."""
        if self.momentum is None and self.updates:
            self.updates = 0
            for array in self.arrays.values():
                array[:] = 0
