"""Links over loopback: who gets through, who does not, and what either side hears of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from loopback import BUSY_S, SPEC, SWARM_KEY, LoopbackNode, poll_until, running
from zmq.utils import z85

from gossip.errors import NetworkError
from gossip.ledger import Ledger
from gossip.live import dialing, listening, names
from gossip.live.join import MAY_PASS, join_swarm
from gossip.live.security import KeyPair, Refusal, Welcome, make_hello, mint_permit, parse_reply
from gossip.live.sockets import BODY_BYTES_MAX, CONTROL_BYTES_MAX, HEADER_BYTES_MAX, QUEUE_MESSAGES
from gossip.live.tickets import Ticket, mint, parse_ticket
from gossip.live.transport import ZmqTransport
from gossip.protocol.messages import State, Status, Update
from gossip.protocol.wire_events import (
    AddressTried,
    FramesDropped,
    FramesReceived,
    LinkDown,
    LinkRefused,
    LinkUp,
    WireEvent,
)

MakeNode = Callable[..., LoopbackNode]


def connect(dialer: LoopbackNode, listener: LoopbackNode) -> None:
    dialer.dial(listener.key, listener.address)
    poll_until(lambda: dialer.is_up(listener.key) and listener.is_up(dialer.key), dialer, listener)


def ticket_of(*members: LoopbackNode, swarm_key: bytes = SWARM_KEY) -> Ticket:
    return mint(swarm_key, [(member.address, member.key) for member in members], 60, now=time.time())


class Stranger:
    """A DEALER that follows no rules but ZeroMQ's."""

    def __init__(self, at: LoopbackNode, *, curve: bool = True, routing_id: bytes = b"") -> None:
        self.keys = KeyPair.new()
        self.at = at
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.setsockopt(zmq.RECONNECT_IVL, -1)
        if routing_id:
            self.socket.setsockopt(zmq.ROUTING_ID, routing_id)
        if curve:
            self.socket.curve_serverkey = z85.encode(at.key)
            self.socket.curve_publickey = z85.encode(self.keys.public)
            self.socket.curve_secretkey = z85.encode(self.keys.secret)
        self.socket.connect(f"tcp://{at.address}")

    def hello(self) -> bytes:
        permit = mint_permit(SWARM_KEY, valid_for_s=60, now=time.time())
        return make_hello(permit, self.keys.public, self.at.key, SPEC, "")

    def say(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def answer(self) -> bytes:
        poll_until(lambda: self.socket.poll(0), self.at)
        return self.socket.recv()

    def enter(self) -> Stranger:
        self.say(self.hello())
        assert isinstance(parse_reply(self.answer(), self.at.key), Welcome)
        return self


@pytest.fixture
def make_stranger() -> Iterator[Callable[..., Stranger]]:
    strangers: list[Stranger] = []

    def make(at: LoopbackNode, **options: bool | bytes) -> Stranger:
        strangers.append(Stranger(at, **options))  # type: ignore[arg-type]
        return strangers[-1]

    yield make
    for stranger in strangers:
        stranger.context.destroy(linger=0)


# Links and frames


def test_two_members_meet_and_talk(make_node: MakeNode) -> None:
    a, b = make_node(), make_node()
    connect(a, b)
    assert a.all(LinkUp) == [LinkUp(b.key, dialed=True, address=b.address)]
    assert b.all(LinkUp) == [LinkUp(a.key, dialed=False, address=a.address)]

    assert a.send(b.key, [b"hello"], "membership")
    assert b.send(a.key, [b"header", b"body" * 1000], "exchange")
    poll_until(lambda: a.all(FramesReceived) and b.all(FramesReceived), a, b)
    assert b.all(FramesReceived) == [FramesReceived(a.key, (b"hello",))]
    assert a.all(FramesReceived) == [FramesReceived(b.key, (b"header", b"body" * 1000))]


def test_both_ledgers_tell_the_same_story(make_node: MakeNode) -> None:
    a, b = make_node(), make_node()
    connect(a, b)
    a.send(b.key, [b"x" * 300], "membership")
    b.send(a.key, [b"h" * 50, b"y" * 5000], "exchange")
    poll_until(lambda: a.all(FramesReceived) and b.all(FramesReceived), a, b)
    assert a.ledger.totals()["sent"] == b.ledger.totals()["received"]
    assert b.ledger.totals()["sent"] == a.ledger.totals()["received"]


def test_a_node_that_only_dials_out_is_answered_over_its_own_connection(make_node: MakeNode) -> None:
    member, outbound = make_node(), make_node(listens=False)
    connect(outbound, member)
    assert member.all(LinkUp) == [LinkUp(outbound.key, dialed=False, address="")]
    assert member.send(outbound.key, [b"answer"], "membership")
    poll_until(lambda: outbound.all(FramesReceived), member, outbound)


def test_two_that_dial_each_other_at_once_come_up_once(make_node: MakeNode) -> None:
    a, b = make_node(), make_node()
    a.dial(b.key, b.address)
    b.dial(a.key, a.address)
    poll_until(lambda: a._links_up[b.key] == 2 and b._links_up[a.key] == 2, a, b)
    assert len(a.all(LinkUp)) == len(b.all(LinkUp)) == 1

    a.hang_up(b.key)
    poll_until(lambda: b.all(LinkDown), a, b)
    assert a.all(LinkDown) == [LinkDown(b.key, "we hung up")]
    assert len(b.all(LinkDown)) == 1
    assert not a.send(b.key, [b"gone"], "membership")


def test_losing_one_of_two_links_is_not_losing_the_peer(make_node: MakeNode) -> None:
    a, b = make_node(), make_node()
    a.dial(b.key, b.address)
    b.dial(a.key, a.address)
    poll_until(lambda: a._links_up[b.key] == 2 and b._links_up[a.key] == 2, a, b)
    b._drop_dialed(a.key, 0)
    b._links_up[a.key] -= 1
    poll_until(lambda: a._links_up[b.key] == 1, a, b)
    assert not a.all(LinkDown)
    for one, other in ((a, b), (b, a)):
        assert one.send(other.key, [b"still here"], "membership")
        poll_until(lambda other=other: other.all(FramesReceived), a, b)


def test_last_words_arrive_before_the_hang_up(make_node: MakeNode) -> None:
    """A goodbye is sent and the link closed at once: the other must still read it, from either side."""
    for dials in (True, False):
        a, b = make_node(), make_node()
        connect(*((a, b) if dials else (b, a)))
        a.send(b.key, [b"goodbye"], "membership")
        a.hang_up(b.key)
        poll_until(lambda b=b: b.all(LinkDown), a, b)
        assert b.all(FramesReceived) == [FramesReceived(a.key, (b"goodbye",))]


def test_a_restarted_node_replaces_its_old_link(make_node: MakeNode) -> None:
    """Its old connection may hang for seconds; nobody should send into it meanwhile."""
    member, keys = make_node(), KeyPair.new()
    before, after = make_node(keys=keys), make_node(keys=keys)
    connect(before, member)
    after.dial(member.key, member.address)
    poll_until(lambda: after.is_up(member.key), after, member)
    assert [type(event) for event in member.said] == [LinkUp, LinkDown, LinkUp]
    assert member.send(keys.public, [b"to the living"], "membership")
    poll_until(lambda: after.all(FramesReceived), after, member)


def test_messages_beyond_the_limits_are_dropped_by_name(make_node: MakeNode) -> None:
    a, b = make_node(), make_node()
    connect(a, b)
    a.send(b.key, [b"x" * CONTROL_BYTES_MAX], "membership")
    a.send(b.key, [b"x" * HEADER_BYTES_MAX, b"x" * BODY_BYTES_MAX], "exchange")
    a.send(b.key, [b"x" * (CONTROL_BYTES_MAX + 1)], "membership")
    a.send(b.key, [b"x" * (HEADER_BYTES_MAX + 1), b""], "exchange")
    a.send(b.key, [b"x" * 3, b"", b""], "exchange")
    a.send(b.key, [b""] * 1000, "exchange")
    poll_until(lambda: b.dropped.total() == 4, a, b)
    assert b.dropped == {"TOO_LARGE": 2, "TOO_MANY_FRAMES": 2}
    assert {event.peer for event in b.all(FramesDropped)} == {a.key}
    assert len(b.all(FramesReceived)) == 2

    a.send(b.key, [b"", b"x" * (BODY_BYTES_MAX + 100)], "exchange")
    poll_until(lambda: b.all(LinkDown), a, b)  # libzmq itself ends a link that sends such a frame


def test_a_peer_that_does_not_read_has_limited_credit(make_node: MakeNode) -> None:
    a, b = make_node(), make_node()
    connect(a, b)
    body = bytes(BODY_BYTES_MAX)
    queued = 0
    stuck_since = time.monotonic()
    while time.monotonic() < stuck_since + 0.2:  # full, and nothing moves any more
        if a.send(b.key, [b"h", body], "exchange"):
            queued, stuck_since = queued + 1, time.monotonic()
        assert queued < 3 * QUEUE_MESSAGES
    poll_until(lambda: len(b.all(FramesReceived)) == queued, b, a)
    poll_until(lambda: a.send(b.key, [b"h", body], "exchange"), b, a)


# Joining


def test_a_newcomer_with_a_ticket_is_given_key_and_spec_and_then_is_a_member(make_node: MakeNode) -> None:
    member, newcomer, third = make_node(), make_node(is_member=False), make_node()
    with running(member, third):
        welcome = join_swarm(newcomer, ticket_of(member))
    assert welcome == Welcome(member.key, SWARM_KEY, SPEC)
    newcomer.said.clear()
    poll_until(lambda: newcomer.all(LinkUp), newcomer)  # handed on to the engine
    assert newcomer.all(LinkUp) == [LinkUp(member.key, dialed=True, address=member.address)]
    connect(newcomer, third)


def test_one_living_seed_is_enough(make_node: MakeNode) -> None:
    member, gone, newcomer = make_node(), LoopbackNode(), make_node(is_member=False)
    gone.close()
    with running(member):
        assert join_swarm(newcomer, ticket_of(gone, member)).seed == member.key


def test_who_has_the_spec_already_is_not_sent_it(make_node: MakeNode) -> None:
    member, newcomer = make_node(), make_node(is_member=False)
    with running(member):
        assert join_swarm(newcomer, ticket_of(member), spec=SPEC).spec == b""


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ("another swarm's ticket", "BAD_TICKET"),
        ("another spec", "BAD_SPEC"),
        ("expired by the member's clock", "TICKET_EXPIRED"),
        ("expired", "this ticket expired on 20"),
        ("another key at that address", "NO_HANDSHAKE"),
        ("nobody there", "UNREACHABLE"),
        ("not a gossip node", "NO_HANDSHAKE"),
        ("the seed is itself joining", "NOT_READY"),
    ],
)
def test_a_failed_join_says_why_in_time(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch, trouble: str, sentence: str
) -> None:
    """What may pass is tried until the time is up, a last word ends it at once."""
    may_pass = sentence in MAY_PASS
    timeout_s = 1.5 if may_pass else 2 * BUSY_S
    monkeypatch.setattr(dialing, "DIAL_TIMEOUT_S", 1.0 if may_pass else 2 * BUSY_S)
    clock = (lambda: time.time() + 3600) if trouble == "expired by the member's clock" else time.time
    member = make_node(wall_clock=clock, is_member=trouble != "the seed is itself joining")
    newcomer = make_node(is_member=False)
    ticket = ticket_of(member, swarm_key=b"x" * 32 if trouble == "another swarm's ticket" else SWARM_KEY)
    server = socket.create_server(("127.0.0.1", 0))
    if trouble == "expired":
        ticket = mint(SWARM_KEY, ticket.seeds, 60, now=time.time() - 600)
    if trouble == "another key at that address":
        ticket = mint(SWARM_KEY, [(member.address, b"k" * 32)], 60, now=time.time())
    if trouble == "nobody there":
        ticket = mint(SWARM_KEY, [("127.0.0.1:1", b"k" * 32)], 60, now=time.time())
    if trouble == "not a gossip node":
        ticket = mint(SWARM_KEY, [(f"127.0.0.1:{server.getsockname()[1]}", b"k" * 32)], 60, now=time.time())
    began = time.monotonic()
    with server, running(member), pytest.raises(NetworkError, match=sentence) as refusal:
        join_swarm(newcomer, ticket, timeout_s=timeout_s, spec=b"other" if trouble == "another spec" else b"")
    took_s = time.monotonic() - began
    assert took_s >= timeout_s or not may_pass
    assert took_s < BUSY_S
    assert "\n" not in str(refusal.value)


