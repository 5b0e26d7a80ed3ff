"""From an experiment to what trains it."""

from __future__ import annotations

from gossip.beginning import start_parameters
from gossip.models.freezing import frozen_parameters
from gossip.models.model import Model, build_model
from gossip.spec import Experiment


def model_of(experiment: Experiment, threads: int = 1) -> Model:
    """The experiment's network, with room for the largest step it can come to, by so many threads at most.

    Raises SpecError where the file it begins with is no longer what it was.
    """
    train, recipe = experiment.train, experiment.recipe
    return build_model(
        experiment.layers, recipe.mean, recipe.std,
        batch=train.batch_max, smoothing=train.label_smoothing, threads=threads,
        frozen=frozen_parameters(experiment.layers, experiment.model.freeze),
        start=start_parameters(experiment.model, experiment.layers),
    )  # fmt: skip
