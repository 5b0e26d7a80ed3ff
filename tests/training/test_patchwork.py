"""A state in the making, judged with and without what each donor gave: real trainers, no network."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gossip.codec.fragment import FRAGMENT_BLOCKS, Fragment
from gossip.data.recipes import find_recipe
from gossip.data.store import load_dataset
from gossip.kernels.exchange import BLOCK
from gossip.models.layers import preset_layers, resolve_layers
from gossip.models.model import build_model
from gossip.protocol.events import DonorsCompared
from gossip.protocol.trust import liars
from gossip.sections import TrainSpec
from gossip.training.trainer import Trainer

A, B = b"a" * 32, b"b" * 32
RECIPE = find_recipe("glyphs")
DATASET = load_dataset(RECIPE)


def make_trainer(order_seed: int, steps: int = 0) -> Trainer:
    """An MLP of 398 blocks: two fragments, 256 and 142 blocks."""
    layers = resolve_layers(preset_layers("mlp"), RECIPE.shape, len(RECIPE.classes))
    model = build_model(layers, RECIPE.mean, RECIPE.std)
    spec = TrainSpec(samples=10**6, batch=32, learning_rate=0.05)
    trainer = Trainer(spec, 1, model, DATASET, np.arange(4_000), order_seed=order_seed)
    trainer.progress = 0.3
    for _ in range(steps):
        trainer.step()
    return trainer


@pytest.fixture(scope="module")
def donor() -> Trainer:
    return make_trainer(1, steps=150)


def give(donor: Trainer, newcomer: Trainer, index: int, peer: bytes, keep: bool, scale: float = 1.0) -> None:
    fragment = donor.fragment(index)
    assert isinstance(fragment, Fragment)
    fragment.x_peaks[:] *= scale
    newcomer.load_fragment(index, peer, fragment, keep)


def by_peer(compared: DonorsCompared) -> dict[bytes, tuple[float, float]]:
    return {entry.peer: (entry.loss, entry.loss_without) for entry in compared.losses}


def test_what_is_audited_is_judged_copy_by_copy_and_the_better_one_stays(donor: Trainer) -> None:
    """Two honest donors of a small model: each is compared as a whole, and neither is refused."""
    newcomer, other = make_trainer(2), make_trainer(3, steps=60)
    for index in (0, 1):
        give(donor, newcomer, index, A, keep=True)
        give(other, newcomer, index, B, keep=True)
    compared = newcomer.compare_donors((A, B))
    losses = by_peer(compared)
    assert losses[A][0] == losses[B][1] < losses[B][0] == losses[A][1] < compared.untrained
    assert liars(compared) == []
    assert np.allclose(newcomer.x, donor.x, atol=0.02) and not np.allclose(newcomer.x, other.x, atol=0.02)


@pytest.mark.parametrize("scale", [10.0, 1_000.0])
def test_a_liars_fragment_is_judged_by_what_the_state_would_be_without_it(donor: Trainer, scale: float) -> None:
    """It gave a part that nobody else gave: the untrained model's takes its place, which is still far better."""
    newcomer = make_trainer(2)
    give(donor, newcomer, 0, A, keep=False)
    give(donor, newcomer, 1, B, keep=False, scale=scale)
    compared = newcomer.compare_donors((A, B))
    assert liars(compared) == [B]
    give(donor, newcomer, 1, A, keep=False)
    assert liars(newcomer.compare_donors((A,))) == []
    assert np.allclose(newcomer.x, donor.x, atol=0.02)


def test_one_donor_alone_is_compared_with_the_untrained_model(donor: Trainer) -> None:
    """There is nothing else to compare it with."""
    for scale, expected in ((1.0, []), (1_000.0, [A])):
        newcomer = make_trainer(2)
        for index in (0, 1):
            give(donor, newcomer, index, A, keep=True, scale=scale)
        compared = newcomer.compare_donors((A,))
        assert by_peer(compared)[A][1] == pytest.approx(compared.untrained) and compared.untrained > 2
        assert liars(compared) == expected


def test_the_copy_of_somebody_distrusted_leaves_the_state(donor: Trainer) -> None:
    """Whichever of the two was loaded last."""
    newcomer = make_trainer(2)
    for index in (0, 1):
        give(donor, newcomer, index, A, keep=True)
        give(donor, newcomer, index, B, keep=True, scale=1_000.0)
    assert liars(newcomer.compare_donors((A, B))) == [B]
    newcomer.compare_donors((A,))
    assert np.allclose(newcomer.x, donor.x, atol=0.02) and math.isfinite(
        float(newcomer.optimizer.arrays["momentum"].sum())
    )


def test_a_comparison_leaves_no_memory_behind(donor: Trainer) -> None:
    """Two copies of what is audited, until training begins: no more than 534 kB, whatever the model's size."""
    newcomer = make_trainer(2)
    for peer in (A, B):
        for index in (0, 1):
            give(donor, newcomer, index, peer, keep=True)
    assert newcomer._patchwork is not None
    kept = [f for copies in newcomer._patchwork._audited.values() for f in copies.values()]
    assert sum(f.x_levels.nbytes + f.momentum_levels.nbytes for f in kept) == 2 * 2 * 398 * BLOCK
    assert len(kept) * FRAGMENT_BLOCKS * (2 * BLOCK + 9) < 534_000
    newcomer.begin(16)
    assert newcomer._patchwork is None


def test_a_node_that_comes_back_goes_on_with_its_own_state_if_the_swarms_never_comes_whole(donor: Trainer) -> None:
    """Half a state, or an untrusted one, must not be what it trains on; nor what arrives when it has given up."""
    back = make_trainer(2, steps=20)
    x, momentum = back.x.copy(), back.optimizer.arrays["momentum"].copy()
    back.take_fragments()
    give(donor, back, 0, A, keep=True, scale=1_000.0)
    assert not np.array_equal(back.x, x)
    back.drop_fragments()
    give(donor, back, 1, A, keep=False)
    assert np.array_equal(back.x, x) and np.array_equal(back.optimizer.arrays["momentum"], momentum)


def test_who_leaves_with_the_swarms_state_saves_that_and_else_its_own(donor: Trainer) -> None:
    """Progress noted beside a checkpoint must be that of its x: a whole state counts, half a one does not."""
    for is_whole in (True, False):
        back = make_trainer(2, steps=20)
        own = back.x.copy()
        back.take_fragments()
        for index in (0, 1) if is_whole else (0,):
            give(donor, back, index, A, keep=True)
        back.end_loading(is_whole)
        assert np.allclose(back.state_in_place().arrays["x"], donor.x if is_whole else own, atol=0.02)
        assert np.array_equal(back.x, own) == (not is_whole)