def joined_with_help(newcomer: LoopbackNode, ticket: Ticket, helper: LoopbackNode, at_first: Callable) -> Welcome:
    """Join while `helper` runs; `at_first` happens once the first knock was in vain."""
    poll, was_refused = newcomer.poll, False

    def poll_both(timeout_s: float) -> list[WireEvent]:
        nonlocal was_refused
        helper.poll(0.005)
        news = poll(min(timeout_s, 0.005))
        if not was_refused and any(isinstance(event, LinkRefused) for event in news):
            was_refused = True
            at_first()
        return news

    newcomer.poll = poll_both  # type: ignore[method-assign]
    welcome = join_swarm(newcomer, ticket)
    assert was_refused
    assert not any(isinstance(event, LinkRefused) for event in newcomer.poll(0))
    return welcome


def test_a_seed_that_is_just_starting_is_found(make_node: MakeNode) -> None:
    """Both machines come back after a power cut; the one with the ticket must not be lost for being faster."""
    taken, keys = LoopbackNode(), KeyPair.new()
    taken.close()
    seed = make_node(keys=keys, listens=False)
    ticket = mint(SWARM_KEY, [(taken.address, keys.public)], 60, now=time.time())
    newcomer = make_node(is_member=False)
    welcome = joined_with_help(newcomer, ticket, seed, lambda: seed.listen(f"tcp://{taken.address}"))
    assert welcome.seed == keys.public


