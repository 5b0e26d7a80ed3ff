"""The swarm's clock and the end of a run, in whole swarms: right among honest nodes, hard to move for one liar."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gossip.protocol import events as ev
from gossip.protocol.messages import Phase, Status
from gossip.protocol.progress import LOOKS
from gossip.sim.idle import IdleWorkers, Pace
from gossip.sim.network import NetworkModel
from gossip.sim.swarm import SimNode, Swarm, SwarmSettings
from gossip.training.schedule import learning_rate_at

STEP_S = 0.02
PER_S = 32 / STEP_S  # samples of one node


def trained(swarm: Swarm) -> int:
    """What all nodes, the dead included, have really done."""
    return sum(node.node.life.done.samples for node in swarm.nodes.values())


def training(swarm: Swarm) -> list[SimNode]:
    return [node for node in swarm.alive() if node.node.phase == Phase.TRAINING]


def rate(node: SimNode) -> float:
    return learning_rate_at(node.node.progress.fraction, peak=1.0, warmup=0.03)


def play(count: int, seed: int, settings: SwarmSettings, spread: float = 1.0) -> Swarm:
    """n0 begins, the others join by earlier ones; speeds are `spread` apart at most."""
    rng = random.Random(seed)
    swarm = Swarm(seed, settings, NetworkModel(delay_s=0.02, jitter_s=0.01))
    for number in range(count):
        pace = Pace(step_s=STEP_S * spread ** rng.random())
        swarm.add(f"n{number}", (f"n{number // 2}",) if number else (), pace)
    return swarm


# -- The clock ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "seed"),
    [
        (4, 1),
        (4, 2),
        (16, 1),
        pytest.param(16, 2, marks=pytest.mark.slow),
        pytest.param(64, 1, marks=[pytest.mark.slow, pytest.mark.timeout(400)]),
    ],
)
def test_the_clock_is_right_among_fast_and_slow_nodes_that_come_and_go(count: int, seed: int) -> None:
    """Speeds 10x apart, crashes, joins: nobody's reading is off by more than 2 %, and they differ by 1 % at most."""
    swarm = play(count, seed, SwarmSettings(), spread=10)
    rng = random.Random(seed)
    swarm.run(60 if count < 64 else 100)  # until news of everybody have come to everybody
    for round_ in range(4 if count < 64 else 1):
        swarm.kill(rng.choice([node.name for node in swarm.alive()]))
        swarm.add(f"j{round_}", (swarm.alive()[0].name,), Pace(step_s=STEP_S * 10 ** rng.random()))
        swarm.run(20)
        truth = trained(swarm)
        readings = [node.node.progress.samples / truth - 1 for node in training(swarm)]
        assert -0.02 < min(readings) and max(readings) < 0.02, (round_, readings)
        assert max(readings) - min(readings) < 0.01, (round_, readings)
        run_s = [node.node.progress.run_s - swarm.world.now() for node in training(swarm)]
        assert max(map(abs, run_s)) < 1.5


def test_a_late_joiner_learns_at_the_others_rate() -> None:
    """At half time and at three quarters of five minutes: after its own warm-up nothing tells it from the rest."""
    swarm = play(4, 3, SwarmSettings(samples_total=int(4 * 300 * PER_S)))
    for share in (0.5, 0.75):
        assert swarm.run(300, lambda share=share: swarm.nodes["n0"].node.progress.fraction >= share)
        joiner = swarm.add(f"j{share}", ("n2",), Pace(step_s=STEP_S))
        assert swarm.run(5, lambda joiner=joiner: joiner.node.phase == Phase.TRAINING)
        swarm.run(2 * 8 * STEP_S)
        others = [rate(node) for node in training(swarm) if node is not joiner]
        assert all(abs(rate(joiner) / other - 1) < 0.02 for other in others), (share, rate(joiner), others)


# -- Lies --------------------------------------------------------------------------------------------------

