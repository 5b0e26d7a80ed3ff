"""Who is best: trials of the same values made one row, rows in order. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gossip.sweep.space import Point

ORDER = ("finished", "stopped", "running", "waiting", "diverged", "failed")
_WORST_FIRST = tuple(reversed(ORDER))


@dataclass(slots=True)
class Progress:
    """One trial, as far as it has come."""

    number: int
    point: Point
    seed: int
    state: str = "running"  # or how it ended
    why: str = ""
    accuracies: list[float] = field(default_factory=list)  # one per look
    loss: float | None = None
    samples: int = 0
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """What is kept of a trial that has ended."""
        return {
            "trial": self.number, "point": self.point, "seed": self.seed, "end": self.state, "why": self.why,
            "accuracy": self.accuracies[-1] if self.accuracies else None, "loss": self.loss,
            "samples": self.samples, "seconds": self.seconds, "looks": self.accuracies,
        }  # fmt: skip


def progress_of(record: Mapping[str, Any]) -> Progress:
    """A trial that has ended, from its record."""
    return Progress(
        record["trial"], record["point"], record["seed"], record["end"], record["why"], record["looks"], record["loss"],
        record["samples"], record["seconds"],
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """All seeds of the same values. accuracy: their mean; None where none has one, or one of them diverged."""

    number: int
    point: Point
    state: str  # of its worst seed
    accuracy: float | None
    spread: float  # standard deviation over seeds; 0 for one
    loss: float | None
    seeds: int  # with an accuracy
    samples: int
    seconds: float
    why: str

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


def standings(rows: Iterable[tuple[int, Point]], trials: Iterable[Progress]) -> list[Row]:
    """The best first: finished ones by accuracy, then those stopped early, under way, waiting, diverged, failed."""
    by_number: dict[int, list[Progress]] = {}
    for trial in trials:
        by_number.setdefault(trial.number, []).append(trial)
    found = [_row(number, point, by_number.get(number, [])) for number, point in rows]
    return sorted(found, key=lambda row: (ORDER.index(row.state), -(row.accuracy or 0.0), row.loss or 0.0, row.number))


def _row(number: int, point: Point, trials: list[Progress]) -> Row:
    judged = [trial for trial in trials if trial.accuracies and trial.state not in ("diverged", "failed")]
    state = min((trial.state for trial in trials), key=_WORST_FIRST.index, default="waiting")
    is_lost = state in ("diverged", "failed")
    accuracies = [trial.accuracies[-1] for trial in judged]
    losses = [trial.loss for trial in judged if trial.loss is not None]
    whys = [trial.why for trial in trials if trial.state == state and trial.why]
    return Row(
        number, point, state,
        accuracy=statistics.fmean(accuracies) if accuracies and not is_lost else None,
        spread=statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
        loss=statistics.fmean(losses) if losses and not is_lost else None,
        seeds=len(judged), samples=sum(trial.samples for trial in trials),
        seconds=round(sum(trial.seconds for trial in trials), 2), why=whys[0] if whys else "",
    )  # fmt: skip
