"""Nodes behind firewalls, with several addresses and with none."""

from __future__ import annotations

import pytest
from test_swarm import all_train, story, swarm_of

from gossip.protocol import events as ev
from gossip.protocol.messages import DialBack, DialBackRequest
from gossip.protocol.reachability import RETEST_S, TRIALS_MAX, TRIALS_PER_PEER_MAX
from gossip.protocol.wire_events import AddressTried
from gossip.sim.swarm import SimNode, Swarm, SwarmSettings


def with_one(address: str, *shut: str, count: int = 4, every_steps: int = 2_000) -> tuple[Swarm, SimNode]:
    """A swarm whose last node advertises `address`; what knocks at those of `shut` is swallowed."""
    swarm = Swarm(4, SwarmSettings(every_steps=every_steps))
    swarm.addresses["odd"] = address
    for number in range(count - 1):
        swarm.add(f"n{number}", ("n0",) if number else ())
    odd = swarm.add("odd", ("n0",))
    for place in shut:
        swarm.network.shut(odd.key, place)
    assert swarm.run(20, lambda: swarm.views_agree() and all_train(swarm)), story(swarm)
    return swarm, odd


def verdicts(node: SimNode) -> list[tuple[str, str, str]]:
    return [(e["address"], e["code"], e["advertised"]) for e in node.said("reachability")]


@pytest.mark.parametrize("address", ["", "odd:7700"], ids=["says so", "finds out"])
def test_a_node_that_nobody_can_dial_exchanges_like_the_others(address: str) -> None:
    """It dials, and is exchanged with over the links it made."""
    swarm, odd = with_one(address, "odd:7700", every_steps=8)
    swarm.run(30)
    before = {node.name: node.node.exchanges.completed for node in swarm.alive()}
    answered = odd.node.exchanges.answered
    swarm.run(30)
    done = {node.name: node.node.exchanges.completed - before[node.name] for node in swarm.alive()}
    mean = sum(done.values()) / len(done)
    assert 0.8 * mean < done["odd"] < 1.2 * mean, done
    assert odd.node.exchanges.answered - answered > 0.5 * mean, "others choose it too"
    assert len(odd.node.links.up) == 3 and not any(node.said("member_dead") for node in swarm.alive())


@pytest.mark.slow
def test_a_node_behind_a_firewall_is_told_what_to_do() -> None:
    """Once, with the port; and nobody wastes a dial on it any more, those far away included."""
    swarm, odd = with_one("odd:7700", "odd:7700", count=12)
    assert swarm.run(40, lambda: bool(odd.said("reachability"))), story(swarm)
    assert verdicts(odd) == [("odd:7700", "UNREACHABLE", "")]
    assert "forward TCP port 7700" in odd.said("reachability")[0]["advice"]
    others = [node for node in swarm.alive() if node is not odd]
    assert swarm.run(20, lambda: all(n.node.membership.members[odd.key].address == "" for n in others)), story(swarm)
    swarm.run(RETEST_S + 30)
    assert len(verdicts(odd)) == 2 and not odd.said("reachability")[1]["advice"], "tried again, told once"


def test_a_firewall_that_opens_is_noticed() -> None:
    """After ten minutes at the latest others dial it like anybody."""
    swarm, odd = with_one("odd:7700", "odd:7700")
    assert swarm.run(40, lambda: bool(odd.said("reachability"))), story(swarm)
    swarm.network.open(odd.key, "odd:7700")
    assert swarm.run(RETEST_S + 30, lambda: len(verdicts(odd)) == 2), story(swarm)
    assert verdicts(odd)[1] == ("odd:7700", "", "odd:7700")
    others = [node for node in swarm.alive() if node is not odd]
    assert swarm.run(20, lambda: all(n.node.membership.members[odd.key].address for n in others)), story(swarm)


def test_of_several_addresses_the_wrong_ones_are_dropped() -> None:
    """And those that reach it keep being said; there is nothing to advise."""
    swarm, odd = with_one("10.0.0.7:7700,odd:7700", "10.0.0.7:7700")
    assert swarm.run(40, lambda: len(verdicts(odd)) == 2), story(swarm)
    assert dict(verdict[:2] for verdict in verdicts(odd)) == {"10.0.0.7:7700": "UNREACHABLE", "odd:7700": ""}
    assert odd.node.membership.address == "odd:7700"
    assert not any(event["advice"] for event in odd.said("reachability"))


def test_a_link_that_came_in_is_proof_enough() -> None:
    """In an open network nobody has to ask: no trial costs a handshake."""
    swarm = swarm_of(6, settings=SwarmSettings(every_steps=2_000))
    swarm.run(60)
    assert all(verdicts(node)[0][1] == "" for node in swarm.alive())
    proved = [node for node in swarm.alive() if any(not e["dialed"] for e in node.said("link_up"))]
    assert len(proved) >= 4
    assert not any(node.said("dial_back_refused") for node in swarm.alive())


def test_nobody_can_have_us_knock_at_a_third_ones_door() -> None:
    """Only what the asker says of itself is tried, a few at a time and a few a minute."""
    swarm, odd = with_one(",".join(f"odd:{port}" for port in range(1, 5)))
    n0 = swarm.nodes["n0"].node

    def ask(address: str) -> list[ev.Effect]:
        return n0.links.reachability.on_message(odd.key, DialBackRequest(address), swarm.world.now())

    note, refusal = ask("victim.example:22")
    assert isinstance(note, ev.Emit) and refusal == ev.Send(odd.key, DialBack("victim.example:22", "NOT_YOURS"))
    swarm.run(120)
    asked = [ask(f"odd:{port}")[-1] for port in (1, 2, 3, 4, 1)]
    assert [type(effect) for effect in asked] == [ev.TryAddress] * TRIALS_MAX + [ev.Send]
    swarm.run(7)
    late = [ask(f"odd:{1 + n % 4}")[-1] for n in range(TRIALS_PER_PEER_MAX)]
    assert sum(isinstance(effect, ev.TryAddress) for effect in late) == TRIALS_PER_PEER_MAX - TRIALS_MAX


@pytest.mark.parametrize(
    "door", ["127.0.0.1:22", "169.254.169.254:80", "[::1]:22", "[::ffff:127.0.0.1]:22", "localhost:1"]
)
def test_nobody_can_have_us_knock_at_our_own_doors(door: str) -> None:
    """An asker may claim our loopback for its own: it is not tried, unless we are a swarm on one machine."""
    swarm, odd = with_one(door)
    n0 = swarm.nodes["n0"].node.links.reachability
    swarm.run(120)
    answer = n0.on_message(odd.key, DialBackRequest(door), swarm.world.now())[-1]
    assert answer == ev.Send(odd.key, DialBack(door, "CANNOT_DIAL"))
    neighbour = odd.node.links.reachability
    neighbour._links[n0._membership.key] = door
    allowed = neighbour.on_message(n0._membership.key, DialBackRequest(door), swarm.world.now())[-1]
    assert isinstance(allowed, ev.TryAddress)


def test_an_answer_does_not_tell_what_listens_there() -> None:
    """Or we would scan our own network for whoever asks."""
    swarm, odd = with_one("10.0.0.7:22")
    n0 = swarm.nodes["n0"].node.links.reachability
    answers = [n0.on_tried(AddressTried(odd.key, "10.0.0.7:22", code)) for code in ("UNREACHABLE", "NO_HANDSHAKE")]
    assert answers == [[ev.Send(odd.key, DialBack("10.0.0.7:22", "UNREACHABLE"))]] * 2
