"""Time stamps tell at which end a queue stands, whatever the clocks show, and however they drift."""

from __future__ import annotations

import random

import pytest

from gossip.protocol.queues import PEERS_MAX, STAMPS, STAMPS_PER_S, Queues, lag, stamp

PEERS = [bytes([number]) * 32 for number in range(5)]


class Peer:
    """A peer's clock: `now` + ahead_s, running `drift` faster."""

    def __init__(self, key: bytes, ahead_s: float = 0.0, drift: float = 0.0) -> None:
        self.key, self.ahead_s, self.drift = key, ahead_s, drift

    def clock(self, now: float) -> float:
        return self.ahead_s + now * (1 + self.drift)

    def trip(self, queues: Queues, now: float, there_s: float, back_s: float, works_s: float = 0.05) -> bool:
        """An exchange that comes home at `now`."""
        left = now - there_s - works_s - back_s
        there = lag(stamp(left), self.clock(left + there_s))
        back = lag(stamp(self.clock(now - back_s)), now)
        return queues.on_trip(self.key, there, back, now - left, now)


@pytest.mark.parametrize("ahead_s", [0.0, 1e7, -1e7, 2**32 / STAMPS_PER_S - 3.0, 12345.6789])
def test_each_queue_is_seen_at_its_end(ahead_s: float) -> None:
    """Clocks count from anywhere, and stamps begin anew in the middle of it."""
    queues, peer = Queues(), Peer(PEERS[0], ahead_s)
    for turn, (ours_s, theirs_s) in enumerate([(0.0, 0.0), (0.4, 0.0), (0.4, 0.0), (0.0, 0.7), (0.0, 0.7)]):
        assert peer.trip(queues, 100.0 + turn, 0.03 + ours_s, 0.02 + theirs_s)
        if turn in (2, 4):
            assert queues.ours_s(100.0 + turn) == pytest.approx(ours_s, abs=1e-3)
            assert queues.theirs_s(PEERS[0]) == pytest.approx(theirs_s, abs=1e-3)


def test_who_answers_late_has_no_queue() -> None:
    """It was in the middle of a step: that is in no stamp."""
    queues, peer = Queues(), Peer(PEERS[0])
    for turn in range(6):
        peer.trip(queues, 10.0 + 5 * turn, 0.01, 0.01, works_s=3.0 * (turn % 2))
        assert max(queues.ours_s(10.0 + 5 * turn), queues.theirs_s(PEERS[0])) < 1e-3


@pytest.mark.parametrize("drift", [1e-4, -1e-4])
def test_drifting_clocks_do_not_look_like_a_queue(drift: float) -> None:
    """Ten times what a quartz does, for two hours; queues come and go at both ends all the time."""
    rng, queues, peer = random.Random(3), Queues(), Peer(PEERS[0], 50.0, drift)
    worst = 0.0
    for turn in range(14_400):
        now = 10.0 + 0.5 * turn
        ours_s, theirs_s = (rng.choice([0.0, 0.1, 0.2]) for _ in range(2))
        for _ in range(2):
            peer.trip(queues, now, 0.02 + ours_s, 0.02 + theirs_s)
        if turn > 100:  # no queue was seen at least once
            worst = max(worst, abs(queues.ours_s(now) - ours_s), abs(queues.theirs_s(PEERS[0]) - theirs_s))
    assert worst < 0.015


def test_a_queue_that_never_ends_is_not_taken_for_the_road() -> None:
    """The least is renewed, for clocks drift; the sum of both ways, which do not, still knows that there is a queue."""
    queues, peer = Queues(), Peer(PEERS[0])
    peer.trip(queues, 0.0, 0.02, 0.02)
    for turn in range(3_600):
        peer.trip(queues, 1.0 + turn, 0.52, 0.02)
    assert queues.ours_s(3_600.0) == pytest.approx(0.25, abs=1e-2)


def test_a_clock_that_was_set_is_noticed() -> None:
    """A process started anew counts from elsewhere: no queue is longer than the whole trip took."""
    for ahead_s in (5_000.0, -5_000.0):
        queues = Queues()
        for turn in range(3):
            Peer(PEERS[0]).trip(queues, 10.0 + turn, 0.02, 0.02)
        for turn in range(3):
            Peer(PEERS[0], ahead_s).trip(queues, 20.0 + turn, 0.02, 0.02)
        assert queues.ours_s(23.0) == pytest.approx(0, abs=1e-3)
        assert queues.theirs_s(PEERS[0]) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("lie_s", [-0.4, 3.0])
def test_one_liar_among_many_does_not_move_what_we_believe_of_our_own_line(lie_s: float) -> None:
    """It says of our offers that they came at once, or far too late: each peer has one voice."""
    queues = Queues()
    for turn in range(4):
        for key in PEERS[:4]:
            Peer(key).trip(queues, 10.0 + turn, 0.02 + 0.5 * (turn > 1), 0.02)
        for _ in range(20):
            liar = Peer(PEERS[4], lie_s if turn > 1 else 0.0)
            liar.trip(queues, 10.0 + turn, 0.52, 0.02, works_s=3.5)
    assert queues.ours_s(13.0) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_stamps_say_what_is_believed_stays_within_the_trip(seed: int) -> None:
    """No peer makes us see a queue longer than we waited for it ourselves, or keep more than a bounded table."""
    rng, queues = random.Random(seed), Queues()
    for turn in range(2_000):
        peer = rng.randrange(2 * PEERS_MAX).to_bytes(32, "big")
        there = rng.choice([0, 1, STAMPS - 1, STAMPS // 2, rng.randrange(STAMPS), rng.randrange(3_000)])
        back = rng.choice([0, STAMPS - there, rng.randrange(STAMPS), rng.randrange(3_000)]) % STAMPS
        queues.on_trip(peer, there, back, rng.choice([0.0, 0.1, 1.0]), turn * 0.01)
        assert 0 <= queues.ours_s(turn * 0.01) <= 1.001
        assert 0 <= queues.theirs_s(peer) <= 1.001
    assert len(queues._roads) <= PEERS_MAX
