"""The swarm's clock: a sum in which everybody raises only its own count, and no liar anybody else's."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from gossip.protocol.clock import DEAD_BAND_S, EXTRAPOLATE_MAX_S, PLAUSIBLE, RETURN, SLACK_S, SwarmClock
from gossip.protocol.membership import MEMBERS_KNOWN_MAX, SUSPICION_S, Membership
from gossip.protocol.messages import Phase, State, Status, Update

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
RATE = 100.0


class Play:
    """Our own node at 100 samples/s, stepping twice a second; others as the test says."""

    def __init__(self) -> None:
        self.membership = Membership(b"m" * 32, "m:1", random.Random(1))
        self.clock = SwarmClock(self.membership)
        self.now = 0.0
        self.trained = 0
        self._sequence = 0

    def begin(self, seconds: float = 2.0) -> Play:
        """Begin alone, and go on until our own speed is known."""
        self.clock.begin(0, self.now)
        return self.go(seconds)

    def go(self, seconds: float) -> Play:
        for _ in range(round(2 * seconds)):
            self.now += 0.5
            self.trained += int(RATE / 2)
            self.clock.on_steps(self.trained, self.now)
            self.clock.advance(self.now)
        return self

    def hear(self, key: bytes, samples: float, rate: float = RATE, phase: Phase = Phase.TRAINING, **said: Any) -> None:
        """From itself, now. Unless said, B reads next to nothing and the others much: the median is ours."""
        self._sequence += 1
        said = {"swarm_samples": 1 if key == B else 10**12, "run_s": self.clock.run_s} | said
        status = Status(self._sequence, phase, samples=int(samples), samples_per_s=rate, **said)
        self.membership.on_updates(key, (Update(key, "x:1", 0, State.ALIVE, status),), self.now)


@pytest.fixture
def play() -> Play:
    return Play()


def test_the_clock_is_the_sum_over_all(play: Play) -> None:
    """Ours as we know it, the others' as they last said."""
    play.begin()
    play.hear(A, 150, 0.0)
    play.hear(B, 80, 0.0)
    play.go(1)
    assert play.clock.samples == 300 + 150 + 80


def test_reports_are_carried_on_at_their_rate(play: Play) -> None:
    """News of a member may be many seconds old in a larger swarm; whoever lives is believed to step, for a while."""
    play.begin()
    play.hear(A, 200, 150.0)
    play.go(4)
    assert play.clock.samples == pytest.approx(600 + 200 + 4 * 150)
    before = play.go(EXTRAPOLATE_MAX_S).clock.samples
    assert play.go(10).clock.samples - before == pytest.approx(10 * RATE), "silent for longer: only we step"


def test_the_dead_count_for_what_they_did(play: Play) -> None:
    """Their samples were trained on; from their death on no more are."""
    play.begin()
    play.hear(A, 100)
    play.membership.on_link_broken(A, play.now, "reset")
    for tenth in range(int(10 * SUSPICION_S) + 1):  # a node that misses its own ticks buries nobody
        play.membership.on_tick(play.now + tenth / 10, [])
    assert play.go(10).clock.samples == pytest.approx(1_200 + 100)


def test_the_clock_never_goes_back(play: Play) -> None:
    """A learning rate that rises again because a guess was too high helps nobody."""
    play.begin()
    play.hear(A, 200)
    play.go(2)
    before = play.clock.samples
    play.hear(A, 210, 1.0)
    after = play.go(0.5).clock.samples
    assert before <= after < before + RATE


def test_our_own_speed_is_measured_not_counted_by_reports(play: Play) -> None:
    """A slow node reports every eight steps: between two reports its speed is what the reports before showed."""
    play.clock.begin(0, 0.0)
    for number in range(1, 9):
        play.clock.on_steps(320 * number, 1.6 * number)
        play.clock.advance(1.6 * number)
        assert play.clock.telling(1.6 * number + 0.7)["samples_per_s"] == pytest.approx(200)
    play.clock.advance(13.6)  # half a period on
    assert play.clock.samples == pytest.approx(8.5 * 320)
    assert play.clock.telling(60.0)["samples_per_s"] < 70, "a trainer that has fallen silent has no speed"


