"""Drawn digits: the same every time, and drawn again when the cache is spoilt."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from gossip.data import store
from gossip.data.glyphs import draw_glyphs
from gossip.data.recipes import find_recipe

SMALL = msgspec.structs.replace(find_recipe("glyphs"), train_samples=60, test_samples=20)


def test_two_drawings_are_equal_and_another_seed_differs() -> None:
    """Every node draws its own copy; they must be the same pictures."""
    images, labels = draw_glyphs(SMALL)
    assert images.shape == (80, 28, 28, 1) and images.dtype == labels.dtype == np.uint8
    assert np.bincount(labels).tolist() == [8] * 10
    again, labels_again = draw_glyphs(SMALL)
    assert np.array_equal(images, again) and np.array_equal(labels, labels_again)
    other, _ = draw_glyphs(msgspec.structs.replace(SMALL, seed=2))
    assert not np.array_equal(images, other)


def test_every_digit_can_be_seen() -> None:
    """A digit shifted out of its picture or lost in noise would be a wrong label."""
    images, _ = draw_glyphs(SMALL)
    middle = images[:, 6:22, 6:22, 0].astype(int)
    contrast = np.percentile(middle, 95, axis=(1, 2)) - np.percentile(middle, 20, axis=(1, 2))
    assert contrast.min() > 60


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GOSSIP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_cache_is_used_and_a_damaged_one_drawn_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flipped bit, a cut file or an empty one costs a second, not a wrong training set."""
    first = store.load_dataset(SMALL)
    (file,) = cache.iterdir()
    sound = file.read_bytes()
    for damaged in (b"", sound[:-1], sound[:100] + bytes([sound[100] ^ 1]) + sound[101:]):
        file.write_bytes(damaged)
        assert np.array_equal(store.load_dataset(SMALL).train_images, first.train_images)
        assert file.read_bytes() == sound
    monkeypatch.setattr(store, "draw_glyphs", lambda recipe: pytest.fail("drawn although it was cached"))
    cached = store.load_dataset(SMALL)
    assert np.array_equal(cached.test_images, first.test_images)
    assert cached.train_images.flags.c_contiguous and not cached.train_images.flags.writeable


def test_another_recipe_has_another_cache_file(cache: Path) -> None:
    """Changing the seed must not bring back the old pictures."""
    store.load_dataset(SMALL)
    store.load_dataset(msgspec.structs.replace(SMALL, seed=2))
    assert len(list(cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_no_obstacle(cache: Path) -> None:
    """Read-only homes exist: here the cache folder's name is taken by a file."""
    cache.write_text("not a folder")
    assert len(store.load_dataset(SMALL).train_labels) == 60
