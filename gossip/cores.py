"""How many threads a node's trainer may use: its share of this machine's cores.

Every node holds a lock on a file of its own in one folder per user; who counts the locked ones knows how many nodes
share the cores just now, and one that was killed holds none. Where no such folder can be had a node takes itself for
the only one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from pathlib import Path
from typing import Literal

LOOK_EVERY_S = 5.0


class Cores:
    """This process's place among the nodes of the machine, while the context lasts."""

    def __init__(self, wanted: int | Literal["auto"], folder: Path | None = None) -> None:
        """wanted: that many threads, or "auto" for an equal share. folder: all nodes that share cores name the same."""
        self._wanted = wanted
        self._folder = folder or _folder()
        self._path = self._folder / str(os.getpid())
        self._fd = -1
        self._threads = 1
        self._look_at = 0.0

    def __enter__(self) -> Cores:
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)

    def most(self) -> int:
        """What `threads` may come to."""
        return available() if self._wanted == "auto" else self._wanted

    def threads(self) -> int:
        """At least 1; looked up every few seconds."""
        if self._wanted != "auto":
            return self._wanted
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_EVERY_S
            self._threads = max(1, available() // max(1, self._nodes()))
        return self._threads

    def _nodes(self) -> int:
        with contextlib.suppress(OSError):
            return sum(map(_is_held, self._folder.iterdir()))
        return 1


def available() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_held(path: Path) -> bool:
    """Whether its process lives. What a killed one left behind is removed."""
    if path.name == str(os.getpid()):
        return True
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def _folder() -> Path:
    """Of this user, on this machine."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime) / "gossip-nodes"
    return Path(tempfile.gettempdir()) / f"gossip-nodes-{os.getuid()}"
