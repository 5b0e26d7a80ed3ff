"""Who does the work in a simulated node: the real trainer and codecs, with modelled durations.

As live, the trainer answers between two steps: what is asked during a step waits for its end.
"""

from __future__ import annotations

import math
from functools import partial

from gossip.protocol import events as ev
from gossip.sim.idle import Deliver, Pace
from gossip.sim.world import World
from gossip.training.trainer import Trainer
from gossip.training.work import Work, ends_here


class InlineWorkers:
    """The real trainer and codecs: the work is done at once, its answer is delivered when it would be ready."""

    def __init__(self, world: World, trainer: Trainer, every_steps: int, pace: Pace, deliver: Deliver) -> None:
        self._world = world
        self._trainer = trainer
        self._work = Work(trainer, on_encoded=lambda encoded: None)
        self._every_steps = every_steps
        self._pace = pace
        self._deliver = deliver
        self._waiting: list[ev.Effect] = []  # for the end of the step under way
        self._is_stepping = False
        self._life = 0  # raised by every start and stop: steps scheduled in an earlier life do nothing
        self._losses = 0.0
        self._steps_reported = 0
        self._exchange_s = 0.0
        self._batch_first = trainer.batch
        self._ready_at = 0.0

    def submit(self, effect: ev.Effect) -> None:
        if isinstance(effect, ev.StartTraining):
            self._life += 1
            self._is_stepping = True
            self._trainer.begin(effect.ramp_steps)
            self._schedule_step(self._life)
        elif isinstance(effect, ev.StopTraining):
            self._end_of_step()
            self._is_stepping = False
            self._life += 1
        elif isinstance(effect, ev.SetPeriod):
            self._every_steps = effect.every_steps
        elif self._is_stepping:
            self._waiting.append(effect)
        else:
            self._do(effect)

    def _end_of_step(self) -> None:
        waiting, self._waiting = self._waiting, []
        for effect in waiting:
            self._do(effect)

    def _do(self, effect: ev.Effect) -> None:
        if isinstance(effect, ev.PickBlocks | ev.Respond | ev.Apply):
            self._exchange_s += self._pace.exchange_s
        value = None
        for stage in self._work.chain(effect):
            value = stage.work(value)
            if ends_here(value):
                self._answer(value)
                return

    @property
    def _step_s(self) -> float:
        """A step's duration is modelled for the batch the trainer began with."""
        return self._pace.step_s * self._trainer.batch / self._batch_first

    def _answer(self, value: ev.Input) -> None:
        # In order, as a thread's mailbox is: between equal times the seed would decide.
        self._ready_at = max(self._world.now() + self._pace.exchange_s, self._ready_at + 1e-9)
        self._world.after(self._ready_at - self._world.now(), partial(self._deliver, value))

    def _schedule_step(self, life: int) -> None:
        self._world.after(self._step_s, lambda: self._step(life))

    def _step(self, life: int) -> None:
        if life != self._life:
            return
        loss = self._trainer.step()
        if not math.isfinite(loss):
            self._life += 1
            self._is_stepping = False
            self._deliver(ev.TrainingFailed(self._trainer.steps, loss, self._trainer.broke_at))
            return
        self._losses += loss
        self._end_of_step()
        steps = self._trainer.steps - self._steps_reported
        if steps >= self._every_steps:
            mean, self._losses, self._steps_reported = self._losses / steps, 0.0, self._trainer.steps
            distance = self._trainer.mixer.statistics().relative_distance_recent
            self._deliver(
                ev.StepsDone(
                    self._trainer.steps,
                    self._trainer.samples,
                    mean,
                    self._step_s,
                    self._step_s,
                    self._step_s,
                    self._exchange_s,
                    distance,
                )
            )
        self._schedule_step(life)
