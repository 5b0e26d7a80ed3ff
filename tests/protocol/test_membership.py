"""SWIM with suspicion: who is alive, whatever others say."""

from __future__ import annotations

import random

import pytest

from gossip.protocol import events as ev
from gossip.protocol import messages as msg
from gossip.protocol.membership import (
    INCARNATION_JUMP_MAX,
    INCARNATION_MAX,
    PROBE_INTERVAL_S,
    PROBE_TIMEOUT_S,
    PROBES_MAX,
    REFUTE_EVERY_S,
    REFUTED_MAX,
    SILENT_S,
    SUSPICION_S,
    Membership,
    is_trained,
)
from gossip.protocol.messages import Phase, State, Status, Update

ME, A, B, C = (letter * 32 for letter in (b"m", b"a", b"b", b"c"))


def say(key: bytes, state: State = State.ALIVE, incarnation: int = 0, sequence: int = 1, **status: object) -> Update:
    return Update(key, f"{key.hex()[:2]}:1", incarnation, state, Status(sequence=sequence, **status))  # type: ignore[arg-type]


def names(effects: list[ev.Effect]) -> list[str]:
    return [effect.name for effect in effects if isinstance(effect, ev.Emit)]


def sent(effects: list[ev.Effect], kind: type) -> list[tuple[bytes, msg.Message]]:
    return [(e.peer, e.message) for e in effects if isinstance(e, ev.Send) and isinstance(e.message, kind)]


@pytest.fixture
def membership() -> Membership:
    """Knows A, B and C, each by its own word."""
    table = Membership(ME, "m:1", random.Random(1))
    for key in (A, B, C):
        table.on_updates(key, (say(key),), 0.0)
    return table


def wait(membership: Membership, since: float, seconds: float, linked: tuple[bytes, ...] = ()) -> list[ev.Effect]:
    """Tick by tick: who sleeps through its own deadlines blames nobody."""
    effects, now = [], since
    while now < since + seconds:
        now = min(since + seconds, max(now + 0.01, membership.next_deadline()))
        effects += membership.on_tick(now, linked)
    return effects


def state_of(membership: Membership, key: bytes) -> State:
    return membership.members[key].state


def probe_of(membership: Membership, target: bytes, now: float) -> int:
    """Let time pass until `target` is pinged. Returns the probe's number."""
    for _ in range(10):
        now += 2 * PROBE_INTERVAL_S
        for peer, ping in sent(membership.on_tick(now, [target]), msg.Ping):
            if peer == target:
                return ping.number  # type: ignore[union-attr]
    raise AssertionError("never probed")


# -- What is said ---------------------------------------------------------------------------------


def test_a_reported_death_is_no_more_than_a_suspicion(membership: Membership) -> None:
    """Anybody can say anything of others: only our own look, or silence, buries a member."""
    assert names(membership.on_updates(A, (say(B, State.DEAD),), 1.0)) == ["member_suspect"]
    assert membership.is_alive(B)
    wait(membership, 1.0, SUSPICION_S)
    assert state_of(membership, B) == State.DEAD


def test_direct_contact_ends_a_suspicion_and_tells_the_suspect(membership: Membership) -> None:
    """It is alive, we hear it; what others believe it must refute itself, so it has to know."""
    membership.on_updates(A, (say(B, State.SUSPECT),), 1.0)
    effects = membership.on_ping(B, msg.Ping(1, (say(B),)), 2.0)
    assert state_of(membership, B) == State.ALIVE
    ((peer, news),) = sent(effects, msg.News)
    assert peer == B and news.updates[0].state == State.SUSPECT  # type: ignore[union-attr]


def test_a_suspicion_of_us_is_refuted_by_a_higher_incarnation(membership: Membership) -> None:
    """Which beats the suspicion wherever the two meet."""
    assert names(membership.on_updates(A, (say(ME, State.SUSPECT),), 1.0)) == ["refuted"]
    assert membership.incarnation == 1
    other = Membership(A, "a:1", random.Random(2))
    other.on_updates(B, (say(ME), say(ME, State.SUSPECT)), 1.0)
    other.on_updates(B, (membership.own_update(),), 1.1)
    assert state_of(other, ME) == State.ALIVE


