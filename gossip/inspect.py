"""Looking at a finished run or a bare model file: accuracy and confusion table, and what its model sees in an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gossip.console import printable
from gossip.data.images import read_image
from gossip.data.recipes import Recipe, find_recipe
from gossip.data.store import load_dataset
from gossip.errors import SpecError
from gossip.models.portable import PortableModel, read
from gossip.runs import RunFolder
from gossip.spec import from_canonical


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A model to look at, from a run or from a bare file."""

    path: Path  # the run's folder, or the file
    found: PortableModel
    recipe: Recipe | None  # what it was trained on; None where a bare file does not tell
    data_dir: str = ""


def find_model(name: str) -> Trained:
    """By a run's folder, its name under runs/, or a portable model's file. Raises SpecError."""
    if Path(name).is_file():
        found = read(Path(name))
        try:
            return Trained(Path(name), found, from_canonical(found.spec).recipe)
        except SpecError:  # it does not say, or another version said it
            return Trained(Path(name), found, None)
    run = RunFolder.open(name)
    experiment = run.experiment()
    return Trained(run.path, read(run.model), experiment.recipe, experiment.node.data_dir)


def evaluate_run(name: str, data_dir: str, recipe_name: str = "") -> dict[str, Any]:
    """Evaluate a model on all held-out samples, and print the confusion table.

    name: as in `find_model`. recipe_name: another data set than it was trained on, a recipe's name or .toml.
    """
    trained = find_model(name)
    model, recipe = trained.found.build(), find_recipe(recipe_name) if recipe_name else trained.recipe
    if recipe is None:
        raise SpecError(f"{name}: does not say what it was trained on; choose a data set with --recipe")
    given, expected = (recipe.shape, len(recipe.classes)), (trained.found.shape, len(trained.found.classes))
    if given != expected:
        raise SpecError(
            f"{name}: the model is for {_images(*expected)}, recipe {recipe.name} has {_images(*given)}; "
            "choose another with --recipe"
        )
    dataset = load_dataset(recipe, data_dir or trained.data_dir)
    evaluation = model.evaluate(trained.found.x, dataset.test_images, dataset.test_labels)
    classes = recipe.classes
    confusion = np.zeros((len(classes), len(classes)), np.int64)  # [true, predicted]
    np.add.at(confusion, (dataset.test_labels, evaluation.predictions), 1)
    _print_confusion(confusion, classes)
    print(f"accuracy {evaluation.accuracy:.2%}, loss {evaluation.loss:.4f} on {len(dataset.test_labels):,} samples")
    return {
        "run": str(trained.path),
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "samples": len(dataset.test_labels),
        "classes": list(classes),
        "confusion": confusion.tolist(),
    }


def predict_image(name: str, image: Path) -> dict[str, Any]:
    """The classes a model sees in an image, likeliest first. name: as in `find_model`."""
    trained = find_model(name)
    found, model = trained.found, trained.found.build()
    pixels = read_image(image, found.shape)[np.newaxis]
    # The loss of a label is minus the log of its probability: one look per class tells them all.
    probabilities = {
        name: float(np.exp(-model.evaluate(found.x, pixels, np.array([label], np.uint8)).loss))
        for label, name in enumerate(found.classes)
    }
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])
    for label, probability in ranked[:3]:
        print(f"{probability:6.1%}  {printable(label)}")
    return {"run": str(trained.path), "image": str(image), "class": ranked[0][0], "probabilities": probabilities}


def _images(shape: tuple[int, int, int], classes: int) -> str:
    return f"images of {'x'.join(map(str, shape))} in {classes} classes"


def _print_confusion(confusion: np.ndarray, classes: tuple[str, ...]) -> None:
    """Rows: what it is. Columns: what the model says."""
    table = Table(title="rows: what it is, columns: what the model says", title_justify="left", pad_edge=False)
    table.add_column("", style="bold")
    for name in (*classes, "right"):
        table.add_column(Text(printable(name)), justify="right")
    for label, name in enumerate(classes):
        row, total = confusion[label], confusion[label].sum()
        cells = [
            Text(f"{count}" if count or label == said else "·", style="green" if label == said else "")
            for said, count in enumerate(row)
        ]
        table.add_row(Text(printable(name)), *cells, f"{row[label] / max(1, total):.1%}")
    Console(highlight=False).print(table)
