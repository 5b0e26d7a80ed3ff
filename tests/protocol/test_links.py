"""Open links: few, slowly changing, politely closed, and never given up on the lost."""

from __future__ import annotations

import itertools
import random

import pytest

from gossip.protocol import events as ev
from gossip.protocol.links import GRACE_S, LINKS_MAX, LINKS_WANTED, LOOK_EVERY_S, RETRY_MAX_S, Links
from gossip.protocol.membership import Membership
from gossip.protocol.messages import Parting, Phase, State, Status, Update

ME = b"m" * 32


def key(number: int) -> bytes:
    """Higher than ours, so that it is we who dial."""
    return b"z" + bytes([number]) * 31


@pytest.fixture
def links() -> Links:
    return Links(Membership(ME, "m:1", random.Random(1)), random.Random(2))


def learn(links: Links, *keys: bytes, state: State = State.ALIVE, address: str = "x:1") -> None:
    links._membership.on_updates(b"?" * 32, [Update(k, address, 0, state, Status()) for k in keys], 0.0)


def bury(links: Links, *keys: bytes, now: float, address: str = "x:1") -> None:
    """They were alive until `now`."""
    learn(links, *keys, address=address)
    for peer in keys:
        links._membership._change(links._membership.members[peer], State.DEAD, now, "silent")


def dialed(effects: list[ev.Effect]) -> list[bytes]:
    return [effect.peer for effect in effects if isinstance(effect, ev.Dial)]


def play(links: Links, seconds: float, start: float = 0.0) -> list[tuple[float, bytes]]:
    """Every dial within that time, with its time; all of them are refused."""
    dials = []
    for look in range(int(seconds / LOOK_EVERY_S)):
        now = start + look * LOOK_EVERY_S
        for peer in dialed(links.on_tick(now)):
            dials.append((now, peer))
            links.on_link_refused(peer, "x:1", "UNREACHABLE", "nobody there", now)
    return dials


def test_a_node_dials_until_it_has_enough(links: Links) -> None:
    """Eight links are wanted, dials under way included."""
    learn(links, *map(key, range(20)))
    assert len(dialed(links.on_tick(0.0))) == LINKS_WANTED
    assert dialed(links.on_tick(1.0)) == []


def test_of_two_the_lower_key_dials(links: Links) -> None:
    """Else every pair of a small swarm opens two connections; but nobody waits for ever, or with hardly a link."""
    for number in (1, 2):
        links.on_link_up(key(number), True, 0.0)
    learn(links, lower := b"a" * 32)
    assert dialed(links.on_tick(0.0)) == []
    assert dialed(links.on_tick(GRACE_S)) == [lower]
    newcomer = Links(Membership(ME, "m:1", random.Random(1)), random.Random(2))
    learn(newcomer, lower)
    assert dialed(newcomer.on_tick(0.0)) == [lower]


def test_who_cannot_be_dialed_is_not(links: Links) -> None:
    """A node that only dials out has no address; ourselves we do not dial either."""
    learn(links, key(1), address="")
    assert play(links, 10) == [] and links.dial_seed(ME, "m:1") == []


def test_a_seed_that_refused_is_dialed_again(links: Links) -> None:
    """It is no member yet, so nobody else would name it: its address must not be forgotten."""
    assert dialed(links.dial_seed(key(1), "x:1")) == [key(1)]
    links.on_link_refused(key(1), "x:1", "UNREACHABLE", "not up yet", 0.0)
    dials = [now for now, _ in play(links, 300)]
    assert 10 < len(dials) < 30
    assert dials[0] < 2 and max(b - a for a, b in itertools.pairwise(dials)) < 2 * RETRY_MAX_S


def test_the_dead_are_dialed_again_and_the_departed_are_not(links: Links) -> None:
    """After a partition each side holds the other for dead: without a dial they would stay two swarms."""
    learn(links, key(1), state=State.DEAD)
    learn(links, key(2), state=State.LEFT)
    assert {peer for _, peer in play(links, 60)} == {key(1)}


def test_many_dead_cost_no_storm(links: Links) -> None:
    """One dial per two seconds, however many are lost."""
    for number in range(100):
        bury(links, key(number), now=20.0 * number)
    assert not links._membership.alive()
    assert len(play(links, 60, start=3_000.0)) <= 31


def test_a_link_is_parted_from_politely(links: Links) -> None:
    """The other end would take a link that breaks without a word for a crash."""
    for number in range(LINKS_MAX):
        links.on_link_up(key(number), False, float(number))
    effects = links.on_link_up(key(99), False, 50.0)
    assert effects[-2:] == [ev.Send(key(0), Parting()), ev.HangUp(key(0))], "the oldest goes"
    assert len(links.up) == LINKS_MAX
    assert not links.is_surprise(key(0)) and links.on_link_down(key(0), 50.1, "hung up") == []