def test_a_seed_that_is_itself_still_joining_is_asked_again(make_node: MakeNode) -> None:
    seed, newcomer = make_node(is_member=False), make_node(is_member=False)
    ticket = mint(SWARM_KEY, [(seed.address, seed.key)], 60, now=time.time())
    joined_with_help(newcomer, ticket, seed, lambda: seed.become_member(SWARM_KEY, SPEC))


def test_one_members_word_on_a_ticket_is_enough(make_node: MakeNode) -> None:
    """A wrong ticket does not become right while we wait for a second member that is gone."""
    member, gone, newcomer = make_node(), LoopbackNode(), make_node(is_member=False)
    gone.close()
    began = time.monotonic()
    with running(member), pytest.raises(NetworkError, match=r"BAD_TICKET.*UNREACHABLE"):
        join_swarm(newcomer, ticket_of(member, gone, swarm_key=b"x" * 32), timeout_s=2 * BUSY_S)
    assert time.monotonic() - began < BUSY_S


def test_a_member_whose_clock_is_off_is_told_so_and_not_sent_for_a_ticket(make_node: MakeNode) -> None:
    member, late = make_node(), make_node(wall_clock=lambda: time.time() - 3600)
    late.dial(member.key, member.address)
    poll_until(lambda: late.all(LinkRefused), late, member)
    assert [event.code for event in late.all(LinkRefused)] == ["TICKET_EXPIRED"]
    assert "our clock and that member's differ" in late.all(LinkRefused)[0].reason


