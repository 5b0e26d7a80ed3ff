"""From an experiment to what trains it."""

from __future__ import annotations

from gossip.models.model import Model, build_model
from gossip.spec import Experiment


def model_of(experiment: Experiment, threads: int = 1) -> Model:
    """The experiment's network, with room for the largest step it can come to, by so many threads at most."""
    train, recipe = experiment.train, experiment.recipe
    return build_model(
        experiment.layers, recipe.mean, recipe.std,
        batch=train.batch_max, smoothing=train.label_smoothing, threads=threads,
    )  # fmt: skip
