"""The owner speaks to one node of a simulated swarm: who hears of it, when, and who is not believed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gossip.engine import Workers
from gossip.owner import OwnerKey, SwarmName
from gossip.protocol import events as ev
from gossip.protocol.commands import STOPPED
from gossip.protocol.messages import Command, Phase
from gossip.sim.idle import Deliver, IdleWorkers, Pace
from gossip.sim.network import NetworkModel
from gossip.sim.swarm import SWARM, Swarm, SwarmSettings

SEED = 11
NOBODY = b"c" * 32  # the owner's client: a link, no member


class NotedWorkers(IdleWorkers):
    """Idle, but we see when they are told to step, and how fast to learn."""

    noted: list[type]

    def submit(self, effect: ev.Effect) -> None:
        self.noted = getattr(self, "noted", [])
        if isinstance(effect, ev.StartTraining | ev.SetLearningRate):
            self.noted.append(type(effect))
        super().submit(effect)


def swarm_of(count: int, seed: int = SEED, network: NetworkModel | None = None) -> Swarm:
    swarm = Swarm(seed, SwarmSettings(every_steps=100), network)
    for number in range(count):
        swarm.add(f"n{number}", ("n0",) if number else ())
    assert swarm.run(60, lambda: swarm.views_agree() and are_in(swarm, Phase.TRAINING))
    return swarm


def are_in(swarm: Swarm, phase: Phase) -> bool:
    return all(node.node.phase == phase for node in swarm.alive())


def say(swarm: Swarm, sequence: int, name: str, value: str = "", at: str = "n1") -> Command:
    command = swarm.owner.command(SWARM, sequence, name, value)
    swarm.tell(at, command, NOBODY)
    return command


def steps(swarm: Swarm) -> list[int]:
    return [node.node.life.done.steps for node in swarm.alive()]


def seconds_until(swarm: Swarm, phase: Phase, within_s: float) -> float:
    began = swarm.world.now()
    assert swarm.run(within_s, lambda: are_in(swarm, phase)), [node.node.phase.name for node in swarm.alive()]
    return swarm.world.now() - began


@pytest.mark.slow
def test_every_one_of_64_nodes_obeys_within_a_second() -> None:
    """A new command is passed on at once over every link: some three hops, each as long as a message takes."""
    swarm = swarm_of(64, network=NetworkModel(delay_s=0.1, jitter_s=0.05))
    say(swarm, 1, "pause")
    assert seconds_until(swarm, Phase.PAUSED, 5.0) < 1.0
    before = steps(swarm)
    swarm.run(10)
    assert steps(swarm) == before, "nobody steps"
    assert all(len(node.said("command")) == 1 for node in swarm.alive()), "applied once"
    say(swarm, 2, "resume", at="n40")
    assert seconds_until(swarm, Phase.TRAINING, 5.0) < 1.0
    swarm.run(10)
    assert all(now > then for now, then in zip(steps(swarm), before, strict=True))


@pytest.mark.parametrize("was_paused", [False, True])
def test_stop_ends_everybody_in_order(was_paused: bool) -> None:
    """As at the end of a run: they mix until they agree, and nobody is left behind."""
    swarm = swarm_of(6)
    if was_paused:
        say(swarm, 1, "pause")
        seconds_until(swarm, Phase.PAUSED, 2.0)
    say(swarm, 2, "stop")
    assert swarm.run(10, lambda: not swarm.alive())
    for node in swarm.nodes.values():
        assert node.engine.finished == STOPPED
        assert node.node.life.settling.has_begun


def test_a_joiner_of_a_paused_swarm_gets_state_and_stays_paused() -> None:
    """Donors give while they pause; the newcomer steps when the owner says so, not before."""
    swarm = swarm_of(3)
    say(swarm, 1, "pause")
    seconds_until(swarm, Phase.PAUSED, 2.0)
    late = swarm.add("late", ("n2",))
    assert swarm.run(10, lambda: bool(late.said("state_received")))
    swarm.run(5)
    assert are_in(swarm, Phase.PAUSED) and late.node.life.done.steps == 0
    assert late.said("paused") and not late.said("training")
    say(swarm, 2, "resume", at="n0")
    seconds_until(swarm, Phase.TRAINING, 2.0)
    assert late.said("training")


def test_half_a_swarm_that_was_cut_off_hears_of_it_when_it_is_back() -> None:
    """And the later of two commands holds, whichever half it was given to."""
    swarm = swarm_of(6)
    swarm.cut(("n0", "n1", "n2"), ("n3", "n4", "n5"))
    swarm.run(10)
    say(swarm, 1, "pause", at="n0")
    say(swarm, 2, "set lr", "0.01", at="n3")
    swarm.run(2)
    assert [node.node.commands.is_paused for node in swarm.alive()] == [True] * 3 + [False] * 3
    swarm.network.heal()
    assert swarm.run(40, lambda: are_in(swarm, Phase.PAUSED))
    assert swarm.run(40, lambda: all(node.node.commands.learning_rate == 0.01 for node in swarm.alive()))


def test_a_node_that_stood_still_while_the_owner_spoke_hears_of_it() -> None:
    swarm = swarm_of(4)
    swarm.pause("n3", 3.0)
    say(swarm, 1, "pause")
    seconds_until(swarm, Phase.PAUSED, 10.0)


def test_a_swarm_that_lost_power_remembers_what_the_owner_said() -> None:
    """A command is saved at once, not with the next checkpoint: nobody may be left to tell it again."""
    swarm = swarm_of(3)
    say(swarm, 1, "set lr", "0.01")
    say(swarm, 2, "pause")
    seconds_until(swarm, Phase.PAUSED, 2.0)
    swarm.run(0.5)
    for name in swarm.nodes:
        swarm.kill(name)
    for name in swarm.nodes:
        swarm.restart(name)
    assert swarm.run(20, lambda: swarm.views_agree() and are_in(swarm, Phase.PAUSED))
    assert all(node.node.commands.learning_rate == 0.01 and not node.said("training") for node in swarm.alive())
    say(swarm, 3, "resume")
    seconds_until(swarm, Phase.TRAINING, 2.0)


def test_nobody_but_the_owner_is_obeyed() -> None:
    """Forged, meant for another swarm, replayed: refused or ignored by name, and passed on to nobody."""
    swarm = swarm_of(4)
    pause = say(swarm, 3, "pause")
    seconds_until(swarm, Phase.PAUSED, 2.0)
    say(swarm, 4, "resume")
    seconds_until(swarm, Phase.TRAINING, 2.0)
    swarm.run(1)
    count = [len(node.events) for node in swarm.alive()]
    elsewhere = SwarmName(SWARM.spec_hash, b"another.")
    hostile = [
        OwnerKey(b"x" * 32).command(SWARM, 9, "stop"),
        swarm.owner.command(elsewhere, 9, "stop"),
        replace(swarm.owner.command(SWARM, 9, "set lr", "0.1"), value="9.9"),
    ]
    for command in hostile:
        swarm.tell("n1", command, NOBODY)
    swarm.tell("n1", pause, NOBODY)
    told = swarm.nodes["n1"]
    assert [fields["code"] for fields in told.said("message_refused")] == ["BAD_SIGNATURE"] * 3
    assert told.said("command_ignored")[-1]["why"] == "older than command 4, which holds"
    swarm.run(5)
    assert are_in(swarm, Phase.TRAINING)
    assert all(node.node.commands.sequence == 4 for node in swarm.alive())
    others = [node for node in swarm.alive() if node is not told]
    assert not any(node.said("message_refused") for node in others) and len(count) == 4


def test_a_run_can_be_shortened() -> None:
    """`set samples`: less than there are already ends the run, as a run ends."""
    swarm = swarm_of(3)
    say(swarm, 1, "set samples", "1000")
    assert swarm.run(30, lambda: not swarm.alive())
    assert {node.engine.finished for node in swarm.nodes.values()} == {"the run is over: 1,000 samples are trained on"}


def test_the_learning_rate_reaches_the_trainer() -> None:
    """On those who train already, and on a newcomer before its first step."""
    swarm = swarm_of(2)
    noted: dict[str, NotedWorkers] = {}

    def workers(name: str, pace: Pace, deliver: Deliver) -> Workers:
        noted[name] = NotedWorkers(swarm.world, 100, 32, pace, deliver)
        return noted[name]

    swarm.add("third", ("n0",), make_workers=workers)
    assert swarm.run(10, lambda: are_in(swarm, Phase.TRAINING))
    say(swarm, 1, "set lr", "0.01")
    assert swarm.run(2, lambda: noted["third"].noted == [ev.StartTraining, ev.SetLearningRate])
    swarm.add("fourth", ("n0",), make_workers=workers)
    assert swarm.run(10, lambda: are_in(swarm, Phase.TRAINING))
    kinds = noted["fourth"].noted
    assert kinds.index(ev.SetLearningRate) < kinds.index(ev.StartTraining)