# Names


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Of three names one is known at once, one is not, and of any other nobody hears before the event is set."""
    answers = threading.Event()

    def getaddrinfo(host: str, port: int, **_: int) -> list[tuple]:
        if host == "unknown.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if host != "quick.example":
            assert answers.wait(4 * BUSY_S)
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield answers
    answers.set()
    for thread in threading.enumerate():
        if thread.name == "lookup":
            thread.join(5.0)


def named(host: str, node: LoopbackNode) -> str:
    return f"{host}:{node.address.rpartition(':')[2]}"


def test_a_name_is_dialed_and_ipv4_comes_first(make_node: MakeNode, name_server: threading.Event) -> None:
    a, b = make_node(), make_node()
    a.dial(b.key, named("quick.example", b))
    poll_until(lambda: a.is_up(b.key) and b.is_up(a.key), a, b)
    assert a.all(LinkUp) == [LinkUp(b.key, dialed=True, address=named("quick.example", b))]


def test_an_answer_that_comes_late_wakes_the_loop(
    make_node: MakeNode, name_server: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialing, "DIAL_TIMEOUT_S", 4 * BUSY_S)
    a, b = make_node(), make_node()
    a.dial(b.key, named("slow.example", b))
    a.poll(0)
    name_server.set()
    began = time.monotonic()
    a.poll(2 * BUSY_S)  # returns for the answer, not for the dial's deadline
    assert time.monotonic() - began < BUSY_S
    poll_until(lambda: a.is_up(b.key), a, b)


def test_a_slow_name_silences_no_other_link(
    make_node: MakeNode, name_server: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked up inside libzmq it stopped every link's heartbeats: one member's name split a swarm."""
    monkeypatch.setattr(dialing, "DIAL_TIMEOUT_S", 0.3)
    a, b, slow = make_node(), make_node(), KeyPair.new().public
    a.dial(slow, "slow.example:7700")
    connect(a, b)
    assert b.send(a.key, [b"still here"], "membership")
    poll_until(lambda: a.all(FramesReceived) and a.all(LinkRefused), a, b)
    [refused] = a.all(LinkRefused)
    assert (refused.peer, refused.address, refused.code) == (slow, "slow.example:7700", "UNREACHABLE")
    assert "slow.example is still being looked up" in refused.reason

    for _ in range(3):  # who dials again waits for the same answer
        a.dial(KeyPair.new().public, "slow.example:7700")
    assert sum(thread.name == "lookup" for thread in threading.enumerate()) == 1


