"""A newcomer collects its state from whoever gives it, and trusts it only after a look."""

from __future__ import annotations

import math
import random

import pytest

from gossip.protocol import events as ev
from gossip.protocol.joining import (
    ALONE_MAX_S,
    ALONE_WITH_PART_MAX_S,
    AUDIT_PATIENCE_S,
    AUDITED,
    COPIES,
    PATIENCE_FIRST_S,
    PATIENCE_MIN_S,
    REST_FIRST_S,
    REST_MAX_S,
    SAY_EVERY_S,
    SAY_FIRST_S,
    WINDOW,
    Joiner,
)
from gossip.protocol.membership import Membership
from gossip.protocol.messages import FragmentRequest, Header, MembersRequest, PayloadKind, Phase, State, Status, Update
from gossip.protocol.progress import Progress

A, B, C, D = b"a" * 32, b"b" * 32, b"c" * 32, b"d" * 32
FRAGMENTS = 10


def asked(effects: list[ev.Effect]) -> list[tuple[bytes, int]]:
    return [
        (e.peer, e.message.index) for e in effects if isinstance(e, ev.Send) and isinstance(e.message, FragmentRequest)
    ]


def compared(effects: list[ev.Effect]) -> list[bytes]:
    return [peer for effect in effects if isinstance(effect, ev.CompareDonors) for peer in effect.donors]


def names(effects: list[ev.Effect]) -> list[str]:
    return [effect.name for effect in effects if isinstance(effect, ev.Emit)]


def fragment(index: int) -> Header:
    return Header(PayloadKind.FRAGMENT, 0, index, 5)


def of(key: bytes, phase: Phase = Phase.TRAINING, state: State = State.ALIVE, sequence: int = 1) -> Update:
    return Update(key, "x:1", 0, state, Status(sequence, phase))


def joiner_among(*members: Update, fragments: int = FRAGMENTS) -> Joiner:
    membership = Membership(b"m" * 32, "m:1", random.Random(1))
    for update in members:
        membership.on_updates(update.key, (update,), 0.0)
    return Joiner(fragments, membership, random.Random(2))


@pytest.fixture
def joiner() -> Joiner:
    """A and B hold a state; C is a newcomer as well."""
    return joiner_among(of(A), of(B, Phase.SETTLING), of(C, Phase.JOINING))


def fill(joiner: Joiner, todo: list[tuple[bytes, int]], linked: list[bytes], now: float = 0.1) -> list[ev.Effect]:
    """Every donor delivers, until there is nothing left to ask for. Returns the last effects."""
    effects: list[ev.Effect] = []
    while todo:
        peer, index = todo.pop(0)
        loads = joiner.on_fragment(peer, fragment(index), b"x", now)
        assert isinstance(loads[-1], ev.LoadFragment), loads
        effects = joiner.on_loaded(peer, index, now, linked)
        todo += asked(effects)
    return effects


def fine(*peers: bytes) -> ev.DonorsCompared:
    return ev.DonorsCompared(tuple(ev.DonorLoss(peer, 0.4, 0.5) for peer in peers), 2.3)


# -- Fragments -----------------------------------------------------------------------------------------


def give_one(joiner: Joiner, peer: bytes, index: int, linked: list[bytes], now: float) -> list[tuple[bytes, int]]:
    joiner.on_fragment(peer, fragment(index), b"x", now)
    return asked(joiner.on_loaded(peer, index, now, linked))


def test_two_donors_are_asked_at_once_each_for_a_window(joiner: Joiner) -> None:
    """Half the time, half the load, once each has shown that it gives; a newcomer has nothing to give."""
    first = asked(joiner.on_tick(0.0, [A, B, C]))
    assert sorted(peer for peer, _ in first) == [A, B]
    requests = [request for peer, index in first for request in give_one(joiner, peer, index, [A, B, C], 0.1)]
    assert [sum(peer == donor for peer, _ in requests) for donor in (A, B, C)] == [WINDOW, WINDOW, 0]
    assert len(set(requests)) == 2 * WINDOW


def test_what_is_audited_comes_from_two_donors_and_the_rest_once(joiner: Joiner) -> None:
    """Which fragments those are only we know; both copies are kept beside the state."""
    requests = asked(joiner.on_tick(0.0, [A, B]))
    kept = []
    todo = list(requests)
    while todo:
        peer, index = todo.pop(0)
        (load,) = joiner.on_fragment(peer, fragment(index), b"x", 0.1)
        assert isinstance(load, ev.LoadFragment)
        kept += [(index, peer)] * load.keep
        more = joiner.on_loaded(peer, index, 0.1, [A, B])
        todo += asked(more)
        requests += asked(more)
    assert len(requests) == len(set(requests)) == FRAGMENTS + AUDITED
    assert len(kept) == AUDITED * COPIES and len({index for index, _ in kept}) == AUDITED
    assert sorted(compared(more)) == [A, B] and sum(joiner.donors.values()) == FRAGMENTS + AUDITED
    assert not joiner.is_done
    assert names(joiner.on_compared(fine(A, B), 0.2, [A, B])) == ["donors_compared", "state_received"]
    assert joiner.is_done


