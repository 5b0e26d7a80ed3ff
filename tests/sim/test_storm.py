"""A hundred newcomers at once at a swarm of four: the shipped node, a modelled line for everybody."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import pytest

from gossip.protocol import events as ev
from gossip.protocol.donating import JOINERS_MAX
from gossip.protocol.messages import Phase
from gossip.sim.idle import IdleWorkers, Pace
from gossip.sim.network import NetworkModel
from gossip.sim.swarm import SimNode, Swarm, SwarmSettings

MEMBERS, JOINERS = 4, 100
FRAGMENTS = 8  # half a million parameters: 1.07 MB of state, and 2 audited fragments twice
LINE = NetworkModel(delay_s=0.03, jitter_s=0.02, upload_bytes_per_s=1_250_000)  # 10 Mbit/s up
LIE = b"l"


class Collector(IdleWorkers):
    """Bodies of a real fragment's size. It tells a lie when it looks at the whole state, and not before."""

    OFFER, ANSWER, FRAGMENT = b"o" * 40_000, b"a" * 20_000, b"f" * 133_000

    def __init__(self, *arguments: Any, is_liar: bool) -> None:
        super().__init__(*arguments)
        self._gave: dict[int, dict[bytes, bool]] = {}  # fragment -> donor -> is it a lie?
        if is_liar:
            self.FRAGMENT = LIE * 133_000

    def submit(self, effect: ev.Effect) -> None:
        match effect:
            case ev.LoadFragment(peer, header, body, keep):
                before = self._gave.get(header.number, {}) if keep else {}
                self._gave[header.number] = {**before, peer: body.startswith(LIE)}
                super().submit(effect)
            case ev.CompareDonors(donors):
                self._answer(ev.DonorsCompared(tuple(self._loss_of(peer) for peer in donors), 2.3))
            case _:
                super().submit(effect)

    def _loss_of(self, peer: bytes) -> ev.DonorLoss:
        """As the real trainer would find it: one lie anywhere ruins the state."""
        mine = [copies.get(peer, next(iter(copies.values()))) for copies in self._gave.values()]
        others = [[lie for giver, lie in copies.items() if giver != peer] for copies in self._gave.values()]
        without = 1e6 if any(lies and lies[0] for lies in others) else 2.0
        return ev.DonorLoss(peer, 1e6 if any(mine) else 0.5, without)


class Storm:
    """Four members that train, and then JOINERS newcomers within a second, all with a ticket of the first."""

    def __init__(self, seed: int, liar: str = "") -> None:
        self.swarm = Swarm(seed, SwarmSettings(fragments=FRAGMENTS, every_steps=50), LINE)
        self.busiest = 0
        self.liar = liar
        for number in range(MEMBERS):
            self._add(f"n{number}", ("n0",) if number else ())
        assert self.swarm.run(30, lambda: self._trained(MEMBERS)) and not self.swarm.run(5)
        self.members = self.swarm.alive()
        self.began_at = self.swarm.world.now()
        for number in range(JOINERS):
            self.swarm.world.after(number / JOINERS, lambda number=number: self._add(f"j{number}", ("n0",)))  # type: ignore[misc]

    def play(self, seconds: float) -> list[float]:
        """Seconds from start to training, of every newcomer, sorted."""
        assert self.swarm.run(seconds, lambda: self._watch() and self._trained(JOINERS + 1)), self.story()
        began = self.began_at
        starts = [began + number / JOINERS for number in range(JOINERS)]
        return sorted(
            next(at for at, name, _ in node.events if name == "training") - start
            for node, start in zip(self.joiners(), starts, strict=True)
        )

    def joiners(self) -> list[SimNode]:
        return [self.swarm.nodes[f"j{number}"] for number in range(JOINERS)]

    def events(self, name: str) -> int:
        return sum(len([at for at, said, _ in node.events if said == name and at >= self.began_at])
                   for node in self.swarm.nodes.values())  # fmt: skip

    def story(self) -> str:
        late = [node for node in self.swarm.alive() if node.node.phase == Phase.JOINING]
        return "\n".join(
            [f"{len(late)} still join at {self.swarm.world.now() - self.began_at:.1f} s"]
            + [f"{node.name}: {node.events[-6:]}" for node in late[:5]]
        )

    def _watch(self) -> bool:
        self.busiest = max(self.busiest, *(len(node.node.donor.joiners) for node in self.swarm.nodes.values()))
        return True

    def _trained(self, least: int) -> bool:
        nodes = self.swarm.alive()
        return len(nodes) >= least and all(node.node.phase == Phase.TRAINING for node in nodes)

    def _add(self, name: str, seeds: tuple[str, ...]) -> None:
        def make(name: str, pace: Pace, deliver: Callable[[ev.Input], None]) -> Collector:
            settings = self.swarm.settings
            return Collector(
                self.swarm.world, settings.every_steps, settings.batch, pace, deliver, is_liar=name == self.liar
            )

        self.swarm.add(name, seeds, Pace(step_s=0.01), make)