def test_a_name_nobody_knows_is_refused_by_that_name(make_node: MakeNode, name_server: threading.Event) -> None:
    node = make_node()
    node.dial(b"k" * 32, "unknown.example:7700")
    poll_until(lambda: node.all(LinkRefused), node)
    assert node.all(LinkRefused) == [
        LinkRefused(
            b"k" * 32,
            "unknown.example:7700",
            "UNREACHABLE",
            "the name unknown.example cannot be looked up: Name or service not known",
        )
    ]


def test_names_that_hang_are_counted(make_node: MakeNode, name_server: threading.Event) -> None:
    """A lookup cannot be interrupted, and members choose the names: they must not choose our threads' number."""
    node = make_node()
    for n in range(names.LOOKUPS_MAX + 1):
        node.dial(n.to_bytes(32), f"slow{n}.example:7700")
    assert [event.code for event in node.poll(0)] == ["CANNOT_DIAL"]  # type: ignore[union-attr]
    assert sum(thread.name == "lookup" for thread in threading.enumerate()) == names.LOOKUPS_MAX


def test_closing_does_not_wait_for_a_name(name_server: threading.Event) -> None:
    node = LoopbackNode()
    node.dial(b"k" * 32, "slow.example:7700")
    began = time.monotonic()
    node.close()
    assert time.monotonic() - began < BUSY_S  # and the name is known after four times that


# Strangers


def test_noise_on_the_port_changes_nothing(make_node: MakeNode) -> None:
    member = make_node()
    host, port = member.address.split(":")
    with socket.create_connection((host, int(port))) as caller:
        caller.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(200))
        poll_until(lambda: member.dropped["NO_HELLO"], member)
    assert not member._listener._by_fd
    assert {type(event) for event in member.said} == {FramesDropped}


