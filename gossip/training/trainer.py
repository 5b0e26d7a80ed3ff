"""The owner of the parameters: x, the optimizer's state and this node's half of every exchange.

One thread uses a Trainer, so nothing here locks. Between two steps that thread does what the
exchange asks: pick blocks, answer, apply. Knows exchange ids only to remember what each one
offered; does not know peers, sockets or clocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip.codec.answer import Answer
from gossip.codec.fragment import Fragment, fragment_count
from gossip.codec.request import Request
from gossip.data.store import Dataset
from gossip.errors import DataError, InvariantError
from gossip.kernels.exchange import BLOCK
from gossip.models.seam import Diagnosing, Evaluation, FlatModel, knows_start, segments_of
from gossip.protocol.events import DonorLoss, DonorsCompared
from gossip.sections import TrainSpec
from gossip.training.batches import Batches
from gossip.training.frozen import Frozen
from gossip.training.mixer import Mixer, MixStatistics
from gossip.training.optimizer import Optimizer
from gossip.training.patchwork import Patchwork
from gossip.training.schedule import learning_rate_at, scale_of_batch

PROBE_SAMPLES = 1_000  # held-out samples of a look during training: about 20 ms for the MNIST MLP
# Of those, when donors are compared: every class is among them whichever shard a newcomer holds, and its own shard,
# of a few classes perhaps, would judge by what it holds. What is chosen by held-out samples is to refuse nonsense.
COMPARE_SAMPLES = 250
SLICE_SAMPLES = 100  # per evaluate call of a full evaluation: how soon it can be broken off


@dataclass(slots=True)
class TrainerState:
    """All that a trainer needs to go on as if it had never stopped; open exchanges are not part of it.

    arrays: x, the optimizer's and the mixer's, float32 and int32. counters: plain numbers, for a JSON text.
    """

    arrays: dict[str, NDArray[Any]]
    counters: dict[str, Any]


@dataclass(slots=True)
class _Offered:
    """What must be remembered of an offer until its answer comes."""

    blocks: NDArray[np.int32]
    range_codes: NDArray[np.uint8]
    with_momentum: bool
    was_given_up: bool = False


class Trainer:
    """Local training on one shard, and the arithmetic of exchanging with others.

    x, gradient: float32[padded], the model's dim rounded up to whole blocks; the padding stays 0. The optimizer's
    arrays are as long.
    """

    def __init__(
        self, spec: TrainSpec, seed: int, model: FlatModel, dataset: Dataset, shard: NDArray[np.int64], *,
        order_seed: int,
    ) -> None:  # fmt: skip
        """shard: int64[m], indices of this node's training samples. Everybody starts from init(seed).

        order_seed: 0 to 2**32 - 1, the node's own, so that two nodes on one shard see different batches.
        """
        padded = -(-model.dim // BLOCK) * BLOCK
        self.model = model
        self.x = np.zeros(padded, np.float32)
        self.x[: model.dim] = model.init(seed)
        self.gradient = np.zeros(padded, np.float32)
        self.optimizer = Optimizer(spec, segments_of(model), padded)
        self.frozen = Frozen(segments_of(model), model.dim)
        self.mixer = Mixer(self.x, order_seed, self.frozen)
        self.batch = spec.batch_first
        self.batches = Batches(dataset, shard, spec.batch_max, order_seed, spec.augmentation)
        self.steps = 0
        self.samples = 0
        self.progress = 0.0
        self.broke_at = ""  # the layer that went first, once a loss was not finite
        self._ramp_from = self._ramp_steps = 0
        self._order_seed = order_seed
        self.learning_rate = spec.learning_rate  # the schedule's peak; the owner may change it
        self._spec = spec
        self._seed = seed
        self._patchwork: Patchwork | None = Patchwork(self.mixer.n_blocks)  # None: fragments are no longer taken
        self._before: TrainerState | None = None  # our own state, while a newer one is being loaded over it
        self._dataset = dataset
        self._offered: dict[int, _Offered] = {}
        stride = max(1, len(dataset.test_labels) // PROBE_SAMPLES)
        self._probe_images = np.ascontiguousarray(dataset.test_images[::stride][:PROBE_SAMPLES])
        self._probe_labels = np.ascontiguousarray(dataset.test_labels[::stride][:PROBE_SAMPLES])

    @property
    def fragments(self) -> int:
        """How many fragments make up the state."""
        return fragment_count(self.mixer.n_blocks)

    @property
    def peak_at(self) -> float:
        """The progress at which the rate is at its peak."""
        return self._spec.warmup

    # -- Training ------------------------------------------------------------------------------------

    def begin(self, ramp_steps: int) -> None:
        """Let the rate ramp up over this many steps from here on; 0 leaves it as it is.

        x is ours from here on, whoever gave it; but what is frozen is as all began with it, where we know that: a donor
        gives it in 8 bits, and no exchange would mend it.
        """
        if self.frozen.any and knows_start(self.model):
            self.frozen.copy(self.model.init(self._seed), self.x, self.mixer.ref)
        self._patchwork = self._before = None
        if ramp_steps:
            self._ramp_from, self._ramp_steps = self.steps, ramp_steps

    def step(self) -> float:
        """One step on the next batch, in place. Returns its mean loss; where that is not finite, x is nothing any more.

        Then `broke_at` says where it went wrong, as far as the model can tell.
        """
        images, labels = self.batches.next(self.batch, self.steps)
        loss = self.model.loss_and_grad(self.x, images, labels, self.gradient)
        if math.isfinite(loss):
            self.optimizer.step(self.x, self.gradient, self._learning_rate())
        else:
            self._break(images, labels)
        self.steps += 1
        self.samples += self.batch
        return loss

    def _break(self, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        """Find out why, and spoil x whole: no block of it is offered, answered with, given to a joiner, or saved."""
        if isinstance(self.model, Diagnosing):
            self.broke_at = self.model.where_it_broke(self.x, images, labels)
        self.x[: self.model.dim] = np.nan

    def _learning_rate(self) -> float:
        """The swarm's rate at its progress; a newcomer ramps up to it while its first exchanges bring it level."""
        rate = learning_rate_at(self.progress, self.learning_rate, self._spec.warmup)
        rate *= scale_of_batch(self.batch, self._spec.batch_first)
        done = self.steps - self._ramp_from
        return rate * min(1.0, (done + 1) / self._ramp_steps) if self._ramp_steps else rate

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

    def offer(
        self, exchange_id: int, fraction: float, skip_in_flight: bool, with_momentum: bool = False
    ) -> Request | None:
        """Pick the blocks that moved most; None where all are in flight or x is not finite."""
        request = self.mixer.offer(self.x, fraction, skip_in_flight, self._shared_momentum if with_momentum else None)
        if request is not None:
            self._offered[exchange_id] = _Offered(request.blocks, request.range_codes, request.momentum is not None)
        return request

    @property
    def _shared_momentum(self) -> NDArray[np.float32] | None:
        """What exchanges may read and mix; None where the optimizer keeps no momentum."""
        return self.optimizer.momentum if self._spec.shared_momentum > 0.0 else None

    def blocks_offered(self, exchange_id: int) -> int:
        """How many blocks that exchange offered: what its answer must cover. Raises InvariantError."""
        return self._offer_of(exchange_id).blocks.size

    def offered_momentum(self, exchange_id: int) -> bool:
        """Whether that exchange sent momentum along: only then may its answer have some. Raises InvariantError."""
        return self._offer_of(exchange_id).with_momentum

    def respond(self, request: Request) -> tuple[Answer, MixStatistics]:
        """Move by half the way towards a peer's blocks; the answer moves the peer by the other half.

        In kind: momentum is averaged where the request brings it.
        """
        return self.mixer.respond(self.x, request, self._shared_momentum)

    def apply(self, exchange_id: int, answer: Answer) -> MixStatistics:
        """Move by our half of an exchange we began. Raises InvariantError if it was applied before."""
        offered = self._offer_of(exchange_id)
        del self._offered[exchange_id]
        return self.mixer.apply(
            self.x, offered.blocks, offered.range_codes, answer, self._shared_momentum,
            was_given_up=offered.was_given_up,
        )  # fmt: skip

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
        return self.mixer.fragment(self.x, self.optimizer.momentum, index)

    def take_fragments(self) -> None:
        """A newer state is about to be loaded over ours, which is kept until it is whole and trusted."""
        self._patchwork, self._before = Patchwork(self.mixer.n_blocks), self.state()

    def load_fragment(self, index: int, peer: bytes, fragment: Fragment, keep: bool) -> None:
        """Take over a donor's part of the state. keep: hold it beside x too, to be compared with another's."""
        if self._patchwork is None:
            return  # it was on its way here when we went on without
        self._load(fragment)
        self._patchwork.note(index, peer, fragment, keep)

    def drop_fragments(self) -> None:
        """Be as before the first was loaded, and take no more."""
        if self._before is not None:
            self.restore(self._before)
        self._patchwork = self._before = None

    def end_loading(self, is_whole: bool) -> None:
        """The node leaves: x becomes the swarm's state where that is whole and trusted, else our own again."""
        if is_whole:
            self._patchwork = self._before = None
        else:
            self.drop_fragments()

    def compare_donors(self, donors: tuple[bytes, ...]) -> DonorsCompared:
        """Look at the state with and without what each of them gave; what anybody else gave is forgotten.

        Of what two gave x has the better one's afterwards.
        """
        patchwork = self._patchwork
        if patchwork is None:
            raise InvariantError("donors are compared while no fragments are taken")
        patchwork.keep_only(donors)
        self._load(*(fragment for peer in donors for fragment in patchwork.audited_of(peer)))
        untrained = np.zeros_like(self.x)
        untrained[: self.model.dim] = self.model.init(self._seed)
        variant = self.gradient  # nobody steps yet: no memory of its own
        losses = []
        for peer in donors:
            variant[:] = self.x
            patchwork.write_with(peer, variant)
            loss = self._comparable_loss(variant)
            variant[:] = self.x
            patchwork.write_without(peer, variant, untrained)
            losses.append(DonorLoss(peer, loss, self._comparable_loss(variant)))
        best = min(losses, key=lambda entry: entry.loss if math.isfinite(entry.loss) else math.inf)
        self._load(*patchwork.audited_of(best.peer))
        return DonorsCompared(tuple(losses), self._comparable_loss(untrained))

    def _load(self, *fragments: Fragment) -> None:
        self.optimizer.on_foreign_x()
        for fragment in fragments:
            self.mixer.load_fragment(self.x, self.optimizer.momentum, fragment)

    def _comparable_loss(self, x: NDArray[np.float32]) -> float:
        stride = max(1, len(self._probe_labels) // COMPARE_SAMPLES)
        return float(self.model.evaluate(x, self._probe_images[::stride], self._probe_labels[::stride]).loss)

    def state(self, into: TrainerState | None = None) -> TrainerState:
        """A copy of everything a checkpoint needs; into the arrays of `into`, an earlier copy, where there is one."""
        arrays = self._arrays()
        copies = into.arrays if into is not None else {name: np.empty_like(array) for name, array in arrays.items()}
        for name, array in arrays.items():
            np.copyto(copies[name], array)
        return TrainerState(copies, self._counters())

    def state_in_place(self) -> TrainerState:
        """The same without copies, for whoever saves it before the next step."""
        return TrainerState(self._arrays(), self._counters())

    def restore(self, state: TrainerState) -> None:
        """Go on where `state` was taken, on the same shard in the same order. Raises DataError where it is another's.

        A batch that follows the machine's speed is the one it had found, until that speed is measured anew.
        """
        arrays, counters = self._arrays(), state.counters
        for name, array in arrays.items():
            found = state.arrays.get(name)
            if found is None or found.shape != array.shape or found.dtype != array.dtype:
                shown = "nothing" if found is None else f"{found.dtype}{list(found.shape)}"
                raise DataError(f"the state's {name} is {shown}, expected {array.dtype}{list(array.shape)}")
        if not math.isfinite(float(np.sum(state.arrays["x"], dtype=np.float64))):
            raise DataError("the state's x is not finite")
        if counters.get("order_seed") != self._order_seed:
            raise DataError("the state was trained in the order of another key")
        try:
            self.batches.sampler.restore(counters["sampler"])
            self.mixer.restore_counters(counters["mixer"])
            self.steps, self.samples = counters["steps"], counters["samples"]
            self.progress = counters["progress"]
            self._ramp_from, self._ramp_steps = counters["ramp"]
            self.optimizer.updates = int(counters.get("updates", counters["steps"]))
            if self._spec.batch == "auto":
                self.batch = min(self._spec.batch_max, max(1, int(counters.get("batch", self.batch))))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"the state is of another version ({error!r})") from error
        for name, array in arrays.items():
            np.copyto(array, state.arrays[name])

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {"x": self.x, **self.optimizer.arrays, **self.mixer.arrays()}

    def _counters(self) -> dict[str, Any]:
        return {
            "steps": self.steps, "samples": self.samples, "progress": self.progress, "order_seed": self._order_seed,
            "ramp": [self._ramp_from, self._ramp_steps], "batch": self.batch, "sampler": self.batches.sampler.state(),
            "mixer": self.mixer.counters(), "updates": self.optimizer.updates,
        }  # fmt: skip

    def is_finite(self) -> bool:
        """Does x hold only numbers? One dot product instead of a look at every element."""
        with np.errstate(over="ignore", invalid="ignore"):
            return math.isfinite(float(np.dot(self.x, self.x)))