# -- Joining ---------------------------------------------------------------------------------------------


def test_a_joiner_begins_where_the_median_is_and_counts_nothing_twice(play: Play) -> None:
    """Its entries begin at the very reports its clock begins with; one liar among three moves it nowhere."""
    for key, reads in ((A, 50_000), (B, 50_200), (C, 10**15)):
        play.hear(key, 20_000, swarm_samples=reads, run_s=1e9 if key == C else 70.0)
    play.clock.begin(0, play.now)
    assert (play.clock.samples, play.clock.run_s) == (50_200, 70.0)
    play.now += 1.0
    for key in (A, B, C):
        play.hear(key, 20_100, swarm_samples=50_600)
    play.go(0.5)
    assert 50_500 <= play.clock.samples <= 50_700


def test_a_newcomer_is_counted_from_its_first_sample(play: Play) -> None:
    """News of it are late; what it did meanwhile belongs to the clock. Whoever has a past is in it already."""
    play.begin(10)
    play.hear(A, 250, 0.0)
    play.hear(B, 10**5, 0.0)
    assert play.go(1).clock.samples == pytest.approx(1_100 + 250)


# -- Lies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", [10**15, 2**62])
def test_who_claims_what_nobody_could_do_is_an_ordinary_node(play: Play, claim: int) -> None:
    """Whether at once, later, or as a speed."""
    play.begin()
    for _ in range(40):
        play.hear(A, claim, 9e11)
        play.go(0.5)
    assert play.clock.samples == pytest.approx(200 + 2 * 20 * RATE, rel=0.02)


def test_a_lie_later_in_life_gives_back_nothing_and_buys_nothing(play: Play) -> None:
    """What a slow node had been credited stays; from the lie on it is an ordinary one, not since its birth."""
    play.begin()
    play.hear(A, 0, RATE / 10)
    for second in range(1, 101):
        play.hear(A, second * RATE / 10, RATE / 10)
        play.go(1)
    before = play.clock.samples
    assert before == pytest.approx(200 + 100 * RATE * 1.1, rel=0.01)
    play.hear(A, 10**15, RATE)
    assert play.go(10).clock.samples - before == pytest.approx(2 * 10 * RATE, rel=0.06)


def test_a_fast_node_is_believed(play: Play) -> None:
    """Ten times our speed is a better machine, not a lie; late news make its count jump, and are believed too."""
    play.begin()
    play.hear(A, 0, 10 * RATE)
    for second in range(8, 65, 8):
        play.go(8)
        play.hear(A, second * 10 * RATE, 10 * RATE)
    assert play.go(0.5).clock.samples == pytest.approx(66.5 * RATE + 64.5 * 10 * RATE, rel=0.01)


def test_what_is_just_plausible_is_all_that_a_lie_can_buy(play: Play) -> None:
    """The bound, stated: PLAUSIBLE ordinary nodes, and SLACK_S of one."""
    play.begin()
    play.hear(A, 0)
    for _ in range(20):
        play.go(0.5)
        play.hear(A, PLAUSIBLE * RATE * (play.now - 2), 9e11)
    assert play.clock.samples <= 200 + 10 * RATE * (1 + PLAUSIBLE) + SLACK_S * RATE


# -- The median ------------------------------------------------------------------------------------------


def test_who_lags_is_drawn_forward_at_most_at_double_speed(play: Play) -> None:
    """Two of three read more than we do: we hurry, but learning rates do not jump."""
    play.begin()
    for key in (A, B):
        play.hear(key, 0)
    for _ in range(20):
        for key in (A, B):
            play.hear(key, play.trained - 200, swarm_samples=50_000)
        before = play.clock.samples
        play.go(0.5)
        assert play.clock.samples - before < 2.1 * 3 * RATE * 0.5
    assert play.clock.samples == pytest.approx(200 + 2 * 3 * 10 * RATE, rel=0.06)