def test_a_client_without_curve_is_not_heard(make_node: MakeNode, make_stranger: Callable) -> None:
    member = make_node()
    make_stranger(member, curve=False).say(b"hello?")
    poll_until(lambda: member.dropped["HANDSHAKE_FAILED"], member)
    assert {type(event) for event in member.said} == {FramesDropped}


def test_who_knows_our_key_but_says_no_hello_is_refused_and_cut(make_node: MakeNode, make_stranger: Callable) -> None:
    member = make_node()
    stranger = make_stranger(member)
    for _ in range(3):
        stranger.say(b"header", b"body")
    reply = parse_reply(stranger.answer(), member.key)
    assert isinstance(reply, Refusal) and reply.code == "BAD_HELLO"
    poll_until(lambda: not member._listener._by_fd, member)
    assert member.dropped["NOT_ADMITTED"] == 2
    assert [event.code for event in member.all(LinkRefused)] == ["BAD_HELLO"]
    assert not member.all(FramesReceived) and not member.all(LinkUp)


def test_who_says_nothing_at_all_is_cut(
    make_node: MakeNode, make_stranger: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "HELLO_TIMEOUT_S", 0.2)
    member = make_node()
    make_stranger(member)
    poll_until(lambda: member.dropped["NO_HELLO"] and not member._listener._by_fd, member)


def test_a_hello_taken_from_another_is_refused(make_node: MakeNode, make_stranger: Callable) -> None:
    member = make_node()
    honest, thief = make_stranger(member), make_stranger(member)
    thief.say(honest.hello())
    reply = parse_reply(thief.answer(), member.key)
    assert isinstance(reply, Refusal) and reply.code == "BAD_TICKET"
    assert not member.all(LinkUp)


def test_a_routing_id_gives_nobody_anothers_voice_or_mail(make_node: MakeNode, make_stranger: Callable) -> None:
    """Two members claim one routing id: the second is not heard at all, the first keeps what is sent to it."""
    member = make_node()
    victim = make_stranger(member, routing_id=b"twin").enter()
    impostor = make_stranger(member, routing_id=b"twin")
    impostor.say(impostor.hello())
    impostor.say(b"I am the victim")
    victim.say(b"so am I")
    poll_until(lambda: member.all(FramesReceived), member)
    assert member.send(victim.keys.public, [b"for the victim"], "membership")
    assert victim.answer() == b"for the victim"
    assert impostor.socket.poll(50) == 0
    assert member.all(FramesReceived) == [FramesReceived(victim.keys.public, (b"so am I",))]


def test_a_banned_key_is_cut_and_never_let_in_again(make_node: MakeNode) -> None:
    member, banned = make_node(), make_node()
    connect(banned, member)
    member.ban(banned.key)
    poll_until(lambda: banned.all(LinkDown), member, banned)
    banned.dial(member.key, member.address)
    poll_until(lambda: banned.all(LinkRefused), member, banned)
    assert [event.code for event in banned.all(LinkRefused)] == ["NO_HANDSHAKE"]
    assert not member.is_up(banned.key)


@pytest.mark.parametrize("address", ["", "host", "*:1", "eth0;10.0.0.1:1", "h:0", "h:65536", "a b:1", "h:1\n"])
def test_an_address_from_a_peer_is_no_libzmq_command(make_node: MakeNode, address: str) -> None:
    node = make_node(listens=False)
    node.dial(b"k" * 32, address)
    assert [event.code for event in node.poll(0)] == ["CANNOT_DIAL"]  # type: ignore[union-attr]


# Failures of the machine and the network


PEER = """
import sys
from loopback import LoopbackNode
node = LoopbackNode()
print(node.address, node.key.hex(), flush=True)
while True:
    node.poll(1.0)
"""


