"""Whose state a node goes on from that was here before."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gossip.protocol.membership import Membership
from gossip.protocol.messages import Phase, State, Status, Update
from gossip.protocol.progress import Progress
from gossip.protocol.resuming import FAR_AHEAD, FIRST_WORD_S, Resuming, Source

A, B = b"a" * 32, b"b" * 32
TOTAL = 1_000_000
SAVED = 500_000


class Back:
    """A node that comes back at the middle of its run, and what it hears."""

    def __init__(self, samples: int = SAVED, run_s: float = 0.0) -> None:
        self.membership = Membership(b"m" * 32, "m:1", random.Random(1))
        self.progress = Progress(self.membership, TOTAL, time_s=1_000.0)
        notes = {"samples": samples, "run_s": run_s, "ordinary": 0.0, "entries": {}, "looks": 0}
        self.progress.restore(notes | {"stopping": {"best": 0.0, "looks_since": 0}})
        self.resuming = Resuming(self.progress)
        self.resuming.begin(((A, "a:1"), (B, "b:1,b:2")), 0.0)
        self.source = Source.UNDECIDED
        self.sequence = 0

    def hear(self, peer: bytes, phase: Phase, samples: int = 0, run_s: float = 0.0) -> None:
        self.sequence += 1
        status = Status(self.sequence, phase=phase, samples=samples, swarm_samples=samples, run_s=run_s)
        self.membership.on_updates(peer, (Update(peer, "x:1", 0, State.ALIVE, status),), 0.0)
        self.resuming.on_members(peer)

    def is_overtaken_by(self, peer: bytes, samples: int) -> bool:
        """Once its word is heard."""
        reading = self.progress.reading
        self.hear(peer, Phase.TRAINING, samples=samples)
        return self.resuming.is_overtaken(reading)


def alone() -> Back:
    """One that has heard nobody, and trains."""
    back = Back()
    back.resuming.choose(FIRST_WORD_S)
    back.progress.begin(0, FIRST_WORD_S)
    return back


def test_the_word_of_one_that_trains_decides_at_once() -> None:
    """Of donors that stand where we do nothing is transferred, of those far ahead all."""
    for ahead, source in ((0.9 * FAR_AHEAD, Source.OWN), (1.1 * FAR_AHEAD, Source.SWARM), (-0.3, Source.OWN)):
        back = Back()
        assert back.resuming.choose(0.0) == Source.UNDECIDED
        back.hear(A, Phase.TRAINING, samples=SAVED + round(ahead * TOTAL))
        assert back.resuming.choose(0.1) == source


def test_who_has_no_state_ticks_off_its_own_door_only() -> None:
    """A joiner, or another that has just come back, is often the first to speak; the swarm may be at the next door."""
    back = Back()
    back.hear(A, Phase.JOINING)
    assert back.resuming.choose(0.1) == Source.UNDECIDED
    back.hear(B, Phase.TRAINING, samples=SAVED + TOTAL // 4)
    assert back.resuming.choose(0.2) == Source.SWARM


def test_when_nobody_is_left_to_wait_for_it_goes_on() -> None:
    """Refused at every address, or without a state: at once. Silent: in two seconds."""
    back = Back()
    back.hear(A, Phase.JOINING)
    back.resuming.on_refused(B, "b:1")
    assert back.resuming.choose(0.1) == Source.UNDECIDED
    back.resuming.on_refused(B, "b:2")
    assert back.resuming.choose(0.1) == Source.OWN
    silent = Back()
    assert silent.resuming.choose(FIRST_WORD_S - 0.1) == Source.UNDECIDED
    assert silent.resuming.choose(FIRST_WORD_S) == Source.OWN and silent.resuming.is_open


def test_a_swarm_that_turns_up_late_overtakes_who_has_hardly_begun() -> None:
    """Not who stands where it does, and not who has gone on as far itself."""
    back = alone()
    assert not back.is_overtaken_by(A, samples=SAVED + 5_000) and back.resuming.is_open
    assert back.is_overtaken_by(B, samples=SAVED + TOTAL // 4) is False, "one of two may lie"
    assert back.is_overtaken_by(A, samples=SAVED + TOTAL // 4)
    far = alone()
    far.progress.on_steps(TOTAL // 20, 60.0)
    assert not far.is_overtaken_by(A, samples=SAVED + TOTAL // 4) and not far.resuming.is_open


def test_a_clock_that_leaps_to_the_swarms_does_not_hide_it() -> None:
    """Who begins by the word of one or two jumps to the others' reading within seconds: it stood elsewhere before."""
    back = Back()
    back.hear(A, Phase.TRAINING, samples=SAVED + 1_000)
    assert back.resuming.choose(0.1) == Source.OWN
    back.progress.begin(0, 0.1)
    assert [back.is_overtaken_by(peer, samples=SAVED + TOTAL // 4) for peer in (B, b"c" * 32)] == [False, True]
    back.progress.advance(0.5)
    assert back.progress.fraction > 0.74


@given(saved=st.lists(st.integers(1, TOTAL - 1), min_size=2, max_size=6), draw=st.randoms(use_true_random=False))
def test_of_those_that_come_back_together_one_at_least_goes_on(saved: list[int], draw: random.Random) -> None:
    """If each waited for another's state, nobody would have one to give. Words travel in any order, and are late."""
    swarm = {bytes([number]) * 32: Back(samples) for number, samples in enumerate(saved)}
    said: list[tuple[bytes, Phase, int]] = []
    for step in range(80):
        me, back = draw.choice(list(swarm.items()))
        now = step / 10
        back.progress.advance(now)
        words = [word for word in said if word[0] != me]
        before = back.progress.reading
        if words and draw.random() < 0.7:
            peer, phase, samples = draw.choice(words)
            back.hear(peer, phase, samples=samples)
        if back.source == Source.UNDECIDED:
            back.source = back.resuming.choose(FIRST_WORD_S if draw.random() < 0.3 else 0.0)
            if back.source == Source.OWN:
                back.progress.begin(0, now)
        elif back.source == Source.OWN and back.resuming.is_overtaken(before):
            back.source = Source.SWARM
        phase = Phase.TRAINING if back.source == Source.OWN else Phase.JOINING
        said.append((me, phase, int(back.progress.reading[0])))
        sources = [node.source for node in swarm.values()]
        assert Source.SWARM not in sources or Source.OWN in sources


@pytest.mark.parametrize("by_time", [False, True])
def test_how_far_is_measured_by_the_length_the_run_has_now(by_time: bool) -> None:
    """The run was over when we left, then its owner made it ten times as long: as a share, ours was equal."""
    back = Back(samples=0, run_s=1_000.0) if by_time else Back(samples=TOTAL)
    if by_time:
        back.progress._time_s = 10_000.0
        back.hear(A, Phase.TRAINING, samples=1, run_s=3_000.0)
    else:
        back.progress.samples_total = 10 * TOTAL  # the owner's word comes before the members'
        back.hear(A, Phase.TRAINING, samples=3 * TOTAL)
    assert back.resuming.choose(0.1) == Source.SWARM
