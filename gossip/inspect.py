"""Looking at a finished run: accuracy and confusion table, and what its model sees in an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gossip.console import printable
from gossip.data.images import read_image
from gossip.data.store import load_dataset
from gossip.models.model import build_model
from gossip.runs import RunFolder


def evaluate_run(name: str, data_dir: str) -> dict[str, Any]:
    """Evaluate a run's saved model on all held-out samples, and print the confusion table."""
    run = RunFolder.open(name)
    experiment = run.experiment()
    model = build_model(experiment.layers, experiment.recipe.mean, experiment.recipe.std)
    x = run.load_model(model)
    dataset = load_dataset(experiment.recipe, data_dir or experiment.node.data_dir)
    evaluation = model.evaluate(x, dataset.test_images, dataset.test_labels)
    classes = experiment.recipe.classes
    confusion = np.zeros((len(classes), len(classes)), np.int64)  # [true, predicted]
    np.add.at(confusion, (dataset.test_labels, evaluation.predictions), 1)
    _print_confusion(confusion, classes)
    print(f"accuracy {evaluation.accuracy:.2%}, loss {evaluation.loss:.4f} on {len(dataset.test_labels):,} samples")
    return {
        "run": str(run.path),
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "samples": len(dataset.test_labels),
        "classes": list(classes),
        "confusion": confusion.tolist(),
    }


def predict_image(name: str, image: Path) -> dict[str, Any]:
    """The classes a run's model sees in an image, likeliest first."""
    run = RunFolder.open(name)
    experiment = run.experiment()
    model = build_model(experiment.layers, experiment.recipe.mean, experiment.recipe.std)
    x = run.load_model(model)
    pixels = read_image(image, experiment.recipe.shape)[np.newaxis]
    # The loss of a label is minus the log of its probability: one look per class tells them all.
    probabilities = {
        name: float(np.exp(-model.evaluate(x, pixels, np.array([label], np.uint8)).loss))
        for label, name in enumerate(experiment.recipe.classes)
    }
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])
    for label, probability in ranked[:3]:
        print(f"{probability:6.1%}  {printable(label)}")
    return {"run": str(run.path), "image": str(image), "class": ranked[0][0], "probabilities": probabilities}


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
