"""`glyphs`: digits drawn from Pillow's built-in font, for a first run that downloads nothing.

Every image is one digit, stretched, slanted, turned and bent, with scraps of other digits, strokes and
dots at its border and noise over all: easy for a small convnet, out of reach for a linear model
(datasets/README.md has the measured accuracies). The images are a function of the recipe, of GENERATOR
and of Pillow's font rasteriser; the labels are the same on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from gossip.data.recipes import Recipe

GENERATOR = 1  # raise it with any change here: it is part of the cache's key
SIDE = 28
MASTER_SIDE = 64  # masters are drawn at about twice the size, then sampled smoothly
STROKE_WIDTHS = (0, 1, 2, 3)  # masters per digit, at master scale
WAVES = 1.5  # of a bend, across a master
CHUNK = 500  # images drawn at a time: keeps the temporaries within the CPU's caches


def draw_glyphs(recipe: Recipe) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The recipe's images uint8[n, 28, 28, 1] and labels uint8[n], n = train_samples + test_samples.

    Classes are equally frequent. Image i depends on those before it, so keep the order: train, then test.
    """
    # RandomState, because its stream is frozen (NEP 19): other numpy versions draw the same digits.
    rng = np.random.RandomState([recipe.seed, 0x676C7970])
    samples = recipe.train_samples + recipe.test_samples
    labels = (np.arange(samples) % 10).astype(np.uint8)
    rng.shuffle(labels)
    masters = _masters()
    images = np.empty((samples, SIDE, SIDE, 1), dtype=np.uint8)
    for start in range(0, samples, CHUNK):
        images[start : start + CHUNK, :, :, 0] = _draw(masters, labels[start : start + CHUNK], rng)
    return images, labels


def _draw(masters: NDArray[np.float32], labels: NDArray[np.uint8], rng: np.random.RandomState) -> NDArray[np.uint8]:
    """One image per label, uint8[n, 28, 28]."""
    n = len(labels)
    widths = len(STROKE_WIDTHS)
    image = _place(
        masters,
        labels * widths + rng.randint(widths, size=n),
        _matrices(rng, n, size=(0.9, 1.25), turn=0.25, slant=0.25),
        rng.uniform(-2.5, 2.5, (n, 2)),
        rng.uniform((-1.5, -1.5, -np.pi, -np.pi), (1.5, 1.5, np.pi, np.pi), (n, 4)),
    )
    image *= rng.uniform(0.5, 1.0, (n, 1, 1)).astype(np.float32)
    for _ in range(2):
        # A scrap's centre lies on a circle just outside: only its edge reaches into the picture.
        angle, radius = rng.uniform(0, 2 * np.pi, n), rng.uniform(16, 20, n)
        scrap = _place(
            masters,
            rng.randint(len(masters), size=n),
            _matrices(rng, n, size=(0.6, 1.1), turn=np.pi, slant=0.3),
            radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1),
            np.zeros((n, 4)),
        )
        scrap *= rng.uniform(0.0, 0.9, (n, 1, 1)).astype(np.float32)
        np.maximum(image, scrap, out=image)
    noise = rng.standard_normal(image.shape).astype(np.float32)
    noise *= rng.uniform(0.0, 0.12, (n, 1, 1)).astype(np.float32)
    image += noise
    image += rng.uniform(0.0, 0.08, (n, 1, 1)).astype(np.float32)
    return (np.clip(image, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)


def _masters() -> NDArray[np.float32]:
    """Every digit in every stroke width, then a stroke and a dot, float32[42, 64, 64], 0..1, white on black."""
    font = ImageFont.load_default(46)
    centre = MASTER_SIDE / 2
    masters = []
    for digit in "0123456789":
        for width in STROKE_WIDTHS:
            image = Image.new("L", (MASTER_SIDE, MASTER_SIDE))
            ImageDraw.Draw(image).text((centre, centre), digit, fill=255, font=font, anchor="mm", stroke_width=width)
            masters.append(image)
    for width, height in ((5, 44), (10, 10)):
        image = Image.new("L", (MASTER_SIDE, MASTER_SIDE))
        box = (centre - width / 2, centre - height / 2, centre + width / 2, centre + height / 2)
        ImageDraw.Draw(image).ellipse(box, fill=255)
        masters.append(image)
    # The blur removes what a picture of half the size could not show, so that sampling does not alias.
    smooth = [np.asarray(image.filter(ImageFilter.GaussianBlur(0.8))) for image in masters]
    return (np.stack(smooth) / 255).astype(np.float32)


def _matrices(
    rng: np.random.RandomState, n: int, size: tuple[float, float], turn: float, slant: float
) -> NDArray[np.float64]:
    """Random picture-to-master maps, float64[n, 2, 2]: each axis scaled on its own, slanted, then turned."""
    angle, lean = rng.uniform(-turn, turn, n), rng.uniform(-slant, slant, n)
    cos, sin = np.cos(angle), np.sin(angle)
    turned = np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=-2)
    slanted = np.zeros((n, 2, 2))
    slanted[:, 0, 0] = slanted[:, 1, 1] = 1
    slanted[:, 1, 0] = lean
    scale = 2 / rng.uniform(*size, (n, 2, 1))  # master pixels per picture pixel
    return (scale * slanted) @ turned


def _place(
    masters: NDArray[np.float32],
    chosen: NDArray[np.int64],
    matrices: NDArray[np.float64],
    shifts: NDArray[np.float64],
    bends: NDArray[np.float64],
) -> NDArray[np.float32]:
    """Pictures float32[n, 28, 28] of the chosen masters, bilinearly sampled; outside a master is black.

    chosen: int[n]. matrices: [n, 2, 2], picture to master, about the centres, (row, column). shifts: [n, 2],
    picture pixels. bends: [n, 4], master pixels and radians: rows and columns sway in a sine wave.
    """
    axis = np.arange(SIDE) - (SIDE - 1) / 2
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij")).reshape(2, -1)
    where = (matrices @ (grid - shifts[:, :, None])).astype(np.float32)
    rows, columns = where[:, 0], where[:, 1]
    wave = np.float32(WAVES * 2 * np.pi / MASTER_SIDE)
    by_row, by_column, row_phase, column_phase = bends.astype(np.float32).T[:, :, None]
    rows, columns = (
        rows + by_row * np.sin(wave * columns + row_phase),
        columns + by_column * np.sin(wave * rows + column_phase),
    )
    last = np.float32(MASTER_SIDE - 1.001)
    rows = np.clip(rows + (MASTER_SIDE - 1) / 2, 0, last)
    columns = np.clip(columns + (MASTER_SIDE - 1) / 2, 0, last)
    top, left = rows.astype(np.int32), columns.astype(np.int32)
    down, right = rows - top, columns - left
    corner = np.asarray(chosen, dtype=np.int32)[:, None] * MASTER_SIDE**2 + top * MASTER_SIDE + left
    flat = masters.ravel()
    upper = flat[corner] * (1 - right) + flat[corner + 1] * right
    lower = flat[corner + MASTER_SIDE] * (1 - right) + flat[corner + MASTER_SIDE + 1] * right
    return (upper * (1 - down) + lower * down).reshape(-1, SIDE, SIDE)
