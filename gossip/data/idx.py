"""The idx format of the MNIST family: a magic number, the sizes, then one byte per value.

Big-endian: 0, 0, 8 (unsigned bytes), the number of dimensions, and each dimension as uint32. What the file
says about its own size is compared with what the recipe says before anything of that size is allocated.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from gossip.errors import DataError

UNSIGNED_BYTES = 0x08
GZIP_MAGIC = b"\x1f\x8b"


def parse_idx(data: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The values of an idx file, gzipped or not, as read-only uint8[shape], C-contiguous.

    Never holds more than the shape needs plus one byte. Raises DataError for any other content.
    """
    expected = struct.pack(f">I{len(shape)}I", UNSIGNED_BYTES << 8 | len(shape), *shape)
    size = math.prod(shape)
    is_zipped = data.startswith(GZIP_MAGIC)
    file = gzip.GzipFile(fileobj=io.BytesIO(data)) if is_zipped else io.BytesIO(data)
    try:
        header = file.read(len(expected))
        if header != expected:
            raise DataError(f"begins with {header.hex(' ', 4)}, not with {expected.hex(' ', 4)} as the recipe says")
        # One byte more than promised: evidence of excess, and what makes gzip check the sum at the end.
        body = file.read(size + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"is a damaged gzip file ({error})") from error
    if len(body) != size:
        kind = "more" if len(body) > size else "fewer"
        raise DataError(f"has {kind} values than the {size} its header promises")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)
