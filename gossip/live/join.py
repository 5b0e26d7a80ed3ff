"""A newcomer's first contact: knock at a ticket's seeds until one says welcome."""

from __future__ import annotations

import time

from gossip.errors import NetworkError
from gossip.live.security import CLOCK_SKEW_S, Welcome
from gossip.live.tickets import Ticket
from gossip.live.transport import ZmqTransport
from gossip.protocol.events import DIAL_PATIENCE_S
from gossip.protocol.wire_events import LinkRefused, LinkUp, WireEvent

JOIN_TIMEOUT_S = 4.0  # dead seeds must be reported within 5 s, and starting Python and ending it take 0.5 s
REDIAL_S = 0.25
CONNECT_S_MIN = (
    0.75  # of four addresses of a seed three may swallow what is sent there, and the fourth is found in time
)

# What a seed that is just starting looks like, too. Every other refusal is its last word.
MAY_PASS = frozenset({"UNREACHABLE", "NO_HANDSHAKE", "NO_WELCOME", "NOT_READY"})


class _Seed:
    """One member to knock at, and its addresses in turn: the next one at once, all of them again a little later."""

    def __init__(self, key: bytes, addresses: str) -> None:
        self.key = key
        self.addresses = addresses.split(",")
        self.dial_at = 0.0
        self.refused: dict[str, LinkRefused] = {}  # by address, the latest
        self.is_last_word = False  # it has answered, for all its addresses
        self._turn = 0

    def knock(self, transport: ZmqTransport) -> None:
        self.dial_at = float("inf")  # until it is refused
        patience_s = max(CONNECT_S_MIN, DIAL_PATIENCE_S / len(self.addresses))
        transport.dial(self.key, self.addresses[self._turn], patience_s)

    def on_refused(self, refusal: LinkRefused, now: float) -> None:
        self.refused[refusal.address] = refusal
        self.is_last_word = refusal.code not in MAY_PASS and refusal.code != "CANNOT_DIAL"
        self._turn = (self._turn + 1) % len(self.addresses)
        if not self.is_last_word and (self._turn or self.may_pass):
            self.dial_at = now + (0.0 if self._turn else REDIAL_S)

    @property
    def may_pass(self) -> bool:
        return not self.is_last_word and any(refusal.code in MAY_PASS for refusal in self.refused.values())

    @property
    def has_answered(self) -> bool:
        return self.is_last_word or len(self.refused) == len(self.addresses)

    def reasons(self, timeout_s: float) -> list[str]:
        """Each address and what came of it."""
        heard = [f"{address}: {refusal.code}, {refusal.reason}" for address, refusal in self.refused.items()]
        unheard = [address for address in self.addresses if address not in self.refused and not self.is_last_word]
        return heard + [f"{address}: NO_WELCOME, no answer within {timeout_s:g} s" for address in unheard]


def join_swarm(
    transport: ZmqTransport, ticket: Ticket, timeout_s: float = JOIN_TIMEOUT_S, spec: bytes = b""
) -> Welcome:
    """Become a member through whichever of the ticket's seeds answers first; the link to it stays up.

    Whatever else happens meanwhile, that LinkUp included, is returned by the transport's next `poll`.
    `spec`: canonical bytes of the spec we insist on; empty to take the swarm's. Raises NetworkError.
    """
    late_s = time.time() - ticket.expiry
    if late_s > CLOCK_SKEW_S:
        expired = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ticket.expiry))
        raise NetworkError(
            f"this ticket expired on {expired}; ask a member for a new one (or set this machine's clock)"
        )
    transport.use_permit(ticket.permit, spec)
    deadline = time.monotonic() + timeout_s
    happened: list[WireEvent] = []
    seeds = {key: _Seed(key, addresses) for addresses, key in reversed(ticket.seeds)}
    while not _is_decided(seeds) and (now := time.monotonic()) < deadline:
        for seed in seeds.values():
            if seed.dial_at <= now:
                seed.knock(transport)
        news = transport.poll(max(0.0, min([deadline, *(seed.dial_at for seed in seeds.values())]) - now))
        for event in news:
            if isinstance(event, LinkRefused) and event.dialed:
                seeds[event.peer].on_refused(event, time.monotonic())
            else:
                happened.append(event)
        welcomes = [transport.welcome_from(event.peer) for event in news if isinstance(event, LinkUp)]
        for welcome in welcomes:
            if welcome is not None:
                transport.become_member(welcome.swarm_key, welcome.spec or spec)
                transport.put_back(happened)
                return welcome
    reasons = [reason for _, key in ticket.seeds for reason in seeds[key].reasons(timeout_s)]
    raise NetworkError("could not join: " + "; ".join(dict.fromkeys(reasons)))


def _is_decided(seeds: dict[bytes, _Seed]) -> bool:
    """All have answered: one of them for the whole swarm, or none is worth another call."""
    if not all(seed.has_answered for seed in seeds.values()):
        return False
    return any(seed.is_last_word for seed in seeds.values()) or not any(seed.may_pass for seed in seeds.values())
