"""What each trainer effect means, as short chains of work on the trainer and beside it.

A chain is a list of stages. Stages marked TRAINER touch x and run on the thread that owns it, each
one little more than a kernel call; stages marked CODEC turn arrays into bytes or back and run beside
the training. Both worlds, live and simulated, run these very chains: the live one on two threads,
the simulated one at once. The last stage's value is the input that answers the effect.
"""

from __future__ import annotations

import enum
import errno
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gossip.codec.answer import Answer, decode_answer, encode_answer
from gossip.codec.body import Encoded
from gossip.codec.fragment import Fragment, decode_fragment, encode_fragment
from gossip.codec.request import Request, decode_request, encode_request
from gossip.errors import PeerError
from gossip.protocol import events as ev
from gossip.training.mixer import MixStatistics
from gossip.training.trainer import Trainer, TrainerState


class Where(enum.Enum):
    TRAINER = "trainer"
    CODEC = "codec"
    SAVER = "saver"


class Stage(NamedTuple):
    where: Where
    work: Callable[[Any], Any]  # the previous stage's value -> the next stage's


# state, the node's notes -> bytes written. Raises OSError.
Save = Callable[[TrainerState, dict[str, Any]], int]


def keep_nothing(state: TrainerState, notes: dict[str, Any]) -> int:
    """For a node without a disk."""
    return 0


