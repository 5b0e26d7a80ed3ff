"""Every sample once per epoch, in an order that (seed, epoch) alone decides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.data.sampler import Sampler
from gossip.errors import DataError


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_every_epoch_deals_every_sample_once(m: int, batch: int, seed: int) -> None:
    """Whatever the batch size, also one larger than the shard: no sample is favoured."""
    sampler = Sampler(np.arange(100, 100 + m), batch, seed)
    dealt = np.concatenate([sampler.next_batch().copy() for _ in range(3 * m // batch + 3)])
    for epoch in range(len(dealt) // m):
        assert sorted(dealt[epoch * m : (epoch + 1) * m].tolist()) == list(range(100, 100 + m))


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 20))
def test_a_restored_sampler_goes_on_with_the_very_next_sample(m: int, batch: int, steps: int) -> None:
    """A resumed run sees what the uninterrupted one would have seen."""
    first, second = Sampler(np.arange(m), batch, 5), Sampler(np.arange(m), batch, 5)
    for _ in range(steps):
        first.next_batch()
    second.restore(first.state())
    for _ in range(3):
        assert np.array_equal(first.next_batch(), second.next_batch())
    assert first.state() == second.state()


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    """The same order every epoch would be a cycle the optimizer can feel."""
    one, other = Sampler(np.arange(50), 50, 1), Sampler(np.arange(50), 50, 2)
    first, second, foreign = one.next_batch().copy(), one.next_batch().copy(), other.next_batch()
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, foreign)
    assert (one.epoch, one.position) == (1, 50)


def test_batches_are_one_array_reused() -> None:
    """The training step must not allocate."""
    sampler = Sampler(np.arange(10), 4, 1)
    assert sampler.next_batch() is sampler.next_batch()
    assert sampler.next_batch().dtype == np.int64


@pytest.mark.parametrize("state", [{}, {"epoch": 0, "position": 11}, {"epoch": -1, "position": 0}])
def test_a_position_of_another_shard_is_refused(state: dict[str, int]) -> None:
    """A checkpoint of other data must not be carried on silently."""
    sampler = Sampler(np.arange(10), 4, 1)
    with pytest.raises(DataError, match="outside a shard of 10 samples"):
        sampler.restore(state)
    assert sampler.state() == {"epoch": 0, "position": 0}
