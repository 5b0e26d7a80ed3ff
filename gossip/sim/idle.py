"""Workers that do no work: protocol scenarios need durations and bodies of the right size, no arrays."""

from __future__ import annotations

import math
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
    # Of an exchange of the whole model: 0 for bodies of one size. 52,060 and 21,144 were measured for mnist-mlp.
    offer_bytes: int = 0
    answer_bytes: int = 0
    upload_bytes_per_s: float = math.inf  # its owner's cap


@dataclass(slots=True)
class Disk:
    """What survives a crash of one simulated node."""

    steps: int = 0
    samples: int = 0
    notes: dict[str, Any] = field(default_factory=dict)


class IdleWorkers:
    """No arrays at all: every effect is answered with bodies of the right order of size. For protocol scenarios.

    As live, the trainer answers between two steps: what is asked during a step waits for its end.
    """

    OFFER, ANSWER, FRAGMENT = b"o" * 4_000, b"a" * 2_000, b"f" * 8_000

    def __init__(
        self, world: World, every_steps: int, batch: int, pace: Pace, deliver: Deliver, disk: Disk | None = None
    ) -> None:
        """disk: where checkpoints go, and where a former life's is found."""
        self._disk = disk or Disk()
        self._world = world
        self._every_steps = every_steps
        self._batch_first = self._batch = batch
        self._pace = pace
        self._deliver = deliver
        self._life = 0
        self._steps, self._samples = self._disk.steps, self._disk.samples
        self._exchange_s = 0.0
        self._is_stepping = False
        self._period_began_at = 0.0
        self._ready_at = 0.0

    def submit(self, effect: ev.Effect) -> None:
        match effect:
            case ev.StartTraining():
                self._life += 1
                self._is_stepping = True
                self._schedule_period(self._life)
            case ev.StopTraining():
                self._life += 1
                self._is_stepping = False
            case ev.SetPeriod(every_steps):
                self._every_steps = every_steps  # from the next period on
            case ev.SetBatch(batch):
                self._batch = batch
            case ev.PickBlocks(exchange_id, fraction):
                offer = b"o" * math.ceil(fraction * self._pace.offer_bytes) or self.OFFER
                self._answer(ev.OfferReady(exchange_id, offer))
            case ev.Respond(peer, header, body):
                share = len(body) / self._pace.offer_bytes if self._pace.offer_bytes else 0.0
                answer = b"a" * math.ceil(share * self._pace.answer_bytes) or self.ANSWER
                self._answer(ev.AnswerReady(peer, header.number, answer, 1, 0))
            case ev.Apply(_, header):
                self._answer(ev.Mixed(header.number, 1, 0))
            case ev.ReadFragment(peer, index):
                self._answer(ev.FragmentReady(peer, index, self.FRAGMENT))
            case ev.LoadFragment(peer, header):
                self._answer(ev.FragmentLoaded(peer, header.number))
            case ev.CompareDonors(donors):
                self._answer(ev.DonorsCompared(tuple(ev.DonorLoss(peer, 0.5, 0.5) for peer in donors), 2.3))
            case ev.SaveCheckpoint(notes):
                self._disk.steps, self._disk.samples = self._steps, self._samples
                self._disk.notes = notes
                self._answer(ev.CheckpointSaved(self._steps, 1, 0.0, self._pace.exchange_s))
            case ev.Evaluate():
                self._answer(ev.Evaluated(0.5, 1.0, 1))

    @property
    def _step_s(self) -> float:
        return self._pace.step_s * self._batch / self._batch_first

    def _answer(self, event: ev.Input) -> None:
        wait_s = 0.0
        if self._is_stepping:
            wait_s = self._step_s - (self._world.now() - self._period_began_at) % self._step_s
        self._exchange_s += self._pace.exchange_s
        # In order, as a thread's mailbox is: between equal times the seed would decide.
        self._ready_at = max(self._world.now() + wait_s + self._pace.exchange_s, self._ready_at + 1e-9)
        self._world.after(self._ready_at - self._world.now(), lambda: self._deliver(event))

    def _schedule_period(self, life: int) -> None:
        self._period_began_at = self._world.now()
        steps, batch, step_s = self._every_steps, self._batch, self._step_s
        self._world.after(steps * step_s, lambda: self._end_period(life, steps, batch, step_s))

    def _end_period(self, life: int, steps: int, batch: int, step_s: float) -> None:
        if life != self._life:
            return
        self._steps += steps
        self._samples += steps * batch
        self._deliver(ev.StepsDone(self._steps, self._samples, 1.0, step_s, step_s, step_s, self._exchange_s))
        self._schedule_period(life)
