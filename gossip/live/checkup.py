"""Can this machine listen, reach a swarm's members, be reached by them, and how fast: for gossip doctor.

A visitor's link, as client.py's: nobody counts us as a member. Every answer is a Finding; nothing is raised for what
does not work.
"""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gossip import spec, wire
from gossip.errors import GossipError, NetworkError, PeerError
from gossip.findings import BAD, OK, UNKNOWN, WARN, Finding
from gossip.ledger import Ledger, message_bytes
from gossip.live.security import CLOCK_SKEW_S, KeyPair
from gossip.live.tickets import Ticket
from gossip.live.transport import ZmqTransport
from gossip.protocol.messages import Ack, DialBack, DialBackRequest, FragmentRequest, Message, Ping, Refusal
from gossip.protocol.wire_events import FramesReceived, LinkRefused, LinkUp
from gossip.spec import Experiment

TCP_TIMEOUT_S = 3.0
LINK_TIMEOUT_S = 4.0
ANSWER_S = 2.0
DIAL_BACK_S = 7.0
PINGS = 7
FRAGMENTS = 6  # up to 800 kB in all
FRAGMENT_S, DOWNLOAD_S = 10.0, 5.0  # for one; after so long no further one is asked for
SLOW_ROUND_TRIP_S, SLOW_BYTES_PER_S = 0.5, 20_000.0
AUTO = 'set every_steps = "auto" and blocks = "auto" in the experiment'


@dataclass(slots=True)
class Checkup:
    """What became known on the way."""

    findings: list[Finding]
    experiment: Experiment | None = None


def check_network(listen: str, advertise: str, ticket: Ticket | None) -> Checkup:
    """All of it, in some ten seconds; up to half a minute over a very slow line. listen: tcp://HOST:PORT."""
    transport = ZmqTransport(KeyPair.new(), Ledger(), advertise=advertise)
    checkup = Checkup([])
    say = checkup.findings.append
    try:
        can_listen = _listen(transport, listen, say)
        if ticket is None:
            say(Finding("members", UNKNOWN, "no ticket: nobody to dial", "gossip doctor --join TICKET"))
        else:
            say(_expiry(ticket))
            _visit(transport, ticket, can_listen, checkup)
    finally:
        transport.close()
    return checkup


def _listen(transport: ZmqTransport, endpoint: str, say: Callable[[Finding], None]) -> bool:
    try:
        transport.listen(endpoint)
    except NetworkError as error:
        port = endpoint.rpartition(":")[2]
        fix = f"ss -ltnp 'sport = :{port}'" if "in use" in str(error) else "gossip doctor --listen tcp://0.0.0.0:0"
        say(Finding("listen", BAD, str(error), fix))
        return False
    say(Finding("listen", OK, f"{endpoint}, others are told {transport.address}"))
    return True


def _expiry(ticket: Ticket) -> Finding:
    """The one wall-clock time a swarm tells us."""
    left_s = ticket.expiry - time.time()
    if left_s < -CLOCK_SKEW_S:
        fix = "ask for a new one (gossip ticket RUN, there); or: sudo timedatectl set-ntp true"
        return Finding("ticket", BAD, f"expired {-left_s / 3600:.1f} h ago, by this machine's clock", fix)
    return Finding("ticket", OK, f"lets others in for another {left_s / 3600:.1f} h, by this machine's clock")


def _visit(transport: ZmqTransport, ticket: Ticket, can_listen: bool, checkup: Checkup) -> None:
    say = checkup.findings.append
    open_doors = {key: address for address, key in ticket.seeds if _tcp(address, say)}
    transport.use_permit(ticket.permit)
    for key, address in open_doors.items():
        transport.dial(key, address)
    verdicts = _verdicts(transport, set(open_doors))
    for key, address in open_doors.items():
        verdict = verdicts.get(key)
        if isinstance(verdict, LinkUp):
            say(Finding(f"hello {address}", OK, "handshake done, welcome"))
        else:
            code, reason = (verdict.code, verdict.reason) if verdict else ("NO_WELCOME", "no answer")
            say(Finding(f"hello {address}", WARN, f"{code}: {reason}", _fix_for(code)))
    friend = next((key for key, verdict in verdicts.items() if isinstance(verdict, LinkUp)), None)
    if friend is None:
        count = len(ticket.seeds)
        fix = "a new ticket, from a member that runs: gossip ticket RUN"
        say(Finding("members", BAD, f"none of the {count} this ticket names lets us in", fix))
        return
    talk = _Talk(transport, friend)
    welcome = transport.welcome_from(friend)
    if welcome is not None:
        try:
            checkup.experiment = spec.from_canonical(welcome.spec)
        except GossipError as error:
            say(Finding("experiment", BAD, str(error), "pip install --upgrade gossip-sgd"))
    say(talk.round_trip())
    say(talk.download())
    say(Finding("upload", UNKNOWN, "not measured: nothing a visitor may send is large enough", ""))
    if can_listen:
        say(talk.dial_back(transport.address))


