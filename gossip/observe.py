"""Named events -> events.jsonl: the one truth about a run. Console and pictures read it.

A line is one JSON object with `t` (unix seconds), `node` (the node's name), `event`, and fields.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TextIO

Event = dict[str, Any]
Observer = Callable[[str, dict[str, Any]], None]


class Console(Protocol):
    """Whoever watches: a person at a terminal, or the launcher at the other end of a pipe."""

    def say(self, line: str) -> None: ...
    def on_event(self, event: Event) -> None: ...


# Of one name. A busy node mixes hundreds of times a second, and a stranger could make us note his every
# byte: unthinned, that is gigabytes a day. What is left out is counted, never silently dropped.
EVENTS_PER_S_MAX = 10


class EventLog:
    """Writes events as lines, each flushed at once, so that a killed node's story is complete.

    At most EVENTS_PER_S_MAX lines of one name a second; the next one says in `left_out` how many were not written.

    A full disk never stops training: the first failed write is said once on standard error, and
    from then on events are dropped and counted.
    """

    def __init__(self, stream: TextIO, node: str, wall_clock: Callable[[], float], console: Console) -> None:
        self._stream = stream
        self._node = node
        self._wall_clock = wall_clock
        self._console = console
        self.dropped = 0
        self._second = 0
        self._written: Counter[str] = Counter()  # in this second, by name
        self._left_out: Counter[str] = Counter()

    def __call__(self, name: str, fields: dict[str, Any]) -> None:
        event = {"t": round(self._wall_clock(), 4), "node": self._node, "event": name, **fields}
        if self._is_one_too_many(event):
            return
        try:
            self._stream.write(json.dumps(event, separators=(",", ":")) + "\n")
            self._stream.flush()
        except (OSError, ValueError) as error:
            if self.dropped == 0:
                self._console.say(f"cannot write events any more ({error}); training goes on without them")
            self.dropped += 1
        self._console.on_event(event)

    def _is_one_too_many(self, event: Event) -> bool:
        name, second = event["event"], int(event["t"])
        if second != self._second:
            self._second = second
            self._written.clear()
        self._written[name] += 1
        if self._written[name] > EVENTS_PER_S_MAX:
            self._left_out[name] += 1
            return True
        if left_out := self._left_out.pop(name, 0):
            event["left_out"] = left_out
        return False


def read_events(path: Path) -> Iterator[Event]:
    """Events of a run in the order they were written. A line cut short by a crash is skipped."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            event = parse_event(line)
            if event is not None:
                yield event


def parse_event(line: str) -> Event | None:
    """One event, or None where the line is not one."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event and "node" in event else None


def write_atomically(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file so that a crash leaves the old one or the new one: temp, fsync, rename, fsync folder.

    mode: who may read it, less the process's umask. Raises OSError, and leaves no temporary file behind.
    """
    write_parts_atomically(path, (data,), mode)


def write_parts_atomically(path: Path, parts: Iterable[bytes | memoryview], mode: int = 0o666) -> None:
    """The same for a file of several parts, none of which is copied."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open_new(temporary, mode) as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def open_new(path: Path, mode: int) -> BinaryIO:
    """A file nobody else has, not even for the moment between its creation and a chmod."""
    path.unlink(missing_ok=True)  # of a process with our number that was killed while it wrote
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb")