def test_a_small_model_is_audited_as_a_whole() -> None:
    """One fragment: both donors give all of it."""
    joiner = joiner_among(of(A), of(B), fragments=1)
    effects = fill(joiner, asked(joiner.on_tick(0.0, [A, B])), [A, B])
    assert sorted(compared(effects)) == [A, B] and joiner.donors == {A: 1, B: 1}


def test_what_a_lost_donor_owed_comes_from_another(joiner: Joiner) -> None:
    """At once, and not from the one that left."""
    requests = asked(joiner.on_tick(0.0, [A, B]))
    owed = [index for peer, index in requests if peer == A]
    joiner._membership.on_updates(A, (of(A, state=State.LEFT, sequence=2),), 0.0)
    effects = joiner.on_link_down(A, 0.1, [B])
    todo = [(peer, index) for peer, index in requests if peer == B] + asked(effects)
    assert owed and compared(fill(joiner, todo, [B])) == [B]
    assert joiner.donors == {B: FRAGMENTS}


def test_what_has_come_is_kept_while_there_is_no_link_at_all(joiner: Joiner) -> None:
    """A partition costs what was under way: nothing is asked for twice that is here."""
    requests = asked(joiner.on_tick(0.0, [A, B]))
    done = requests[:3]
    for peer, index in done:
        joiner.on_fragment(peer, fragment(index), b"x", 0.1)
        joiner.on_loaded(peer, index, 0.1, [])
    joiner.on_link_down(A, 0.2, [])
    joiner.on_link_down(B, 0.2, [])
    again = asked(joiner.on_tick(30.0, [A, B]))
    assert again and not set(done).intersection(again)
    assert compared(fill(joiner, again, [A, B]))
    assert sum(joiner.donors.values()) == FRAGMENTS + AUDITED


def test_a_silent_donor_is_left_alone_for_a_while(joiner: Joiner) -> None:
    """Patience, then another; it may be asked again later, and each time it is left alone for longer."""
    joiner.on_tick(0.0, [A])
    late = joiner.on_tick(PATIENCE_FIRST_S, [A, B])
    assert {peer for peer, _ in asked(late)} == {B}
    assert asked(joiner.on_link_down(B, PATIENCE_FIRST_S, [A])) == []
    assert {peer for peer, _ in asked(joiner.on_tick(PATIENCE_FIRST_S + 1.5 * REST_FIRST_S, [A]))} == {A}


def test_patience_follows_the_time_a_fragment_takes(joiner: Joiner) -> None:
    """A fast donor that falls silent is known in a second; a slow one is not given up between two fragments."""
    for step_s, patience_s in ((0.05, PATIENCE_MIN_S), (3.0, 6.0)):
        joiner = joiner_among(of(A), fragments=100)
        todo, now = asked(joiner.on_tick(0.0, [A])), 0.0
        for _ in range(40):
            now += step_s
            peer, index = todo.pop(0)
            joiner.on_fragment(peer, fragment(index), b"x", now)
            todo += asked(joiner.on_loaded(peer, index, now, [A]))
        assert names(joiner.on_tick(now + 0.9 * patience_s, [A])) == []
        assert names(joiner.on_tick(now + 1.1 * patience_s, [A])) == ["fragment_lost"] * WINDOW


def test_a_late_fragment_is_as_good_as_any(joiner: Joiner) -> None:
    """A donor slower than we thought has spent its upload: what comes is used, unless it is here already."""
    requests = asked(joiner.on_tick(0.0, [A]))
    joiner.on_tick(PATIENCE_FIRST_S, [A])
    peer, index = requests[-1]
    assert isinstance(joiner.on_fragment(peer, fragment(index), b"x", 6.0)[-1], ev.LoadFragment)
    joiner.on_loaded(peer, index, 6.0, [])
    again = asked(joiner.on_tick(8.0, [B]))
    assert (B, index) not in again or index in joiner._audited


def test_a_dropped_payload_is_noticed_by_the_next(joiner: Joiner) -> None:
    """A link keeps the order: nobody waits for what was overtaken."""
    ((_, shown),) = asked(joiner.on_tick(0.0, [A]))
    (_, first), (_, second), *_ = give_one(joiner, A, shown, [A], 0.1)
    effects = joiner.on_fragment(A, fragment(second), b"x", 0.2)
    assert names(effects) == ["fragment_lost"] and isinstance(effects[-1], ev.LoadFragment)
    assert first in [index for _, index in asked(joiner.on_loaded(A, second, 0.1, [A]))]


