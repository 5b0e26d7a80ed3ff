"""A newcomer's first contact: knock at a ticket's seeds until one says welcome."""

from __future__ import annotations

import time

from gossip.errors import NetworkError
from gossip.live.security import CLOCK_SKEW_S, Welcome
from gossip.live.tickets import Ticket
from gossip.live.transport import ZmqTransport
from gossip.protocol.wire_events import LinkRefused, LinkUp, WireEvent

JOIN_TIMEOUT_S = 4.5  # a bad ticket or dead seeds must be reported within 5 s


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
    for address, key in ticket.seeds:
        transport.dial(key, address)
    happened: list[WireEvent] = []
    refused: dict[bytes, LinkRefused] = {}
    seeds = dict.fromkeys(key for _, key in ticket.seeds)
    deadline = time.monotonic() + timeout_s
    while len(refused) < len(seeds) and (left_s := deadline - time.monotonic()) > 0:
        for event in (news := transport.poll(left_s)):
            if isinstance(event, LinkRefused) and event.dialed:
                refused[event.peer] = event
        happened += news
        welcomes = [transport.welcome_from(event.peer) for event in news if isinstance(event, LinkUp)]
        for welcome in welcomes:
            if welcome is not None:
                transport.become_member(welcome.swarm_key, welcome.spec or spec)
                transport.put_back([event for event in happened if event not in refused.values()])
                return welcome
    raise NetworkError(_why_not(ticket, refused, timeout_s))


def _why_not(ticket: Ticket, refused: dict[bytes, LinkRefused], timeout_s: float) -> str:
    """One sentence: each seed and what it said."""
    reasons = []
    for address, key in ticket.seeds:
        refusal = refused.get(key)
        reason = f"{refusal.code}, {refusal.reason}" if refusal else f"NO_WELCOME, no answer within {timeout_s:g} s"
        reasons.append(f"{address}: {reason}")
    return "could not join: " + "; ".join(reasons)
