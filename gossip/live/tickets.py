"""The invitation one person sends another: a permit, and where to knock.

Text in base32 with a checksum, so that it survives mail, chat and dictation, or says that it did not.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from gossip.errors import NetworkError
from gossip.live.security import KEY_BYTES, Permit, mint_permit
from gossip.live.tcp import checked_addresses
from gossip.swarmfile import Door, SwarmFile

VALID_FOR_S = 24 * 3600.0
SEEDS_MAX = 8
TEXT_CHARS_MAX = 4_096

_VERSION = 1
_HEAD = struct.Struct("!B8s8s32sIB")  # version, swarm id, ticket id, ticket key, expiry, number of seeds
_CHECKSUM_BYTES = 4


@dataclass(frozen=True, slots=True)
class Ticket:
    """Admits its holder to one swarm until `expiry`: keep it like a password."""

    swarm_id: bytes
    ticket_id: bytes
    ticket_key: bytes = field(repr=False)
    expiry: int
    seeds: tuple[tuple[str, bytes], ...]  # (HOST:PORT or several, public key)

    @property
    def permit(self) -> Permit:
        return Permit(self.ticket_id, self.expiry, self.ticket_key)

    def text(self) -> str:
        head = _HEAD.pack(_VERSION, self.swarm_id, self.ticket_id, self.ticket_key, self.expiry, len(self.seeds))
        seeds = b"".join(bytes([len(address)]) + address.encode() + key for address, key in self.seeds)
        return base64.b32encode(_with_checksum(head + seeds)).decode().rstrip("=")


def mint(
    swarm_key: bytes, seeds: Sequence[tuple[str, bytes]], valid_for_s: float = VALID_FOR_S, *, now: float
) -> Ticket:
    """A new ticket. `seeds`: up to 8 members' addresses and public keys. `now` is the wall clock."""
    if not 1 <= len(seeds) <= SEEDS_MAX:
        raise NetworkError(f"a ticket names 1 to {SEEDS_MAX} members to knock at, not {len(seeds)}")
    permit = mint_permit(swarm_key, valid_for_s=valid_for_s, now=now)
    checked = tuple((checked_addresses(address), key) for address, key in seeds)
    return Ticket(swarm_id(swarm_key), permit.permit_id, permit.key, permit.expiry, checked)


def mint_again(swarm: SwarmFile, *, now: float) -> Ticket:
    """A new ticket from what a node's run folder knows: it names that node first, then those it knows.

    Raises NetworkError where nobody is known to listen.
    """
    own = Door(swarm.address, swarm.key)
    seeds = [(door.address.partition(",")[0], door.key_bytes) for door in (own, *swarm.doors()) if door.address]
    return mint(swarm.swarm_key_bytes, seeds[:SEEDS_MAX], now=now)


def swarm_id(swarm_key: bytes) -> bytes:
    """8 bytes that name a swarm and tell nothing about its key."""
    return hmac.digest(swarm_key, b"gossip swarm id", "sha256")[:8]


def parse_ticket(text: str) -> Ticket:
    """Raises NetworkError: one sentence, and never the ticket itself, which is a secret."""
    if len(text) > TEXT_CHARS_MAX:
        raise NetworkError(f"this ticket is {len(text)} characters long, expected at most {TEXT_CHARS_MAX}")
    letters = "".join(text.split()).upper()
    try:
        raw = base64.b32decode(letters + "=" * (-len(letters) % 8))
    except (binascii.Error, ValueError) as error:
        raise NetworkError(
            "this is not a ticket; expected the long word that `gossip ticket RUN` prints on a member"
        ) from error
    body = raw[:-_CHECKSUM_BYTES]
    if _with_checksum(body) != raw or len(body) < _HEAD.size:
        raise NetworkError("this ticket has a typo or a missing piece (its checksum is wrong); copy it again, whole")
    version, swarm, ticket_id, ticket_key, expiry, count = _HEAD.unpack_from(body)
    if version != _VERSION:
        raise NetworkError(f"this ticket is of version {version}, expected {_VERSION}; use the release that made it")
    return Ticket(swarm, ticket_id, ticket_key, expiry, _parse_seeds(body[_HEAD.size :], count))


def _parse_seeds(rest: bytes, count: int) -> tuple[tuple[str, bytes], ...]:
    if not 1 <= count <= SEEDS_MAX:
        raise NetworkError(f"this ticket names {count} members to knock at, expected 1 to {SEEDS_MAX}")
    seeds = []
    for _ in range(count):
        length = rest[0] if rest else 0
        address, key, rest = (
            rest[1 : 1 + length],
            rest[1 + length : 1 + length + KEY_BYTES],
            rest[1 + length + KEY_BYTES :],
        )
        if len(key) != KEY_BYTES:
            raise NetworkError("this ticket ends in the middle of a member's address; copy it again, whole")
        seeds.append((checked_addresses(address.decode("ascii", errors="replace")), key))
    if rest:
        raise NetworkError("this ticket is longer than what it says it holds; ask for a new one")
    return tuple(seeds)


def _with_checksum(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()[:_CHECKSUM_BYTES]
