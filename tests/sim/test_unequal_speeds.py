"""Nodes ten times apart in speed, really training in virtual time: nobody waits, and the model is as good."""

from __future__ import annotations

from typing import Literal

import pytest
from test_training import TrainingSwarm

from gossip.sim.idle import Pace
from gossip.sim.network import NetworkModel

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
SEEDS = (1, 2, 3)
# The same samples a second in all: 4 x 22 steps of 10 ms, or two nodes ten times as fast as the other two.
EQUAL, UNEQUAL = (0.022, 0.022, 0.022, 0.022), (0.012, 0.012, 0.12, 0.12)


def play(
    seed: int, steps_s: tuple[float, ...], batch: int | Literal["auto"], partition: str = "iid"
) -> tuple[float, TrainingSwarm]:
    """(mean accuracy of all nodes at the end, what was played)."""
    played = TrainingSwarm(seed, partition, NetworkModel(0.005, 0.003), batch=batch, is_pace_free=True)
    for shard, (name, step_s) in enumerate(zip("abcd", steps_s, strict=True)):
        played.add(name, shard, ("a",) if shard else (), Pace(step_s))
    assert played.swarm.run(900, lambda: not played.swarm.alive())
    return sum(played.accuracy(name) for name in "abcd") / 4, played


@pytest.mark.parametrize("batch", [32, "auto"])
def test_speed_ten_times_apart_costs_less_than_a_point(batch: int | Literal["auto"]) -> None:
    """A swarm of whatever machines there are: samples go by speed, and each counts as much wherever it is seen."""
    equal, unequal, shares = [], [], []
    for seed in SEEDS:
        equal.append(play(seed, EQUAL, 32)[0])
        accuracy, played = play(seed, UNEQUAL, batch)
        unequal.append(accuracy)
        samples = [trainer.samples for trainer in played.trainers.values()]
        shares.append(sum(samples[:2]) / sum(samples[2:]))
        ends = [node.events[-1][0] for node in played.swarm.nodes.values()]
        assert max(ends) - min(ends) < 9, "nobody waits for the slow ones longer than settling may"
    batches = {name: trainer.batch for name, trainer in played.trainers.items()}
    print(f"batch {batch}: equal {equal}, unequal {unequal}, fast/slow samples {shares}, batches {batches}")
    assert all(8 < share < 12 for share in shares)
    assert sum(equal) / 3 - sum(unequal) / 3 < 0.01
    if batch == "auto":
        assert batches["a"] > 3 * batches["d"]


if __name__ == "__main__":
    for seed in SEEDS:
        for speeds in (EQUAL, UNEQUAL):
            for size in (32, "auto"):
                found, what = play(seed, speeds, size, "classes(3)")  # type: ignore[arg-type]
                print(seed, speeds, size, round(found, 4), [what.accuracy(name) for name in "abcd"], flush=True)