def test_an_announced_end_is_no_surprise(links: Links) -> None:
    """Said by the peer: it has enough links, and is well. A new link is a new promise."""
    links.on_link_up(key(1), True, 0.0)
    assert links.is_surprise(key(1))
    links.on_parting(key(1))
    assert not links.is_surprise(key(1))
    assert links.on_link_down(key(1), 1.0, "lost")
    links.on_link_up(key(1), True, 2.0)
    assert links.is_surprise(key(1))


def test_links_are_rotated_where_there_are_others(links: Links) -> None:
    """One per half minute or so: over time that mixes like random peers, for 1 kB each."""
    learn(links, *map(key, range(30)))
    parted = 0
    for look in range(240):
        now = look * LOOK_EVERY_S
        for effect in links.on_tick(now):
            if isinstance(effect, ev.Dial):
                links.on_link_up(effect.peer, True, now)
            elif isinstance(effect, ev.HangUp):
                parted += 1
                links.on_link_down(effect.peer, now, "hung up")
        assert now < 1 or LINKS_WANTED - 1 <= len(links.up) <= LINKS_MAX
    assert 3 <= parted <= 8


def test_a_small_swarm_rotates_nothing(links: Links) -> None:
    """Everybody is linked with everybody: closing a link would only have it opened again."""
    learn(links, *map(key, range(4)))
    for look in range(240):
        effects = links.on_tick(look * LOOK_EVERY_S)
        assert not any(isinstance(effect, ev.HangUp) for effect in effects)
        for peer in dialed(effects):
            links.on_link_up(peer, True, look * LOOK_EVERY_S)


def test_a_storm_of_newcomers_pushes_out_neither_training_nor_a_transfer(links: Links) -> None:
    """Links to the trained and those a state travels over stay; a newcomer who is not served makes room."""
    trained, served = key(0), key(1)
    links._membership.on_updates(trained, [Update(trained, "x:1", 0, State.ALIVE, Status(1, Phase.TRAINING))], 0.0)
    links.spared = lambda: [served]
    for number in range(60):
        links.on_link_up(key(number), False, float(number))
    assert len(links.up) == LINKS_MAX and trained in links.up and served in links.up


def test_who_is_needed_now_is_dialed_beyond_the_wanted_links(links: Links) -> None:
    """A joiner whose donors are busy does not wait for its links to rotate; after a failure the back-off holds."""
    for number in range(LINKS_WANTED):
        links.on_link_up(key(number), True, 0.0)
    learn(links, needed := b"a" * 32)
    assert dialed(links.on_tick(0.0)) == []
    assert dialed(links.seek([needed], 0.0)) == [needed] and links.seek([needed], 0.0) == []
    links.on_link_refused(needed, "x:1", "UNREACHABLE", "", 1.0)
    assert links.seek([needed], 1.1) == [] and dialed(links.seek([needed], 60.0)) == [needed]


def test_a_peers_addresses_are_dialed_in_turn(links: Links) -> None:
    """At once after each other, and quickly: only after the last of them do we wait."""
    learn(links, key(1), address="a:1,b:1")
    dials = []
    for look in range(120):
        for effect in links.on_tick(now := look * LOOK_EVERY_S):
            if isinstance(effect, ev.Dial):
                dials.append((now, effect.address))
                assert effect.connect_s < ev.DIAL_PATIENCE_S
                links.on_link_refused(key(1), effect.address, "UNREACHABLE", "", now)
    assert [address for _, address in dials[:6]] == ["a:1", "b:1"] * 3
    assert all(second[0] - first[0] <= LOOK_EVERY_S for first, second in zip(dials[::2], dials[1::2], strict=False))
    assert dials[-1][0] - dials[-3][0] > 5, "and yet it backs off"


def test_the_same_refusal_is_told_once(links: Links) -> None:
    """The lost are dialed for ever: a log that says so each time drowns what is new. Another reason is news."""

    def refuse(now: float, code: str) -> list[ev.Effect]:
        return links.on_link_refused(key(1), "x:1", code, "why", now)

    assert len(refuse(0.0, "UNREACHABLE")) == 1
    assert not any(refuse(float(now), "UNREACHABLE") for now in range(1, 500))
    (news,) = refuse(500.0, "BAD_TICKET")
    assert news.fields["untold"] == 499 and not news.fields["is_known"]  # type: ignore[union-attr]
    (again,) = refuse(1_200.0, "BAD_TICKET")
    assert again.fields["is_known"]  # type: ignore[union-attr]
    for number in range(5_000):
        links.on_link_refused(number.to_bytes(32, "big"), "", "BAD_TICKET", "a stranger", 1.0)
    assert len(links._told) <= 1_024


def test_a_seed_that_left_is_looked_for_again(links: Links) -> None:
    """It may be started again, and ours may be the only address it is known under: every few minutes."""
    links.dial_seed(key(1), "x:1")
    links.on_link_up(key(1), True, 0.0)
    learn(links, key(1), state=State.LEFT)
    links.on_link_down(key(1), 1.0, "it left")
    times = [now for now, _ in play(links, 1_200, start=1.0)]
    assert 3 <= len(times) <= 14
