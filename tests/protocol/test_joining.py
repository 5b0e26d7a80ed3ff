"""A newcomer collects its state from whoever gives it."""

from __future__ import annotations

import random

import pytest

from gossip.protocol import events as ev
from gossip.protocol.joining import DONOR_REST_S, FRAGMENT_PATIENCE_S, SERVING_MAX, WINDOW, Donor, Joiner
from gossip.protocol.membership import Membership
from gossip.protocol.messages import FragmentRequest, Header, PayloadKind, Phase, Refusal, State, Status, Update

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
FRAGMENTS = 10


def asked(effects: list[ev.Effect]) -> list[tuple[bytes, int]]:
    return [
        (e.peer, e.message.index) for e in effects if isinstance(e, ev.Send) and isinstance(e.message, FragmentRequest)
    ]


def fragment(index: int) -> Header:
    return Header(PayloadKind.FRAGMENT, 0, index, 5)


@pytest.fixture
def joiner() -> Joiner:
    """A and B hold a state; C is a newcomer as well."""
    membership = Membership(b"m" * 32, "m:1", random.Random(1))
    for key, phase in ((A, Phase.TRAINING), (B, Phase.SETTLING), (C, Phase.JOINING)):
        membership.on_updates(key, (Update(key, "x:1", 0, State.ALIVE, Status(1, phase)),), 0.0)
    return Joiner(FRAGMENTS, membership, random.Random(2))


def test_two_donors_are_asked_at_once_each_for_a_window(joiner: Joiner) -> None:
    """Half the time, half the load; a newcomer has nothing to give."""
    requests = asked(joiner.on_tick(0.0, [A, B, C]))
    assert sorted({index for _, index in requests}) == list(range(2 * WINDOW))
    assert [sum(peer == donor for peer, _ in requests) for donor in (A, B, C)] == [WINDOW, WINDOW, 0]


def test_the_state_is_complete_when_every_fragment_is_loaded(joiner: Joiner) -> None:
    """Each asked for once, and who gave how many is on record."""
    todo = asked(joiner.on_tick(0.0, [A, B]))
    seen = list(todo)
    while todo:
        peer, index = todo.pop(0)
        assert joiner.on_fragment(peer, fragment(index), b"x") == [ev.LoadFragment(peer, fragment(index), b"x")]
        more = asked(joiner.on_loaded(index, 0.1, [A, B]))
        todo += more
        seen += more
    assert joiner.is_done and sorted(index for _, index in seen) == list(range(FRAGMENTS))
    assert sum(joiner.donors.values()) == FRAGMENTS and len(joiner.donors) == 2


def test_what_a_lost_donor_owed_comes_from_another(joiner: Joiner) -> None:
    """At once, and not from the one that left."""
    owed = [index for peer, index in asked(joiner.on_tick(0.0, [A, B])) if peer == A]
    joiner.on_link_down(A, 0.1, [B])
    while not joiner.is_done:
        for index in list(joiner._asked):
            assert joiner.on_fragment(B, fragment(index), b"x")[0] == ev.LoadFragment(B, fragment(index), b"x")
            joiner.on_loaded(index, 0.2, [B])
    assert owed and joiner.donors == {B: FRAGMENTS}


def test_a_silent_donor_is_left_alone_for_a_while(joiner: Joiner) -> None:
    """Patience, then another; it may be asked again later."""
    joiner.on_tick(0.0, [A])
    late = joiner.on_tick(FRAGMENT_PATIENCE_S, [A, B])
    assert {peer for peer, _ in asked(late)} == {B}
    joiner.on_link_down(B, 6.0, [A])
    assert {peer for peer, _ in asked(joiner.on_tick(6.0 + DONOR_REST_S, [A]))} == {A}


def test_a_refusal_sends_us_to_another_donor(joiner: Joiner) -> None:
    """BUSY is an answer: no patience is spent on it."""
    ((_, index), *_) = asked(joiner.on_tick(0.0, [A]))
    assert {peer for peer, _ in asked(joiner.on_refusal(A, index, "BUSY", 0.1, [A, B]))} == {B}


def test_fragments_nobody_asked_for_are_dropped(joiner: Joiner) -> None:
    """From another peer, or a second time: what is loaded stays as it is."""
    ((peer, index), *_) = asked(joiner.on_tick(0.0, [A]))
    assert isinstance(joiner.on_fragment(C, fragment(index), b"x")[0], ev.Emit)
    joiner.on_fragment(peer, fragment(index), b"x")
    assert isinstance(joiner.on_fragment(peer, fragment(index), b"x")[0], ev.Emit)
    assert joiner.on_refusal(peer, index, "BUSY", 0.1, [A]) == []


def test_an_unreadable_fragment_is_asked_for_again(joiner: Joiner) -> None:
    """Of somebody else first."""
    ((peer, index), *_) = asked(joiner.on_tick(0.0, [A]))
    joiner.on_fragment(peer, fragment(index), b"?")
    joiner.on_unreadable(index, "DECODE_FAILED", 0.1)
    for other in range(FRAGMENTS):
        joiner.on_fragment(A, fragment(other), b"x")
    assert index in joiner._missing
    assert all(peer == B for peer, _ in asked(joiner.on_tick(0.2, [A, B])))


def test_a_donor_serves_a_few_at_a_time() -> None:
    """It trains on meanwhile: beyond that it says BUSY, and to nonsense it says so."""
    donor = Donor(FRAGMENTS, incarnation=0)
    assert donor.on_request(A, 0, able=False) == [ev.Send(A, Refusal(PayloadKind.FRAGMENT, 0, "NOT_READY"))]
    assert donor.on_request(A, 99, able=True) == [ev.Send(A, Refusal(PayloadKind.FRAGMENT, 99, "NO_SUCH_FRAGMENT"))]
    for _ in range(SERVING_MAX):
        assert donor.on_request(A, 1, able=True) == [ev.ReadFragment(A, 1)]
    assert donor.on_request(B, 1, able=True) == [ev.Send(B, Refusal(PayloadKind.FRAGMENT, 1, "BUSY"))]
    assert isinstance(donor.on_ready(A, 1, b"x", step=3)[0], ev.SendPayload)
    assert donor.serving == SERVING_MAX - 1


def test_a_donor_gives_nothing_that_is_not_finite() -> None:
    """A ruined state must not spread."""
    donor = Donor(FRAGMENTS, incarnation=0)
    donor.on_request(A, 1, able=True)
    assert donor.on_ready(A, 1, None, step=3) == [ev.Send(A, Refusal(PayloadKind.FRAGMENT, 1, "NOT_FINITE"))]
