"""Workers that do no work: protocol scenarios need durations and bodies of the right size, no arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gossip.protocol import events as ev
from gossip.sim.world import World

Deliver = Callable[[ev.Input], None]


@dataclass(frozen=True, slots=True)
class Pace:
    """How long work takes on one node, in seconds of virtual time."""

    step_s: float = 0.01
    exchange_s: float = 0.0005  # one chain of an exchange: measured order of magnitude for 100k parameters


@dataclass(slots=True)
class Disk:
    """What survives a crash of one simulated node."""

    steps: int = 0
    samples: int = 0
    notes: dict[str, Any] = field(default_factory=dict)


class IdleWorkers:
    """No arrays at all: every effect is answered with bodies of the right order of size. For protocol scenarios."""

    OFFER, ANSWER, FRAGMENT = b"o" * 4_000, b"a" * 2_000, b"f" * 8_000

    def __init__(
        self, world: World, every_steps: int, batch: int, pace: Pace, deliver: Deliver, disk: Disk | None = None
    ) -> None:
        """disk: where checkpoints go, and where a former life's is found."""
        self._disk = disk or Disk()
        self._world = world
        self._every_steps = every_steps
        self._batch = batch
        self._pace = pace
        self._deliver = deliver
        self._life = 0
        self._steps = self._disk.steps

    def submit(self, effect: ev.Effect) -> None:
        match effect:
            case ev.StartTraining():
                self._life += 1
                self._schedule_period(self._life)
            case ev.StopTraining():
                self._life += 1
            case ev.PickBlocks(exchange_id):
                self._answer(ev.OfferReady(exchange_id, self.OFFER))
            case ev.Respond(peer, header):
                self._answer(ev.AnswerReady(peer, header.number, self.ANSWER, 1, 0))
            case ev.Apply(_, header):
                self._answer(ev.Mixed(header.number, 1, 0))
            case ev.ReadFragment(peer, index):
                self._answer(ev.FragmentReady(peer, index, self.FRAGMENT))
            case ev.LoadFragment(_, header):
                self._answer(ev.FragmentLoaded(header.number))
            case ev.SaveCheckpoint(notes):
                self._disk.steps, self._disk.samples = self._steps, self._steps * self._batch
                self._disk.notes = notes
                self._answer(ev.CheckpointSaved(self._steps, 1, 0.0, self._pace.exchange_s))
            case ev.Evaluate():
                self._answer(ev.Evaluated(0.5, 1.0, 1))

    def _answer(self, event: ev.Input) -> None:
        self._world.after(self._pace.exchange_s, lambda: self._deliver(event))

    def _schedule_period(self, life: int) -> None:
        self._world.after(self._every_steps * self._pace.step_s, lambda: self._end_period(life))

    def _end_period(self, life: int) -> None:
        if life != self._life:
            return
        self._steps += self._every_steps
        self._deliver(ev.StepsDone(self._steps, self._steps * self._batch, 1.0, self._pace.step_s, self._pace.step_s))
        self._schedule_period(life)