LIES: dict[str, Callable[[Status], Status]] = {
    "samples": lambda status: replace(status, samples=10**15),
    "more and more samples": lambda status: replace(status, samples=min(10**15, status.samples * 10**6)),
    "speed": lambda status: replace(status, samples_per_s=9e11),
    "the swarm's samples": lambda status: replace(status, swarm_samples=10**15),
    "the run's time": lambda status: replace(status, run_s=9e11),
    "no time": lambda status: replace(status, run_s=0.0, swarm_samples=1),
    "the end": lambda status: replace(status, wants_end=True),
}


def all_at_once(status: Status) -> Status:
    for lie in LIES.values():
        status = lie(status)
    return replace(status, samples=10**15, swarm_samples=10**15, run_s=9e11)


@pytest.mark.parametrize(
    ("count", "seed", "lie"),
    [
        *((4, 1, lie) for lie in LIES.values()),
        *((4, seed, all_at_once) for seed in (1, 2, 3)),
        (8, 1, all_at_once),
        *(pytest.param(8, seed, all_at_once, marks=pytest.mark.slow) for seed in (2, 3)),
    ],
    ids=[*LIES, *(f"all-{count}-{seed}" for count in (4, 8) for seed in (1, 2, 3))],
)
def test_one_liar_moves_nobodys_learning_rate(count: int, seed: int, lie: Callable[[Status], Status]) -> None:
    """Told from its first word on: everybody learns at the rate that is due by what was really done, within 1 %.

    For two thirds of four minutes, and nothing ends; later half a second, the dead band, is more of a falling rate.
    Reading nothing at all makes the slowest honest clock the median: 3 %.
    """
    total, time_s = int(count * 240 * PER_S), 240.0
    swarm = play(count, seed, SwarmSettings(samples_total=total, time_s=time_s))
    swarm.lie("n1", lie)
    for _ in range(10):
        swarm.run(16)
        due = learning_rate_at(max(trained(swarm) / total, swarm.world.now() / time_s), peak=1.0, warmup=0.03)
        for name, node in swarm.nodes.items():
            assert node.node.phase == Phase.TRAINING, f"{name} {node.node.phase.name}: {node.engine.finished}"
            if name != "n1":
                bound = 0.03 if lie is LIES["no time"] else 0.01
                assert abs(rate(node) / due - 1) < bound, (name, swarm.world.now(), rate(node), due)


# -- Ends --------------------------------------------------------------------------------------------------


def ends(swarm: Swarm) -> tuple[set[str | None], float]:
    """Why everybody finished, and how many seconds lay between the first and the last."""
    at = [node.events[-1][0] for node in swarm.nodes.values()]
    return {node.engine.finished for node in swarm.nodes.values()}, max(at) - min(at)


@pytest.mark.parametrize("count", [4, 12, 24])
def test_a_short_run_of_many_nodes_does_not_overshoot(count: int) -> None:
    """Twelve seconds, in which everybody arrives: what the last ones do is known late, and believed until then."""
    settings = SwarmSettings(samples_total=int(count * 12 * PER_S))
    swarm = Swarm(1, settings, NetworkModel(delay_s=0.002, jitter_s=0.001))
    for number in range(count):
        swarm.add(f"n{number}", ("n0",) if number else (), Pace(step_s=STEP_S))
        swarm.run(0.1)
    assert swarm.run(60, lambda: not swarm.alive())
    assert 0.99 < trained(swarm) / settings.samples_total < 1.04, trained(swarm) / settings.samples_total
    assert ends(swarm)[1] < 4


def test_a_run_bounded_by_time() -> None:
    """Half a minute, whatever is done in it: forty looks, the whole schedule, and everybody stops together."""
    swarm = play(4, 1, SwarmSettings(time_s=30.0), spread=4)
    assert swarm.run(60, lambda: not swarm.alive())
    why, apart_s = ends(swarm)
    assert why == {"the run is over: its 30 s have passed"} and apart_s < 2
    assert 30 < swarm.world.now() < 35
    assert all(LOOKS - 2 <= len(node.said("evaluated")) <= LOOKS for node in swarm.nodes.values())


