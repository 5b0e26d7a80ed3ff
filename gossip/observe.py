"""Named events -> events.jsonl: the one truth about a run. Console and pictures read it.

A line is one JSON object with `t` (unix seconds), `node` (the node's name), `event`, and fields.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

Event = dict[str, Any]
Observer = Callable[[str, dict[str, Any]], None]


class Console(Protocol):
    """Whoever watches: a person at a terminal, or the launcher at the other end of a pipe."""

    def say(self, line: str) -> None: ...
    def on_event(self, event: Event) -> None: ...
    def on_warm_up(self, done: int, total: int, name: str) -> None: ...


# Of one name. A busy node mixes hundreds of times a second, and a stranger could make us note his every
# byte: unthinned, that is gigabytes a day. What is left out is counted, never silently dropped.
EVENTS_PER_S_MAX = 10


# Of one events.jsonl. Ten kinds of event at ten lines a second are some 100 MB a day; with OLDER_KEPT a disk holds
# the last days at 192 MB.
FILE_BYTES_MAX = 64 * 2**20
OLDER_KEPT = 2


class Lines(Protocol):
    """Where events go."""

    def write(self, line: str, /) -> object: ...
    def flush(self) -> None: ...


class EventFile:
    """events.jsonl, which never fills the disk: full, it becomes events.1.jsonl, that events.2.jsonl, and that is gone.

    Each new one begins with the latest `started` event of every node: who is who is told by any of them alone.
    """

    def __init__(self, path: Path, bytes_max: int = FILE_BYTES_MAX) -> None:
        """Goes on where the file ends, on a line of its own: a killed process may have left half a one. OSError."""
        self._path = path
        self._bytes_max = bytes_max
        self._started: dict[str, str] = {}  # line, by node
        self._file = path.open("ab", buffering=0)
        self._bytes = self._file.tell()
        if self._bytes:
            with path.open("rb") as before:
                before.seek(-1, os.SEEK_END)
                if before.read() != b"\n":
                    self._append("\n")

    def write(self, line: str) -> None:
        """One event with its line end. Raises OSError, and ValueError once it is closed."""
        if self._bytes + len(line) > self._bytes_max and self._bytes:
            self._begin_anew()
        self._append(line)
        if '"event":"started"' in line and (event := parse_event(line)):
            self._started[event["node"]] = line

    def flush(self) -> None:
        """Nothing waits: every line is written at once."""

    def close(self) -> None:
        self._file.close()

    def _append(self, line: str) -> None:
        data = line.encode()
        self._file.write(data)
        self._bytes += len(data)

    def _begin_anew(self) -> None:
        self._file.close()
        older, newer = older_files(self._path), [*older_files(self._path)[1:], self._path]
        for old, new in zip(older, newer, strict=True):  # the oldest is replaced first
            if new.exists():
                new.replace(old)
        self._file = self._path.open("ab", buffering=0)
        self._bytes = 0
        for line in self._started.values():
            self._append(line)


def older_files(path: Path) -> list[Path]:
    """Where an events.jsonl that was full has gone, the oldest first; they may not exist."""
    return [path.with_name(f"{path.stem}.{number}{path.suffix}") for number in range(OLDER_KEPT, 0, -1)]


class EventLog:
    """Writes events as lines, each flushed at once, so that a killed node's story is complete.

    At most EVENTS_PER_S_MAX lines of one name a second; the next one says in `left_out` how many were not written.

    A full disk never stops training: the first failed write is said once on standard error, and
    from then on events are dropped and counted.
    """

    def __init__(self, stream: Lines, node: str, wall_clock: Callable[[], float], console: Console) -> None:
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
            self._stream.write(strict_json(event) + "\n")
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


def read_events(path: Path, *, with_older: bool = True) -> Iterator[Event]:
    """Events of a run in the order they were written. A line cut short by a crash is skipped.

    with_older: also what is in events.2.jsonl and events.1.jsonl by now.
    """
    older = [file for file in older_files(path) if file.exists()] if with_older else []
    for file in (*older, path):
        with file.open(encoding="utf-8", errors="replace") as lines:
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


def strict_json(value: Any, indent: int | None = None) -> str:
    """JSON that everybody reads: what is not finite becomes null."""
    separators = (",", ":") if indent is None else None
    try:
        return json.dumps(value, indent=indent, separators=separators, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, separators=separators, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value


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
