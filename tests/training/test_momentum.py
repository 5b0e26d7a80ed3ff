"""Momentum averaged along with the blocks it belongs to: in kind, on average right, and never at x's expense."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gossip.codec.answer import Answer, decode_answer, encode_answer
from gossip.codec.request import Request, decode_request, encode_request
from gossip.data.recipes import find_recipe
from gossip.data.store import Dataset, load_dataset
from gossip.kernels.exchange import BLOCK
from gossip.models.layers import preset_layers, resolve_layers
from gossip.models.model import build_model
from gossip.protocol import events as ev
from gossip.protocol.messages import Header, PayloadKind
from gossip.sections import TrainSpec
from gossip.training.mixer import Mixer, MixStatistics
from gossip.training.trainer import Trainer
from gossip.training.work import Work, ends_here

BLOCKS = 12
DIM = BLOCKS * BLOCK


class Node:
    """x, momentum and their mixer; every request and answer goes through bytes."""

    def __init__(self, seed: int, has_momentum: bool = True) -> None:
        start, own = np.random.default_rng(0), np.random.default_rng(seed)
        self.x = start.normal(size=DIM).astype(np.float32)
        self.mixer = Mixer(self.x, seed)
        self.x += (0.01 * own.normal(size=DIM)).astype(np.float32)
        self.momentum = own.normal(size=DIM).astype(np.float32) if has_momentum else None

    def offer(self) -> Request:
        request = self.mixer.offer(self.x, 1.0, True, self.momentum)
        assert request is not None
        return decode_request(encode_request(request, BLOCKS).body, BLOCKS)

    def respond(self, request: Request) -> tuple[Answer, MixStatistics]:
        answer, statistics = self.mixer.respond(self.x, request, self.momentum)
        body = encode_answer(answer).body
        return decode_answer(body, request.blocks.size, request.momentum is not None), statistics

    def apply(self, request: Request, answer: Answer, was_given_up: bool = False) -> MixStatistics:
        blocks, codes = request.blocks, request.range_codes
        return self.mixer.apply(self.x, blocks, codes, answer, self.momentum, was_given_up=was_given_up)


def momentum_of(node: Node) -> np.ndarray:
    assert node.momentum is not None
    return node.momentum


@pytest.mark.parametrize("seed", range(4))
def test_both_move_to_the_middle_of_what_they_had(seed: int) -> None:
    """Right on average: over many pairs with the same momentum the mean of either side is the midpoint."""
    mine, theirs = (np.random.default_rng(seed + n).normal(size=DIM).astype(np.float32) for n in (0, 100))
    middle, pairs = (mine + theirs) / 2, 60
    ends: list[list[np.ndarray]] = [[], []]
    for pair in range(pairs):
        i, j = Node(1_000 * seed + pair), Node(1_000 * seed + pair + 500)
        momentum_of(i)[:], momentum_of(j)[:] = mine, theirs
        request = i.offer()
        answer, statistics = j.respond(request)
        assert statistics.momentum_mixed == i.apply(request, answer).momentum_mixed == BLOCKS
        ends[0].append(momentum_of(i))
        ends[1].append(momentum_of(j))
    peaks = [np.repeat(np.abs(m).reshape(-1, BLOCK).max(1), BLOCK) for m in (mine, theirs)]
    # Half of an error that is uniform in +- step / 2; where that may reach beyond our largest coordinate it is cut.
    for side, own_peak, peer_peak in ((0, *peaks), (1, *peaks[::-1])):
        reach = peer_peak * 2**0.25 / 6
        is_free = np.abs(middle) + reach < own_peak
        assert is_free.mean() > 0.5
        off = np.mean(ends[side], 0) - middle
        assert np.all(np.abs(off[is_free]) <= 6 * reach[is_free] / np.sqrt(3 * pairs))


def test_x_goes_where_it_would_have_gone_without_momentum() -> None:
    """The displacement is owed, and the sum over the pair kept: whatever momentum does must not touch it."""
    ends = []
    for has_momentum in (True, False):
        i, j = Node(1, has_momentum), Node(2, has_momentum)
        for _ in range(5):
            request = i.offer()
            i.apply(request, j.respond(request)[0])
        ends.append((i.x, j.x, i.mixer.ranges, j.mixer.ref))
    assert all(np.array_equal(a, b) for a, b in zip(*ends, strict=True))


def test_the_answer_brings_what_the_responder_had_before() -> None:
    """Had it mixed first, the asker would get a quarter of its own momentum back."""
    i, j = Node(1), Node(2)
    momentum_of(i)[:], momentum_of(j)[:] = 1.0, -1.0
    answer, _ = j.respond(i.offer())
    assert answer.momentum is not None
    apart = np.unpackbits(answer.momentum.signs).mean()
    assert apart == 0.0, "all of it negative, as before; after mixing it is around 0"
    assert np.abs(momentum_of(j).mean()) < 0.1


def test_failed_blocks_keep_their_momentum_on_both_sides() -> None:
    i, j = Node(1), Node(2)
    request = i.offer()
    request.checks[[3, 8]] ^= 1  # misread on the way
    before = [momentum_of(node).copy().reshape(-1, BLOCK) for node in (i, j)]
    answer, statistics = j.respond(request)
    assert (statistics.failed, statistics.momentum_mixed) == (2, BLOCKS - 2)
    assert i.apply(request, answer).momentum_mixed == BLOCKS - 2
    for node, old in zip((i, j), before, strict=True):
        kept = (momentum_of(node).reshape(-1, BLOCK) == old).all(1)
        assert np.flatnonzero(kept).tolist() == [3, 8]


def test_the_momentum_of_a_late_answer_is_left_out() -> None:
    """Its displacement is owed, at any age. Momentum is not, and forgets in ten steps."""
    i, j = Node(1), Node(2)
    request = i.offer()
    answer, _ = j.respond(request)
    i.mixer.give_up(request.blocks)
    x, momentum = i.x.copy(), momentum_of(i).copy()
    assert i.apply(request, answer, was_given_up=True).momentum_mixed == 0
    assert np.array_equal(momentum_of(i), momentum)
    assert not np.array_equal(i.x, x)


def test_a_peer_without_momentum_answers_without() -> None:
    i, j = Node(1), Node(2, has_momentum=False)
    request = i.offer()
    answer, statistics = j.respond(request)
    assert answer.momentum is None
    assert (statistics.momentum_mixed, i.apply(request, answer).momentum_mixed) == (0, 0)


def test_the_same_seeds_send_the_same_bytes() -> None:
    """A run can be played again, random numbers and all; and no two bodies share theirs."""
    plays = []
    for _ in range(2):
        i, j, bodies = Node(1), Node(2), []
        for _ in range(4):
            request = i.offer()
            answer, _ = j.respond(request)
            i.apply(request, answer)
            bodies += [encode_request(request, BLOCKS).body, encode_answer(answer).body]
            assert request.momentum is not None and answer.momentum is not None
            bodies += [request.momentum.key, answer.momentum.key]
        plays.append([*bodies, momentum_of(i).tobytes(), momentum_of(j).tobytes()])
    assert plays[0] == plays[1]
    keys = [key for key in plays[0] if isinstance(key, int)]
    assert len(set(keys)) == 8


@pytest.mark.parametrize("seed", range(3))
def test_a_hostile_peer_turns_momentum_but_never_makes_it_longer(seed: int) -> None:
    """Any scale, any plane, any key, as responder and as asker: what our own gradients built is the limit."""
    rng = np.random.default_rng(seed)
    victim, liar = Node(seed), Node(seed + 50)
    peaks = np.abs(momentum_of(victim)).reshape(-1, BLOCK).max(1)
    for _ in range(200):
        request = liar.offer()
        assert request.momentum is not None
        codes = np.clip(request.momentum.codes + rng.integers(-2, 14, BLOCKS), 0, 200).astype(np.uint8)
        planes = np.full((2, DIM // 8), rng.choice([0, 255]), np.uint8)
        forged = replace(request.momentum, codes=codes, signs=planes[0], outer=planes[1] | 255)
        answer, _ = victim.respond(replace(request, momentum=forged))
        liar.mixer.give_up(request.blocks)
        mine = victim.offer()
        victim.apply(mine, replace(answer, failed=np.zeros(BLOCKS, np.bool_), momentum=forged))
        assert np.all(np.abs(momentum_of(victim)).reshape(-1, BLOCK).max(1) <= peaks)


# -- The trainer ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def glyphs() -> Dataset:
    return load_dataset(find_recipe("glyphs"))


def a_trainer(dataset: Dataset, order_seed: int, momentum: float = 0.9) -> Trainer:
    recipe = find_recipe("glyphs")
    model = build_model(resolve_layers(preset_layers("mlp"), recipe.shape, 10), recipe.mean, recipe.std)
    spec = TrainSpec(samples=10_000, momentum=momentum)
    trainer = Trainer(spec, 1, model, dataset, np.arange(500), order_seed=order_seed)
    for _ in range(4):
        trainer.step()
    return trainer


def play(trainer: Trainer, effect: ev.Effect) -> ev.Input:
    """Every stage of an effect, one after the other."""
    value = None
    for stage in Work(trainer, lambda encoded: None).chain(effect):
        value = stage.work(value)
        if ends_here(value):
            break
    return value


def momentum_in(trainer: Trainer) -> np.ndarray:
    assert trainer.optimizer.momentum is not None
    return trainer.optimizer.momentum


def exchange(one: Trainer, other: Trainer, with_momentum: bool) -> tuple[ev.Input, ev.Input]:
    offer = play(one, ev.PickBlocks(7, 0.5, False, with_momentum))
    assert isinstance(offer, ev.OfferReady) and offer.body is not None
    answer = play(other, ev.Respond(b"a", Header(PayloadKind.OFFER, 0, 7, 0), offer.body))
    assert isinstance(answer, ev.AnswerReady)
    return answer, play(one, ev.Apply(b"b", Header(PayloadKind.ANSWER, 0, 7, 0), answer.body))


def test_an_exchange_averages_momentum_when_the_offer_says_so(glyphs: Dataset) -> None:
    one, other = a_trainer(glyphs, 1), a_trainer(glyphs, 2)
    for with_momentum in (False, True):
        before = [momentum_in(trainer).copy() for trainer in (one, other)]
        answer, mixed = exchange(one, other, with_momentum)
        assert isinstance(answer, ev.AnswerReady) and isinstance(mixed, ev.Mixed)
        assert bool(answer.momentum_mixed) is bool(mixed.momentum_mixed) is with_momentum
        for trainer, old in zip((one, other), before, strict=True):
            assert np.array_equal(momentum_in(trainer), old) is not with_momentum
            assert not momentum_in(trainer)[trainer.model.dim :].any(), "padding stays 0"


def test_a_trainer_without_momentum_neither_sends_nor_uses_it(glyphs: Dataset) -> None:
    """Its buffer then holds the last gradient, which is nobody's business."""
    one, other = a_trainer(glyphs, 1, momentum=0.0), a_trainer(glyphs, 2)
    request = one.offer(7, 0.5, False, with_momentum=True)
    assert request is not None and request.momentum is None
    request = other.offer(8, 0.5, False, with_momentum=True)
    assert request is not None and request.momentum is not None
    before = momentum_in(one).copy()
    answer, _ = one.respond(request)
    assert answer.momentum is None
    assert np.array_equal(momentum_in(one), before)