def test_fragments_nobody_asked_for_are_dropped(joiner: Joiner) -> None:
    """From another peer, or a second time: what is loaded stays as it is."""
    ((peer, index), *_) = asked(joiner.on_tick(0.0, [A]))
    assert names(joiner.on_fragment(C, fragment(index), b"x", 0.1)) == ["fragment_dropped"]
    assert names(joiner.on_fragment(A, fragment(60_000), b"x", 0.1)) == ["fragment_dropped"]
    joiner.on_fragment(peer, fragment(index), b"x", 0.1)
    assert names(joiner.on_fragment(peer, fragment(index), b"x", 0.1)) == ["fragment_dropped"]


def test_an_unreadable_fragment_is_asked_for_again(joiner: Joiner) -> None:
    """Of somebody else first."""
    ((peer, index), *_) = asked(joiner.on_tick(0.0, [A]))
    joiner.on_fragment(peer, fragment(index), b"?", 0.1)
    assert names(joiner.on_unreadable(peer, index, "DECODE_FAILED", 0.1)) == ["fragment_lost"]
    todo = asked(joiner.on_tick(0.2, [A, B]))
    assert {peer for peer, _ in todo} == {B}
    fill(joiner, todo, [A, B], 0.2)
    assert index in [i for i, copies in enumerate(joiner._copies) if B in copies]


# -- Whom to ask ----------------------------------------------------------------------------------------


def test_a_refusal_sends_us_to_another_donor(joiner: Joiner) -> None:
    """BUSY is an answer: no patience is spent on it."""
    ((_, index), *_) = asked(joiner.on_tick(0.0, [A]))
    assert {peer for peer, _ in asked(joiner.on_refusal(A, index, "BUSY", (), 0.1, [A, B]))} == {B}


def test_a_busy_donor_is_left_alone_twice_as_long_each_time(joiner: Joiner) -> None:
    """With jitter, or a storm of newcomers comes back as one; what it gives in the end makes it a fresh donor."""
    now, rests = 0.0, []
    for _ in range(8):
        for _, index in asked(joiner.on_tick(now, [A])):
            joiner.on_refusal(A, index, "BUSY", (), now, [A])
        rests.append(joiner._givers[A].rest_until - now)
        now += rests[-1]
    assert 0.5 * REST_FIRST_S <= rests[0] <= 1.5 * REST_FIRST_S and rests[-1] >= 0.5 * REST_MAX_S
    assert len({round(rest, 6) for rest in rests}) == len(rests)
    ((_, index), *_) = asked(joiner.on_tick(now, [A]))
    joiner.on_fragment(A, fragment(index), b"x", now)
    assert joiner._givers[A].rest_s == REST_FIRST_S


def test_a_joiner_short_of_donors_wants_links_to_those_named_to_it() -> None:
    """Others that hold a state, and are not the ones that just refused."""
    joiner = joiner_among(of(A), of(B), of(C), of(D), of(b"e" * 32, Phase.JOINING))
    assert len(joiner.sought(0.0, [])) == 2 and len(joiner.sought(0.0, [A])) == 1
    assert joiner.sought(0.0, [A, B]) == []
    joiner.on_refusal(A, 0, "BUSY", (of(D),), 0.0, [A])
    assert joiner.sought(0.0, [A])[0] == D
    assert b"e" * 32 not in joiner.sought(0.0, [A])


def test_who_knows_enough_donors_asks_for_no_members() -> None:
    """A list of members has tens of kilobytes: a hundred newcomers that ask every second would be a flood."""
    knowing, lonely = joiner_among(of(A), of(B)), joiner_among(of(A))

    def requests(joiner: Joiner) -> int:
        effects = [effect for second in range(60) for effect in joiner.on_tick(float(second), [C])]
        return sum(isinstance(effect, ev.Send) and effect.message == MembersRequest() for effect in effects)

    assert requests(knowing) == 0
    assert 5 < requests(lonely) < 15


# -- Trust -----------------------------------------------------------------------------------------------


def complete(joiner: Joiner, linked: list[bytes]) -> None:
    """Everything loaded, the comparison asked for."""
    assert sorted(compared(fill(joiner, asked(joiner.on_tick(0.0, linked)), linked))) == sorted(linked)


