"""The owner of the parameters: x, momentum and this node's half of every exchange.

One thread uses a Trainer, so nothing here locks. Between two steps that thread does what the
exchange asks: pick blocks, answer, apply. Knows exchange ids only to remember what each one
offered; does not know peers, sockets or clocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossip.codec.answer import Answer
from gossip.codec.fragment import Fragment, fragment_count
from gossip.codec.request import Request
from gossip.data.sampler import Sampler
from gossip.data.store import Dataset
from gossip.errors import InvariantError
from gossip.kernels.exchange import BLOCK
from gossip.models.model import Evaluation, Model
from gossip.spec import TrainSpec
from gossip.training.mixer import Mixer, MixStatistics
from gossip.training.schedule import learning_rate_at

PROBE_SAMPLES = 1_000  # held-out samples of a look during training: about 20 ms for the MNIST MLP
SLICE_SAMPLES = 100  # per evaluate call of a full evaluation: how soon it can be broken off


@dataclass(slots=True)
class _Offered:
    """What must be remembered of an offer until its answer comes."""

    blocks: NDArray[np.int32]
    range_codes: NDArray[np.uint8]
    was_given_up: bool = False


class Trainer:
    """Local SGD on one shard, and the arithmetic of exchanging with others.

    x, gradient, momentum: float32[padded], the model's dim rounded up to whole blocks; the padding stays 0.
    """

    def __init__(
        self, spec: TrainSpec, seed: int, model: Model, dataset: Dataset, shard: NDArray[np.int64], *, order_seed: int
    ) -> None:
        """shard: int64[m], indices of this node's training samples. Everybody starts from init(seed).

        order_seed: 0 to 2**32 - 1, the node's own, so that two nodes on one shard see different batches.
        """
        padded = -(-model.dim // BLOCK) * BLOCK
        self.model = model
        self.x = np.zeros(padded, np.float32)
        self.x[: model.dim] = model.init(seed)
        self.gradient = np.zeros(padded, np.float32)
        self.momentum = np.zeros(padded, np.float32)
        self.mixer = Mixer(self.x)
        self.sampler = Sampler(shard, spec.batch_first, order_seed)
        self.steps = 0
        self.samples = 0
        self.progress = 0.0
        self.ramp_steps = 0
        self.learning_rate = spec.learning_rate  # the schedule's peak; the owner may change it
        self._spec = spec
        self._dataset = dataset
        self._offered: dict[int, _Offered] = {}
        stride = max(1, len(dataset.test_labels) // PROBE_SAMPLES)
        self._probe_images = np.ascontiguousarray(dataset.test_images[::stride][:PROBE_SAMPLES])
        self._probe_labels = np.ascontiguousarray(dataset.test_labels[::stride][:PROBE_SAMPLES])

    @property
    def fragments(self) -> int:
        """How many fragments make up the state."""
        return fragment_count(self.mixer.n_blocks)

    # -- Training ------------------------------------------------------------------------------------

    def step(self) -> float:
        """One step of SGD on the next batch, in place. Returns its mean loss, which may not be finite."""
        loss = self.model.sgd_step(
            self.x, self.gradient, self.momentum, self._dataset.train_images, self._dataset.train_labels,
            self.sampler.next_batch(), self._learning_rate(), self._spec.momentum, self._spec.weight_decay,
        )  # fmt: skip
        self.steps += 1
        self.samples += self._spec.batch_first
        return loss

    def _learning_rate(self) -> float:
        """The swarm's rate at its progress; a newcomer ramps up to it while its first exchanges bring it level."""
        rate = learning_rate_at(self.progress, self.learning_rate, self._spec.warmup)
        return rate * min(1.0, (self.steps + 1) / self.ramp_steps) if self.ramp_steps else rate

    def look(self) -> Evaluation:
        """Loss and accuracy on a fixed small part of the held-out samples."""
        return self.model.evaluate(self.x, self._probe_images, self._probe_labels)

    def evaluate_in_slices(self) -> Iterator[Evaluation]:
        """All held-out samples, slice by slice, so that whoever calls can stop in between."""
        images, labels = self._dataset.test_images, self._dataset.test_labels
        for first in range(0, len(labels), SLICE_SAMPLES):
            part = slice(first, first + SLICE_SAMPLES)
            yield self.model.evaluate(self.x, images[part], labels[part])

    # -- Exchanging ----------------------------------------------------------------------------------

    def offer(self, exchange_id: int, fraction: float, skip_in_flight: bool) -> Request | None:
        """Pick the blocks that moved most; None where all are in flight or x is not finite."""
        request = self.mixer.offer(self.x, fraction, skip_in_flight)
        if request is not None:
            self._offered[exchange_id] = _Offered(request.blocks, request.range_codes)
        return request

    def blocks_offered(self, exchange_id: int) -> int:
        """How many blocks that exchange offered: what its answer must cover. Raises InvariantError."""
        return self._offer_of(exchange_id).blocks.size

    def respond(self, request: Request) -> tuple[Answer, MixStatistics]:
        """Move by half the way towards a peer's blocks; the answer moves the peer by the other half."""
        return self.mixer.respond(self.x, request)

    def apply(self, exchange_id: int, answer: Answer) -> MixStatistics:
        """Move by our half of an exchange we began. Raises InvariantError if it was applied before."""
        offered = self._offer_of(exchange_id)
        del self._offered[exchange_id]
        return self.mixer.apply(self.x, offered.blocks, offered.range_codes, answer, was_given_up=offered.was_given_up)

    def give_up(self, exchange_id: int) -> None:
        """Free the blocks of an offer whose answer is late; it can still be applied."""
        offered = self._offered.get(exchange_id)
        if offered is not None and not offered.was_given_up:
            offered.was_given_up = True
            self.mixer.give_up(offered.blocks)

    def forget(self, exchange_id: int) -> None:
        """The answer will never come."""
        self.give_up(exchange_id)
        self._offered.pop(exchange_id, None)

    def _offer_of(self, exchange_id: int) -> _Offered:
        if exchange_id not in self._offered:
            raise InvariantError(f"exchange {exchange_id} is not open in the trainer: answered twice, or forgotten")
        return self._offered[exchange_id]

    # -- State ---------------------------------------------------------------------------------------

    def fragment(self, index: int) -> Fragment | None:
        """Part of our state for a joiner; None while it holds a number that is not finite."""
        return self.mixer.fragment(self.x, self.momentum, index)

    def load_fragment(self, fragment: Fragment) -> None:
        """Take over a donor's part of the state."""
        self.mixer.load_fragment(self.x, self.momentum, fragment)

    def is_finite(self) -> bool:
        """Does x hold only numbers? One dot product instead of a look at every element."""
        with np.errstate(over="ignore", invalid="ignore"):
            return math.isfinite(float(np.dot(self.x, self.x)))
