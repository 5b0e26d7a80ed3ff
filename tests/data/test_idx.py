"""idx files: read as promised, refused when they lie about themselves."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest

from gossip.data.idx import parse_idx
from gossip.errors import DataError

VALUES = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
PLAIN = struct.pack(">IIII", 0x0803, 2, 3, 4) + VALUES.tobytes()


@pytest.mark.parametrize("data", [PLAIN, gzip.compress(PLAIN)], ids=["plain", "gzipped"])
def test_values_come_back_in_shape(data: bytes) -> None:
    """Zipped or not, the same array."""
    array = parse_idx(data, (2, 3, 4))
    assert np.array_equal(array, VALUES) and array.dtype == np.uint8 and array.flags.c_contiguous


@pytest.mark.parametrize("zip_it", [bytes, gzip.compress], ids=["plain", "gzipped"])
@pytest.mark.parametrize(
    ("data", "explained"),
    [
        (b"", "begins with"),
        (PLAIN[:7], "begins with"),
        (b"\x00\x00\x0d" + PLAIN[3:], "begins with"),  # floats
        (struct.pack(">IIII", 0x0803, 3, 3, 4) + VALUES.tobytes(), "begins with"),
        (PLAIN[:-1], "fewer values than the 24"),
        (PLAIN + b"!", "more values than the 24"),
    ],
)
def test_a_file_that_is_not_what_the_recipe_says_is_refused(zip_it, data: bytes, explained: str) -> None:
    """The recipe's shape decides, never the file's header."""
    with pytest.raises(DataError, match=explained):
        parse_idx(zip_it(data), (2, 3, 4))


@pytest.mark.parametrize(
    "damage", [lambda z: z[:-3], lambda z: z[:20], lambda z: z[:-8] + b"\0" * 8, lambda z: z[:12] + b"\xff" + z[13:]]
)
def test_a_damaged_gzip_file_is_named_as_such(damage) -> None:
    """Cut short, a wrong checksum, a flipped byte: the same one-line error."""
    with pytest.raises(DataError, match="damaged gzip file"):
        parse_idx(damage(gzip.compress(PLAIN)), (2, 3, 4))


def test_a_gzip_bomb_is_not_unpacked() -> None:
    """64 MiB of zeros behind an honest header: no more than the promised 24 bytes matter."""
    bomb = gzip.compress(PLAIN + bytes(1 << 26))
    tracemalloc.start()
    with pytest.raises(DataError, match="more values"):
        parse_idx(bomb, (2, 3, 4))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 21


def test_a_header_that_promises_terabytes_allocates_nothing() -> None:
    """Sizes are compared before they are believed."""
    liar = gzip.compress(struct.pack(">IIII", 0x0803, 2**31, 2**10, 2**10))
    with pytest.raises(DataError, match="begins with"):
        parse_idx(liar, (2, 3, 4))
