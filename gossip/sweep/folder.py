"""A sweep's folder: the experiment as it was, the rows of the table, and one line per trial that has ended.

sweep.json, spec.toml, trials.jsonl. A trial counts once its line is whole, so whatever ends the sweep, everything that
had ended is kept. One process at a time sweeps in a folder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gossip.errors import SpecError
from gossip.observe import strict_json, write_atomically
from gossip.runs import RunLock
from gossip.sweep.plan import Base, base_from_json, key_of
from gossip.sweep.space import Point

Record = dict[str, Any]
"""One ended trial: trial, point, seed, end, accuracy, loss, samples, seconds, why, looks."""


@dataclass(slots=True)
class SweepFolder:
    """An opened folder. Made by `open_folder`, for sweeping, or `read_folder`."""

    path: Path
    base: Base
    rows: list[tuple[int, Point]]  # numbers never change; a wider sweep adds to them
    records: dict[str, Record]  # by the trial's key
    _lock: RunLock | None = None

    def keep(self, points: Iterable[Point]) -> list[tuple[int, Point]]:
        """The rows of these points, new ones entered. Raises SpecError."""
        points = list(points)
        known = [point for _, point in self.rows]
        for point in points:
            if point not in known:
                self.rows.append((len(self.rows) + 1, point))
        found = {"identity": self.base.identity(), "base": self.base.to_json(), "rows": self.rows}
        try:
            write_atomically(self.path / "sweep.json", strict_json(found).encode())
            write_atomically(self.path / "spec.toml", self.base.text.encode())
        except OSError as error:
            raise SpecError(f"{self.path}: cannot be written ({error.strerror}); choose another --folder") from error
        return [(number, point) for number, point in self.rows if point in points]

    def add(self, record: Record) -> None:
        """A trial has ended. Raises SpecError where the disk did not take it."""
        try:
            with (self.path / "trials.jsonl").open("ab") as file:
                file.write(strict_json(record).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise SpecError(f"{self.path}/trials.jsonl: cannot be written ({error.strerror}); make room") from error
        self.records[key_of(record["point"], record["seed"])] = record

    def close(self) -> None:
        if self._lock is not None:
            self._lock.release()


def open_folder(path: Path, base: Base) -> SweepFolder:
    """A folder to sweep in, new or to go on in. Raises SpecError: it holds something else, or somebody is in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = RunLock.take(path)
    except BlockingIOError as error:
        raise SpecError(f"{path}: another process sweeps in this folder; wait for it, or choose --folder") from error
    except OSError as error:
        raise SpecError(f"{path}: cannot be written ({error.strerror}); choose another --folder") from error
    try:
        if not (path / "sweep.json").exists():
            return SweepFolder(path, base, [], {}, lock)
        found = read_folder(path)
        if found.base.identity() != base.identity():
            raise SpecError(
                f"{path}: holds a sweep of another experiment, --sample or --samples; choose another --folder, "
                "or remove it"
            )
        _end_torn_line(path / "trials.jsonl")
        return SweepFolder(path, base, found.rows, found.records, lock)
    except SpecError:
        lock.release()
        raise


def read_folder(path: Path) -> SweepFolder:
    """A folder to look at. Raises SpecError."""
    try:
        found = json.loads((path / "sweep.json").read_text(encoding="utf-8"))
        rows = [(number, point) for number, point in found["rows"]]
        base = base_from_json(found["base"])
    except FileNotFoundError as error:
        raise SpecError(f"{path}: no sweep there; expected a folder that gossip sweep made") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{path}/sweep.json: cannot be read ({error})") from error
    return SweepFolder(path, base, rows, _read_records(path / "trials.jsonl"))


def _read_records(path: Path) -> dict[str, Record]:
    """By key; a torn line, of a process that was killed while it wrote, is of a trial that did not end."""
    records = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
            records[key_of(record["point"], record["seed"])] = record
        except (ValueError, KeyError, TypeError):
            continue
    return records


def _end_torn_line(path: Path) -> None:
    """So that the next line begins as one. Raises SpecError."""
    try:
        if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
            with path.open("ab") as file:
                file.write(b"\n")
    except OSError as error:
        raise SpecError(f"{path}: cannot be written ({error.strerror}); make room") from error
