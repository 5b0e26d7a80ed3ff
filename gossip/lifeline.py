"""A user's command that ends with whoever wants it: in order, at once, or killed.

Between the two stands a guardian, this very file as a process: `python lifeline.py WORD ...`. Its standard input is the
lifeline, a pipe nothing is ever written to. The pipe ends when its other end is closed, and the kernel closes that for
a process however it ended; then the guardian kills its process group: itself, the command, and what that has started.
So nobody has to know the command's process id, or catch the moment between starting it and noting it.
Who leaves the group (setsid) leaves our care.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import BinaryIO

NOT_FOUND = 127  # exit status, as a shell's
KILLED = 128  # + the signal, as a shell's


class Lifeline:
    """Our end of it. While it is open, and we live, the command may run."""

    def __init__(self) -> None:
        reader, writer = os.pipe()  # no child inherits either, but the one it is given to
        self._reader: BinaryIO = os.fdopen(reader, "rb")
        self._writer: BinaryIO = os.fdopen(writer, "wb")

    def start(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        """Run a command: its standard error comes to us, its output goes nowhere. Closed already: it ends at once.

        The process is the guardian. Its exit status is the command's, 127 where that cannot be run, 128 + N where
        signal N ended it. It ends when the command has ended and nobody holds the command's standard error.
        """
        return subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *words],  # 10 ms: no site packages, nothing of ours
            stdin=self._reader,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=0,
        )

    def close(self) -> None:
        """The command ends, and what it has started. Any thread may call this, at any time, and again."""
        self._writer.close()

    def __enter__(self) -> Lifeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._reader.close()


# -- The guardian ------------------------------------------------------------------------------------


def _end_group(*_: object) -> None:
    os.killpg(0, signal.SIGKILL)


def _end_with_lifeline() -> None:
    while os.read(0, 1):
        pass
    _end_group()


def _guard(words: list[str]) -> int:
    """Run the command to its end, unless the lifeline's is first."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end_group)  # the command must not outlive its guardian either
    threading.Thread(target=_end_with_lifeline, daemon=True).start()  # before the command: no moment is unguarded
    try:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    except OSError as error:
        print(f"cannot be run ({error.strerror})", file=sys.stderr)
        return NOT_FOUND
    _, errors = process.communicate()
    with contextlib.suppress(OSError):
        os.write(2, errors[-4096:])
    return process.returncode if process.returncode >= 0 else KILLED - process.returncode


if __name__ == "__main__":
    sys.exit(_guard(sys.argv[1:]))