def test_the_dead_come_back_only_by_their_own_higher_incarnation(membership: Membership) -> None:
    """Old news of life must not wake the dead: it would go round for ever."""
    membership.on_updates(A, (say(B, State.DEAD),), 0.0)
    wait(membership, 0.0, SUSPICION_S)
    membership.on_updates(A, (say(B, sequence=9),), 4.0)
    assert state_of(membership, B) == State.DEAD
    assert sent(membership.on_updates(B, (say(B, sequence=10),), 5.0), msg.News), "it is told that it is dead"
    membership.on_updates(A, (say(B, incarnation=1),), 6.0)
    assert state_of(membership, B) == State.ALIVE


def test_a_goodbye_is_believed_and_retold(membership: Membership) -> None:
    """Who leaves is not suspected, probed or waited for, here or anywhere."""
    assert names(membership.on_updates(A, (say(A, State.LEFT),), 1.0)) == ["member_left"]
    assert not membership.is_alive(A)
    (_, news), *_ = sent(membership.tell_now([B]), msg.News)
    assert (A, State.LEFT) in [(update.key, update.state) for update in news.updates]  # type: ignore[union-attr]
    assert not sent(membership.on_tick(9.0, [A]), msg.Ping)


def test_a_liar_cannot_say_goodbye_for_us(membership: Membership) -> None:
    """A departure made up by others is refuted like a death."""
    membership.on_updates(A, (say(B, State.LEFT),), 1.0)
    assert sent(membership.on_ping(B, msg.Ping(1, (say(B),)), 2.0), msg.News)
    assert names(membership.on_updates(A, (say(ME, State.LEFT),), 1.0)) == ["refuted"]


def test_a_liar_cannot_carry_our_incarnation_out_of_reach(membership: Membership) -> None:
    """Peers ignore jumps above 1,000: driven up faster than they hear of it, we could refute nothing any more."""
    lies = [say(ME, State.SUSPECT, incarnation=number) for number in range(5_000)]
    for start in range(0, 5_000, 250):
        membership.on_updates(A, lies[start : start + 250], 1.0 + start / 1e6)
    assert membership.incarnation == 1
    effects = membership.on_updates(A, (say(ME, State.SUSPECT, incarnation=2**31),), 9.0)
    assert names(effects) == ["incarnation_ignored"]
    membership.on_updates(A, (say(ME, State.SUSPECT, incarnation=1),), 9.0 + REFUTE_EVERY_S)
    assert membership.incarnation == 2


def test_what_a_peer_says_of_itself_is_taken_as_it_is(membership: Membership) -> None:
    """A lie about B at an incarnation B never had would otherwise stand for ever; a restarted B starts low."""
    membership.on_updates(A, (say(B, incarnation=900, sequence=msg.COUNT_MAX, samples=10**15),), 1.0)
    membership.on_updates(B, (say(B, incarnation=0, sequence=3, samples=32),), 2.0)
    assert membership.members[B].incarnation == 0 and membership.members[B].status.samples == 32
    assert state_of(membership, B) == State.ALIVE
    assert names(membership.on_updates(A, (say(B, incarnation=INCARNATION_JUMP_MAX + 1),), 3.0)) == [
        "incarnation_ignored"
    ]
    membership.on_updates(b"n" * 32, (say(b"n" * 32, incarnation=5_000),), 3.0)
    assert membership.is_alive(b"n" * 32), "a long-lived member may well have refuted a lot"


def test_the_later_status_wins(membership: Membership) -> None:
    """Statuses travel many roads; an older one that comes later changes nothing."""
    membership.on_updates(A, (say(B, sequence=5, samples=500),), 1.0)
    membership.on_updates(C, (say(B, sequence=4, samples=400),), 2.0)
    assert membership.members[B].status.samples == 500