def test_a_liars_part_is_thrown_away_and_fetched_from_others(joiner: Joiner) -> None:
    """It is not asked again, and the state is compared once more before it is ours."""
    complete(joiner, [A, B])
    gave = joiner.donors[A]
    lie = ev.DonorsCompared((ev.DonorLoss(A, math.inf, 3.0), ev.DonorLoss(B, 900.0, math.nan)), 2.3)
    effects = joiner.on_compared(lie, 0.2, [A, B])
    (note,) = [e for e in effects if isinstance(e, ev.Emit) and e.name == "donor_distrusted"]
    assert note.fields == {
        "peer": A.hex()[:8], "fragments": gave, "loss": None, "loss_without": 3.0, "loss_untrained": 2.3
    }  # fmt: skip
    assert not joiner.is_done and {peer for peer, _ in asked(effects)} == {B}
    assert compared(fill(joiner, asked(effects), [A, B], 0.3)) == [B]
    joiner.on_compared(fine(B), 0.4, [A, B])
    assert joiner.is_done and joiner.donors == {B: FRAGMENTS}


def test_a_second_donor_that_stays_busy_is_not_waited_for_long(joiner: Joiner) -> None:
    """Then the state is compared with the untrained model alone."""
    todo = asked(joiner.on_tick(0.0, [A]))
    assert not compared(fill(joiner, todo, [A]))
    assert not compared(joiner.on_tick(AUDIT_PATIENCE_S, [A]))
    assert compared(joiner.on_tick(AUDIT_PATIENCE_S + 0.2, [A])) == [A]


def test_one_donor_in_the_whole_swarm_is_compared_at_once() -> None:
    """There is nobody to wait for."""
    joiner = joiner_among(of(A))
    complete(joiner, [A])
    worse = ev.DonorsCompared((ev.DonorLoss(A, 40.0, 2.3),), 2.3)
    assert "donor_distrusted" in names(joiner.on_compared(worse, 0.2, [A]))
    assert asked(joiner.on_tick(1.0, [A])) == []


# -- Nobody left ------------------------------------------------------------------------------------------


def hopeless_at(joiner: Joiner, until_s: float) -> tuple[float, str, list[float]]:
    """When and why it ends, and when it said before that there is no donor."""
    progress, said, now = Progress(joiner._membership, 10**9), [], 0.0
    while now < until_s:
        said += [now] * names(joiner.on_tick(now, [C])).count("no_donor")
        if why := joiner.why_hopeless(progress, now):
            return now, why, said
        now += 0.5
    return now, "", said


def test_with_nobody_alive_that_holds_a_state_a_joiner_says_so_and_ends() -> None:
    """Not in silence, not for ever; now and then in between."""
    at, why, said = hopeless_at(joiner_among(of(C, Phase.JOINING)), 200)
    assert at == ALONE_MAX_S and "nobody alive" in why
    assert said == [SAY_FIRST_S, SAY_FIRST_S + SAY_EVERY_S, SAY_FIRST_S + 2 * SAY_EVERY_S]


def test_who_holds_part_of_a_state_waits_out_a_longer_partition(joiner: Joiner) -> None:
    """Hours of download are not thrown away over a minute."""
    peer, index = asked(joiner.on_tick(0.0, [A]))[0]
    joiner.on_fragment(peer, fragment(index), b"x", 0.1)
    joiner.on_loaded(peer, index, 0.1, [])
    for key in (A, B):
        joiner._membership.on_updates(key, (of(key, state=State.LEFT, sequence=9),), 0.0)
    assert hopeless_at(joiner, 1_000)[0] == ALONE_WITH_PART_MAX_S


def test_a_member_that_comes_back_with_a_state_ends_the_waiting() -> None:
    """A restart from its checkpoint is as good as any."""
    joiner = joiner_among(of(A, Phase.JOINING))
    progress = Progress(joiner._membership, 10**9)
    joiner.on_tick(0.0, [A])
    joiner._membership.on_updates(A, (of(A, sequence=2),), ALONE_MAX_S - 1)
    assert asked(joiner.on_tick(ALONE_MAX_S - 1, [A]))
    assert joiner.why_hopeless(progress, ALONE_MAX_S + 1) == ""


def test_a_swarm_of_liars_is_left() -> None:
    """Who was distrusted is no donor: nothing is trained on what is worse than nothing."""
    joiner = joiner_among(of(A), of(B))
    complete(joiner, [A, B])
    both = ev.DonorsCompared((ev.DonorLoss(A, 90.0, 80.0), ev.DonorLoss(B, 80.0, 90.0)), 2.3)
    assert names(joiner.on_compared(both, 0.2, [A, B])).count("donor_distrusted") == 2
    _, why, _ = hopeless_at(joiner, 100)
    assert why.startswith("no member gave a state better than an untrained one (2 tried")
