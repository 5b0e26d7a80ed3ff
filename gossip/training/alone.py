"""One node without a network: what a learning-rate test and the trials of a sweep train with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gossip.data.store import Dataset
from gossip.spec import Experiment
from gossip.training.building import model_of
from gossip.training.trainer import Trainer


def lone_trainer(experiment: Experiment, dataset: Dataset, indices: NDArray[np.int64]) -> Trainer:
    """A trainer on these training samples (int64[m]), whichever shards they are in. The seed decides everything."""
    model = model_of(experiment)
    return Trainer(experiment.train, experiment.seed, model, dataset, indices, order_seed=experiment.seed)


def all_of_the_sample(experiment: Experiment, dataset: Dataset) -> NDArray[np.int64]:
    """What all shards hold together: the indices of data.sample, int64[m], sorted."""
    return experiment.sample.take(dataset.train_labels, len(experiment.recipe.classes), experiment.seed)
