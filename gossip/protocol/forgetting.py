"""Whom the member table may forget: without that, a swarm that lives for months is full of the dead.

The latest of them are kept: what they trained on counts, they may come back, and whoever still holds one of them
for alive is corrected by those who know better.
"""

from __future__ import annotations

from collections.abc import Iterable

from gossip.protocol.member import Member

GONE_KEPT = 1_024
KEPT_S = 3_600.0


def forgettable(members: Iterable[Member], now: float, room_for: int = 0) -> list[bytes]:
    """Beyond the newest GONE_KEPT of the dead and departed, those gone for longer than KEPT_S.

    room_for: so many must go in any case, if as many are gone, the oldest first.
    """
    gone = sorted((member for member in members if not member.is_alive), key=lambda member: (-member.since, member.key))
    old = [member.key for member in gone[GONE_KEPT:] if now - member.since > KEPT_S]
    return old if len(old) >= room_for else [member.key for member in gone[-room_for:]]
