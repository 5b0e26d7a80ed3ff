"""The phases of one node's life, and where its state comes from."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gossip.protocol import events as ev
from gossip.protocol.commands import Commands
from gossip.protocol.exchange import Exchanges
from gossip.protocol.lifecycle import Lifecycle
from gossip.protocol.links import Links
from gossip.protocol.membership import Membership
from gossip.protocol.messages import Command, FragmentRequest, Header, PayloadKind, Phase, State, Status, Update
from gossip.protocol.pacing import Pacing
from gossip.protocol.progress import Progress
from gossip.protocol.resuming import Resumed, Source
from gossip.protocol.saving import Saving
from gossip.protocol.settings import NodeSettings

ME, A, B = b"m" * 32, b"a" * 32, b"b" * 32
SEEDS = ((A, "a:1"), (B, "b:1"))
TOTAL = 1_000_000
BACK = Resumed(steps=3_000, samples=100_000)


@dataclass
class Life:
    """One lifecycle among the real machines it stands between, and a swarm that tells it what the test says."""

    seeds: tuple[tuple[bytes, str], ...] = ()
    resumed: Resumed | None = None
    now: float = 0.0
    effects: list[ev.Effect] = field(default_factory=list)
    sequence: int = 0

    def __post_init__(self) -> None:
        settings = NodeSettings(
            key=ME, address="m:1", seeds=self.seeds, fragments=2, samples_total=TOTAL, every_steps=8, blocks=0.1,
            resumed=self.resumed,
        )  # fmt: skip
        rng = random.Random(1)
        self.membership = Membership(ME, "m:1", rng)
        self.links = Links(self.membership, rng)
        self.progress = Progress(self.membership, TOTAL)
        self.commands = Commands(self.membership)
        self.saving = Saving(60.0)
        self.pacing = Pacing(Exchanges(), settings)
        former = self.resumed or Resumed()
        done = ev.StepsDone(former.steps, former.samples, 0.0, 0.0, 0.0)
        self.machine = Lifecycle(
            settings, done, self.membership, self.links, self.progress, self.commands, self.saving, self.pacing, rng
        )
        self.do(self.machine.start(self.now))

    def do(self, effects: list[ev.Effect]) -> list[ev.Effect]:
        self.effects += effects
        return effects

    def hear(self, peer: bytes, phase: Phase, samples: int = 0, others: tuple[Update, ...] = ()) -> list[ev.Effect]:
        """`peer`, whose link is up, tells what it knows."""
        self.links.up.setdefault(peer, self.now)
        self.sequence += 1
        reading = self.progress.reading
        status = Status(self.sequence, phase=phase, samples=samples, swarm_samples=samples)
        self.membership.on_updates(peer, (Update(peer, "x:1", 0, State.ALIVE, status), *others), self.now)
        return self.do([*self.machine.on_members(peer, self.now), *self.machine.on_news(reading, self.now)])

    def wait(self, seconds: float) -> list[ev.Effect]:
        self.now += seconds
        self.progress.advance(self.now)
        return self.do(self.machine.on_tick(self.now))

    def order(self, name: str, value: str = "") -> list[ev.Effect]:
        """The owner's word."""
        command = Command(self.commands.sequence + 1, name, value, b"s" * 64)
        self.commands.on_command(A, command, self.now, ())
        return self.do(self.machine.obey(self.now))

    def step(self, samples: int) -> list[ev.Effect]:
        done = self.machine.done
        self.now += 0.1
        more = ev.StepsDone(done.steps + 8, done.samples + samples, 0.5, 0.01, 0.02)
        return self.do(self.machine.on_steps_done(more, self.now))

    def give_state(self) -> None:
        """Whoever is linked gives what is asked of it, and is found to be honest."""
        joiner, now = self.machine.joiner, self.now
        coming = [*self.effects, *joiner.on_tick(now, self.links.up)]
        while coming:
            match coming.pop(0):
                case ev.Send(peer, FragmentRequest(index)):
                    coming += joiner.on_fragment(peer, Header(PayloadKind.FRAGMENT, 0, index, 9), b"x", now)
                case ev.LoadFragment(peer, header):
                    coming += joiner.on_loaded(peer, header.number, now, self.links.up)
                case ev.CompareDonors(donors):
                    losses = tuple(ev.DonorLoss(peer, 0.4, 2.3) for peer in donors)
                    self.do(self.machine.on_donors_compared(ev.DonorsCompared(losses, 2.3), now))

    def said(self) -> list[str]:
        return [effect.name for effect in self.effects if isinstance(effect, ev.Emit)]


def test_where_the_state_comes_from() -> None:
    """One word says it: a founder's is its own, a newcomer's the swarm's, and who comes back does not know yet."""
    founder, newcomer, back = Life(), Life(SEEDS), Life(SEEDS, BACK)
    assert [life.machine.source for life in (founder, newcomer, back)] == [
        Source.OWN, Source.SWARM, Source.UNDECIDED
    ]  # fmt: skip
    assert [life.machine.phase for life in (founder, newcomer, back)] == [Phase.TRAINING, Phase.JOINING, Phase.JOINING]
    assert [life.machine.has_state for life in (founder, newcomer, back)] == [True, False, True]
    alone = Life((), BACK)
    assert alone.machine.source == Source.OWN and alone.machine.phase == Phase.TRAINING, "there is nobody to ask"


