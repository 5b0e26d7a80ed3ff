"""`kernel` and `shared`: Numba's compilers with a disk cache that notices every change.

Numba checks a cached function against its own source file only, but machine code contains the functions it
calls: after an edit or an upgrade of conv.py, the cached step.py would go on with the old layers. Here
every function is stamped with all sources of this folder.

A kernel's machine code contains that of all kernels it calls, once more at every level: what is large and called
from many places is `shared` instead, compiled once and linked by its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from numba import njit, types
from numba.core.ccallback import CFunc

SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()


def kernel(function):
    """Compile on first call, keep on disk, release the GIL; the machine code lives until a source changes."""
    compiled = njit(cache=True, nogil=True)(function)
    _stamp(compiled)
    return compiled


def shared(*arguments):
    """To be called by kernels, not by Python: arguments of these types, numbers and pointers; returns nothing.

    Compiled by `link`, which has to come before the first kernel runs.
    """

    def declare(function):
        compiled = CFunc(function, (tuple(arguments), types.void), locals={}, options={})
        compiled.enable_caching()
        _stamp(compiled)
        name = f"gossip_{function.__name__}_{SOURCES[:16]}"
        _declared[name] = compiled
        return types.ExternalFunction(name, types.void(*arguments))

    return declare


_declared: dict[str, Any] = {}  # symbol -> CFunc: machine code lives as long as that does
_linked: set[str] = set()


def link() -> None:
    """Make what is shared known to the linker: compiled, or loaded from the disk cache; once per process."""
    for step in steps_to_link().values():
        step()


def steps_to_link() -> dict[str, Callable[[], None]]:
    """What `link` still has to do, by name, in this order."""
    return {
        compiled._pyfunc.__name__: partial(_link, symbol, compiled)
        for symbol, compiled in _declared.items()
        if symbol not in _linked
    }


def _link(symbol, compiled) -> None:
    compiled.compile()
    llvm.add_symbol(symbol, compiled.address)
    _linked.add(symbol)


def _stamp(compiled) -> None:
    # Numba has no public way to add files to the check. tests/kernels/test_compiling.py watches these names.
    compiled._cache._cache_file._source_stamp = SOURCES
