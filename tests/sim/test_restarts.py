"""Nodes that crash and come back, with their disk and without: nobody's counts go back, and views agree again."""

from __future__ import annotations

import random

import pytest

from gossip.protocol.messages import Phase
from gossip.sim.idle import Pace
from gossip.sim.swarm import SimNode, Swarm, SwarmSettings

SEED = 5


def swarm_of(count: int, seed: int = SEED, **settings: float) -> Swarm:
    swarm = Swarm(seed, SwarmSettings(checkpoint_every_s=2.0, **settings))  # type: ignore[arg-type]
    swarm.add("n0")
    for number in range(1, count):
        swarm.add(f"n{number}", ("n0",))
    assert swarm.run(20, lambda: swarm.views_agree() and all_train(swarm))
    return swarm


def all_train(swarm: Swarm) -> bool:
    return all(node.node.phase == Phase.TRAINING for node in swarm.alive())


def mixed(node: SimNode) -> int:
    return node.node.exchanges.completed + node.node.exchanges.answered


@pytest.mark.parametrize("seed", range(12))
def test_whoever_crashes_and_comes_back_is_a_member_again(seed: int) -> None:
    """Drawn crashes and restarts, a third without their disk: in the end everybody holds everybody for alive."""
    draw = random.Random(seed)
    swarm = swarm_of(5, seed)
    names = list(swarm.nodes)
    seen: dict[bytes, int] = {}
    for _ in range(12):
        swarm.run(draw.uniform(0.1, 6.0))
        name = draw.choice(names)
        if not swarm.nodes[name].alive:
            swarm.restart(name, has_disk=draw.random() < 0.67)
        elif len(swarm.alive()) > 2:
            swarm.kill(name)
        for node in swarm.alive():
            seen[node.key] = max(seen.get(node.key, 0), node.node.membership.status.sequence)
    for name in names:
        if not swarm.nodes[name].alive:
            swarm.restart(name)
    assert swarm.run(60, lambda: swarm.views_agree() and all_train(swarm)), f"seed {seed}"
    for node in swarm.alive():
        assert node.node.membership.status.sequence >= seen.get(node.key, 0), "a status of a former life would win"


def test_a_short_absence_costs_no_transfer() -> None:
    """The own checkpoint is as good as the swarm's state: training goes on at once, and at the counts it had."""
    swarm = swarm_of(4)
    swarm.run(10)
    swarm.kill("n2")
    steps = swarm.nodes["n2"].disk.steps
    before = swarm.nodes["n2"].node.progress.samples
    back = swarm.restart("n2")
    assert swarm.run(2.5, lambda: back.node.phase == Phase.TRAINING)
    assert not back.said("state_received")
    assert swarm.run(1, lambda: back.node.membership.status.step > steps > 0)
    assert back.node.progress.samples >= before
    assert swarm.run(10, swarm.views_agree)


def test_who_was_away_for_long_takes_the_swarms_state() -> None:
    """More than 2 % of the run behind: the others' model is better than ours, our counts stay ours."""
    swarm = swarm_of(4, samples_total=2_000_000)
    swarm.run(5)
    swarm.kill("n2")
    samples = swarm.nodes["n2"].disk.samples
    swarm.run(20)
    back = swarm.restart("n2")
    assert swarm.run(5, lambda: back.node.phase == Phase.TRAINING)
    assert back.said("far_behind") and back.said("state_received")
    assert back.node.membership.status.samples >= samples > 0


def test_a_swarm_that_turns_up_late_is_far_ahead_all_the_same() -> None:
    """The machine is up before its network: what it has begun alone is left for the swarm's state, and not mixed in."""
    swarm = swarm_of(4, samples_total=2_000_000)
    swarm.run(5)
    swarm.kill("n2")
    samples = swarm.nodes["n2"].disk.samples
    swarm.run(20)
    swarm.cut(("n2",), ("n0", "n1", "n3"))
    back = swarm.restart("n2")
    before = mixed(back)
    assert swarm.run(2.5, lambda: back.node.phase == Phase.TRAINING), "who knows whether anybody is left"
    swarm.run(4)
    swarm.network.heal()
    assert swarm.run(10, lambda: bool(back.said("far_behind")))
    assert back.node.phase == Phase.JOINING and mixed(back) == before, "not one exchange with what is old"
    assert swarm.run(5, lambda: back.node.phase == Phase.TRAINING) and back.said("state_received")
    assert len(back.said("far_behind")) == 1 and len(back.said("training")) == 2 and not back.said("resumed")
    others = [node.node.progress.fraction for node in swarm.alive()]
    assert max(others) - back.node.progress.fraction < 0.02
    assert back.node.membership.status.samples > samples > 0
    swarm.run(10)
    assert swarm.views_agree() and all_train(swarm) and back.disk.samples > samples, "and it is saved again"


