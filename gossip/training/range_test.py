"""Which learning rate: one short training in which the rate grows with every step until the loss diverges.

The range test of Smith, "Cyclical Learning Rates for Training Neural Networks" (WACV 2017, arXiv 1506.01186).
Where the loss falls fastest the rate does most; where it flies apart the rate is far too high.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gossip.errors import SpecError
from gossip.training.trainer import Trainer

WATCHED = 0.9  # of the running mean that watches for divergence: ten steps of memory
BLOWN_UP = 4.0  # times the best loss
GIVEN_BACK = 0.75  # of what the loss had gained: a net whose units have died stays at a loss that never blows up
GAIN_MIN = 0.05  # of the first loss: less is noise, not learning
SMOOTH_DECADES = 0.1  # standard deviation of the smoothing


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """What the test saw. rates, losses: float64[steps], the loss before the step at that rate; smoothed: as drawn."""

    rates: NDArray[np.float64]
    losses: NDArray[np.float64]
    smoothed: NDArray[np.float64]
    diverged_at: float | None  # the rate; None where the last one was still bearable


@dataclass(frozen=True, slots=True)
class Suggestion:
    """rate: None where the loss never fell. steepest: where it fell fastest."""

    rate: float | None
    steepest: float | None
    reason: str


def growing_rates(lowest: float, highest: float, steps: int) -> list[float]:
    """`steps` rates, each as many times the one before. Raises SpecError."""
    if not 0 < lowest < highest or not math.isfinite(highest):
        raise SpecError(f"rates from {lowest:g} to {highest:g}: expected the first above 0 and below the last")
    return [lowest * (highest / lowest) ** (step / (steps - 1)) for step in range(steps)]


def range_test(trainer: Trainer, rates: Sequence[float], on_step: Callable[[int, float], None]) -> Curve:
    """One step at each rate, in order, until the loss diverges. on_step: hears how many are done, and the loss."""
    losses: list[float] = []
    watch = _Watch()
    has_diverged = False
    for loss in _losses(trainer, rates):
        losses.append(loss)
        on_step(len(losses), loss)
        if has_diverged := watch.sees_the_end(loss):
            break
    done = np.array(rates[: len(losses)])
    return Curve(done, np.array(losses), smooth(done, losses), float(done[-1]) if has_diverged else None)


def _losses(trainer: Trainer, rates: Sequence[float]) -> Iterator[float]:
    trainer.progress = trainer.peak_at
    for rate in rates:
        trainer.learning_rate = rate
        yield trainer.step()


class _Watch:
    """A running mean of the loss, and the best it was."""

    def __init__(self) -> None:
        self._sum = self._weight = 0.0
        self._first = math.nan
        self._best = math.inf

    def sees_the_end(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return True
        self._sum = WATCHED * self._sum + (1 - WATCHED) * loss
        self._weight = WATCHED * self._weight + (1 - WATCHED)
        mean = self._sum / self._weight
        if math.isnan(self._first):
            self._first = mean
        self._best = min(self._best, mean)
        gain = self._first - self._best
        has_learnt = gain > 2 * GAIN_MIN * self._first
        return mean > BLOWN_UP * self._best or (has_learnt and mean > self._best + GIVEN_BACK * gain)


def smooth(rates: NDArray[np.float64], losses: Sequence[float]) -> NDArray[np.float64]:
    """float64[steps]: each loss with its neighbours of both sides, so that the curve does not lag behind the rate.

    What flew apart counts as twice the first loss, or its neighbours would be drowned.
    """
    ceiling = 2 * losses[0] if math.isfinite(losses[0]) else 1.0
    bounded = np.nan_to_num(np.array(losses), nan=ceiling, posinf=ceiling).clip(max=ceiling)
    at = np.log10(rates)
    weights = np.exp(-0.5 * ((at[:, None] - at[None, :]) / SMOOTH_DECADES) ** 2)
    return (weights @ bounded) / weights.sum(axis=1)


def suggest(curve: Curve) -> Suggestion:
    """The rate to train with, and why."""
    lowest = int(curve.smoothed.argmin())
    gain = float(curve.smoothed[0] - curve.smoothed[lowest])
    if lowest < 2 or gain < GAIN_MIN * curve.smoothed[0]:
        return Suggestion(None, None, "the loss never fell: try more steps, a lower first rate, or another model")
    slopes = np.gradient(curve.smoothed, np.log10(curve.rates))[: lowest + 1]
    steepest = float(curve.rates[int(slopes.argmin())])
    fell = "where the loss falls fastest"
    if curve.diverged_at is None:
        highest = f"no rate up to {curve.rates[-1]:.3g} was too high, so try a higher last one"
        return Suggestion(steepest, steepest, f"{fell}; {highest}")
    # The larger of the two: of nine trainings (MNIST and glyphs, mlp and lenet, momentum .9 and 0; AdamW) it came
    # within a factor of 2.4 of the best of seven rates every time; where the loss falls fastest alone was up to 8
    # times too low.
    tenth = curve.diverged_at / 10
    if tenth > steepest:
        return Suggestion(tenth, steepest, f"a tenth of {curve.diverged_at:.3g}, where the loss diverges")
    return Suggestion(steepest, steepest, f"{fell}; it diverges at {curve.diverged_at:.3g}")
