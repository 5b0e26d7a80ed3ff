"""A user's picture becomes an input of the recipe's shape, or one clear sentence."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gossip.data.images import read_image
from gossip.errors import DataError

GREY = (28, 28, 1)


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_ink_on_paper_becomes_light_on_dark(tmp_path: Path) -> None:
    """The grey data sets are light on dark; a photo of a page is the opposite."""
    page = np.full((56, 56), 230, np.uint8)
    page[20:36, 20:36] = 20
    image = read_image(save(tmp_path / "page.png", page), GREY)
    assert image.shape == GREY and image.dtype == np.uint8
    assert image[0, 0, 0] == 25 and image[14, 14, 0] == 235


def test_light_on_dark_stays_as_it_is(tmp_path: Path) -> None:
    """A picture of the data set itself goes through unchanged."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:20, 10:15] = 200
    assert np.array_equal(read_image(save(tmp_path / "digit.png", pixels), GREY)[:, :, 0], pixels)


def test_proportions_are_kept(tmp_path: Path) -> None:
    """A wide picture is padded with its border's colour, not stretched."""
    wide = np.full((20, 80), 40, np.uint8)
    wide[:, 38:42] = 255
    image = read_image(save(tmp_path / "wide.png", wide), GREY)
    assert (image[:9] == 40).all() and image[14, 14, 0] > 150


def test_colour_and_transparency_are_converted(tmp_path: Path) -> None:
    """Three channels out of one, and a transparent ground counts as white paper."""
    drawing = np.zeros((30, 30, 4), np.uint8)
    drawing[10:20, 10:20, 3] = 255  # opaque black on nothing
    path = save(tmp_path / "drawing.png", drawing)
    assert read_image(path, GREY)[0, 0, 0] == 0
    assert read_image(path, (32, 32, 3))[0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize("content", [b"", b"just text", b"\x89PNG\r\n\x1a\n cut short"])
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    """Whatever Pillow makes of it, the user reads one sentence."""
    path = tmp_path / "notes.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable picture"):
        read_image(path, GREY)


def test_a_missing_picture_is_said_to_be_missing(tmp_path: Path) -> None:
    """Not "not a readable picture": a typing error is the likelier reason."""
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "gone.png", GREY)


@pytest.mark.parametrize("side", [11_000, 30_000])
def test_an_image_bomb_is_not_unpacked(tmp_path: Path, side: int) -> None:
    """A hundred bytes that claim 120 or 900 million pixels: Pillow only warns about the smaller one."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(DataError, match="expected a smaller picture"):
        read_image(path, GREY)
