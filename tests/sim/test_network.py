"""The simulated network keeps the promises of the live one, and breaks what it is told to break."""

from __future__ import annotations

import pytest

from gossip.ledger import Ledger, message_bytes
from gossip.protocol.wire_events import FramesReceived, LinkDown, LinkRefused, LinkUp, WireEvent
from gossip.sim.network import Network, NetworkModel, SimTransport
from gossip.sim.world import World

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


class Town:
    """Three hosts and all they were told."""

    def __init__(self, model: NetworkModel | None = None) -> None:
        self.world = World(3)
        self.network = Network(self.world, model or NetworkModel())
        self.heard: dict[bytes, list[WireEvent]] = {key: [] for key in (A, B, C)}
        self.ledgers = {key: Ledger() for key in (A, B, C)}
        self.hosts: dict[bytes, SimTransport] = {
            key: self.network.attach(key, f"{key[:1].decode()}:1", self.ledgers[key], self.heard[key].append)
            for key in (A, B, C)
        }

    def link(self, here: bytes, there: bytes) -> None:
        self.hosts[here].dial(there, f"{there[:1].decode()}:1")
        self.run(0.2)

    def run(self, seconds: float) -> None:
        self.world.run(self.world.now() + seconds)

    def kinds(self, key: bytes) -> list[type]:
        return [type(event) for event in self.heard[key]]


@pytest.fixture
def town() -> Town:
    return Town()


def test_a_link_is_up_on_both_sides_and_the_listener_knows_first(town: Town) -> None:
    """As live: the dialer is told by the listener's welcome, so no frame can precede the link it came by."""
    town.link(A, B)
    assert town.heard[A] == [LinkUp(B, True, "b:1")]
    assert town.heard[B] == [LinkUp(A, False, "a:1")]


def test_two_that_dial_each_other_get_one_link(town: Town) -> None:
    """Both dials arrive; a second LinkUp without a LinkDown would break the transport's contract."""
    town.hosts[B].dial(A, "a:1")
    town.link(A, B)
    assert town.kinds(A) == [LinkUp] and town.kinds(B) == [LinkUp]


def test_frames_arrive_in_order(town: Town) -> None:
    """Jitter delays, it does not shuffle."""
    town.link(A, B)
    for number in range(50):
        town.hosts[A].send(B, (bytes([number]),), "membership")
    town.run(1)
    assert [event.frames[0][0] for event in town.heard[B] if isinstance(event, FramesReceived)] == list(range(50))


def test_what_was_sent_before_hanging_up_arrives_before_the_end(town: Town) -> None:
    """A goodbye is worth saying: the link's end comes after it, on both sides once."""
    town.link(A, B)
    town.hosts[A].send(B, (b"bye",), "membership")
    town.hosts[A].hang_up(B)
    town.run(1)
    assert town.kinds(B) == [LinkUp, FramesReceived, LinkDown]
    assert town.kinds(A) == [LinkUp, LinkDown]
    assert not town.hosts[A].send(B, (b"?",), "membership")


def test_a_crash_resets_the_links_of_the_others(town: Town) -> None:
    """The kernel of a dead process answers for it: its peers learn within one delay."""
    town.link(A, B)
    town.network.crash(A)
    town.run(0.1)
    assert town.kinds(B) == [LinkUp, LinkDown]


def test_a_cut_is_silent_until_heartbeats_notice(town: Town) -> None:
    """Nothing is said for 4 s, then both ends are down; a dial across comes to nothing, until it is healed."""
    town.link(A, B)
    town.network.cut(A, B)
    town.hosts[A].send(B, (b"?",), "membership")
    town.run(3.9)
    assert town.kinds(A) == [LinkUp] and town.kinds(B) == [LinkUp]
    town.run(0.2)
    assert town.kinds(A) == [LinkUp, LinkDown] and town.kinds(B) == [LinkUp, LinkDown]
    town.link(A, B)
    town.run(4)
    assert isinstance(town.heard[A][-1], LinkRefused)
    town.network.heal()
    town.link(A, B)
    assert isinstance(town.heard[A][-1], LinkUp) and isinstance(town.heard[B][-1], LinkUp)


def test_nobody_at_an_address_is_a_refusal(town: Town) -> None:
    """Every dial is answered, by LinkUp or LinkRefused."""
    town.hosts[A].dial(B, "elsewhere:1")
    town.hosts[A].dial(b"x" * 32, "x:1")
    town.run(1)
    assert town.kinds(A) == [LinkRefused, LinkRefused]


def test_loss_takes_payloads_and_spares_control() -> None:
    """Two frames are a payload: dropped for want of credit. Control messages are small and arrive."""
    town = Town(NetworkModel(loss=0.5))
    town.link(A, B)
    for _ in range(200):
        town.hosts[A].send(B, (b"ping",), "membership")
        town.hosts[A].send(B, (b"header", b"body"), "exchange")
    town.run(1)
    frames = [len(event.frames) for event in town.heard[B] if isinstance(event, FramesReceived)]
    assert frames.count(1) == 200 and 60 < frames.count(2) < 140


def test_both_ledgers_enter_what_travelled(town: Town) -> None:
    """Bytes are counted with the live formulas, at both ends, by kind."""
    town.link(A, B)
    town.hosts[A].send(B, (b"x" * 100, b"y" * 1000), "exchange")
    town.run(1)
    size = message_bytes((b"x" * 100, b"y" * 1000))
    assert town.ledgers[A].totals()["sent"]["exchange"].bytes == size
    assert town.ledgers[B].totals()["received"]["exchange"].bytes == size


def test_a_line_is_shared_by_its_links_and_each_of_them_keeps_its_order() -> None:
    """A ping to one peer does not wait for the megabytes another one is sent, and megabytes take their time."""
    town = Town(NetworkModel(delay_s=0.01, jitter_s=0.0, upload_bytes_per_s=100_000))
    town.link(A, B)
    town.link(A, C)
    for _ in range(2):
        town.hosts[A].send(B, (b"header", bytes(100_000)), "state")
    town.hosts[A].send(B, (b"after them",), "membership")
    town.hosts[A].send(C, (b"ping",), "membership")
    town.run(0.3)
    assert town.kinds(C) == [LinkUp, FramesReceived] and town.kinds(B) == [LinkUp]
    town.run(1.5)
    assert town.kinds(B) == [LinkUp, FramesReceived]
    town.run(0.4)
    assert [event.frames[0] for event in town.heard[B] if isinstance(event, FramesReceived)] == [
        b"header", b"header", b"after them",
    ]  # fmt: skip
    town.hosts[A].send(B, (b"header", bytes(100_000)), "state")
    town.network.crash(A)
    town.run(2)
    assert town.kinds(B)[-1] == LinkDown and town.kinds(B).count(FramesReceived) == 3
