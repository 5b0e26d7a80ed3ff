"""The learning rate climbs to its peak, falls along a cosine, and never leaves [0, peak]."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.training.schedule import learning_rate_at


def test_the_rate_climbs_peaks_and_ends_at_zero() -> None:
    """The four points a reader of a learning-rate plot looks for."""
    assert learning_rate_at(0.0, peak=0.1, warmup=0.2) == 0.0
    assert learning_rate_at(0.1, peak=0.1, warmup=0.2) == pytest.approx(0.05)
    assert learning_rate_at(0.2, peak=0.1, warmup=0.2) == pytest.approx(0.1)
    assert learning_rate_at(0.6, peak=0.1, warmup=0.2) == pytest.approx(0.05)
    assert learning_rate_at(1.0, peak=0.1, warmup=0.2) == pytest.approx(0.0, abs=1e-15)


def test_without_warmup_the_run_starts_at_the_peak() -> None:
    """warmup = 0 must not divide by zero."""
    assert learning_rate_at(0.0, peak=0.3, warmup=0.0) == 0.3


@given(st.floats(-1, 2), st.floats(1e-6, 100), st.floats(0, 0.99))
def test_the_rate_stays_between_zero_and_peak(progress: float, peak: float, warmup: float) -> None:
    """Progress is an estimate and may run past the end; the rate must not turn negative there."""
    rate = learning_rate_at(progress, peak, warmup)
    assert math.isfinite(rate) and 0.0 <= rate <= peak


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.99))
def test_the_rate_rises_before_the_peak_and_falls_after(one: float, other: float, warmup: float) -> None:
    """One hill: two nodes at different progress are ordered by which side of the peak they are on."""
    early, late = sorted((one, other))
    before, after = learning_rate_at(early, 1.0, warmup), learning_rate_at(late, 1.0, warmup)
    if late <= warmup:
        assert before <= after
    if early >= warmup:
        assert before >= after
