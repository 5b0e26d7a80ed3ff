"""Zipped folders of pictures: what is read, in which order, and what is refused before it is believed."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gossip.data.recipes import Recipe, RecipeFile, find_recipe
from gossip.data.store import load_dataset
from gossip.data.zips import read_zip
from gossip.errors import DataError

SHAPE, CLASSES = (4, 6, 3), ("cat", "dog")
FOLDER = Path(os.environ.get("GOSSIP_DATA", "")) / "cifar10-jpg"


def picture(colour: int, size: tuple[int, int] = (6, 4), kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((size[1], size[0], 3), colour, np.uint8)).save(stream, kind)
    return stream.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def test_a_picture_s_folder_is_its_class() -> None:
    """Class by class, then by name: the order must not depend on who zipped it."""
    content = zipped({
        "x/dog/1.png": picture(40), "x/dog/": b"", "x/cat/9.jpg": picture(20, kind="JPEG"), "dog/0.png": picture(30),
        "x/cat/10.png": picture(10),
    })  # fmt: skip
    images, labels = read_zip(content, CLASSES, SHAPE, 4)
    assert labels.tolist() == [0, 0, 1, 1]
    assert images.shape == (4, *SHAPE)
    assert images[:, 2, 3, 1].tolist() == [10, 20, 30, 40]
    grey, _ = read_zip(content, CLASSES, (4, 6, 1), 4)
    assert grey.shape == (4, 4, 6, 1) and (grey[..., 0] == images[..., 0]).all()


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ({"cow/1.png": picture(1)}, r"holds 'cow/1\.png', expected a folder for each of cat, dog"),
        ({"cat/1.png": picture(1, (6, 5))}, r"cat/1\.png: 5x6 pixels, expected 4x6"),
        ({"cat/1.png": picture(1)[:45]}, r"cat/1\.png: not a readable picture"),
        ({"cat/1.gif": picture(1, kind="GIF")}, r"cat/1\.gif: not a readable picture"),
        ({f"cat/{n}.png": picture(n) for n in range(5)}, r"holds 5 pictures, expected 4 at most"),
    ],
)
def test_what_is_not_what_the_recipe_says(members: dict[str, bytes], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        read_zip(zipped(members), CLASSES, SHAPE, 4)


def test_a_damaged_zip_file() -> None:
    content = zipped({"cat/1.png": picture(1)})
    for bad in (content[:-10], b"", content.replace(picture(1), bytes(len(picture(1))))):
        with pytest.raises(DataError, match="is a damaged zip file"):
            read_zip(bad, CLASSES, SHAPE, 4)


def a_recipe(folder: Path, train_samples: int) -> Recipe:
    files = []
    for split, name, colours in (("train", "cat", range(40)), ("train", "dog", range(100, 140)), ("test", "dog", [99])):
        content = zipped({f"{split}/{name}/{colour:03}.png": picture(colour) for colour in colours})
        path = folder / split / f"{name}.zip"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        files.append(
            RecipeFile(role=f"{split}_images", name=f"{split}/{name}.zip", bytes=len(content), sha256=sha256)  # type: ignore[arg-type]
        )
    return Recipe(
        name="pets", format="zips", shape=SHAPE, classes=CLASSES, mean=(0.5,) * 3, std=(1.0,) * 3,
        train_samples=train_samples, test_samples=1, seed=7, files=tuple(files),
    )  # fmt: skip


def test_a_data_set_of_zips_is_mixed_the_same_way_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted by class, the first samples of anything would be of one class. Decoded once, then cached."""
    monkeypatch.setenv("GOSSIP_CACHE", str(tmp_path / "cache"))
    recipe = a_recipe(tmp_path / "files", 80)
    dataset = load_dataset(recipe, str(tmp_path / "files"))
    assert sorted(dataset.train_images[:, 0, 0, 0].tolist()) == [*range(40), *range(100, 140)]
    assert ((dataset.train_images[:, 0, 0, 0] >= 100) == dataset.train_labels).all()
    assert 0.2 < dataset.train_labels[:20].mean() < 0.8
    assert (dataset.test_labels.tolist(), dataset.mean) == ([1], (0.5, 0.5, 0.5))
    again = load_dataset(recipe, str(tmp_path / "elsewhere"))
    assert (again.train_images == dataset.train_images).all() and (again.train_labels == dataset.train_labels).all()


def test_too_few_pictures_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOSSIP_CACHE", str(tmp_path / "cache"))
    recipe = a_recipe(tmp_path / "files", 90)
    with pytest.raises(DataError, match="pets: 10 of 90 train images are missing in its zip files"):
        load_dataset(recipe, str(tmp_path / "files"))


@pytest.mark.slow
@pytest.mark.skipif(not FOLDER.is_dir(), reason="set GOSSIP_DATA to a folder that holds cifar10-jpg/")
def test_cifar_has_as_many_of_each_and_the_mean_its_recipe_says() -> None:
    """50,000 and 10,000 in ten classes; read through the user's cache, since decoding takes its time."""
    recipe = find_recipe("cifar10-jpg")
    dataset = load_dataset(recipe)
    assert np.bincount(dataset.train_labels).tolist() == [5_000] * 10
    assert np.bincount(dataset.test_labels).tolist() == [1_000] * 10
    pixels = dataset.train_images.reshape(-1, 3)
    assert pixels.mean(0) / 255 == pytest.approx(recipe.mean, abs=1e-4)
    assert pixels.std(0) / 255 == pytest.approx(recipe.std, abs=1e-4)
