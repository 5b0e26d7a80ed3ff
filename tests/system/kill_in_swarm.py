"""The same with a swarm around the node that is killed: it comes back, the others carry on, all end as calm ones do.

Beside it, at the same time, the same swarm is left alone. Steps are paced (`paced.py`), so that six processes do
with two cores, and so that the samples that outlast the kills are known beforehand.
"""

from __future__ import annotations

import itertools
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lives import INTERVAL_S, LIFE_S, Life, Losses, Story, check_lives, drawn_hour, lives_of
from processes import GossipProcess, spec_text, wait_until

from gossip.observe import Event

STEP_S = 0.01
BATCH = 32
KILL_S = 5.0  # what a life and the start of the next take, on average, on a machine that has much to do
SETTLED = 0.5  # the share of lives that end only after everybody has seen it alive, and it has exchanged again
BACK_S = 30.0
PACED = (sys.executable, str(Path(__file__).with_name("paced.py")), str(STEP_S))
VIEWS = ("member_alive", "member_suspect", "member_dead", "member_left")


class Calm:
    """A node that nobody kills, and how it sees the others."""

    def __init__(self, process: GossipProcess) -> None:
        self.process = process
        self.story = Story(process.run)
        self.view: dict[str, str] = {}  # the last it said of each member
        self.deaths: list[str] = []

    def look(self) -> None:
        assert self.process.process.poll() in (None, 0), self.process.story()
        for event in self.story.read():
            if event["event"] in VIEWS:
                self.view[event["peer"]] = event["event"].removeprefix("member_")
                self.deaths += [event["peer"]] * (event["event"] == "member_dead")

    def sees_alive(self, peer: str) -> bool:
        self.look()
        return self.view.get(peer) == "alive"


class Swarm:
    """A founder and those who join it, each in a run folder of its own."""

    def __init__(self, folder: Path, names: list[str], samples: int) -> None:
        """Returns once all of them train."""
        folder.mkdir()
        spec = folder / "swarm.toml"
        spec.write_text(
            spec_text(data_shards=len(names), train_samples=samples, train_batch=BATCH,
                      node_checkpoint_every_s=INTERVAL_S),
            encoding="utf-8",
        )  # fmt: skip
        self.processes: dict[str, GossipProcess] = {}
        for shard, name in enumerate(names):
            join = ("--join", self.processes[names[0]].ticket()) if shard else ()
            words = ("node", spec, *join, "--listen", "tcp://127.0.0.1:0", "--shard", str(shard), "--name", name)
            self.processes[name] = GossipProcess(
                *words, "--json", "--run-dir", folder / name, cwd=folder, name=name, prefix=PACED
            )
        for process in self.processes.values():
            process.wait_for("training", 60.0)

    def accuracies(self, within_s: float) -> dict[str, float]:
        """At its end."""
        return {name: process.result(within_s)["accuracy"] for name, process in self.processes.items()}


def kill_in_swarm(
    folder: Path, kills: int, seed: int, others: int, *, founds: bool = True, samples: int = 0
) -> dict[str, Any]:
    """Play both swarms in `folder`. founds: the victim is the swarm's first node, which had no ticket."""
    draw = random.Random(seed)
    samples = samples or int(kills * KILL_S * (1 + others) * BATCH / STEP_S)
    calm_ones = [f"calm{number}" for number in range(others)]
    names = ["victim", *calm_ones] if founds else [*calm_ones, "victim"]
    swarm = Swarm(folder / "killed", names, samples)
    beside = Swarm(folder / "calm", names, samples)
    try:
        found = _play(swarm, draw, kills)
        longest_s = samples * STEP_S / BATCH + 60.0
        killed, calm = swarm.accuracies(longest_s), beside.accuracies(longest_s)
    finally:
        for process in (*swarm.processes.values(), *beside.processes.values()):
            process.close()
    return found | {"accuracy_killed": killed, "accuracy_calm": calm}


def _play(swarm: Swarm, draw: random.Random, kills: int) -> dict[str, Any]:
    victim, *others = (swarm.processes["victim"], *(p for name, p in swarm.processes.items() if name != "victim"))
    calm = [Calm(process) for process in others]
    calm_keys = [process.all("started")[0]["key"] for process in others]
    key = victim.all("started")[0]["key"]
    wait_until(lambda: all(one.sees_alive(key) for one in calm), BACK_S, "the others see the victim")
    story, losses, returns = Story(victim.run), Losses(), Returns()
    life = Life(story, victim)
    words = ("node", "--run-dir", victim.run)
    while len(losses) < kills:
        if draw.random() < SETTLED:
            returns.wait_until_back(life, calm, key, calm_keys)
            life.rests(draw.uniform(0, LIFE_S / 2))
        else:
            drawn_hour(draw, life)
        for one in calm:
            one.look()
        loss = life.kill()
        assert loss is not None, f"the run was over after {len(losses)} kills"
        losses.add(loss)
        life = Life.start(story, *words, cwd=victim.cwd, name=victim.name, prefix=PACED)
        swarm.processes[victim.name] = life.process
    returns.wait_until_back(life, calm, key, calm_keys)
    check_lives(story.events)
    return {
        "kills": len(losses),
        **_choices(story.events),
        **losses.report(),
        "longest_to_exchange_s": round(returns.longest_to_exchange_s, 2),
        "longest_to_view_s": round(returns.longest_to_view_s, 2),
        "deaths_of_victim": sum(death == key for one in calm for death in one.deaths),
        "deaths_of_calm_nodes": sum(death != key for one in calm for death in one.deaths),
        "incarnation": [event["incarnation"] for event in story.events if event["event"] == "started"][-1],
    }


class Returns:
    """How long it took until the victim was back, after it began to train."""

    def __init__(self) -> None:
        self.longest_to_exchange_s = self.longest_to_view_s = 0.0

    def wait_until_back(self, life: Life, calm: list[Calm], key: str, calm_keys: list[str]) -> None:
        """It exchanges, each of the others sees it alive and each other too."""
        began = life.wait_for("training")
        assert began is not None, life.process.story()
        exchanged = life.wait_for("exchange_mixed", "exchange_answered", within_s=BACK_S)
        assert exchanged is not None, life.process.story()
        wait_until(lambda: all(one.sees_alive(key) for one in calm), BACK_S, "the others see the victim alive")
        if not life.is_first:
            self.longest_to_exchange_s = max(self.longest_to_exchange_s, exchanged["t"] - began["t"])
            self.longest_to_view_s = max(self.longest_to_view_s, time.time() - began["t"])
        for one, other in itertools.product(calm, calm_keys):
            own = one.process.all("started")[0]["key"]
            assert own == other or one.sees_alive(other), f"{one.process.name} holds {other} for {one.view.get(other)}"


def _choices(events: list[Event]) -> dict[str, int]:
    """What state each life trained from: its own, the swarm's, its own for want of a donor, or a newcomer's."""

    def says(name: str) -> Callable[[list[Event]], bool]:
        return lambda life: any(event["event"] == name for event in life)

    trained = list(filter(says("training"), lives_of(events)))
    return {
        "trained": len(trained),
        "from_its_own_state": sum(says("restored")(life) and not says("far_behind")(life) for life in trained),
        "from_the_swarms": sum(says("far_behind")(life) and says("state_received")(life) for life in trained),
        "given_up": sum(says("state_given_up")(life) for life in trained),
        "from_none": sum(not says("restored")(life) for life in trained),
    }
