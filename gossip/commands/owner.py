"""The owner's commands: gossip pause, resume, stop, set, owner-key."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gossip.commands.background import stop_here

if TYPE_CHECKING:
    from gossip.live.client import SwarmClient
    from gossip.live.whereabouts import Whereabouts
    from gossip.owner import OwnerKey

WITHIN_S = 10.0  # longer than it takes to find out that somebody is dead

where = click.option(
    "--run", "where", required=True, metavar="RUN|HOST:PORT|TICKET", help="The swarm, by what this machine has of it."
)
key_file = click.option(
    "--owner-key", "key_file", type=click.Path(path_type=Path), help="The owner's key.  [RUN/owner.key]"
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")


@click.command()
@where
@key_file
@as_json
def pause(where: str, key_file: Path | None, as_json: bool) -> None:
    """Have every node stop stepping. They go on answering each other and letting others join."""
    tell_swarm("pause", "", where, key_file, as_json)


@click.command()
@where
@key_file
@as_json
def resume(where: str, key_file: Path | None, as_json: bool) -> None:
    """Have every node of a paused swarm step on."""
    tell_swarm("resume", "", where, key_file, as_json)


@click.command()
@click.argument("here", default="", metavar="[RUN]")
@click.option("--run", "where", metavar="RUN|HOST:PORT|TICKET", help="End the whole swarm's run, on every node.")
@key_file
@click.option("--kill", is_flag=True, help="Have a node that does not end in time killed.")
@click.option("--patience", "patience_s", default=60.0, show_default=True, metavar="SECONDS", help="How long that is.")
@as_json
def stop(here: str, where: str | None, key_file: Path | None, kill: bool, patience_s: float, as_json: bool) -> None:
    """Stop this machine's node of RUN: it says goodbye, saves, and can go on later; the swarm goes on without it.

    Without RUN: the only node that runs from runs/. With --run the owner ends the run on every node, in order: they
    agree, save and leave.

    Example: gossip stop runs/mnist-mlp
    """
    if where is None:
        stop_here(here, patience_s, kill, as_json)
    elif here:
        raise click.UsageError("expected either RUN, this machine's node, or --run, the whole swarm")
    else:
        tell_swarm("stop", "", where, key_file, as_json)


@click.command(name="set")
@click.argument("setting", metavar="lr=NUMBER|samples=NUMBER")
@where
@key_file
@as_json
def set_(setting: str, where: str, key_file: Path | None, as_json: bool) -> None:
    """Change a running swarm: the learning rate's peak, or how many samples its run takes."""
    from gossip.errors import SpecError

    name, equals, value = setting.partition("=")
    if not equals or name not in ("lr", "samples"):
        raise SpecError(f"{setting}: expected lr=NUMBER or samples=NUMBER")
    tell_swarm(f"set {name}", value, where, key_file, as_json)


@click.command(name="owner-key")
@click.argument("file", type=click.Path(path_type=Path))
def owner_key(file: Path) -> None:
    """Make an owner's key in FILE, and print the line that pins it in an experiment file."""
    from gossip.owner import OwnerKey

    key = OwnerKey.new()
    key.save(file)
    click.echo(f'owner = "{key.public}"')


def tell_swarm(name: str, value: str, where: str, key_file: Path | None, as_json: bool) -> None:
    """Sign a command, bring it into the swarm, and say who has it. Raises GossipError."""
    from gossip.errors import NetworkError, SpecError
    from gossip.live.client import SwarmClient
    from gossip.live.whereabouts import find_swarm
    from gossip.protocol.commands import checked_value
    from gossip.runs import strict_json
    from gossip.status import names_in

    try:
        checked_value(name, value)
    except ValueError as error:
        raise SpecError(str(error)) from error
    found = find_swarm(where)
    key = _key_of(found, key_file)
    if found.permit is None:
        raise SpecError(f"{where}: no swarm.json there, so nobody can be reached; give a ticket: --run TICKET")
    began = time.monotonic()
    with SwarmClient(found.permit, found.doors) as client:
        if client.experiment.owner != key.public:
            raise NetworkError(f"this key is not the owner's of that swarm, whose spec says {client.experiment.owner}")
        client.look()
        if name == "set samples":
            _refuse_too_few(int(value), client)
        known = max((seen.update.status.command for seen in client.living()), default=0)
        # By the wall clock: two terminals never give one number, and a number from before is never used again.
        command = key.command(client.swarm, max(known + 1, int(time.time() * 1000)), name, value)
        missing = client.say(command, WITHIN_S)
        living = client.living()
        names = names_in(found.run)
    result: dict[str, Any] = {
        "command": name, "value": value, "sequence": command.sequence, "members": len(living),
        "missing": [seen.update.key.hex() for seen in missing], "seconds": round(time.monotonic() - began, 2),
    }  # fmt: skip
    silent = [names.get(each[:8], each[:8]) for each in result["missing"]]
    click.echo(_said(f"{name} {value}".strip(), result, silent))
    if as_json:
        click.echo(strict_json(result))


def _refuse_too_few(samples: int, client: SwarmClient) -> None:
    """A digit too few would end the run for good. Raises SpecError."""
    from gossip.errors import SpecError

    done = max((seen.update.status.swarm_samples for seen in client.living()), default=0)
    if samples <= done:
        raise SpecError(
            f"samples={samples}: the swarm has trained on {done:,} already; expected more; gossip stop ends a run"
        )


def _key_of(found: Whereabouts, key_file: Path | None) -> OwnerKey:
    from gossip.errors import SpecError
    from gossip.owner import load_owner_key

    if key_file is None:
        if found.run is None or not found.run.owner_key.is_file():
            raise SpecError("no owner.key in a run folder here: give the owner's key with --owner-key FILE")
        key_file = found.run.owner_key
    return load_owner_key(key_file)


def _said(words: str, result: dict[str, Any], silent: list[str]) -> str:
    from gossip.console import counted, printable

    there = counted(result["members"], "living member")
    if not result["members"]:
        return f"{words}: nobody who has not heard of it lives any more, after {result['seconds']} s"
    if not silent:
        return f"{words}: known to {there}, all there are, after {result['seconds']} s"
    return printable(
        f"{words}: {there}; not yet heard from {', '.join(silent)} that they know it. "
        "Whoever is alive gets it from its neighbours; look again with: gossip status"
    )
