"""swarm.json: how a node of this run folder finds, and is let into, its swarm again.

It holds the swarm's key, so only its owner may read it (0600), and it never travels: no backup, no log, no message.
Written before an incarnation is used, and whenever the known members change; read by a node that starts again, and
by a client that talks to the swarm on the owner's behalf.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from gossip.errors import SpecError
from gossip.observe import write_atomically

NAME = "swarm.json"
FORMAT = 1
DOORS_MAX = 16  # members remembered: any one of them that still answers is enough, and all are dialed at once


class Door(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member's address (as in its Update: HOST:PORT, or several with commas) and its public key, in hex."""

    address: str
    key: str

    @property
    def key_bytes(self) -> bytes:
        return bytes.fromhex(self.key)


class SwarmFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of swarm.json. Keys and hashes are hex text."""

    format: int = FORMAT
    swarm_id: str  # 8 bytes, tells nothing about the key
    swarm_key: str  # 32 bytes, secret: whoever has it is a member
    spec_hash: str  # 8 bytes
    key: str  # this node's own public key
    address: str = ""  # where this node listens, as others dial it; "" before it listened, or if it only dials out
    incarnation: int = 0  # the last one used: the next start uses a higher one
    seeds: tuple[Door, ...] = ()  # the ticket's
    members: tuple[Door, ...] = ()  # last known to be alive and dialable, at most DOORS_MAX

    @property
    def swarm_key_bytes(self) -> bytes:
        return bytes.fromhex(self.swarm_key)

    def doors(self) -> tuple[Door, ...]:
        """Where to knock: members first, then the ticket's seeds; each key once, never our own."""
        first = {door.key: door for door in (*self.seeds, *reversed(self.members))}
        return tuple(door for door in reversed(first.values()) if door.key != self.key)


def read_swarm_file(folder: Path) -> SwarmFile | None:
    """What `folder` knows of its swarm; None where it holds no swarm.json. Raises SpecError, one sentence."""
    path = folder / NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror}); give its owner read access") from error
    try:
        found = msgspec.json.decode(data, type=SwarmFile)
        lengths = [len(bytes.fromhex(text)) for text in (found.swarm_id, found.swarm_key, found.spec_hash, found.key)]
        doors = [len(door.key_bytes) for door in (*found.seeds, *found.members)]
    except ValueError as error:
        raise SpecError(f"{path}: damaged ({error}); remove it, and the node joins with a ticket again") from error
    if found.format != FORMAT or lengths != [8, 32, 8, 32] or any(length != 32 for length in doors):
        raise SpecError(f"{path}: not of this version of gossip; remove it, and the node joins with a ticket again")
    return found


def write_swarm_file(folder: Path, content: SwarmFile) -> None:
    """Atomically, and readable by its owner only. Raises OSError."""
    write_atomically(folder / NAME, msgspec.json.format(msgspec.json.encode(content), indent=1), mode=0o600)
