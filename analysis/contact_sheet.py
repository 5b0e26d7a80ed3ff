"""A contact sheet of a data set: one row per class, to look at by eye before trusting any number.

python analysis/contact_sheet.py OUT.png [--recipe glyphs] [--columns 24] [--data-dir FOLDER]
"""

from pathlib import Path

import click
import numpy as np
from PIL import Image

from gossip.data.recipes import find_recipe
from gossip.data.store import load_dataset


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--recipe", default="glyphs", show_default=True, help="A recipe's name or the path of its .toml.")
@click.option("--columns", default=24, show_default=True, help="Images per class.")
@click.option("--data-dir", default="", help="A folder that holds the data files.")
def main(out: Path, recipe: str, columns: int, data_dir: str) -> None:
    """Write the first training images of every class, at twice their size, to OUT."""
    found = find_recipe(recipe)
    dataset = load_dataset(found, data_dir)
    height, width, channels = found.shape
    sheet = np.zeros((len(found.classes) * height, columns * width, channels), np.uint8)
    for label in range(len(found.classes)):
        first = np.flatnonzero(dataset.train_labels == label)[:columns]
        for column, image in enumerate(dataset.train_images[first]):
            sheet[label * height : (label + 1) * height, column * width : (column + 1) * width] = image
    picture = Image.fromarray(sheet.squeeze())
    picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.NEAREST).save(out)


if __name__ == "__main__":
    main()
