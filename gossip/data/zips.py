"""Folders of pictures in zip files: .../CLASS/ANYTHING.jpg, one folder per class, as image data sets are passed around.

What a zip says about its own sizes is believed up to limits only, and a picture is decoded once its size is known.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gossip.errors import DataError

FORMATS = ("JPEG", "PNG")
MODES = {1: "L", 3: "RGB"}  # by channels
PICTURE_BYTES_MAX = 1 << 24


def read_zip(
    content: bytes, classes: tuple[str, ...], shape: tuple[int, int, int], most: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(images uint8[n, *shape], labels uint8[n]), class by class as in `classes`, then by name. n: at most `most`.

    Raises DataError for a picture of another size, a folder that is no class, or a damaged file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
            if len(names) > most:
                raise DataError(f"holds {len(names)} pictures, expected {most} at most")
            labelled = sorted((_label_of(name, classes), name) for name in names)
            images = np.empty((len(names), *shape), np.uint8)
            for image, (_, name) in zip(images, labelled, strict=True):
                with archive.open(name) as member:
                    image[:] = _decode(member.read(PICTURE_BYTES_MAX), name, shape)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"is a damaged zip file ({error})") from error
    return images, np.array([label for label, _ in labelled], np.uint8)


def _label_of(name: str, classes: tuple[str, ...]) -> int:
    folder = PurePosixPath(name).parent.name
    if folder not in classes:
        raise DataError(f"holds {name!r}, expected a folder for each of {', '.join(classes)}")
    return classes.index(folder)


def _decode(data: bytes, name: str, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    height, width, channels = shape
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.size != (width, height):
                raise DataError(f"{name}: {picture.height}x{picture.width} pixels, expected {height}x{width}")
            return np.asarray(picture.convert(MODES[channels])).reshape(shape)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: not a readable picture ({error})") from error
