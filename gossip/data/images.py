"""One picture from the user's disk, made to look like the images a model was trained on."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from gossip.errors import DataError

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")  # pictures, not documents or fonts
MODES = {1: "L", 3: "RGB"}  # by channels


def read_image(path: str | Path, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The picture as uint8[height, width, channels], resized onto `shape` with its proportions kept.

    What the proportions leave free is filled with the colour of the picture's border. Transparent parts
    become white. The grey data sets here are light on dark, so for one channel a picture with a bright
    border (ink on paper) is inverted. Raises DataError for anything that is not a picture of sane size.
    """
    height, width, channels = shape
    if channels not in MODES:
        raise DataError(f"{path}: images of {channels} channels cannot be made from a picture; expected 1 or 3")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as file:
                picture = _on_white(ImageOps.exif_transpose(file)).convert(MODES[channels])
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: more than {Image.MAX_IMAGE_PIXELS} pixels; expected a smaller picture") from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected a picture") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # what Pillow raises for broken files
        raise DataError(f"{path}: not a readable picture; expected one of {', '.join(FORMATS)}") from error
    border = _border_colour(np.asarray(picture).reshape(picture.height, picture.width, channels))
    if channels == 1 and border[0] > 127:
        picture, border = ImageOps.invert(picture), (255 - border[0],)
    padded = ImageOps.pad(picture, (width, height), Image.Resampling.LANCZOS, color=border)
    return np.array(padded, dtype=np.uint8).reshape(shape)


def _on_white(image: Image.Image) -> Image.Image:
    """The image without transparency."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _border_colour(pixels: NDArray[np.uint8]) -> tuple[int, ...]:
    """The median of the outermost pixels, by channel. pixels: uint8[height, width, channels]."""
    edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    return tuple(int(value) for value in np.median(np.concatenate(edges), axis=0))
