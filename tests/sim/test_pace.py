"""Links and nodes of unequal speed, in virtual time: caps are kept and used, queues stay short, nobody waits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest

from gossip.protocol.messages import Phase
from gossip.sim.idle import Pace
from gossip.sim.network import NetworkModel
from gossip.sim.swarm import Swarm, SwarmSettings

CAP = 125_000.0  # 1 mbit/s
FREE = SwarmSettings(is_pace_free=True)
MLP = {"offer_bytes": 52_060, "answer_bytes": 21_144}  # measured for mnist-mlp


def swarm_of(paces: list[Pace], network: NetworkModel, cap: float = math.inf) -> Swarm:
    swarm = Swarm(7, FREE, network)
    for number, pace in enumerate(paces):
        swarm.add(f"n{number}", ("n0",) if number else (), pace=replace(pace, upload_bytes_per_s=cap))
    assert swarm.run(20, lambda: all(node.node.phase == Phase.TRAINING for node in swarm.alive()))
    return swarm


def sent_each_second(swarm: Swarm, seconds: int) -> dict[str, list[int]]:
    sent: dict[str, list[int]] = {node.name: [] for node in swarm.alive()}
    for _ in range(seconds):
        swarm.run(1.0)
        for node in swarm.alive():
            sent[node.name].append(node.engine._ledger.total_bytes("sent"))
    return sent


@pytest.mark.parametrize("step_s", [0.0005, 0.02])
@pytest.mark.parametrize("delay_s", [0.001, 0.05])
@pytest.mark.parametrize("count", [2, 4])
def test_a_cap_is_kept_and_used_over_any_ten_seconds(step_s: float, delay_s: float, count: int) -> None:
    """Somebody's line is shared with a household: not above 105 % of what was promised, and not below 95 %."""
    swarm = swarm_of([Pace(step_s, **MLP)] * count, NetworkModel(delay_s, delay_s / 2), CAP)
    swarm.run(5)
    for name, sent in sent_each_second(swarm, 40).items():
        shares = [(later - earlier) / (10 * CAP) for earlier, later in zip(sent, sent[10:], strict=False)]
        assert 0.95 <= min(shares) <= max(shares) <= 1.05, (name, min(shares), max(shares))


def left_the_line(swarm: Swarm) -> dict[str, float]:
    """Bytes each node's line has let through so far."""
    hosts = swarm.network._hosts
    return {
        node.name: node.engine._ledger.total_bytes("sent") - hosts[node.key].uplink.backlog_bytes()
        for node in swarm.alive()
    }


@dataclass(frozen=True)
class Lines:
    """What lines that nobody told us of had to carry, from 20 s after the start on."""

    uses: dict[str, list[float]]  # of each node's line, in every 10 s
    queues_s: dict[str, list[float]]  # looked at 10 times a second
    suspected: int


def play_lines(rates: list[float], delay_s: float, step_s: float, seconds: int = 40) -> Lines:
    swarm = Swarm(7, FREE, NetworkModel(delay_s, delay_s / 4))
    for number, rate in enumerate(rates):
        node = swarm.add(f"n{number}", ("n0",) if number else (), pace=Pace(step_s, **MLP))
        swarm.network.uploads[node.key] = rate
    assert swarm.run(20, lambda: all(node.node.phase == Phase.TRAINING for node in swarm.alive()))
    swarm.run(20)
    before = sum(len(node.said("member_suspect")) for node in swarm.alive())  # while all of them begin at once
    let_through, queues = [left_the_line(swarm)], {node.name: [] for node in swarm.alive()}
    for _ in range(seconds):
        for _ in range(10):
            swarm.run(0.1)
            for node in swarm.alive():
                queues[node.name].append(swarm.network._hosts[node.key].uplink.backlog_s())
        let_through.append(left_the_line(swarm))
    uses = {
        f"n{number}": [
            (later[f"n{number}"] - earlier[f"n{number}"]) / 10 / rate
            for earlier, later in zip(let_through, let_through[10:], strict=False)
        ]
        for number, rate in enumerate(rates)
    }
    assert not any(node.said("member_dead") for node in swarm.alive())
    suspected = sum(len(node.said("member_suspect")) for node in swarm.alive()) - before
    for name, used in uses.items():
        queue = sorted(queues[name])
        print(
            f"{name}: {min(used):.3f} to {max(used):.3f}, queue {queue[len(queue) // 2]:.2f} s, worst {queue[-1]:.2f}"
        )
    return Lines(uses, queues, suspected)