@contextlib.contextmanager
def peer_process() -> Iterator[tuple[subprocess.Popen, str, bytes]]:
    """A member in another process: (process, address, key)."""
    here = Path(__file__).parent
    with subprocess.Popen(
        [sys.executable, "-c", PEER],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parents[1]}"},
    ) as process:
        try:
            address, key = process.stdout.readline().split()  # type: ignore[union-attr]
            yield process, address, bytes.fromhex(key)
        finally:
            process.kill()


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_and_a_frozen_peer_are_noticed(make_node: MakeNode, blow: signal.Signals) -> None:
    """A dead process closes its sockets; a frozen one keeps them, and only its silence tells."""
    node = make_node()
    with peer_process() as (process, address, key):
        node.dial(key, address)
        poll_until(lambda: node.is_up(key), node)
        process.send_signal(blow)
        poll_until(lambda: node.all(LinkDown), node)
    assert node.all(LinkDown) == [LinkDown(key, "the connection was lost")]


def test_a_seed_that_never_answers_is_given_up(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """The member exists but its loop is stuck: the handshake waits for its doorman until the deadline."""
    monkeypatch.setattr(dialing, "DIAL_TIMEOUT_S", 0.3)
    node, stuck = make_node(), make_node()
    node.dial(stuck.key, stuck.address)
    poll_until(lambda: node.all(LinkRefused), node)
    assert [event.code for event in node.all(LinkRefused)] == ["NO_HANDSHAKE"]


def test_what_cannot_be_listened_at_is_explained(make_node: MakeNode) -> None:
    member = make_node()
    for endpoint, advice in [
        (f"tcp://{member.address}", "in use"),
        ("tcp://192.0.2.1:7700", "no such address"),
    ]:
        with pytest.raises(NetworkError, match=advice):
            make_node(listens=False).listen(endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        "nonsense",
        "",
        "localhost:7700",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:99999",
        "tcp://127.0.0.1:80x",
        "tcp://127.0.0.1:-1",
        "tcp://127.0.0.1:*",
        "tcp://::1:7700",
        "tcp://eth0;10.0.0.1:1",
        "ipc:///tmp/x",
        "inproc://x",
    ],
)
def test_an_endpoint_libzmq_would_misread_is_refused(make_node: MakeNode, endpoint: str) -> None:
    """It listens at port 34463 where it was told 99999, and of a file of `ipc:` we never heard the end."""
    node = make_node(listens=False)
    with pytest.raises(NetworkError, match=r"expected tcp://HOST:PORT, like") as refused:
        node.listen(endpoint)
    assert repr(endpoint) in str(refused.value)
    node.close()  # and nothing is left that would keep it from closing


