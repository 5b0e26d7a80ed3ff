"""One trial: one node trains alone, and is judged on validation samples split off the training data.

The test set is not looked at: whatever is chosen by it, it can no longer judge.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gossip.data.sample import Sample
from gossip.data.store import Dataset
from gossip.spec import Experiment
from gossip.sweep.stopping import LOOKS
from gossip.training.alone import lone_trainer
from gossip.training.trainer import Trainer

VALIDATION_SHARE, VALIDATION_MAX = 0.1, 10_000  # of the training data; a tenth of a point is 10 samples then


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """The training data in two. dataset: its held-out half is the validation part; rest: int64, what may be learnt."""

    dataset: Dataset
    rest: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Look:
    """How a trial is doing: accuracy on validation samples, all of them in the last look, else a part."""

    accuracy: float
    loss: float
    samples: int  # trained on so far
    is_last: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: "finished", "stopped" or "diverged". broke_at: the layer that went first, where it is known."""

    end: str
    samples: int
    seconds: float
    broke_at: str


def validation_size(experiment: Experiment) -> int:
    """How many training samples are set aside."""
    recipe = experiment.recipe
    size = min(VALIDATION_MAX, round(VALIDATION_SHARE * recipe.train_samples))
    return max(size, len(recipe.classes))


def split(experiment: Experiment, dataset: Dataset) -> Split:
    """Stratified, by the experiment's seed: the same for all trials of a sweep, whatever they sample or draw."""
    labels = dataset.train_labels
    part = Sample(count=validation_size(experiment))
    held_out = part.take(labels, len(experiment.recipe.classes), experiment.seed)
    rest = np.setdiff1d(np.arange(len(labels), dtype=np.int64), held_out, assume_unique=True)
    images = np.ascontiguousarray(dataset.train_images[held_out])
    return Split(Dataset(dataset.train_images, labels, images, labels[held_out]), rest)


def samples_to_learn(experiment: Experiment) -> int:
    """How many different samples a trial trains on: data.sample of what validation leaves. Raises SpecError."""
    available = experiment.recipe.train_samples - validation_size(experiment)
    return experiment.sample.size(available, len(experiment.recipe.classes))


def budget(experiment: Experiment, as_written: Experiment) -> int:
    """How many samples a trial trains on in all: as many epochs as the experiment file asks for.

    experiment: the trial's. as_written: the file's own, whose data.sample its train.samples was chosen for.
    """
    recipe = as_written.recipe
    written_for = as_written.sample.size(recipe.train_samples, len(recipe.classes))
    return max(1, round(experiment.train.samples * samples_to_learn(experiment) / written_for))


def indices_to_learn(experiment: Experiment, found: Split, seed: int) -> NDArray[np.int64]:
    """Which training samples a trial trains on, int64[m]. seed: of the sampling, the same for all trials."""
    labels = found.dataset.train_labels[found.rest]
    return found.rest[experiment.sample.take(labels, len(experiment.recipe.classes), seed)]


def trainer_of(experiment: Experiment, found: Split, seed: int) -> Trainer:
    """seed: as for `indices_to_learn`."""
    return lone_trainer(experiment, found.dataset, indices_to_learn(experiment, found, seed))


def run_trial(
    trainer: Trainer, samples: int, on_look: Callable[[Look], Any], is_given_up: Callable[[], bool]
) -> Outcome:
    """Train on so many samples, the learning rate decayed over them. is_given_up: asked between two steps."""
    began = time.monotonic()
    looks = 0

    def outcome(end: str) -> Outcome:
        return Outcome(end, trainer.samples, round(time.monotonic() - began, 3), trainer.broke_at)

    while trainer.samples < samples:
        if is_given_up():
            return outcome("stopped")
        trainer.progress = trainer.samples / samples
        if not math.isfinite(trainer.step()):
            return outcome("diverged")
        if trainer.samples * LOOKS >= (looks + 1) * samples:
            looks = min(LOOKS, trainer.samples * LOOKS // samples)
            look = _look(trainer, looks == LOOKS)
            if not math.isfinite(look.loss):
                return outcome("diverged")
            on_look(look)
    return outcome("finished")


def _look(trainer: Trainer, is_last: bool) -> Look:
    parts = list(trainer.evaluate_in_slices()) if is_last else [trainer.look()]
    sizes = [len(part.predictions) for part in parts]
    accuracy = float(np.average([part.accuracy for part in parts], weights=sizes))
    return Look(accuracy, float(np.average([part.loss for part in parts], weights=sizes)), trainer.samples, is_last)
