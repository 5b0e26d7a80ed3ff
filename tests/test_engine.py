"""The engine between a node and hostile, broken or merely late peers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from drawn_messages import all_messages, few
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip import wire
from gossip.engine import Engine
from gossip.errors import InvariantError
from gossip.ledger import Ledger
from gossip.protocol import events as ev
from gossip.protocol import messages as msg
from gossip.protocol.commands import CHECKS_AT_ONCE
from gossip.protocol.invariants import check
from gossip.protocol.node import Node, NodeSettings
from gossip.protocol.wire_events import FramesDropped, FramesReceived, LinkDown, LinkRefused, LinkUp

SPEC_HASH = b"the-spec"
ME, PEER, OTHER = b"m" * 32, b"p" * 32, b"o" * 32


class Bench:
    """One engine on a bench: a clock we turn, a transport and workers that only note down."""

    def __init__(self, seeds: tuple[tuple[bytes, str], ...] = (), can_send: bool = True) -> None:
        self.time = 100.0
        self.can_send = can_send
        self.calls: list[tuple[Any, ...]] = []
        self.work: list[ev.Effect] = []
        self.said: list[tuple[str, dict[str, Any]]] = []
        node_settings = NodeSettings(
            key=ME, address="me:1", seeds=seeds, fragments=3, samples_total=10**9, every_steps=8, blocks=0.1
        )
        self.engine = Engine(
            Node(node_settings, random.Random(1)),
            SPEC_HASH,
            clock=self,
            transport=self,
            workers=self,
            ledger=Ledger(),
            observe=lambda name, fields: self.said.append((name, fields)),
        )
        self.engine.start()

    def now(self) -> float:
        return self.time

    def dial(self, peer: bytes, address: str, connect_s: float) -> None:
        self.calls.append(("dial", peer, address))

    def hang_up(self, peer: bytes) -> None:
        self.calls.append(("hang_up", peer))

    def send(self, peer: bytes, frames: Sequence[bytes], kind: str) -> bool:
        self.calls.append(("send", peer, kind))
        return self.can_send

    def submit(self, effect: ev.Effect) -> None:
        self.work.append(effect)

    def names(self) -> list[str]:
        return [name for name, _ in self.said]

    def receive(self, message: msg.Message, peer: bytes = PEER) -> None:
        self.engine.on_transport(FramesReceived(peer, (wire.encode_message(message),)))

    def tick(self, seconds: float = 0.0) -> None:
        self.time += seconds
        self.engine.tick_if_due()


def test_the_first_node_trains_at_once() -> None:
    """No seeds: there is nobody to wait for."""
    bench = Bench()
    assert [type(effect) for effect in bench.work] == [ev.SetProgress, ev.StartTraining]


def test_a_joiner_dials_its_seeds_and_trains_later() -> None:
    """The state comes first."""
    bench = Bench(seeds=((PEER, "p:1"), (OTHER, "o:1")))
    assert bench.calls == [("dial", PEER, "p:1"), ("dial", OTHER, "o:1")] and not bench.work


def test_a_broken_message_ends_as_a_named_event() -> None:
    """A peer's error never raises past the engine."""
    bench = Bench()
    bench.engine.on_transport(LinkUp(PEER, False, "p:1"))
    for frames in ((b"\xff",), (b"", b""), (b"a", b"b", b"c"), ()):
        bench.engine.on_transport(FramesReceived(PEER, frames))
    assert bench.names().count("message_refused") == 4


def test_a_forged_command_costs_little_and_is_named() -> None:
    """Any member can send one: so many signatures are looked at, the rest is refused unseen."""
    bench = Bench()
    bench.engine.on_transport(LinkUp(PEER, False, "p:1"))
    for sequence in range(1, 101):
        bench.receive(msg.Command(sequence, "stop", "", bytes(64)))
    codes = [fields["code"] for name, fields in bench.said if name == "message_refused"]
    assert codes == ["BAD_SIGNATURE"] * CHECKS_AT_ONCE + ["TOO_MANY_COMMANDS"] * (100 - CHECKS_AT_ONCE)
    bench.receive(msg.Command(1, "stop", "", bytes(64)), peer=OTHER)
    assert bench.said[-1][1]["code"] == "BAD_SIGNATURE", "another peer's share is its own"
    bench.receive(msg.Command(1, "set lr", "-1", bytes(64)), peer=OTHER)
    assert bench.said[-1][0] == "command_ignored", "what would change nothing is not even verified"


def test_what_the_transport_dropped_is_named() -> None:
    """Every drop is an event, whoever it came from."""
    bench = Bench()
    bench.engine.on_transport(FramesDropped(None, "TOO_LARGE", 3))
    assert bench.said[-1] == ("frames_dropped", {"peer": "a stranger", "code": "TOO_LARGE", "count": 3})


def test_what_could_not_be_sent_is_named() -> None:
    """No link, no credit: a control message lost without a trace would be a riddle at night."""
    bench = Bench(can_send=False)
    bench.engine.on_transport(LinkUp(PEER, False, "p:1"))
    assert ("send_dropped", {"peer": PEER.hex()[:8], "message": "News"}) in bench.said


def test_a_tick_leaves_nothing_due() -> None:
    """A deadline left in the past would have the live loop spin at 100 % of a core."""
    bench = Bench(seeds=((PEER, "p:1"),))
    while bench.time < 150.0:  # a minute without a donor, and it leaves
        bench.tick(bench.engine.seconds_to_deadline())
        assert bench.engine.seconds_to_deadline() > 0


