"""A newcomer's first contact: knock at a ticket's seeds until one says welcome."""

from __future__ import annotations

import time

from gossip.errors import NetworkError
from gossip.live.security import CLOCK_SKEW_S, Welcome
from gossip.live.tickets import Ticket
from gossip.live.transport import ZmqTransport
from gossip.protocol.wire_events import LinkRefused, LinkUp, WireEvent

JOIN_TIMEOUT_S = 4.0  # dead seeds must be reported within 5 s, and starting Python and ending it take 0.5 s
REDIAL_S = 0.25

# What a seed that is just starting looks like, too. Every other refusal is its last word.
MAY_PASS = frozenset({"UNREACHABLE", "NO_HANDSHAKE", "NO_WELCOME", "NOT_READY"})


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
    refused: dict[bytes, LinkRefused] = {}  # each seed's latest
    dial_at = {key: (0.0, address) for address, key in reversed(ticket.seeds)}
    seeds = frozenset(dial_at)
    while not _is_decided(seeds, refused) and (now := time.monotonic()) < deadline:
        for key, (_, address) in [(key, dial) for key, dial in dial_at.items() if dial[0] <= now]:
            del dial_at[key]
            transport.dial(key, address)
        next_at = min([deadline, *(at for at, _ in dial_at.values())])
        news = transport.poll(max(0.0, next_at - now))
        for event in news:
            if isinstance(event, LinkRefused) and event.dialed:
                refused[event.peer] = event
                if event.code in MAY_PASS:
                    dial_at[event.peer] = time.monotonic() + REDIAL_S, event.address
            else:
                happened.append(event)
        welcomes = [transport.welcome_from(event.peer) for event in news if isinstance(event, LinkUp)]
        for welcome in welcomes:
            if welcome is not None:
                transport.become_member(welcome.swarm_key, welcome.spec or spec)
                transport.put_back(happened)
                return welcome
    raise NetworkError(_why_not(ticket, refused, timeout_s))


def _is_decided(seeds: frozenset[bytes], refused: dict[bytes, LinkRefused]) -> bool:
    """All have answered: one of them for the whole swarm, or none is worth another call."""
    codes = {refusal.code for refusal in refused.values()}
    return refused.keys() >= seeds and (not codes & MAY_PASS or bool(codes - MAY_PASS - {"CANNOT_DIAL"}))


def _why_not(ticket: Ticket, refused: dict[bytes, LinkRefused], timeout_s: float) -> str:
    """One sentence: each seed and what it said."""
    reasons = []
    for address, key in ticket.seeds:
        refusal = refused.get(key)
        reason = f"{refusal.code}, {refusal.reason}" if refusal else f"NO_WELCOME, no answer within {timeout_s:g} s"
        reasons.append(f"{address}: {reason}")
    return "could not join: " + "; ".join(reasons)