def test_every_message_carries_ourselves_and_fills_up_with_news(membership: Membership) -> None:
    """News is told many times over, the least told first; without news a message stays small."""
    for number in range(20):
        membership.on_updates(A, (say(bytes([number]) * 32),), 1.0)
    ((_, full),) = sent(membership.tell_now([A]), msg.News)
    assert full.updates[0].key == ME and len(full.updates) == msg.UPDATES_MAX  # type: ignore[union-attr]
    assert A not in [update.key for update in full.updates], "it knows itself"  # type: ignore[union-attr]
    for _ in range(200):
        membership.tell_now([A])
    ((_, quiet),) = sent(membership.tell_now([A]), msg.News)
    assert len(quiet.updates) == 4  # type: ignore[union-attr]


def test_a_sample_names_the_living_first(membership: Membership) -> None:
    """A newcomer needs somebody to talk to; of a large swarm it gets a random part."""
    membership.on_updates(A, (say(A, State.LEFT),), 1.0)
    assert [update.key for update in membership.sample(2).updates] == [ME, B, C]
    for number in range(50):
        membership.on_updates(B, (say(bytes([number]) * 32),), 1.0)
    assert len(membership.sample(10).updates) == 11


def test_after_the_goodbye_nothing_is_refuted(membership: Membership) -> None:
    """Otherwise our own last words would bring us back."""
    effects = membership.leave([A, B])
    assert [news.updates[0].state for _, news in sent(effects, msg.News)] == [State.LEFT] * 2  # type: ignore[union-attr]
    assert membership.on_updates(A, (say(ME, State.DEAD),), 1.0) == []


# -- What is probed ---------------------------------------------------------------------------------


def test_silence_becomes_a_suspicion_and_then_a_death(membership: Membership) -> None:
    """Ping, ask others, suspect, bury: each step has its time."""
    number = probe_of(membership, A, 0.0)
    assert membership.next_deadline() > 2.0
    asked = sent(membership.on_tick(2.0 + PROBE_TIMEOUT_S, [A, B, C]), msg.PingRequest)
    assert sorted(peer for peer, _ in asked) == [B, C]
    assert all(request.number == number and request.target == A for _, request in asked)  # type: ignore[union-attr]
    effects = wait(membership, 2.0 + PROBE_TIMEOUT_S, PROBE_TIMEOUT_S, (A, B, C))
    assert "member_suspect" in names(effects)
    told = [peer for peer, news in sent(effects, msg.News) if news.updates[0].state or news.updates[1].state]  # type: ignore[union-attr]
    assert sorted(told) == [A, B, C], "at once: so all wait together, and the suspect can refute"
    wait(membership, 2.0 + 2 * PROBE_TIMEOUT_S, SUSPICION_S)
    assert state_of(membership, A) == State.DEAD


def test_a_helpers_answer_counts_and_a_strangers_does_not(membership: Membership) -> None:
    """Whoever was not asked cannot keep a dead member alive."""
    number = probe_of(membership, A, 0.0)
    membership.on_ack(B, msg.Ack(number), 2.1)
    assert membership.probes == 1
    membership.on_tick(2.0 + PROBE_TIMEOUT_S, [A, B])
    membership.on_ack(C, msg.Ack(number), 2.7)
    assert membership.probes == 1
    membership.on_ack(B, msg.Ack(number), 2.7)
    assert membership.probes == 0


def test_we_look_for_others_over_links_we_have(membership: Membership) -> None:
    """And pass on the answer under the asker's own number."""
    ((target, ping),) = sent(membership.on_ping_request(A, msg.PingRequest(77, B), 1.0, [A, B]), msg.Ping)
    assert target == B
    acks = sent(membership.on_ack(B, msg.Ack(ping.number), 1.1), msg.Ack)  # type: ignore[union-attr]
    assert [(peer, ack.number) for peer, ack in acks] == [(A, 77)]  # type: ignore[union-attr]
    assert not sent(membership.on_ping_request(A, msg.PingRequest(78, C), 1.0, [A, B]), msg.Ping)