def test_halves_that_have_both_gone_far_keep_what_they_have() -> None:
    """Nobody throws away what it trained on: only who has hardly begun since it came back yields."""
    swarm = swarm_of(5, samples_total=1_000_000)
    swarm.run(3)
    for name in ("n3", "n4"):
        swarm.kill(name)
    swarm.cut(("n0", "n1", "n2"), ("n3", "n4"))
    back = [swarm.restart(name) for name in ("n3", "n4")]
    swarm.run(20)
    swarm.network.heal()
    assert swarm.run(60, swarm.views_agree)
    swarm.run(5)
    assert all_train(swarm) and not any(node.said("far_behind") for node in back)


@pytest.mark.parametrize("lost", [(), ("n3",)])
def test_a_swarm_that_comes_back_at_once_trains_within_seconds(lost: tuple[str, ...]) -> None:
    """All are undecided, and nobody waits for a state that nobody has; one that never comes back is not waited for."""
    swarm = swarm_of(6)
    swarm.run(10)
    for name in swarm.nodes:
        swarm.kill(name)
    living = tuple(name for name in swarm.nodes if name not in lost)
    swarm.cut(lost, living)
    back = [swarm.restart(name) for name in living]
    assert swarm.run(2.5 if lost else 0.5, lambda: all_train(swarm))
    swarm.run(5)
    assert all_train(swarm) and not any(node.said("far_behind") for node in back)
    assert swarm.run(20, swarm.views_agree)


@pytest.mark.parametrize("seed", range(8))
def test_however_a_swarm_comes_back_somebody_goes_on(seed: int) -> None:
    """Disks of different age, drawn moments, links that come up late: all train again, and nobody waits for nobody."""
    draw = random.Random(seed)
    swarm = swarm_of(5, seed, samples_total=4_000_000)
    names = draw.sample(list(swarm.nodes), 5)
    for name in names:
        swarm.run(draw.uniform(2.0, 15.0))
        swarm.kill(name)
    late = draw.choice(names)
    swarm.cut((late,), tuple(name for name in names if name != late))
    for name in draw.sample(names, 5):
        swarm.run(draw.choice([0.0, draw.uniform(0.0, 3.0)]))
        swarm.restart(name)
    swarm.run(draw.uniform(0.0, 4.0))
    swarm.network.heal()
    assert swarm.run(30, lambda: swarm.views_agree() and all_train(swarm)), f"seed {seed}"
    swarm.run(10)
    assert all_train(swarm) and all(len(node.said("far_behind")) <= 1 for node in swarm.alive())
    assert not all(node.said("far_behind") for node in swarm.alive())


def test_a_swarm_that_lost_power_goes_on_where_it_stood() -> None:
    """Everybody's checkpoint knows everybody's samples: the clock does not start again, whoever comes first."""
    swarm = swarm_of(4)
    swarm.run(10)
    clock = min(node.disk.notes["progress"]["samples"] for node in swarm.alive())
    for name in swarm.nodes:
        swarm.kill(name)
    swarm.run(60)
    first = swarm.restart("n3")
    assert swarm.run(2.5, lambda: first.node.phase == Phase.TRAINING), "nobody answers: it goes on alone"
    assert first.node.progress.samples >= clock > 0
    at = first.node.progress.samples
    # The clock ran ahead of the counts by what the others were believed to do meanwhile; our own have to catch up.
    assert swarm.run(10, lambda: first.node.progress.samples > at), "and its clock moves"
    for name in ("n0", "n1", "n2"):
        swarm.restart(name)
    assert swarm.run(20, lambda: swarm.views_agree() and all_train(swarm))


def test_a_donor_that_dies_leaves_us_with_our_own_state() -> None:
    """Far behind, and then nobody is left to give: what we have has to do."""
    swarm = swarm_of(2, samples_total=2_000_000)
    swarm.run(5)
    swarm.kill("n1")
    swarm.run(40)
    back = swarm.restart("n1")
    assert swarm.run(5, lambda: bool(back.said("far_behind")))
    swarm.kill("n0")
    assert swarm.run(20, lambda: back.node.phase == Phase.TRAINING)
    assert back.said("state_given_up")


def test_a_run_that_ended_meanwhile_is_ended_here_too() -> None:
    """Nobody of the swarm is left, and its samples were done: ours is saved as the last model, not thrown away."""
    swarm = swarm_of(2, samples_total=200_000)
    assert swarm.run(60, lambda: swarm.nodes["n0"].node.progress.fraction > 0.9)
    swarm.kill("n1")
    swarm.kill("n0")
    back = swarm.restart("n1")
    assert swarm.run(60, lambda: back.engine.finished is not None)
    assert back.engine.finished == "the run is over: 200,000 samples are trained on"


def test_a_capped_node_exchanges_after_a_restart_too() -> None:
    """Its ledger counts on from a day at the cap, which its bucket must not take for a debt."""
    swarm, capped = swarm_of(3), Pace(upload_bytes_per_s=100_000.0)
    swarm.run(5)
    swarm.kill("n2")
    swarm.nodes["n2"].disk.notes["ledger"]["sent"]["exchange"] = [100_000 * 86_400, 10]
    back = swarm.restart("n2", pace=capped)
    before = back.node.exchanges.completed
    assert swarm.run(30, lambda: back.node.exchanges.completed > before + 5)
    assert back.engine.notes()["ledger"]["sent"]["exchange"][0] > 100_000 * 86_400
