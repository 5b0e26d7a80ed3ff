"""Who does the work in a simulated node: the real trainer and codecs, with modelled durations."""

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
        self._life = 0  # raised by every start and stop: steps scheduled in an earlier life do nothing
        self._losses = 0.0

    def submit(self, effect: ev.Effect) -> None:
        if isinstance(effect, ev.StartTraining):
            self._life += 1
            self._trainer.begin(effect.ramp_steps)
            self._schedule_step(self._life)
        elif isinstance(effect, ev.StopTraining):
            self._life += 1
        else:
            value = None
            for stage in self._work.chain(effect):
                value = stage.work(value)
                if ends_here(value):
                    self._world.after(self._pace.exchange_s, partial(self._deliver, value))
                    return

    def _schedule_step(self, life: int) -> None:
        self._world.after(self._pace.step_s, lambda: self._step(life))

    def _step(self, life: int) -> None:
        if life != self._life:
            return
        loss = self._trainer.step()
        if not math.isfinite(loss):
            self._life += 1
            self._deliver(ev.TrainingFailed(self._trainer.steps, loss))
            return
        self._losses += loss
        if self._trainer.steps % self._every_steps == 0:
            mean, self._losses = self._losses / self._every_steps, 0.0
            step_s = self._pace.step_s
            self._deliver(ev.StepsDone(self._trainer.steps, self._trainer.samples, mean, step_s, step_s))
        self._schedule_step(life)
