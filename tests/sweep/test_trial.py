"""One trial: judged by training samples nobody trains on, as long as the file asks for, and a row however it ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gossip.data.recipes import find_recipe
from gossip.data.store import Dataset, load_dataset
from gossip.errors import SpecError
from gossip.spec import Experiment, load
from gossip.sweep.stopping import LOOKS
from gossip.sweep.trial import (
    Look,
    budget,
    indices_to_learn,
    run_trial,
    samples_to_learn,
    split,
    trainer_of,
    validation_size,
)

GLYPHS = 12_000


def experiment(tmp_path: Path, **changes: object) -> Experiment:
    path = tmp_path / "small.toml"
    path.write_text('[data]\nrecipe = "glyphs"\n[model]\npreset = "mlp"\n[train]\nsamples = 120_000\n')
    return load(path, {key.replace("__", "."): value for key, value in changes.items()})


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """The glyphs."""
    return load_dataset(find_recipe("glyphs"))


def test_validation_is_a_tenth_of_every_class_and_nobody_learns_it(tmp_path: Path, dataset: Dataset) -> None:
    """Whatever a trial samples or draws."""
    base = experiment(tmp_path)
    found = split(base, dataset)
    assert len(found.dataset.test_labels) == validation_size(base) == GLYPHS // 10
    held_out = np.setdiff1d(np.arange(GLYPHS), found.rest)
    assert np.array_equal(found.dataset.test_images, dataset.train_images[held_out])
    whole, part = np.bincount(dataset.train_labels), np.bincount(found.dataset.test_labels)
    assert np.abs(part - whole / 10).max() <= 1
    for changes in ({}, {"data__sample": "10%"}, {"seed": 5, "data__sample": 600}):
        trial = experiment(tmp_path, **changes)
        learnt = indices_to_learn(trial, found, base.seed)
        assert len(learnt) == samples_to_learn(trial) and set(learnt) <= set(found.rest)


def test_trials_with_other_seeds_train_on_the_same_samples(tmp_path: Path, dataset: Dataset) -> None:
    """Seeds show what the start and the order do, not what the samples do."""
    found = split(experiment(tmp_path), dataset)
    learnt = [indices_to_learn(experiment(tmp_path, data__sample=500, seed=seed), found, 1) for seed in (1, 2)]
    assert np.array_equal(*learnt)


def test_a_trial_runs_as_many_epochs_as_the_file_asks_for(tmp_path: Path) -> None:
    """A tenth of the data takes a tenth of the time; a sample that is written in the file was meant for its length."""
    whole = experiment(tmp_path)
    assert budget(whole, whole) == 120_000 * 9 // 10
    assert budget(experiment(tmp_path, data__sample="10%"), whole) == 10_800
    small = experiment(tmp_path, data__sample="10%")
    assert budget(small, small) == 108_000


def test_a_trial_is_looked_at_twelve_times_and_the_last_look_is_whole(tmp_path: Path, dataset: Dataset) -> None:
    base = experiment(tmp_path, train__batch=50)
    found = split(base, dataset)

    def play() -> tuple[list[Look], str, int]:
        looks: list[Look] = []
        outcome = run_trial(trainer_of(base, found, 1), 12_010, looks.append, lambda: False)
        return looks, outcome.end, outcome.samples

    looks, end, samples = play()
    assert (end, samples, len(looks)) == ("finished", 12_050, LOOKS)
    assert [look.is_last for look in looks] == [False] * (LOOKS - 1) + [True]
    assert looks[-1].accuracy > 0.7 and round(looks[-1].accuracy * 1200, 6).is_integer()
    assert play() == (looks, end, samples)


def test_a_budget_of_one_step_is_looked_at_once(tmp_path: Path, dataset: Dataset) -> None:
    base = experiment(tmp_path)
    looks: list[Look] = []
    assert run_trial(trainer_of(base, split(base, dataset), 1), 1, looks.append, lambda: False).end == "finished"
    assert [look.is_last for look in looks] == [True]


def test_a_trial_that_diverges_is_a_row(tmp_path: Path, dataset: Dataset) -> None:
    """It is an answer like any other: this rate is too high."""
    base = experiment(tmp_path, train__learning_rate=100, model__preset="lenet", train__warmup=0)
    outcome = run_trial(trainer_of(base, split(base, dataset), 1), 120_000, lambda look: None, lambda: False)
    assert outcome.end == "diverged" and 0 < outcome.samples < 120_000


def test_a_trial_is_given_up_between_two_steps(tmp_path: Path, dataset: Dataset) -> None:
    base, answers = experiment(tmp_path), iter([False, False, True])
    outcome = run_trial(trainer_of(base, split(base, dataset), 1), 120_000, lambda look: None, lambda: next(answers))
    assert (outcome.end, outcome.samples) == ("stopped", 64)


def test_a_sample_larger_than_what_validation_leaves_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="at most 10,800"):
        samples_to_learn(experiment(tmp_path, data__sample=11_000))