def test_a_finished_node_is_deaf_and_asks_for_no_more_ticks() -> None:
    """After the goodbye every input is answered with nothing."""
    bench = Bench()
    bench.engine.handle(ev.StopRequested("enough"))
    assert bench.engine.finished == "enough"
    bench.calls.clear()
    bench.receive(msg.Ping(1))
    assert bench.calls == [] and bench.engine.seconds_to_deadline() == float("inf")


def test_a_broken_invariant_is_not_swallowed() -> None:
    """Our own bugs stop the node: only peers' errors are carried on from."""
    bench = Bench()
    bench.engine.node.membership.members[ME] = None  # type: ignore[assignment]
    with pytest.raises(InvariantError, match="no member of its own table"):
        check(bench.engine.node)


# -- Hostile but admitted ---------------------------------------------------------------------------------

_ours = st.sampled_from([ME, PEER, OTHER, b"x" * 32])
_near = st.builds(
    msg.Update,
    key=_ours,
    address=st.sampled_from(["", "p:1", "o:1"]),
    incarnation=st.sampled_from([0, 1, 2, 999, 1_001, 2**32 - 1]),
    state=st.sampled_from(msg.State),
    status=st.builds(
        msg.Status,
        sequence=st.sampled_from([0, 1, 5, msg.COUNT_MAX]),
        phase=st.sampled_from(msg.Phase),
        samples=st.sampled_from([0, 10, msg.COUNT_MAX]),
    ),
)
_nears = st.lists(_near, max_size=8).map(tuple)
_numbers = st.sampled_from([0, 1, 2, 3, 2**32 - 1])
hostile_messages = st.one_of(
    all_messages,
    st.builds(msg.News, _nears),
    st.builds(msg.Members, _nears),
    st.builds(msg.Ping, _numbers, _nears),
    st.builds(msg.Ack, _numbers, _nears),
    st.builds(msg.PingRequest, _numbers, _ours, few),
    st.builds(msg.FragmentRequest, st.integers(0, 4)),
    st.builds(msg.Refusal, st.sampled_from(msg.PayloadKind), _numbers, st.just("NO")),
)
hostile_frames = st.one_of(
    hostile_messages.map(lambda message: (wire.encode_message(message),)),
    st.builds(
        lambda *fields: (
            wire.encode_header(msg.Header(*fields), SPEC_HASH),
            b"body",
        ),
        st.sampled_from(msg.PayloadKind),
        _numbers,
        _numbers,
        st.integers(0, 9),
        _numbers,
        _numbers,
    ),
    st.lists(st.binary(max_size=60), max_size=3).map(tuple),
)
happenings = st.one_of(
    st.builds(FramesReceived, st.sampled_from([PEER, OTHER]), hostile_frames),
    st.builds(LinkUp, st.sampled_from([PEER, OTHER]), st.booleans(), st.just("p:1")),
    st.builds(LinkDown, st.sampled_from([PEER, OTHER]), st.just("gone")),
    st.builds(LinkRefused, st.sampled_from([PEER, OTHER]), st.just("p:1"), st.just("BUSY"), st.just("busy")),
    st.floats(0.0, 5.0),
)


def _answers(effect: ev.Effect) -> list[ev.Input]:
    match effect:
        case ev.Respond(peer, header):
            return [ev.AnswerReady(peer, header.number, b"a", 1, 0)]
        case ev.Apply(peer, header) | ev.LoadFragment(peer, header) if header.step % 2:
            return [ev.PayloadUnreadable(peer, header, "DECODE_FAILED", "fuzz")]
        case ev.Apply(peer, header):
            return [ev.Mixed(header.number, 1, 0)]
        case ev.LoadFragment(peer, header):
            return [ev.FragmentLoaded(peer, header.number)]
        case ev.CompareDonors(donors):
            loss = 0.4 if len(donors) > 1 else math.nan
            return [ev.DonorsCompared(tuple(ev.DonorLoss(peer, loss, 0.5) for peer in donors), 2.3)]
        case ev.PickBlocks(exchange_id):
            return [ev.OfferReady(exchange_id, b"o")]
        case ev.ReadFragment(peer, index):
            return [ev.FragmentReady(peer, index, b"f")]
    return []


@settings(max_examples=150)
@given(st.booleans(), st.lists(happenings, max_size=25))
def test_no_peer_can_stop_a_node(is_joiner: bool, story: list[Any]) -> None:
    """Whatever admitted peers send, in whatever order: named events result, and every invariant holds."""
    bench = Bench(seeds=((PEER, "p:1"),) if is_joiner else ())
    bench.engine.node.exchanges._next_id = 1  # within the reach of what is drawn
    bench.engine.on_transport(LinkUp(PEER, False, "p:1"))
    trained = msg.Status(1, msg.Phase.TRAINING)
    bench.receive(msg.News((msg.Update(PEER, "p:1", 0, msg.State.ALIVE, trained),)))
    for number, happening in enumerate(story):
        if isinstance(happening, float):
            bench.tick(happening)
            bench.engine.handle(ev.StepsDone(8 * number, 256 * number, 1.0, 0.01, 0.02))
        else:
            bench.engine.on_transport(happening)
        while bench.work:
            for answer in _answers(bench.work.pop(0)):
                bench.engine.handle(answer)
        check(bench.engine.node)
        if bench.engine.finished is None:
            bench.tick()
            assert bench.engine.node.next_deadline() > bench.time
    assert all(name and isinstance(fields, dict) for name, fields in bench.said)
