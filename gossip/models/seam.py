"""What a node needs of a model, and nothing else: a flat vector that can begin, be taught and be judged.

`gossip.models.model` builds such models from layers. Anything else of this shape trains through the same node:
tests/sim/test_seam.py has one in thirty lines of NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gossip.kernels.optimizer import SEGMENT, TRAINED


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a vector is on some samples. predictions: uint8[n], the likeliest class of each."""

    loss: float
    accuracy: float
    predictions: NDArray[np.uint8]


class FlatModel(Protocol):
    """Keeps no parameters: x and gradient are the caller's, float32[>= dim]; what lies beyond dim is not touched.

    Images are uint8[n, height, width, channels], labels uint8[n].
    """

    @property
    def dim(self) -> int: ...

    def init(self, seed: int) -> NDArray[np.float32]:
        """float32[dim]: the same for everybody who says `seed`."""

    def loss_and_grad(
        self, x: NDArray[np.float32], images: NDArray[np.uint8], labels: NDArray[np.uint8],
        gradient: NDArray[np.float32],
    ) -> float:  # fmt: skip
        """The mean loss of these samples; overwrites `gradient` with its derivative by x. Need not be finite."""

    def evaluate(self, x: NDArray[np.float32], images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Evaluation: ...


@runtime_checkable
class Segmented(Protocol):
    """A model that says which parts of its vector an optimizer steps."""

    @property
    def segments(self) -> NDArray[np.void]:
        """SEGMENT rows, as gossip.kernels.optimizer has them."""


@runtime_checkable
class Diagnosing(Protocol):
    """A model that can look into itself when its loss is not finite."""

    def where_it_broke(self, x: NDArray[np.float32], images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> str:
        """The layer whose output was the first that is not finite on these samples, and why; part of a sentence."""


@runtime_checkable
class Starting(Protocol):
    """A model that may not know what the swarm began with: a file that this machine lacks."""

    @property
    def knows_start(self) -> bool:
        """Whether `init` gives that."""


def knows_start(model: FlatModel) -> bool:
    """What the model says; without a word it does."""
    return model.knows_start if isinstance(model, Starting) else True


def segments_of(model: FlatModel) -> NDArray[np.void]:
    """What the model says; without a word all of it is learnt."""
    return model.segments if isinstance(model, Segmented) else np.array([(0, model.dim, TRAINED)], SEGMENT)
