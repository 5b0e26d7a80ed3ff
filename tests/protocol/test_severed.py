"""A group that is lost at once is looked for hard, a single crash is not."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from test_links import ME, bury, key, learn, play

from gossip.protocol import events as ev
from gossip.protocol.links import CONNECT_QUICKLY_S, LOOK_EVERY_S, Links
from gossip.protocol.membership import Membership
from gossip.protocol.messages import State
from gossip.protocol.severed import PATIENCE_S


@pytest.fixture
def links() -> Links:
    return Links(Membership(ME, "m:1", random.Random(1)), random.Random(2))


def test_a_lost_half_is_dialed_in_turn_twice_a_second(links: Links) -> None:
    """Whoever of them is dialed first after the cut is mended brings the others back."""
    learn(links, key(4), key(5), address="")
    bury(links, key(1), key(2), key(3), now=1.0)
    dials = play(links, 30, start=1.0)
    times = [now for now, _ in dials]
    assert len(dials) >= 60 and max(b - a for a, b in itertools.pairwise(times)) <= LOOK_EVERY_S
    counts = Counter(peer for _, peer in dials)
    assert max(counts.values()) - min(counts.values()) <= 5


def test_a_swallowed_dial_does_not_hold_up_the_next(links: Links) -> None:
    """Nobody answers behind a cut: the next of them is dialed while we wait, and no wait is long."""
    bury(links, *map(key, range(8)), now=1.0)
    effects = [effect for look in range(4) for effect in links.on_tick(1.0 + look * LOOK_EVERY_S)]
    quick = [effect for effect in effects if isinstance(effect, ev.Dial) and effect.connect_s == CONNECT_QUICKLY_S]
    assert len(quick) == len({dial.peer for dial in quick}) == 4


def test_one_crash_among_several_is_no_partition(links: Links) -> None:
    """And two crashes minutes apart are none either; but whoever is left alone looks for whom it lost."""
    learn(links, key(4), key(5), address="")
    bury(links, key(1), now=1.0)
    assert len(play(links, 60, start=1.0)) < 15
    bury(links, key(2), now=61.0)
    assert len(play(links, 60, start=61.0)) < 30
    alone = Links(Membership(ME, "m:1", random.Random(1)), random.Random(2))
    bury(alone, key(1), now=1.0)
    assert len(play(alone, 60, start=1.0)) > 100


def test_a_few_of_many_are_no_partition(links: Links) -> None:
    """Two of twenty that die in one second: a quarter is where a cut is likelier than crashes."""
    learn(links, *map(key, range(10, 28)), address="")
    bury(links, key(1), key(2), now=1.0)
    assert len(play(links, 60, start=1.0)) < 30


def test_in_the_end_the_lost_are_dead_like_others(links: Links) -> None:
    """After ten minutes one dial each in half a minute; and the two lines of the story are told once."""
    learn(links, key(4), address="")
    bury(links, key(1), key(2), now=1.0)
    told = []
    for look in range(int((PATIENCE_S + 60) / LOOK_EVERY_S)):
        for effect in links.on_tick(1.0 + look * LOOK_EVERY_S):
            if isinstance(effect, ev.Dial):
                links.on_link_refused(effect.peer, effect.address, "UNREACHABLE", "", 1.0 + look * LOOK_EVERY_S)
            elif isinstance(effect, ev.Emit):
                told.append(effect.name)
    assert told == ["partition_suspected", "partition_over"]
    assert len(play(links, 300, start=1.0 + PATIENCE_S + 60)) < 2 * 300 / 15


def test_who_comes_back_is_dialed_no_more(links: Links) -> None:
    """And is asked whom it knows: the rest of its half comes with it."""
    learn(links, key(4), address="")
    bury(links, key(1), key(2), now=1.0)
    play(links, 5, start=1.0)
    effects = links.on_link_up(key(1), True, 6.0)
    assert any(isinstance(effect, ev.Send) for effect in effects)
    links._membership.members[key(1)].state = State.ALIVE
    assert {peer for _, peer in play(links, 5, start=6.0)} == {key(2)}
