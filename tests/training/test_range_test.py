"""The learning-rate test suggests a rate that trains, knows when a loss flies apart, and says when it cannot tell."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gossip.data.store import load_dataset
from gossip.errors import SpecError
from gossip.spec import load
from gossip.training.alone import all_of_the_sample, lone_trainer
from gossip.training.range_test import Curve, growing_rates, range_test, smooth, suggest
from gossip.training.trainer import Trainer

RATES = np.array(growing_rates(1e-5, 10, 301))


def trainer(tmp_path: Path, rate: float) -> Trainer:
    path = tmp_path / "small.toml"
    path.write_text(f'[data]\nsample = "20%"\n[model]\npreset = "mlp"\n[train]\nlearning_rate = {rate}\n')
    experiment = load(path)
    dataset = load_dataset(experiment.recipe)
    return lone_trainer(experiment, dataset, all_of_the_sample(experiment, dataset))


def curve_of(losses: list[float], diverged_at: float | None) -> Curve:
    rates = RATES[: len(losses)]
    return Curve(rates, np.array(losses), smooth(rates, losses), diverged_at)


def test_the_suggested_rate_trains_and_ten_times_more_does_not_do_better(tmp_path: Path) -> None:
    """The whole point, with a real network."""
    told: list[int] = []
    curve = range_test(trainer(tmp_path, 0.1), RATES.tolist(), lambda done, loss: told.append(done))
    found = suggest(curve)
    assert found.rate is not None and curve.diverged_at is not None and 0.02 < found.rate < 0.4
    assert told == list(range(1, len(curve.rates) + 1)) and len(told) < len(RATES)

    def accuracy_with(rate: float) -> float:
        alone = trainer(tmp_path, rate)
        for step in range(400):
            alone.progress = step / 400
            alone.step()
        return alone.look().accuracy

    assert accuracy_with(found.rate) > max(0.9, accuracy_with(10 * found.rate), accuracy_with(found.rate / 100))


def test_the_test_leaves_the_schedule_out(tmp_path: Path) -> None:
    """The first step is taken at the first rate, not at the warm-up's zero: x moves."""
    alone = trainer(tmp_path, 0.1)
    before = alone.x.copy()
    range_test(alone, [1e-3], lambda done, loss: None)
    assert not np.array_equal(before, alone.x)


def test_a_tenth_of_where_it_diverges_or_where_it_falls_fastest() -> None:
    """Whichever is larger: the measured rule."""
    fall = [2.3 - 2 / (1 + math.exp(-6 * (math.log10(rate) + 2))) for rate in RATES[:250]]  # steepest at 0.01
    late = suggest(curve_of(fall, 0.5))
    assert late.rate == pytest.approx(0.05) and "a tenth of 0.5" in late.reason
    early = suggest(curve_of(fall, 0.05))
    assert early.rate == early.steepest == pytest.approx(0.01, rel=0.2) and "falls fastest" in early.reason
    never = suggest(curve_of(fall, None))
    assert never.rate == never.steepest and "higher last one" in never.reason


@pytest.mark.parametrize("losses", [[2.3] * 200, [2.3 + 0.01 * k for k in range(200)], [math.nan] * 3, [math.inf]])
def test_a_loss_that_never_fell_suggests_nothing(losses: list[float]) -> None:
    """A made-up rate would be believed."""
    found = suggest(curve_of(losses, None))
    assert found.rate is None and "never fell" in found.reason


class Playback:
    """A trainer that only knows its losses."""

    peak_at = 0.03

    def __init__(self, losses: list[float]) -> None:
        self.progress = self.learning_rate = 0.0
        self._losses = iter(losses)

    def step(self) -> float:
        assert self.progress == self.peak_at
        return next(self._losses)


@pytest.mark.parametrize(
    ("ending", "is_seen"),
    [([math.nan], True), ([math.inf], True), ([50.0] * 9, True), ([2.3] * 40, True), ([0.9] * 50, False)],
)
def test_what_counts_as_diverged(ending: list[float], is_seen: bool) -> None:
    """Not finite, four times the best, or back where it came from, as a net whose units have all died; noise is not."""
    losses = [2.3] * 30 + np.linspace(2.3, 0.8, 100).tolist() + ending
    curve = range_test(Playback(losses), RATES[: len(losses)].tolist(), lambda done, loss: None)  # type: ignore[arg-type]
    assert (curve.diverged_at is not None) == is_seen
    assert np.isfinite(curve.smoothed).all()


@pytest.mark.parametrize(("lowest", "highest"), [(0.0, 1.0), (1.0, 0.1), (1e-3, math.inf), (math.nan, 1.0)])
def test_impossible_rates_are_refused(lowest: float, highest: float) -> None:
    with pytest.raises(SpecError, match="expected the first above 0"):
        growing_rates(lowest, highest, 10)