def test_probes_for_others_are_bounded(membership: Membership) -> None:
    """A flood of requests is answered by name, not by memory."""
    for number in range(200):
        effects = membership.on_ping_request(A, msg.PingRequest(number, B), 1.0, [A, B])
    assert membership.probes == PROBES_MAX and "probe_skipped" in names(effects)


def test_a_broken_link_is_a_suspicion_and_a_closed_one_is_not(membership: Membership) -> None:
    """A crash resets its connections; a rotated link says nothing about the peer, nor does a ping lost with it."""
    assert names(membership.on_link_broken(A, 1.0, "reset")) == ["member_suspect"]
    probe_of(membership, B, 1.0)
    membership.on_link_closed(B)
    assert membership.probes == 0
    membership.on_tick(9.0, [])
    assert state_of(membership, B) == State.ALIVE


def test_the_dead_are_probed_where_a_link_leads_to_them(membership: Membership) -> None:
    """Both ends of a healed link may hold each other for dead: somebody has to speak first."""
    membership.on_updates(B, (say(A, State.DEAD),), 0.0)
    wait(membership, 0.0, SUSPICION_S)
    assert state_of(membership, A) == State.DEAD
    assert probe_of(membership, A, 9.0)


def test_who_is_not_heard_of_for_long_is_suspected(membership: Membership) -> None:
    """Links are few: a member may die while nobody is linked to it, and nobody would ever look."""
    for now in range(60):
        membership.on_updates(A, (say(A, sequence=now + 2), say(B, sequence=now + 2)), float(now))
        membership.on_tick(float(now), [])
    assert (state_of(membership, A), state_of(membership, B)) == (State.ALIVE, State.ALIVE)
    assert state_of(membership, C) == State.DEAD
    assert SILENT_S > 10, "shorter than news takes among many, it would bury the living"


def test_larger_swarms_leave_more_time_to_refute(membership: Membership) -> None:
    """A refutation has further to go: among 64 false deaths came in cascades with a fixed 3 s."""
    for number in range(60):
        membership.on_updates(A, (say(bytes([number]) * 32),), 0.0)
    membership.on_updates(A, (say(B, State.SUSPECT),), 1.0)
    wait(membership, 1.0, 1.5 * SUSPICION_S)
    assert state_of(membership, B) == State.SUSPECT
    wait(membership, 1.0 + 1.5 * SUSPICION_S, 0.6 * SUSPICION_S)
    assert state_of(membership, B) == State.DEAD


def test_only_those_with_a_state_can_take_part(membership: Membership) -> None:
    """A joiner has nothing to average yet."""
    membership.on_updates(A, (say(A, sequence=2, phase=Phase.TRAINING),), 1.0)
    assert is_trained(membership.members[A]) and not is_trained(membership.members[B])


def test_a_newcomer_learns_of_those_that_have_lived_long(membership: Membership) -> None:
    """Incarnations grow over restarts and refutations for as long as a node lives: the first one says nothing."""
    late = b"l" * 32
    effects = membership.on_updates(A, (say(late, incarnation=INCARNATION_JUMP_MAX + 1),), 1.0)
    assert names(effects) == ["member_alive"] and membership.is_alive(late)


def test_the_last_incarnation_is_no_crash(membership: Membership) -> None:
    """A liar that accuses us for days drives it up so far that restarts have room; those end at what can be said."""
    membership.incarnation = REFUTED_MAX - 5
    for second in range(1, 10):
        accused = membership.incarnation + 1
        membership.on_updates(A, (say(ME, State.SUSPECT, incarnation=accused),), float(second))
    assert membership.own_update().incarnation == REFUTED_MAX + 1
    late = Membership(ME, "m:1", random.Random(1), incarnation=INCARNATION_MAX + 1)
    late.set_address("m:2")
    assert late.own_update().incarnation == INCARNATION_MAX
