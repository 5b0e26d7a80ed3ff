"""The owner of a swarm: an Ed25519 key pair whose public half stands in the spec, and what is signed with it.

Whoever holds the private half may pause, resume and stop the run and change its learning rate, on every node
and from anywhere; every node checks the signature by itself. Knows keys and bytes, no files' whereabouts and no
network. An owner's key is not a node's: it can lie in a drawer.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gossip.errors import NetworkError
from gossip.keyfiles import create_secret, read_secret
from gossip.protocol.messages import Command

_HEAD = "gossip owner key 1: "
_PREFIX = b"gossip command 1\0"
_FRAME = struct.Struct("!8s8sQBB")  # spec hash, swarm id, sequence, lengths of name and value


@dataclass(frozen=True, slots=True)
class SwarmName:
    """Which swarm a command is for. The spec alone would not do: an owner may run one experiment twice."""

    spec_hash: bytes  # 8 bytes
    swarm_id: bytes  # 8 bytes


class OwnerKey:
    """The private half."""

    def __init__(self, secret: bytes) -> None:
        """secret: 32 bytes."""
        self._secret = secret
        self._key = Ed25519PrivateKey.from_private_bytes(secret)

    @classmethod
    def new(cls) -> OwnerKey:
        return cls(secrets.token_bytes(32))

    @property
    def public(self) -> str:
        """64 hex digits: what the spec's `owner` says."""
        return self._key.public_key().public_bytes_raw().hex()

    def save(self, path: Path) -> None:
        """Into a new file, readable by its owner only. Raises NetworkError."""
        try:
            create_secret(path, _HEAD, self._secret)
        except FileExistsError as error:
            raise NetworkError(f"{path}: exists already; choose another name, a key is never overwritten") from error

    def command(self, swarm: SwarmName, sequence: int, name: str, value: str = "") -> Command:
        return Command(sequence, name, value, self._key.sign(signed_bytes(swarm, sequence, name, value)))


def load_owner_key(path: Path) -> OwnerKey:
    """Raises NetworkError, one sentence."""
    return OwnerKey(read_secret(path, _HEAD, "a gossip owner key file; gossip owner-key FILE makes one"))


def signed_bytes(swarm: SwarmName, sequence: int, name: str, value: str) -> bytes:
    """What the signature covers. Lengths come first, so no two commands have the same bytes."""
    frame = _FRAME.pack(swarm.spec_hash, swarm.swarm_id, sequence, len(name), len(value))
    return _PREFIX + frame + name.encode("ascii") + value.encode("ascii")


def verifier(owner: str, swarm: SwarmName) -> Callable[[Command], bool]:
    """The check every node makes: is this command the owner's, for this swarm? About 60 us.

    owner: the spec's, 64 hex digits; "" for a swarm without one, which believes nobody.
    """
    if not owner:
        return lambda command: False
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(owner))

    def is_owners(command: Command) -> bool:
        try:
            key.verify(command.signature, signed_bytes(swarm, command.sequence, command.name, command.value))
        except InvalidSignature:
            return False
        return True

    return is_owners
