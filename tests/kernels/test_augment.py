"""Augmentation against a NumPy twin, its distribution, and that a draw depends on key, step and place alone."""

from __future__ import annotations

import numpy as np
import pytest

from gossip.kernels.augment import augment, draw_of

BORDER = np.array([7, 120, 250], np.uint8)
KEY = np.uint64(0xC0FFEE)


def some_images(count: int, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    images = np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)
    images.flags.writeable = False
    return images


def play(images: np.ndarray, picked: np.ndarray, is_flipped: bool, margin: int, step: int = 3) -> np.ndarray:
    into = np.zeros((len(picked) + 1, *images.shape[1:]), np.uint8)
    border = BORDER[: images.shape[3]]
    augment(images, picked, is_flipped, margin, border, KEY, np.uint64(step), into)
    assert not into[-1].any(), "behind the batch"
    return into[:-1]


def twin(images: np.ndarray, picked: np.ndarray, is_flipped: bool, margin: int, step: int = 3) -> np.ndarray:
    """Pad, cut, mirror."""
    height, width, channels = images.shape[1:]
    found = []
    for place, index in enumerate(picked):
        draw = int(draw_of(KEY, np.uint64(step), place))
        down, right = (draw >> 32) % (2 * margin + 1), (draw & 0xFFFFFFFF) % (2 * margin + 1)
        padded = np.broadcast_to(BORDER[:channels], (height + 2 * margin, width + 2 * margin, channels)).copy()
        padded[margin : margin + height, margin : margin + width] = images[index]
        cut = padded[down : down + height, right : right + width]
        found.append(cut[:, ::-1] if is_flipped and draw >> 63 else cut)
    return np.array(found)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 4, 1), (28, 28, 1), (6, 9, 3), (32, 32, 3)])
@pytest.mark.parametrize("margin", [0, 1, 4])
@pytest.mark.parametrize("is_flipped", [False, True])
def test_it_pads_cuts_and_mirrors(shape: tuple[int, int, int], margin: int, is_flipped: bool) -> None:
    margin = min(margin, min(shape[:2]) // 2)
    images, picked = some_images(11, shape), np.random.default_rng(1).integers(0, 11, 60)
    assert (play(images, picked, is_flipped, margin) == twin(images, picked, is_flipped, margin)).all()


def test_all_shifts_are_as_likely_and_so_are_both_sides() -> None:
    """81 places and 2 sides, 16,200 samples: chi-squared of 161 degrees stays within 5 deviations of its mean."""
    margin, count, shape = 4, 16_200, (9, 9, 1)
    counts = np.zeros((2 * margin + 1, 2 * margin + 1, 2))
    for place in range(count):
        draw = int(draw_of(KEY, np.uint64(place // 32), place % 32))
        counts[(draw >> 32) % 9, (draw & 0xFFFFFFFF) % 9, draw >> 63] += 1
    expected = count / counts.size
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_squared - 161) < 5 * np.sqrt(2 * 161)
    image = np.zeros((1, *shape), np.uint8)
    image[0, 4, 4] = 255  # a dot in the middle goes everywhere
    seen = [play(image, np.zeros(32, np.int64), True, margin, step)[..., 0] == 255 for step in range(60)]
    assert np.concatenate(seen).any(0).all()


def test_the_same_key_and_step_draw_the_same_and_others_do_not() -> None:
    """And a larger batch begins like a smaller one."""
    images, picked = some_images(5, (8, 8, 3)), np.arange(40) % 5
    first = play(images, picked, True, 3)
    assert (play(images, picked, True, 3) == first).all()
    assert (play(images, picked[:16], True, 3) == first[:16]).all()
    assert not (play(images, picked, True, 3, step=4) == first).all()
