"""Where a swarm is, from what a person gives: a run's folder, a member's address, a ticket, or nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gossip.addresses import is_address
from gossip.errors import GossipError, NetworkError, SpecError
from gossip.live.security import Permit, mint_permit
from gossip.live.tickets import parse_ticket
from gossip.runs import RunFolder
from gossip.swarmfile import SwarmFile, read_swarm_file

RUNS = Path("runs")
PERMIT_S = 600.0
_LOOKS_LIKE_A_TICKET = re.compile(r"[A-Za-z2-7\s]{100,}")


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """How to get in, and what this machine has of the run."""

    permit: Permit | None  # None: the folder holds nothing that opens a door
    doors: tuple[tuple[str, bytes], ...]  # (HOST:PORT, public key), best first
    run: RunFolder | None


def find_swarm(given: str) -> Whereabouts:
    """given: a run's folder or its name under runs/, HOST:PORT, a ticket; "" for the newest run. Raises GossipError."""
    if not given:
        return whereabouts_of(newest_run())
    if _LOOKS_LIKE_A_TICKET.fullmatch(given):
        ticket = parse_ticket(given)
        return Whereabouts(ticket.permit, ticket.seeds, None)
    if is_address(given) and not Path(given).exists():
        return _at(given)
    return whereabouts_of(RunFolder.open(given))


def whereabouts_of(run: RunFolder) -> Whereabouts:
    """What the folder, or those of its nodes, know of their swarm. Raises SpecError."""
    files = list(swarm_files(run.path))
    if not files:
        return Whereabouts(None, (), run)
    # Nodes of this very machine first: if anybody is there, they are.
    own = [(file.address, bytes.fromhex(file.key)) for file in files]
    others = [(door.address, door.key_bytes) for file in files for door in file.doors()]
    doors: dict[bytes, str] = {}
    for address, key in (*own, *others):
        if address:
            doors.setdefault(key, address.partition(",")[0])
    return Whereabouts(
        mint_permit(files[0].swarm_key_bytes, valid_for_s=PERMIT_S, now=time.time()),
        tuple((address, key) for key, address in doors.items()),
        run,
    )


def newest_run() -> RunFolder:
    """The run under runs/ that was begun last. Raises SpecError."""
    for folder in _newest_first():
        return RunFolder(folder)
    raise SpecError(f"no run under {RUNS}/; expected a run's folder, HOST:PORT of a member, or a ticket")


def _newest_first() -> list[Path]:
    return sorted((path.parent for path in RUNS.glob("*/run.json")), key=_began, reverse=True)


def _began(folder: Path) -> float:
    """A run's spec is written once, when it begins."""
    try:
        return (folder / "spec.toml").stat().st_mtime
    except OSError:
        return 0.0


def swarm_files(folder: Path) -> Iterator[SwarmFile]:
    """The folder's own swarm.json, or those of the nodes a launcher kept in it. Raises SpecError."""
    for place in (folder, *sorted((folder / "nodes").glob("*/"))):
        found = read_swarm_file(place)
        if found is not None:
            yield found


def _at(address: str) -> Whereabouts:
    """The member at an address, of a run this machine has: the run knows its key. Raises GossipError."""
    for folder in _newest_first():
        try:
            found = whereabouts_of(RunFolder(folder))
        except GossipError:
            continue  # another run's damage is no answer to this question
        if any(address == door for door, _ in found.doors):
            there_first = sorted(found.doors, key=lambda door: door[0] != address)
            return Whereabouts(found.permit, tuple(there_first), found.run)
    raise NetworkError(f"{address}: no run under {RUNS}/ knows a member there; give the run's folder, or a ticket")
