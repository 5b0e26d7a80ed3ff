"""`kernel`: Numba's njit with a disk cache that notices every change.

Numba checks a cached function against its own source file only, but machine code contains the functions it
calls: after an edit or an upgrade of layers.py, the cached step.py would go on with the old layers. Here
every kernel is stamped with all sources of this folder.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from numba import njit

SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()


def kernel(function):
    """Compile on first call, keep on disk, release the GIL; the machine code lives until a source changes."""
    compiled = njit(cache=True, nogil=True)(function)
    # Numba has no public way to add files to the check. tests/kernels/test_compiling.py watches these names.
    compiled._cache._cache_file._source_stamp = SOURCES
    return compiled