def show(title: str, storm: Storm, waits: list[float]) -> None:
    given = {node.name: len(node.said("fragment_given")) for node in storm.swarm.nodes.values()}
    by_joiners = sum(count for name, count in given.items() if name.startswith("j"))
    print(
        f"\n{title}: training after {statistics.median(waits):.1f} s at the median, {waits[-1]:.1f} s at the latest; "
        f"at most {storm.busiest} joiners at one donor; the first four gave {sum(given.values()) - by_joiners} "
        f"fragments, newcomers {by_joiners}; {storm.events('joiner_refused')} refusals, "
        f"{storm.events('fragment_lost')} fragments lost, {storm.events('member_suspect')} suspicions, "
        f"{storm.events('member_dead')} deaths, {storm.events('link_up') // 2} links"
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_hundred_newcomers_at_once_get_their_state_and_nobody_is_buried() -> None:
    """One member alone would need 107 s to send them 134 MB: who has a state gives it on, and it takes a tenth."""
    storm = Storm(1)
    before = [node.node.life.done.steps for node in storm.members]
    waits = storm.play(60)
    show("100 at once", storm, waits)
    seconds = storm.swarm.world.now() - storm.began_at
    assert waits[-1] < 20
    assert storm.busiest <= JOINERS_MAX
    assert all(
        node.node.life.done.steps - steps > 90 * seconds for node, steps in zip(storm.members, before, strict=True)
    )
    assert storm.events("member_dead") == 0
    exchanged = [len([at for at, name, _ in n.events if name == "exchange_mixed" and at > storm.began_at])
                 for n in storm.members]  # fmt: skip
    assert min(exchanged) > seconds / 2, exchanged


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_storm_survives_the_death_of_a_member_it_draws_on() -> None:
    """The ticket's own address is killed in the middle of it: what it owed comes from others."""
    storm = Storm(2)
    storm.swarm.run(3)
    assert storm.swarm.nodes["n0"].node.donor.joiners
    storm.swarm.kill("n0")
    waits = storm.play(60)
    show("100 at once, their one address killed after 3 s", storm, waits)
    assert waits[-1] < 20
    assert storm.busiest <= JOINERS_MAX
    victim = storm.swarm.nodes["n0"].key.hex()[:8]
    buried = [fields["peer"] for node in storm.swarm.nodes.values() for fields in node.said("member_dead")]
    assert all(peer == victim for peer in buried)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_liar_among_the_donors_of_a_storm_infects_nobody() -> None:
    """Whoever was given a lie finds out before it trains on it, or gives it on, and fetches that part elsewhere."""
    storm = Storm(3, liar="n2")
    waits = storm.play(90)
    show("100 at once, one of four members lies", storm, waits)
    distrusted = [fields["peer"] for node in storm.joiners() for fields in node.said("donor_distrusted")]
    liar = storm.swarm.nodes["n2"].key.hex()[:8]
    print(f"{len(distrusted)} newcomers met the liar and distrusted it")
    assert distrusted and set(distrusted) == {liar}
    for node in storm.joiners():
        assert liar not in node.said("state_received")[-1]["donors"]
    assert waits[-1] < 20
    assert storm.events("member_dead") == 0
