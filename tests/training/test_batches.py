"""What a step sees: augmented in training and nowhere else, and the same again after a restart."""

from __future__ import annotations

import numpy as np
import pytest

from gossip.data.augmentation import Augmentation
from gossip.data.recipes import find_recipe
from gossip.data.store import Dataset, load_dataset
from gossip.models.layers import resolve_layers
from gossip.models.model import build_model
from gossip.sections import TrainSpec
from gossip.training.batches import Batches
from gossip.training.trainer import Trainer

RECIPE = find_recipe("glyphs")
LAYERS = resolve_layers(("dense 16", "relu", "dense classes"), RECIPE.shape, 10)


@pytest.fixture(scope="module")
def glyphs() -> Dataset:
    return load_dataset(RECIPE)


def a_trainer(dataset: Dataset, *augment: str) -> Trainer:
    model = build_model(LAYERS, RECIPE.mean, RECIPE.std)
    return Trainer(TrainSpec(augment=augment), 1, model, dataset, np.arange(300), order_seed=9)


def test_without_augmentation_the_picked_samples_are_what_comes(glyphs: Dataset) -> None:
    own, other = (Batches(glyphs, np.arange(50, 90), 64, 3, Augmentation()) for _ in range(2))
    for batch in (64, 7, 33):
        picked = other.sampler.next_batch(batch)
        images, labels = own.next(batch, 0)
        assert (images == glyphs.train_images[picked]).all() and (labels == glyphs.train_labels[picked]).all()


def test_what_is_missing_has_the_mean_colour(glyphs: Dataset) -> None:
    """So that the model, which subtracts it, sees about 0 there. Four images of nine have moved down."""
    images, _ = Batches(glyphs, np.arange(100), 64, 3, Augmentation(margin=4)).next(64, 0)
    mean = round(255 * RECIPE.mean[0])
    assert 0.25 < (images[:, 0] == mean).all((1, 2)).mean() < 0.65


def test_evaluation_sees_images_as_they_are(glyphs: Dataset) -> None:
    plain, augmented = a_trainer(glyphs), a_trainer(glyphs, "flip", "crop 4")
    assert plain.look().loss == augmented.look().loss
    assert [part.loss for part in plain.evaluate_in_slices()] == [p.loss for p in augmented.evaluate_in_slices()]
    assert plain.step() != augmented.step()


def test_a_resumed_trainer_draws_what_it_would_have_drawn(glyphs: Dataset) -> None:
    trainer = a_trainer(glyphs, "flip", "crop 3")
    for _ in range(7):
        trainer.step()
    kept = trainer.state()
    expected = [trainer.step() for _ in range(15)]
    again = a_trainer(glyphs, "flip", "crop 3")
    again.restore(kept)
    assert [again.step() for _ in range(15)] == expected
