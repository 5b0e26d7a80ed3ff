"""What a sweep tries: read as it was meant, complete, and refused with the nearest key where it is mistyped."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.errors import SpecError
from gossip.sweep.space import POINTS_MAX, REFUSED, Range, draw, grid, known_keys, read_table, read_words


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("train.learning_rate=0.03,0.1, .3,1e-3", [0.03, 0.1, 0.3, 1e-3]),
        ("train.batch=32,64,auto", [32, 64, "auto"]),
        ("data.sample=5%,10%,2000", ["5%", "10%", 2000]),
        ("model.preset=mlp,lenet", ["mlp", "lenet"]),
        (
            'model.layers=["dense 10"],["dense 64", "relu", "dense 10"]',
            [["dense 10"], ["dense 64", "relu", "dense 10"]],
        ),
        ("train.batch=32", [32]),
    ],
)
def test_values_are_read_as_they_are_typed(word: str, values: list[object]) -> None:
    assert list(read_words([word]).values()) == [values]


def test_a_sweep_file_says_the_same() -> None:
    """Its keys are nested, as TOML writes dots."""
    table = {"train": {"learning_rate": "1e-3..1", "batch": [32, "auto"]}, "data": {"sample": ["5%"]}}
    assert read_table(table, "s.toml") == {
        "train.learning_rate": Range(1e-3, 1.0, False), "train.batch": [32, "auto"], "data.sample": ["5%"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("train.learning_rat=1", "did you mean train.learning_rate?"),
        ("learning_rate=1", "did you mean train.learning_rate?"),
        ("trian.batch=1", "did you mean train.batch?"),
        ("zzz.qqq=1", "known keys: data.sample"),
        ("exchange.blocks=0.1,0.2", "one node alone"),
        ("node.listen=a,b", "one node alone"),
        ("exchange.zzzzzz=0.1", "unknown key"),
        ("data.recipe=mnist,glyphs", "same validation samples"),
        ("data.shards=2,4", "changes nothing"),
        ("seed=1,2", "give --seeds N"),
        ("train.batch", "expected KEY=VALUES"),
        ("train.batch=", "expected KEY=VALUES"),
        ("train.batch=32,,64", "commas between"),
        ("train.batch=0..9", "begins above 0"),
        ("train.batch=9..3", "ends higher"),
        ("train.batch=1-2..9", "expected two numbers"),
    ],
)
def test_a_mistake_is_named_with_what_was_meant(word: str, said: str) -> None:
    with pytest.raises(SpecError) as error:
        read_words([word])
    assert said in str(error.value)


def test_a_key_given_twice_is_refused() -> None:
    """Silently taking the later one would halve the grid."""
    with pytest.raises(SpecError, match="given twice"):
        read_words(["train.batch=1", "train.batch=2"])


def test_every_key_of_the_file_is_known_or_refused_for_a_reason() -> None:
    assert {"train.learning_rate", "train.momentum", "model.preset", "data.sample"} <= set(known_keys())
    assert not set(known_keys()) & set(REFUSED)


def test_a_grid_is_every_combination_once() -> None:
    points = grid(read_words(["train.batch=32,64,32", "train.learning_rate=0.1,0.2"]))
    assert [tuple(point.values()) for point in points] == [(32, 0.1), (32, 0.2), (64, 0.1), (64, 0.2)]


def test_a_grid_takes_no_range_and_has_an_end() -> None:
    with pytest.raises(SpecError, match="give --random N"):
        grid(read_words(["train.learning_rate=1e-3..1"]))
    with pytest.raises(SpecError, match=f"at most {POINTS_MAX:,}"):
        grid({"train.batch": list(range(1, 102)), "train.samples": list(range(1, 102))})


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 20))
def test_more_draws_begin_with_the_same_ones(seed: int, few: int, more: int) -> None:
    """So that a sweep can be widened without training anything twice."""
    choices = read_words(["train.learning_rate=1e-3..1", "train.batch=16..256", "train.momentum=0,0.9"])
    points = draw(choices, few + more, seed)
    assert draw(choices, few, seed) == points[:few] and len(points) == few + more
    assert all(1e-3 <= point["train.learning_rate"] <= 1 and 16 <= point["train.batch"] <= 256 for point in points)
    assert all(isinstance(point["train.batch"], int) for point in points)


def test_draws_are_even_in_logs() -> None:
    """A decade is a decade: about as many below the middle one as above."""
    points = draw(read_words(["train.learning_rate=1e-4..1"]), 400, seed=1)
    below = sum(math.log10(point["train.learning_rate"]) < -2 for point in points)
    assert 160 < below < 240


def test_draws_from_lists_end_where_there_are_no_more() -> None:
    assert len(draw(read_words(["train.batch=16,32", "train.momentum=0,0.9"]), 50, seed=3)) == 4
