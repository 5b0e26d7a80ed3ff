"""What is not learnt costs no bytes and is moved by nobody."""

from __future__ import annotations

import numpy as np
import pytest

from gossip.codec.answer import encode_answer
from gossip.codec.request import decode_request, encode_request
from gossip.data.recipes import find_recipe
from gossip.data.store import load_dataset
from gossip.errors import PeerError
from gossip.kernels.exchange import BLOCK
from gossip.kernels.optimizer import SEGMENT, STATISTIC, TRAINED
from gossip.models.freezing import frozen_parameters
from gossip.models.layers import resolve_layers
from gossip.models.model import build_model
from gossip.sections import TrainSpec
from gossip.training.frozen import Frozen
from gossip.training.mixer import Mixer
from gossip.training.trainer import Trainer

RECIPE = find_recipe("glyphs")
LAYERS = resolve_layers(
    ("conv 16 5x5", "relu", "maxpool 2", "conv 32 5x5", "relu", "maxpool 2", "dense classes"), RECIPE.shape, 10
)
DATASET = load_dataset(RECIPE)


def trainer_with(*freeze: str, order_seed: int = 1, knows_start: bool = True) -> Trainer:
    """13,248 parameters of convolutions, 5,130 of a dense layer."""
    frozen = frozen_parameters(LAYERS, freeze)
    model = build_model(LAYERS, RECIPE.mean, RECIPE.std, frozen=frozen, start={} if knows_start else None)
    spec = TrainSpec(batch=16, learning_rate=0.05)
    trainer = Trainer(spec, 1, model, DATASET, np.arange(2_000), order_seed=order_seed)
    trainer.begin(0)
    trainer.progress = 0.3
    return trainer


def exchange(own: Trainer, peer: Trainer, number: int, fraction: float = 1.0) -> tuple[np.ndarray, int]:
    """(blocks offered, bytes both ways)."""
    request = own.offer(number, fraction, True, with_momentum=True)
    assert request is not None
    offer = encode_request(request, own.mixer.n_blocks).body
    answer, _ = peer.respond(decode_request(offer, peer.mixer.n_blocks, peer.frozen.blocks))
    own.apply(number, answer)
    return request.blocks, len(offer) + len(encode_answer(answer).body)


def test_blocks_and_what_lies_beside() -> None:
    """Three blocks, the middle one frozen, the ends of the others too."""
    segments = np.array([(0, 200, TRAINED), (600, 700, STATISTIC)], SEGMENT)
    frozen = Frozen(segments, 710)
    assert frozen.blocks.tolist() == [False, True, False] and frozen.exchanged == 2 * BLOCK and frozen.any
    x = np.arange(3 * BLOCK, dtype=np.float32)
    with frozen.held(x):
        x += 1
    still = np.flatnonzero(x == np.arange(x.size))
    assert still.tolist() == [*range(200, 256), *range(512, 600), *range(700, 710)], "a block that is never mixed aside"
    frozen.copy(np.full(710, -1, np.float32), x)
    assert np.flatnonzero(x == -1).tolist() == [*range(200, 600), *range(700, 710)]
    assert not Frozen(np.array([(0, 710, TRAINED)], SEGMENT), 710).any


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_no_exchange_chooses_what_is_frozen(fraction: float) -> None:
    """Nor while everything is offered, nor when nothing has moved and the longest unmixed go first."""
    own, peer = trainer_with("conv"), trainer_with("conv", order_seed=2)
    seen: set[int] = set()
    for number in range(30):
        if number < 10:
            own.step()
            peer.step()
        blocks, _ = exchange(own, peer, number, fraction)
        assert not own.frozen.blocks[blocks].any()
        assert len(blocks) == np.ceil(fraction * np.count_nonzero(~own.frozen.blocks)), "a share of what is learnt"
        seen.update(blocks.tolist())
    assert sorted(seen) == np.flatnonzero(~own.frozen.blocks).tolist(), "all that is learnt had its turn"


def test_frozen_layers_cost_no_bytes() -> None:
    """A whole exchange costs what the layers weigh that are learnt: 21 of 72 blocks."""
    sizes = {}
    for freeze in ((), ("conv",)):
        own, peer = trainer_with(*freeze), trainer_with(*freeze, order_seed=2)
        for trainer in (own, peer):
            for _ in range(3):
                trainer.step()
        blocks, sizes[freeze] = exchange(own, peer, 1)
        assert len(blocks) == (21 if freeze else 72) == own.frozen.exchanged // BLOCK
    assert sizes[("conv",)] / sizes[()] == pytest.approx(21 / 72, rel=0.1)


def test_what_is_frozen_stays_to_the_bit() -> None:
    """Also where it shares a block with what is learnt, and the peer has other numbers there."""
    own, peer = trainer_with("conv"), trainer_with("conv", order_seed=2)
    end = own.model.layout["3.conv.bias"].end
    assert end % BLOCK, "a block is shared, or nothing is tried"
    peer.x[:end] += 1e-3
    before = own.x[:end].copy(), peer.x[:end].copy()
    for number in range(10):
        own.step()
        peer.step()
        exchange(own, peer, number)
        exchange(peer, own, number)
    assert np.array_equal(own.x[:end], before[0]) and np.array_equal(peer.x[:end], before[1])
    assert not own.optimizer.arrays["momentum"][:end].any()
    assert own.mixer.statistics().blocks_failed < 0.2 * own.mixer.statistics().blocks_mixed


def test_a_peer_that_offers_what_is_frozen_is_refused() -> None:
    own, free = trainer_with("conv"), trainer_with()
    free.step()
    request = free.offer(1, 1.0, True)
    assert request is not None
    body = encode_request(request, free.mixer.n_blocks).body
    with pytest.raises(PeerError, match="DECODE_FAILED: block 0 offered, which is frozen"):
        decode_request(body, own.mixer.n_blocks, own.frozen.blocks)


@pytest.mark.parametrize("knows_start", [True, False])
def test_a_newcomer_gets_frozen_layers_as_they_are_where_it_knows_them(knows_start: bool) -> None:
    """A donor sends 8 bits of each number, and no exchange would ever mend a frozen one."""
    donor, newcomer = trainer_with("conv"), trainer_with("conv", order_seed=2, knows_start=knows_start)
    newcomer.x[: newcomer.model.dim] = 0.5
    newcomer.take_fragments()
    for index in range(donor.fragments):
        fragment = donor.fragment(index)
        assert fragment is not None
        newcomer.load_fragment(index, b"donor", fragment, keep=False)
    newcomer.begin(0)
    end = donor.model.layout["3.conv.bias"].end
    assert np.array_equal(newcomer.x[:end], donor.x[:end]) == knows_start
    assert newcomer.x[:end] == pytest.approx(donor.x[:end], abs=0.01)
    assert np.array_equal(newcomer.x, newcomer.mixer.ref)


def test_a_model_without_frozen_layers_exchanges_all_of_itself() -> None:
    assert Mixer(np.zeros(3 * BLOCK, np.float32)).frozen.exchanged == 3 * BLOCK
