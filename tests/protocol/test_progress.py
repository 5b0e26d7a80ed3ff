"""Where the run stands, by samples or by time, and why it is over."""

from __future__ import annotations

import json
import math
import random

import pytest

from gossip.protocol.membership import Membership
from gossip.protocol.messages import Phase, State, Status, Update
from gossip.protocol.progress import LOOKS, Progress

A, B = b"a" * 32, b"b" * 32


@pytest.fixture
def membership() -> Membership:
    return Membership(b"m" * 32, "m:1", random.Random(1))


def train(progress: Progress, seconds: float, since: float = 0.0) -> int:
    """100 samples a second, reported every second. Returns how many looks were due."""
    looks = 0
    for second in range(1, int(seconds) + 1):
        progress.on_steps(int(100 * (since + second)), since + second)
        looks += progress.look_is_due()
    return looks


def begun(membership: Membership, samples_total: int = 10**9, time_s: float = math.inf) -> Progress:
    progress = Progress(membership, samples_total, time_s)
    progress.begin(0, 0.0)
    return progress


@pytest.mark.parametrize(
    ("samples_total", "time_s", "why"),
    [(10_000, math.inf, "10,000 samples are trained on"), (10**9, 100.0, "its 100 s have passed")],
)
def test_the_first_bound_reached_ends_the_run(
    membership: Membership, samples_total: int, time_s: float, why: str
) -> None:
    """And a share stays a share. Forty looks make the picture, however a run is bounded."""
    progress = begun(membership, samples_total, time_s)
    assert train(progress, 50) == LOOKS // 2 and progress.fraction == pytest.approx(0.5) and not progress.is_over
    assert train(progress, 100, since=50) == LOOKS // 2
    assert progress.fraction == 1.0 and progress.end == why and membership.status.wants_end


def test_the_swarm_is_told(membership: Membership) -> None:
    """Our status carries our count, our speed and how we read the swarm's clock and the run's time."""
    train(begun(membership), 10)
    status = membership.status
    assert (status.samples, status.samples_per_s, status.swarm_samples, status.run_s) == (1_000, 100, 1_000, 10)
    assert not status.wants_end


def test_a_wish_of_our_own_is_told_until_we_leave(membership: Membership) -> None:
    """A node stopped by its user leaves no vote behind."""
    progress = Progress(membership, 10**9, target_accuracy=0.9)
    progress.begin(0, 0.0)
    for key in (A, B):
        update = Update(key, "x:1", 0, State.ALIVE, Status(1, Phase.TRAINING))
        membership.on_updates(key, (update,), 0.0)
    progress.on_look(0.95, 1.0)
    assert membership.status.wants_end and not progress.is_over
    progress.stop(2.0)
    assert not membership.status.wants_end


def test_what_a_newcomer_hears_of_the_end_is_no_verdict(membership: Membership) -> None:
    """The first it meets may lie: with more voices the median moves, and so does what it believes."""
    progress = Progress(membership, 10_000)
    for key, reads in ((A, 10**15), (B, 100)):
        status = Status(1, Phase.TRAINING, swarm_samples=reads)
        membership.on_updates(key, (Update(key, "x:1", 0, State.ALIVE, status),), 0.0)
        progress.advance(1.0 if key == A else 2.0)
        assert progress.is_over == (key == A)
    progress.begin(0, 3.0)
    assert progress.fraction == 0.01 and not progress.is_over


def test_a_joiner_takes_no_look_that_is_past(membership: Membership) -> None:
    """It begins at the swarm's place, and looks where the next one is due."""
    update = Update(A, "x:1", 0, State.ALIVE, Status(1, Phase.TRAINING, swarm_samples=5_000))
    membership.on_updates(A, (update,), 0.0)
    progress = begun(membership, 10_000)
    assert progress.fraction == 0.5 and not progress.look_is_due()


def test_a_later_life_goes_on_where_the_former_ended(membership: Membership) -> None:
    """Samples, time and looks."""
    before = begun(membership, 10_000)
    train(before, 50)
    after = Progress(membership, 10_000)
    after.restore(json.loads(json.dumps(before.notes())))
    after.begin(5_000, 1_000.0)
    assert (after.samples, after.run_s, after.look_is_due()) == (5_000, 50.0, False)