def test_a_pause_is_neither_an_end_nor_a_beginning() -> None:
    life = Life()
    assert ev.StopTraining() in life.order("pause") and life.machine.phase == Phase.PAUSED
    assert life.order("pause") == [], "it is so already"
    assert ev.StartTraining(0) in life.order("resume") and life.machine.phase == Phase.TRAINING
    assert life.said() == ["training", "paused", "resumed"]


def test_the_owner_may_stop_what_is_paused() -> None:
    life = Life()
    life.order("pause")
    life.order("stop")
    assert life.machine.phase == Phase.SETTLING
    assert life.machine.on_settled(1.0)[-1] == ev.Finish("stopped by the owner")
    assert life.machine.phase == Phase.DONE


def test_a_run_that_is_done_is_settled_and_left_with_its_reason() -> None:
    life = Life()
    assert ev.StopTraining() in life.step(TOTAL) and life.machine.phase == Phase.SETTLING
    assert life.step(32) == [], "what was in hand still counts, and begins nothing"
    assert life.machine.on_settled(life.now)[-1] == ev.Finish(f"the run is over: {TOTAL:,} samples are trained on")


def test_a_newcomer_trains_once_members_gave_it_a_state() -> None:
    """Its learning rate ramps up: nobody's momentum is with it yet."""
    life = Life(SEEDS)
    life.hear(A, Phase.TRAINING, samples=500_000)
    life.give_state()
    assert life.machine.has_state and life.said() == ["donors_compared", "state_received", "training"]
    assert life.effects.count(ev.StartTraining(ramp_steps=16)) == 1


def test_a_newcomer_whom_nobody_gives_a_state_leaves() -> None:
    """It has nothing of its own to go on with; who was here before has."""
    newcomer = Life(SEEDS)
    for _ in range(62):
        newcomer.wait(1.0)
        newcomer.machine.joiner.on_tick(newcomer.now, ())
    assert newcomer.machine.phase == Phase.DONE and "leaving" in newcomer.said()


def test_who_waits_for_the_swarms_state_and_loses_it_goes_on_from_its_own() -> None:
    back = Life(SEEDS, BACK)
    back.hear(A, Phase.TRAINING, samples=TOTAL // 2)
    assert back.machine.source == Source.SWARM and not back.machine.has_state and back.said() == ["far_behind"]
    back.links.up.clear()
    for _ in range(12):
        back.wait(1.0)
    assert back.machine.source == Source.OWN and back.machine.phase == Phase.TRAINING
    assert back.said() == ["far_behind", "state_given_up", "training"] and ev.DropFragments() in back.effects


def test_who_turns_to_the_swarm_late_steps_back_and_begins_again() -> None:
    """Not a donor meanwhile, not a partner, and nothing is saved that is half of one state and half of another."""
    back = Life(SEEDS, BACK)
    back.wait(2.0)
    assert back.machine.phase == Phase.TRAINING and back.saving.next_deadline() < math.inf
    turn = back.hear(A, Phase.TRAINING, samples=TOTAL // 2)
    assert back.machine.phase == back.membership.status.phase == Phase.JOINING and not back.machine.has_state
    assert back.saving.next_deadline() == math.inf
    stop, take = (turn.index(effect) for effect in (ev.StopTraining(), ev.TakeFragments()))
    assert (
        stop < take < next(n for n, e in enumerate(turn) if isinstance(e, ev.Send) and e.message == FragmentRequest(0))
    )
    place = back.progress.reading
    back.give_state()
    assert back.machine.phase == Phase.TRAINING and back.progress.reading >= place
    assert back.said() == ["training", "far_behind", "donors_compared", "state_received", "training"]
    assert back.saving.next_deadline() < math.inf
    assert back.hear(A, Phase.TRAINING, samples=TOTAL * 3 // 4) == [], "once"


INPUTS = st.sampled_from(
    ["tick", "untrained", "trained", "ahead", "silence", "pause", "resume", "stop", "steps", "state"]
)


@given(is_back=st.booleans(), inputs=st.lists(INPUTS, max_size=30))
def test_the_trainer_is_never_started_twice(is_back: bool, inputs: list[str]) -> None:
    """Whatever happens in whatever order: one start, one stop, and steps are asked for in TRAINING only."""
    life = Life(SEEDS, BACK if is_back else None)
    for name in inputs:
        if life.machine.phase == Phase.DONE:
            break
        play(life, name)
        started = [
            isinstance(e, ev.StartTraining) for e in life.effects if isinstance(e, ev.StartTraining | ev.StopTraining)
        ]
        assert not any(a and b for a, b in pairwise(started)), "two starts, and no stop between"
        assert (started[-1:] == [True]) == (life.machine.phase == Phase.TRAINING)
        assert life.machine.has_state or not life.machine.is_trained
        assert life.membership.status.phase == life.machine.phase


def play(life: Life, name: str) -> None:
    match name:
        case "tick":
            life.wait(1.0)
        case "untrained":
            life.hear(B, Phase.JOINING)
        case "trained":
            life.hear(A, Phase.TRAINING, samples=101_000)
        case "ahead":
            life.hear(A, Phase.TRAINING, samples=700_000)
        case "silence":
            life.links.up.clear()
            for _ in range(12):
                life.wait(1.0)
        case "steps":
            life.step(1_000)
        case "state":
            life.give_state()
        case command:
            life.order(command)
