"""Softmax cross-entropy of one sample among sixteen, against float64."""

from __future__ import annotations

import math

import numpy as np
import numpy_twin
import pytest

from gossip.kernels.lanes import LANES
from gossip.kernels.loss import likeliest, sample_loss


def loss_of(logits: np.ndarray, label: int, smoothing: float = 0.0, share: float = 1.0) -> tuple[float, np.ndarray]:
    """(loss, slopes) of a sample in lane 5 whose neighbours are poison."""
    lanes, slopes = np.full((len(logits), LANES), np.nan, np.float32), np.full((len(logits), LANES), 7, np.float32)
    lanes[:, 5] = logits
    loss = sample_loss(lanes.reshape(-1), len(logits), 5, label, smoothing, share, slopes.reshape(-1))
    assert (np.delete(slopes, 5, axis=1) == 7).all(), "another sample's slopes"
    return loss, slopes[:, 5]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("classes", [1, 2, 10, 256])
def test_loss_and_slopes_are_the_formula(classes: int, smoothing: float) -> None:
    """For any number of classes; slopes come multiplied by their share of the batch."""
    rng = np.random.default_rng(classes)
    for scale in (0.01, 1, 30):
        logits = (scale * rng.standard_normal(classes)).astype(np.float32)
        label = int(rng.integers(classes))
        expected, slopes = numpy_twin.cross_entropy(logits[None].astype(np.float64), np.array([label]), smoothing)
        loss, found = loss_of(logits, label, smoothing, 0.25)
        assert loss == pytest.approx(expected, rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(found, 0.25 * slopes[0], rtol=1e-4, atol=1e-7)


def test_large_logits_overflow_nothing() -> None:
    """exp(1000) is infinite; the sure and wrong answer costs their distance."""
    loss, slopes = loss_of(np.array([1000, -1000, 0], np.float32), 1)
    assert loss == pytest.approx(2000) and slopes.tolist() == [1, -1, 0]


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_logit_that_is_not_finite_shows(poison: float, place: int) -> None:
    """The trainer looks at the loss only. -inf elsewhere than at the label is a plain, hopeless class."""
    logits = np.array([1, 2, 3], np.float32)
    logits[place] = poison
    loss, _ = loss_of(logits, 1)
    assert not math.isfinite(loss) or (poison == -math.inf and place != 1)


def test_a_label_that_is_no_class_is_nan() -> None:
    assert math.isnan(loss_of(np.zeros(3, np.float32), 3)[0])


def test_of_equals_the_first_is_the_likeliest() -> None:
    """So that every machine predicts the same."""
    logits = np.zeros((4, LANES), np.float32)
    logits[:, 2] = [1, 5, 5, 2]
    assert (likeliest(logits.reshape(-1), 4, 2), likeliest(logits.reshape(-1), 4, 3)) == (1, 0)
