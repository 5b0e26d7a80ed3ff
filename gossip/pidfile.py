"""RUN/node.pid: which process runs the node of a run folder.

The file is locked by the process that wrote it, so that one left behind by a process that was killed is told from
one whose process lives, even where its number belongs to somebody else by now.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

NAME = "node.pid"


class PidFile:
    """This process's, while the context lasts. A disk that does not take it stops nobody."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._fd = -1

    def __enter__(self) -> PidFile:
        with contextlib.suppress(OSError):
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._fd, fcntl.LOCK_EX)  # at worst somebody is looking just now: see running_pid
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"{os.getpid()}\n".encode())
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)


def running_pid(folder: Path) -> int:
    """Of the process that runs this folder's node; 0 where none does."""
    try:
        with (folder / NAME).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return 0  # nobody holds it
            except BlockingIOError:
                return int(file.read(32) or 0)
    except (OSError, ValueError):
        return 0
