"""A trial is given up for being worse than most, late enough to know, and with the reason in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.sweep.stopping import FIRST_JUDGED, LOOKS, OTHERS_MIN, why_give_up

OTHERS = [[0.1 * k + 0.01 * n for n in range(LOOKS)] for k in range(1, 6)]  # after 4 looks: .13, .23, .33, .43, .53


def test_the_reason_says_what_was_compared() -> None:
    assert why_give_up([0.2] * 4, OTHERS) == "20.0% after 33%, where the median of 5 was 33.0%"
    assert why_give_up([0.34] * 4, OTHERS) == ""


def test_its_best_counts_not_its_last() -> None:
    """One bad look is noise."""
    assert why_give_up([0.1, 0.5, 0.4, 0.1], OTHERS) == ""


def test_others_count_as_they_were_then() -> None:
    """Who is at the end now was not better at a third; who is not there yet says nothing."""
    late = [[0.1] * 4 + [0.9] * 8] * 5
    assert why_give_up([0.2] * 4, late) == ""
    assert why_give_up([0.2] * 4, [accuracies[:3] for accuracies in OTHERS]) == ""


@pytest.mark.parametrize("looks", [*range(FIRST_JUDGED), LOOKS])
def test_nobody_is_judged_before_a_third_or_at_the_end(looks: int) -> None:
    assert why_give_up([0.0] * looks, OTHERS) == ""


def test_a_median_of_a_few_is_chance() -> None:
    assert why_give_up([0.0] * 6, OTHERS[-OTHERS_MIN + 1 :]) == ""
    assert why_give_up([0.0] * 6, OTHERS[-OTHERS_MIN:]) != ""


@given(st.lists(st.lists(st.floats(0, 1), min_size=LOOKS, max_size=LOOKS), min_size=5, max_size=12), st.integers(4, 11))
def test_the_best_is_never_given_up_and_at_most_half_are(trials: list[list[float]], looks: int) -> None:
    """Judged all at the same look."""
    given_up = [
        bool(why_give_up(own[:looks], [other for k, other in enumerate(trials) if k != number]))
        for number, own in enumerate(trials)
    ]
    best = max(range(len(trials)), key=lambda number: max(trials[number][:looks]))
    assert not given_up[best] and 2 * sum(given_up) <= len(trials) + 1