class _Good(IdleWorkers):
    """Its looks get better and better; an idle node's are always the same."""

    looks = 0

    def submit(self, effect: ev.Effect) -> None:
        if isinstance(effect, ev.Evaluate):
            self.looks += 1
            self._answer(ev.Evaluated(min(1.0, 0.5 + 0.05 * self.looks), 1.0, 1))
        else:
            super().submit(effect)


@pytest.mark.parametrize(("good", "is_ended"), [(2, False), (3, True)])
def test_accuracy_ends_a_run_where_most_have_it(good: int, is_ended: bool) -> None:
    """Two of four that reached the target do not end it for the other two; three do, for all."""
    swarm = Swarm(1, SwarmSettings(samples_total=int(4 * 100 * PER_S), target_accuracy=0.8))

    def better(name: str, pace: Pace, deliver: Any) -> _Good:
        return _Good(swarm.world, 8, 32, pace, deliver)

    for number in range(4):
        swarm.add(f"n{number}", ("n0",) if number else (), Pace(step_s=STEP_S), better if 4 - number <= good else None)
    assert swarm.run(50, lambda: not swarm.alive()) == is_ended
    wishing = [node.name for node in swarm.nodes.values() if node.node.progress.wants_end]
    if is_ended:
        why = {name: node.engine.finished for name, node in swarm.nodes.items()}
        assert why["n0"] == "the run is over: most of the swarm has ended it"
        assert all(why[f"n{n}"] == "the run is over: an accuracy of 0.8 is reached" for n in (1, 2, 3))
    else:
        assert wishing == ["n2", "n3"] and all(node.node.phase == Phase.TRAINING for node in swarm.alive())


def test_a_plateau_ends_a_run() -> None:
    """Idle nodes never get better: five looks later everybody knows."""
    swarm = play(4, 2, SwarmSettings(samples_total=int(4 * 100 * PER_S), plateau=5))
    assert swarm.run(40, lambda: not swarm.alive())
    assert ends(swarm)[0] <= {
        "the run is over: 5 looks without progress",
        "the run is over: most of the swarm has ended it",
    }


@pytest.mark.parametrize("trouble", ["pause", "kill"])
def test_nobody_waits_long_for_one_that_stands_still_at_the_end(trouble: str) -> None:
    """It is stopped in its last steps, and its neighbours notice at most eight seconds of it."""
    swarm = play(5, 4, SwarmSettings(samples_total=int(5 * 30 * PER_S)))
    assert swarm.run(60, lambda: any(node.node.phase == Phase.SETTLING for node in swarm.alive()))
    last = next(node for node in swarm.alive() if node.node.phase == Phase.TRAINING)
    swarm.kill(last.name) if trouble == "kill" else swarm.pause(last.name, 20.0)
    others = [node for node in swarm.alive() if node is not last]
    assert swarm.run(9, lambda: not any(node.alive for node in others))
    if trouble == "pause":
        assert swarm.run(30, lambda: not swarm.alive()), "and it ends itself when it wakes"
        assert "the run is over" in str(last.engine.finished)


def test_who_gets_the_state_at_the_end_ends_with_the_others() -> None:
    """A joiner that comes while the others settle has nothing left to step for: it settles too, or says it is late."""
    for seed in range(4):
        swarm = play(3, seed, SwarmSettings(samples_total=int(3 * 10 * PER_S)))
        assert swarm.run(60, lambda swarm=swarm: any(n.node.phase == Phase.SETTLING for n in swarm.alive()))
        late = swarm.add("late", ("n0", "n1", "n2"), Pace(step_s=STEP_S))
        assert swarm.run(20, lambda swarm=swarm: not swarm.alive()), late.node.phase
        assert late.node.life.done.samples < 2 * PER_S
        assert str(late.engine.finished).startswith(("the run is over", "the run ended before"))
