"""How a node is asked to end: a signal, or whoever started it going away."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from gossip.errors import NetworkError

SHOW_CURSOR = b"\x1b[?25h"  # the live table hid it


def on_standard_input(stop: StopButton) -> None:
    """Whoever started us holds the other end: with it gone, so are we."""
    if not os.read(sys.stdin.fileno(), 4096):
        stop.press("the launcher is gone")


class StopButton:
    """SIGINT and SIGTERM. Until armed they end the process at once, wherever it is: there is nothing to save."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.pressed_at: float | None = None  # seconds, monotonic
        self._wake: Callable[[], None] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopButton:
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def arm(self, wake: Callable[[], None]) -> None:
        """From now on the first signal asks for an orderly end, and a second one ends the process at once."""
        self._wake = wake
        self._before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}

    def press(self, reason: str) -> None:
        """Ask for an orderly end. Raises NetworkError while there is nothing to end in order."""
        self.pressed_at = self.pressed_at or time.monotonic()
        self.reason = self.reason or reason
        if self._wake is None:
            raise NetworkError(f"{reason}: this node had not begun")
        self._wake()

    def _on_signal(self, number: int, frame: object) -> None:
        if self.reason is not None:
            os.write(2, SHOW_CURSOR + b"\nstopped at once\n" if os.isatty(2) else b"stopped at once\n")
            os._exit(128 + number)
        self.press(f"stopped by {signal.Signals(number).name}")
