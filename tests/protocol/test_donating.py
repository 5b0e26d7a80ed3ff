"""A donor serves a few newcomers, trains on, and sends the others elsewhere."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from gossip.protocol import events as ev
from gossip.protocol.donating import FOR_ONE_MAX, JOINERS_MAX, NAMES_MAX, SERVING_MAX, SLOT_IDLE_S, Donor
from gossip.protocol.membership import Membership
from gossip.protocol.messages import PayloadKind, Phase, Refusal, State, Status, Update

FRAGMENTS = 10


def key(number: int) -> bytes:
    return bytes([number]) * 32


@pytest.fixture
def donor() -> Donor:
    """It knows six members that hold a state, 1 to 6, and nobody else."""
    membership = Membership(b"m" * 32, "m:1", random.Random(1))
    for number in range(1, 7):
        learn(membership, number)
    return Donor(FRAGMENTS, 0, membership, random.Random(2))


def learn(membership: Membership, number: int, phase: Phase = Phase.TRAINING) -> None:
    update = Update(key(number), f"n{number}:1", 0, State.ALIVE, Status(1, phase))
    membership.on_updates(update.key, (update,), 0.0)


def refusal(effects: list[ev.Effect]) -> Refusal:
    (message,) = [e.message for e in effects if isinstance(e, ev.Send) and isinstance(e.message, Refusal)]
    return message


def named(effects: list[ev.Effect]) -> list[int]:
    return [update.key[0] for update in refusal(effects).updates]


def serve(donor: Donor, count: int, now: float = 0.0) -> list[bytes]:
    joiners = [key(100 + number) for number in range(count)]
    for joiner in joiners:
        assert donor.on_request(joiner, 0, True, now) == [ev.ReadFragment(joiner, 0)]
    return joiners


def test_a_donor_serves_a_few_at_a_time(donor: Donor) -> None:
    """It trains on meanwhile: the next one is BUSY, and who is served may ask for a window at once."""
    joiners = serve(donor, JOINERS_MAX)
    assert refusal(donor.on_request(key(200), 1, True, 0.0)).code == "BUSY"
    for joiner in joiners:
        for index in range(1, FOR_ONE_MAX):
            assert donor.on_request(joiner, index, True, 0.0) == [ev.ReadFragment(joiner, index)]
        assert refusal(donor.on_request(joiner, 9, True, 0.0)).code == "BUSY"
    assert donor.serving == SERVING_MAX
    assert isinstance(donor.on_ready(joiners[0], 0, b"x", step=3)[0], ev.SendPayload)
    assert donor.serving == SERVING_MAX - 1


def test_a_slot_is_free_when_its_joiner_is_gone_trains_or_asks_no_more(donor: Donor) -> None:
    """Nobody says that he has all he wants."""
    gone, trained, idle, busy = serve(donor, JOINERS_MAX)
    for joiner in (gone, trained, idle):
        donor.on_ready(joiner, 0, b"x", step=3)
    donor.on_link_down(gone)
    assert donor.on_request(key(201), 0, True, 0.1) == [ev.ReadFragment(key(201), 0)]
    learn(donor._membership, trained[0])
    assert donor.on_request(key(202), 0, True, 0.1) == [ev.ReadFragment(key(202), 0)]
    assert refusal(donor.on_request(key(203), 0, True, 0.1)).code == "BUSY"
    assert donor.on_request(key(203), 0, True, SLOT_IDLE_S + 0.1) == [ev.ReadFragment(key(203), 0)]
    assert idle not in donor.joiners and busy in donor.joiners


def test_a_node_that_has_spent_its_upload_serves_nobody(donor: Donor) -> None:
    """It says BUSY, and whom else to ask."""
    assert refusal(donor.on_request(key(100), 0, True, 0.0, in_debt=True)).code == "BUSY"
    assert len(named(donor.on_request(key(100), 0, True, 0.0, in_debt=True))) == NAMES_MAX


def test_nonsense_and_bad_timing_are_answered(donor: Donor) -> None:
    """Who holds no state itself still knows who does."""
    assert refusal(donor.on_request(key(100), 0, False, 0.0)).code == "NOT_READY"
    assert len(named(donor.on_request(key(100), 0, False, 0.0))) == NAMES_MAX
    assert refusal(donor.on_request(key(100), 99, True, 0.0)).code == "NO_SUCH_FRAGMENT"


def test_a_donor_gives_nothing_that_is_not_finite(donor: Donor) -> None:
    """A ruined state must not spread."""
    serve(donor, 1)
    message = refusal(donor.on_ready(key(100), 0, None, step=3))
    assert (message.kind, message.number, message.code) == (PayloadKind.FRAGMENT, 0, "NOT_FINITE")


def test_refusals_spread_those_they_send_away(donor: Donor) -> None:
    """Nobody is named much more often than another, nor always first: newcomers try the first."""
    serve(donor, JOINERS_MAX)
    refusals = [named(donor.on_request(key(200), 0, True, 0.0)) for _ in range(120)]
    often = Counter(number for numbers in refusals for number in numbers)
    first = Counter(numbers[0] for numbers in refusals)
    assert sorted(often) == sorted(first) == [1, 2, 3, 4, 5, 6]
    assert max(often.values()) < 1.2 * min(often.values())
    assert min(first.values()) >= 10


def test_who_just_got_its_state_is_named_next(donor: Donor) -> None:
    """It has served nobody yet: that is how a storm spreads like a tree. The asker itself is no advice."""
    serve(donor, JOINERS_MAX)
    for _ in range(3):
        donor.on_request(key(200), 0, True, 0.0)
    learn(donor._membership, 50)
    learn(donor._membership, 51, Phase.JOINING)
    assert 50 not in named(donor.on_request(key(50), 0, True, 0.0))
    numbers = named(donor.on_request(key(200), 0, True, 0.0))
    assert 50 in numbers and 51 not in numbers
