"""A sample keeps every class' share, is the same for everybody, and is refused where it cannot be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.data.sample import Sample, parse_sample
from gossip.errors import SpecError

CLASSES = 10


@given(st.lists(st.integers(1, 60), min_size=2, max_size=12), st.integers(0, 2**32 - 1), st.data())
def test_every_class_keeps_its_share_and_at_least_one(sizes: list[int], seed: int, data: st.DataObject) -> None:
    """What is learnt from a sample must not be what a rare class' absence teaches."""
    labels = np.random.RandomState(seed).permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.uint8)
    size = data.draw(st.integers(len(sizes), len(labels)))
    taken = Sample(count=size).take(labels, len(sizes), seed)
    assert len(taken) == size and (np.diff(taken) > 0).all()
    counts = np.bincount(labels[taken], minlength=len(sizes))
    exact = np.array(sizes) * size / len(labels)
    assert (counts >= 1).all()
    assert (counts <= np.maximum(1, np.ceil(exact))).all()
    lent = int((exact < 1).sum())  # a class that must have one gets it from another
    assert (counts >= np.floor(exact) - lent).all()


def test_a_sample_depends_on_its_seed_and_on_nothing_else() -> None:
    """Every node computes it alone."""
    labels = (np.arange(1000) % CLASSES).astype(np.uint8)
    sample = parse_sample("10%")
    assert sample.take(labels, CLASSES, 7).tolist() == sample.take(labels.copy(), CLASSES, 7).tolist()
    assert sample.take(labels, CLASSES, 7).tolist() != sample.take(labels, CLASSES, 8).tolist()
    assert set(sample.take(labels, CLASSES, 7)) <= set(parse_sample("20%").take(labels, CLASSES, 7))


@pytest.mark.parametrize(("text", "size"), [("10%", 100), ("2.5 %", 25), ("100%", 1000), (250, 250), ("250", 250)])
def test_shares_and_numbers(text: str | int, size: int) -> None:
    assert parse_sample(text).size(1000, CLASSES) == size


def test_all_of_it_is_all_of_it() -> None:
    """The default changes nothing for runs that know no samples."""
    labels = np.arange(7, dtype=np.uint8)
    assert parse_sample("").take(labels, 7, 1).tolist() == list(range(7))
    assert parse_sample("100%").is_all


@pytest.mark.parametrize(
    "text", ["0%", "0", "101%", "-5", "ten", "10", "1.5", "%", "0.1%", "1001", "10 percent", 0, -1]
)
def test_what_cannot_be_is_refused_in_a_sentence(text: str | int) -> None:
    with pytest.raises(SpecError, match="expected"):
        parse_sample(text).check(1000, CLASSES, 20)
