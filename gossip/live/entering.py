"""How a node comes into its swarm: as its first member, by a ticket, or again, as who it was before.

Knows options, tickets and keys; what a run folder remembers of a former life is home.py's.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gossip import spec
from gossip.addresses import NONE
from gossip.errors import NetworkError, SpecError
from gossip.live.home import Addresses, Past, first_swarm_file, keep_keys
from gossip.live.join import join_swarm
from gossip.live.security import KeyPair, Welcome
from gossip.live.tickets import SEEDS_MAX, Ticket, mint, swarm_id
from gossip.live.transport import ZmqTransport
from gossip.owner import OwnerKey, SwarmName
from gossip.runs import RunFolder
from gossip.spec import Experiment
from gossip.swarmfile import Door

ANYWHERE = "tcp://0.0.0.0:0"
REMEMBERED = ("name", "data_dir", "upload", "advertise", "listen")  # of the command line, with the shard


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """What the command line decides for this one node."""

    listen: str = ""  # "" where it listened before, else as the experiment says, or, with a ticket, anywhere
    advertise: str = ""
    ticket: str = ""  # "" starts a new swarm
    shard: int | None = None
    data_dir: str = ""
    upload: str = ""
    key_file: Path | None = None
    run_dir: Path | None = None
    name: str = ""  # "" for its name in a former life, or "node"
    fresh: bool = False  # begin anew, also where there is a run to go on with
    follow: bool = False  # the end of standard input ends the node
    on_home: Callable[[Path], object] = lambda run: None  # is told the run folder as soon as it is ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What a node holds once it is in a swarm."""

    experiment: Experiment
    swarm_key: bytes
    seeds: tuple[tuple[str, bytes], ...]  # (HOST:PORT, public key) of those who let us in; none: we are the first
    owner_key: OwnerKey | None = None  # where we founded a swarm whose spec names no owner
    incarnation: int = 0
    was_here: bool = False  # and has a state of its own to go on with: its checkpoint, or the one all begin with

    @property
    def swarm(self) -> SwarmName:
        return SwarmName(self.experiment.hash, swarm_id(self.swarm_key))


def enter(transport: ZmqTransport, experiment: Experiment | None, ticket: Ticket | None) -> Entry:
    """Join the ticket's swarm, or begin our own."""
    if ticket is not None:
        welcome = join_swarm(transport, ticket, spec=experiment.canonical() if experiment else b"")
        experiment = _the_swarms(experiment, welcome)
        return Entry(experiment=experiment, swarm_key=welcome.swarm_key, seeds=ticket.seeds)
    if experiment is None:
        raise SpecError("expected an experiment file, or --join TICKET to take the swarm's")
    if experiment.model.init_sha256 and not experiment.model.init:
        raise SpecError(
            "this experiment begins with a model file that is not here: put its path into model.init, or --join a "
            "swarm that has begun"
        )
    if not transport.address:
        raise NetworkError("a node that nobody can dial cannot begin a swarm: let it --join TICKET, or listen")
    swarm_key = secrets.token_bytes(32)
    owner_key = None if experiment.owner else OwnerKey.new()
    if owner_key is not None:
        experiment = experiment.owned_by(owner_key.public)
    transport.become_member(swarm_key, experiment.canonical())
    return Entry(experiment=experiment, swarm_key=swarm_key, seeds=(), owner_key=owner_key)


def enter_again(transport: ZmqTransport, past: Past, ticket: Ticket | None) -> Entry:
    """Be a member as before, by the swarm's key: whom we knew is dialed once the node runs.

    A joiner that never had a state of the swarm joins again: what it holds is worth nothing. Raises NetworkError.
    """
    swarm, experiment = past.swarm_now(ticket), past.experiment
    doors = tuple((door.address, door.key_bytes) for door in swarm.doors())
    was_here = bool(past.run.checkpoints.paths()) or not swarm.seeds
    if was_here:
        transport.become_member(swarm.swarm_key_bytes, experiment.canonical())
    else:
        invitation = ticket or mint(swarm.swarm_key_bytes, doors[:SEEDS_MAX], now=time.time())
        join_swarm(transport, invitation, spec=experiment.canonical())
    return Entry(
        experiment=experiment,
        swarm_key=swarm.swarm_key_bytes,
        seeds=doors,
        incarnation=swarm.incarnation,
        was_here=was_here,
    )


def move_in(run: RunFolder, entry: Entry, keys: KeyPair, options: NodeOptions) -> Addresses:
    """What a restart needs, kept from the start: who we are, and how we are let in again."""
    if options.key_file is None:
        keep_keys(run, keys)
    seeds = tuple(Door(address, key.hex()) for address, key in entry.seeds)
    return Addresses(run, first_swarm_file(entry.experiment, entry.swarm_key, keys, seeds))


def as_before(options: NodeOptions, past: Past) -> NodeOptions:
    """What the command line leaves open is as it was. Raises SpecError where it asks for another shard."""
    before = past.options
    shard = before.get("shard")
    if None not in (shard, options.shard) and shard != options.shard:
        raise SpecError(f"{past.run.path}: this node trains on shard {shard}; --shard {options.shard} needs --fresh")
    return replace(
        options,
        shard=shard if options.shard is None else options.shard,
        **{key: getattr(options, key) or before.get(key, "") for key in REMEMBERED},
    )


def to_remember(options: NodeOptions, endpoint: str) -> dict[str, Any]:
    """For `as_before`."""
    return {key: getattr(options, key) for key in REMEMBERED} | {"listen": endpoint or NONE, "shard": options.shard}


def listens_at(options: NodeOptions, experiment: Experiment | None) -> str:
    """The endpoint, or "none": as told, as before, or as the experiment of a swarm's first node says."""
    return options.listen or (experiment.node.listen if experiment and not options.ticket else ANYWHERE)


def listen(transport: ZmqTransport, endpoint: str, *, was_here: bool) -> None:
    """Accept links there; after a restart anywhere, if somebody else has the port now. Raises NetworkError."""
    if endpoint == NONE:
        return
    try:
        transport.listen(endpoint)
    except NetworkError:
        if not was_here:
            raise
        transport.listen(f"{endpoint.rpartition(':')[0]}:0")


def _the_swarms(brought: Experiment | None, welcome: Welcome) -> Experiment:
    """The experiment we were let in with. Of a file we brought [node] stays. Raises NetworkError, SpecError."""
    if brought is not None and not welcome.spec:
        return brought
    swarms = spec.from_canonical(welcome.spec)
    if brought is None:
        return swarms
    owned = brought.owned_by(swarms.owner)
    if owned.hash != swarms.hash or brought.owner:
        raise NetworkError(
            f"could not join: BAD_SPEC, the swarm sent experiment {swarms.hash.hex()} and not the one we brought; "
            "join without a spec to take it"
        )
    return owned
