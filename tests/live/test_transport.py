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
from loopback import SPEC, SWARM_KEY, LoopbackNode, poll_until, running
from zmq.utils import z85

from gossip.errors import NetworkError
from gossip.live import dialing, listening
from gossip.live.join import join_swarm
from gossip.live.security import KeyPair, Refusal, Welcome, make_hello, mint_permit, parse_reply
from gossip.live.sockets import BODY_BYTES_MAX, CONTROL_BYTES_MAX, HEADER_BYTES_MAX, QUEUE_MESSAGES
from gossip.live.tickets import Ticket, mint
from gossip.protocol.wire_events import FramesDropped, FramesReceived, LinkDown, LinkRefused, LinkUp

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
def test_a_failed_join_says_why_within_five_seconds(make_node: MakeNode, trouble: str, sentence: str) -> None:
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
        join_swarm(newcomer, ticket, spec=b"other" if trouble == "another spec" else b"")
    assert time.monotonic() - began < 5
    assert "\n" not in str(refusal.value)


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
        poll_until(lambda: node.all(LinkDown), node, within_s=4.5)
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
        ("nonsense", "expected tcp://HOST:PORT"),
    ]:
        with pytest.raises(NetworkError, match=advice):
            make_node(listens=False).listen(endpoint)


def test_a_wildcard_is_advertised_as_something_one_can_dial(make_node: MakeNode) -> None:
    for endpoint in ("tcp://0.0.0.0:0", "tcp://[::]:0", "tcp://*:0"):
        node, other = make_node(listens=False), make_node(listens=False)
        node.listen(endpoint)
        assert not node.address.startswith(("0.0.0.0", "[::]"))
        connect(other, node)


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