@pytest.mark.parametrize(
    ("count", "delay_s", "step_s"),
    [(2, 0.001, 0.0005), (2, 0.02, 0.0005), (2, 0.08, 0.0005), (2, 0.01, 0.02), (4, 0.001, 0.0005), (4, 0.08, 0.0005),
     (4, 0.01, 0.02), (8, 0.01, 0.0005)],
)  # fmt: skip
def test_slow_lines_nobody_told_us_of_are_filled_without_a_queue(count: int, delay_s: float, step_s: float) -> None:
    """Each its own, wherever the answers' queue stands; and probes go over the same line: none must be late."""
    lines = play_lines([CAP] * count, delay_s, step_s)
    for name in lines.uses:
        queue = sorted(lines.queues_s[name])
        assert min(lines.uses[name]) >= 0.95, name
        assert queue[len(queue) // 2] < 0.25 and queue[len(queue) * 95 // 100] < 0.4, name
    assert lines.suspected == 0


@pytest.mark.parametrize("fast", [10 * CAP, math.inf])
@pytest.mark.parametrize(("slow_count", "fast_count"), [(1, 1), (1, 3), (2, 2)])
def test_who_has_a_slow_line_is_not_drowned_in_answers(slow_count: int, fast_count: int, fast: float) -> None:
    """The fast could ask more of it than its line can answer: it is used to the full and its probes get through."""
    lines = play_lines([CAP] * slow_count + [fast] * fast_count, 0.01, 0.0005)
    for name in [f"n{number}" for number in range(slow_count)]:
        queue = sorted(lines.queues_s[name])
        assert min(lines.uses[name]) >= 0.95, name
        assert queue[len(queue) // 2] < 0.4 and queue[len(queue) * 95 // 100] < 0.6, name
    assert lines.suspected == 0
    if fast < math.inf and fast_count > 1:
        assert min(min(lines.uses[f"n{n}"]) for n in range(slow_count, slow_count + fast_count)) > 0.3


@pytest.mark.parametrize("factor", [10, 100])
def test_one_slow_node_does_not_hold_up_the_others(factor: int) -> None:
    """It answers between its own steps; whoever asked it goes on exchanging with the rest meanwhile."""
    paces = [Pace(0.01), Pace(0.01), Pace(0.01), Pace(0.01 * factor)]
    equal, unequal = (swarm_of(each, NetworkModel(0.002, 0.001)) for each in ([Pace(0.01)] * 4, paces))
    for swarm in (equal, unequal):
        swarm.run(60)
    done = [[node.node.exchanges.completed for node in swarm.nodes.values()] for swarm in (equal, unequal)]
    slow = unequal.nodes["n3"]
    steps = [node.said("status")[-1]["step"] for node in unequal.nodes.values()]
    seen = [n.node.exchanges.round_trip_with(slow.key) for n in unequal.nodes.values() if n is not slow]
    failed = [node.node.exchanges.failed for node in unequal.nodes.values()]
    print(f"{factor}x: exchanges {done}, steps {steps}, failed {failed}, the slow one's round trip {seen}")
    assert min(done[1][:3]) > 0.8 * min(done[0][:3])
    assert steps[3] == pytest.approx(steps[0] / factor, rel=0.1)
    assert done[1][3] >= 5
    assert not any(node.said("member_suspect") for node in unequal.nodes.values())