def _tcp(address: str, say: Callable[[Finding], None]) -> bool:
    """A bare connection: tells a closed port and a firewall from trouble further up."""
    host, _, port = address.rpartition(":")
    began = time.monotonic()
    try:
        with socket.create_connection((host.strip("[]"), int(port)), TCP_TIMEOUT_S):
            say(Finding(f"dial {address}", OK, f"connected in {1e3 * (time.monotonic() - began):.0f} ms"))
            return True
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        fix = f"on that machine: gossip status; then, here: nc -vz {host} {port}"
        say(Finding(f"dial {address}", WARN, f"{why}; its firewall, or it is not running", fix))
        return False


def _verdicts(transport: ZmqTransport, awaited: set[bytes]) -> dict[bytes, LinkUp | LinkRefused]:
    verdicts: dict[bytes, LinkUp | LinkRefused] = {}
    deadline = time.monotonic() + LINK_TIMEOUT_S
    while awaited - verdicts.keys() and (left_s := deadline - time.monotonic()) > 0:
        for event in transport.poll(left_s):
            if isinstance(event, LinkUp | LinkRefused):
                verdicts.setdefault(event.peer, event)
    return verdicts


def _fix_for(code: str) -> str:
    if code == "BAD_TICKET":
        return "a new ticket, made by a member: gossip ticket RUN"
    return "the same version of gossip on both: gossip --version"


class _Talk:
    """Questions to one member."""

    def __init__(self, transport: ZmqTransport, friend: bytes) -> None:
        self._transport = transport
        self._friend = friend

    def round_trip(self) -> Finding:
        times = []
        for number in range(PINGS):
            began = time.monotonic()
            self._say(Ping(number))
            if self._answer(Ack(number).__eq__, ANSWER_S) is None:
                break
            times.append(time.monotonic() - began)
        if not times:
            return Finding("round trip", BAD, f"no answer within {ANSWER_S:g} s", "gossip status, at the member's")
        median = statistics.median(times)
        found = f"{1e3 * median:.1f} ms ({1e3 * min(times):.1f} to {1e3 * max(times):.1f}, {len(times)} pings)"
        fix = "" if median < SLOW_ROUND_TRIP_S else 'set every_steps = "auto" in the experiment'
        return Finding("round trip", WARN if fix else OK, found, fix)

    def download(self) -> Finding:
        """Pieces of the member's state, one after the other, as a joiner would take them."""
        received, seconds, is_slow = 0, 0.0, False
        for index in range(FRAGMENTS):
            began = time.monotonic()
            self._say(FragmentRequest(index))
            answer = self._answer(lambda m: isinstance(m, int | Refusal), FRAGMENT_S)
            if not isinstance(answer, int):
                is_slow = answer is None
                break
            received, seconds = received + answer, seconds + time.monotonic() - began
            if seconds > DOWNLOAD_S:
                break
        if not received and is_slow:
            found = f"not a piece of the member's state within {FRAGMENT_S:g} s"
            return Finding("download", WARN, found, AUTO)
        if not received:
            return Finding("download", UNKNOWN, "not measured: the member serves others just now", "")
        rate = received / seconds
        found = f"{8e-6 * rate:,.1f} Mbit/s ({received / 1e3:,.0f} kB of its state in {seconds:.2f} s)"
        fix = "" if rate > SLOW_BYTES_PER_S else AUTO
        return Finding("download", WARN if fix else OK, found, fix)

    def dial_back(self, address: str) -> Finding:
        """The member tries to reach us where others will be told that we are."""
        if not address:
            return Finding("dial back", UNKNOWN, "not measured: this machine has no address to tell others", "")
        self._say(DialBackRequest(address))
        answer = self._answer(lambda m: isinstance(m, DialBack) and m.address == address, DIAL_BACK_S)
        if not isinstance(answer, DialBack):
            return Finding("dial back", UNKNOWN, "not measured: the member did not answer", "")
        if not answer.code:
            return Finding("dial back", OK, f"the member reached us at {address}")
        if answer.code in ("BUSY", "NOT_YOURS", "CANNOT_DIAL"):
            return Finding("dial back", UNKNOWN, f"not measured: the member says {answer.code}", "")
        port = address.rpartition(":")[2]
        fix = f"sudo ufw allow {port}/tcp, forward the port at the router, or --advertise HOST:PORT"
        return Finding("dial back", WARN, f"{answer.code}: nobody can dial {address}; links we dial still work", fix)

    def _say(self, message: Message) -> None:
        self._transport.send(self._friend, (wire.encode_message(message),), wire.kind_of_message(message))

    def _answer(self, is_it: Callable[[Any], bool], timeout_s: float) -> Any:
        """The first message, or size of a payload, that is the answer; None where none comes in time."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            for item in self._heard(left_s):
                if is_it(item):
                    return item
        return None

    def _heard(self, timeout_s: float) -> Iterator[Message | int]:
        for event in self._transport.poll(timeout_s):
            if isinstance(event, FramesReceived) and event.peer == self._friend:
                if len(event.frames) == 2:
                    yield message_bytes(event.frames)
                    continue
                try:
                    yield wire.decode_message(event.frames[0])
                except PeerError:
                    continue
