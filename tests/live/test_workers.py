"""The two threads: steps go on while others ask, failures come home, and closing ends both."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gossip.data.store import load_dataset
from gossip.kernels.denormals import IS_X86
from gossip.live.workers import LiveWorkers
from gossip.models.model import build_model
from gossip.protocol import events as ev
from gossip.spec import load
from gossip.training.trainer import Trainer
from gossip.training.work import Work

EXPERIMENT = load(Path(__file__).parents[2] / "deploy" / "experiments" / "two-machines.toml")
WITHIN_S = 30.0


def make_trainer(order_seed: int = 1) -> Trainer:
    dataset = load_dataset(EXPERIMENT.recipe)
    model = build_model(EXPERIMENT.layers, EXPERIMENT.recipe.mean, EXPERIMENT.recipe.std)
    shard = np.arange(500)
    return Trainer(EXPERIMENT.train, EXPERIMENT.seed, model, dataset, shard, order_seed=order_seed)


class Loop:
    """The engine's side: takes what the workers deliver."""

    def __init__(self, trainer: Trainer, every_steps: int = 2) -> None:
        self.inbox: queue.SimpleQueue[ev.Input] = queue.SimpleQueue()
        self.workers = LiveWorkers(trainer, Work(trainer, lambda encoded: None), every_steps, self.inbox.put)

    def wait_for(self, kind: type) -> Any:
        while not isinstance(event := self.inbox.get(timeout=WITHIN_S), kind):
            pass
        return event


def test_steps_are_reported_and_stop_when_told() -> None:
    trainer = make_trainer()
    loop = Loop(trainer)
    loop.workers.submit(ev.StartTraining(0))
    first, second = loop.wait_for(ev.StepsDone), loop.wait_for(ev.StepsDone)
    assert (first.steps, second.steps) == (2, 4)
    assert second.samples == 4 * EXPERIMENT.train.batch
    assert first.step_s > 0
    loop.workers.submit(ev.StopTraining())
    loop.workers.close()
    steps = trainer.steps
    last = [event for event in iter_now(loop.inbox) if isinstance(event, ev.StepsDone)][-1]
    assert last.steps == steps, "what was done after the last report counts too"


@pytest.mark.skipif(not IS_X86, reason="x86 alone is slow with denormals, and has the register")
def test_the_trainer_s_thread_takes_denormals_as_zero() -> None:
    """Momentum of dead units fades into them. With x all 0 the first layer's gradient is 0."""
    trainer = make_trainer()
    trainer.x[:], trainer.optimizer.arrays["momentum"][:] = 0, 1e-40
    loop = Loop(trainer)
    loop.workers.submit(ev.StartTraining(0))
    loop.wait_for(ev.StepsDone)
    loop.workers.close()
    assert trainer.optimizer.arrays["momentum"][0] == 0


def test_what_is_asked_between_steps_is_answered_while_training_goes_on() -> None:
    trainer = make_trainer()
    loop = Loop(trainer)
    loop.workers.submit(ev.StartTraining(0))
    loop.wait_for(ev.StepsDone)
    loop.workers.submit(ev.PickBlocks(7, 0.25, False))
    assert loop.wait_for(ev.OfferReady).exchange_id == 7
    loop.workers.submit(ev.Evaluate(full=False))
    assert loop.wait_for(ev.Evaluated).samples == 1000
    steps = trainer.steps
    while loop.wait_for(ev.StepsDone).steps <= steps:  # reports of earlier steps may still wait in the inbox
        pass
    loop.workers.close()


def test_a_loss_that_is_no_number_stops_training_and_says_so() -> None:
    """Nothing of this model may leave: no offer, no state for a joiner."""
    trainer = make_trainer()
    trainer.x[10] = np.nan
    loop = Loop(trainer)
    loop.workers.submit(ev.StartTraining(0))
    failed = loop.wait_for(ev.TrainingFailed)
    assert failed.step == 1
    assert failed.where == 'layer 1 "conv 6 5x5": its weights are not finite any more'
    assert loop.workers.has_diverged
    loop.workers.submit(ev.PickBlocks(1, 1.0, False))
    assert loop.wait_for(ev.OfferReady).body is None
    loop.workers.submit(ev.ReadFragment(b"p" * 32, 0))
    assert loop.wait_for(ev.FragmentReady).body is None
    loop.workers.submit(ev.SaveCheckpoint({}))
    assert loop.wait_for(ev.CheckpointFailed).kind == "NOT_FINITE"
    assert not trainer.is_finite()
    loop.workers.close()
    assert trainer.steps == 1


def test_what_is_no_number_does_not_spread() -> None:
    """An offer that still waits when the loss goes wrong is answered, and moves the asker by nothing."""
    healthy, broken = make_trainer(order_seed=1), make_trainer(order_seed=2)
    for _ in range(5):
        healthy.step()
    broken.x[: broken.model.dim] = np.nan
    before = healthy.x.copy()
    request = healthy.offer(1, 1.0, False)
    assert request is not None
    answer, statistics = broken.respond(request)
    assert statistics.failed == statistics.blocks
    healthy.apply(1, answer)
    assert (healthy.x == before).all()


def test_a_bug_in_a_worker_reaches_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread has nobody to raise to: the loop is woken and finds the failure."""
    trainer = make_trainer()

    def broken() -> float:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(trainer, "step", broken)
    loop = Loop(trainer)
    loop.workers.submit(ev.StartTraining(0))
    loop.wait_for(ev.Tick)
    assert isinstance(loop.workers.failure, ZeroDivisionError)
    loop.workers.close()


def test_two_nodes_on_one_shard_see_it_in_different_orders() -> None:
    """They begin as one model; the same batches would make every exchange between them worthless."""
    one, other = make_trainer(order_seed=1), make_trainer(order_seed=2)
    assert (one.x == other.x).all()
    batches = [[tuple(trainer.batches.sampler.next_batch()) for _ in range(3)] for trainer in (one, other)]
    assert batches[0] != batches[1]
    again = make_trainer(order_seed=1)
    assert [tuple(again.batches.sampler.next_batch()) for _ in range(3)] == batches[0]


def iter_now(inbox: queue.SimpleQueue[ev.Input]) -> list[ev.Input]:
    events = []
    while not inbox.empty():
        events.append(inbox.get())
    return events