def test_a_socket_that_fails_after_it_was_bound_is_closed(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node = make_node(listens=False)
    monkeypatch.setattr(zmq.Socket, "getsockopt_string", lambda *_: "tcp://nowhere")
    with pytest.raises(ValueError):
        node.listen("tcp://127.0.0.1:0")
    node.close()  # waits for ever for a socket left open


@pytest.mark.parametrize("advertise", ["nonsense", "host:0", "tcp://host:1", f"{'h' * 124}:7700"])
def test_an_address_that_cannot_be_told_to_others_is_refused_at_the_start(advertise: str) -> None:
    """One limit for what the command line takes and what a membership message can carry."""
    with pytest.raises(NetworkError, match=r"expected HOST:PORT of at most 128 characters"):
        ZmqTransport(KeyPair.new(), Ledger(), advertise=advertise)
    longest = f"{'h' * 123}:7700"
    transport = ZmqTransport(KeyPair.new(), Ledger(), advertise=longest)
    assert Update(transport.key, transport.address, 0, State.ALIVE, Status()).address == longest
    transport.close()


def test_a_wildcard_is_advertised_as_something_one_can_dial(make_node: MakeNode) -> None:
    for endpoint in ("tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://*:0"):
        node = make_node(listens=False)
        node.listen(endpoint)
        assert not node.address.startswith(("0.0.0.0", "[::]"))
        for address in node.address.split(","):
            other = make_node(listens=False)
            other.dial(node.key, address)
            poll_until(lambda: other.is_up(node.key), other, node)  # noqa: B023 - within this turn


def test_any_thread_can_wake_the_loop_and_a_closed_pipe_does_too(make_node: MakeNode) -> None:
    node = make_node()
    threading.Thread(target=node.wake).start()
    assert node.poll(10.0) == []
    reader, writer = os.pipe()
    ended: list[bytes] = []
    node.watch(reader, lambda: ended.append(os.read(reader, 1)))
    os.close(writer)
    node.poll(10.0)
    node.unwatch(reader)
    os.close(reader)
    assert ended == [b""]


def test_closing_leaves_no_thread_no_descriptor_and_takes_less_than_a_second() -> None:
    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = held()
    a, b = LoopbackNode(), LoopbackNode()
    connect(a, b)
    a.dial(b"k" * 32, "192.0.2.1:1")  # never answers
    a.send(b.key, [b"h", bytes(BODY_BYTES_MAX)], "exchange")  # never read
    began = time.monotonic()
    a.close()
    b.close()
    assert time.monotonic() - began < 1.0
    assert held() == before
    a.close()
    a.wake()  # a worker that did not hear of it


# Several addresses, and whether they are right


@contextlib.contextmanager
def swallowing_address() -> Iterator[str]:
    """An address whose SYNs nobody answers, as behind a firewall: its queue of connections is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, contextlib.ExitStack() as stack:
        for _ in range(2):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_seeds_addresses_are_tried_in_turn(make_node: MakeNode) -> None:
    """One of another network swallows what is sent there, one refuses: the third lets us in, within the join's 4 s."""
    member, newcomer = make_node(), make_node(is_member=False)
    with swallowing_address() as silent, running(member):
        ticket = mint(SWARM_KEY, [(f"{silent},127.0.0.1:1,{member.address}", member.key)], 60, now=time.time())
        assert join_swarm(newcomer, parse_ticket(ticket.text())).seed == member.key


def test_a_dial_that_is_swallowed_is_given_up_when_told(make_node: MakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost half of the swarm is dialed twice a second: three seconds for each would be six sockets at all times."""
    monkeypatch.setattr(dialing, "DIAL_TIMEOUT_S", 2 * BUSY_S)
    node = make_node(listens=False)
    with swallowing_address() as silent:
        began = time.monotonic()
        node.dial(b"k" * 32, silent, connect_s=0.2)
        poll_until(lambda: node.all(LinkRefused), node)
    assert [event.code for event in node.all(LinkRefused)] == ["UNREACHABLE"]
    assert 0.2 <= time.monotonic() - began < BUSY_S


def test_trying_an_address_tells_who_is_there_and_makes_no_link(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the owner of the key can finish the handshake: another node at that address is not the one asked for."""
    monkeypatch.setattr(dialing, "DIAL_TIMEOUT_S", 1.0)
    asked, asker = make_node(), make_node()
    with swallowing_address() as silent, socket.create_server(("127.0.0.1", 0)) as mute:
        expected = {
            asker.address: "",
            "127.0.0.1:1": "UNREACHABLE",
            silent: "UNREACHABLE",
            asked.address: "NO_HANDSHAKE",
            f"127.0.0.1:{mute.getsockname()[1]}": "NO_HANDSHAKE",
            "no address": "CANNOT_DIAL",
        }
        for address in expected:
            asked.try_address(asker.key, address)
        poll_until(lambda: len(asked.all(AddressTried)) == len(expected), asked, asker)
    assert {event.address: event.code for event in asked.all(AddressTried)} == expected
    assert not asked.all(LinkUp) and not asker.all(LinkUp)


def test_a_node_that_advertises_nothing_says_so(make_node: MakeNode) -> None:
    """It is linked by its own dial only; whoever it dials must not be told to dial back."""
    member, outbound = make_node(), ZmqTransport(KeyPair.new(), Ledger(), advertise="none")
    outbound.listen("tcp://127.0.0.1:0")
    assert outbound.address == ""
    outbound.become_member(SWARM_KEY, SPEC)
    outbound.dial(member.key, member.address)
    poll_until(lambda: member.all(LinkUp), member, outbound)
    assert [event.address for event in member.all(LinkUp)] == [""]
    outbound.close()
