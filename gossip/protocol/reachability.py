"""Can others reach this node where it says? Linked members dial back, and we do the same for them.

Every address we say of ourselves is tried once, a while after the first link, unless a link came in there in
the meantime. Two who cannot reach it settle the matter (or one, twice, where there is no other): it is said no more,
so that nobody wastes a dial, and tried again every ten minutes. With none left this node is one that only dials.

Whoever asks has only its own addresses tried, a few a minute: nobody can have us knock at a third one's door. What it
calls its own may be ours: places on this machine or this cable alone are tried only where we say of ourselves that we
are there, and the answer is yes or no, never what else listens there.
"""

from __future__ import annotations

import ipaddress
import math
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from gossip.protocol.events import Effect, Emit, Send, TryAddress
from gossip.protocol.membership import Membership
from gossip.protocol.messages import DialBack, DialBackRequest
from gossip.protocol.wire_events import AddressTried

FIRST_TEST_S = 5.0  # after the first link: by then somebody has mostly dialed us
ANSWER_WITHIN_S = 6.0  # the other one's trial takes 3 s at most
AGAIN_S = 5.0
WITNESSES = 2
RETEST_S = 600.0
TRIALS_MAX = 4  # for others, at once
TRIALS_PER_PEER_MAX = 8  # within TRIALS_WITHIN_S
TRIALS_WITHIN_S = 60.0
TRIALS_REMEMBERED_MAX = 256
SAYS_NOTHING = ("BUSY", "NOT_YOURS", "CANNOT_DIAL")  # about us


@dataclass(slots=True)
class _Place:
    """One address of ours."""

    next_at: float = math.inf
    code: str | None = None  # what came of the last test: "" for good; None before the first
    asked: bytes = b""
    against: list[bytes] = field(default_factory=list)  # who could not reach us there, since the last verdict


class Reachability:
    """Both sides of the question."""

    def __init__(self, membership: Membership, rng: random.Random) -> None:
        self._membership = membership
        self._rng = rng
        self._places = {address: _Place() for address in _split(membership.address)}
        self._links: dict[bytes, str | None] = {}  # peer -> what its hello said; None where we dialed it
        self._trials: dict[tuple[bytes, str], float] = {}  # for others: until when
        self._tried: deque[tuple[bytes, float]] = deque(maxlen=TRIALS_REMEMBERED_MAX)

    def on_link_up(self, peer: bytes, dialed: bool, address: str, now: float) -> list[Effect]:
        """`address`: for a link that came in, where its hello says that it listens."""
        self._links[peer] = None if dialed else address
        if not dialed and len(self._places) == 1:
            ((said, place),) = self._places.items()
            return self._settle(said, place, "", now) if place.code != "" else []
        for place in self._places.values():
            if place.code is None:
                place.next_at = min(place.next_at, now + FIRST_TEST_S)
        return []

    def on_link_down(self, peer: bytes) -> None:
        self._links.pop(peer, None)

    def on_message(self, peer: bytes, message: DialBackRequest | DialBack, now: float) -> list[Effect]:
        if isinstance(message, DialBack):
            return self._on_answer(peer, message, now)
        return self._on_request(peer, message.address, now)

    # -- Ours ----------------------------------------------------------------------------------------

    def on_tick(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for address, place in self._places.items():
            if now >= place.next_at:
                effects += self._ask(address, place, now)
        return effects

    def _on_answer(self, peer: bytes, answer: DialBack, now: float) -> list[Effect]:
        place = self._places.get(answer.address)
        if place is None or place.asked != peer:
            return []  # nobody asked it
        place.asked = b""
        if answer.code in SAYS_NOTHING:
            place.next_at = now + AGAIN_S
            return []
        if not answer.code:
            return self._settle(answer.address, place, "", now)
        place.against.append(peer)
        if len(place.against) >= WITNESSES:
            return self._settle(answer.address, place, answer.code, now)
        place.next_at = now + AGAIN_S
        return []

    def _ask(self, address: str, place: _Place, now: float) -> list[Effect]:
        """Somebody who knows that this address is ours, and rather not the one who has spoken already."""
        place.next_at = now + ANSWER_WITHIN_S + AGAIN_S
        is_said = address in _split(self._membership.address)
        able = [peer for peer, hello in self._links.items() if self._membership.is_alive(peer)]
        able = [peer for peer in able if is_said or self._links[peer] is None]  # our hello names all our addresses
        fresh = [peer for peer in able if peer not in place.against] or able
        if not fresh:
            return []
        place.asked = self._rng.choice(fresh)
        return [Send(place.asked, DialBackRequest(address))]

    def _settle(self, address: str, place: _Place, code: str, now: float) -> list[Effect]:
        is_known, place.code = place.code == code, code
        place.asked = b""
        place.against.clear()
        place.next_at = now + RETEST_S if code else math.inf
        left = ",".join(address for address, place in self._places.items() if not place.code)
        if left != self._membership.address:
            self._membership.set_address(left)
        advice = "" if not code or left or is_known else _advice(address, code)
        return [Emit("reachability", {"address": address, "code": code, "advertised": left, "advice": advice})]

    # -- Others' -------------------------------------------------------------------------------------

    def _on_request(self, peer: bytes, address: str, now: float) -> list[Effect]:
        self._trials = {trial: until for trial, until in self._trials.items() if now < until}
        if refusal := self._refusal(peer, address, now):
            return [
                Emit("dial_back_refused", {"peer": peer.hex()[:8], "address": address, "code": refusal}),
                Send(peer, DialBack(address, refusal)),
            ]
        self._trials[peer, address] = now + ANSWER_WITHIN_S
        self._tried.append((peer, now))
        return [TryAddress(peer, address)]

    def on_tried(self, tried: AddressTried) -> list[Effect]:
        self._trials.pop((tried.peer, tried.address), None)
        code = tried.code if tried.code in ("", *SAYS_NOTHING) else "UNREACHABLE"
        return [Send(tried.peer, DialBack(tried.address, code))]

    def _refusal(self, peer: bytes, address: str, now: float) -> str:
        member = self._membership.members.get(peer)
        own = [*_split(member.address if member is not None else ""), *_split(self._links.get(peer) or "")]
        if address not in own:
            return "NOT_YOURS"
        if _is_here_only(address) and not any(map(_is_here_only, self._places)):
            return "CANNOT_DIAL"
        recent = sum(asker == peer and now - at < TRIALS_WITHIN_S for asker, at in self._tried)
        return "BUSY" if len(self._trials) >= TRIALS_MAX or recent >= TRIALS_PER_PEER_MAX else ""


def _split(addresses: str) -> Iterable[str]:
    return addresses.split(",") if addresses else ()


def _is_here_only(address: str) -> bool:
    """HOST:PORT: loopback, link-local or unspecified. Names other than localhost are looked up elsewhere."""
    host = address.rpartition(":")[0].strip("[]").partition("%")[0].rstrip(".").lower()
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_loopback or ip.is_link_local or ip.is_unspecified


def _advice(address: str, code: str) -> str:
    port = address.rpartition(":")[2]
    return (
        f"nobody can reach this node at {address} ({code}): it takes part over the links it dials itself; to be dialed "
        f"too: forward TCP port {port} to this machine or pass --advertise HOST:PORT; "
        "--advertise none stops this message"
    )
