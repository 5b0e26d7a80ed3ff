"""The words of train.augment, and what is said where they are wrong."""

from __future__ import annotations

import pytest

from gossip.data.augmentation import Augmentation, parse_augment
from gossip.errors import SpecError


def test_words() -> None:
    assert parse_augment([]).is_none
    assert parse_augment(["flip", "crop 4"]) == parse_augment(["crop 4", "flip"]) == Augmentation(True, 4)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["flop"], '"flop" is unknown; did you mean "flip"?'),
        (["crop4"], '"crop4" is unknown; did you mean "crop 4"?'),
        (["crop"], '"crop" is unknown; expected a whole number of pixels'),
        (["crop -1"], '"crop -1" is unknown; expected a whole number of pixels'),
        (["jiggle"], '"jiggle" is unknown; expected a list of "flip" and "crop N"'),
        (["flip", "flip"], '"flip" comes after another one'),
        (["crop 2", "crop 4"], '"crop 4" comes after another one'),
        ([""], '"" is unknown; expected a list'),
    ],
)
def test_a_wrong_word_is_named_with_the_nearest_right_one(words: list[str], complaint: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_augment(words)
    assert str(caught.value).startswith(complaint)


def test_something_of_an_image_must_be_left() -> None:
    parse_augment(["crop 14"]).check((28, 28, 1))
    with pytest.raises(SpecError, match=r'"crop 15" would move images of 28x28 .* expected at most "crop 14"'):
        parse_augment(["crop 15"]).check((28, 28, 1))
