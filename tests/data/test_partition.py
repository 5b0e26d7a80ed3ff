"""Shards are disjoint, cover everything, and hold what their partition promises."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip.data.partition import class_sets, parse_partition, shard_of_key
from gossip.errors import SpecError

seeds = st.integers(0, 2**32 - 1)


def shards_of(text: str, labels: np.ndarray, class_count: int, shards: int, seed: int) -> list[np.ndarray]:
    return [parse_partition(text).shard(labels, class_count, shards, k, seed) for k in range(shards)]


@settings(max_examples=60)
@given(st.data(), seeds, st.integers(2, 12), st.integers(1, 9))
def test_shards_are_disjoint_cover_everything_and_are_never_empty(
    data: st.DataObject, seed: int, class_count: int, shards: int
) -> None:
    """A sample in two shards counts double, one in none is lost, and an empty shard cannot train."""
    values = st.lists(st.integers(0, class_count - 1), min_size=shards, max_size=80)
    labels = np.array(data.draw(values), np.uint8)
    fewest = -(-class_count // shards)
    k = data.draw(st.integers(fewest, class_count))
    text = data.draw(st.sampled_from(["iid", "dirichlet(0.001)", "dirichlet(0.3)", f"classes({k})"]))
    parts = shards_of(text, labels, class_count, shards, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    for part in parts:
        assert part.dtype == np.int64 and part.size and (np.diff(part) > 0).all()
        if text.startswith("classes"):
            assert len(set(labels[part].tolist())) <= k


@given(st.integers(2, 40), st.integers(1, 40), st.data())
def test_every_class_has_a_holder_and_no_class_two_more_than_another(
    class_count: int, shards: int, data: st.DataObject
) -> None:
    """classes(k) promises k different classes per shard, every class somewhere, as evenly as can be."""
    k = data.draw(st.integers(min(class_count, -(-class_count // shards)), class_count))
    order = np.array(data.draw(st.permutations(range(class_count))))
    sets = class_sets(class_count, shards, k, order)
    assert all(len(set(classes)) == len(classes) == k for classes in sets)
    holders = np.bincount(np.concatenate(sets), minlength=class_count)
    assert holders.min() >= 1 and holders.max() - holders.min() <= 1


def test_four_shards_of_three_hold_all_ten_digits() -> None:
    """The demo's partition, in the order the docstring shows."""
    assert class_sets(10, 4, 3, np.arange(10)) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 0, 3]]


def test_a_partition_depends_on_its_seed_and_on_nothing_else() -> None:
    """Nodes compute their shards alone, so two of them must agree; another seed deals anew."""
    labels = np.arange(300, dtype=np.uint8) % 10
    for text in ("iid", "dirichlet(0.3)", "classes(3)"):
        first, again, other = (shards_of(text, labels, 10, 4, seed) for seed in (7, 7, 8))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_dirichlet_shards_are_equal_in_size_and_unequal_in_classes() -> None:
    """Small alpha: few classes carry a shard. Large alpha: all do."""
    labels = np.arange(4_000, dtype=np.uint8) % 10

    def largest_share(text: str) -> float:
        parts = shards_of(text, labels, 10, 4, 1)
        assert [part.size for part in parts] == [1_000] * 4
        return float(np.mean([np.bincount(labels[part]).max() / part.size for part in parts]))

    assert largest_share("dirichlet(0.1)") > 0.3
    assert largest_share("dirichlet(1000)") < 0.13


@pytest.mark.parametrize(
    "text",
    ["", "random", "classes", "classes(0)", "classes(2.5)", "classes(-1)", "classes(3) iid", "iid(3)",
     "dirichlet(0)", "dirichlet(nan)", "dirichlet(1e400)", "dirichlet(1.2.3)"],
)  # fmt: skip
def test_an_unknown_partition_lists_the_known_ones(text: str) -> None:
    """The user sees all three forms at once."""
    with pytest.raises(SpecError, match=r'expected "iid", "dirichlet\(alpha\)"'):
        parse_partition(text)


@pytest.mark.parametrize(
    ("text", "shards", "explained"),
    [
        ("classes(11)", 4, r"expected at most classes\(10\)"),
        ("classes(2)", 4, r"leave 2 of the 10 classes to nobody; expected at least classes\(3\) or shards = 5"),
    ],
)
def test_an_impossible_partition_says_how_to_fix_it(text: str, shards: int, explained: str) -> None:
    """Found when the spec is read, not when training starts."""
    with pytest.raises(SpecError, match=explained):
        parse_partition(text).check(10, shards)


def test_fewer_samples_than_shards_is_refused() -> None:
    """Some shard would be empty."""
    with pytest.raises(SpecError, match="3 samples cannot fill 4 shards"):
        parse_partition("iid").shard(np.zeros(3, np.uint8), 10, 4, 0, 1)


@given(st.binary(min_size=1, max_size=32), seeds, st.integers(1, 1000))
def test_a_key_names_one_shard(key: bytes, seed: int, shards: int) -> None:
    """Anybody can recompute it."""
    assert 0 <= shard_of_key(key, seed, shards) == shard_of_key(key, seed, shards) < shards


def test_checking_a_spec_needs_no_numpy() -> None:
    """`gossip --help` and a refused spec stay fast."""
    code = (
        "import sys; from gossip.data.recipes import find_recipe; from gossip.data.partition import parse_partition;"
        "find_recipe('glyphs'); parse_partition('classes(3)').check(10, 4); sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
