"""What each trainer effect means, as short chains of work on the trainer and beside it.

A chain is a list of stages. Stages marked TRAINER touch x and run on the thread that owns it, each
one little more than a kernel call; stages marked CODEC turn arrays into bytes or back and run beside
the training. Both worlds, live and simulated, run these very chains: the live one on two threads,
the simulated one at once. The last stage's value is the input that answers the effect.
"""

from __future__ import annotations

import enum
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
from gossip.training.trainer import Trainer


class Where(enum.Enum):
    TRAINER = "trainer"
    CODEC = "codec"


class Stage(NamedTuple):
    where: Where
    work: Callable[[Any], Any]  # the previous stage's value -> the next stage's


class Work:
    """Chains for one trainer. `on_encoded` hears what lz4 earned in every body made here."""

    def __init__(self, trainer: Trainer, on_encoded: Callable[[Encoded], None]) -> None:
        self._trainer = trainer
        self._n_blocks = trainer.mixer.n_blocks
        self._on_encoded = on_encoded
        self._chains: dict[type, Callable[[Any], list[Stage]]] = {
            ev.PickBlocks: self._pick_blocks,
            ev.Respond: self._respond,
            ev.Apply: self._apply,
            ev.GiveUp: lambda e: [self._on_trainer(lambda: trainer.give_up(e.exchange_id))],
            ev.Forget: lambda e: [self._on_trainer(lambda: trainer.forget(e.exchange_id))],
            ev.ReadFragment: self._read_fragment,
            ev.LoadFragment: self._load_fragment,
            ev.SetProgress: lambda e: [self._on_trainer(lambda: setattr(trainer, "progress", e.progress))],
            ev.SetLearningRate: lambda e: [self._on_trainer(lambda: setattr(trainer, "learning_rate", e.peak))],
            ev.Evaluate: self._evaluate,
        }

    def chain(self, effect: ev.Effect) -> list[Stage]:
        """The stages of an effect, in order. Each is called with what the one before returned."""
        return self._chains[type(effect)](effect)

    # -- Exchanges -----------------------------------------------------------------------------------

    def _pick_blocks(self, effect: ev.PickBlocks) -> list[Stage]:
        def pick(_: None) -> Request | None:
            return self._trainer.offer(effect.exchange_id, effect.fraction, effect.skip_in_flight)

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
            return ev.AnswerReady(effect.peer, effect.header.number, body, statistics.blocks, statistics.failed)

        return [
            self._decode(effect, lambda: decode_request(effect.body, self._n_blocks)),
            Stage(Where.TRAINER, mix),
            Stage(Where.CODEC, encode),
        ]

    def _apply(self, effect: ev.Apply) -> list[Stage]:
        exchange_id = effect.header.number

        def mix(answer: Answer) -> ev.Mixed:
            statistics = self._trainer.apply(exchange_id, answer)
            return ev.Mixed(exchange_id, statistics.blocks, statistics.failed)

        decode = self._decode(effect, lambda: decode_answer(effect.body, self._trainer.blocks_offered(exchange_id)))
        return [decode, Stage(Where.TRAINER, mix)]

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
            self._trainer.load_fragment(fragment)
            return ev.FragmentLoaded(index)

        decode = self._decode(effect, lambda: decode_fragment(effect.body, self._n_blocks, index))
        return [decode, Stage(Where.TRAINER, load)]

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
        | ev.Evaluated,
    )  # fmt: skip
