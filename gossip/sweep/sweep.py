"""A sweep under way: trials that wait go to processes that are free, and what ends is kept at once."""

from __future__ import annotations

import contextlib
import signal
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gossip.sweep.folder import SweepFolder
from gossip.sweep.plan import Trial
from gossip.sweep.pool import Pool
from gossip.sweep.standings import Progress, Row, progress_of, standings
from gossip.sweep.stopping import why_give_up

LOOK_EVERY_S = 0.25  # at whether somebody wants us to stop


@dataclass(slots=True)
class Sweep:
    """trials: all of them, in order; those with a record are not trained again. on_change: draws the table."""

    folder: SweepFolder
    rows: list[tuple[int, dict[str, Any]]]
    trials: list[Trial]
    pool: Pool
    stop_early: bool = False
    on_change: Callable[[Sweep, Progress | None], None] = lambda sweep, trial: None
    stopped_by: int = 0  # the signal
    _progress: dict[str, Progress] = field(default_factory=dict)  # by key, of what has begun
    _waiting: deque[Trial] = field(default_factory=deque)

    def __post_init__(self) -> None:
        for trial in self.trials:
            record = self.folder.records.get(trial.key)
            if record is None:
                self._waiting.append(trial)
            else:
                self._progress[trial.key] = progress_of(record)

    @property
    def ended(self) -> int:
        """How many trials are over."""
        return len(self.trials) - len(self._waiting) - len(self.pool.busy)

    @property
    def is_whole(self) -> bool:
        return all(trial.key in self.folder.records for trial in self.trials)

    def running(self) -> list[Progress]:
        """What is being trained."""
        return [self._progress[trial.key] for trial in self.pool.busy]

    def standings(self) -> list[Row]:
        return standings(self.rows, self._progress.values())

    def run(self) -> None:
        """To the end, or to SIGINT or SIGTERM: what has not ended then is begun anew another time."""
        with self._until_signal():
            try:
                while (self._waiting or self.pool.busy) and not self.stopped_by:
                    while self._waiting and self.pool.has_room:
                        self._begin(self._waiting.popleft())
                    for trial, message in self.pool.read(LOOK_EVERY_S):
                        self._on_message(trial, message)
            finally:
                for trial in self.pool.busy:  # nothing of them is kept
                    del self._progress[trial.key]
                    self._waiting.appendleft(trial)
                self.pool.close()

    def _begin(self, trial: Trial) -> None:
        self._progress[trial.key] = Progress(trial.number, trial.point, trial.seed)
        self.pool.start(trial)
        self.on_change(self, None)

    def _on_message(self, trial: Trial, message: dict[str, Any]) -> None:
        progress = self._progress[trial.key]
        if "end" in message:
            self._end(progress, message)
            return
        progress.accuracies.append(message["accuracy"])
        progress.loss, progress.samples = message["loss"], message["samples"]
        if self.stop_early and not progress.why:
            others = [other.accuracies for other in self._progress.values() if other.point != trial.point]
            progress.why = why_give_up(progress.accuracies, others)
            if progress.why:
                self.pool.give_up(trial)
        self.on_change(self, None)

    def _end(self, progress: Progress, message: dict[str, Any]) -> None:
        progress.state = message["end"]
        if progress.state == "diverged":
            first = f", {message['broke_at']} went first" if message["broke_at"] else ""
            progress.why = f"the loss was not finite after {message['samples']:,} samples{first}"
        elif progress.state != "stopped":
            progress.why = message.get("why", "")
        progress.samples = message.get("samples", progress.samples)
        progress.seconds = message.get("seconds", 0.0)
        if progress.state != "failed":  # that may go better another time
            self.folder.add(progress.record())
        self.on_change(self, progress)

    @contextlib.contextmanager
    def _until_signal(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        self.stopped_by = number
