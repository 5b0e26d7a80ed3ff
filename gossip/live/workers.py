"""Three threads: one owns the trainer and steps, one turns arrays into bytes and back, one waits for the disk.

The trainer's thread never waits while there are steps to do: between two steps it takes what lies
in its mailbox, and only a trainer that does not step sleeps there. Kernels release the GIL, so the
codec thread and the network run beside them.
"""

from __future__ import annotations

import math
import queue
import statistics
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from gossip.kernels.denormals import flush_denormals
from gossip.protocol import events as ev
from gossip.training.trainer import Trainer
from gossip.training.work import Stage, Where, Work, ends_here

SAVE_PATIENCE_S = 10.0  # for a checkpoint that is being written while the node leaves

_Job = Callable[[], None]
_EXCHANGES = ev.PickBlocks | ev.Respond | ev.Apply


class LiveWorkers:
    """The engine's Workers port. `deliver` is called from every thread and must be safe for that."""

    def __init__(self, trainer: Trainer, work: Work, every_steps: int, deliver: Callable[[ev.Input], None]) -> None:
        self.failure: BaseException | None = None  # a bug in a worker: the loop raises it
        self.is_still_saving = False  # after `close`: the disk took too long
        self.has_diverged = False  # the loss was not finite: training stopped by itself
        self._trainer = trainer
        self._work = work
        self._every_steps = every_steps
        self._deliver = deliver
        self._mailboxes: dict[Where, queue.SimpleQueue[_Job | None]] = {where: queue.SimpleQueue() for where in Where}
        self._is_stepping = False
        self._exchange_cpu_s = dict.fromkeys(Where, 0.0)  # each thread adds to its own
        self._steps_reported = trainer.steps
        self._clock = _StepClock()
        self._threads = [
            threading.Thread(target=self._guard, args=(self._run_trainer,), name="trainer", daemon=True),
            *(
                threading.Thread(target=self._guard, args=(partial(self._run, where),), name=where.value, daemon=True)
                for where in (Where.CODEC, Where.SAVER)
            ),
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, effect: ev.Effect) -> None:
        """Take an effect; its answer comes back through `deliver`."""
        if isinstance(effect, ev.StartTraining):
            self._post(Where.TRAINER, lambda: self._start(effect.ramp_steps))
        elif isinstance(effect, ev.StopTraining):
            self._post(Where.TRAINER, self._stop)
        elif isinstance(effect, ev.SetPeriod):
            self._post(Where.TRAINER, lambda: self._set_period(effect.every_steps))
        else:
            chain = self._work.chain(effect)
            self._advance([self._metered(s) for s in chain] if isinstance(effect, _EXCHANGES) else chain, None)

    def on_saver(self, job: _Job) -> None:
        """Have something written on the saver's thread; it must not raise."""
        self._post(Where.SAVER, job)

    @property
    def longest_gap_s(self) -> float:
        """Longest time between two steps so far."""
        return self._clock.longest_gap_s

    def close(self, patience_s: float | None = None) -> bool:
        """End the threads after the job in hand. True if nobody steps any more: the trainer is the caller's then.

        patience_s: how long to wait for a step in hand; None for as long as it takes.
        """
        for mailbox in self._mailboxes.values():
            mailbox.put(None)
        *others, saver = self._threads
        for thread in others:
            thread.join(patience_s)
        saver.join(patience_s and SAVE_PATIENCE_S)
        self.is_still_saving = saver.is_alive()
        return not any(thread.is_alive() for thread in others)

    # -- Chains --------------------------------------------------------------------------------------

    def _advance(self, stages: list[Stage], value: Any) -> None:
        """Put the next stage where it belongs, or hand over the chain's answer."""
        if ends_here(value):
            self._deliver(value)
        elif stages:
            stage, *rest = stages
            self._post(stage.where, lambda: self._advance(rest, stage.work(value)))

    def _metered(self, stage: Stage) -> Stage:
        """The same stage, its CPU time entered."""

        def work(value: Any) -> Any:
            began = time.thread_time()
            try:
                return stage.work(value)
            finally:
                self._exchange_cpu_s[stage.where] += time.thread_time() - began

        return Stage(stage.where, work)

    def _post(self, where: Where, job: _Job) -> None:
        self._mailboxes[where].put(job)

    # -- The trainer's thread ------------------------------------------------------------------------

    def _run_trainer(self) -> None:
        flush_denormals()
        mailbox = self._mailboxes[Where.TRAINER]
        while True:
            if not self._is_stepping or not mailbox.empty():
                job = mailbox.get()
                if job is None:
                    return
                job()
            else:
                self._step()

    def _start(self, ramp_steps: int) -> None:
        self._trainer.begin(ramp_steps)
        self._is_stepping = True
        self._clock.restart()

    def _set_period(self, every_steps: int) -> None:
        self._every_steps = every_steps

    def _stop(self) -> None:
        self._is_stepping = False
        self._report()  # what was done since the last report counts too

    def _step(self) -> None:
        began = time.thread_time()
        loss = self._trainer.step()
        self._clock.on_step(loss, time.thread_time() - began)
        if not math.isfinite(loss):
            self._is_stepping, self.has_diverged = False, True
            self._deliver(ev.TrainingFailed(self._trainer.steps, loss, self._trainer.broke_at))
        elif self._trainer.steps - self._steps_reported >= self._every_steps:
            self._report()

    def _report(self) -> None:
        clock, trainer = self._clock, self._trainer
        loss, step_s, step_cpu_s = clock.take()
        self._steps_reported = trainer.steps
        exchange_cpu_s = sum(self._exchange_cpu_s.values())
        distance = trainer.mixer.statistics().relative_distance_recent
        done = (trainer.steps, trainer.samples, loss, step_s, clock.longest_gap_s)
        self._deliver(ev.StepsDone(*done, step_cpu_s, exchange_cpu_s, distance))

    # -- The other threads ---------------------------------------------------------------------------

    def _run(self, where: Where) -> None:
        mailbox = self._mailboxes[where]
        while (job := mailbox.get()) is not None:
            job()

    def _guard(self, run: Callable[[], None]) -> None:
        try:
            run()
        except BaseException as error:  # handed to the loop, which raises it: a thread has nobody to raise to
            self.failure = error
            self._deliver(ev.Tick())


class _StepClock:
    """Durations of steps, with whatever came between them."""

    def __init__(self) -> None:
        self.longest_gap_s = 0.0
        self._last = time.monotonic()
        self._gaps: list[float] = []
        self._losses: list[float] = []
        self._cpu_s = 0.0

    def restart(self) -> None:
        self._last = time.monotonic()

    def on_step(self, loss: float, cpu_s: float) -> None:
        now = time.monotonic()
        gap, self._last = now - self._last, now
        self.longest_gap_s = max(self.longest_gap_s, gap)
        self._gaps.append(gap)
        self._losses.append(loss)
        self._cpu_s += cpu_s

    def take(self) -> tuple[float, float, float]:
        """Mean loss, median step, and mean CPU time of a step since the last call; zeros without a step."""
        if not self._gaps:
            return 0.0, 0.0, 0.0
        taken = statistics.fmean(self._losses), statistics.median(self._gaps), self._cpu_s / len(self._gaps)
        self._gaps.clear()
        self._losses.clear()
        self._cpu_s = 0.0
        return taken