class Work:
    """Chains for one trainer. `on_encoded` hears what lz4 earned in every body made here."""

    def __init__(self, trainer: Trainer, on_encoded: Callable[[Encoded], None], save: Save = keep_nothing) -> None:
        """save: runs on the saver's thread, on a copy of the state that nobody writes to meanwhile."""
        self._trainer = trainer
        self._n_blocks = trainer.mixer.n_blocks
        self._on_encoded = on_encoded
        self._save = save
        # Made, and touched, now: the first copy must not make training wait for the memory.
        self._copy = trainer.state() if save is not keep_nothing else None
        self._chains: dict[type, Callable[[Any], list[Stage]]] = {
            ev.PickBlocks: self._pick_blocks,
            ev.Respond: self._respond,
            ev.Apply: self._apply,
            ev.GiveUp: lambda e: [self._on_trainer(lambda: trainer.give_up(e.exchange_id))],
            ev.Forget: lambda e: [self._on_trainer(lambda: trainer.forget(e.exchange_id))],
            ev.ReadFragment: self._read_fragment,
            ev.LoadFragment: self._load_fragment,
            ev.TakeFragments: lambda e: [self._on_trainer(trainer.take_fragments)],
            ev.DropFragments: lambda e: [self._on_trainer(trainer.drop_fragments)],
            ev.CompareDonors: lambda e: [Stage(Where.TRAINER, lambda _: trainer.compare_donors(e.donors))],
            ev.SetProgress: lambda e: [self._on_trainer(lambda: setattr(trainer, "progress", e.progress))],
            ev.SetLearningRate: lambda e: [self._on_trainer(lambda: setattr(trainer, "learning_rate", e.peak))],
            ev.SetBatch: lambda e: [self._on_trainer(lambda: setattr(trainer, "batch", e.batch))],
            ev.Evaluate: self._evaluate,
            ev.SaveCheckpoint: self._save_checkpoint,
        }

    def chain(self, effect: ev.Effect) -> list[Stage]:
        """The stages of an effect, in order. Each is called with what the one before returned."""
        return self._chains[type(effect)](effect)

    # -- Exchanges -----------------------------------------------------------------------------------

    def _pick_blocks(self, effect: ev.PickBlocks) -> list[Stage]:
        def pick(_: None) -> Request | None:
            return self._trainer.offer(effect.exchange_id, effect.fraction, effect.skip_in_flight, effect.with_momentum)

        def encode(request: Request | None) -> ev.OfferReady:
            body = None if request is None else self._body(encode_request(request, self._n_blocks))
            return ev.OfferReady(effect.exchange_id, body)

        return [Stage(Where.TRAINER, pick), Stage(Where.CODEC, encode)]

    def _respond(self, effect: ev.Respond) -> list[Stage]:
        def mix(request: Request) -> tuple[Answer, MixStatistics]:
            return self._trainer.respond(request)

        def encode(mixed: tuple[Answer, MixStatistics]) -> ev.AnswerReady:
            answer, statistics = mixed
            body = self._body(encode_answer(answer))
            return ev.AnswerReady(
                effect.peer, effect.header.number, body, statistics.blocks, statistics.failed, statistics.momentum_mixed
            )

        return [
            self._decode(effect, lambda: decode_request(effect.body, self._n_blocks, self._trainer.frozen.blocks)),
            Stage(Where.TRAINER, mix),
            Stage(Where.CODEC, encode),
        ]

    def _apply(self, effect: ev.Apply) -> list[Stage]:
        exchange_id = effect.header.number

        def mix(answer: Answer) -> ev.Mixed:
            statistics = self._trainer.apply(exchange_id, answer)
            return ev.Mixed(exchange_id, statistics.blocks, statistics.failed, statistics.momentum_mixed)

        def decode() -> Answer:
            trainer = self._trainer
            return decode_answer(
                effect.body, trainer.blocks_offered(exchange_id), trainer.offered_momentum(exchange_id)
            )

        return [self._decode(effect, decode), Stage(Where.TRAINER, mix)]

    # -- State ---------------------------------------------------------------------------------------

    def _read_fragment(self, effect: ev.ReadFragment) -> list[Stage]:
        def read(_: None) -> Fragment | None:
            return self._trainer.fragment(effect.index)

        def encode(fragment: Fragment | None) -> ev.FragmentReady:
            body = None if fragment is None else self._body(encode_fragment(fragment))
            return ev.FragmentReady(effect.peer, effect.index, body)

        return [Stage(Where.TRAINER, read), Stage(Where.CODEC, encode)]

    def _load_fragment(self, effect: ev.LoadFragment) -> list[Stage]:
        index = effect.header.number

        def load(fragment: Fragment) -> ev.FragmentLoaded:
            self._trainer.load_fragment(index, effect.peer, fragment, effect.keep)
            return ev.FragmentLoaded(effect.peer, index)

        decode = self._decode(effect, lambda: decode_fragment(effect.body, self._n_blocks, index))
        return [decode, Stage(Where.TRAINER, load)]

    def _save_checkpoint(self, effect: ev.SaveCheckpoint) -> list[Stage]:
        """The core asks for one at a time, so one copy is enough."""

        def copy(_: None) -> float | ev.CheckpointFailed:
            began = time.perf_counter()
            if not self._trainer.is_finite():
                return ev.CheckpointFailed("NOT_FINITE", "the model holds a number that is not finite")
            if self._copy is not None:
                self._copy = self._trainer.state(self._copy)
            return time.perf_counter() - began

        def write(copy_s: float) -> ev.CheckpointSaved | ev.CheckpointFailed:
            if self._copy is None:
                return ev.CheckpointSaved(self._trainer.steps, 0, copy_s, 0.0)
            began = time.perf_counter()
            try:
                size = self._save(self._copy, effect.notes)
            except OSError as error:
                return ev.CheckpointFailed(errno.errorcode.get(error.errno or 0, "UNKNOWN"), str(error))
            seconds = time.perf_counter() - began
            return ev.CheckpointSaved(self._copy.counters["steps"], size, copy_s, seconds)

        return [Stage(Where.TRAINER, copy), Stage(Where.SAVER, write)]

    # -- Held-out accuracy -----------------------------------------------------------------------------

    def _evaluate(self, effect: ev.Evaluate) -> list[Stage]:
        def look(_: None) -> ev.Evaluated:
            parts = list(self._trainer.evaluate_in_slices()) if effect.full else [self._trainer.look()]
            sizes = [len(part.predictions) for part in parts]
            accuracy = float(np.average([part.accuracy for part in parts], weights=sizes))
            loss = float(np.average([part.loss for part in parts], weights=sizes))
            return ev.Evaluated(accuracy, loss, sum(sizes))

        return [Stage(Where.TRAINER, look)]

    # -- How it is put together --------------------------------------------------------------------------

    def _body(self, encoded: Encoded) -> bytes:
        self._on_encoded(encoded)
        return encoded.body

    @staticmethod
    def _on_trainer(work: Callable[[], None]) -> Stage:
        return Stage(Where.TRAINER, lambda _: work())

    @staticmethod
    def _decode(effect: ev.Respond | ev.Apply | ev.LoadFragment, decode: Callable[[], Any]) -> Stage:
        """Decoding a peer's body: what is wrong with it ends the chain as PayloadUnreadable."""

        def work(_: None) -> Any:
            try:
                return decode()
            except PeerError as error:
                return ev.PayloadUnreadable(effect.peer, effect.header, error.code, str(error))

        return Stage(Where.CODEC, work)


def ends_here(value: Any) -> bool:
    """True for a value that is an input for the engine: the chain is over, early or as planned."""
    return isinstance(
        value,
        ev.OfferReady | ev.AnswerReady | ev.Mixed | ev.PayloadUnreadable | ev.FragmentReady | ev.FragmentLoaded
        | ev.DonorsCompared | ev.Evaluated | ev.CheckpointSaved | ev.CheckpointFailed,
    )  # fmt: skip