def test_who_is_ahead_waits_at_half_speed(play: Play) -> None:
    """Never back. One liar that reads nothing slows nobody."""
    play.begin()
    for _ in range(20):
        for key in (A, B):
            play.hear(key, play.trained, swarm_samples=1)
        play.go(0.5)
    assert play.clock.samples == pytest.approx(600 + 3 * 10 * RATE / 2, rel=0.1)
    before = play.clock.samples
    for _ in range(20):
        play.hear(A, play.trained, swarm_samples=1)
        play.hear(B, play.trained, swarm_samples=10**12)
        play.go(0.5)
    assert play.clock.samples - before == pytest.approx((1 + RETURN) * 3 * 10 * RATE, rel=0.05), "back to its own sum"


def test_small_differences_are_left_alone(play: Play) -> None:
    """Reports are never quite fresh: clocks that all followed each other would drift together."""
    play.begin()
    for _ in range(20):
        for key in (A, B):
            play.hear(key, play.trained, swarm_samples=int(play.clock.samples - 3 * RATE * DEAD_BAND_S * 0.9))
        play.go(0.5)
    assert play.clock.samples == pytest.approx(200 + 400 + 3 * 10 * RATE, rel=0.02)


# -- Time ------------------------------------------------------------------------------------------------


def test_pauses_are_no_part_of_the_run(play: Play) -> None:
    """Neither the run's time nor anybody's samples go on, and the speed afterwards is the speed before."""
    play.begin(10)
    play.clock.pause(play.now)
    assert play.clock.telling(play.now)["samples_per_s"] == 0
    play.now += 300
    play.clock.advance(play.now)
    assert (play.clock.samples, play.clock.run_s) == (1_000, 10.0)
    play.clock.resume(play.now)
    assert play.clock.telling(play.now)["samples_per_s"] == pytest.approx(RATE)
    play.go(10)
    assert (play.clock.samples, play.clock.run_s) == (2_000, 20.0)


def test_a_wrong_reading_of_the_time_is_drawn_to_the_median(play: Play) -> None:
    """At double speed, and one liar changes nothing."""
    play.begin(10)
    for _ in range(40):
        for key, ahead_s in ((A, 10.0), (B, 10.0), (C, 1e9)):
            play.hear(key, play.trained, run_s=play.now + ahead_s)
        play.go(0.5)
    assert play.clock.run_s == pytest.approx(40, abs=1.1)


# -- Checkpoints -----------------------------------------------------------------------------------------


def test_a_later_life_goes_on_where_the_former_ended(play: Play) -> None:
    """What others did meanwhile is counted once; the notes are plain JSON."""
    play.begin()
    play.hear(A, 200)
    play.go(2)
    before, notes = play.clock.samples, json.loads(json.dumps(play.clock.notes()))
    later = Play()
    later.clock.restore(notes)
    later.trained = play.trained
    later.clock.begin(play.trained, later.now)
    assert later.clock.samples == before and later.clock.run_s == play.clock.run_s
    later.go(1)
    later.hear(A, 700)
    assert later.go(0.5).clock.samples == pytest.approx(550 + 700 + 50)


def test_the_forgotten_are_one_number(play: Play) -> None:
    """Entries of members that nobody knows any more filled the checkpoint; what they did stays counted."""
    play.begin()
    for number in range(MEMBERS_KNOWN_MAX + 100):
        key = number.to_bytes(32, "big")
        play.hear(key, 10, 0.0, swarm_samples=0)
        if number % 1_000 == 999:
            play.clock.advance(play.now, at_once=True)
            for known in list(play.membership.members):
                play.membership.members.pop(known)
    before = play.go(1).clock.samples
    assert before >= 10 * (MEMBERS_KNOWN_MAX + 100)
    play.go(1)
    assert play.clock.samples == pytest.approx(before + RATE, abs=1)
    assert len(play.clock.notes()["entries"]) <= MEMBERS_KNOWN_MAX
