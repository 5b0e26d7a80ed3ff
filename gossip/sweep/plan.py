"""A sweep before it runs: every trial's experiment, checked, and what makes two sweeps the same."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gossip.errors import SpecError
from gossip.spec import Experiment, parse
from gossip.sweep.space import Point
from gossip.sweep.trial import budget, samples_to_learn


@dataclass(frozen=True, slots=True)
class Base:
    """What all trials of a sweep share: the experiment file as it was written, and what the command line changed."""

    text: str
    path: Path  # names the file in errors; its folder is where a relative recipe lies
    changes: Mapping[str, Any] = field(default_factory=dict)
    samples: int = 0  # of every trial; 0: as many epochs as the file asks for
    first: Mapping[str, Any] = field(default_factory=dict)  # a point: without it the file may not be whole

    def experiment(self, point: Mapping[str, Any], seed: int | None = None) -> Experiment:
        """The file with these values. Raises SpecError."""
        seeded = {} if seed is None else {"seed": seed}
        return parse(self.text, self.path, {**self.changes, **point, **seeded})

    def shared(self) -> Experiment:
        """An experiment whose name, seed, data and classes are those of every trial."""
        return self.experiment(self.first)

    def budget_of(self, experiment: Experiment) -> int:
        """How many samples a trial trains on."""
        return self.samples or budget(experiment, self._as_written())

    def _as_written(self) -> Experiment:
        """With the file's own data.sample, which its train.samples was chosen for."""
        return parse(self.text, self.path, {k: v for k, v in self.first.items() if k != "data.sample"})

    def identity(self) -> str:
        """What a folder's finished trials are comparable by, whatever its points and comments: 16 hex digits."""
        shared = self.shared()
        files = [msgspec.to_builtins(shared.recipe), "model.init" not in self.first and shared.model.init_sha256]
        same = [tomllib.loads(self.text), dict(self.changes), self.samples, files]
        return hashlib.sha256(json.dumps(same, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        return {
            "text": self.text, "path": str(self.path.absolute()), "changes": dict(self.changes),
            "samples": self.samples, "first": dict(self.first),
        }  # fmt: skip


def base_from_json(found: Mapping[str, Any]) -> Base:
    return Base(found["text"], Path(found["path"]), found["changes"], found["samples"], found["first"])


@dataclass(frozen=True, slots=True)
class Trial:
    """One training. number: its row's, from 1; several seeds share a row."""

    number: int
    point: Point
    seed: int

    @property
    def key(self) -> str:
        """The same in every run of the command."""
        return key_of(self.point, self.seed)


def key_of(point: Mapping[str, Any], seed: int) -> str:
    return json.dumps([point, seed], sort_keys=True)


def check_points(base: Base, points: list[Point]) -> None:
    """Every point as the experiment it would be, before any training. Raises SpecError, the file's own words."""
    for point in points:
        experiment = base.experiment(point)
        try:
            samples_to_learn(experiment)
        except SpecError as error:
            raise SpecError(
                f"{base.path}: data.sample = {experiment.data.sample!r}, less validation: {error}"
            ) from error


def trials_of(rows: list[tuple[int, Point]], first_seed: int, seeds: int) -> list[Trial]:
    """All trials in order: every row with the first seed, then every row with the next, so that a table fills early."""
    return [Trial(number, point, (first_seed + k) % 2**32) for k in range(seeds) for number, point in rows]
